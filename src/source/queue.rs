//! The queue source: a broker that delivers messages and wants an acknowledgement.
//!
//! # Contract
//!
//! An implementation of [`QueueSource`] and its [`QueueSession`] promises:
//!
//! 1. **At least once.** A message that was not acknowledged is delivered again: to this session, to another consumer, or
//!    after a restart of the broker. Whoever stores messages recognises those by their [place](Message) or message id.
//! 2. **Nothing by itself.** Messages are acknowledged only by [`QueueSession::acknowledge`], never by a library's
//!    automatism. A session that ends acknowledges nothing.
//! 3. **Verbatim.** A body is given as it came. What the driver cannot read is delivered all the same, with a
//!    [fault](Message::fault): it becomes a dead letter and its neighbours go on.
//! 4. **Bounds.** A session keeps at most as many messages unacknowledged as its source is configured for.
//! 5. **Honest loss.** Messages that the broker no longer has are reported as a [`Gap`], never passed by in silence.
//! 6. **An end.** A session whose broker is gone fails; it does not wait for ever, and does not reconnect behind the
//!    caller's back. The caller drops it and calls [`QueueSource::connect`] again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

/// A queue, a stream with a consumer group, or a topic. The [module](self) states the contract.
pub trait QueueSource: Send + Sync + 'static {
    /// What [`Self::connect`] opens.
    type Session: QueueSession;

    /// Joins the consumers of the queue. `consumer` names this instance to the broker; no other process has the name.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    ///
    /// # Cancel safety
    ///
    /// What was opened is closed when the future is dropped.
    fn connect(
        &self,
        consumer: &str,
    ) -> impl Future<Output = Result<Self::Session, QueueError>> + Send;

    /// Joins as [`Self::connect`] does. `stored` has the greatest version that is stored of each of the source's partitions,
    /// by its stream: for a broker that forgets how far a group has read. It may be behind what other instances store
    /// meanwhile; a batch that is being stored message by message may have some below it that are not kept yet.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::connect`].
    fn connect_behind(
        &self,
        consumer: &str,
        _stored: HashMap<String, i64>,
    ) -> impl Future<Output = Result<Self::Session, QueueError>> + Send {
        self.connect(consumer)
    }

    /// Looks at the queue without joining its consumers or taking anything from it, for `eventloader check`.
    ///
    /// # Errors
    ///
    /// What would keep [`Self::connect`] from working.
    fn inspect(&self) -> impl Future<Output = Result<QueueInspection, QueueError>> + Send;
}

/// One consumer of a queue. All calls may run at the same time.
pub trait QueueSession: Send + Sync + 'static {
    /// What acknowledges the messages of one delivery.
    type Receipt: Send + Sync + 'static;

    /// Waits for messages, then takes what comes until the batch is full or `limits.linger` has passed since its first
    /// message.
    ///
    /// # Errors
    ///
    /// The session is over; see [`QueueError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: what it had taken is delivered by a later call or session.
    fn deliver(
        &self,
        limits: BatchLimits,
    ) -> impl Future<Output = Result<Delivery<Self::Receipt>, QueueError>> + Send;

    /// Tells the broker that the messages of a delivery are stored. Deliveries are acknowledged in the order they were
    /// made.
    ///
    /// # Errors
    ///
    /// The session is over, and the broker may deliver the messages again.
    fn acknowledge(
        &self,
        receipt: Self::Receipt,
    ) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Gives the messages of a delivery back, to be delivered again.
    ///
    /// # Errors
    ///
    /// The session is over; the broker delivers the messages again by itself.
    fn reject(&self, receipt: Self::Receipt)
    -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Leaves the queue; what is not acknowledged goes back to the broker at once, where the broker knows how.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// When a batch is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Messages, at least 1.
    pub count: usize,
    /// Bytes of bodies; reached by the message that goes over it.
    pub bytes: usize,
    /// How long to wait for more after the first message.
    pub linger: Duration,
}

/// What was delivered together, and is acknowledged together.
#[derive(Debug)]
pub struct Delivery<R> {
    /// In the order of their arrival. Empty only where there are gaps.
    pub messages: Vec<Message>,
    /// What was found to be lost before these.
    pub gaps: Vec<Gap>,
    /// For [`QueueSession::acknowledge`] or [`QueueSession::reject`].
    pub receipt: R,
}

/// One message as the broker delivered it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// The stream it belongs to; `None`: that of the source.
    pub stream: Option<Arc<str>>,
    /// Its version in the stream; `None`: the next one, in order of arrival.
    pub version: Option<i64>,
    /// What it is called at the broker, for dead letters: an offset, an entry id. Empty where it has no name.
    pub reference: String,
    /// Its body, verbatim. Where the broker has no single body, what was made of its parts.
    pub body: Bytes,
    /// Why the driver cannot read it, although it was delivered.
    pub fault: Option<String>,
    /// Its type, where a property or header gives one.
    pub event_type: Option<String>,
    /// Its id, where a property or header gives one, whatever it looks like.
    pub message_id: Option<String>,
    /// When it occurred, where a property or header tells.
    pub occurred_at: Option<DateTime<Utc>>,
    /// Its type where neither the properties nor the body give one: a routing key, a topic.
    pub routed_as: Arc<str>,
    /// Headers, keys and properties.
    pub metadata: Map<String, Value>,
}

/// Ids that the broker has dropped before they were delivered here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The stream; `None`: that of the source.
    pub stream: Option<Arc<str>>,
    /// The first id that may be missing.
    pub first_id: i64,
    /// The last one.
    pub last_id: i64,
    /// Why they are gone, for people.
    pub reason: String,
}

/// What a look at a queue found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueInspection {
    /// One line: what is there, and how much of it.
    pub what: String,
    /// What works and may still surprise: one line each, with what to do.
    pub warnings: Vec<String>,
}

/// Why a queue cannot be used, or no longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct QueueError {
    /// What follows from it.
    pub class: QueueFailure,
    /// What happened, for people; holds no secret.
    pub reason: String,
    /// What to do about it.
    pub fix: Option<String>,
}

/// The kinds of [`QueueError`]; `loader/policy.rs` says what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QueueFailure {
    /// The broker cannot be reached, or went away: it may come back by itself.
    Unavailable,
    /// The broker refuses: credentials, rights, a queue that is not there. Somebody has to act.
    Rejected,
}

impl QueueError {
    /// The broker is away.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self { class: QueueFailure::Unavailable, reason: reason.into(), fix: None }
    }

    /// The broker refuses.
    pub fn rejected(reason: impl Into<String>) -> Self {
        Self { class: QueueFailure::Rejected, reason: reason.into(), fix: None }
    }

    /// The same error with what to do about it.
    #[must_use]
    pub fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}
