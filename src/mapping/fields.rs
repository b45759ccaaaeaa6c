//! Reads the id, type and message id of an event from their JSON texts.

use uuid::Uuid;

use super::page_error::{FOUND_LENGTH_MAX, PageError, describe};
use super::pointer::Pointer;
use crate::event::excerpt::excerpt;
use crate::event::walk::{Kind, TextFault, decode, unquote};

/// Longest event type, in bytes: it is a name, and it must fit in index pages.
pub const MAX_EVENT_TYPE_BYTES: usize = 1_000;

/// Reads an id. It must be written as an integer: `"007"` and `1.0` are other values, and guessing
/// could make two events one.
pub(super) fn parse_id(raw: &str, pointer: &Pointer, index: usize) -> Result<i64, PageError> {
    let digits = raw.strip_prefix('-').unwrap_or(raw);
    let is_integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let pointer_text = || excerpt(pointer.as_str(), FOUND_LENGTH_MAX);
    if !is_integer {
        let found = describe(raw);
        return Err(PageError::IdNotInteger { index, pointer: pointer_text(), found });
    }
    raw.parse().map_err(|_| {
        let found = excerpt(raw, FOUND_LENGTH_MAX);
        PageError::IdOutOfRange { index, pointer: pointer_text(), found }
    })
}

/// Reads a type: a string, or a number or boolean as it is written. Null and the empty string are
/// no type.
pub(super) fn parse_event_type(raw: &str) -> Result<Option<String>, String> {
    let text = match Kind::of(raw) {
        Kind::Null => return Ok(None),
        Kind::Bool | Kind::Number => raw.into(),
        Kind::String => decode(unquote(raw)).map_err(|fault: TextFault| fault.to_string())?,
        Kind::Array | Kind::Object => {
            return Err(format!("is {}, expected a string", describe(raw)));
        }
    };
    if text.len() > MAX_EVENT_TYPE_BYTES {
        return Err(format!("is {} bytes long, at most {MAX_EVENT_TYPE_BYTES}", text.len()));
    }
    Ok(Some(text.into_owned()).filter(|text| !text.is_empty()))
}

/// Reads a message id: a string with a UUID in any usual form. Null is none.
pub(super) fn parse_message_id(raw: &str) -> Result<Option<Uuid>, String> {
    if Kind::of(raw) == Kind::Null {
        return Ok(None);
    }
    let uuid = match Kind::of(raw) {
        Kind::String => decode(unquote(raw)).ok().and_then(|text| Uuid::parse_str(&text).ok()),
        _ => None,
    };
    uuid.map(Some).ok_or_else(|| format!("is {}, expected a UUID", describe(raw)))
}
