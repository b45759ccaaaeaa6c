//! An event as a source gave it: exact JSON text with what the loader must know of it.
//!
//! Invariant: nothing here goes through `f64` or [`serde_json::Value`] on its way in. The payload
//! is the very bytes of the body, so numbers, key order and white space are kept. What Postgres
//! could not hold unchanged is told by the [`Screen`] and becomes a [`BadEvent`].

use std::fmt;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

pub(crate) mod excerpt;
mod number;
mod screen;
mod trace;
pub(crate) mod walk;

pub(crate) use number::Decimal;
pub use number::NumberFault;
pub use screen::{
    MAX_ARRAY_ELEMENTS, MAX_DEPTH, MAX_JSONB_BYTES, MAX_OBJECT_MEMBERS, MAX_PRINTED_NUMBER_BYTES,
    Screen, Unstorable,
};
pub(crate) use trace::TraceNote;

/// An event that can be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The source's own id, which becomes the version in the source's stream.
    pub id: i64,
    /// `None`: the source name is used.
    pub event_type: Option<String>,
    /// Passed the [`Screen`].
    pub payload: JsonText,
    /// Microsecond precision, as Postgres keeps it.
    pub occurred_at: Option<DateTime<Utc>>,
    /// Given by the source for deduplication across ids.
    pub message_id: Option<Uuid>,
    /// What came beside the payload: headers, keys, properties. A JSON object that passed the [`Screen`].
    pub metadata: Option<JsonText>,
}

impl Event {
    /// An event with nothing but an id and a payload.
    pub fn new(id: i64, payload: JsonText) -> Self {
        Self { id, event_type: None, payload, occurred_at: None, message_id: None, metadata: None }
    }
}

/// One event that cannot be stored. Its id is known, so its neighbours and the cursor go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadEvent {
    /// `None` only for a line of a file that is not JSON.
    pub id: Option<i64>,
    /// The id as text, or empty where there is none; whoever knows a better name (file and
    /// offset) replaces it.
    pub reference: String,
    /// The whole item, verbatim. Given to [`Mapping::item`](crate::mapping::Mapping::item) again,
    /// it is judged again.
    pub body: Bytes,
    /// Readable alone; shortened, and free of control characters.
    pub reason: String,
    /// Where the payload stands in `body`: a JSON pointer.
    pub payload_at: String,
    /// As in [`Event`], where it could be read.
    pub event_type: Option<String>,
    /// As in [`Event`], where it could be read.
    pub occurred_at: Option<DateTime<Utc>>,
    /// As in [`Event`], where it could be read.
    pub message_id: Option<Uuid>,
    /// As in [`Event`], where it can be stored.
    pub metadata: Option<JsonText>,
}

/// What an item of a page turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Goes to the inbox.
    Good(Event),
    /// Goes to the dead letters.
    Bad(BadEvent),
}

impl Item {
    /// The event's id; `None` only for a line of a file that is not JSON.
    pub fn id(&self) -> Option<i64> {
        match self {
            Self::Good(event) => Some(event.id),
            Self::Bad(event) => event.id,
        }
    }
}

/// Valid UTF-8 JSON text, one value without white space around it.
///
/// Usually a slice of a page's body, which stays in memory as long as any slice of it does.
/// Two texts are equal when their bytes are; `1.0` and `1.00` are not. `Debug` shows the length
/// only, because payloads do not belong in logs.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct JsonText(Bytes);

/// The text is not JSON.
#[derive(Debug, thiserror::Error)]
pub enum JsonTextError {
    /// Some byte is not UTF-8.
    #[error("the text is not UTF-8")]
    NotUtf8(#[source] std::str::Utf8Error),
    /// The syntax is wrong.
    #[error("the text is not JSON")]
    NotJson(#[source] serde_json::Error),
}

impl JsonText {
    /// Checks `text` and keeps it without copying; white space around the value and a byte order
    /// mark before it are left out. Only syntax is checked: see [`JsonText::screen`].
    ///
    /// # Errors
    /// When `text` is not UTF-8 or not exactly one JSON value.
    pub fn parse(text: impl Into<Bytes>) -> Result<Self, JsonTextError> {
        let bytes = text.into();
        let text = std::str::from_utf8(&bytes).map_err(JsonTextError::NotUtf8)?;
        let value = valid_json(text).map_err(JsonTextError::NotJson)?;
        Ok(Self::slice_of(&bytes, value))
    }

    /// Writes `value` as text.
    pub fn from_value(value: &serde_json::Value) -> Self {
        Self(Bytes::from(value.to_string()))
    }

    /// Takes `value`, which must be valid JSON and a part of `body`, without copying.
    pub(crate) fn slice_of(body: &Bytes, value: &str) -> Self {
        Self(body.slice_ref(value.as_bytes()))
    }

    /// The text. Checks UTF-8 again, which costs about as much as reading the text once.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a JsonText is made from checked UTF-8 only")
    }

    /// The bytes of the text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes of the text, without copying.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Tells whether `jsonb` holds this text unchanged. Many texts in a row are cheaper with one
    /// [`Screen`].
    ///
    /// # Errors
    /// The first reason why not.
    pub fn screen(&self) -> Result<(), Unstorable> {
        Screen::default().check(self.as_str(), "payload")
    }
}

impl fmt::Debug for JsonText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JsonText({} bytes)", self.0.len())
    }
}

impl fmt::Display for JsonText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for JsonText {
    /// Writes the text as it is, when the serializer is `serde_json`'s.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&RawValue>(self.as_str())
            .map_err(S::Error::custom)?
            .serialize(serializer)
    }
}

/// Checks that `text` is one JSON value, however deep, and returns the value without what is
/// around it. RFC 8259 lets a parser ignore a byte order mark; some servers send one.
pub(crate) fn valid_json(text: &str) -> Result<&str, serde_json::Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // As a RawValue the text is checked in a loop and not decoded: no recursion limit, no change
    // to numbers, no complaint about surrogates.
    serde_json::from_str::<&RawValue>(text).map(RawValue::get)
}

#[cfg(test)]
mod tests;
