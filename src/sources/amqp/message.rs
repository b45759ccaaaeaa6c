//! A delivery as a message: its properties, and headers of every type as JSON.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use lapin::message::Delivery;
use lapin::types::{AMQPValue, DecimalValue, FieldTable, ShortString};
use serde_json::{Map, Number, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::STREAM_OFFSET;
use crate::source::queue::Message;

/// What a queue counts, and adds to the headers on its way out. It differs between two deliveries of one message, which
/// have to be the same event.
const COUNTERS: &[&str] = &["x-delivery-count", "x-acquired-count"];

/// Whether it was delivered by a stream, which hands the same messages out for ever.
pub(super) fn is_of_a_stream(delivery: &Delivery) -> bool {
    let headers = delivery.properties.headers().as_ref();
    headers.is_some_and(|headers| headers.contains_key(STREAM_OFFSET))
}

/// What is delivered on. `redelivered` is left out: see [`COUNTERS`].
pub(super) fn message(delivery: Delivery) -> Message {
    let message_id = given(delivery.properties.message_id().as_ref());
    let metadata = metadata(&delivery);
    Message {
        reference: message_id.clone().unwrap_or_else(|| name_of(&metadata)),
        event_type: given(delivery.properties.kind().as_ref()),
        message_id,
        occurred_at: delivery.properties.timestamp().and_then(instant),
        routed_as: Arc::from(delivery.routing_key.as_str()),
        metadata,
        body: Bytes::from(delivery.data),
        ..Message::default()
    }
}

/// A message without an id is named by what came with its body, so that two that differ there are two dead letters.
fn name_of(metadata: &Map<String, Value>) -> String {
    let digest = Sha256::digest(Value::Object(metadata.clone()).to_string());
    let first = std::array::from_fn(|i| digest[i]);
    format!("{:016x}", u64::from_be_bytes(first))
}

/// An empty string is what clients send that have nothing to say.
fn given(text: Option<&ShortString>) -> Option<String> {
    text.map(ToString::to_string).filter(|text| !text.is_empty())
}

/// The properties that are no part of an event otherwise.
fn metadata(delivery: &Delivery) -> Map<String, Value> {
    let properties = &delivery.properties;
    let mut metadata = Map::new();
    metadata.insert("exchange".to_owned(), delivery.exchange.as_str().into());
    metadata.insert("routing_key".to_owned(), delivery.routing_key.as_str().into());
    let not_a_uuid = |id: &&ShortString| Uuid::try_parse(id.as_str()).is_err();
    for (name, property) in [
        ("content_type", properties.content_type().as_ref()),
        ("content_encoding", properties.content_encoding().as_ref()),
        ("correlation_id", properties.correlation_id().as_ref()),
        ("reply_to", properties.reply_to().as_ref()),
        ("expiration", properties.expiration().as_ref()),
        ("message_id", properties.message_id().as_ref().filter(not_a_uuid)),
        ("user_id", properties.user_id().as_ref()),
        ("app_id", properties.app_id().as_ref()),
        ("cluster_id", properties.cluster_id().as_ref()),
    ] {
        if let Some(value) = property {
            metadata.insert(name.to_owned(), value.as_str().into());
        }
    }
    for (name, number) in
        [("priority", *properties.priority()), ("delivery_mode", *properties.delivery_mode())]
    {
        if let Some(number) = number {
            metadata.insert(name.to_owned(), number.into());
        }
    }
    let mut headers = properties.headers().as_ref().map(object).unwrap_or_default();
    headers.retain(|name, _| !COUNTERS.contains(&name.as_str()));
    if !headers.is_empty() {
        metadata.insert("headers".to_owned(), headers.into());
    }
    metadata
}

fn object(table: &FieldTable) -> Map<String, Value> {
    let entries = table.inner().iter();
    entries.map(|(name, value)| (name.to_string(), json(value))).collect()
}

/// What JSON has no type for becomes text: bytes that are not UTF-8 as base64, times by RFC 3339, NaN by its name.
fn json(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(value) => (*value).into(),
        AMQPValue::ShortShortInt(value) => (*value).into(),
        AMQPValue::ShortShortUInt(value) => (*value).into(),
        AMQPValue::ShortInt(value) => (*value).into(),
        AMQPValue::ShortUInt(value) => (*value).into(),
        AMQPValue::LongInt(value) => (*value).into(),
        AMQPValue::LongUInt(value) => (*value).into(),
        AMQPValue::LongLongInt(value) => (*value).into(),
        // By its own digits: as a double, 0.1 would be 0.10000000149011612.
        AMQPValue::Float(value) => number(&value.to_string()),
        AMQPValue::Double(value) => number(&value.to_string()),
        AMQPValue::DecimalValue(value) => decimal(*value),
        AMQPValue::ShortString(value) => value.as_str().into(),
        AMQPValue::LongString(value) => match std::str::from_utf8(value.as_bytes()) {
            Ok(text) => text.into(),
            Err(_) => STANDARD.encode(value.as_bytes()).into(),
        },
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(json).collect(),
        AMQPValue::Timestamp(seconds) => match instant(*seconds) {
            Some(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true).into(),
            None => (*seconds).into(),
        },
        AMQPValue::FieldTable(table) => object(table).into(),
        AMQPValue::ByteArray(bytes) => STANDARD.encode(bytes.as_slice()).into(),
        AMQPValue::Void => Value::Null,
    }
}

fn number(text: &str) -> Value {
    let number = text.parse().ok().and_then(Number::from_f64);
    number.map_or_else(|| text.into(), Value::Number)
}

/// Ten digits at most, which a double keeps.
fn decimal(decimal: DecimalValue) -> Value {
    number(&format!("{}e-{}", decimal.value, decimal.scale))
}

/// A time by its seconds since 1970, unless it is out of all bounds.
fn instant(seconds: u64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, 0)
}
