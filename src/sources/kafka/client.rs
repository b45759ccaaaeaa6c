//! The client of librdkafka: its settings, its callbacks, and questions to the brokers. Everything here blocks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use secrecy::ExposeSecret;

use super::begin::{Begin, Found};
use super::fault::{self, Places};
use super::hand_over::HandOver;
use super::{KafkaOptions, ReadFrom, Security};
use crate::source::queue::QueueError;

/// How long a broker has for an answer before somebody looks whether the connection failed.
const SLICE: Duration = Duration::from_secs(2);
/// How often that is.
const SLICES_MAX: u32 = 5;

/// The settings that do not depend on the configuration.
///
/// - Nothing is committed or stored by itself, and an offset that is not there is an error, not a jump.
/// - Partitions are shared cooperatively: whoever keeps a partition goes on reading while others change hands. With the
///   eager way every change of the group takes all partitions from everybody, and what was prefetched is fetched again.
/// - A member that is gone is missed after 10 s; a heartbeat has nothing to do with how long a batch takes, and the thread
///   polls while nobody wants messages, so that the default of `max.poll.interval.ms` is never reached.
/// - At most 16 MiB wait inside the library, but never less than one message, however large.
const SETTINGS: &[(&str, &str)] = &[
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("isolation.level", "read_committed"),
    ("partition.assignment.strategy", "cooperative-sticky"),
    ("session.timeout.ms", "10000"),
    ("heartbeat.interval.ms", "3000"),
    ("allow.auto.create.topics", "false"),
    ("queued.max.messages.kbytes", "16384"),
    ("fetch.queue.backoff.ms", "10"),
    ("fetch.message.max.bytes", "1048576"),
    ("fetch.max.bytes", "16777216"),
    ("receive.message.max.bytes", "134217728"),
    ("fetch.wait.max.ms", "500"),
    ("socket.timeout.ms", "20000"),
    ("socket.keepalive.enable", "true"),
    ("socket.nagle.disable", "true"),
    ("socket.connection.setup.timeout.ms", "5000"),
    ("reconnect.backoff.max.ms", "2000"),
    // The log says nothing of idle connections that brokers close.
    ("log.connection.close", "false"),
];

/// What the thread, the callbacks and the session know of each other.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) places: Places,
    pub(super) topic: Arc<str>,
    pub(super) hand_over: HandOver,
    read_from: ReadFrom,
    /// The greatest offset that was stored of each stream when the session began.
    stored: HashMap<String, i64>,
    /// Held while offsets are committed, and while partitions are given away.
    pub(super) commits: Mutex<()>,
    /// What librdkafka said last of a connection that failed.
    trouble: Mutex<Option<String>>,
}

/// The callbacks of one client.
pub(super) struct Context {
    shared: Arc<Shared>,
}

/// A client. Its drop leaves the group, and blocks for that.
pub(super) type Client = BaseConsumer<Context>;

impl Shared {
    pub(super) fn new(options: &KafkaOptions, stored: HashMap<String, i64>) -> Self {
        let places = Places {
            brokers: options.brokers.join(", "),
            topic: options.topic.clone(),
            group: options.group.clone(),
        };
        Self {
            places,
            topic: Arc::from(options.topic.as_str()),
            hand_over: HandOver::new(),
            read_from: options.read_from,
            stored,
            commits: Mutex::new(()),
            trouble: Mutex::new(None),
        }
    }

    /// The error in words.
    pub(super) fn explain(&self, error: &KafkaError) -> QueueError {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        self.places.explain(error, trouble.as_deref())
    }

    /// What events of a partition are called.
    pub(super) fn stream(&self, partition: i32) -> Arc<str> {
        Arc::from(format!("{}/{partition}", self.topic))
    }

    /// The offset behind what is stored of a partition.
    pub(super) fn behind_stored(&self, partition: i32) -> Option<i64> {
        let last = self.stored.get(&*self.stream(partition)).filter(|last| **last >= 0)?;
        last.checked_add(1)
    }

    fn has_trouble(&self) -> bool {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// Makes a client, which connects by itself.
pub(super) fn open(
    options: &KafkaOptions,
    name: &str,
    shared: &Arc<Shared>,
) -> Result<Client, QueueError> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", options.brokers.join(","));
    config.set("group.id", &options.group).set("client.id", name);
    config.set_log_level(RDKafkaLogLevel::Warning);
    for (key, value) in SETTINGS {
        config.set(*key, *value);
    }
    secure(&mut config, &options.security);
    let context = Context { shared: Arc::clone(shared) };
    // The error holds the name of a setting; its value only where it is one of the above.
    config.create_with_context(context).map_err(|error: KafkaError| {
        QueueError::rejected(format!("no Kafka client for {}: {error}", shared.places.brokers))
    })
}

fn secure(config: &mut ClientConfig, security: &Security) {
    let Security { tls, ca_file, login } = security;
    config.set(
        "security.protocol",
        match (tls, login) {
            (false, None) => "plaintext",
            (true, None) => "ssl",
            (false, Some(_)) => "sasl_plaintext",
            (true, Some(_)) => "sasl_ssl",
        },
    );
    if let Some(file) = ca_file {
        config.set("ssl.ca.location", file.to_string_lossy());
    }
    if let Some(login) = login {
        config.set("sasl.mechanisms", login.mechanism.name());
        config.set("sasl.username", &login.username);
        config.set("sasl.password", login.password.expose_secret());
    }
}

/// Asks until there is an answer, the brokers refuse, or they turn out to be out of reach.
pub(super) fn ask<T>(
    client: &Client,
    question: impl Fn(Duration) -> KafkaResult<T>,
) -> Result<T, QueueError> {
    let shared = &client.context().shared;
    let mut asked = 0;
    loop {
        let error = match question(SLICE) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        asked += 1;
        if let Some(refusal) = complaints(client) {
            return Err(shared.explain(&refusal));
        }
        let may_pass = fault::code(&error).is_some_and(fault::is_passing);
        if !may_pass || asked == SLICES_MAX || shared.has_trouble() && asked > 1 {
            return Err(shared.explain(&error));
        }
    }
}

/// Hears what a client has to say that is not a member yet; answers what nobody gets over by waiting. A member is polled
/// by its thread alone, or messages would be passed over.
fn complaints(client: &Client) -> Option<KafkaError> {
    const HEARD_MAX: usize = 100;
    if client.subscription().map_or(true, |topics| topics.count() > 0) {
        return None;
    }
    for _ in 0..HEARD_MAX {
        match client.poll(Duration::from_millis(1)) {
            Some(Err(error)) if fault::consequence(&error) == fault::Consequence::End => {
                return Some(error);
            }
            Some(_) => {}
            None => break,
        }
    }
    None
}

/// The numbers of the topic's partitions.
pub(super) fn partitions(client: &Client) -> Result<Vec<i32>, QueueError> {
    let shared = &client.context().shared;
    let metadata = ask(client, |timeout| client.fetch_metadata(Some(&shared.topic), timeout))?;
    let topic = metadata.topics().iter().find(|topic| topic.name() == &*shared.topic);
    let missing = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    let error = topic.map_or(Some(missing), MetadataTopic::error);
    match (error, topic) {
        (None, Some(topic)) => Ok(topic.partitions().iter().map(MetadataPartition::id).collect()),
        (error, _) => {
            Err(shared.explain(&KafkaError::MetadataFetch(error.unwrap_or(missing).into())))
        }
    }
}

/// What the group has committed, by partition.
pub(super) fn committed(
    client: &Client,
    partitions: &[i32],
) -> Result<Vec<(i32, Option<i64>)>, QueueError> {
    let shared = &client.context().shared;
    let wanted = list(&shared.topic, partitions.iter().map(|number| (*number, Offset::Invalid)));
    let answer = ask(client, |timeout| client.committed_offsets(wanted.clone(), timeout))?;
    let each = answer.elements().into_iter().map(|element| {
        element.error().map_err(|error| shared.explain(&error))?;
        let offset = match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        Ok((element.partition(), offset))
    });
    each.collect()
}

/// The first or the next offset of partitions; those whose leader is away are left out.
fn ends(client: &Client, partitions: &[i32], end: Offset) -> Vec<(i32, i64)> {
    let wanted =
        list(&client.context().shared.topic, partitions.iter().map(|number| (*number, end)));
    let Ok(answer) = client.offsets_for_times(wanted, SLICE) else { return Vec::new() };
    let offset = |element: &TopicPartitionListElem<'_>| match (element.error(), element.offset()) {
        (Ok(()), Offset::Offset(offset)) => Some((element.partition(), offset)),
        _ => None,
    };
    answer.elements().iter().filter_map(offset).collect()
}

/// What there is of partitions, and where the group stands.
pub(super) fn find(client: &Client, partitions: &[i32]) -> Result<Vec<(i32, Found)>, QueueError> {
    let committed = committed(client, partitions)?;
    let lows = ends(client, partitions, Offset::Beginning);
    let highs = ends(client, partitions, Offset::End);
    let of = |ends: &[(i32, i64)], number| {
        ends.iter().find(|(other, _)| *other == number).map(|(_, offset)| *offset)
    };
    let found = |(number, committed)| {
        let (low, high) = (of(&lows, number), of(&highs, number));
        (number, Found { committed, behind_stored: None, low, high })
    };
    Ok(committed.into_iter().map(found).collect())
}

/// Partitions of a topic with offsets.
pub(super) fn list(
    topic: &str,
    offsets: impl Iterator<Item = (i32, Offset)>,
) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        if list.add_partition_offset(topic, partition, offset).is_err() {
            tracing::debug!(topic, partition, ?offset, "an offset that cannot be written");
        }
    }
    list
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
                tracing::debug!(topic = &*self.shared.topic, facility, "librdkafka: {message}");
            }
            _ => tracing::info!(topic = &*self.shared.topic, facility, "librdkafka: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(topic = &*self.shared.topic, %error, "librdkafka: {reason}");
        let is_count = matches!(fault::code(&error), Some(RDKafkaErrorCode::AllBrokersDown));
        if !is_count {
            *self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, client: &Client, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let numbers: Vec<i32> =
            list.elements().iter().map(TopicPartitionListElem::partition).collect();
        let is_cooperative = matches!(client.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let done = if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let begun = self.begin(client, &numbers).unwrap_or_else(|error| {
                self.shared.hand_over.fail(error);
                // Nobody takes what comes now. But a group that is not answered cannot be left.
                list.clone()
            });
            let assigned = if is_cooperative {
                client.incremental_assign(&begun)
            } else {
                client.assign(&begun)
            };
            // They may have been ours before, and paused.
            assigned.and_then(|()| client.resume(list))
        } else {
            // A commit under way ends first: afterwards the partitions are another's.
            let turn = self.shared.commits.lock().unwrap_or_else(PoisonError::into_inner);
            for number in &numbers {
                self.shared.hand_over.revoke(*number);
            }
            drop(turn);
            if is_cooperative { client.incremental_unassign(list) } else { client.unassign() }
        };
        if let Err(error) = done {
            self.shared.hand_over.fail(self.shared.explain(&error));
        }
    }
}

impl Context {
    /// Says where the partitions begin, and hands over what is lost.
    fn begin(&self, client: &Client, numbers: &[i32]) -> Result<TopicPartitionList, QueueError> {
        let topic = &self.shared.topic;
        let found = if numbers.is_empty() { Vec::new() } else { find(client, numbers)? };
        let begins: Vec<(i32, Begin)> = found
            .into_iter()
            .map(|(number, found)| {
                let behind_stored = self.shared.behind_stored(number);
                (number, Found { behind_stored, ..found }.begin(self.shared.read_from))
            })
            .collect();
        for (partition, begin) in &begins {
            let gap = begin.gap(&self.shared.stream(*partition));
            if let Begin::Anew { wanted, low, high } = begin {
                tracing::warn!(
                    topic = &**topic,
                    partition,
                    committed = wanted,
                    low,
                    high,
                    "the offsets of a partition begin anew, as when its topic was made again; it is read from its first \
                     message, and what differs from the events stored under the same offsets becomes a conflict"
                );
            }
            let from = match begin {
                Begin::Lost { wanted, .. } => Some(*wanted),
                begin => begin.offset(),
            };
            self.shared.hand_over.assign(*partition, from, gap);
        }
        let offset = |begin: &Begin| begin.offset().map_or(Offset::Beginning, Offset::Offset);
        Ok(list(topic, begins.iter().map(|(number, begin)| (*number, offset(begin)))))
    }
}
