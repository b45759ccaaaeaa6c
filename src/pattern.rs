//! Patterns of event and message names: `order.placed`, `order.*`, `*`.
//!
//! A name stands for itself. `order.*` stands for every name that begins with `order.`, however many parts follow; `*`
//! stands for every name. Case counts. Where several fit, [the most specific one](NamePattern::beats) counts: an exact
//! name before any pattern, a longer pattern before a shorter one.

use std::fmt;
use std::str::FromStr;

use crate::event::excerpt::excerpt;

/// Longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 255;

/// Which names are meant. The [module](self) says how they are written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamePattern {
    /// This name and no other.
    Exact(String),
    /// Names that begin so; ends in a dot.
    Prefix(String),
    /// Every name.
    Any,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It has no characters.
    #[error(
        "an empty pattern; write a name such as order.placed, a beginning such as order.*, or *"
    )]
    Empty,
    /// It is longer than a name may be.
    #[error("a pattern of {0} bytes, over {PATTERN_BYTES_MAX}")]
    TooLong(usize),
    /// A star that is not the last part.
    #[error("the pattern {0}: * can only be the last part, as in order.* or alone")]
    MisplacedStar(String),
    /// Spaces at its ends or control characters in it, which no name has.
    #[error("the pattern {0}: spaces at the ends and control characters are in no name")]
    Unprintable(String),
}

impl NamePattern {
    /// Whether `name` is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Prefix(prefix) => name.starts_with(prefix.as_str()),
            Self::Any => true,
        }
    }

    /// Whether this one counts where both match. Two different patterns that match one name are never equally specific.
    pub fn beats(&self, other: &Self) -> bool {
        self.specificity() > other.specificity()
    }

    fn specificity(&self) -> (bool, usize) {
        match self {
            Self::Exact(name) => (true, name.len()),
            Self::Prefix(prefix) => (false, prefix.len()),
            Self::Any => (false, 0),
        }
    }
}

impl FromStr for NamePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong(text.len()));
        }
        if text.trim() != text || text.contains(char::is_control) {
            return Err(PatternError::Unprintable(excerpt(text, PATTERN_BYTES_MAX)));
        }
        match text.strip_suffix('*') {
            Some("") => Ok(Self::Any),
            Some(prefix) if prefix.len() > 1 && prefix.ends_with('.') && !prefix.contains('*') => {
                Ok(Self::Prefix(prefix.to_owned()))
            }
            None if !text.contains('*') => Ok(Self::Exact(text.to_owned())),
            _ => Err(PatternError::MisplacedStar(text.to_owned())),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Any => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> NamePattern {
        text.parse().unwrap()
    }

    #[test]
    fn patterns_match_whole_names_and_beginnings_of_whole_parts() {
        for (text, name, want) in [
            ("order.placed", "order.placed", true),
            ("order.placed", "order.placed.late", false),
            ("order.placed", "Order.placed", false),
            ("order.*", "order.placed", true),
            ("order.*", "order.item.added", true),
            ("order.*", "order", false),
            ("order.*", "order.", true),
            ("order.*", "orders.placed", false),
            ("*", "anything at all", true),
        ] {
            assert_eq!(pattern(text).matches(name), want, "{text} {name}");
            assert_eq!(pattern(text).to_string(), text);
        }
    }

    #[test]
    fn exact_names_beat_patterns_and_longer_patterns_shorter_ones() {
        let order = ["order.item", "order.item.*", "order.*", "*"];
        for (place, better) in order.iter().enumerate() {
            assert!(!pattern(better).beats(&pattern(better)));
            for worse in &order[place + 1..] {
                assert!(pattern(better).beats(&pattern(worse)), "{better} {worse}");
                assert!(!pattern(worse).beats(&pattern(better)), "{better} {worse}");
            }
        }
        assert!(pattern("a").beats(&pattern("a.long.beginning.*")));
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        let long = "a".repeat(256);
        for (text, want) in [
            ("", "an empty pattern"),
            ("order*", "the pattern order*: * can only be the last part"),
            (".*", "the pattern .*: * can only be"),
            ("**", "can only be the last part"),
            ("*.placed", "can only be the last part"),
            ("order.*.placed", "can only be the last part"),
            ("order.*.*", "can only be the last part"),
            (" order", "spaces at the ends"),
            ("or\nder", "the pattern or\\u000ader"),
            (long.as_str(), "a pattern of 256 bytes"),
        ] {
            let error = text.parse::<NamePattern>().unwrap_err().to_string();
            assert!(error.contains(want), "{text:?}: {error}");
        }
    }
}
