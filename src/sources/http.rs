//! `type = "http"`: an API that answers pages of JSON, asked as `GET url?after_id=41&limit=1000`.
//!
//! One call sends one request and no other: no redirects, no proxies, no library retries, no kept connections (a kept
//! connection that the server closes at the wrong moment leaves a request whose outcome nobody knows).

use std::collections::HashMap;
use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, NaiveDateTime, Utc};
use flate2::write::MultiGzDecoder;
use futures_util::StreamExt;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, DATE, HeaderMap, HeaderName, HeaderValue, LOCATION,
    RETRY_AFTER,
};
use reqwest::{Client, Response, StatusCode, redirect, retry};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::event::Item;
use crate::event::excerpt::excerpt;
use crate::mapping::Mapping;
use crate::source::{EventSource, FailureClass, Page, SourceError};
use crate::telemetry::chain;

/// Longest time for name resolution, TCP and TLS together. Always ends before the request's own timeout: a request that
/// ran out of time while it was connecting was never sent, and has to be told from one that may have been.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest piece of a header in a reason, in characters.
const HEADER_LENGTH_MAX: usize = 200;

/// How much of a body that broke a size limit is kept as a dead letter.
const KEPT_OF_OVERSIZED: usize = 1 << 20;

/// A body of at most this many bytes, not compressed, is read where it arrives. Others take long enough to hold up the
/// sources that share the thread: a few kilobytes can unpack to `max_page_bytes`.
const QUICK_BODY: usize = 1 << 20;

/// What an HTTP source needs to know.
#[derive(Clone)]
pub struct HttpOptions {
    /// Where events are asked for.
    pub url: Url,
    /// Further request headers.
    pub headers: Vec<(String, SecretString)>,
    /// Where the parts of an event stand.
    pub mapping: Mapping,
    /// Longest whole request, from name resolution to the last byte of the body.
    pub timeout: Duration,
    /// Largest body, as sent and as unpacked, in bytes.
    pub max_page_bytes: usize,
}

/// An HTTP source.
pub struct HttpSource {
    client: Client,
    url: Url,
    headers: HeaderMap,
    mapping: Arc<Mapping>,
    timeout: Duration,
    max_page_bytes: usize,
}

/// Why an HTTP source cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum HttpSourceError {
    /// A header has a name or a value that HTTP does not allow.
    #[error("header {0:?} is not a valid HTTP header")]
    Header(String),
    /// The client cannot be set up.
    #[error("failed to set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

/// The clients that HTTP sources share: setting one up reads every root certificate, which takes milliseconds.
#[derive(Debug, Default)]
pub struct Clients {
    by_connect_timeout: HashMap<Duration, Client>,
}

impl Clients {
    fn with_connect_timeout(
        &mut self,
        connect_timeout: Duration,
    ) -> Result<Client, HttpSourceError> {
        if let Some(client) = self.by_connect_timeout.get(&connect_timeout) {
            return Ok(client.clone());
        }
        let client = Client::builder()
            .user_agent(concat!("eventloader/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .no_proxy()
            .referer(false)
            .http1_only()
            .pool_max_idle_per_host(0)
            .connect_timeout(connect_timeout)
            .build()
            .map_err(HttpSourceError::Client)?;
        self.by_connect_timeout.insert(connect_timeout, client.clone());
        Ok(client)
    }
}

impl HttpSource {
    /// Makes a source that sends its requests with one of the shared clients.
    ///
    /// # Errors
    ///
    /// A header is not valid, or TLS cannot be set up.
    pub fn new(clients: &mut Clients, options: HttpOptions) -> Result<Self, HttpSourceError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        for (name, value) in &options.headers {
            let invalid = || HttpSourceError::Header(name.clone());
            let key: HeaderName = name.parse().map_err(|_| invalid())?;
            let mut value: HeaderValue = value.expose_secret().parse().map_err(|_| invalid())?;
            value.set_sensitive(true);
            headers.insert(key, value);
        }
        let connect_timeout = CONNECT_TIMEOUT.min(options.timeout.mul_f64(0.9));
        let client = clients.with_connect_timeout(connect_timeout)?;
        Ok(Self {
            client,
            url: options.url,
            headers,
            mapping: Arc::new(options.mapping),
            timeout: options.timeout,
            max_page_bytes: options.max_page_bytes,
        })
    }

    fn window_url(&self, after_id: i64, limit: u32) -> Url {
        let mut url = self.url.clone();
        url.query_pairs_mut()
            .append_pair("after_id", &after_id.to_string())
            .append_pair("limit", &limit.to_string());
        url
    }

    async fn read_page(
        &self,
        response: Response,
        answered_at: Instant,
        deadline: Instant,
    ) -> Result<Page, SourceError> {
        let encoding = response
            .headers()
            .get(CONTENT_ENCODING)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase());
        let sent = self.read_body(response, deadline).await?;
        let is_quick = encoding.is_none() && sent.len() <= QUICK_BODY;
        let (mapping, max_bytes) = (Arc::clone(&self.mapping), self.max_page_bytes);
        let decode = move || decode(&mapping, encoding.as_deref(), sent, max_bytes);
        let (items, body) = if is_quick {
            decode()?
        } else {
            match tokio::task::spawn_blocking(decode).await {
                Ok(decoded) => decoded?,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => return Err(SourceError::unknown("stopped while the body was unpacked")),
            }
        };
        Ok(Page { items, body, answered_at: Some(answered_at), ..Page::default() })
    }

    fn too_late(&self, what: &str) -> SourceError {
        SourceError::unknown(format!("{what} within timeout = {:?}", self.timeout))
    }

    /// Only what certainly never became a request is "not sent".
    fn send_error(&self, error: reqwest::Error) -> SourceError {
        if error.is_connect() {
            let host = self.url.host_str().unwrap_or_default();
            let port = self.url.port_or_known_default().unwrap_or_default();
            SourceError::not_sent(format!("cannot connect to {host}:{port}: {}", cause(error)))
        } else if error.is_builder() {
            SourceError::not_sent(format!("cannot make the request: {}", cause(error)))
        } else {
            let cause = cause(error);
            SourceError::unknown(format!("the connection broke before an answer: {cause}"))
        }
    }

    async fn read_body(&self, response: Response, deadline: Instant) -> Result<Bytes, SourceError> {
        let mut body = BytesMut::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = timeout_at(deadline, chunks.next())
            .await
            .map_err(|_| self.too_late("the body did not arrive"))?
        {
            let chunk = chunk.map_err(|error| {
                let cause = cause(error);
                SourceError::unknown(format!("the body is truncated or damaged: {cause}"))
            })?;
            if body.len() + chunk.len() > self.max_page_bytes {
                body.extend_from_slice(&chunk[..chunk.len().min(KEPT_OF_OVERSIZED)]);
                return Err(oversized("body", self.max_page_bytes, &body));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}

#[async_trait]
impl EventSource for HttpSource {
    async fn fetch_events(&self, after_id: i64, limit: u32) -> Result<Page, SourceError> {
        let deadline = Instant::now() + self.timeout;
        let request =
            self.client.get(self.window_url(after_id, limit)).headers(self.headers.clone());
        // The request is looked at before the clock, so that an end of the connecting is not taken for that of the
        // whole when both have come.
        let response = timeout_at(deadline, request.send())
            .await
            .map_err(|_| self.too_late("no answer"))?
            .map_err(|error| self.send_error(error))?;
        let answered_at = Instant::now();
        match response.status() {
            StatusCode::OK => self.read_page(response, answered_at, deadline).await,
            StatusCode::NO_CONTENT => {
                Ok(Page { answered_at: Some(answered_at), ..Page::default() })
            }
            status if status.is_success() => {
                let body = self.read_body(response, deadline).await?;
                Err(invalid(&format!("the source answered {status}; expected 200 or 204"), body))
            }
            status => Err(status_error(status, response.headers(), Utc::now())),
        }
    }
}

/// What the innermost library said, without the request's URL and what is wrapped around it.
fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let wrapped = error.source().and_then(Error::source);
    wrapped.map_or_else(|| chain(&error), chain)
}

/// What a status other than success means. A date in `Retry-After` is taken against the source's own clock, where it
/// shows it, so that a wrong clock on either side does not count.
fn status_error(status: StatusCode, headers: &HeaderMap, now: DateTime<Utc>) -> SourceError {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let now = text(DATE).and_then(parse_date).unwrap_or(now);
    let retry_after = text(RETRY_AFTER).and_then(|value| parse_retry_after(value, now));
    let (class, hint) = match status.as_u16() {
        429 | 503 => (FailureClass::Refused, ""),
        401 | 403 => (FailureClass::Rejected, "; check the headers (token) of the source"),
        404 | 410 => (FailureClass::Rejected, "; check the url of the source"),
        304 => (
            FailureClass::Rejected,
            "; nothing conditional was asked: look for a cache in front of the source",
        ),
        300..=399 => {
            (FailureClass::Rejected, "; redirects are not followed, set the url to where it points")
        }
        400..=499 => (FailureClass::Rejected, "; the source does not accept this request"),
        500..=599 => (FailureClass::Unknown, ""),
        _ => (FailureClass::Rejected, "; expected 200 or 204"),
    };
    let target = match (status.is_redirection(), text(LOCATION)) {
        (true, Some(location)) => format!(" ({})", without_query(location)),
        _ => String::new(),
    };
    SourceError::new(class, format!("the source answered {status}{hint}{target}"))
        .with_retry_after(retry_after)
}

/// A redirect's target without what may be a secret.
fn without_query(location: &str) -> String {
    let shown = location.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = match shown.split_once("//") {
        Some((scheme, rest)) => (format!("{scheme}//"), rest),
        None => (String::new(), shown),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    excerpt(&format!("{scheme}{host}{path}"), HEADER_LENGTH_MAX)
}

/// `Retry-After` in both its forms (RFC 9110, section 10.2.3): seconds, or a date. A date in the past is zero; text
/// that is neither is `None`. Seconds beyond what fits are as many as fit: the policy caps them.
fn parse_retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::from(u32::MAX))));
    }
    Some((parse_date(value)? - now).to_std().unwrap_or_default())
}

/// A date in any of the three forms that RFC 9110, section 5.6.7, has a recipient accept.
fn parse_date(value: &str) -> Option<DateTime<Utc>> {
    let old = |form| NaiveDateTime::parse_from_str(value, form).map(|date| date.and_utc());
    DateTime::parse_from_rfc2822(value)
        .map(|date| date.to_utc())
        .or_else(|_| old("%A, %d-%b-%y %H:%M:%S GMT"))
        .or_else(|_| old("%a %b %e %H:%M:%S %Y"))
        .ok()
}

/// Unpacks a body and reads its events.
fn decode(
    mapping: &Mapping,
    encoding: Option<&str>,
    sent: Bytes,
    max_bytes: usize,
) -> Result<(Vec<Item>, Bytes), SourceError> {
    let body = match encoding {
        None | Some("" | "identity") => sent,
        Some("gzip" | "x-gzip") => gunzip(&sent, max_bytes)?,
        Some(other) => {
            let other = excerpt(other, HEADER_LENGTH_MAX);
            let reason = format!("content-encoding \"{other}\" was not asked for; gzip was");
            return Err(invalid(&reason, sent));
        }
    };
    match mapping.items_of_page(&body) {
        Ok(items) => Ok((items, body)),
        Err(error) => Err(SourceError::invalid_page(&error, body)),
    }
}

/// Unpacks, and stops as soon as the limit is passed, so that a bomb costs no more than the limit.
fn gunzip(sent: &Bytes, max_bytes: usize) -> Result<Bytes, SourceError> {
    let mut decoder = MultiGzDecoder::new(Limited { out: Vec::new(), max_bytes, exceeded: false });
    let outcome = decoder.write_all(sent).and_then(|()| decoder.try_finish());
    let limited = decoder.get_ref();
    if limited.exceeded {
        return Err(oversized("unpacked body", max_bytes, &limited.out));
    }
    outcome
        .map_err(|error| invalid(&format!("the gzip body is damaged: {error}"), sent.clone()))?;
    Ok(Bytes::from(std::mem::take(&mut decoder.get_mut().out)))
}

struct Limited {
    out: Vec<u8>,
    max_bytes: usize,
    exceeded: bool,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.out.len() + bytes.len() > self.max_bytes {
            self.exceeded = true;
            return Err(std::io::Error::other("over the limit"));
        }
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn oversized(what: &str, max_bytes: usize, so_far: &[u8]) -> SourceError {
    let kept = &so_far[..so_far.len().min(KEPT_OF_OVERSIZED)];
    invalid(
        &format!(
            "the {what} is larger than max_page_bytes = {max_bytes}; lower batch_size or raise max_page_bytes (its \
             first {} bytes are kept)",
            kept.len()
        ),
        Bytes::copy_from_slice(kept),
    )
}

fn invalid(reason: &str, body: Bytes) -> SourceError {
    SourceError {
        page: Some(body),
        ..SourceError::new(FailureClass::InvalidPage, format!("invalid page: {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = DateTime::parse_from_rfc3339("2026-11-20T12:00:00Z").unwrap().with_timezone(&Utc);
        let cases = [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("99999999999999999999999", Some(u64::from(u32::MAX))),
            ("Fri, 20 Nov 2026 12:01:30 GMT", Some(90)),
            ("Fri, 20 Nov 2026 11:00:00 GMT", Some(0)),
            ("Friday, 20-Nov-26 12:01:30 GMT", Some(90)),
            ("Fri Nov 20 12:01:30 2026", Some(90)),
            ("-5", None),
            ("soon", None),
            ("", None),
        ];
        for (value, want) in cases {
            assert_eq!(parse_retry_after(value, now), want.map(Duration::from_secs), "{value:?}");
        }
    }

    #[test]
    fn a_gzip_bomb_stops_at_the_limit() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![b' '; 50 << 20]).unwrap();
        let bomb = Bytes::from(encoder.finish().unwrap());
        assert!(bomb.len() < 100_000);
        let error = gunzip(&bomb, 1 << 20).unwrap_err();
        assert_eq!(error.class, FailureClass::InvalidPage);
        assert!(error.reason.contains("max_page_bytes"), "{error}");
    }

    #[test]
    fn a_truncated_gzip_body_is_invalid() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(b"[]").unwrap();
        let mut bytes = encoder.finish().unwrap();
        bytes.truncate(bytes.len() - 6);
        let error = gunzip(&Bytes::from(bytes), 1 << 20).unwrap_err();
        assert!(error.reason.contains("damaged"), "{error}");
    }

    #[test]
    fn a_redirect_is_shown_without_its_secrets() {
        for (location, want) in [
            ("https://u:p@host/path?token=x#y", "https://host/path"),
            ("//u:p@host:81", "//host:81"),
            ("/login/@me?next=x", "/login/@me"),
            ("u:p@host", "host"),
        ] {
            assert_eq!(without_query(location), want);
        }
    }
}
