//! `type = "amqp"`.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::queue::{Usual, read_settings};
use super::tls::read_tls;
use crate::config::error::Problem;
use crate::config::reader::TableReader;
use crate::config::setting::{Setting, boolean};
use crate::config::shape::Form;
use crate::consumer::ConsumerSettings;
use crate::mapping::message::{HashedId, MissingId, Payload};
use crate::sources::amqp::{AmqpOptions, Binding, Broker, NAME_LENGTH_MAX, QueueType, Topology};

const PREFETCHES: RangeInclusive<u16> = 1..=u16::MAX;
const AMQP_URL: Form =
    Form { name: "an amqp or amqps URL", pattern: r"^\s*[Aa][Mm][Qq][Pp][Ss]?://" };
const NAME: &str = "a name of 1 to 255 bytes";

/// A queue of an AMQP 0-9-1 broker.
#[derive(Debug, Clone)]
pub struct AmqpConfig {
    /// `url`, required, never shown; `queue`, required; `prefetch` (default 1000, 1 to 65535); `declare` (default false) with
    /// `queue_type` and `bindings`; `ca_file`, `client_cert_file`, `client_key_file`.
    pub options: AmqpOptions,
    /// `batch_size`, `linger`, `dedup_retention`, `missing_id` (default `reject`), and where the parts of an event are.
    pub settings: ConsumerSettings,
}

#[derive(Clone, Copy)]
enum MissingIdWord {
    Reject,
    Hash,
}

impl AmqpConfig {
    pub(super) fn read(table: &mut TableReader<'_>) -> Option<Self> {
        let help = "add url = \"amqp://user:password@localhost:5672/%2f\"";
        let broker = table.require("url", help, broker);
        let queue = table.require("queue", "add queue = \"…\"", |s| name(s, "a queue"));
        let prefetch = table.read_or("prefetch", 1000, |s| s.integer(PREFETCHES));
        let topology = read_topology(table);
        let tls = read_tls(table);
        if let Some(broker) = &broker
            && !broker.value.is_tls()
        {
            for key in ["ca_file", "client_cert_file", "client_key_file"] {
                if table.has(key) {
                    let problem = Problem::new("beside a URL without TLS");
                    table.refuse(key, problem.help(format!("write amqps:// or take {key} out")));
                }
            }
        }
        let usual = Usual { event_type: "message_name", payload: Payload::Unwrapped };
        let mut settings = read_settings(table, usual);
        let words = [("reject", MissingIdWord::Reject), ("hash", MissingIdWord::Hash)];
        let word = table.read_or("missing_id", MissingIdWord::Reject, |s| s.one_of(&words));
        settings.mapping.missing_id = match word {
            MissingIdWord::Reject => MissingId::Refused,
            MissingIdWord::Hash => MissingId::From(Arc::new(HashedId)),
        };
        let options = AmqpOptions {
            prefetch,
            topology,
            tls,
            ..AmqpOptions::new(broker?.value, queue?.value)
        };
        Some(Self { options, settings })
    }
}

/// What is declared; its keys mean nothing without `declare`.
fn read_topology(table: &mut TableReader<'_>) -> Option<Topology> {
    let is_declared = table.read_or("declare", false, boolean);
    let types = [("classic", QueueType::Classic), ("quorum", QueueType::Quorum)];
    let queue_type = table.read("queue_type", |s| s.one_of(&types)).map(|read| read.value);
    let bindings = read_bindings(&table.table("bindings"));
    for key in ["queue_type", "bindings"] {
        if !is_declared && table.has(key) {
            let problem = Problem::new("without declare = true");
            table.refuse(key, problem.help(format!("add declare = true, or take {key} out")));
        }
    }
    is_declared.then_some(Topology { queue_type, bindings })
}

fn read_bindings(table: &TableReader<'_>) -> Vec<Binding> {
    let mut bindings = Vec::new();
    for (exchange, span, value) in table.entries() {
        if exchange.is_empty() || exchange.len() > NAME_LENGTH_MAX {
            let problem = Problem::new("not the name of an exchange").expected(NAME);
            table.report_key(exchange, span, problem);
        }
        if let Some(read) = table.convert(exchange, Some(value), routing_key) {
            bindings.push(Binding { exchange: exchange.to_owned(), routing_key: read.value });
        }
    }
    for exchange in table.keys_from_environment() {
        if let Some(read) = table.convert(&exchange, None, routing_key) {
            bindings.push(Binding { exchange, routing_key: read.value });
        }
    }
    bindings
}

fn broker(setting: &Setting<'_>) -> Result<Broker, Problem> {
    let text = setting.text_of(&AMQP_URL)?;
    Broker::parse(&text.value).map_err(|fault| {
        let problem = text.refuse(Problem::new(fault.problem).expected(fault.expected));
        match fault.help {
            Some(help) => problem.help(help),
            None => problem,
        }
    })
}

fn name(setting: &Setting<'_>, what: &str) -> Result<String, Problem> {
    let text = setting.text()?;
    if text.value.is_empty() || text.value.len() > NAME_LENGTH_MAX {
        return Err(text.refuse(Problem::new(format!("not the name of {what}")).expected(NAME)));
    }
    Ok(text.value)
}

fn routing_key(setting: &Setting<'_>) -> Result<String, Problem> {
    let text = setting.text()?;
    if text.value.len() > NAME_LENGTH_MAX {
        return Err(text.refuse(Problem::new("too long").expected("at most 255 bytes")));
    }
    Ok(text.value)
}
