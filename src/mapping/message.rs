//! Turns a message of a broker into an event: its properties first, then its body.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{ItemReader, MAX_EVENT_TYPE_BYTES, Mapping, Pointer, read_document};
use crate::event::excerpt::excerpt;
use crate::event::walk::Kind;
use crate::event::{Item, JsonText, Screen};
use crate::source::queue::Message;

/// Longest part of a message that a reason repeats, in characters.
const SHOWN_LENGTH_MAX: usize = 80;

/// Where the parts of an event stand in a message.
#[derive(Clone, Debug)]
pub struct MessageMapping {
    /// In the body; what is set by a user counts before the properties of the message.
    pub event_type: Place,
    /// In the body; what is set by a user counts before the properties of the message.
    pub message_id: Place,
    /// In the body, before the properties of the message. Default: none.
    pub occurred_at: Option<Pointer>,
    /// What is stored of the body.
    pub payload: Payload,
    /// What follows where there is no message id.
    pub missing_id: MissingId,
    /// Longest body, in bytes.
    pub max_event_bytes: usize,
}

/// Where in a body something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A user says so: it has to be right.
    Set(Pointer),
    /// Looked for there, where the properties say nothing; what does not fit is passed over.
    Usual(Pointer),
    /// Nowhere.
    None,
}

/// What is stored of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The body has to be an object. Its member `payload`, unless there is none or it is null, else the body: an object or
    /// an array.
    Unwrapped,
    /// What is there; `""`: the whole body, any JSON value.
    At(Pointer),
}

/// What follows where a message has no UUID to be deduplicated by.
#[derive(Clone, Debug)]
pub enum MissingId {
    /// The event has none.
    Allowed,
    /// The message becomes a dead letter.
    Refused,
    /// It is given one.
    From(Arc<dyn IdProvider>),
}

/// Gives a message without a UUID the id that it is deduplicated by.
///
/// The same message has to get the same id whenever it is delivered, and different messages different ones: who gets the
/// id of another is taken for its duplicate. An id from a clock, a counter or chance gives every redelivery a new one.
pub trait IdProvider: Send + Sync + std::fmt::Debug {
    /// The id; `None`: the message has nothing to make one of, and becomes a dead letter.
    fn message_id(&self, message: &Message) -> Option<Uuid>;
}

/// Ids by SHA-256 as version 8 UUIDs (RFC 9562): of the message's own id where it has one that is no UUID, else of its
/// body. Two messages without ids and with equal bodies are one.
#[derive(Clone, Copy, Debug, Default)]
pub struct HashedId;

impl IdProvider for HashedId {
    fn message_id(&self, message: &Message) -> Option<Uuid> {
        let mut hash = Sha256::new();
        if let Some(id) = &message.message_id {
            hash.update(["id ", id].concat());
        } else {
            hash.update("body ");
            hash.update(&message.body);
        }
        let digest = hash.finalize();
        let (first, _) = digest.split_at(16);
        Some(Uuid::new_v8(first.try_into().ok()?))
    }
}

/// A message that can be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Never empty.
    pub event_type: String,
    /// Passed the [`Screen`].
    pub payload: JsonText,
    /// What it is deduplicated by.
    pub message_id: Option<Uuid>,
    /// When it occurred.
    pub occurred_at: Option<DateTime<Utc>>,
    /// Headers, keys and properties; `None` where there are none.
    pub metadata: Option<JsonText>,
}

impl Default for MessageMapping {
    /// That of a source that sets nothing, of a broker whose messages have neither type nor id in the body.
    fn default() -> Self {
        Self {
            event_type: Place::None,
            message_id: Place::None,
            occurred_at: None,
            payload: Payload::Unwrapped,
            missing_id: MissingId::Allowed,
            max_event_bytes: 1 << 20,
        }
    }
}

impl MessageMapping {
    /// Judges one message.
    ///
    /// # Errors
    ///
    /// Why it becomes a dead letter: one line, free of control characters, with nothing of the payload but short excerpts.
    pub fn decode(&self, message: &Message) -> Result<Decoded, String> {
        if let Some(fault) = &message.fault {
            return Err(fault.clone());
        }
        let (length, length_max) = (message.body.len(), self.max_event_bytes);
        if length > length_max {
            return Err(format!(
                "the message is {length} bytes, over max_event_bytes = {length_max}"
            ));
        }
        let text = read_document(&message.body).map_err(|error| match length {
            0 => "the body is empty".to_owned(),
            _ => error.to_string(),
        })?;
        let payload = self.payload_pointer(text)?;
        let mapping = Mapping {
            event_type: self.event_type.pointer_unless(message.event_type.is_some()),
            message_id: self.message_id.set_pointer(),
            occurred_at: self.occurred_at.clone(),
            payload,
            max_event_bytes: usize::MAX,
            ..Mapping::default()
        };
        let mut reader = ItemReader::new(&mapping);
        let parts = reader.walk_value(&mut super::Walk::new(text));
        let event = match reader.judge(&message.body, None, &parts, 0) {
            Item::Good(event) => event,
            Item::Bad(bad) => return Err(bad.reason),
        };
        let event_type = match event.event_type {
            Some(event_type) => event_type,
            None => usable_type(message.event_type.as_deref().unwrap_or(&message.routed_as))?,
        };
        let message_id = match event.message_id {
            Some(id) => Some(id),
            None => self.message_id_of(message, text)?,
        };
        Ok(Decoded {
            event_type,
            payload: event.payload,
            message_id,
            occurred_at: event.occurred_at.or(message.occurred_at),
            metadata: metadata_text(&message.metadata)?,
        })
    }

    /// Where in a body that was refused the payload would be, for a replay; the whole, if that cannot be told.
    pub(crate) fn payload_at(&self, body: &bytes::Bytes) -> String {
        let pointer = read_document(body).ok().and_then(|text| self.payload_pointer(text).ok());
        pointer.map_or_else(String::new, |pointer| pointer.as_str().to_owned())
    }

    fn payload_pointer(&self, text: &str) -> Result<Pointer, String> {
        let pointer = match &self.payload {
            Payload::At(pointer) => return Ok(pointer.clone()),
            Payload::Unwrapped => Pointer::to_key("payload"),
        };
        if Kind::of(text) != Kind::Object {
            let found = super::page_error::describe(text);
            return Err(format!("the body is {found}, expected an object"));
        }
        match pointer.find(text).map(|member| (Kind::of(member), member)) {
            None | Some((Kind::Null, _)) => Ok(Pointer::whole()),
            Some((Kind::Object | Kind::Array, _)) => Ok(pointer),
            Some((_, member)) => {
                let found = super::page_error::describe(member);
                Err(format!("payload is {found}, expected an object or an array"))
            }
        }
    }

    /// The id by property, at its usual place in the body, or made.
    fn message_id_of(&self, message: &Message, text: &str) -> Result<Option<Uuid>, String> {
        let given = message.message_id.as_deref();
        let usual = self.message_id.usual_pointer().and_then(|pointer| pointer.find(text));
        let found = given
            .and_then(|id| Uuid::try_parse(id).ok())
            .or_else(|| usual.and_then(|raw| super::fields::parse_message_id(raw).ok().flatten()));
        if found.is_some() {
            return Ok(found);
        }
        match &self.missing_id {
            MissingId::Allowed => Ok(None),
            MissingId::From(provider) => match provider.message_id(message) {
                Some(id) => Ok(Some(id)),
                None => Err("no message id could be made for the message".to_owned()),
            },
            MissingId::Refused => Err(match given {
                Some(id) => {
                    let shown = excerpt(id, SHOWN_LENGTH_MAX);
                    format!("message_id is \"{shown}\", expected a UUID")
                }
                None => "message_id is required, and the message has none".to_owned(),
            }),
        }
    }
}

impl Place {
    /// Where to look: always where a user says so, else only where the properties say nothing.
    fn pointer_unless(&self, is_given: bool) -> Option<Pointer> {
        match self {
            Self::Set(pointer) => Some(pointer.clone()),
            Self::Usual(pointer) if !is_given => Some(pointer.clone()),
            Self::Usual(_) | Self::None => None,
        }
    }

    fn set_pointer(&self) -> Option<Pointer> {
        self.pointer_unless(true)
    }

    fn usual_pointer(&self) -> Option<&Pointer> {
        match self {
            Self::Usual(pointer) => Some(pointer),
            Self::Set(_) | Self::None => None,
        }
    }
}

fn usable_type(event_type: &str) -> Result<String, String> {
    if event_type.len() > MAX_EVENT_TYPE_BYTES {
        let length = event_type.len();
        return Err(format!("the type is {length} bytes long, at most {MAX_EVENT_TYPE_BYTES}"));
    }
    if event_type.contains('\0') {
        return Err("the type contains \\u0000, which PostgreSQL cannot hold".to_owned());
    }
    Ok(event_type.to_owned())
}

/// The metadata as JSON text, if there are any.
pub(crate) fn metadata_text(metadata: &Map<String, Value>) -> Result<Option<JsonText>, String> {
    if metadata.is_empty() {
        return Ok(None);
    }
    let text = serde_json::to_string(metadata).map_err(|error| error.to_string())?;
    Screen::default().check(&text, "metadata").map_err(|reason| reason.to_string())?;
    JsonText::parse(text).map(Some).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
