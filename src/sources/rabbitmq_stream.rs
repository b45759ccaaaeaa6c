//! `type = "rabbitmq_stream"`: a stream of RabbitMQ, whose offsets are the ids of its events.
//!
//! Read over the stream protocol or over AMQP 0-9-1. The cursor is ours and nothing is kept at the broker, so both read
//! the same events under the same ids, and one may take over from the other at any time.
//!
//! A connection stays open between two pages and goes on where the last one ended; asked after another id, or when
//! anything went wrong, a new one is made. It begins at the message *before* the first wanted one, which is dropped: that
//! it is still there, or that something later is, tells whether the stream is still the one that was read. Offsets have
//! gaps of their own (RabbitMQ stores consumers' offsets in the stream), so where one is skipped, the broker is asked for
//! its first message: what lies before that is lost to retention, and reported as a gap.

mod address;
mod amqp10;
mod chunk;
mod classic;
mod failure;
mod message;
mod subscription;
mod tls;
mod wire;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

pub use address::{Address, AddressFault, Protocol};

use crate::event::{BadEvent, Event, Item};
use crate::mapping::message::{MessageMapping, metadata_text};
use crate::source::queue::{Gap, Message, QueueError, QueueFailure};
use crate::source::{EventSource, Page, SourceError};
use crate::sources::tls::TlsError;
use classic::ClassicConsumer;
use failure::source_error;
use subscription::Subscription;

/// Bytes of bodies after which a page ends.
const PAGE_BYTES_MAX: usize = 64 << 20;
/// How long to wait for more once there is something: the broker has been asked for it already.
const MORE_WAIT: Duration = Duration::from_millis(3);
/// How long a stream that was just opened may keep back the message that was read last.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// What is set of a stream.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// Names the connection at the broker, and types events that have no type.
    pub source_name: String,
    /// The broker.
    pub address: Address,
    /// The stream, or one partition of a super stream.
    pub stream: String,
    /// How messages become events.
    pub mapping: MessageMapping,
    /// The longest that an answer of the broker may take, and that it may be silent.
    pub timeout: Duration,
    /// How long an empty page waits for a message.
    pub poll: Duration,
    /// PEM file of the authorities to trust; `None`: those that the machine trusts.
    pub ca_file: Option<PathBuf>,
}

/// The same, with the certificates read.
struct StreamOptions {
    source_name: String,
    address: Address,
    stream: String,
    mapping: MessageMapping,
    timeout: Duration,
    poll: Duration,
    tls: Option<Arc<rustls::ClientConfig>>,
}

/// The messages of a chunk, as the source reads them; none of a chunk that breaks the format. What `fuzz/` calls.
#[cfg(fuzzing)]
pub fn messages_of_chunk(bytes: bytes::Bytes) -> Vec<Message> {
    let entries = chunk::Chunk::read(bytes).map(|chunk| chunk.entries).unwrap_or_default();
    entries.into_iter().map(|entry| message::of_entry(entry, &Arc::from("stream"))).collect()
}

/// One message in the encoding of AMQP 1.0. What `fuzz/` calls.
#[cfg(fuzzing)]
pub fn read_message(bytes: bytes::Bytes) -> Message {
    message::of_entry(chunk::Entry::Message(bytes), &Arc::from("stream"))
}

/// A stream as a source.
pub struct RabbitMqStream {
    options: Arc<StreamOptions>,
    routed_as: Arc<str>,
    session: Mutex<Option<Session>>,
}

impl RabbitMqStream {
    /// A source that reads this stream. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// Certificates cannot be read.
    pub fn new(settings: StreamSettings) -> Result<Self, TlsError> {
        let StreamSettings { source_name, address, stream, mapping, timeout, poll, ca_file } =
            settings;
        let tls = if address.is_tls {
            Some(Arc::new(tls::client_config(ca_file.as_deref())?))
        } else {
            None
        };
        let routed_as = Arc::from(source_name.as_str());
        let options = StreamOptions { source_name, address, stream, mapping, timeout, poll, tls };
        Ok(Self { options: Arc::new(options), routed_as, session: Mutex::new(None) })
    }

    /// The longest that one call may take.
    pub fn deadline(settings: &StreamSettings) -> Duration {
        // Connecting twice (to the node that has the stream), with a few answers each, then reading.
        settings.timeout * 8 + settings.poll
    }

    fn item(&self, id: i64, message: Message) -> Item {
        match self.options.mapping.decode(&message) {
            Ok(decoded) => Item::Good(Event {
                id,
                event_type: Some(decoded.event_type),
                payload: decoded.payload,
                occurred_at: decoded.occurred_at,
                message_id: decoded.message_id,
                metadata: decoded.metadata,
            }),
            Err(reason) => Item::Bad(BadEvent {
                id: Some(id),
                reference: id.to_string(),
                payload_at: self.options.mapping.payload_at(&message.body),
                body: message.body,
                reason,
                event_type: message.event_type,
                occurred_at: message.occurred_at,
                message_id: message.message_id.as_deref().and_then(|id| Uuid::try_parse(id).ok()),
                metadata: metadata_text(&message.metadata).ok().flatten(),
            }),
        }
    }

    async fn page(&self, after_id: i64, limit: usize) -> Result<Page, QueueError> {
        // Taken out: what happens to a call that is dropped happens to its connection.
        let kept = self.session.lock().await.take().filter(|session| session.at == after_id);
        let is_kept = kept.is_some();
        let mut session = match kept {
            Some(session) => session,
            None => Session::open(&self.options, after_id).await?,
        };
        let mut taken = session.take(limit, &self.routed_as).await;
        let is_away = |error: &QueueError| error.class == QueueFailure::Unavailable;
        if is_kept && taken.as_ref().is_err_and(is_away) {
            // One that has lain idle may have ended meanwhile, which says nothing about the broker.
            session = Session::open(&self.options, after_id).await?;
            taken = session.take(limit, &self.routed_as).await;
        }
        let (messages, gaps) = taken?;
        let items = messages.into_iter().map(|(id, message)| self.item(id, message)).collect();
        if session.end.is_none() {
            *self.session.lock().await = Some(session);
        }
        Ok(Page { gaps, ..Page::new(items) })
    }
}

#[async_trait]
impl EventSource for RabbitMqStream {
    async fn fetch_events(&self, after_id: i64, limit: u32) -> Result<Page, SourceError> {
        if after_id == i64::MAX {
            return Ok(Page::default());
        }
        self.page(after_id, limit as usize).await.map_err(source_error)
    }

    fn start_after(&self) -> i64 {
        -1
    }
}

/// A consumer, and what it brought that no page had room for.
struct Session {
    options: Arc<StreamOptions>,
    consumer: Consumer,
    waiting: VecDeque<(i64, Message)>,
    /// The id up to which messages were taken.
    at: i64,
    opened_at: Instant,
    /// Something at or after `at` has come, so the stream is the one that was read.
    is_seen: bool,
    /// Why nothing more comes, found after messages that were good.
    end: Option<QueueError>,
}

enum Consumer {
    Stream(Box<Subscription>),
    Amqp(Box<ClassicConsumer>),
}

impl Session {
    async fn open(options: &Arc<StreamOptions>, after_id: i64) -> Result<Self, QueueError> {
        let from = u64::try_from(after_id).ok();
        let consumer = match options.address.protocol {
            Protocol::Stream => {
                Consumer::Stream(Box::new(Subscription::open(options, from).await?))
            }
            Protocol::Amqp => Consumer::Amqp(Box::new(ClassicConsumer::open(options, from).await?)),
        };
        Ok(Self {
            options: Arc::clone(options),
            consumer,
            waiting: VecDeque::new(),
            at: after_id.max(-1),
            opened_at: Instant::now(),
            is_seen: from.is_none(),
            end: None,
        })
    }

    /// Takes what there is, at most `limit` messages; waits for the first one only.
    async fn take(
        &mut self,
        limit: usize,
        routed_as: &Arc<str>,
    ) -> Result<(Vec<(i64, Message)>, Vec<Gap>), QueueError> {
        let mut taken: Vec<(i64, Message)> = Vec::new();
        let mut byte_count = 0;
        let mut skipped = Vec::new();
        let until = Instant::now() + self.options.poll;
        while taken.len() < limit && byte_count < PAGE_BYTES_MAX {
            if let Some((id, message)) = self.waiting.pop_front() {
                if id > self.at + 1 {
                    skipped.push((self.at + 1, id));
                }
                self.at = id;
                byte_count += message.body.len();
                taken.push((id, message));
                continue;
            }
            let wait = if taken.is_empty() {
                until.saturating_duration_since(Instant::now())
            } else {
                MORE_WAIT
            };
            match self.receive(wait, routed_as).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if taken.is_empty() => return Err(error),
                Err(error) => {
                    self.end = Some(error);
                    break;
                }
            }
        }
        let gaps = self.lost(skipped).await?;
        Ok((taken, gaps))
    }

    /// Waits for messages and keeps those that are new; `false`: none came in time.
    async fn receive(&mut self, wait: Duration, routed_as: &Arc<str>) -> Result<bool, QueueError> {
        let received = match &mut self.consumer {
            Consumer::Stream(subscription) => subscription.receive(wait, routed_as).await?,
            Consumer::Amqp(consumer) => consumer.receive(wait, routed_as).await?,
        };
        let Some(messages) = received else {
            if !self.is_seen && self.opened_at.elapsed() > SEEN_WITHIN {
                return Err(self.options.ends_before(self.at));
            }
            return Ok(false);
        };
        if let Some((last, _)) = messages.last() {
            if !self.is_seen && *last < self.at {
                return Err(self.options.ends_before(self.at));
            }
            self.is_seen = true;
        }
        let at = self.at;
        self.waiting.extend(messages.into_iter().filter(|(id, _)| *id > at));
        Ok(true)
    }

    /// Which of the offsets that were skipped are lost, and not only unused.
    async fn lost(&mut self, skipped: Vec<(i64, i64)>) -> Result<Vec<Gap>, QueueError> {
        if skipped.is_empty() {
            return Ok(Vec::new());
        }
        let first = match &mut self.consumer {
            Consumer::Stream(subscription) => subscription.first_offset().await?,
            Consumer::Amqp(consumer) => consumer.first_offset().await?,
        };
        Ok(gaps(&skipped, first))
    }
}

/// Of the ranges that were skipped (to before the second number), what lies before the first message that is left.
fn gaps(skipped: &[(i64, i64)], first: Option<i64>) -> Vec<Gap> {
    let ranges = skipped.iter().map(|&(from, to)| (from, first.unwrap_or(to).min(to) - 1));
    let lost = ranges.filter(|(from, last)| last >= from).map(|(first_id, last_id)| Gap {
        stream: None,
        first_id,
        last_id,
        reason: "the stream's retention removed them before they were read".to_owned(),
    });
    lost.collect()
}
