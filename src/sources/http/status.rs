//! What a status other than success means.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};

use super::rate_limit::{self, RateLimit};
use super::{HEADER_LENGTH_MAX, date};
use crate::event::excerpt::excerpt;
use crate::source::{FailureClass, SourceError};

/// What a status other than success means. Dates are taken against the source's own clock.
///
/// A 403 that says when to come back is a rate limit, as GitHub answers it.
pub(super) fn status_error(status: StatusCode, headers: &HeaderMap) -> SourceError {
    let now = date::now_at_source(headers);
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let retry_after = text(RETRY_AFTER).and_then(|value| parse_retry_after(value, now));
    let limit = rate_limit::read(headers, now);
    let is_used_up = matches!(limit, RateLimit::UsedUp(_));
    let (class, hint) = match status.as_u16() {
        429 | 503 => (FailureClass::Refused, ""),
        403 if is_used_up || retry_after.is_some() => {
            (FailureClass::Refused, "; its rate limit is used up")
        }
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
        .with_retry_after(retry_after.or(limit.pause()))
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
pub(super) fn parse_retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::from(u32::MAX))));
    }
    Some((date::parse(value)? - now).to_std().unwrap_or_default())
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
