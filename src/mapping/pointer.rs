//! JSON pointers (RFC 6901).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::event::excerpt::excerpt;
use crate::event::walk::{Kind, Walk};

/// Where something stands in a JSON document: empty for the whole, or `/key/0/key`, in which
/// `~1` means a slash and `~0` a tilde. Default: the whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pointer {
    text: String,
    /// The decoded names and indexes.
    segments: Vec<String>,
}

/// The text is not a JSON pointer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    /// Neither empty nor beginning with a slash.
    #[error("a JSON pointer is empty or begins with \"/\": write \"/{0}\"")]
    NoSlash(String),
    /// A tilde that begins neither `~0` nor `~1`.
    #[error(
        "\"~\" in the JSON pointer \"{0}\" must be written \"~0\" (and \"/\" in a name \"~1\")"
    )]
    BadTilde(String),
}

impl Pointer {
    /// The pointer to the whole document.
    pub fn whole() -> Self {
        Self::default()
    }

    /// The pointer to the member `key` of the document; `key` is taken as it is.
    pub fn to_key(key: &str) -> Self {
        let text = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
        Self { text, segments: vec![key.to_owned()] }
    }

    /// The pointer as it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first name, and the rest; `None` for the whole document.
    pub(crate) fn split_first(&self) -> Option<(&str, &[String])> {
        self.segments.split_first().map(|(first, rest)| (first.as_str(), rest))
    }

    /// Finds the value in `document`, which must be valid JSON. Of members with the same key the
    /// last counts, as for every parser that keeps one.
    pub fn find<'a>(&self, document: &'a str) -> Option<&'a str> {
        find_segments(document, &self.segments)
    }
}

/// Finds what `segments` lead to from `document`, which must be valid JSON.
pub(crate) fn find_segments<'a>(document: &'a str, segments: &[String]) -> Option<&'a str> {
    segments.iter().try_fold(document.trim_ascii(), |value, segment| step(value, segment))
}

fn step<'a>(value: &'a str, segment: &str) -> Option<&'a str> {
    match Kind::of(value) {
        Kind::Object => {
            let mut found = None;
            Walk::new(value).each_member(|key, member| {
                if key.is(segment) {
                    found = Some(member);
                }
            });
            found
        }
        Kind::Array => element(value, parse_index(segment)?),
        _ => None,
    }
}

/// RFC 6901: decimal digits without a leading zero. (`-`, the place after the last, is never
/// there to be read.)
fn parse_index(segment: &str) -> Option<usize> {
    let is_index = segment.bytes().all(|byte| byte.is_ascii_digit())
        && (segment == "0" || !segment.starts_with('0'));
    if is_index { segment.parse().ok() } else { None }
}

fn element(array: &str, index: usize) -> Option<&str> {
    let mut count = 0;
    // The found element is the "error" that ends the visit.
    let visited = Walk::new(array).each_element(|walk| {
        let value = walk.value();
        count += 1;
        if count > index { Err(value) } else { Ok(()) }
    });
    visited.err()
}

impl FromStr for Pointer {
    type Err = PointerError;

    fn from_str(text: &str) -> Result<Self, PointerError> {
        if text.is_empty() {
            return Ok(Self::whole());
        }
        let Some(names) = text.strip_prefix('/') else {
            return Err(PointerError::NoSlash(excerpt(text, 80)));
        };
        let segments = names
            .split('/')
            .map(unescape)
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| PointerError::BadTilde(excerpt(text, 80)))?;
        Ok(Self { text: text.to_owned(), segments })
    }
}

/// Turns `~1` into `/` and `~0` into `~`; `None` when a tilde begins neither.
fn unescape(segment: &str) -> Option<String> {
    let mut name = String::with_capacity(segment.len());
    let mut characters = segment.chars();
    while let Some(character) = characters.next() {
        name.push(match character {
            '~' => match characters.next()? {
                '0' => '~',
                '1' => '/',
                _ => return None,
            },
            other => other,
        });
    }
    Some(name)
}

impl TryFrom<String> for Pointer {
    type Error = PointerError;

    fn try_from(text: String) -> Result<Self, PointerError> {
        text.parse()
    }
}

impl From<Pointer> for String {
    fn from(pointer: Pointer) -> Self {
        pointer.text
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 6901, section 5, and what else can go wrong.
    #[test]
    fn pointers_find_what_the_rfc_says() {
        let document = r#" {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4,
            "i\\j": 5, "k\"l": 6, " ": 7, "m~n": 8, "~1": 9, "twice": 1, "\u0074wice": {"x": 2},
            "\ud800": 10, "00": 11} "#;
        for (pointer, want) in [
            ("/foo", Some(r#"["bar", "baz"]"#)),
            ("/foo/0", Some(r#""bar""#)),
            ("/foo/1", Some(r#""baz""#)),
            ("/foo/2", None),
            ("/foo/-", None),
            ("/foo/01", None),
            ("/foo/+1", None),
            ("/foo/", None),
            ("/foo/99999999999999999999999", None),
            ("/", Some("0")),
            ("/a~1b", Some("1")),
            ("/c%d", Some("2")),
            ("/e^f", Some("3")),
            ("/g|h", Some("4")),
            ("/i\\j", Some("5")),
            ("/k\"l", Some("6")),
            ("/ ", Some("7")),
            ("/m~0n", Some("8")),
            ("/~01", Some("9")),
            ("/twice", Some(r#"{"x": 2}"#)),
            ("/twice/x", Some("2")),
            ("/twice/x/y", None),
            ("/00", Some("11")),
            ("/missing", None),
        ] {
            let found = pointer.parse::<Pointer>().unwrap().find(document);
            assert_eq!(found, want, "{pointer}");
        }
        assert_eq!(Pointer::whole().find(document), Some(document.trim()));
    }

    #[test]
    fn texts_that_are_no_pointers_are_refused_with_advice() {
        for (text, want) in [
            ("id", "a JSON pointer is empty or begins with \"/\": write \"/id\""),
            (
                "/a~b",
                "\"~\" in the JSON pointer \"/a~b\" must be written \"~0\" (and \"/\" in a name \"~1\")",
            ),
            (
                "/a~",
                "\"~\" in the JSON pointer \"/a~\" must be written \"~0\" (and \"/\" in a name \"~1\")",
            ),
        ] {
            assert_eq!(text.parse::<Pointer>().unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn pointers_keep_their_text() {
        for text in ["", "/", "/a~1b/0", "/ü/~0"] {
            let pointer: Pointer = serde_json::from_value(text.into()).unwrap();
            assert_eq!(pointer.to_string(), text);
            assert_eq!(serde_json::to_value(&pointer).unwrap(), text);
        }
        assert_eq!(Pointer::to_key("a/b~c"), "/a~1b~0c".parse().unwrap());
    }
}
