//! The AMQP 1.0 encoding of a message: its sections, and values of every type as JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::sources::amqp_value::{number, written};

/// Deepest nesting of lists and maps that is read.
const DEPTH_MAX: u32 = 64;
/// Most values in one list, map or array: those of no bytes would otherwise be without end.
const COUNT_MAX: u32 = 1 << 20;

/// The encoding is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is not in the encoding of AMQP 1.0: {0}")]
pub(super) struct Malformed(&'static str);

/// A message, in its sections.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sections {
    /// What the sections of data hold, one after the other; text of a section that is a value; else its JSON.
    pub(super) body: Bytes,
    /// By their places in the specification.
    pub(super) properties: Vec<Value>,
    pub(super) application_properties: Map<String, Value>,
    pub(super) annotations: Map<String, Value>,
}

impl Sections {
    /// Reads all sections; those that are of no use here are read over.
    pub(super) fn read(mut bytes: Bytes) -> Result<Self, Malformed> {
        let mut sections = Self::default();
        let mut data = Vec::new();
        let mut sequences = Vec::new();
        while !bytes.is_empty() {
            match descriptor(&mut bytes)? {
                0x75 => data.push(binary(&mut bytes)?),
                0x72 => sections.annotations = map(value(&mut bytes, 0)?)?,
                0x73 => sections.properties = list(value(&mut bytes, 0)?)?,
                0x74 => sections.application_properties = map(value(&mut bytes, 0)?)?,
                0x76 => sequences.extend(list(value(&mut bytes, 0)?)?),
                0x77 => data.push(whole_value(&mut bytes)?),
                0x70 | 0x71 | 0x78 => drop(value(&mut bytes, 0)?),
                _ => return Err(Malformed("it has a section that nothing is known of")),
            }
        }
        if !sequences.is_empty() {
            data.push(Value::Array(sequences).to_string().into());
        }
        sections.body = match data.len() {
            1 => data.swap_remove(0),
            _ => data.concat().into(),
        };
        Ok(sections)
    }
}

fn descriptor(bytes: &mut Bytes) -> Result<u64, Malformed> {
    if byte(bytes)? != 0x00 {
        return Err(Malformed("a section does not begin with its kind"));
    }
    match byte(bytes)? {
        0x53 => Ok(byte(bytes)?.into()),
        0x80 => fixed::<8>(bytes).map(u64::from_be_bytes),
        _ => Err(Malformed("the kind of a section is no number")),
    }
}

fn binary(bytes: &mut Bytes) -> Result<Bytes, Malformed> {
    match byte(bytes)? {
        0xa0 => short(bytes),
        0xb0 => long(bytes),
        _ => Err(Malformed("a section of data holds something else")),
    }
}

/// A body that is one value: text and bytes as they are, else JSON.
fn whole_value(bytes: &mut Bytes) -> Result<Bytes, Malformed> {
    match bytes.first() {
        Some(0xa0 | 0xb0) => binary(bytes),
        _ => match value(bytes, 0)? {
            Value::String(text) => Ok(text.into()),
            other => Ok(other.to_string().into()),
        },
    }
}

/// A value as JSON. What JSON has no type for becomes text: bytes as base64, times by RFC 3339, NaN by its name.
fn value(bytes: &mut Bytes, depth: u32) -> Result<Value, Malformed> {
    if depth > DEPTH_MAX {
        return Err(Malformed("its values are nested too deep"));
    }
    let code = byte(bytes)?;
    if code == 0x00 {
        value(bytes, depth + 1)?; // what the value is called
        return value(bytes, depth + 1);
    }
    coded(code, bytes, depth)
}

/// What follows the code of a type.
fn coded(code: u8, bytes: &mut Bytes, depth: u32) -> Result<Value, Malformed> {
    Ok(match code {
        0x40 => Value::Null,
        0x41 => true.into(),
        0x42 => false.into(),
        0x56 => (byte(bytes)? != 0).into(),
        0x43 | 0x44 => 0.into(),
        0x50 | 0x52 | 0x53 => byte(bytes)?.into(),
        0x51 | 0x54 | 0x55 => i8::from_be_bytes(fixed(bytes)?).into(),
        0x60 => u16::from_be_bytes(fixed(bytes)?).into(),
        0x61 => i16::from_be_bytes(fixed(bytes)?).into(),
        0x70 => u32::from_be_bytes(fixed(bytes)?).into(),
        0x71 => i32::from_be_bytes(fixed(bytes)?).into(),
        0x80 => u64::from_be_bytes(fixed(bytes)?).into(),
        0x81 => i64::from_be_bytes(fixed(bytes)?).into(),
        0x72 => number(&f32::from_be_bytes(fixed(bytes)?).to_string()),
        0x82 => number(&f64::from_be_bytes(fixed(bytes)?).to_string()),
        0x74 => STANDARD.encode(fixed::<4>(bytes)?).into(),
        0x84 => STANDARD.encode(fixed::<8>(bytes)?).into(),
        0x94 => STANDARD.encode(fixed::<16>(bytes)?).into(),
        0x73 => match char::from_u32(u32::from_be_bytes(fixed(bytes)?)) {
            Some(character) => character.to_string().into(),
            None => return Err(Malformed("a character is none")),
        },
        0x83 => instant(i64::from_be_bytes(fixed(bytes)?)),
        0x98 => Uuid::from_bytes(fixed(bytes)?).to_string().into(),
        0xa0 => STANDARD.encode(short(bytes)?).into(),
        0xb0 => STANDARD.encode(long(bytes)?).into(),
        0xa1 | 0xa3 => text(&short(bytes)?)?,
        0xb1 | 0xb3 => text(&long(bytes)?)?,
        0x45 => Value::Array(Vec::new()),
        0xc0 => values(short(bytes)?, 1, depth)?.into(),
        0xd0 => values(long(bytes)?, 4, depth)?.into(),
        0xc1 => object(values(short(bytes)?, 1, depth)?)?,
        0xd1 => object(values(long(bytes)?, 4, depth)?)?,
        0xe0 => array(short(bytes)?, 1, depth)?,
        0xf0 => array(long(bytes)?, 4, depth)?,
        _ => return Err(Malformed("a value is of a type that nothing is known of")),
    })
}

fn count(bytes: &mut Bytes, width: usize) -> Result<u32, Malformed> {
    let count = match width {
        1 => byte(bytes)?.into(),
        _ => u32::from_be_bytes(fixed(bytes)?),
    };
    if count > COUNT_MAX { Err(Malformed("a list is too long")) } else { Ok(count) }
}

/// The values of a list or a map, whose count has this width.
fn values(mut bytes: Bytes, width: usize, depth: u32) -> Result<Vec<Value>, Malformed> {
    let count = count(&mut bytes, width)?;
    (0..count).map(|_| value(&mut bytes, depth + 1)).collect()
}

fn array(mut bytes: Bytes, width: usize, depth: u32) -> Result<Value, Malformed> {
    let count = count(&mut bytes, width)?;
    let code = byte(&mut bytes)?;
    if depth >= DEPTH_MAX || code == 0x00 {
        return Err(Malformed("an array is of values that are not read here"));
    }
    (0..count).map(|_| coded(code, &mut bytes, depth + 1)).collect()
}

fn object(values: Vec<Value>) -> Result<Value, Malformed> {
    let mut object = Map::new();
    let mut values = values.into_iter();
    while let Some(key) = values.next() {
        let value = values.next().ok_or(Malformed("a map has a key without a value"))?;
        let key = if let Value::String(key) = key { key } else { key.to_string() };
        object.insert(key, value);
    }
    Ok(object.into())
}

fn map(value: Value) -> Result<Map<String, Value>, Malformed> {
    match value {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        _ => Err(Malformed("a section that has to be a map is none")),
    }
}

fn list(value: Value) -> Result<Vec<Value>, Malformed> {
    match value {
        Value::Array(list) => Ok(list),
        Value::Null => Ok(Vec::new()),
        _ => Err(Malformed("a section that has to be a list is none")),
    }
}

fn text(bytes: &Bytes) -> Result<Value, Malformed> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.into()),
        Err(_) => Err(Malformed("a text is not UTF-8")),
    }
}

fn instant(milliseconds: i64) -> Value {
    match DateTime::<Utc>::from_timestamp_millis(milliseconds) {
        Some(time) => written(time).into(),
        None => milliseconds.into(),
    }
}

fn byte(bytes: &mut Bytes) -> Result<u8, Malformed> {
    fixed::<1>(bytes).map(|[byte]| byte)
}

fn fixed<const N: usize>(bytes: &mut Bytes) -> Result<[u8; N], Malformed> {
    let fixed = *bytes.first_chunk().ok_or(Malformed("it is cut short"))?;
    bytes.advance(N);
    Ok(fixed)
}

fn short(bytes: &mut Bytes) -> Result<Bytes, Malformed> {
    let length = byte(bytes)?.into();
    take(bytes, length)
}

fn long(bytes: &mut Bytes) -> Result<Bytes, Malformed> {
    let length = u32::from_be_bytes(fixed(bytes)?);
    take(bytes, length as usize)
}

fn take(bytes: &mut Bytes, length: usize) -> Result<Bytes, Malformed> {
    if bytes.len() < length {
        return Err(Malformed("it is cut short"));
    }
    Ok(bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(parts: &[&[u8]]) -> Result<Sections, Malformed> {
        Sections::read(parts.concat().into())
    }

    #[test]
    fn several_sections_of_data_are_one_body() {
        let one = b"\0\x53\x75\xa0\x03abc";
        let other = b"\0\x80\0\0\0\0\0\0\0\x75\xb0\0\0\0\x02de";
        assert_eq!(read(&[one]).unwrap().body, "abc");
        assert_eq!(read(&[one, other]).unwrap().body, "abcde");
        assert_eq!(read(&[]).unwrap().body, "");
        assert_eq!(read(&[b"\0\x53\x77\xa1\x02{}"]).unwrap().body, "{}");
        assert_eq!(
            read(&[b"\0\x53\x77\xc1\x06\x02\xa1\x01a\x54\xff"]).unwrap().body,
            r#"{"a":-1}"#
        );
        assert_eq!(read(&[b"\0\x53\x76\xc0\x03\x02\x41\x40"]).unwrap().body, "[true,null]");
    }

    #[test]
    fn properties_and_headers_are_read() {
        let properties = b"\0\x53\x73\xc0\x0b\x04\x53\x07\x40\x40\xa1\x04type";
        let headers = b"\0\x53\x74\xc1\x0f\x04\xa1\x01a\x82\x3f\xf8\0\0\0\0\0\0\xa1\x01b\x40";
        let annotations = b"\0\x53\x72\xd1\0\0\0\x0a\0\0\0\x02\xa3\x01x\xa0\x01\xff";
        let sections = read(&[annotations, properties, headers]);
        // The length of the map of headers is too short.
        assert!(sections.is_err());
        let headers = b"\0\x53\x74\xc1\x11\x04\xa1\x01a\x82\x3f\xf8\0\0\0\0\0\0\xa1\x01b\x40";
        let sections = read(&[annotations, properties, headers]).unwrap();
        assert_eq!(sections.properties, [json!(7), json!(null), json!(null), json!("type")]);
        assert_eq!(json!(sections.application_properties), json!({"a": 1.5, "b": null}));
        assert_eq!(json!(sections.annotations), json!({"x": "/w=="}));
    }

    #[test]
    fn what_is_cut_short_or_endless_is_refused() {
        let good = b"\0\x53\x74\xc1\x11\x04\xa1\x01a\x82\x3f\xf8\0\0\0\0\0\0\xa1\x01b\x40";
        for length in 1..good.len() {
            assert!(read(&[&good[..length]]).is_err(), "{length}");
        }
        assert!(read(&[b"{}"]).is_err());
        assert!(read(&[b"\0\x53\x77", &[0xc0, 0xff, 1].repeat(100)]).is_err());
        assert!(read(&[b"\0\x53\x77\xf0\0\0\0\x05\xff\xff\xff\xff\x40"]).is_err());
        assert!(read(&[b"\0\x53\x77", &[0x00; 1000]]).is_err());
    }
}
