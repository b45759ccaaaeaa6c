//! The entries of a stream: their ids, and the messages they are.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use crate::source::queue::Message;

/// Bits of a version that hold the sequence number.
const SEQUENCE_BITS: u32 = 21;
/// Bits that hold the milliseconds; together they are the 63 of a positive `bigint`.
const MILLISECOND_BITS: u32 = 42;

/// The field that names the event.
const TYPE_FIELD: &str = "type";
/// The field that holds the message id.
const MESSAGE_ID_FIELD: &str = "message_id";

/// The id of an entry: milliseconds and sequence number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EntryId {
    pub(super) ms: u64,
    pub(super) seq: u64,
}

impl EntryId {
    pub(super) const ZERO: Self = Self { ms: 0, seq: 0 };

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (ms, seq) = text.split_once('-')?;
        Some(Self { ms: ms.parse().ok()?, seq: seq.parse().ok()? })
    }

    /// Milliseconds and sequence number in one number, which grows with the id; `None`: it has no room for them.
    pub(super) fn version(self) -> Option<i64> {
        let fits = self.ms < 1 << MILLISECOND_BITS && self.seq < 1 << SEQUENCE_BITS;
        let version = fits.then_some(self.ms << SEQUENCE_BITS | self.seq)?;
        i64::try_from(version).ok()
    }

    /// The nearest version that is not above the id's place.
    pub(super) fn version_floor(self) -> i64 {
        let seq = self.seq.min((1 << SEQUENCE_BITS) - 1);
        Self { ms: self.ms, seq }.version().unwrap_or(i64::MAX)
    }

    /// The smallest id above this one.
    pub(super) fn next(self) -> Self {
        match self.seq.checked_add(1) {
            Some(seq) => Self { ms: self.ms, seq },
            None => Self { ms: self.ms.saturating_add(1), seq: 0 },
        }
    }

    /// The largest id below this one.
    pub(super) fn previous(self) -> Self {
        match self.seq.checked_sub(1) {
            Some(seq) => Self { ms: self.ms, seq },
            None => Self { ms: self.ms.saturating_sub(1), seq: u64::MAX },
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// An entry as Redis gave it: its fields in their order, as often as they are there.
pub(super) struct Entry {
    pub(super) id: EntryId,
    pub(super) fields: Vec<(Bytes, Bytes)>,
}

impl Entry {
    /// The message that the entry is.
    ///
    /// `type` and `message_id` are taken as the type and id of the event. What is beside them is the body: where it is one
    /// field that holds a JSON object or array, that JSON, byte by byte; else an object of all fields, whose values are
    /// strings. One field that begins like an object and is none is given as it is: it was meant as JSON, and becomes a
    /// dead letter.
    pub(super) fn into_message(self, stream: &Arc<str>) -> Message {
        let mut metadata = Map::new();
        metadata.insert("entry_id".to_owned(), Value::String(self.id.to_string()));
        metadata.insert("stream".to_owned(), Value::String(stream.as_ref().to_owned()));
        let message = Message {
            version: self.id.version(),
            reference: self.id.to_string(),
            routed_as: Arc::clone(stream),
            metadata,
            ..Message::default()
        };
        let Some(texts) = self.texts() else {
            let fault = Some("a field of the entry is not UTF-8".to_owned());
            return Message { body: self.encoded(), fault, ..message };
        };
        let fault = message.version.is_none().then(|| {
            format!(
                "the entry id {} does not fit into a version: at most 2^{MILLISECOND_BITS}-1 ms and sequence 2^{SEQUENCE_BITS}-1",
                self.id
            )
        });
        let body = match self.sole_json(&texts) {
            Some(json) => json,
            None => object_of(&texts),
        };
        let event_type = sole(&texts, TYPE_FIELD).filter(|text| !text.is_empty());
        let message_id = sole(&texts, MESSAGE_ID_FIELD);
        Message {
            body,
            fault,
            event_type: event_type.map(str::to_owned),
            message_id: message_id.map(str::to_owned),
            ..message
        }
    }

    fn texts(&self) -> Option<Vec<(&str, &str)>> {
        let text = |bytes| std::str::from_utf8(bytes).ok();
        self.fields.iter().map(|(name, value)| Some((text(name)?, text(value)?))).collect()
    }

    /// The value of the one field that is no part of the envelope, if it is, or was meant to be, a JSON object or array.
    fn sole_json(&self, texts: &[(&str, &str)]) -> Option<Bytes> {
        let is_envelope = |name: &str| name == TYPE_FIELD || name == MESSAGE_ID_FIELD;
        let mut rest = texts.iter().enumerate().filter(|(_, (name, _))| !is_envelope(name));
        let (Some((place, (_, value))), None) = (rest.next(), rest.next()) else { return None };
        let is_meant = match value.trim_ascii_start().as_bytes().first()? {
            b'{' => true,
            // Many a line of a log begins with a bracket.
            b'[' => serde_json::from_str::<IgnoredAny>(value).is_ok(),
            _ => false,
        };
        is_meant.then(|| self.fields.get(place).map(|(_, value)| value.clone()))?
    }

    /// All fields as JSON, what is not UTF-8 as `{"base64": …}`; in pairs, because names may be among it.
    fn encoded(&self) -> Bytes {
        let encode = |bytes: &Bytes| match std::str::from_utf8(bytes) {
            Ok(text) => Value::String(text.to_owned()),
            Err(_) => json!({ "base64": BASE64.encode(bytes) }),
        };
        let pairs = self.fields.iter().map(|(name, value)| json!([encode(name), encode(value)]));
        json!({ "fields": pairs.collect::<Vec<_>>() }).to_string().into()
    }
}

/// The value of the field that is there once.
fn sole<'a>(texts: &[(&str, &'a str)], name: &str) -> Option<&'a str> {
    let mut found = texts.iter().filter(|(found, _)| *found == name).map(|(_, value)| *value);
    found.next().filter(|_| found.next().is_none())
}

/// The fields as an object, in the order of their first appearance. A name that is there twice has an array of its values.
fn object_of(texts: &[(&str, &str)]) -> Bytes {
    let mut members: Vec<(&str, Cow<'_, [&str]>)> = Vec::with_capacity(texts.len());
    let mut places = std::collections::HashMap::with_capacity(texts.len());
    for (name, value) in texts {
        match places.get(name) {
            None => {
                places.insert(*name, members.len());
                members.push((name, Cow::Owned(vec![*value])));
            }
            Some(place) => {
                if let Some((_, values)) = members.get_mut(*place) {
                    values.to_mut().push(value);
                }
            }
        }
    }
    let mut text = String::from("{");
    for (name, values) in &members {
        if text.len() > 1 {
            text.push(',');
        }
        let value = match values.as_ref() {
            [value] => json!(value),
            values => json!(values),
        };
        text.push_str(&json!(name).to_string());
        text.push(':');
        text.push_str(&value.to_string());
    }
    text.push('}');
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fields: &[(&[u8], &[u8])]) -> Message {
        let copied = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        let fields = fields.iter().map(|(name, value)| (copied(name), copied(value))).collect();
        Entry { id: EntryId { ms: 5, seq: 3 }, fields }.into_message(&"orders".into())
    }

    #[test]
    fn an_id_is_one_number_as_long_as_it_fits() {
        let version = |ms, seq| EntryId { ms, seq }.version();
        assert_eq!(version(0, 1), Some(1));
        assert_eq!(version(1, 0), Some(1 << 21));
        assert_eq!(version((1 << 42) - 1, (1 << 21) - 1), Some(i64::MAX));
        assert_eq!(version(1 << 42, 0), None);
        assert_eq!(version(0, 1 << 21), None);
        assert_eq!(version(u64::MAX, u64::MAX), None);
        assert_eq!(EntryId { ms: 1, seq: u64::MAX }.version_floor(), (2 << 21) - 1);
        assert_eq!(EntryId { ms: u64::MAX, seq: 1 }.version_floor(), i64::MAX);
        assert_eq!(EntryId { ms: 1, seq: u64::MAX }.next(), EntryId { ms: 2, seq: 0 });
        assert_eq!(EntryId { ms: 2, seq: 0 }.previous(), EntryId { ms: 1, seq: u64::MAX });
        assert_eq!(EntryId::parse("5-3"), Some(EntryId { ms: 5, seq: 3 }));
        assert_eq!(EntryId::parse("5"), None);
    }

    #[test]
    fn an_entry_is_its_json_or_an_object_of_its_fields() {
        type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str);
        let cases: &[Case] = &[
            ("one object", &[("message", "{ \"a\" : 1.0 }")], "{ \"a\" : 1.0 }"),
            ("one array", &[("data", "[1]")], "[1]"),
            ("a type beside it", &[("type", "a.b"), ("data", "{\"a\":1}")], "{\"a\":1}"),
            ("an id beside it", &[("data", "{}"), ("message_id", "x"), ("type", "t")], "{}"),
            ("meant as an object", &[("message", "{\"a\":")], "{\"a\":"),
            ("a line of a log", &[("line", "[info] up")], "{\"line\":\"[info] up\"}"),
            ("one number", &[("degrees", "5")], "{\"degrees\":\"5\"}"),
            ("nothing in it", &[("message", "")], "{\"message\":\"\"}"),
            (
                "two fields",
                &[("b", "{}"), ("a", "\u{1}\"")],
                "{\"b\":\"{}\",\"a\":\"\\u0001\\\"\"}",
            ),
            ("a type alone", &[("type", "ping")], "{\"type\":\"ping\"}"),
            (
                "a name twice",
                &[("a", "1"), ("b", "2"), ("a", "3")],
                "{\"a\":[\"1\",\"3\"],\"b\":\"2\"}",
            ),
            ("an empty name", &[("", "1"), ("b", "2")], "{\"\":\"1\",\"b\":\"2\"}"),
        ];
        for (name, fields, body) in cases {
            let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
            let message = message(&fields);
            assert_eq!(std::str::from_utf8(&message.body), Ok(*body), "{name}");
            assert_eq!(message.fault, None, "{name}");
        }
    }

    #[test]
    fn a_type_and_an_id_are_taken_from_their_fields() {
        let found = message(&[(b"type", b"order.paid"), (b"message_id", b"7"), (b"data", b"{}")]);
        assert_eq!(found.event_type.as_deref(), Some("order.paid"));
        assert_eq!(found.message_id.as_deref(), Some("7"));
        assert_eq!(found.routed_as.as_ref(), "orders");
        assert_eq!(found.reference, "5-3");
        assert_eq!(found.version, Some(5 << 21 | 3));
        assert_eq!(Value::Object(found.metadata), json!({"entry_id": "5-3", "stream": "orders"}));
        assert_eq!(message(&[(b"type", b""), (b"a", b"b")]).event_type, None);
        assert_eq!(message(&[(b"type", b"a"), (b"type", b"b")]).event_type, None);
    }

    #[test]
    fn what_is_not_utf8_is_kept_whole_beside_its_fault() {
        let found = message(&[(b"type", b"t"), (b"\xff", b"a"), (b"b", b"\x00\xfe")]);
        let body: Value = serde_json::from_slice(&found.body).unwrap();
        let fields = json!([["type", "t"], [{"base64": "/w=="}, "a"], ["b", {"base64": "AP4="}]]);
        assert_eq!(body, json!({ "fields": fields }));
        assert_eq!(found.fault.as_deref(), Some("a field of the entry is not UTF-8"));
    }

    #[test]
    fn an_id_that_does_not_fit_is_a_fault_and_keeps_the_body() {
        let fields = vec![(Bytes::from_static(b"message"), Bytes::from_static(b"{}"))];
        let id = EntryId { ms: 1 << 42, seq: 0 };
        let found = Entry { id, fields }.into_message(&"s".into());
        assert_eq!((found.version, found.body.as_ref()), (None, b"{}".as_slice()));
        assert!(found.fault.unwrap().contains("4398046511104-0"));
    }
}
