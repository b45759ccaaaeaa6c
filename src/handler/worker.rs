//! The worker: holds a subscription, reads the log, and has its events handled.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::HandlerRegistry;
use super::attempt::{Attempt, Outcome};
use super::lanes::{Lanes, Reason, Task, Then};
use crate::loader;
use crate::loader::policy::{Backoff, RETRY_BACKOFF};
use crate::store::consumed_message::Consumer;
use crate::store::event_log::{self, EventHead};
use crate::store::subscription::{self, Held};
use crate::store::{StoreError, message, subscription_replay, subscription_retry};
use crate::telemetry::chain;

/// How often the log is looked at when nothing was new.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Events read at once, without their bodies.
const PAGE: i64 = 500;

/// Streams that waited, and replayed events, taken up at once.
const DUE_AT_ONCE: i64 = 50;

/// Events of one stream that waited, read at once.
const STREAM_PAGE: i64 = 100;

/// Event types without a handler that are told apart in the log.
const UNKNOWN_TYPES_MAX: usize = 1000;

/// How often marks that are older than needed are looked for, and how many are removed then.
const FORGET_EVERY: Duration = Duration::from_mins(10);
const FORGET_AT_ONCE: i64 = 10_000;

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
    fn count(&mut self, outcome: Outcome) {
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

/// When the work ends by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Never.
    Stopped,
    /// When nothing is left to do now.
    CaughtUp,
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

    fn lease_ttl(&self) -> Duration {
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

/// The time between taking the subscription and giving it back.
struct Term<'a> {
    worker: &'a HandlerWorker,
    held: Held,
    lanes: Lanes,
    /// As it was last written.
    checkpoint: i64,
    is_lost: bool,
    jobs: JoinSet<(Task, Result<Outcome, StoreError>)>,
    report: &'a mut PassReport,
    /// Event types without a handler that were told of.
    unknown_types: &'a mut HashSet<String>,
}

impl<'a> Term<'a> {
    fn new(
        worker: &'a HandlerWorker,
        held: Held,
        report: &'a mut PassReport,
        unknown_types: &'a mut HashSet<String>,
    ) -> Self {
        Self {
            worker,
            held,
            lanes: Lanes::at(held.position),
            checkpoint: held.position,
            is_lost: false,
            jobs: JoinSet::new(),
            report,
            unknown_types,
        }
    }

    /// The loop. In the order of priority: stop; an event is done with; the lease; the log.
    async fn run(&mut self, stop: &CancellationToken, until: Until) -> Result<(), StoreError> {
        let mut heartbeat = interval(self.worker.lease_ttl() / 3);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look_at = Instant::now();
        let mut forget_at = look_at;
        let mut trouble = None;
        let mut is_caught_up = false;
        loop {
            let is_ending = stop.is_cancelled() || self.is_lost || trouble.is_some();
            if !is_ending {
                self.start_jobs();
            }
            let is_done = is_caught_up && self.lanes.is_empty() && until == Until::CaughtUp;
            if self.jobs.is_empty() && (is_ending || is_done) {
                break;
            }
            let step = tokio::select! {
                biased;
                () = stop.cancelled(), if !is_ending => Ok(()),
                Some(done) = self.jobs.join_next() => {
                    is_caught_up = false;
                    self.finish_job(done).await
                }
                _ = heartbeat.tick() => self.keep().await,
                () = sleep_until(look_at), if !is_ending && !self.lanes.is_full() => {
                    let looked = self.look().await;
                    is_caught_up = matches!(looked, Ok(false));
                    let pause = if is_caught_up { LOOK_EVERY } else { Duration::ZERO };
                    look_at = Instant::now() + pause;
                    if is_caught_up && self.lanes.is_empty() && forget_at <= look_at {
                        forget_at = look_at + FORGET_EVERY;
                        self.forget().await
                    } else {
                        looked.map(|_| ())
                    }
                }
            };
            if let Err(error) = step {
                // What is in work may still be committed; only then the term ends.
                trouble.get_or_insert(error);
            }
        }
        self.save_checkpoint().await?;
        trouble.map_or(Ok(()), Err)
    }

    fn start_jobs(&mut self) {
        let connections = self.worker.pool.options().get_max_connections();
        let at_once = self.worker.concurrency.min(connections.saturating_sub(1)).max(1) as usize;
        while self.jobs.len() < at_once
            && let Some(task) = self.lanes.start()
        {
            let worker = self.worker.clone();
            let epoch = self.held.epoch;
            self.jobs.spawn(async move {
                let attempt = Attempt {
                    pool: &worker.pool,
                    registry: &worker.registry,
                    consumer: Consumer { name: &worker.name, epoch },
                    max_attempts: worker.max_attempts,
                    backoff: worker.backoff,
                    timeout: worker.timeout,
                };
                let outcome = attempt.run(&task).await;
                (task, outcome)
            });
        }
    }

    async fn finish_job(
        &mut self,
        done: Result<(Task, Result<Outcome, StoreError>), tokio::task::JoinError>,
    ) -> Result<(), StoreError> {
        let (task, outcome) = match done {
            Ok((task, outcome)) => (task, outcome?),
            // The handler's panics are caught; this one is ours. The event stays unfinished.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        self.report.count(outcome);
        tracing::debug!(
            subscription = self.worker.name,
            stream = task.head.stream,
            version = task.head.version,
            ?outcome,
            "event is done with"
        );
        match outcome {
            Outcome::Lost => self.is_lost = true,
            Outcome::Failed | Outcome::Collided if task.reason != Reason::Replay => {
                self.lanes.wait(&task);
            }
            _ => {
                if let Then::ReadMore(after) = self.lanes.finish(&task) {
                    self.read_more(&task.head.stream, after).await?;
                }
            }
        }
        Ok(())
    }

    /// The heartbeat.
    async fn keep(&mut self) -> Result<(), StoreError> {
        let (name, ttl) = (&self.worker.name, self.worker.lease_ttl());
        if !subscription::renew(&self.worker.pool, name, self.held.epoch, ttl).await? {
            self.is_lost = true;
        }
        Ok(())
    }

    /// Looks for work; answers whether there may be more.
    async fn look(&mut self) -> Result<bool, StoreError> {
        self.save_checkpoint().await?;
        let is_more = self.read_log().await?;
        let is_due = self.take_up_streams().await? | self.take_up_replays().await?;
        Ok(is_more || is_due)
    }

    /// Reads on in the log. Streams that wait are passed over: the checkpoint may go past them, they catch up later.
    async fn read_log(&mut self) -> Result<bool, StoreError> {
        let pool = &self.worker.pool;
        let watermark = event_log::watermark(pool).await?;
        let after = self.lanes.read_to();
        if watermark <= after {
            return Ok(false);
        }
        let heads = event_log::read_heads(pool, after, watermark, PAGE).await?;
        let streams: HashSet<&str> = heads.iter().map(|head| head.stream.as_str()).collect();
        let streams: Vec<&str> = streams.into_iter().collect();
        let waiting = subscription_retry::waiting_among(pool, &self.worker.name, &streams).await?;
        let waiting: HashSet<String> = waiting.into_iter().collect();
        let read_count = heads.len();
        for head in heads {
            self.lanes.set_read_to(head.position);
            if !waiting.contains(&head.stream) && self.is_known(&head) {
                self.lanes.push(Task { head, attempts: 0, reason: Reason::Next });
            }
        }
        tracing::debug!(
            subscription = self.worker.name,
            event_count = read_count,
            read_to = self.lanes.read_to(),
            watermark,
            "read the event log"
        );
        let is_more = i64::try_from(read_count).unwrap_or(PAGE) == PAGE;
        if !is_more {
            self.lanes.set_read_to(watermark);
        }
        Ok(is_more)
    }

    /// Takes up streams whose time has come.
    async fn take_up_streams(&mut self) -> Result<bool, StoreError> {
        let (pool, name) = (&self.worker.pool, &self.worker.name);
        let (read_to, busy) = (self.lanes.read_to(), self.lanes.streams());
        let due = subscription_retry::due(pool, name, read_to, &busy, DUE_AT_ONCE).await?;
        for waiting in &due {
            let (stream, attempts) = (&waiting.stream, waiting.attempts.cast_unsigned());
            // The event itself; those before it in the stream are done with.
            let before = waiting.position - 1;
            let up_to = waiting.position;
            let found = event_log::read_stream_heads(pool, stream, before, up_to, 1).await?;
            let known = found.into_iter().filter(|head| self.is_known(head));
            let tasks =
                known.map(|head| Task { head, attempts, reason: Reason::CatchUp }).collect();
            if let Then::ReadMore(after) = self.lanes.catch_up(stream, tasks, up_to) {
                self.read_more(stream, after).await?;
            }
        }
        Ok(!due.is_empty())
    }

    /// Reads on in a stream that waited, or lets it go on with the others when it has caught up.
    async fn read_more(&mut self, stream: &str, mut after: i64) -> Result<(), StoreError> {
        let (pool, up_to) = (&self.worker.pool, self.lanes.read_to());
        loop {
            let heads =
                event_log::read_stream_heads(pool, stream, after, up_to, STREAM_PAGE).await?;
            let Some(last) = heads.last() else { break };
            after = last.position;
            let tasks: Vec<Task> = heads
                .into_iter()
                .filter(|head| self.is_known(head))
                .map(|head| Task { head, attempts: 0, reason: Reason::CatchUp })
                .collect();
            if self.lanes.catch_up(stream, tasks, after) == Then::GoOn {
                return Ok(());
            }
        }
        // Nothing was read of the log since, so nothing of the stream is passed over.
        let consumer = (self.worker.name.as_str(), self.held.epoch);
        if subscription_retry::end(pool, consumer, stream).await? {
            self.lanes.caught_up(stream);
        } else {
            self.is_lost = true;
        }
        Ok(())
    }

    /// Takes up dead letters that were given back.
    async fn take_up_replays(&mut self) -> Result<bool, StoreError> {
        let (pool, name) = (&self.worker.pool, &self.worker.name);
        let due = subscription_replay::due(pool, name, &self.lanes.replayed(), DUE_AT_ONCE).await?;
        for event in &due {
            let attempts = event.attempts.cast_unsigned();
            let task = Task { head: event.head.clone(), attempts, reason: Reason::Replay };
            self.lanes.push(task);
        }
        Ok(!due.is_empty())
    }

    /// Whether an event has a handler. Each type that has none is told of once.
    fn is_known(&mut self, head: &EventHead) -> bool {
        if self.worker.registry.find(&head.event_type).is_some() {
            return true;
        }
        self.report.unknown_count += 1;
        if self.unknown_types.len() < UNKNOWN_TYPES_MAX
            && self.unknown_types.insert(head.event_type.clone())
        {
            tracing::warn!(
                subscription = self.worker.name,
                event_type = head.event_type,
                position = head.position,
                "no handler is registered for this event type; its events are passed over"
            );
        }
        false
    }

    async fn save_checkpoint(&mut self) -> Result<(), StoreError> {
        let position = self.lanes.checkpoint();
        if position <= self.checkpoint || self.is_lost {
            return Ok(());
        }
        let (pool, name) = (&self.worker.pool, &self.worker.name);
        if subscription::advance(pool, name, self.held.epoch, position).await? {
            self.checkpoint = position;
        } else {
            self.is_lost = true;
        }
        Ok(())
    }

    /// Removes old marks. Only when everything is done with: what is above the checkpoint needs its mark, however old.
    async fn forget(&mut self) -> Result<(), StoreError> {
        self.save_checkpoint().await?;
        let consumer = Consumer { name: &self.worker.name, epoch: self.held.epoch };
        let retention = self.worker.dedup_retention;
        let forgotten_count = message::forget_consumed(
            &self.worker.pool,
            &consumer.ledger_name(),
            retention,
            FORGET_AT_ONCE,
        )
        .await?;
        tracing::debug!(subscription = self.worker.name, forgotten_count, "forgot old marks");
        Ok(())
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
