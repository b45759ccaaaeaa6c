//! Dates in headers, and what time it is at the source.

use chrono::{DateTime, NaiveDateTime, Utc};
use reqwest::header::{DATE, HeaderMap};

/// The source's own clock, where its answer shows it, so that a wrong clock on either side does not count; else ours.
pub(super) fn now_at_source(headers: &HeaderMap) -> DateTime<Utc> {
    let shown = headers.get(DATE).and_then(|value| value.to_str().ok()).and_then(parse);
    shown.unwrap_or_else(Utc::now)
}

/// A date in any of the three forms that RFC 9110, section 5.6.7, has a recipient accept.
pub(super) fn parse(value: &str) -> Option<DateTime<Utc>> {
    let old = |form| NaiveDateTime::parse_from_str(value, form).map(|date| date.and_utc());
    DateTime::parse_from_rfc2822(value)
        .map(|date| date.to_utc())
        .or_else(|_| old("%A, %d-%b-%y %H:%M:%S GMT"))
        .or_else(|_| old("%a %b %e %H:%M:%S %Y"))
        .ok()
}
