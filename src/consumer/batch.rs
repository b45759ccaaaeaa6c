//! What becomes of one delivery: which messages are stored in which stream, and which are dead letters. No I/O.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::event::Screen;
use crate::event::excerpt::excerpt;
use crate::loader::cycle_driver::REASON_LENGTH_MAX;
use crate::mapping::message::MessageMapping;
use crate::source::queue::{Gap, Message};
use crate::store::message::{MessageRows, NewMessage, RefusedMessage};

/// Longest name of a message in `dead_letter.reference`, in characters.
const REFERENCE_LENGTH_MAX: usize = 200;

/// The part of a delivery that goes to one stream.
#[derive(Debug, Default)]
pub(crate) struct StreamBatch {
    /// The stream.
    pub(crate) stream: String,
    /// In order of arrival.
    pub(crate) messages: Vec<NewMessage>,
    /// The same messages, as they were delivered.
    pub(crate) delivered: Vec<Message>,
    /// Messages that cannot be stored.
    pub(crate) refused: Vec<RefusedMessage>,
    /// Versions that are lost.
    pub(crate) gaps: Vec<Gap>,
    pub(crate) max_version: Option<i64>,
}

/// Sorts a delivery by streams, in the order of their names: every instance locks them in this order.
pub(crate) fn sort(
    source_name: &str,
    mapping: &MessageMapping,
    messages: Vec<Message>,
    gaps: Vec<Gap>,
) -> Vec<StreamBatch> {
    let mut streams: BTreeMap<String, StreamBatch> = BTreeMap::new();
    for message in messages {
        let stream = message.stream.clone();
        let batch = entry(&mut streams, stream.as_deref().unwrap_or(source_name));
        batch.add(source_name, mapping, message);
    }
    for gap in gaps {
        let name = gap.stream.as_deref().unwrap_or(source_name);
        entry(&mut streams, name).gaps.push(gap.clone());
    }
    streams.into_values().collect()
}

fn entry<'s>(streams: &'s mut BTreeMap<String, StreamBatch>, stream: &str) -> &'s mut StreamBatch {
    // Most messages are of a stream that is there: no name is made for them.
    if !streams.contains_key(stream) {
        let batch = StreamBatch { stream: stream.to_owned(), ..StreamBatch::default() };
        streams.insert(stream.to_owned(), batch);
    }
    streams.get_mut(stream).expect("it was put there if it was not")
}

impl StreamBatch {
    /// Judges a message and puts it where it belongs.
    pub(crate) fn add(&mut self, source_name: &str, mapping: &MessageMapping, message: Message) {
        self.max_version = self.max_version.max(message.version);
        match mapping.decode(&message) {
            Ok(decoded) => {
                let body_hash = body_hash(&message.body);
                self.messages.push(NewMessage { version: message.version, decoded, body_hash });
                self.delivered.push(message);
            }
            Err(reason) => self.refused.push(refused(source_name, &message, &reason)),
        }
    }

    /// Takes one message out, with its place, that the database refuses.
    pub(crate) fn set_aside(&mut self, source_name: &str, place: usize, reason: &str) {
        self.messages.remove(place);
        let message = self.delivered.remove(place);
        self.refused.push(refused(source_name, &message, reason));
    }

    /// The messages that came before with another body.
    pub(crate) fn conflicts(
        &self,
        source_name: &str,
        conflicts: &[(usize, String)],
    ) -> Vec<RefusedMessage> {
        let named = conflicts.iter().filter_map(|(place, reason)| {
            Some(refused(source_name, self.delivered.get(*place)?, reason))
        });
        named.collect()
    }

    /// A batch of one of the messages.
    pub(crate) fn one(&self, place: usize) -> Self {
        Self {
            stream: self.stream.clone(),
            messages: vec![self.messages[place].clone()],
            delivered: vec![self.delivered[place].clone()],
            max_version: self.messages[place].version,
            ..Self::default()
        }
    }

    /// For the deposit.
    pub(crate) fn rows<'a>(&'a self, source_name: &'a str) -> MessageRows<'a> {
        MessageRows {
            source_name,
            stream: &self.stream,
            messages: &self.messages,
            refused: &self.refused,
            gaps: &self.gaps,
            max_version: self.max_version,
        }
    }
}

/// Tells a body from others under the same message id: the first half of its SHA-256.
fn body_hash(body: &[u8]) -> [u8; 16] {
    let digest = Sha256::digest(body);
    std::array::from_fn(|i| digest[i])
}

/// What is kept of a message beside its body, to judge it again.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    version: Option<i64>,
    fault: Option<String>,
    event_type: Option<String>,
    message_id: Option<String>,
    occurred_at: Option<DateTime<Utc>>,
    routed_as: String,
    metadata: Map<String, Value>,
}

fn refused(source_name: &str, message: &Message, reason: &str) -> RefusedMessage {
    let kept = Kept {
        version: message.version,
        fault: message.fault.clone(),
        event_type: message.event_type.clone(),
        message_id: message.message_id.clone(),
        occurred_at: message.occurred_at,
        routed_as: message.routed_as.to_string(),
        metadata: message.metadata.clone(),
    };
    let text = json!(kept).to_string();
    // As the text of a string, `jsonb` holds what it refuses as a value, such as \u0000 in a header.
    let detail = match Screen::default().check(&text, "detail") {
        Ok(()) => {
            json!({ "source_name": source_name, "event_id": message.version, "message": kept })
        }
        Err(_) => {
            json!({ "source_name": source_name, "event_id": message.version, "message_text": text })
        }
    };
    RefusedMessage {
        reference: excerpt(&message.reference, REFERENCE_LENGTH_MAX),
        body: message.body.clone(),
        reason: excerpt(reason, REASON_LENGTH_MAX),
        detail,
    }
}

/// What a dead letter tells of its message.
#[derive(Debug, Deserialize)]
struct LetterDetail {
    source_name: String,
    message: Option<Kept>,
    message_text: Option<String>,
}

/// The queue source and the message of a dead letter, as it was delivered.
///
/// # Errors
///
/// What keeps the detail from being read.
pub(crate) fn message_of(
    origin: &str,
    reference: &str,
    detail: &Value,
    body: Vec<u8>,
) -> Result<(String, Message), String> {
    let unreadable = |error: serde_json::Error| format!("its detail cannot be read: {error}");
    let detail: LetterDetail = serde_json::from_value(detail.clone()).map_err(unreadable)?;
    let kept = match (detail.message, detail.message_text) {
        (Some(kept), _) => kept,
        (None, Some(text)) => serde_json::from_str(&text).map_err(unreadable)?,
        (None, None) => return Err("its detail has no message".to_owned()),
    };
    let message = Message {
        stream: (origin != detail.source_name).then(|| origin.into()),
        version: kept.version,
        reference: reference.to_owned(),
        body: body.into(),
        fault: kept.fault,
        event_type: kept.event_type,
        message_id: kept.message_id,
        occurred_at: kept.occurred_at,
        routed_as: kept.routed_as.into(),
        metadata: kept.metadata,
    };
    Ok((detail.source_name, message))
}
