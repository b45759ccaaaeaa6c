//! Handlers: what a program does with events, by their names.
//!
//! A [`HandlerRegistry`] says which function handles which `event_type`; a [`HandlerWorker`] reads the event log under
//! a name of its own and calls them. `examples/handlers.rs` is a whole program.
//!
//! # Contract
//!
//! 1. **Once.** A handler is given an open transaction, in which it is written down that the event was consumed. What the
//!    handler does with that transaction is committed together with the mark, or not at all: a crash, an error or a panic
//!    undoes both. What it does elsewhere (mails, calls of other services) may be repeated after a crash; pass
//!    [`LoggedEvent::message_id`] on, so that the other side can recognise it.
//! 2. **Order.** The events of a stream are handled one after the other, by position. Streams are handled side by side.
//! 3. **Failures.** An event whose handler fails is tried again, with growing pauses; only its own stream waits. After
//!    the last attempt it becomes a dead letter with its reason, and the stream goes on. [`HandlerError`] says what can
//!    be decided otherwise.
//! 4. **One at a time.** Any number of processes may run a worker of the same name: one works, the others stand by.
//!
//! Start reading at [`HandlerWorker::run`].

mod attempt;
mod lanes;
mod registry;
mod term;
mod worker;

use std::any::Any;
use std::error::Error;
use std::fmt;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

pub use registry::{HandlerFn, HandlerRegistry, RegistrationError};
pub use worker::{HandlerWorker, Pass, PassReport};

use crate::event::JsonText;
use crate::telemetry::chain;

/// How a handler ends.
pub type HandlerResult = Result<(), HandlerError>;

/// An event of the log, as a handler is given it.
#[derive(Clone, Debug)]
pub struct LoggedEvent {
    /// Its place in the log.
    pub position: i64,
    /// Its stream: a source, or an aggregate.
    pub stream: String,
    /// Its place in the stream; of a source, the source's own id.
    pub version: i64,
    /// Its type, by which the handler was found.
    pub event_type: String,
    /// The version of the payload's schema.
    pub schema_version: i32,
    /// Numbers digit by digit; see [`Self::payload_as`].
    pub payload: JsonText,
    /// Headers, keys and properties.
    pub metadata: serde_json::Value,
    /// Its tags.
    pub tags: Vec<String>,
    /// What it is consumed once by: its own id, or one made of stream and version. The same at every attempt.
    pub message_id: Uuid,
    /// When it occurred, where it says so.
    pub occurred_at: Option<DateTime<Utc>>,
    /// When it came into the log.
    pub recorded_at: DateTime<Utc>,
    /// From 1. Survives restarts.
    pub attempt: u32,
}

impl LoggedEvent {
    /// The payload as a value of the program.
    ///
    /// # Errors
    ///
    /// It is none, permanently; the reason names the path and what stands there.
    pub fn payload_as<T: DeserializeOwned>(&self) -> Result<T, HandlerError> {
        let text = self.payload.as_str();
        // The path costs time, and most payloads fit.
        serde_json::from_str(text).map_err(|plain| {
            let mut json = serde_json::Deserializer::from_str(text);
            let reason = match serde_path_to_error::deserialize::<_, T>(&mut json) {
                Err(error) if error.path().iter().len() > 0 => {
                    format!("{}: {}", error.path(), error.inner())
                }
                _ => plain.to_string(),
            };
            let (event_type, wanted) = (&self.event_type, std::any::type_name::<T>());
            HandlerError::permanent(format!("the payload of {event_type} is no {wanted}: {reason}"))
        })
    }
}

/// What handles events. Async functions and closures do as well: [`HandlerRegistry::on`].
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Handles one event. What is done over `transaction` is committed together with the mark that the event was
    /// consumed, if the answer is `Ok`; it must not be committed or rolled back here. Its tables are named with their
    /// schema: the connection may have a `search_path` of its own.
    ///
    /// # Errors
    ///
    /// See [`HandlerError`]. A panic counts as an error.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when it takes longer than [`HandlerWorker::timeout`]; the transaction is rolled back then.
    async fn handle(&self, event: LoggedEvent, transaction: &mut PgConnection) -> HandlerResult;
}

/// Why an event was not handled, and what follows.
///
/// Every error becomes one by `?`, and means: try again later. Like `anyhow::Error`, it is no [`Error`] itself.
pub struct HandlerError {
    verdict: Verdict,
    cause: Box<dyn Error + Send + Sync>,
}

/// What follows from an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Another attempt, while there are some left; then a dead letter.
    Retry,
    /// A dead letter at once.
    Permanent,
    /// Nothing: the event counts as consumed.
    Skip,
}

impl HandlerError {
    /// It may work later: tried again, with growing pauses.
    pub fn retry(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { verdict: Verdict::Retry, cause: cause.into() }
    }

    /// It will never work: the event becomes a dead letter at once.
    pub fn permanent(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { verdict: Verdict::Permanent, cause: cause.into() }
    }

    /// It is not worth keeping: what the handler did is undone, the event counts as consumed, the cause is logged.
    pub fn skip(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { verdict: Verdict::Skip, cause: cause.into() }
    }

    fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let said = panic.downcast_ref::<&str>().copied();
        let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self::retry(format!("the handler panicked: {}", said.unwrap_or("without a message")))
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::retry(error)
    }
}

impl fmt::Display for HandlerError {
    /// The error and its causes, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(self.cause.as_ref()))
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.verdict)
    }
}

/// The message id of an event that has none: version 8, by SHA-256 of its place. No other event has the place.
fn derived_message_id(stream: &str, version: i64) -> Uuid {
    let digest = Sha256::digest(format!("event {version} {stream}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Uuid::new_v8(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_are_version_8_the_same_each_time_and_different_for_each_place() {
        let id = derived_message_id("orders", 7);
        assert_eq!((id.get_version_num(), id), (8, derived_message_id("orders", 7)));
        for (stream, version) in [("orders", 8), ("orders", -7), ("order", 7), ("7 orders", 7)] {
            assert_ne!(id, derived_message_id(stream, version), "{stream} {version}");
        }
    }

    #[test]
    fn every_error_means_another_attempt_and_tells_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot reserve the stock")]
        struct Outer(#[source] std::num::ParseIntError);

        let cause = "x".parse::<i32>().unwrap_err();
        let error = HandlerError::from(Outer(cause));
        let said = "cannot reserve the stock: invalid digit found in string";
        assert_eq!(error.to_string(), said);
        assert_eq!(format!("{error:?}"), format!("Retry: {said}"));
        assert_eq!(HandlerError::skip("test data").verdict, Verdict::Skip);
        assert_eq!(HandlerError::permanent("gone").verdict, Verdict::Permanent);
    }
}
