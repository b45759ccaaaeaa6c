//! Requests that brought no answer.

use std::error::Error;

use url::Url;

use crate::source::SourceError;
use crate::telemetry::chain;

/// What the innermost library said, without the request's URL and what is wrapped around it.
pub(super) fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let wrapped = error.source().and_then(Error::source);
    wrapped.map_or_else(|| chain(&error), chain)
}

/// Only what certainly never became a request is "not sent".
pub(super) fn send_error(url: &Url, error: reqwest::Error) -> SourceError {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    if error.is_connect() {
        SourceError::not_sent(format!("cannot connect to {host}:{port}: {}", cause(error)))
    } else if error.is_builder() {
        SourceError::not_sent(format!("cannot make the request: {}", cause(error)))
    } else {
        let cause = cause(error);
        SourceError::unknown(format!("the connection broke before an answer: {cause}"))
    }
}
