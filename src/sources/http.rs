//! `type = "http"`: an API that answers pages of JSON, asked as `GET url?after_id=41&limit=1000` or with a body.
//!
//! One call sends one request to the source and no other: no redirects, no proxies but a configured one, no library
//! retries, no kept connections (a kept connection that the server closes at the wrong moment leaves a request whose
//! outcome nobody knows).

mod asking;
mod body;
mod client;
mod date;
mod options;
mod rate_limit;
mod status;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
};
use reqwest::{Client, Response, StatusCode};
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout_at};
use url::Url;

pub use asking::{Asking, BodyTemplate, BodyTemplateError, PLACES, QueryNames};
use body::{BodyError, decode, invalid, oversized};
pub use client::Clients;
pub use options::HttpOptions;
use status::status_error;

use crate::mapping::Mapping;
use crate::source::{EventSource, Page, SourceError};
use crate::telemetry::chain;

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

impl HttpSource {
    /// Makes a source that sends its requests with one of the shared clients.
    ///
    /// # Errors
    ///
    /// A header is not valid, or TLS cannot be set up.
    pub fn new(clients: &mut Clients, options: HttpOptions) -> Result<Self, HttpSourceError> {
        let headers = headers_of(&options)?;
        let connect_timeout = CONNECT_TIMEOUT.min(options.timeout.mul_f64(0.9));
        let client = clients.with_connect_timeout(connect_timeout)?;
        Ok(Self {
            client,
            url: options.url,
            headers,
            asking: options.asking,
            mapping: Arc::new(options.mapping),
            timeout: options.timeout,
            max_page_bytes: options.max_page_bytes,
        })
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
        Ok(Page { items, body, answered_at: Some(answered_at), pause: None })
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
fn headers_of(options: &HttpOptions) -> Result<HeaderMap, HttpSourceError> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    if options.asking.body.is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    for (name, value) in &options.headers {
        let invalid = || HttpSourceError::Header(name.clone());
        let key: HeaderName = name.parse().map_err(|_| invalid())?;
        let mut value: HeaderValue = value.expose_secret().parse().map_err(|_| invalid())?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(headers)
}

#[async_trait]
impl EventSource for HttpSource {
    async fn fetch_events(&self, after_id: i64, limit: u32) -> Result<Page, SourceError> {
        let deadline = Instant::now() + self.timeout;
        let request = self.asking.request(&self.client, &self.url, after_id, limit);
        let request = request.headers(self.headers.clone());
        // The request is looked at before the clock, so that an end of the connecting is not taken for that of the
        // whole when both have come.
        let response = timeout_at(deadline, request.send())
            .await
            .map_err(|_| self.too_late("no answer"))?
            .map_err(|error| self.send_error(error))?;
        let answered_at = Instant::now();
        let now = date::now_at_source(response.headers());
        let pause = rate_limit::read(response.headers(), now).pause();
        match response.status() {
            StatusCode::OK => {
                let page = self.read_page(response, answered_at, deadline).await?;
                Ok(Page { pause, ..page })
            }
            StatusCode::NO_CONTENT => {
                Ok(Page { answered_at: Some(answered_at), pause, ..Page::default() })
            }
            status if status.is_success() => {
                let body = self.read_body(response, deadline).await?;
                Err(invalid(&format!("the source answered {status}; expected 200 or 204"), body))
            }
            status => Err(status_error(status, response.headers())),
        }
    }
}

/// What the innermost library said, without the request's URL and what is wrapped around it.
fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let wrapped = error.source().and_then(Error::source);
    wrapped.map_or_else(|| chain(&error), chain)
}
