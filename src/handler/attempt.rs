//! One attempt at one event: mark, handle, commit; or write down what follows from the failure.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use sqlx::PgPool;
use uuid::Uuid;

use super::lanes::{Reason, Task};
use super::{Handler, HandlerError, HandlerRegistry, LoggedEvent, Verdict, derived_message_id};
use crate::event::JsonText;
use crate::event::excerpt::excerpt;
use crate::loader::policy::Backoff;
use crate::store::consumed_message::{self, Consumer, Mark};
use crate::store::event_log::{EventBody, EventHead};
use crate::store::subscription_retry::WaitingStream;
use crate::store::{Remedy, StoreError, subscription_replay, subscription_retry};
use crate::telemetry::chain;

/// Longest reason that is kept, in characters.
const REASON_LENGTH_MAX: usize = 2000;

/// After a collision with another transaction, which says nothing of the event.
const COLLISION_PAUSE: Duration = Duration::from_secs(1);

/// What an attempt needs besides the event.
pub(super) struct Attempt<'a> {
    pub(super) pool: &'a PgPool,
    pub(super) registry: &'a HandlerRegistry,
    pub(super) consumer: Consumer<'a>,
    /// Attempts before an event becomes a dead letter.
    pub(super) max_attempts: u32,
    pub(super) backoff: Backoff,
    /// Longest time of one attempt.
    pub(super) timeout: Duration,
}

/// How an attempt ended, as it is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The handler did its work.
    Handled,
    /// The handler passed it over.
    Skipped,
    /// It was consumed before, or is a dead letter.
    Repeated,
    /// It failed, and is tried again.
    Failed,
    /// Another transaction was in the way; tried again soon.
    Collided,
    /// It is a dead letter now.
    DeadLetter,
    /// The subscription belongs to another process. Nothing was changed.
    Lost,
}

/// How a handler's transaction ended.
enum Ended {
    Committed,
    Marked(Mark),
    RolledBack(HandlerError),
}

impl Attempt<'_> {
    /// Makes the attempt.
    ///
    /// # Errors
    ///
    /// The database does not answer; whether the attempt was committed is told by its mark.
    ///
    /// # Cancel safety
    ///
    /// What was not committed is rolled back.
    pub(super) async fn run(&self, task: &Task) -> Result<Outcome, StoreError> {
        let head = &task.head;
        let message_id =
            head.message_id.unwrap_or_else(|| derived_message_id(&head.stream, head.version));
        let attempt = task.attempts.saturating_add(1);
        let Some(handler) = self.registry.find(&head.event_type) else {
            // Only what was replayed comes here without a handler.
            let reason = format!("no handler is registered for {}", head.event_type);
            return self.set_aside(task, message_id, &reason).await;
        };
        tracing::debug!(
            subscription = self.consumer.name,
            stream = head.stream,
            version = head.version,
            position = head.position,
            event_type = head.event_type,
            attempt,
            "handling an event"
        );
        match self.transact(handler.as_ref(), head, message_id, attempt).await {
            Ok(Ended::Committed) => Ok(Outcome::Handled),
            Ok(Ended::Marked(Mark::Lost)) => Ok(Outcome::Lost),
            Ok(Ended::Marked(_)) => {
                if task.reason == Reason::Replay {
                    subscription_replay::end(self.pool, self.consumer.name, head.position).await?;
                }
                Ok(Outcome::Repeated)
            }
            Ok(Ended::RolledBack(error)) => self.judge(task, message_id, &error).await,
            Err(error) if error.remedy() == Remedy::TryAgain && !error.is_outage() => {
                let said = chain(&error);
                self.wait(task, task.attempts, &said, COLLISION_PAUSE, Outcome::Collided).await
            }
            Err(error) => Err(error),
        }
    }

    /// The transaction: the mark first, which keeps everybody else from the event; then the handler; then the commit. A
    /// crash at any point leaves all of it or nothing.
    async fn transact(
        &self,
        handler: &dyn Handler,
        head: &EventHead,
        message_id: Uuid,
        attempt: u32,
    ) -> Result<Ended, StoreError> {
        let failed = |operation| move |cause| StoreError { operation, cause };
        let mut transaction =
            self.pool.begin().await.map_err(failed("begin the transaction of a handler"))?;
        // PostgreSQL's patience ends after ours.
        let idle = self.timeout.saturating_mul(2);
        let mark =
            consumed_message::mark(&mut transaction, self.consumer, head, message_id, idle).await?;
        let Mark::Fresh(body) = mark else { return Ok(Ended::Marked(mark)) };
        let event = logged(head, body, message_id, attempt);
        let call = AssertUnwindSafe(handler.handle(event, &mut transaction)).catch_unwind();
        let error = match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(error))) => Some(error),
            Ok(Err(panic)) => Some(HandlerError::of_panic(panic.as_ref())),
            // Dropped, not rolled back: a statement may be under way that nobody should wait for.
            Err(_) => return Ok(Ended::RolledBack(too_slow(self.timeout))),
        };
        if let Some(error) = error {
            // What it undoes is undone as well if the connection is gone.
            drop(transaction.rollback().await);
            return Ok(Ended::RolledBack(error));
        }
        let kept =
            consumed_message::is_marked(&mut transaction, self.consumer, head, message_id).await;
        match kept {
            Ok(true) => {}
            Ok(false) => return Ok(Ended::RolledBack(ended_by_handler())),
            Err(error) if error.code().as_deref() == Some("25P02") => {
                return Ok(Ended::RolledBack(aborted_by_handler()));
            }
            Err(error) => return Err(error),
        }
        match transaction.commit().await.map_err(failed("commit the transaction of a handler")) {
            Ok(()) => Ok(Ended::Committed),
            // A deferred constraint, a serialization failure: of what the handler wrote.
            Err(error) if !error.is_outage() => Ok(Ended::RolledBack(error.into())),
            Err(error) => Err(error),
        }
    }

    /// What follows from a failure.
    async fn judge(
        &self,
        task: &Task,
        message_id: Uuid,
        error: &HandlerError,
    ) -> Result<Outcome, StoreError> {
        let reason = excerpt(&error.to_string(), REASON_LENGTH_MAX);
        let attempt = task.attempts.saturating_add(1);
        match error.verdict {
            Verdict::Skip => self.skip(task, message_id, &reason).await,
            Verdict::Retry if attempt < self.max_attempts => {
                let retry_in = self.backoff.delay(attempt, rand::random());
                tracing::warn!(
                    subscription = self.consumer.name,
                    stream = task.head.stream,
                    version = task.head.version,
                    event_type = task.head.event_type,
                    attempt,
                    retry_in_ms = retry_in.as_millis(),
                    error = reason,
                    "event was not handled; its stream waits for another attempt"
                );
                self.wait(task, attempt, &reason, retry_in, Outcome::Failed).await
            }
            Verdict::Retry | Verdict::Permanent => self.set_aside(task, message_id, &reason).await,
        }
    }

    async fn wait(
        &self,
        task: &Task,
        attempts: u32,
        reason: &str,
        retry_in: Duration,
        outcome: Outcome,
    ) -> Result<Outcome, StoreError> {
        let Consumer { name, epoch } = self.consumer;
        let attempts = i32::try_from(attempts).unwrap_or(i32::MAX);
        let position = task.head.position;
        let held = if task.reason == Reason::Replay {
            let tried = (position, attempts);
            subscription_replay::wait(self.pool, (name, epoch), tried, reason, retry_in).await?
        } else {
            let waiting = WaitingStream { stream: task.head.stream.clone(), position, attempts };
            subscription_retry::wait(self.pool, (name, epoch), &waiting, reason, retry_in).await?
        };
        Ok(if held { outcome } else { Outcome::Lost })
    }

    async fn set_aside(
        &self,
        task: &Task,
        message_id: Uuid,
        reason: &str,
    ) -> Result<Outcome, StoreError> {
        let attempts = task.attempts.saturating_add(1);
        let counted = i32::try_from(attempts).unwrap_or(i32::MAX);
        let held = consumed_message::set_aside(
            self.pool,
            self.consumer,
            &task.head,
            message_id,
            reason,
            counted,
        )
        .await?;
        if !held {
            return Ok(Outcome::Lost);
        }
        tracing::error!(
            subscription = self.consumer.name,
            stream = task.head.stream,
            version = task.head.version,
            event_type = task.head.event_type,
            attempts,
            error = reason,
            "event was given up; see `eventloader dead-letters list`"
        );
        Ok(Outcome::DeadLetter)
    }

    /// Marks an event that its handler passes over, without what the handler did.
    async fn skip(
        &self,
        task: &Task,
        message_id: Uuid,
        reason: &str,
    ) -> Result<Outcome, StoreError> {
        let ended = self.transact(&PassOver, &task.head, message_id, 1).await?;
        if matches!(ended, Ended::Marked(Mark::Lost)) {
            return Ok(Outcome::Lost);
        }
        tracing::info!(
            subscription = self.consumer.name,
            stream = task.head.stream,
            version = task.head.version,
            event_type = task.head.event_type,
            reason,
            "event was skipped by its handler"
        );
        Ok(Outcome::Skipped)
    }
}

/// Does nothing with an event.
struct PassOver;

#[async_trait::async_trait]
impl Handler for PassOver {
    async fn handle(
        &self,
        _event: LoggedEvent,
        _transaction: &mut sqlx::PgConnection,
    ) -> super::HandlerResult {
        Ok(())
    }
}

fn logged(head: &EventHead, body: EventBody, message_id: Uuid, attempt: u32) -> LoggedEvent {
    let payload = Bytes::from(body.payload);
    let text = std::str::from_utf8(&payload).expect("it was a String");
    LoggedEvent {
        position: head.position,
        stream: head.stream.clone(),
        version: head.version,
        event_type: head.event_type.clone(),
        schema_version: body.schema_version,
        payload: JsonText::slice_of(&payload, text),
        metadata: body.metadata,
        tags: body.tags,
        message_id,
        occurred_at: body.occurred_at,
        recorded_at: body.recorded_at,
        attempt,
    }
}

fn too_slow(timeout: Duration) -> HandlerError {
    HandlerError::retry(format!("the handler took longer than {timeout:?}"))
}

fn aborted_by_handler() -> HandlerError {
    HandlerError::retry(
        "a statement of the handler failed and the handler went on, but PostgreSQL takes nothing more in that \
         transaction; hand the error on, or use a savepoint",
    )
}

fn ended_by_handler() -> HandlerError {
    HandlerError::permanent(
        "the handler rolled its transaction back by itself; answer an error instead, and it is rolled back",
    )
}
