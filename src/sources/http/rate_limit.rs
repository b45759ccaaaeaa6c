//! Rate limits that a source states in its headers, read tolerantly: the standard is a draft that changed its form
//! several times, and every large API has its own.
//!
//! ```text
//! RateLimit: "default";r=0;t=30              draft-ietf-httpapi-ratelimit-headers, since version 8
//! RateLimit: limit=100, remaining=0, reset=30  version 7
//! RateLimit-Remaining: 0, RateLimit-Reset: 30  up to version 6
//! X-RateLimit-Remaining: 0, X-RateLimit-Reset: 30, or 1790000000 (unix time), or a date
//! ```

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::HeaderMap;

use super::date;

/// Numbers above this are unix times, not seconds from now; it is in the year 2001.
const UNIX_TIME_MIN: f64 = 1e9;
/// And those above this are in milliseconds.
const UNIX_MILLISECONDS_MIN: f64 = 1e12;

/// What a source says of its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RateLimit {
    /// It says nothing, or nothing that can be understood.
    Unstated,
    /// More requests may be sent.
    Open,
    /// No further request is served before this has passed; `None`: it does not say how long.
    UsedUp(Option<Duration>),
}

impl RateLimit {
    /// How long nobody has to ask.
    pub(super) fn pause(self) -> Option<Duration> {
        match self {
            Self::UsedUp(reset) => reset.filter(|reset| !reset.is_zero()),
            Self::Unstated | Self::Open => None,
        }
    }
}

/// Reads the limit. Of several quotas the one that lasts longest counts.
pub(super) fn read(headers: &HeaderMap, now: DateTime<Utc>) -> RateLimit {
    let structured = values(headers, "ratelimit").flat_map(|value| {
        let is_old = !value.contains(';') && value.contains('=');
        let quotas: Vec<&str> = if is_old { vec![value] } else { split_list(value) };
        quotas.into_iter().map(move |quota| quota_of(quota, is_old, now)).collect::<Vec<_>>()
    });
    let pairs = ["ratelimit", "x-ratelimit", "x-rate-limit"].map(|prefix| {
        let first = |what: &str| values(headers, &format!("{prefix}-{what}")).next();
        judge(first("remaining").and_then(first_number), first("reset"), now)
    });
    structured.chain(pairs).fold(RateLimit::Unstated, stricter)
}

fn stricter(one: RateLimit, other: RateLimit) -> RateLimit {
    match (one, other) {
        (RateLimit::UsedUp(a), RateLimit::UsedUp(b)) => RateLimit::UsedUp(a.max(b)),
        (used_up @ RateLimit::UsedUp(_), _) | (_, used_up @ RateLimit::UsedUp(_)) => used_up,
        (RateLimit::Open, _) | (_, RateLimit::Open) => RateLimit::Open,
        (RateLimit::Unstated, RateLimit::Unstated) => RateLimit::Unstated,
    }
}

fn judge(remaining: Option<f64>, reset: Option<&str>, now: DateTime<Utc>) -> RateLimit {
    match remaining {
        None => RateLimit::Unstated,
        Some(remaining) if remaining >= 1.0 => RateLimit::Open,
        Some(_) => RateLimit::UsedUp(reset.and_then(|reset| until(reset, now))),
    }
}

/// One quota of the header `RateLimit`: `"name";r=0;t=30`, or `limit=100, remaining=0, reset=30`.
fn quota_of(quota: &str, is_old: bool, now: DateTime<Utc>) -> RateLimit {
    let (separator, remaining, reset) =
        if is_old { (',', "remaining", "reset") } else { (';', "r", "t") };
    let parameter = |wanted: &str| {
        quota.split(separator).find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case(wanted).then_some(value.trim())
        })
    };
    judge(parameter(remaining).and_then(first_number), parameter(reset), now)
}

/// Splits a list at commas that are not inside quotes.
fn split_list(value: &str) -> Vec<&str> {
    let mut quoted = false;
    value
        .split(|c| {
            quoted ^= c == '"';
            c == ',' && !quoted
        })
        .collect()
}

fn values<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

/// The number that a value begins with: `0`, `0;w=60`, `0, 12;w=60`.
fn first_number(value: &str) -> Option<f64> {
    let text = value.split([',', ';']).next()?.trim();
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// How long until a reset: seconds, a unix time, or a date.
fn until(reset: &str, now: DateTime<Utc>) -> Option<Duration> {
    let Some(number) = first_number(reset) else {
        let iso = || DateTime::parse_from_rfc3339(reset.trim()).ok().map(|date| date.to_utc());
        let at = date::parse(reset.trim()).or_else(iso)?;
        return Some((at - now).to_std().unwrap_or_default());
    };
    let seconds = if number >= UNIX_MILLISECONDS_MIN {
        number / 1000.0 - epoch_seconds(now)
    } else if number >= UNIX_TIME_MIN {
        number - epoch_seconds(now)
    } else {
        number
    };
    // Dates of answers have whole seconds: rounding up keeps us from being early.
    Some(Duration::try_from_secs_f64(seconds.max(0.0).ceil()).unwrap_or(Duration::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "exact up to the year 285 million")]
fn epoch_seconds(now: DateTime<Utc>) -> f64 {
    now.timestamp() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn every_form_is_understood() {
        let now = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
        let used = |seconds| RateLimit::UsedUp(Some(Duration::from_secs(seconds)));
        let x = |remaining: &'static str, reset: &'static str| {
            vec![("x-ratelimit-remaining", remaining), ("x-ratelimit-reset", reset)]
        };
        for (lines, want) in [
            (vec![], RateLimit::Unstated),
            (vec![("ratelimit", "\"default\";r=0;t=30")], used(30)),
            (vec![("ratelimit", "\"a,;r=9\";r=0;t=3, \"b\";r=0;t=7")], used(7)),
            (vec![("ratelimit", "\"a\";r=4;t=3"), ("ratelimit", "\"b\";r=0;t=7")], used(7)),
            (vec![("ratelimit", "\"a\";r=4;t=3")], RateLimit::Open),
            (vec![("ratelimit", "\"a\";r=0")], RateLimit::UsedUp(None)),
            (vec![("ratelimit", "limit=100, remaining=0, reset=50")], used(50)),
            (vec![("ratelimit", "limit=100, remaining=1, reset=50")], RateLimit::Open),
            (vec![("ratelimit-remaining", "0"), ("ratelimit-reset", "9")], used(9)),
            (vec![("ratelimit-remaining", "0;w=60, 8;w=1"), ("ratelimit-reset", "9")], used(9)),
            (x("0", "30"), used(30)),
            (x("0", "1.2"), used(2)),
            (x("0", "1790000041"), used(41)),
            (x("0", "1790000041500"), used(42)),
            (x("0", "1789999999"), used(0)),
            (x("0", "2026-09-21T14:14:25Z"), used(65)),
            (x("0", "Mon, 21 Sep 2026 14:14:25 GMT"), used(65)),
            (x("0", "soon"), RateLimit::UsedUp(None)),
            (x("-3", "30"), used(30)),
            (x("17", "30"), RateLimit::Open),
            (x("many", "30"), RateLimit::Unstated),
            (x("NaN", "inf"), RateLimit::Unstated),
            (x("0", "1e300"), RateLimit::UsedUp(Some(Duration::MAX))),
            (vec![("x-rate-limit-remaining", "0"), ("x-rate-limit-reset", "5")], used(5)),
            (vec![("x-ratelimit-reset", "30")], RateLimit::Unstated),
        ] {
            assert_eq!(read(&headers(&lines), now), want, "{lines:?}");
        }
    }

    #[test]
    fn a_reset_that_has_passed_is_no_pause() {
        assert_eq!(RateLimit::UsedUp(Some(Duration::ZERO)).pause(), None);
        assert_eq!(RateLimit::UsedUp(None).pause(), None);
        assert_eq!(RateLimit::Open.pause(), None);
    }
}
