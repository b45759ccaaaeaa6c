//! Which JSON numbers `jsonb` holds without changing them.
//!
//! Measured on Postgres 15.x: `jsonb` never rounds. A number that `numeric` cannot hold digit
//! for digit is refused with "value overflows numeric format", and these are the rules of it
//! (`set_var_from_str` and `make_result` in `src/backend/utils/adt/numeric.c`).

use std::fmt;

/// Most digits before the decimal point (`(NUMERIC_WEIGHT_MAX + 1) * 4`).
pub(crate) const INTEGER_DIGITS_MAX: i64 = 131_072;

/// Most digits after the decimal point, trailing zeros counted (`NUMERIC_DSCALE_MAX`).
pub(crate) const FRACTION_DIGITS_MAX: i64 = 16_383;

/// An exponent this large is refused even for zero (`INT_MAX / 2`).
const EXPONENT_LIMIT: i64 = 1_073_741_823;

/// A number that needs no closer look: no exponent and too short to break a limit.
const PLAIN_LENGTH_MAX: usize = 16_383;

/// Why `numeric` does not hold a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberFault {
    /// It is 10^131072 or more, or less than the negative of that.
    TooManyIntegerDigits,
    /// Written out, it has more than 16,383 digits after the decimal point.
    TooManyFractionDigits,
    /// Its exponent is beyond what `numeric` reads, even for zero.
    ExponentOutOfRange,
}

impl fmt::Display for NumberFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyIntegerDigits => {
                write!(f, "has more than {INTEGER_DIGITS_MAX} digits before the decimal point")
            }
            Self::TooManyFractionDigits => {
                write!(f, "has more than {FRACTION_DIGITS_MAX} digits after the decimal point")
            }
            Self::ExponentOutOfRange => f.write_str("has an exponent out of range"),
        }
    }
}

/// What a number takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NumberSize {
    /// At most this much inside a `jsonb`, alignment included.
    pub(crate) stored: u64,
    /// What Postgres prints for a number with an exponent, which it writes out; zero for others.
    pub(crate) printed: u64,
}

/// Checks `token`, a valid JSON number.
pub(crate) fn check_number(token: &str) -> Result<NumberSize, NumberFault> {
    let has_exponent = token.bytes().any(|byte| byte | 0x20 == b'e');
    let stored = stored_bytes(token, has_exponent);
    if !has_exponent && token.len() <= PLAIN_LENGTH_MAX {
        return Ok(NumberSize { stored, printed: 0 });
    }
    let decimal = Decimal::read(token);
    if decimal.exponent.abs() >= EXPONENT_LIMIT {
        return Err(NumberFault::ExponentOutOfRange);
    }
    let fraction_digits = decimal.fraction_digits();
    if fraction_digits > FRACTION_DIGITS_MAX {
        return Err(NumberFault::TooManyFractionDigits);
    }
    let integer_digits = decimal.integer_digits();
    if integer_digits > INTEGER_DIGITS_MAX {
        return Err(NumberFault::TooManyIntegerDigits);
    }
    let printed = integer_digits.max(1).unsigned_abs() + fraction_digits.unsigned_abs() + 2;
    Ok(NumberSize { stored, printed })
}

/// Bytes as a `numeric` inside a `jsonb`, aligned to 4: a length word, a header of 2 bytes (4 for
/// numbers out of the common range), and 2 bytes for every four digits on each side of the point.
fn stored_bytes(token: &str, has_exponent: bool) -> u64 {
    const COMMON_LENGTH_MAX: usize = 60;
    let is_common = !has_exponent && token.len() <= COMMON_LENGTH_MAX;
    let header = if is_common { 6 } else { 8 };
    // A point or an exponent can split the digits into one group more.
    let is_split = has_exponent || token.contains('.');
    let groups = token.len().div_ceil(4) as u64 + u64::from(is_split);
    (header + 2 * groups).next_multiple_of(4)
}

/// A JSON number in its parts; nothing is computed, so nothing is lost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decimal<'a> {
    pub(crate) negative: bool,
    /// The digits before the decimal point.
    pub(crate) integer: &'a str,
    /// The digits after it.
    pub(crate) fraction: &'a str,
    /// Held at the ends of i64's range when it is beyond them.
    pub(crate) exponent: i64,
}

impl<'a> Decimal<'a> {
    /// Reads `token`, a valid JSON number.
    pub(crate) fn read(token: &'a str) -> Self {
        let (negative, digits) = match token.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, token),
        };
        let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, read_exponent(exponent)),
            None => (digits, 0),
        };
        let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        Self { negative, integer, fraction, exponent }
    }

    /// The digits after the decimal point once the exponent is applied.
    fn fraction_digits(&self) -> i64 {
        length(self.fraction).saturating_sub(self.exponent).max(0)
    }

    /// The digits before the decimal point once the exponent is applied, without leading zeros;
    /// zero or negative for a value below one.
    pub(crate) fn integer_digits(&self) -> i64 {
        let integer = self.integer.trim_start_matches('0');
        let position = if integer.is_empty() {
            let fraction = self.fraction.trim_start_matches('0');
            if fraction.is_empty() {
                return 0;
            }
            length(fraction) - length(self.fraction)
        } else {
            length(integer)
        };
        position.saturating_add(self.exponent)
    }

    /// The digits from the first that is not zero.
    pub(crate) fn significant_digits(&self) -> impl Iterator<Item = u8> + 'a {
        let digits = self.integer.bytes().chain(self.fraction.bytes());
        digits.skip_while(|digit| *digit == b'0').map(|digit| digit.wrapping_sub(b'0'))
    }
}

fn read_exponent(text: &str) -> i64 {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let exponent = digits.bytes().fold(0_i64, |value, digit| {
        value.saturating_mul(10).saturating_add(i64::from(digit.wrapping_sub(b'0')))
    });
    if negative { -exponent } else { exponent }
}

fn length(digits: &str) -> i64 {
    i64::try_from(digits.len()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIG: Option<NumberFault> = Some(NumberFault::TooManyIntegerDigits);
    const FINE: Option<NumberFault> = Some(NumberFault::TooManyFractionDigits);
    const RANGE: Option<NumberFault> = Some(NumberFault::ExponentOutOfRange);

    /// Every row was asked of Postgres 15 as `'…'::jsonb`.
    #[test]
    fn numbers_are_held_or_refused_as_postgres_does() {
        for (token, want) in [
            ("0", None),
            ("-0", None),
            ("-0.0", None),
            ("18446744073709551616", None),
            ("0.1000", None),
            ("1e400", None),
            ("1E+2", None),
            ("1e131071", None),
            ("9e131071", None),
            ("1e0131071", None),
            ("1.0e131071", None),
            ("0.1e131072", None),
            ("0.00001e131076", None),
            ("1e131072", BIG),
            ("-1e131072", BIG),
            ("10e131071", BIG),
            ("1e1073741822", BIG),
            ("0e131072", None),
            ("0e999999", None),
            ("0e1073741822", None),
            ("0e1073741823", RANGE),
            ("0e99999999999999999999", RANGE),
            ("1e-99999999999", RANGE),
            ("1e-16383", None),
            ("0e-16383", None),
            ("1.5e-16382", None),
            ("1e-00016383", None),
            ("1e-16384", FINE),
            ("0e-16384", FINE),
            ("10e-16384", FINE),
            ("0.0e-16383", FINE),
            ("1e-20000", FINE),
            ("0e-1073741822", FINE),
        ] {
            assert_eq!(check_number(token).err(), want, "{token}");
        }
    }

    #[test]
    fn long_numbers_are_held_or_refused_as_postgres_does() {
        let nines = |count: usize| "9".repeat(count);
        for (name, token, want) in [
            ("131072 digits", nines(131_072), None),
            ("131073 digits", nines(131_073), BIG),
            ("131073 digits, one after the point", nines(131_073) + "e-1", None),
            ("140000 digits, 10000 after", nines(140_000) + "e-10000", None),
            ("140000 digits, 20000 after", nines(140_000) + "e-20000", FINE),
            ("16383 after", format!("0.{}", nines(16_383)), None),
            ("16384 after", format!("0.{}", nines(16_384)), FINE),
            ("16384 after, one a zero", format!("0.{}0", nines(16_383)), FINE),
            ("16384 after, e1", format!("0.{}e1", nines(16_384)), None),
            ("16383 after, e-1", format!("0.{}e-1", nines(16_383)), FINE),
            ("20000 zeros after", format!("0.{}", "0".repeat(20_000)), FINE),
            ("both full", format!("{}.{}", nines(131_072), nines(16_383)), None),
        ] {
            assert_eq!(check_number(&token).err(), want, "{name}");
        }
    }
}
