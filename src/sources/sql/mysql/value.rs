//! One value of the binary protocol, by the type of its column.
//!
//! The driver's own conversions take a date of zeros for null and have no type for a decimal, so the bytes are read
//! here.

use std::borrow::Cow;
use std::fmt::Write as _;

use sqlx::mysql::{MySqlRow, MySqlTypeInfo};
use sqlx::{Column as _, MySql, Row as _, TypeInfo as _};

/// A value that is not null.
#[derive(Debug, PartialEq)]
pub(super) enum Taken<'r> {
    /// Any whole number.
    Integer(i128),
    /// A number in the digits of the server.
    Number(Cow<'r, [u8]>),
    Text(Cow<'r, [u8]>),
    Binary(&'r [u8]),
    Json(&'r [u8]),
}

/// An id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Id {
    Bigint(i64),
    /// Above it, which only `bigint unsigned` can be.
    Beyond(i128),
}

pub(super) fn id(number: i128) -> Id {
    i64::try_from(number).map_or(Id::Beyond(number), Id::Bigint)
}

/// The value of a column; `None`: null.
pub(super) fn taken(row: &MySqlRow, place: usize) -> Option<Taken<'_>> {
    // Not as an Option: that would be none for a date of zeros too.
    let bytes: &[u8] = row.try_get_unchecked(place).ok()?;
    let column = row.columns().get(place)?;
    Some(read(bytes, column.type_info()))
}

fn read<'r>(bytes: &'r [u8], type_info: &MySqlTypeInfo) -> Taken<'r> {
    let name = type_info.name();
    let is_unsigned = name.ends_with(" UNSIGNED");
    let text = |text: String| Taken::Text(Cow::Owned(text.into_bytes()));
    match name.trim_end_matches(" UNSIGNED") {
        "BOOLEAN" | "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "BIGINT" => {
            Taken::Integer(integer(bytes, is_unsigned))
        }
        "YEAR" => text(format!("{:04}", integer(bytes, true))),
        // Big-endian, and as short as the column.
        "BIT" => Taken::Integer(
            bytes.iter().take(8).fold(0, |number, byte| number << 8 | i128::from(*byte)),
        ),
        "FLOAT" => Taken::Number(match bytes.try_into() {
            Ok(bytes) => Cow::Owned(format!("{:?}", f32::from_le_bytes(bytes)).into_bytes()),
            Err(_) => Cow::Borrowed(b"null"),
        }),
        "DOUBLE" => Taken::Number(match bytes.try_into() {
            Ok(bytes) => Cow::Owned(format!("{:?}", f64::from_le_bytes(bytes)).into_bytes()),
            Err(_) => Cow::Borrowed(b"null"),
        }),
        "DECIMAL" => Taken::Number(Cow::Borrowed(bytes)),
        "DATE" => text(date(bytes)),
        "DATETIME" => text(format!("{}T{}", date(bytes), time_of_day(bytes))),
        "TIMESTAMP" => text(format!("{}T{}Z", date(bytes), time_of_day(bytes))),
        "TIME" => text(time(bytes)),
        "JSON" => Taken::Json(bytes),
        "GEOMETRY" => Taken::Binary(bytes),
        "SET" | "ENUM" => Taken::Text(Cow::Borrowed(bytes)),
        _ if <str as sqlx::Type<MySql>>::compatible(type_info) => Taken::Text(Cow::Borrowed(bytes)),
        _ => Taken::Binary(bytes),
    }
}

fn integer(bytes: &[u8], is_unsigned: bool) -> i128 {
    let mut wide = [0_u8; 16];
    wide[..bytes.len().min(16)].copy_from_slice(&bytes[..bytes.len().min(16)]);
    let number = i128::from_le_bytes(wide);
    let bits = 8 * bytes.len().min(15);
    let is_negative = !is_unsigned && bits > 0 && number >> (bits - 1) & 1 == 1;
    if is_negative { number - (1 << bits) } else { number }
}

/// Byte `at`, or zero: what is zero at the end is left out. The first byte is the length.
fn part(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at).copied().unwrap_or(0).into()
}

fn number(bytes: &[u8], at: usize) -> u32 {
    (0..4).fold(0, |number, i| number | part(bytes, at + i) << (8 * i))
}

/// Length, year (2), month, day, hour, minute, second, microseconds (4).
fn date(bytes: &[u8]) -> String {
    let year = part(bytes, 1) | part(bytes, 2) << 8;
    format!("{year:04}-{:02}-{:02}", part(bytes, 3), part(bytes, 4))
}

fn time_of_day(bytes: &[u8]) -> String {
    let (hour, minute, second) = (part(bytes, 5), part(bytes, 6), part(bytes, 7));
    with_microseconds(format!("{hour:02}:{minute:02}:{second:02}"), number(bytes, 8))
}

/// Length, sign, days (4), hours, minutes, seconds, microseconds (4).
fn time(bytes: &[u8]) -> String {
    let sign = if part(bytes, 1) == 1 { "-" } else { "" };
    let hours = number(bytes, 2) * 24 + part(bytes, 6);
    let text = format!("{sign}{hours:02}:{:02}:{:02}", part(bytes, 7), part(bytes, 8));
    with_microseconds(text, number(bytes, 9))
}

fn with_microseconds(mut text: String, microseconds: u32) -> String {
    if microseconds > 0 {
        write!(text, ".{microseconds:06}").expect("a String takes every write");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_every_width_have_their_sign() {
        for (bytes, is_unsigned, want) in [
            (&[0xff_u8][..], false, -1),
            (&[0xff], true, 255),
            (&[0, 0x80], false, -32768),
            (&[0, 0, 0x80, 0xff], false, -8_388_608),
            (&[0xff; 8], true, i128::from(u64::MAX)),
            (&[0, 0, 0, 0, 0, 0, 0, 0x80], false, i128::from(i64::MIN)),
        ] {
            assert_eq!(integer(bytes, is_unsigned), want);
        }
    }

    #[test]
    fn times_are_read_from_their_parts() {
        assert_eq!(date(&[0]), "0000-00-00");
        let full = [11, 0xe8, 7, 2, 29, 23, 59, 58, 1, 0, 0, 0];
        assert_eq!(
            (date(&full), time_of_day(&full)),
            ("2024-02-29".into(), "23:59:58.000001".into())
        );
        assert_eq!(time_of_day(&full[..5]), "00:00:00");
        assert_eq!(time(&[12, 1, 34, 0, 0, 0, 22, 59, 59, 63, 66, 15, 0]), "-838:59:59.999999");
        assert_eq!(time(&[0]), "00:00:00");
    }

    #[test]
    fn an_id_is_a_bigint_or_beyond() {
        assert_eq!(id(i128::from(i64::MAX)), Id::Bigint(i64::MAX));
        assert_eq!(id(i128::from(u64::MAX)), Id::Beyond(i128::from(u64::MAX)));
    }
}
