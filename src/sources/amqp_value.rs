//! Values of AMQP as JSON. What JSON has no type for becomes text: bytes that are not UTF-8 as base64, NaN by its name.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, Utc};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::{Map, Number, Value};

/// The headers of AMQP 0-9-1.
pub(super) fn object(table: &FieldTable) -> Map<String, Value> {
    let entries = table.inner().iter();
    entries.map(|(name, value)| (name.to_string(), json(value))).collect()
}

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
        AMQPValue::Float(value) => number(&value.to_string()),
        AMQPValue::Double(value) => number(&value.to_string()),
        // Ten digits at most, which a double keeps.
        AMQPValue::DecimalValue(value) => number(&format!("{}e-{}", value.value, value.scale)),
        AMQPValue::ShortString(value) => value.as_str().into(),
        AMQPValue::LongString(value) => match std::str::from_utf8(value.as_bytes()) {
            Ok(text) => text.into(),
            Err(_) => STANDARD.encode(value.as_bytes()).into(),
        },
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(json).collect(),
        AMQPValue::Timestamp(seconds) => {
            instant(*seconds).map_or_else(|| (*seconds).into(), |time| written(time).into())
        }
        AMQPValue::FieldTable(table) => object(table).into(),
        AMQPValue::ByteArray(bytes) => STANDARD.encode(bytes.as_slice()).into(),
        AMQPValue::Void => Value::Null,
    }
}

/// A number by its own digits: as a double, 0.1 of a float would be 0.10000000149011612.
pub(super) fn number(text: &str) -> Value {
    let number = text.parse().ok().and_then(Number::from_f64);
    number.map_or_else(|| text.into(), Value::Number)
}

/// A time by its seconds since 1970, unless it is out of all bounds.
pub(super) fn instant(seconds: u64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, 0)
}

/// A time as all metadata have it: RFC 3339, in UTC, with no more digits than it needs.
pub(super) fn written(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// An empty string is what clients send that have nothing to say.
pub(super) fn given(text: Option<&ShortString>) -> Option<String> {
    text.map(ToString::to_string).filter(|text| !text.is_empty())
}
