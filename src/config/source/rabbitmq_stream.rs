//! `type = "rabbitmq_stream"`.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::item::read_max_event_bytes;
use super::tls::read_ca_file;
use crate::config::error::Problem;
use crate::config::pointer::json_pointer;
use crate::config::reader::TableReader;
use crate::config::setting::Setting;
use crate::mapping::message::{MessageMapping, MissingId, Payload, Place};
use crate::sources::rabbitmq_stream::Address;

const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(10);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest name of a queue.
const STREAM_BYTES_MAX: usize = 255;

/// A stream of RabbitMQ.
#[derive(Debug, Clone)]
pub struct RabbitMqStreamConfig {
    /// `url`: the broker: `rabbitmq-stream://`, `rabbitmq-stream+tls://`, `amqp://` or `amqps://`. Required; never shown.
    pub address: Address,
    /// `stream`: its name; of a super stream, that of a partition. Required.
    pub stream: String,
    /// Where in a body `event_type`, `message_id` (default the properties of the message), `occurred_at` (default none) and
    /// `payload` (default its member `payload`, if there is one, else the whole) are; and `max_event_bytes`, above
    /// which a message becomes a dead letter (default 1MiB, 1KiB to 64MiB).
    pub mapping: MessageMapping,
    /// `timeout`: the longest an answer of the broker may take, and that it may be silent. Default 10s, 1s to 10m.
    pub timeout: Duration,
    /// `ca_file`: PEM file of the authorities to trust. Default: those that the machine trusts.
    pub ca_file: Option<PathBuf>,
}

impl RabbitMqStreamConfig {
    pub(super) fn read(table: &mut TableReader<'_>) -> Option<Self> {
        let help = "add url = \"rabbitmq-stream://user:password@localhost:5552/%2f\"";
        let address = table.require("url", help, address);
        let stream = table.require("stream", "add stream = \"clicks\"", stream_name);
        let mut pointer = |key| table.read_or(key, None, |s| json_pointer(s).map(Some));
        let place = |pointer: Option<_>| pointer.map_or(Place::None, Place::Set);
        let mapping = MessageMapping {
            event_type: place(pointer("event_type")),
            message_id: place(pointer("message_id")),
            occurred_at: pointer("occurred_at"),
            payload: pointer("payload").map_or(Payload::Unwrapped, Payload::At),
            missing_id: MissingId::Allowed,
            max_event_bytes: read_max_event_bytes(table),
        };
        let timeout = table.read_or("timeout", DEFAULT_TIMEOUT, |s| s.duration(TIMEOUTS));
        let ca_file = read_ca_file(table);
        let address = address?.value;
        if ca_file.is_some() && !address.is_tls() {
            let problem = Problem::new("given for a connection without TLS");
            let help = "take ca_file out, or begin the URL with rabbitmq-stream+tls:// or amqps://";
            table.refuse("ca_file", problem.help(help));
        }
        Some(Self { address, stream: stream?.value, mapping, timeout, ca_file })
    }
}

fn address(setting: &Setting<'_>) -> Result<Address, Problem> {
    let text = setting.text()?;
    Address::parse(&text.value).map_err(|fault| {
        let problem = text.refuse(Problem::new(fault.problem).expected(fault.expected));
        match fault.help {
            Some(help) => problem.help(help),
            None => problem,
        }
    })
}

fn stream_name(setting: &Setting<'_>) -> Result<String, Problem> {
    let expected = "the name of a stream, 1 to 255 bytes";
    let text = setting.text_expected(expected)?;
    match text.value.len() {
        1..=STREAM_BYTES_MAX => Ok(text.value),
        0 => Err(text.refuse(Problem::new("empty").expected(expected))),
        _ => Err(text.refuse(Problem::new("too long").expected(expected))),
    }
}
