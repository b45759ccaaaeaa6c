//! A message of a stream, as either protocol brings it.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use lapin::message::Delivery;
use lapin::types::AMQPValue;
use serde_json::{Map, Value};

use super::amqp10::Sections;
use super::chunk::Entry;
use crate::source::queue::Message;
use crate::sources::amqp_value::{given, instant, object};

/// The header and the annotation in which the broker tells the offset. Which it is, is the version of the event.
pub(super) const OFFSET: &str = "x-stream-offset";
/// Where the broker keeps the type property of AMQP 0-9-1.
const BASIC_TYPE: &str = "x-basic-type";
/// The type that AMQP 0-9-1 gives a body that is not plain bytes: the body is then in the encoding of AMQP 1.0.
const ENCODED: &str = "amqp-1.0";
/// The properties by their places (AMQP 1.0, part 3, section 3.2.4). The others are parts of the event.
const PROPERTIES: &[(usize, &str)] = &[
    (1, "user_id"),
    (2, "to"),
    (4, "reply_to"),
    (5, "correlation_id"),
    (6, "content_type"),
    (7, "content_encoding"),
    (8, "absolute_expiry_time"),
    (10, "group_id"),
    (11, "group_sequence"),
    (12, "reply_to_group_id"),
];

/// What stands at an offset of the stream protocol.
pub(super) fn of_entry(entry: Entry, routed_as: &Arc<str>) -> Message {
    let message = Message { routed_as: Arc::clone(routed_as), ..Message::default() };
    let body = match entry {
        Entry::Unreadable { batch, reason } => {
            return Message { body: batch, fault: Some(reason), ..message };
        }
        Entry::Message(body) => body,
    };
    match Sections::read(body.clone()) {
        Ok(sections) => of_sections(sections, message),
        Err(malformed) => Message { body, fault: Some(malformed.to_string()), ..message },
    }
}

fn of_sections(mut sections: Sections, message: Message) -> Message {
    let mut property = |nth: usize| sections.properties.get_mut(nth).map(Value::take);
    let text = |value: Option<Value>| match value {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text).filter(|text| !text.is_empty()),
        Some(other) => Some(other.to_string()),
    };
    let mut metadata = Map::new();
    for (nth, name) in PROPERTIES {
        if let Some(value) = property(*nth).filter(|value| !value.is_null()) {
            metadata.insert((*name).to_owned(), value);
        }
    }
    let occurred_at = text(property(9)).and_then(|time| DateTime::parse_from_rfc3339(&time).ok());
    let message_id = text(property(0));
    let subject = text(property(3));
    let event_type = subject.or_else(|| text(sections.annotations.get(BASIC_TYPE).cloned()));
    keep_id(&mut metadata, message_id.as_deref());
    for (name, values) in
        [("headers", sections.application_properties), ("annotations", sections.annotations)]
    {
        if !values.is_empty() {
            metadata.insert(name.to_owned(), values.into());
        }
    }
    Message {
        body: sections.body,
        event_type,
        message_id,
        occurred_at: occurred_at.map(|time| time.with_timezone(&Utc)),
        metadata,
        ..message
    }
}

/// An id that is no UUID is no id here, and kept beside.
fn keep_id(metadata: &mut Map<String, Value>, id: Option<&str>) {
    if let Some(id) = id.filter(|id| uuid::Uuid::try_parse(id).is_err()) {
        metadata.insert("message_id".to_owned(), id.into());
    }
}

/// The offset of a delivery of AMQP 0-9-1; `None`: what delivers is no stream.
pub(super) fn offset(delivery: &Delivery) -> Option<i64> {
    match delivery.properties.headers().as_ref()?.inner().get(OFFSET)? {
        AMQPValue::LongLongInt(offset) => Some(*offset),
        _ => None,
    }
}

/// What AMQP 0-9-1 delivers.
pub(super) fn of_delivery(delivery: Delivery, routed_as: &Arc<str>) -> Message {
    let properties = &delivery.properties;
    let mut metadata = Map::new();
    for (name, text) in [
        ("exchange", Some(delivery.exchange.to_string()).filter(|text| !text.is_empty())),
        ("routing_key", Some(delivery.routing_key.to_string()).filter(|text| !text.is_empty())),
        ("content_type", given(properties.content_type().as_ref())),
        ("content_encoding", given(properties.content_encoding().as_ref())),
        ("correlation_id", given(properties.correlation_id().as_ref())),
        ("reply_to", given(properties.reply_to().as_ref())),
        ("expiration", given(properties.expiration().as_ref())),
        ("user_id", given(properties.user_id().as_ref())),
        ("app_id", given(properties.app_id().as_ref())),
    ] {
        if let Some(text) = text {
            metadata.insert(name.to_owned(), text.into());
        }
    }
    let headers = properties.headers().as_ref();
    let mut headers = headers.map(object).unwrap_or_default();
    headers.remove(OFFSET);
    if !headers.is_empty() {
        metadata.insert("headers".to_owned(), headers.into());
    }
    let message_id = given(properties.message_id().as_ref());
    keep_id(&mut metadata, message_id.as_deref());
    let event_type = given(properties.kind().as_ref());
    let is_encoded = event_type.as_deref() == Some(ENCODED);
    let message = Message {
        body: Bytes::from(delivery.data),
        event_type: event_type.filter(|_| !is_encoded),
        message_id,
        occurred_at: properties.timestamp().and_then(instant),
        routed_as: Arc::clone(routed_as),
        metadata,
        ..Message::default()
    };
    if !is_encoded {
        return message;
    }
    match Sections::read(message.body.clone()) {
        Ok(sections) => Message { body: sections.body, ..message },
        Err(malformed) => Message { fault: Some(malformed.to_string()), ..message },
    }
}
