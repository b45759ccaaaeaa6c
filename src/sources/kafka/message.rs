//! A message of Kafka as one of ours.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use rdkafka::message::{Header, Headers};
use serde_json::{Map, Value, json};

use crate::source::queue::Message;

/// The first byte of a value that was written with a schema registry; four bytes with the number of the schema follow.
const MAGIC: u8 = 0;

/// Reads what a partition delivered. `stream` is `topic/partition`.
pub(super) fn read(
    message: &impl rdkafka::Message,
    stream: &Arc<str>,
    topic: &Arc<str>,
) -> Message {
    let header = |name: &str| message.headers().and_then(|headers| last_text(headers, name));
    let payload = message.payload();
    let offset = message.offset();
    Message {
        stream: Some(Arc::clone(stream)),
        version: Some(offset),
        reference: format!("{stream}@{offset}"),
        body: payload.map_or(Bytes::from_static(b"null"), Bytes::copy_from_slice),
        fault: payload.and_then(fault),
        event_type: header("ce_type"),
        message_id: header("ce_id"),
        occurred_at: header("ce_time").and_then(|text| time(&text)),
        routed_as: Arc::clone(topic),
        metadata: metadata(message),
    }
}

fn fault(payload: &[u8]) -> Option<String> {
    let [MAGIC, schema @ ..] = payload else { return None };
    let schema = u32::from_be_bytes(*schema.first_chunk()?);
    Some(format!(
        "the value is not JSON: it was written with a schema registry (schema {schema}: Avro, Protobuf or JSON Schema); \
         have its producer write plain JSON, as with a JSON serializer or converter without schemas"
    ))
}

fn metadata(message: &impl rdkafka::Message) -> Map<String, Value> {
    let mut metadata = Map::new();
    if let Some(key) = message.key() {
        match text(key) {
            Some(text) => metadata.insert("key".to_owned(), text.into()),
            None => metadata.insert("key_base64".to_owned(), STANDARD.encode(key).into()),
        };
    }
    if let Some(headers) = message.headers() {
        metadata.insert("headers".to_owned(), Value::Object(all_headers(headers)));
    }
    metadata.insert("partition".to_owned(), message.partition().into());
    metadata.insert("offset".to_owned(), message.offset().into());
    if let Some(timestamp) =
        message.timestamp().to_millis().and_then(DateTime::from_timestamp_millis)
    {
        let text = timestamp.to_rfc3339_opts(SecondsFormat::Millis, true);
        metadata.insert("timestamp".to_owned(), text.into());
    }
    if message.payload().is_none() {
        metadata.insert("tombstone".to_owned(), true.into());
    }
    metadata
}

/// Every header under its name: a text, what is no text as `{"base64": "…"}`, null where there is no value. A name that
/// comes more than once has an array.
fn all_headers(headers: &impl Headers) -> Map<String, Value> {
    let mut all = Map::new();
    for Header { key, value } in headers.iter() {
        let value = match value {
            None => Value::Null,
            Some(bytes) => match text(bytes) {
                Some(text) => text.into(),
                None => json!({ "base64": STANDARD.encode(bytes) }),
            },
        };
        match all.get_mut(key) {
            None => {
                all.insert(key.to_owned(), value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    all
}

fn last_text(headers: &impl Headers, name: &str) -> Option<String> {
    let of_name = headers.iter().filter(|header| header.key == name);
    of_name.last().and_then(|header| text(header.value?)).map(str::to_owned)
}

/// Numbers that were serialized as keys are valid UTF-8 now and then; they have zeros in them, as no text has.
fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

#[cfg(test)]
mod tests {
    use rdkafka::Timestamp;
    use rdkafka::message::{OwnedHeaders, OwnedMessage};

    use super::*;

    fn message(
        payload: Option<&[u8]>,
        key: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Message {
        let mut owned = OwnedHeaders::new();
        for (key, value) in headers {
            owned = owned.insert(Header { key, value: *value });
        }
        let message = OwnedMessage::new(
            payload.map(<[u8]>::to_vec),
            key.map(<[u8]>::to_vec),
            "clicks".to_owned(),
            Timestamp::CreateTime(1_700_000_000_123),
            3,
            41,
            (!headers.is_empty()).then_some(owned),
        );
        read(&message, &Arc::from("clicks/3"), &Arc::from("clicks"))
    }

    #[test]
    fn a_message_is_named_by_its_partition_and_offset() {
        let message = message(Some(b"{}"), None, &[]);
        assert_eq!(message.stream.as_deref(), Some("clicks/3"));
        assert_eq!((message.version, message.reference.as_str()), (Some(41), "clicks/3@41"));
        assert_eq!(&*message.routed_as, "clicks");
        let metadata =
            json!({"partition": 3, "offset": 41, "timestamp": "2023-11-14T22:13:20.123Z"});
        assert_eq!(Value::Object(message.metadata), metadata);
        assert_eq!(
            (message.event_type, message.message_id, message.occurred_at),
            (None, None, None)
        );
    }

    #[test]
    fn headers_of_cloudevents_say_type_id_and_time() {
        let headers: &[(&str, Option<&[u8]>)] = &[
            ("ce_type", Some(b"paid")),
            ("ce_id", Some(b"7")),
            ("ce_time", Some(b"2026-01-02T03:04:05+01:00")),
        ];
        let message = message(Some(b"{}"), None, headers);
        assert_eq!(message.event_type.as_deref(), Some("paid"));
        assert_eq!(message.message_id.as_deref(), Some("7"));
        let time = message.occurred_at.map(|time| time.to_rfc3339());
        assert_eq!(time.as_deref(), Some("2026-01-02T02:04:05+00:00"));
    }

    #[test]
    fn keys_and_headers_are_kept_whatever_they_hold() {
        let headers: &[(&str, Option<&[u8]>)] = &[
            ("a", Some(b"1")),
            ("b", Some(b"\xff")),
            ("a", None),
            ("a", Some("ü".as_bytes())),
            ("c", Some(b"x\0")),
        ];
        let message = message(Some(b"{}"), Some(b"\0\0\0\x07"), headers);
        assert_eq!(message.metadata["key_base64"], "AAAABw==");
        let wanted =
            json!({"a": ["1", null, "ü"], "b": {"base64": "/w=="}, "c": {"base64": "eAA="}});
        assert_eq!(message.metadata["headers"], wanted);
    }

    #[test]
    fn a_tombstone_is_null_and_an_empty_value_is_empty() {
        let tombstone = message(None, Some(b"k"), &[]);
        assert_eq!(&*tombstone.body, b"null");
        assert_eq!(
            (&tombstone.metadata["tombstone"], &tombstone.metadata["key"]),
            (&json!(true), &json!("k"))
        );
        let empty = message(Some(b""), None, &[]);
        assert!(empty.body.is_empty() && empty.fault.is_none());
        assert!(!empty.metadata.contains_key("tombstone"));
    }

    #[test]
    fn the_frame_of_a_schema_registry_is_named() {
        let framed = message(Some(b"\0\0\0\0\x2ahello"), None, &[]);
        let fault = framed.fault.unwrap();
        assert!(fault.contains("schema registry (schema 42"), "{fault}");
        assert_eq!(&*framed.body, b"\0\0\0\0\x2ahello", "verbatim");
        assert_eq!(message(Some(b"\0\x01"), None, &[]).fault, None);
    }
}
