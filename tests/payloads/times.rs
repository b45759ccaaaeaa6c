//! Times, as the member `at` that `occurred_at` points to.

use super::corpus::{Row, aside, stored};

/// What is sent, and the microseconds of the Unix epoch that it means.
pub(crate) const TIMES: &[(&str, &str, &str)] = &[
    ("zulu", r#""2024-05-06T07:08:09Z""#, "1714979289000000"),
    ("leap day", r#""2024-02-29T23:59:59.999999Z""#, "1709251199999999"),
    ("leap second", r#""2016-12-31T23:59:60Z""#, "1483228800000000"),
    ("leap second with a fraction", r#""2016-12-31T23:59:60.5Z""#, "1483228800500000"),
    ("leap second elsewhere", r#""2017-01-01T05:29:60+05:30""#, "1483228800000000"),
    ("offset of quarters", r#""2024-05-06T12:53:09+05:45""#, "1714979289000000"),
    ("offset, unknown", r#""2024-05-06T07:08:09-00:00""#, "1714979289000000"),
    ("greatest offset", r#""2024-05-07T07:07:09+23:59""#, "1714979289000000"),
    ("nanoseconds are cut", r#""2024-05-06T07:08:09.123456999Z""#, "1714979289123456"),
    (
        "30 digits of a second",
        r#""2024-05-06T07:08:09.123456000000000000000000000001Z""#,
        "1714979289123456",
    ),
    ("year 0", r#""0000-02-29T00:00:00Z""#, "-62162121600000000"),
    ("year 1", r#""0001-01-01T00:00:00Z""#, "-62135596800000000"),
    ("year 9999", r#""9999-12-31T23:59:59.999999Z""#, "253402300799999999"),
    ("year 10000 by offset", r#""9999-12-31T23:59:59-23:59""#, "253402387139000000"),
    ("before 1970", r#""1969-12-31T23:59:59.999999Z""#, "-1"),
    ("year 2038", "2147483648", "2147483648000000"),
    ("seconds", "1714979289", "1714979289000000"),
    ("seconds with a fraction", "1714979289.1234567", "1714979289123456"),
    ("seconds, no double", "1714979289.123457", "1714979289123457"),
    ("milliseconds", "1714979289123", "1714979289123000"),
    ("negative milliseconds", "-1714979289123", "-1714979289123000"),
    ("by an exponent", "1.714979289e9", "1714979289000000"),
    ("zero", "0", "0"),
];

const NO_TIMES: &[(&str, &str)] = &[
    ("month 13", r#""2024-13-01T00:00:00Z""#),
    ("30 February", r#""2024-02-30T00:00:00Z""#),
    ("29 February of no leap year", r#""2023-02-29T00:00:00Z""#),
    ("hour 24", r#""2024-05-06T24:00:00Z""#),
    ("second 61", r#""2024-05-06T07:08:61Z""#),
    ("offset of 24 hours", r#""2024-05-06T07:08:09+24:00""#),
    ("no offset", r#""2024-05-06T07:08:09""#),
    ("a date", r#""2024-05-06""#),
    ("year 10000", r#""10000-01-01T00:00:00Z""#),
    ("year 10000 with a sign", r#""+10000-01-01T00:00:00Z""#),
    ("year -1", r#""-0001-01-01T00:00:00Z""#),
    ("two digits of a year", r#""24-05-06T07:08:09Z""#),
    ("mail", r#""Mon, 06 May 2024 07:08:09 GMT""#),
    ("words", r#""yesterday""#),
    ("empty", r#""""#),
    ("Arabic digits", r#""٢٠٢٤-٠٥-٠٦T٠٧:٠٨:٠٩Z""#),
    ("a Unix time as text", r#""1714979289""#),
    ("microseconds of the Unix epoch", "1714979289123456789"),
    ("far future", "1e400"),
    ("far past", "-1e30"),
    ("true", "true"),
    ("a list", "[2024,5,6]"),
    ("an object", r#"{"seconds":1714979289}"#),
];

pub(super) fn times() -> Vec<Row> {
    let event = |at: &str| format!(r#"{{"id":$ID,"at":{at}}}"#);
    let mut rows: Vec<Row> = TIMES.iter().map(|(name, at, _)| stored(name, event(at))).collect();
    let nul = event(r#""2024-05-06T07:08:09Z\u0000""#);
    rows.push(aside("NUL", nul, "payload.at holds \\u0000"));
    rows.extend(
        NO_TIMES.iter().map(|(name, at)| aside(name, event(at), "expected an RFC 3339 time")),
    );
    rows
}
