//! Sizes in bytes as they are written in the file: `"1MiB"`, `"64MB"` or a plain integer.

use super::duration::scale;
use super::error::Problem;

const UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];
const EXPECTED: &str = "a size such as \"1MiB\", \"512KiB\" or \"64MB\", or a number of bytes";

/// Reads a size in bytes.
pub(super) fn parse(text: &str) -> Result<u64, Problem> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    if number.is_empty() {
        return Err(Problem::new("not a size").expected(EXPECTED));
    }
    let unit = if unit.is_empty() { 1 } else { unit_bytes(number, unit)? };
    scale(number, unit)
        .and_then(|bytes| u64::try_from(bytes).ok())
        .ok_or_else(|| Problem::new("not a whole number of bytes").expected(EXPECTED))
}

fn unit_bytes(number: &str, unit: &str) -> Result<u64, Problem> {
    if let Some((_, bytes)) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
        return Ok(*bytes);
    }
    let problem = Problem::new("not a unit of size").expected(EXPECTED);
    Err(match unit.trim().chars().next().map(|c| c.to_ascii_uppercase()) {
        Some(c @ ('K' | 'M' | 'G')) => problem.help(format!("write \"{number}{c}iB\"")),
        _ => problem.help("the units are B, KiB, MiB, GiB, KB, MB and GB"),
    })
}

/// Writes a size as it would stand in the file.
pub(super) fn format(bytes: u64) -> String {
    UNITS[1..4]
        .iter()
        .rev()
        .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(|| bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_with_an_optional_unit() {
        for (text, want) in [
            ("1MiB", Some(1_048_576)),
            ("512KiB", Some(524_288)),
            ("64MB", Some(64_000_000)),
            ("1.5MiB", Some(1_572_864)),
            ("1gib", Some(1 << 30)),
            ("2048", Some(2048)),
            ("10B", Some(10)),
            ("1M", None),
            ("1 MiB", None),
            ("", None),
            ("MiB", None),
            ("-1", None),
            ("0.5", None),
            ("99999999999999999999GB", None),
        ] {
            assert_eq!(parse(text).ok(), want, "{text}");
        }
        assert_eq!(parse("4k").unwrap_err().help.as_deref(), Some("write \"4KiB\""));
    }

    #[test]
    fn a_size_is_written_with_its_largest_whole_unit() {
        for (bytes, want) in [(1 << 20, "1MiB"), (1536, "1536"), (0, "0"), (64 << 20, "64MiB")] {
            assert_eq!(format(bytes), want);
        }
    }
}
