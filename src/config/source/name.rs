//! The name of a source.

use std::fmt;
use std::str::FromStr;

/// The name of a source, as it stands in tables, metrics and commands.
///
/// 1 to 190 bytes of UTF-8; printable: no control characters, no invisible or direction-changing
/// ones, no whitespace at the ends. Case counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceName(String);

/// Why a text is no name of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SourceNameError {
    /// It has no characters.
    #[error("an empty source name")]
    Empty,
    /// It has more than 190 bytes.
    #[error("a source name of {0} bytes")]
    TooLong(usize),
    /// It begins or ends with whitespace.
    #[error("a source name with whitespace at its ends")]
    Padded,
    /// It has a character that cannot be seen.
    #[error("a source name with the invisible character {0:?}")]
    Invisible(char),
}

impl SourceName {
    /// The most bytes a name may have.
    pub const MAX_BYTES: usize = 190;

    /// Checks a name.
    ///
    /// # Errors
    /// The text is empty, too long, padded or has invisible characters.
    pub fn parse(text: &str) -> Result<Self, SourceNameError> {
        if text.is_empty() {
            return Err(SourceNameError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(SourceNameError::TooLong(text.len()));
        }
        if let Some(c) = text.chars().find(|c| is_invisible(*c)) {
            return Err(SourceNameError::Invisible(c));
        }
        if text.trim() != text {
            return Err(SourceNameError::Padded);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Control characters, line separators, zero-width and bidirectional-override characters: two
/// names that look the same must be the same.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

impl FromStr for SourceName {
    type Err = SourceNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl AsRef<str> for SourceName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printable_and_of_bounded_length() {
        let longest = "x".repeat(190);
        let too_long = "ä".repeat(96);
        for (text, want) in [
            ("orders", None),
            ("user-events.v2", None),
            ("topic/3", None),
            ("My Shop", None),
            ("заказы", None),
            (longest.as_str(), None),
            ("", Some(SourceNameError::Empty)),
            (too_long.as_str(), Some(SourceNameError::TooLong(192))),
            (" a", Some(SourceNameError::Padded)),
            ("a\u{a0}", Some(SourceNameError::Padded)),
            ("a\nb", Some(SourceNameError::Invisible('\n'))),
            ("a\u{0}", Some(SourceNameError::Invisible('\0'))),
            ("a\u{202e}b", Some(SourceNameError::Invisible('\u{202e}'))),
        ] {
            assert_eq!(SourceName::parse(text).err(), want, "{text:?}");
        }
    }
}
