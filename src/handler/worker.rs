//! The worker: takes a subscription, again and again, and has its events handled while it is held.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sqlx::PgPool;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::HandlerRegistry;
use super::attempt::Outcome;
use super::term::{Term, Until};
use crate::loader;
use crate::loader::policy::{Backoff, RETRY_BACKOFF};
use crate::store::{StoreError, subscription};
use crate::telemetry::chain;

/// The database is away, full, or refuses us.
const TROUBLE_BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(250), factor: 2, cap: Duration::from_secs(5) };

/// Has the events of the log handled, under a name that keeps its place in the log.
///
/// The name is the consumer: what was consumed, and how far the log was read, is kept under it. A new name begins at the
/// beginning of the log. Events without a handler are passed over for good; a handler that is added later gets what comes
/// then.
///
/// # What keeps two processes apart
///
/// The subscription is held by one process at a time: a lease under an epoch that grows, renewed while the process
/// lives, by the database's time. What is written under an old epoch is refused. The event itself is held by the open
/// transaction of its handler, whose mark nobody else can write before that transaction is over: a handler that takes
/// longer than the lease, in a process that was taken for dead, is waited for, and not run twice.
#[derive(Clone)]
pub struct HandlerWorker {
    /// The name of the subscription, 1 to 190 bytes.
    pub name: String,
    /// The database. Each running handler takes a connection, the worker itself one more; the limits of the pool's
    /// sessions (`statement_timeout`, `lock_timeout`, `search_path`) are those of the handlers.
    pub pool: PgPool,
    /// What is called.
    pub registry: Arc<HandlerRegistry>,
    /// Events handled at once, each of another stream; at least 1. At most as many as the pool has connections, less one.
    pub concurrency: u32,
    /// Attempts at an event, the first included, before it becomes a dead letter; at least 1.
    pub max_attempts: u32,
    /// The pauses between them.
    pub backoff: Backoff,
    /// Longest time of one attempt.
    pub timeout: Duration,
    /// How long a silent process keeps the subscription; at least 500 ms. Renewed every third of it.
    pub lease_ttl: Duration,
    /// How long it is remembered that a message was consumed, and repetitions of it in other streams are recognised.
    pub dedup_retention: Duration,
    /// What this worker is called in `subscription`; no other one has the name.
    pub owner: String,
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Everything that could be handled was.
    Done(PassReport),
    /// Another process holds the subscription, or took it meanwhile; what was done before that.
    StandBy(PassReport),
}

/// What was done with events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PassReport {
    /// Handled, and committed.
    pub handled_count: u64,
    /// Consumed before under this name, or a dead letter.
    pub repeated_count: u64,
    /// Passed over by their handler.
    pub skipped_count: u64,
    /// Passed over because there is no handler.
    pub unknown_count: u64,
    /// Failed attempts that are followed by another.
    pub failed_count: u64,
    /// Given up, and kept as dead letters.
    pub dead_letter_count: u64,
}

impl PassReport {
    pub(super) fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Handled => self.handled_count += 1,
            Outcome::Repeated => self.repeated_count += 1,
            Outcome::Skipped => self.skipped_count += 1,
            Outcome::Failed => self.failed_count += 1,
            Outcome::DeadLetter => self.dead_letter_count += 1,
            Outcome::Collided | Outcome::Lost => {}
        }
    }
}

impl HandlerWorker {
    /// A worker with 16 events at once, 5 attempts (1 s × 4 up to 300 s between them) of at most 5 minutes, a lease of
    /// 10 s, and marks kept for 30 days.
    pub fn new(name: impl Into<String>, pool: PgPool, registry: HandlerRegistry) -> Self {
        Self {
            name: name.into(),
            pool,
            registry: Arc::new(registry),
            concurrency: 16,
            max_attempts: 5,
            backoff: RETRY_BACKOFF,
            timeout: Duration::from_mins(5),
            lease_ttl: Duration::from_secs(10),
            dedup_retention: Duration::from_hours(24 * 30),
            owner: loader::new_owner(),
        }
    }

    /// Has events handled until `stop`, whatever happens to the database meanwhile. Answers what was done.
    ///
    /// # Cancel safety
    ///
    /// After `stop` no event is begun; those in work are finished. Dropping the future instead rolls them back, and the
    /// next process waits for the lease to expire. Nothing is lost either way.
    pub async fn run(self, stop: CancellationToken) -> PassReport {
        let mut report = PassReport::default();
        let mut known = HashSet::new();
        let mut failures = 0;
        while !stop.is_cancelled() {
            let worked = self.work(&stop, Until::Stopped, &mut report, &mut known).await;
            let pause = if let Err(error) = worked {
                failures += 1;
                report_trouble(&self.name, &error, failures);
                TROUBLE_BACKOFF.delay(failures, rand::random())
            } else {
                failures = 0;
                // Another process holds the subscription, and may end any time.
                self.lease_ttl() / 3
            };
            stop.run_until_cancelled(sleep(pause)).await;
        }
        tracing::debug!(subscription = self.name, ?report, "handlers stopped");
        report
    }

    /// Has everything handled that can be now: what is in the log, and what failed before and may be tried again.
    ///
    /// # Errors
    ///
    /// The database does not answer or refuses us.
    pub async fn run_once(&self) -> Result<Pass, StoreError> {
        let mut report = PassReport::default();
        let stop = CancellationToken::new();
        let is_done = self.work(&stop, Until::CaughtUp, &mut report, &mut HashSet::new()).await?;
        Ok(if is_done { Pass::Done(report) } else { Pass::StandBy(report) })
    }

    pub(super) fn lease_ttl(&self) -> Duration {
        self.lease_ttl.max(Duration::from_millis(500))
    }

    /// Takes the subscription and works while it is held. `false`: somebody else holds it.
    async fn work(
        &self,
        stop: &CancellationToken,
        until: Until,
        report: &mut PassReport,
        known: &mut HashSet<String>,
    ) -> Result<bool, StoreError> {
        let ttl = self.lease_ttl();
        let taken = subscription::try_acquire(&self.pool, &self.name, &self.owner, ttl).await?;
        let Some(held) = taken else {
            tracing::debug!(subscription = self.name, "another process has the events handled");
            return Ok(false);
        };
        tracing::info!(
            subscription = self.name,
            position = held.position,
            epoch = held.epoch,
            "handling events"
        );
        let mut term = Term::new(self, held, report, known);
        let outcome = term.run(stop, until).await;
        let is_lost = term.is_lost;
        if is_lost {
            tracing::warn!(subscription = self.name, "another process took the subscription");
            outcome?;
        } else {
            // A database that is away lets the lease expire instead.
            let released = subscription::release(&self.pool, &self.name, held.epoch).await;
            outcome.and(released)?;
        }
        Ok(!is_lost)
    }
}

fn report_trouble(subscription: &str, error: &StoreError, failures: u32) {
    if failures == 1 || failures.is_multiple_of(100) {
        tracing::warn!(
            subscription,
            error = chain(error),
            hint = error.hint(),
            failures,
            "cannot have events handled; trying until it works"
        );
    }
}
