//! Reads when an event occurred.

use chrono::{DateTime, Utc};

use super::page_error::describe;
use crate::event::Decimal;
use crate::event::walk::{Kind, decode, unquote};

/// The least time that `timestamptz` holds, 4713-11-24 BC, in microseconds of the Unix epoch. The
/// greatest needs no check: chrono ends with the year 262142, Postgres with 294276.
const MICROSECONDS_MIN: i64 = -210_866_803_200_000_000;

/// A number of at least this many digits before the decimal point (1e11) is taken as milliseconds.
/// As seconds that would be after the year 5138; as milliseconds, less would be before March 1973.
const MILLISECOND_DIGITS: i64 = 12;

/// Most digits before the decimal point that could still be a time, with room to spare.
const DIGITS_MAX: i64 = 17;

/// Reads a time: a string as RFC 3339 has it (a space may stand for the `T`), or a Unix time as a
/// number, in milliseconds from ±1e11 on, else in seconds. Null is none. What is finer than a
/// microsecond is cut off, as `timestamptz` cannot hold it; a number with a fraction is read
/// exactly, not as a float.
pub(super) fn parse_occurred_at(raw: &str) -> Result<Option<DateTime<Utc>>, String> {
    let time = match Kind::of(raw) {
        Kind::Null => return Ok(None),
        Kind::String => parse_rfc3339(unquote(raw)),
        Kind::Number => parse_unix_time(raw),
        Kind::Bool | Kind::Array | Kind::Object => Err(String::new()),
    };
    time.map(Some).map_err(|detail| {
        let found = describe(raw);
        format!("is {found}, expected an RFC 3339 time or a Unix time in seconds or milliseconds{detail}")
    })
}

/// Reads a time that is not worth losing an event for.
pub(crate) fn parse_time(raw: &str) -> Option<DateTime<Utc>> {
    parse_occurred_at(raw).ok().flatten()
}

fn parse_rfc3339(inside: &str) -> Result<DateTime<Utc>, String> {
    let text = decode(inside).map_err(|fault| format!(" (it {fault})"))?;
    let time = DateTime::parse_from_rfc3339(&text).map_err(|error| format!(" ({error})"))?;
    from_microseconds(time.timestamp_micros())
}

fn parse_unix_time(token: &str) -> Result<DateTime<Utc>, String> {
    let decimal = Decimal::read(token);
    let integer_digits = decimal.integer_digits();
    if integer_digits > DIGITS_MAX {
        return Err(out_of_range());
    }
    // How far the decimal point moves to make microseconds of seconds or of milliseconds.
    let shift = if integer_digits >= MILLISECOND_DIGITS { 3 } else { 6 };
    let digit_count = usize::try_from(integer_digits.saturating_add(shift)).unwrap_or(0);
    let mut digits = decimal.significant_digits().chain(std::iter::repeat(0)).take(digit_count);
    let microseconds = digits
        .try_fold(0_i64, |value, digit| value.checked_mul(10)?.checked_add(digit.into()))
        .ok_or_else(out_of_range)?;
    from_microseconds(if decimal.negative { -microseconds } else { microseconds })
}

fn from_microseconds(microseconds: i64) -> Result<DateTime<Utc>, String> {
    DateTime::from_timestamp_micros(microseconds)
        .filter(|_| microseconds >= MICROSECONDS_MIN)
        .ok_or_else(out_of_range)
}

fn out_of_range() -> String {
    " (it is out of the range that timestamptz holds)".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_exactly() {
        for (raw, want) in [
            ("null", None),
            (r#""2024-05-06T07:08:09Z""#, Some("2024-05-06T07:08:09Z")),
            (r#""2024-05-06 07:08:09.123456789+02:00""#, Some("2024-05-06T05:08:09.123456Z")),
            (r#""2024-05-06t07:08:09z""#, Some("2024-05-06T07:08:09Z")),
            (r#""2024\u002d05-06T07:08:09Z""#, Some("2024-05-06T07:08:09Z")),
            (r#""0000-01-01T00:00:00Z""#, Some("0000-01-01T00:00:00Z")),
            (r#""9999-12-31T23:59:59Z""#, Some("9999-12-31T23:59:59Z")),
            (r#""2016-12-31T23:59:60Z""#, Some("2017-01-01T00:00:00Z")),
            ("0", Some("1970-01-01T00:00:00Z")),
            ("-0", Some("1970-01-01T00:00:00Z")),
            ("0.000000000000000001", Some("1970-01-01T00:00:00Z")),
            ("0.0000015", Some("1970-01-01T00:00:00.000001Z")),
            ("-1.5", Some("1969-12-31T23:59:58.500Z")),
            ("1700000000", Some("2023-11-14T22:13:20Z")),
            ("1.7e9", Some("2023-11-14T22:13:20Z")),
            ("17000000000e-1", Some("2023-11-14T22:13:20Z")),
            ("1700000000.123456789", Some("2023-11-14T22:13:20.123456Z")),
            ("1700000000123", Some("2023-11-14T22:13:20.123Z")),
            ("1700000000123.456", Some("2023-11-14T22:13:20.123456Z")),
            ("99999999999", Some("5138-11-16T09:46:39Z")),
            ("99999999999.9", Some("5138-11-16T09:46:39.900Z")),
            ("100000000000", Some("1973-03-03T09:46:40Z")),
            ("-100000000000", Some("1966-10-31T14:13:20Z")),
        ] {
            let want = want.map(|text| DateTime::parse_from_rfc3339(text).unwrap().to_utc());
            assert_eq!(parse_occurred_at(raw), Ok(want), "{raw}");
        }
    }

    #[test]
    fn what_is_no_time_says_so() {
        for (raw, want) in [
            ("true", "is the boolean true"),
            ("[]", "is an array"),
            ("{}", "is an object without members"),
            (r#""""#, "is the string \"\""),
            (r#""yesterday""#, "is the string \"yesterday\""),
            (r#""2024-05-06""#, "is the string \"2024-05-06\""),
            (r#""2024-05-06T07:08:09""#, "is the string \"2024-05-06T07:08:09\""),
            (r#""2024-02-30T00:00:00Z""#, "is the string \"2024-02-30T00:00:00Z\""),
            (r#""1700000000""#, "is the string \"1700000000\""),
            (r#""\u0000""#, "is the string \"\\u0000\""),
            ("1e400", "is the number 1e400"),
            ("1e99999999999999999999", "is the number 1e99999999999999999999"),
            ("99999999999999999", "is the number 99999999999999999"),
            ("-210866803200001", "is the number -210866803200001"),
        ] {
            let reason = parse_occurred_at(raw).unwrap_err();
            let expected = ", expected an RFC 3339 time or a Unix time in seconds or milliseconds";
            assert!(reason.starts_with(&format!("{want}{expected}")), "{raw}: {reason}");
        }
        let least = parse_occurred_at("-210866803200000").unwrap().unwrap();
        assert_eq!(least.timestamp_micros(), MICROSECONDS_MIN);
    }
}
