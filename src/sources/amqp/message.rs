//! A delivery as a message, and its properties as metadata.

use std::sync::Arc;

use bytes::Bytes;
use lapin::message::Delivery;
use lapin::types::ShortString;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::STREAM_OFFSET;
use crate::source::queue::Message;
use crate::sources::amqp_value::{given, instant, object};

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
    let headers = properties.headers().as_ref();
    let mut headers = headers.map(object).unwrap_or_default();
    headers.retain(|name, _| !COUNTERS.contains(&name.as_str()));
    if !headers.is_empty() {
        metadata.insert("headers".to_owned(), headers.into());
    }
    metadata
}
