//! `type = "http"`: an API that answers pages of JSON, asked as `GET url?after_id=41&limit=1000` or with a body.
//!
//! One call sends one request to the source and no other: no redirects, no proxies but a configured one, no library
//! retries, no kept connections (a kept connection that the server closes at the wrong moment leaves a request whose
//! outcome nobody knows).

mod address;
mod asking;
mod auth;
mod body;
mod client;
mod date;
mod failure;
mod options;
mod rate_limit;
mod status;
mod tip;
mod token;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
#[cfg(fuzzing)]
use reqwest::header::HeaderName;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue,
};
use reqwest::{Client, Response, StatusCode};
use tokio::time::{Instant, timeout_at};
use url::Url;

pub use address::{AllowHostError, AllowHosts, HostRefused, check_url};
pub use asking::{Asking, BodyTemplate, BodyTemplateError, PLACES, QueryNames};
pub use auth::{Auth, Credentials, OAuth2};
use body::{BodyError, decode, invalid, oversized};
use client::ClientKey;
pub use client::Clients;
use failure::send_error;
pub use options::HttpOptions;
use status::status_error;
use token::{Token, Tokens};

use crate::failpoint::{self, Place};
use crate::mapping::Mapping;
use crate::source::{EventSource, FailureClass, Page, SourceError};
use crate::telemetry::Span;

/// Longest time for name resolution, TCP and TLS together. Always ends before the request's own timeout: a request that
/// ran out of time while it was connecting was never sent, and has to be told from one that may have been.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest piece of a header in a reason, in characters.
const HEADER_LENGTH_MAX: usize = 200;

/// A body of at most this many bytes, not compressed, is read where it arrives. Others take long enough to hold up the
/// sources that share the thread: a few kilobytes can unpack to `max_page_bytes`.
const QUICK_BODY: usize = 1 << 20;

/// An HTTP source.
pub struct HttpSource {
    client: Client,
    url: Url,
    headers: HeaderMap,
    asking: Asking,
    tokens: Option<Tokens>,
    /// A grant is not used when fetching a token took longer.
    token_wait_max: Duration,
    mapping: Arc<Mapping>,
    tip_lag: Option<Duration>,
    timeout: Duration,
    max_page_bytes: usize,
}

/// Reads everything that says how long to wait, of a `Retry-After` or reset, a `RateLimit` and a `Date`, and answers what a
/// refusal is followed by. What `fuzz/` calls.
#[cfg(fuzzing)]
pub fn read_waits([wait, limit, date]: [&[u8]; 3]) -> Option<Duration> {
    let names = ["retry-after", "x-ratelimit-reset", "x-ratelimit-remaining", "ratelimit", "date"];
    let texts = [wait, wait, limit, limit, date];
    let headers: HeaderMap = names
        .into_iter()
        .zip(texts)
        .filter_map(|(name, text)| {
            Some((HeaderName::from_static(name), HeaderValue::from_bytes(text).ok()?))
        })
        .collect();
    let refusal = status_error(StatusCode::TOO_MANY_REQUESTS, &headers);
    let pause = rate_limit::read(&headers, date::now_at_source(&headers)).pause();
    assert!(pause.is_none_or(|pause| !pause.is_zero()));
    refusal.retry_after
}

/// Why an HTTP source cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum HttpSourceError {
    /// A header has a name or a value that HTTP does not allow.
    #[error("header {0:?} is not a valid HTTP header")]
    Header(String),
    /// The host may not be asked.
    #[error("the url may not be asked")]
    Host(#[source] HostRefused),
    /// The proxy's URL.
    #[error("the proxy is not valid")]
    Proxy(#[source] reqwest::Error),
    /// A file cannot be read.
    #[error("failed to read {key} {}", path.display())]
    File {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{key} {} cannot be used: {reason}", path.display())]
    Pem {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The client cannot be set up.
    #[error("failed to set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

impl HttpSource {
    /// Makes a source that sends its requests with one of the shared clients.
    ///
    /// # Errors
    ///
    /// See [`HttpSourceError`].
    pub fn new(clients: &mut Clients, options: HttpOptions) -> Result<Self, HttpSourceError> {
        let allow = options.allow_hosts.as_ref();
        check_url(allow, &options.url).map_err(HttpSourceError::Host)?;
        let mut connect_timeout = options.timeout.mul_f64(0.9);
        let mut tokens = None;
        if let Some(Auth::OAuth2(oauth2)) = &options.auth {
            check_url(allow, &oauth2.token_url).map_err(HttpSourceError::Host)?;
            tokens = Some(Tokens::new(oauth2.clone()));
            // Half of the time is for the token, so connecting has to end within the other half.
            connect_timeout /= 2;
        }
        let client = clients.get(ClientKey::new(&options, CONNECT_TIMEOUT.min(connect_timeout)))?;
        Ok(Self {
            headers: headers_of(&options, &client)?,
            client,
            url: options.url,
            asking: options.asking,
            tokens,
            token_wait_max: options.lease_ttl / 2,
            mapping: Arc::new(options.mapping),
            tip_lag: options.tip_lag,
            timeout: options.timeout,
            max_page_bytes: options.max_page_bytes,
        })
    }

    /// The token for a request, where the source wants one of an authorization server.
    ///
    /// This happens before the source is asked, so nothing that goes wrong here leaves an outcome unknown. Requests to
    /// the authorization server are not requests of the source, and its spacing does not count them. They do take time
    /// from the grant, though. A grant is used within half of `lease_ttl` (the loader checks that before it calls), and
    /// everybody else believes that no request goes out later than `lease_ttl` after the claim: that is what a claim
    /// adds to the spacing when the holder of a lease has vanished. The heartbeat keeps the lease meanwhile, but it may
    /// fail. So the token may take the other half of `lease_ttl` and no more. One that took longer is kept for the next
    /// request, which has a new grant and finds it here.
    async fn token(&self, deadline: Instant) -> Result<Option<Token>, SourceError> {
        let Some(tokens) = &self.tokens else { return Ok(None) };
        let began = Instant::now();
        let token = tokens.get(&self.client, deadline).await?;
        let took = began.elapsed();
        if took > self.token_wait_max {
            return Err(SourceError::not_sent(format!(
                "no request was sent: the token took {:.1} s, longer than half of lease_ttl = {:?}; the next request \
                 uses it",
                took.as_secs_f64(),
                self.token_wait_max * 2,
            )));
        }
        Ok(Some(token))
    }

    /// A token that the API does not accept is dropped. The request is not sent again behind the loader's back: an old
    /// token may simply have been withdrawn, so the source is asked soon with a new one.
    async fn refused_token(&self, token: &Token) -> Option<SourceError> {
        self.tokens.as_ref()?.forget(token).await;
        let reason = "the source answered 401 Unauthorized to a token it accepted before; the next request fetches a \
                      new one";
        (!token.is_new).then(|| SourceError::new(FailureClass::Refused, reason))
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
        failpoint::hit(Place::BodyArrived);
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
        failpoint::hit(Place::PageDecoded);
        Ok(Page { items, body, answered_at: Some(answered_at), ..Page::default() })
    }

    fn too_late(&self, what: &str) -> SourceError {
        SourceError::unknown(format!("{what} within timeout = {:?}", self.timeout))
    }

    async fn read_body(&self, response: Response, deadline: Instant) -> Result<Bytes, SourceError> {
        body::read(response, deadline, self.max_page_bytes).await.map_err(|error| match error {
            BodyError::Late => self.too_late("the body did not arrive"),
            BodyError::Broken(cause) => {
                SourceError::unknown(format!("the body is truncated or damaged: {cause}"))
            }
            BodyError::Oversized(kept) => oversized("body", self.max_page_bytes, &kept),
        })
    }
}

/// The headers of every request.
fn headers_of(options: &HttpOptions, client: &Client) -> Result<HeaderMap, HttpSourceError> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    if options.asking.body.is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    for (name, value) in &options.headers {
        let (name, value) = auth::header(name, value)?;
        headers.insert(name, value);
    }
    if let Some(auth) = &options.auth {
        headers.extend(auth.headers(client)?);
    }
    Ok(headers)
}

#[async_trait]
impl EventSource for HttpSource {
    async fn fetch_events(&self, after_id: i64, limit: u32) -> Result<Page, SourceError> {
        let began = Instant::now();
        let deadline = began + self.timeout;
        let token = self.token(began + self.timeout / 2).await?;
        let mut request = self.asking.request(&self.client, &self.url, after_id, limit);
        if let Some(traceparent) = Span::current().traceparent() {
            request = request.header("traceparent", traceparent);
        }
        // They replace a header of the same name: what is configured wins.
        request = request.headers(self.headers.clone());
        if let Some(token) = &token {
            request = request.bearer_auth(token.secret());
        }
        failpoint::hit(Place::RequestUnsent);
        // The request is looked at before the clock, so that an end of the connecting is not taken for that of the
        // whole when both have come.
        let response = timeout_at(deadline, request.send())
            .await
            .map_err(|_| self.too_late("no answer"))?
            .map_err(|error| send_error(&self.url, error))?;
        let answered_at = Instant::now();
        failpoint::hit(Place::HeadArrived);
        let now = date::now_at_source(response.headers());
        let pause = rate_limit::read(response.headers(), now).pause();
        match response.status() {
            StatusCode::OK => {
                let mut page = self.read_page(response, answered_at, deadline).await?;
                if let Some(tip_lag) = self.tip_lag {
                    tip::cut_young(&mut page.items, now, tip_lag);
                }
                Ok(Page { pause, ..page })
            }
            StatusCode::NO_CONTENT => {
                Ok(Page { answered_at: Some(answered_at), pause, ..Page::default() })
            }
            status if status.is_success() => {
                let body = self.read_body(response, deadline).await?;
                Err(invalid(&format!("the source answered {status}; expected 200 or 204"), body))
            }
            status => {
                failpoint::hit(Place::StatusRefused);
                if let (StatusCode::UNAUTHORIZED, Some(token)) = (status, &token)
                    && let Some(error) = self.refused_token(token).await
                {
                    return Err(error);
                }
                Err(status_error(status, response.headers()))
            }
        }
    }
}
