//! The messages of a Singer tap (spec 0.3), one JSON object a line.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::excerpt::excerpt;
use crate::event::{Item, valid_json};
use crate::mapping::{MAX_EVENT_TYPE_BYTES, Mapping, parse_time};

/// A message that says something about what is loaded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// `RECORD`.
    Record(Record),
    /// `STATE`: where the tap can go on after the records so far. The text of its `value`.
    State(String),
    /// `SCHEMA`, `ACTIVATE_VERSION`, or an empty line.
    Other,
}

/// One record of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The stream, which is the event's type.
    pub(super) stream: String,
    /// The text of the record.
    pub(super) text: Bytes,
    /// When the tap read it.
    pub(super) extracted_at: Option<DateTime<Utc>>,
}

/// A line as it stands; members that do not matter are passed over.
#[derive(Deserialize)]
struct Line<'l> {
    #[serde(rename = "type")]
    kind: String,
    stream: Option<String>,
    #[serde(borrow)]
    record: Option<&'l RawValue>,
    #[serde(borrow)]
    value: Option<&'l RawValue>,
    #[serde(borrow)]
    time_extracted: Option<&'l RawValue>,
}

impl Message {
    /// Reads one line without its newline.
    ///
    /// # Errors
    /// What is wrong with it, readable alone.
    pub(super) fn parse(line: &Bytes) -> Result<Self, String> {
        let text = std::str::from_utf8(line).map_err(|_| "is not UTF-8".to_owned())?;
        if text.trim().is_empty() {
            return Ok(Self::Other);
        }
        let text = valid_json(text).map_err(|error| {
            format!("is not JSON ({error}); a tap's messages go to standard output and its log to standard error")
        })?;
        let message: Line<'_> = serde_json::from_str(text)
            .map_err(|error| format!("is no Singer message ({error})"))?;
        match message.kind.as_str() {
            "RECORD" => message.record(line),
            "STATE" => match message.value {
                Some(value) => Ok(Self::State(value.get().to_owned())),
                // A value of null.
                None if text.contains("\"value\"") => Ok(Self::State("null".to_owned())),
                None => Err("is a STATE without a value".to_owned()),
            },
            "SCHEMA" | "ACTIVATE_VERSION" => Ok(Self::Other),
            "BATCH" => Err(
                "is a BATCH, whose records are in files beside the output: that is not supported; \
                            take batch_config out of the tap's configuration"
                    .to_owned(),
            ),
            other => Err(format!(
                "has the type {:?}, which Singer 0.3 does not know",
                excerpt(other, 40)
            )),
        }
    }
}

impl Line<'_> {
    fn record(self, line: &Bytes) -> Result<Message, String> {
        let Some(stream) = self.stream.filter(|stream| !stream.is_empty()) else {
            return Err("is a RECORD without a stream".to_owned());
        };
        if stream.len() > MAX_EVENT_TYPE_BYTES {
            return Err(format!("names a stream of more than {MAX_EVENT_TYPE_BYTES} bytes"));
        }
        let Some(record) = self.record.filter(|record| record.get().starts_with('{')) else {
            return Err("is a RECORD without a record, which has to be an object".to_owned());
        };
        let text = line.slice_ref(record.get().as_bytes());
        let extracted_at = self.time_extracted.and_then(|time| parse_time(time.get()));
        Ok(Message::Record(Record { stream, text, extracted_at }))
    }
}

impl Record {
    /// The record as an event; what the pointers find in it wins over what is beside it.
    pub(super) fn item(self, mapping: &Mapping, id: i64) -> Item {
        let (stream, extracted_at) = (self.stream, self.extracted_at);
        match mapping.item_with_id(&self.text, id) {
            Item::Good(mut event) => {
                event.event_type.get_or_insert(stream);
                event.occurred_at = event.occurred_at.or(extracted_at);
                Item::Good(event)
            }
            Item::Bad(mut event) => {
                event.event_type.get_or_insert(stream);
                event.occurred_at = event.occurred_at.or(extracted_at);
                Item::Bad(event)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Message, String> {
        Message::parse(&Bytes::copy_from_slice(line.as_bytes()))
    }

    #[test]
    fn messages_of_a_tap_are_read_exactly() {
        let record = |stream: &str, text: &'static str, time: Option<&str>| {
            Ok(Message::Record(Record {
                stream: stream.to_owned(),
                text: Bytes::from_static(text.as_bytes()),
                extracted_at: time.map(|time| time.parse().unwrap()),
            }))
        };
        let state = |text: &str| Ok(Message::State(text.to_owned()));
        for (line, want) in [
            (
                r#"{"type":"RECORD","stream":"a","record":{"n":1.10}}"#,
                record("a", r#"{"n":1.10}"#, None),
            ),
            (
                r#"{"record": { "x":[] } ,"time_extracted":"2020-01-02T03:04:05.5Z","version":7,"type":"RECORD","stream":"\u0061"}"#,
                record("a", r#"{ "x":[] }"#, Some("2020-01-02T03:04:05.5Z")),
            ),
            (
                r#"{"type":"RECORD","stream":"a","record":{},"time_extracted":"soon"}"#,
                record("a", "{}", None),
            ),
            (r#"{"type":"STATE","value":{"n": 1e400}}"#, state(r#"{"n": 1e400}"#)),
            (r#"{"type":"STATE","value":null}"#, state("null")),
            (
                r#"{"type":"SCHEMA","stream":"a","schema":{},"key_properties":["id"]}"#,
                Ok(Message::Other),
            ),
            (r#"{"type":"ACTIVATE_VERSION","stream":"a","version":1}"#, Ok(Message::Other)),
            ("  ", Ok(Message::Other)),
        ] {
            assert_eq!(parse(line), want, "{line}");
        }
    }

    #[test]
    fn what_is_no_message_is_told() {
        for (line, want) in [
            ("INFO starting", "is not JSON"),
            ("[1]", "no Singer message"),
            ("{}", "missing field `type`"),
            (r#"{"type":"RECORD","record":{}}"#, "without a stream"),
            (r#"{"type":"RECORD","stream":"a","record":[]}"#, "has to be an object"),
            (r#"{"type":"RECORD","stream":"a"}"#, "has to be an object"),
            (r#"{"type":"STATE"}"#, "without a value"),
            (r#"{"type":"BATCH","stream":"a","manifest":[]}"#, "batch_config"),
            (r#"{"type":"RECROD"}"#, "\"RECROD\", which Singer 0.3 does not know"),
        ] {
            let told = parse(line).unwrap_err();
            assert!(told.contains(want), "{line}: {told}");
        }
    }
}
