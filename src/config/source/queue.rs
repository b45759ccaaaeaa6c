//! Keys that all queue sources have.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::item::read_max_event_bytes;
use crate::config::pointer::json_pointer;
use crate::config::reader::TableReader;
use crate::consumer::ConsumerSettings;
use crate::mapping::Pointer;
use crate::mapping::message::{MessageMapping, MissingId, Payload, Place};

const BATCH_SIZES: RangeInclusive<u32> = 1..=10_000;
const LINGERS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(10);
const RETENTIONS: RangeInclusive<Duration> =
    Duration::from_hours(1)..=Duration::from_hours(10 * 365 * 24);

/// Where the messages of a broker usually have what an event needs.
pub(super) struct Usual {
    /// The member of the body that holds the type, where no property does.
    pub(super) event_type: &'static str,
    /// What is stored of a body, where the source does not say.
    pub(super) payload: Payload,
}

/// Reads how a queue source is consumed, all but what follows a missing message id.
pub(super) fn read_settings(table: &mut TableReader<'_>, usual: Usual) -> ConsumerSettings {
    let default = ConsumerSettings::default();
    let batch_size = table.read_or("batch_size", 1000, |s| s.integer(BATCH_SIZES));
    let linger = table.read_or("linger", default.linger, |s| s.duration(LINGERS));
    let dedup_retention =
        table.read_or("dedup_retention", default.dedup_retention, |s| s.duration(RETENTIONS));
    let mapping = read_message_mapping(table, usual);
    ConsumerSettings { batch_size: batch_size as usize, linger, mapping, dedup_retention }
}

/// Reads where the parts of an event are in a message.
pub(super) fn read_message_mapping(table: &mut TableReader<'_>, usual: Usual) -> MessageMapping {
    let mut set = |key| table.read(key, json_pointer).map(|read| read.value);
    let place = |set: Option<Pointer>, usual: &str| match set {
        Some(pointer) => Place::Set(pointer),
        None => Place::Usual(Pointer::to_key(usual)),
    };
    MessageMapping {
        event_type: place(set("event_type"), usual.event_type),
        message_id: place(set("message_id"), "message_id"),
        occurred_at: set("occurred_at"),
        payload: set("payload").map_or(usual.payload, Payload::At),
        missing_id: MissingId::Allowed,
        max_event_bytes: read_max_event_bytes(table),
    }
}
