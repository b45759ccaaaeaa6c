//! What an HTTP source needs to know; also what the configuration reads.

use std::fmt;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::address::AllowHosts;
use super::asking::Asking;
use super::auth::Auth;
use crate::mapping::Mapping;
use crate::sources::tls::TlsFiles;

/// An HTTP API, asked for one window after the other.
///
/// `Debug` shows the URL as [`HttpOptions::shown_url`] does, and no secret.
#[derive(Clone)]
pub struct HttpOptions {
    /// `url`: where events are asked for; `http` or `https`, without fragment. Required. A user
    /// name, a password and a query are kept, and never shown.
    pub url: Url,
    /// `headers`: a table of further request headers, in the order of the file. Default none.
    pub headers: Vec<(String, SecretString)>,
    /// `method`, `after_param`, `limit_param`, `body`: how a window is put into a request.
    pub asking: Asking,
    /// `auth`: who asks. Default none.
    pub auth: Option<Auth>,
    /// `ca_file`, `client_cert_file`, `client_key_file`: PEM files. Default: none of our own.
    pub tls: TlsFiles,
    /// `proxy`: `http://user:password@proxy:3128`, or `https://…`; asked to `CONNECT` to an `https` source, and to
    /// forward the request to an `http` one. Default none; proxies of the environment are never used.
    pub proxy: Option<SecretString>,
    /// `allow_hosts`: where the source and its `token_url` may be. Default that of `[loader]`, else none: everywhere
    /// but the addresses that are always refused (link-local, metadata services, multicast, unspecified).
    pub allow_hosts: Option<AllowHosts>,
    /// Where the parts of an event are: `id` (default `/id`), `event_type` (default none, the type is the source's
    /// name), `occurred_at`, `message_id` (default none), `payload` (default `""`, the whole item), `items` (from the
    /// body to the array; default `""`, the body is the array); and `max_event_bytes`, above which it becomes a dead
    /// letter (default 1MiB, 1KiB to 64MiB).
    pub mapping: Mapping,
    /// `timeout`: the longest a whole request may take, from name resolution to the last byte of the body. Default 30s,
    /// 1ms to 10m.
    pub timeout: Duration,
    /// `max_page_bytes`: a larger body, as sent or as unpacked, is refused. Bytes, default 64MiB, `max_event_bytes` to
    /// 256MiB.
    pub max_page_bytes: usize,
    /// `tip_lag`: a page ends before its first event whose `occurred_at` is younger, by the source's own clock. For
    /// APIs whose ids become visible out of order. Default none; needs `occurred_at`. 1ms to 24h.
    pub tip_lag: Option<Duration>,
    /// `lease_ttl` of the source: a token that takes longer than half of it is used for the next request only.
    pub lease_ttl: Duration,
}

impl HttpOptions {
    /// The defaults for a URL.
    pub fn new(url: Url) -> Self {
        Self {
            url,
            headers: Vec::new(),
            asking: Asking::default(),
            mapping: Mapping::default(),
            timeout: Duration::from_secs(30),
            max_page_bytes: 64 << 20,
            auth: None,
            tls: TlsFiles::default(),
            proxy: None,
            allow_hosts: None,
            tip_lag: None,
            lease_ttl: Duration::from_secs(2),
        }
    }

    /// What holds for the events of this source, in plain words for whoever relies on it.
    pub fn guarantee(&self) -> String {
        let once = "every event of every page is stored once, in the order of its id";
        match (self.tip_lag, &self.mapping.occurred_at) {
            (Some(tip_lag), Some(occurred_at)) => format!(
                "{once}; an id that becomes visible after a greater one is not lost if that happens within {tip_lag:?} \
                 (tip_lag) of its {occurred_at} by the source's clock; events without a time, and those dated more \
                 than {tip_lag:?} ahead, count as old; events come {tip_lag:?} later"
            ),
            _ => format!(
                "{once}; that ids become visible in their order is the source's word: an event that appears below an \
                 id that was already loaded is never asked for; set tip_lag if that can happen"
            ),
        }
    }

    /// The URL without user name, password and query, for logs and the status page.
    pub fn shown_url(&self) -> String {
        shown_url(&self.url)
    }
}

/// A URL without user name, password and query.
pub(super) fn shown_url(url: &Url) -> String {
    let query = if url.query().is_some() { "?***" } else { "" };
    let user = if url.username().is_empty() && url.password().is_none() { "" } else { "***@" };
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{user}{host}{port}{}{query}", url.scheme(), url.path())
}

impl fmt::Debug for HttpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpOptions")
            .field("url", &self.shown_url())
            .field("headers", &self.headers)
            .field("asking", &self.asking)
            .field("mapping", &self.mapping)
            .field("timeout", &self.timeout)
            .field("max_page_bytes", &self.max_page_bytes)
            .field("auth", &self.auth)
            .field("tls", &self.tls)
            .field("proxy", &self.proxy)
            .field("allow_hosts", &self.allow_hosts)
            .field("tip_lag", &self.tip_lag)
            .field("lease_ttl", &self.lease_ttl)
            .finish()
    }
}
