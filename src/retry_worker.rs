//! Moves inbox rows to `events`: per source in id order, several sources at once, one worker per source.
//!
//! Start reading at [`RetryWorker::run`]. A pass over one source is `move_source`; it takes no input but
//! the source's name, so a hint, the periodic look and `retry-worker --once` are one path.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::JoinMap;

use crate::failpoint::{self, Place};
use crate::heartbeat::{Heartbeat, Pulse};
use crate::loader::policy::{Backoff, RETRY_BACKOFF};
use crate::metrics::{EventCount, Metrics};
use crate::storage::{EventStorage, SameDatabase};
use crate::store::inbox::{self, FailedRow, MoveOutcome, Moved};
use crate::store::{Remedy, StoreError};
use crate::telemetry::{Span, chain};

/// How often the worker looks by itself. Deposits of the same process tell it at once.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Batches of one source before the others get their turn.
const BATCHES_PER_TURN: u32 = 16;

/// Sources moved at once. Each takes a connection; two keep two cores of PostgreSQL busy.
pub const SOURCES_AT_ONCE: u32 = 4;

/// A source whose move fails: the database is away, full or busy, or refuses us.
const MOVE_BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(250), factor: 2, cap: Duration::from_secs(5) };

/// The retry worker of one instance.
#[derive(Clone)]
pub struct RetryWorker {
    /// The database with the inbox.
    pub pool: PgPool,
    /// Where events go.
    pub storage: Arc<dyn EventStorage>,
    /// Rows per batch, 1..=1000.
    pub batch_size: u32,
    /// Tries of one row before it becomes a dead letter, 1..=100.
    pub max_attempts: u32,
    /// Counts since the start.
    pub metrics: Arc<Metrics>,
    /// The sign that the loop turns.
    pub pulse: Pulse,
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PassReport {
    /// Rows that went to `events`.
    pub moved_count: u64,
    /// Rows that were in `events` already with the same body.
    pub duplicate_count: u64,
    /// Rows that went to the dead letters because `events` holds another body.
    pub conflict_count: u64,
    /// Rows that could not be moved and wait for another attempt.
    pub failed_count: u64,
    /// Rows that could not be moved for the last time, and went to the dead letters.
    pub exhausted_count: u64,
}

impl PassReport {
    fn add(&mut self, other: Self) {
        self.moved_count += other.moved_count;
        self.duplicate_count += other.duplicate_count;
        self.conflict_count += other.conflict_count;
        self.failed_count += other.failed_count;
        self.exhausted_count += other.exhausted_count;
    }

    fn add_moved(&mut self, moved: Moved) {
        self.moved_count += u64::from(moved.moved_count.cast_unsigned());
        self.duplicate_count += u64::from(moved.duplicate_count.cast_unsigned());
        self.conflict_count += u64::from(moved.conflict_count.cast_unsigned());
    }

    /// Whether every row that was tried went through.
    pub fn is_clean(&self) -> bool {
        self.failed_count == 0 && self.exhausted_count == 0
    }

    fn did_something(&self) -> bool {
        *self != Self::default()
    }
}

/// How a turn at one source ended.
enum Turn {
    /// Nothing movable is left.
    Drained(PassReport),
    /// There is more; the others first.
    More(PassReport),
}

impl RetryWorker {
    /// A worker that moves to `events` beside the inbox, 1000 rows a batch, 5 tries a row.
    pub fn new(pool: PgPool) -> Self {
        let storage = Arc::new(SameDatabase { pool: pool.clone() });
        Self {
            pool,
            storage,
            batch_size: 1000,
            max_attempts: 5,
            metrics: Arc::default(),
            pulse: Pulse::new("retry-worker"),
        }
    }

    /// Moves whatever can be moved until `stop`.
    ///
    /// # Cancel safety
    ///
    /// Ends between turns; a batch is one transaction, so even a killed worker leaves nothing half done.
    pub async fn run(self, mut hints: mpsc::Receiver<String>, stop: CancellationToken) {
        let mut queue = Queue::default();
        let mut running: JoinMap<String, Result<Turn, StoreError>> = JoinMap::new();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut hints_open = true;
        let mut rests = Rests::default();
        let mut look_failures = 0;
        let mut heartbeat = Heartbeat::of(self.pulse.clone());
        loop {
            // Read once: between two looks it may come, and leave nothing to wait for.
            let going_on = !stop.is_cancelled();
            if !going_on && running.is_empty() {
                return;
            }
            tokio::select! {
                biased;
                () = heartbeat.beat() => {}
                () = stop.cancelled(), if going_on => queue.clear(),
                Some((source_name, turn)) = running.join_next() => match turn {
                    Ok(Ok(Turn::Drained(_))) => {
                        failpoint::hit(Place::TurnDone);
                        rests.end(&source_name);
                    }
                    Ok(Ok(Turn::More(_))) => {
                        rests.end(&source_name);
                        queue.push(source_name);
                    }
                    Ok(Err(error)) => {
                        self.metrics.move_failed();
                        let failures = rests.begin(&source_name);
                        report_trouble(&source_name, &error, failures);
                    }
                    Err(error) => {
                        rests.begin(&source_name);
                        tracing::error!(source_name, error = chain(&error), "move panicked");
                    }
                },
                hint = hints.recv(), if hints_open && going_on => match hint {
                    Some(source_name) => queue.push(source_name),
                    None => hints_open = false,
                },
                _ = look.tick(), if going_on => {
                    look_failures = self.look(&mut queue, look_failures).await;
                }
            }
            let now = Instant::now();
            while !stop.is_cancelled()
                && running.len() < SOURCES_AT_ONCE as usize
                && let Some(source_name) =
                    queue.pop_unless(|name| running.contains_key(name) || rests.contains(name, now))
            {
                let worker = self.clone();
                running.spawn(source_name.clone(), async move {
                    worker.move_source(&source_name).await
                });
            }
        }
    }

    /// Queues the sources that have something to move. Takes and answers how many looks in a row failed: an outage is
    /// said when it begins and when it ends.
    async fn look(&self, queue: &mut Queue, failures: u32) -> u32 {
        failpoint::hit(Place::LookUnsent);
        match inbox::movable_sources(&self.pool).await {
            Ok(names) => {
                failpoint::hit(Place::LookDone);
                if failures > 0 {
                    tracing::info!("the inbox can be looked at again");
                }
                for name in names {
                    queue.push(name);
                }
                0
            }
            Err(error) => {
                self.metrics.move_failed();
                if failures == 0 {
                    tracing::warn!(
                        error = chain(&error),
                        hint = error.hint(),
                        "cannot look at the inbox; trying until it works"
                    );
                }
                failures.saturating_add(1)
            }
        }
    }

    /// Makes passes until nothing movable is left, and says what they did. Rows that somebody else has locked, and rows
    /// that wait for another attempt, are left alone.
    ///
    /// # Errors
    ///
    /// The database does not answer or refuses us.
    pub async fn run_once(&self) -> Result<PassReport, StoreError> {
        let mut total = PassReport::default();
        loop {
            let mut pass = PassReport::default();
            for source_name in inbox::movable_sources(&self.pool).await? {
                loop {
                    match self.move_source(&source_name).await? {
                        Turn::Drained(report) => {
                            pass.add(report);
                            break;
                        }
                        Turn::More(report) => pass.add(report),
                    }
                }
            }
            total.add(pass);
            if !pass.did_something() {
                return Ok(total);
            }
        }
    }

    /// One turn at one source. A batch that fails for its data is halved until the row at fault stands alone; that row
    /// waits for another attempt, or becomes a dead letter, and its neighbours go on.
    async fn move_source(&self, source_name: &str) -> Result<Turn, StoreError> {
        let mut report = PassReport::default();
        let mut limit = self.batch_size;
        for _ in 0..BATCHES_PER_TURN {
            failpoint::hit(Place::MoveUnsent);
            let began = Instant::now();
            let span = Span::move_batch(source_name);
            let outcome = span.around(self.storage.move_batch(source_name, limit)).await;
            describe(&span, &outcome);
            match outcome {
                Ok(MoveOutcome::Moved(moved)) => {
                    failpoint::hit(Place::MoveDone);
                    report.add_moved(moved);
                    self.metrics.moved(source_name, began.elapsed());
                    let moved_count = u64::from(moved.moved_count.cast_unsigned());
                    self.metrics.count(source_name, EventCount::Moved, moved_count);
                    report_conflicts(source_name, moved);
                    if moved.row_count() < limit {
                        return Ok(Turn::Drained(report));
                    }
                    limit = (limit * 2).min(self.batch_size);
                }
                Ok(MoveOutcome::Nothing | MoveOutcome::Busy) => return Ok(Turn::Drained(report)),
                Ok(MoveOutcome::Failed(row)) => match self.fail_row(source_name, &row).await? {
                    Some(true) => report.exhausted_count += 1,
                    Some(false) => report.failed_count += 1,
                    None => {}
                },
                Err(error) if error.remedy() == Remedy::SetRowAside && limit > 1 => {
                    limit = limit.div_ceil(2);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Turn::More(report))
    }

    async fn fail_row(
        &self,
        source_name: &str,
        row: &FailedRow,
    ) -> Result<Option<bool>, StoreError> {
        let attempt = row.attempts.cast_unsigned() + 1;
        let retry_in = RETRY_BACKOFF.delay(attempt, rand::random());
        let exhausted =
            inbox::fail_row(&self.pool, source_name, row, self.max_attempts, retry_in).await?;
        if let Some(exhausted) = exhausted {
            tracing::warn!(
                source_name,
                event_id = row.event_id,
                attempt,
                exhausted,
                error = row.reason,
                "event cannot be moved to the event log"
            );
        }
        Ok(exhausted)
    }
}

/// What a trace shows of a batch. Most looks of an idle worker find nothing, and are not worth a span.
fn describe(span: &Span, outcome: &Result<MoveOutcome, StoreError>) {
    match outcome {
        Ok(MoveOutcome::Moved(moved)) => {
            span.set("outcome", "moved");
            span.count("event_count", moved.moved_count);
            span.count("duplicate_count", moved.duplicate_count);
            span.count("conflict_count", moved.conflict_count);
        }
        Ok(MoveOutcome::Failed(row)) => {
            span.set("outcome", "failed");
            span.failed(&row.reason);
        }
        Ok(MoveOutcome::Nothing | MoveOutcome::Busy) => span.forget(),
        Err(error) => {
            span.set("outcome", "error");
            span.failed(&chain(error));
        }
    }
}

fn report_conflicts(source_name: &str, moved: Moved) {
    if moved.conflict_count > 0 {
        tracing::error!(
            source_name,
            event_count = moved.conflict_count,
            "the event log holds other bodies for these ids; see `eventloader dead-letters list --kind conflict`"
        );
    }
}

fn report_trouble(source_name: &str, error: &StoreError, failures: u32) {
    if failures == 1 || failures.is_multiple_of(100) {
        tracing::warn!(
            source_name,
            error = chain(error),
            hint = error.hint(),
            failures,
            "cannot move events; trying again"
        );
    }
}

/// Sources whose last move failed, each for a while of its own: what one source meets (rights, a stream that belongs to
/// somebody else) does not delay the others, and a database that is away delays each.
#[derive(Default)]
struct Rests(HashMap<String, Rest>);

struct Rest {
    failures: u32,
    until: Instant,
}

impl Rests {
    /// Answers how many moves of the source have failed in a row.
    fn begin(&mut self, source_name: &str) -> u32 {
        let failures = self.0.get(source_name).map_or(0, |rest| rest.failures).saturating_add(1);
        let until = Instant::now() + MOVE_BACKOFF.delay(failures, rand::random());
        self.0.insert(source_name.to_owned(), Rest { failures, until });
        failures
    }

    fn end(&mut self, source_name: &str) {
        self.0.remove(source_name);
    }

    fn contains(&self, source_name: &str, now: Instant) -> bool {
        self.0.get(source_name).is_some_and(|rest| rest.until > now)
    }
}

/// Sources to look at, each once.
#[derive(Default)]
struct Queue {
    names: VecDeque<String>,
    known: HashSet<String>,
}

impl Queue {
    fn push(&mut self, name: String) {
        if self.known.insert(name.clone()) {
            self.names.push_back(name);
        }
    }

    fn pop_unless(&mut self, is_running: impl Fn(&str) -> bool) -> Option<String> {
        let place = self.names.iter().position(|name| !is_running(name))?;
        let name = self.names.remove(place)?;
        self.known.remove(&name);
        Some(name)
    }

    fn clear(&mut self) {
        self.names.clear();
        self.known.clear();
    }
}
