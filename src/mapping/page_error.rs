//! Why a whole page is invalid.

use crate::event::excerpt::excerpt;
use crate::event::walk::{Kind, Walk};

use super::pointer::Pointer;

/// Longest piece of a body in a message, in characters.
pub(super) const FOUND_LENGTH_MAX: usize = 80;

/// Why a whole page is invalid: nothing of it can be stored without losing or inventing something.
///
/// Items are counted from 0, as in JSON pointers. Pieces of the body are shortened and escaped, so
/// a message can be logged and stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// Some byte is not UTF-8.
    #[error("the body is not UTF-8: byte 0x{byte:02x} at offset {offset} (JSON must be UTF-8)")]
    NotUtf8 {
        /// Bytes before it.
        offset: usize,
        /// The byte.
        byte: u8,
    },
    /// The syntax is wrong.
    #[error("the body is not JSON: {message} at line {line}, column {column}{hint}")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1, in bytes; 0 at the very beginning.
        column: usize,
        /// The parser's, without the place.
        message: String,
        /// Empty, or what the body may be instead, in brackets.
        hint: String,
    },
    /// The `items` pointer leads nowhere.
    #[error("`items` = \"{pointer}\" finds nothing: {found}{suggestion}")]
    ItemsMissing {
        /// The pointer.
        pointer: String,
        /// What the body is.
        found: String,
        /// Empty, or what to write instead.
        suggestion: String,
    },
    /// The `items` pointer leads to something else than an array.
    #[error("`items` = \"{pointer}\" must find an array of events, found {found}{suggestion}")]
    ItemsNotArray {
        /// The pointer.
        pointer: String,
        /// What is there.
        found: String,
        /// Empty, or what to write instead.
        suggestion: String,
    },
    /// An item is something else than an object.
    #[error("item {index} is {found}, expected an object")]
    ItemNotObject {
        /// Of the item.
        index: usize,
        /// What it is.
        found: String,
    },
    /// The `id` pointer finds nothing in an item.
    #[error("item {index} has no id: `id` = \"{pointer}\" finds nothing; {found}")]
    IdMissing {
        /// Of the item.
        index: usize,
        /// The pointer.
        pointer: String,
        /// What the item is.
        found: String,
    },
    /// An id is a string, a number with a fraction or an exponent, or no number at all.
    #[error("item {index}: the id at \"{pointer}\" is {found}, expected an integer")]
    IdNotInteger {
        /// Of the item.
        index: usize,
        /// The pointer.
        pointer: String,
        /// What it is.
        found: String,
    },
    /// An id does not fit in 64 bits.
    #[error(
        "item {index}: the id {found} at \"{pointer}\" is beyond bigint (-9223372036854775808 to 9223372036854775807)"
    )]
    IdOutOfRange {
        /// Of the item.
        index: usize,
        /// The pointer.
        pointer: String,
        /// The number.
        found: String,
    },
    /// The first id is not above the one that was asked after.
    #[error(
        "item {index} has the id {id}, expected one above after_id = {after_id}; does the source heed after_id?"
    )]
    IdBehind {
        /// Of the item.
        index: usize,
        /// Its id.
        id: i64,
        /// The window's.
        after_id: i64,
    },
    /// Two neighbours have the same id.
    #[error("item {index} repeats the id {id} of the item before it")]
    IdRepeated {
        /// Of the second item.
        index: usize,
        /// Their id.
        id: i64,
    },
    /// An id is below the one before it.
    #[error("item {index} has the id {id} after {previous}: ids must increase strictly")]
    IdNotIncreasing {
        /// Of the item.
        index: usize,
        /// Its id.
        id: i64,
        /// The id of the item before it.
        previous: i64,
    },
    /// More events than were asked for.
    #[error(
        "the page has {event_count} events, more than limit = {limit}; does the source heed limit?"
    )]
    TooManyEvents {
        /// How many there are.
        event_count: usize,
        /// How many were asked for.
        limit: usize,
    },
}

impl PageError {
    pub(super) fn not_utf8(body: &[u8], error: std::str::Utf8Error) -> Self {
        let offset = error.valid_up_to();
        Self::NotUtf8 { offset, byte: body.get(offset).copied().unwrap_or_default() }
    }

    pub(super) fn not_json(body: &str, error: &serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let with_place = error.to_string();
        let place = format!(" at line {line} column {column}");
        let message = with_place.strip_suffix(&place).unwrap_or(&with_place).to_owned();
        let hint = hint_for(body, error);
        Self::NotJson { line, column, message, hint }
    }

    /// The same error in a part of the body that stands below so many lines.
    pub(super) fn below(mut self, line_count: usize) -> Self {
        if let Self::NotJson { line, .. } = &mut self {
            *line += line_count;
        }
        self
    }

    pub(super) fn items_missing(pointer: &Pointer, body: &str) -> Self {
        Self::ItemsMissing {
            pointer: excerpt(pointer.as_str(), FOUND_LENGTH_MAX),
            found: format!("the body is {}", describe(body)),
            suggestion: suggest_items(body),
        }
    }

    pub(super) fn items_not_array(pointer: &Pointer, body: &str, value: &str) -> Self {
        // The pointer may have stopped one level short of the array, or be wrong altogether.
        let below = array_member(value).map(|key| format!("{pointer}{}", Pointer::to_key(&key)));
        let suggestion = below.map_or_else(|| suggest_items(body), |below| suggestion(&below));
        let pointer = excerpt(pointer.as_str(), FOUND_LENGTH_MAX);
        Self::ItemsNotArray { pointer, found: describe(value), suggestion }
    }

    pub(super) fn id_missing(index: usize, pointer: &Pointer, item: &str) -> Self {
        Self::IdMissing {
            index,
            pointer: excerpt(pointer.as_str(), FOUND_LENGTH_MAX),
            found: format!("the item is {}", describe(item)),
        }
    }
}

/// What a body that is not JSON may be; people get these pages from proxies and logins.
fn hint_for(body: &str, error: &serde_json::Error) -> String {
    let start = body.trim_start_matches('\u{feff}').trim_start();
    let begins_with = |prefix: &str| {
        start.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
    };
    let hint = if start.is_empty() {
        "the body is empty"
    } else if begins_with("<?xml") {
        "the body looks like XML"
    } else if start.starts_with('<') {
        "the body looks like HTML, perhaps an error or a login page"
    } else if error.is_eof() {
        "the body ends too early"
    } else if error.line() > 1 && start.starts_with('{') && error.to_string().starts_with("trail") {
        "the body looks like one JSON value a line, expected one array"
    } else {
        return String::new();
    };
    format!(" ({hint})")
}

/// Says what `value` is: objects by their first keys, scalars in full, arrays by kind.
pub(super) fn describe(value: &str) -> String {
    let kind = Kind::of(value);
    match kind {
        Kind::Object => describe_object(value),
        Kind::Array | Kind::Null => kind.to_string(),
        Kind::Bool | Kind::Number | Kind::String => {
            let name = kind.to_string();
            let name = name.strip_prefix("a ").unwrap_or(&name);
            format!("the {name} {}", excerpt(value, FOUND_LENGTH_MAX))
        }
    }
}

fn describe_object(value: &str) -> String {
    const KEY_COUNT_MAX: usize = 8;
    let mut keys = Vec::new();
    let mut key_count = 0;
    Walk::new(value).each_member(|key, _| {
        key_count += 1;
        if key_count <= KEY_COUNT_MAX {
            keys.push(format!("\"{}\"", excerpt(key.inside, 40)));
        }
    });
    let more = if key_count > KEY_COUNT_MAX { ", …" } else { "" };
    match key_count {
        0 => "an object without members".to_owned(),
        1 => format!("an object with the key {}", keys.concat()),
        _ => format!("an object with the keys {}{more}", keys.join(", ")),
    }
}

/// Suggests where the items may be, when there is one clear answer.
fn suggest_items(body: &str) -> String {
    if Kind::of(body) == Kind::Array {
        return suggestion("");
    }
    array_member(body).map_or_else(String::new, |key| suggestion(Pointer::to_key(&key).as_str()))
}

fn suggestion(pointer: &str) -> String {
    format!("; did you mean `items` = \"{}\"?", excerpt(pointer, FOUND_LENGTH_MAX))
}

/// The key of the one member of `object` that is an array; `None` when there are none or several.
fn array_member(object: &str) -> Option<String> {
    if Kind::of(object) != Kind::Object {
        return None;
    }
    let mut found = Vec::new();
    Walk::new(object).each_member(|key, value| {
        if Kind::of(value) == Kind::Array {
            found.push(key);
        }
    });
    match found.as_slice() {
        [key] => crate::event::walk::decode(key.inside).ok().map(std::borrow::Cow::into_owned),
        _ => None,
    }
}
