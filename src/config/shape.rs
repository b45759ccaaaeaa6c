//! What values a key takes, as its conversion notes it: the base of the schema and of the reference.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{duration, size};

/// What a conversion accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    /// A string, of a certain form where one is named.
    Text(Option<&'static Form>),
    /// A whole number; the bounds as they are written.
    Integer { low: String, high: String },
    /// A number and a unit of time.
    Duration { low: String, high: String },
    /// A number of bytes, with or without a unit.
    Size { bytes: (u64, u64), low: String, high: String },
    /// One of a few words.
    Word(Vec<&'static str>),
    /// true or false.
    Boolean,
    /// An array of strings.
    List,
    /// A table with keys of its own.
    Table,
}

/// What a text has to look like, as far as a regular expression can tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// What it is, with its article: "a JSON pointer".
    pub(super) name: &'static str,
    /// ECMA 262, without look-around. Has to let everything pass that the conversion accepts.
    pub(super) pattern: &'static str,
}

impl Shape {
    pub(super) fn duration(range: &RangeInclusive<Duration>) -> Self {
        let (low, high) = (duration::format(*range.start()), duration::format(*range.end()));
        Self::Duration { low, high }
    }

    pub(super) fn size(range: &RangeInclusive<u64>) -> Self {
        let bytes = (*range.start(), *range.end());
        Self::Size { bytes, low: size::format(bytes.0), high: size::format(bytes.1) }
    }

    /// The type and range in words, for tables of keys.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Text(None) => "a string".to_owned(),
            Self::Text(Some(form)) => form.name.to_owned(),
            Self::Integer { low, high } => {
                let any = *low == i64::MIN.to_string() && *high == i64::MAX.to_string();
                if any { "a whole number".to_owned() } else { format!("{low} to {high}") }
            }
            Self::Duration { low, high } => format!("a duration, {low} to {high}"),
            Self::Size { low, high, .. } => format!("a size, {low} to {high}"),
            Self::Word(words) => {
                words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" or ")
            }
            Self::Boolean => "`true` or `false`".to_owned(),
            Self::List => "an array of strings".to_owned(),
            Self::Table => "a table".to_owned(),
        }
    }
}
