//! Requests that brought no answer.

use std::error::Error;

use rustls::AlertDescription;
use url::Url;

use super::address::HostRefused;
use crate::source::{FailureClass, SourceError};
use crate::sources::tls::certificate_is_refused;
use crate::telemetry::chain;

/// What the innermost library said, without the request's URL and what is wrapped around it.
pub(super) fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let wrapped = error.source().and_then(Error::source);
    wrapped.map_or_else(|| chain(&error), chain)
}

/// Only what certainly never became a request is "not sent".
pub(super) fn send_error(url: &Url, error: reqwest::Error) -> SourceError {
    if let Some(refused) = find::<HostRefused>(&error) {
        return SourceError::new(FailureClass::Rejected, format!("no request was sent: {refused}"));
    }
    // With TLS 1.3 a server looks at the client's certificate when the request may be on its way. It serves nothing
    // after such an alert.
    if let Some(alert) = refused_certificate(&error) {
        return SourceError::new(
            FailureClass::Rejected,
            format!(
                "the source refused our certificate ({alert:?}); check client_cert_file and client_key_file"
            ),
        );
    }
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

/// Finds an error of this type among the causes. An `io::Error` does not show what it wraps as its source.
fn find<'e, T: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

fn refused_certificate(error: &reqwest::Error) -> Option<AlertDescription> {
    match find::<rustls::Error>(error)? {
        rustls::Error::AlertReceived(alert) if certificate_is_refused(*alert) => Some(*alert),
        _ => None,
    }
}
