//! Durations as they are written in the file: a number and a unit, `"200ms"`, `"1.5s"`.

use std::time::Duration;

use super::error::Problem;

/// Unit, its length in nanoseconds, and the words people write instead.
const UNITS: &[(&str, u64, &[&str])] = &[
    ("ms", 1_000_000, &["msec", "msecs", "millis", "millisecond", "milliseconds"]),
    ("s", 1_000_000_000, &["sec", "secs", "second", "seconds"]),
    ("m", 60_000_000_000, &["min", "mins", "minute", "minutes"]),
    ("h", 3_600_000_000_000, &["hr", "hrs", "hour", "hours"]),
    ("d", 86_400_000_000_000, &["day", "days"]),
];
const EXPECTED: &str = "a number and a unit (ms, s, m, h, d), such as \"200ms\", \"2s\" or \"1h\"";

/// Reads a duration.
pub(super) fn parse(text: &str) -> Result<Duration, Problem> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    if number.is_empty() {
        let found = if text.starts_with('-') { "a negative duration" } else { "no duration" };
        return Err(Problem::new(found).expected(EXPECTED));
    }
    let unit_ns = unit_length(number, unit)?;
    let too_fine = || Problem::new("not a duration").expected(EXPECTED);
    let total = scale(number, unit_ns).ok_or_else(too_fine)?;
    u64::try_from(total)
        .map(Duration::from_nanos)
        .map_err(|_| Problem::new("too long a duration").expected(EXPECTED))
}

fn unit_length(number: &str, unit: &str) -> Result<u64, Problem> {
    if unit.is_empty() {
        return Err(without_unit(number));
    }
    if let Some((_, ns, _)) = UNITS.iter().find(|(name, ..)| *name == unit) {
        return Ok(*ns);
    }
    let meant = unit.trim().to_lowercase();
    let known = UNITS.iter().find(|(name, _, words)| *name == meant || words.contains(&&*meant));
    let problem = Problem::new("not a unit of time").expected(EXPECTED);
    Err(match known {
        Some((name, ..)) => problem.help(format!("write \"{number}{name}\"")),
        None => problem.help("the units are ms, s, m, h and d"),
    })
}

/// The problem of a bare number, which says how to write it.
pub(super) fn without_unit(number: &str) -> Problem {
    Problem::new("a duration without a unit").expected(EXPECTED).help(format!(
        "write \"{number}s\" for seconds or \"{number}ms\" for milliseconds, in quotes"
    ))
}

/// Multiplies a decimal number by a unit, exactly; `None` where that is no whole number.
pub(super) fn scale(number: &str, unit: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let fraction_unit = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits: u128 = whole.parse().ok()?;
    let fraction: u128 = fraction.parse().ok()?;
    let scaled = fraction.checked_mul(u128::from(unit))?;
    if scaled % fraction_unit != 0 {
        return None;
    }
    digits.checked_mul(u128::from(unit))?.checked_add(scaled / fraction_unit)
}

/// Writes a duration as it would stand in the file.
pub(super) fn format(duration: Duration) -> String {
    let ns = duration.as_nanos();
    UNITS.iter().rev().find(|(_, unit, _)| ns.is_multiple_of(u128::from(*unit))).map_or_else(
        || format!("{duration:?}"),
        |(name, unit, _)| format!("{}{name}", ns / u128::from(*unit)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_number_and_a_unit() {
        for (text, want) in [
            ("200ms", Some(200)),
            ("2s", Some(2_000)),
            ("1.5s", Some(1_500)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("7d", Some(604_800_000)),
            ("0s", Some(0)),
            ("0.5ms", None),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("30", None),
            ("30sec", None),
            ("2 s", None),
            ("2S", None),
            ("1.s", None),
            (".5s", None),
            ("1.2.3s", None),
            ("99999999999999999999d", None),
            ("1.0000000001s", None),
        ] {
            let got = parse(text);
            match want {
                Some(ms) => assert_eq!(got, Ok(Duration::from_millis(ms)), "{text}"),
                None if text == "0.5ms" => assert_eq!(got, Ok(Duration::from_micros(500))),
                None => assert!(got.is_err(), "{text}"),
            }
        }
    }

    #[test]
    fn words_for_units_are_translated() {
        for (text, want) in [
            ("30 seconds", "write \"30s\""),
            ("5 MIN", "write \"5m\""),
            ("30", "write \"30s\" for seconds or \"30ms\" for milliseconds, in quotes"),
            ("3 lightyears", "the units are ms, s, m, h and d"),
        ] {
            assert_eq!(parse(text).unwrap_err().help.as_deref(), Some(want), "{text}");
        }
    }

    #[test]
    fn a_duration_is_written_with_its_largest_whole_unit() {
        for (ms, want) in [(200, "200ms"), (2_000, "2s"), (90_000, "90s"), (3_600_000, "1h")] {
            assert_eq!(format(Duration::from_millis(ms)), want);
        }
    }
}
