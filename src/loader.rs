//! The loop that pulls every source: one cycle per due source, many sources at a time, one request per source.
//!
//! Start reading at [`Loader::run`]; one cycle is in `cycle_driver.rs`, what is decided in it in `cycle.rs`.

pub mod cycle;
mod cycle_driver;
pub mod pace;
pub mod policy;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::JoinMap;
use tokio_util::time::DelayQueue;

use crate::source::EventSource;
use crate::telemetry::chain;
use cycle::{Rules, Token};
use cycle_driver::{CycleReport, Trouble};
use pace::Pacer;
use policy::{Backoff, OnFailure};

/// A source and how it is loaded.
#[derive(Clone)]
pub struct LoadedSource {
    /// The key under `[sources]`.
    pub source_name: String,
    /// Where events come from.
    pub source: Arc<dyn EventSource>,
    /// How it is loaded.
    pub settings: SourceSettings,
}

/// How one source is loaded.
#[derive(Clone, Copy, Debug)]
pub struct SourceSettings {
    /// Most events one request asks for, 1..=10,000.
    pub batch_size: u32,
    /// Least time between two requests, over all instances.
    pub min_interval: Duration,
    /// How long a lease lasts without a heartbeat.
    pub lease_ttl: Duration,
    /// Longest pause of a source with nothing new.
    pub max_idle: Duration,
    /// What to do when an outcome is unknown.
    pub on_failure: OnFailure,
    /// Net below the source's own deadline.
    pub deadline: Duration,
}

impl SourceSettings {
    pub(crate) fn rules(&self) -> Rules {
        Rules {
            min_interval: self.min_interval,
            max_idle: self.max_idle,
            grant_life: self.lease_ttl / 2,
            on_failure: self.on_failure,
        }
    }
}

/// Counts since the start, for the summary line and the metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests that were answered with a page or a failure.
    pub requests: std::sync::atomic::AtomicU64,
    /// Requests that brought no valid page.
    pub failures: std::sync::atomic::AtomicU64,
    /// Events that went to the inbox.
    pub fetched: std::sync::atomic::AtomicU64,
    /// Events that went to the dead letters on arrival.
    pub refused: std::sync::atomic::AtomicU64,
}

/// The two meanings of stopping: take nothing new; let go of what is in work.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// No new reservation; work in flight goes on.
    pub intake: CancellationToken,
    /// Work in flight is given up and recorded.
    pub work: CancellationToken,
}

/// The loader of one instance.
pub struct Loader {
    /// The database.
    pub pool: PgPool,
    /// This process, unlike any other that ever ran.
    pub owner: String,
    /// The sources.
    pub sources: Vec<LoadedSource>,
    /// Requests in flight at most.
    pub concurrency: usize,
    /// Told the name of each source that has new inbox rows. A hint: it may be full or closed.
    pub deposited: mpsc::Sender<String>,
    /// Counts since the start.
    pub counters: Arc<Counters>,
}

/// Database outages: every instance comes back at its own moment, soon.
const DATABASE_BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(250), factor: 2, cap: Duration::from_secs(5) };

/// A source whose last request took longer than this, or failed, or that was not asked yet, may use one half of the
/// places only: the other half is for those that answer, however many sources hang.
const SLOW: Duration = Duration::from_secs(2);

impl Loader {
    /// Runs until `stop.intake` and until the cycles in flight are over.
    ///
    /// Of several things that are ready the loop takes, in this order: the end of a cycle (it frees a place), the
    /// stop, the next due source.
    pub async fn run(self, stop: Stop) {
        let mut state = LoopState::new(&self.sources, self.concurrency);
        let loader = Arc::new(self);
        loop {
            let may_start = state.running.len() < loader.concurrency && !stop.intake.is_cancelled();
            tokio::select! {
                biased;
                Some((index, report)) = state.running.join_next() => {
                    state.finished(index, report);
                }
                () = stop.intake.cancelled(), if !stop.intake.is_cancelled() => {}
                Some(due) = state.due.next(), if may_start => {
                    loader.start_cycle(&mut state, due.into_inner(), &stop);
                }
                else => break,
            }
            if stop.intake.is_cancelled() && state.running.is_empty() {
                break;
            }
            while state.running.len() < loader.concurrency
                && let Some(index) = state.next_waiting()
            {
                loader.start_cycle(&mut state, index, &stop);
            }
        }
    }

    fn start_cycle(self: &Arc<Self>, state: &mut LoopState, index: usize, stop: &Stop) {
        if stop.intake.is_cancelled() {
            return;
        }
        if let Some(until) = state.database_away_until
            && until > Instant::now()
        {
            state.due.insert_at(index, until + pace::stagger(index));
            return;
        }
        let slot = &mut state.slots[index];
        if let Err(wait) = slot.pacer.permit() {
            state.due.insert(index, wait);
            return;
        }
        if slot.slow && state.slow_running >= state.slow_places {
            state.waiting.push_back(index);
            return;
        }
        state.slow_running += usize::from(slot.slow);
        let token = slot.token.take().unwrap_or_else(Token::now_v7);
        let loader = Arc::clone(self);
        let stop = stop.clone();
        state.running.spawn(index, async move {
            let source = &loader.sources[index];
            cycle_driver::run_cycle(&loader, source, token, &stop).await
        });
    }
}

/// What the loop knows of a source between its cycles.
struct Slot {
    pacer: Pacer,
    /// The token of a claim whose reply was lost.
    token: Option<Token>,
    /// Slow, failing, or not asked yet.
    slow: bool,
    source_name: String,
}

struct LoopState {
    slots: Vec<Slot>,
    due: DelayQueue<usize>,
    /// Slow sources that wait for one of the places that slow sources may use.
    waiting: VecDeque<usize>,
    running: JoinMap<usize, CycleReport>,
    slow_running: usize,
    slow_places: usize,
    database_away_until: Option<Instant>,
    database_failures: u32,
}

impl LoopState {
    fn new(sources: &[LoadedSource], concurrency: usize) -> Self {
        let mut due = DelayQueue::with_capacity(sources.len());
        let slots = sources
            .iter()
            .enumerate()
            .map(|(index, source)| {
                due.insert(index, pace::stagger(index));
                Slot {
                    pacer: Pacer::new(source.settings.min_interval),
                    token: None,
                    slow: true,
                    source_name: source.source_name.clone(),
                }
            })
            .collect();
        Self {
            slots,
            due,
            waiting: VecDeque::new(),
            running: JoinMap::new(),
            slow_running: 0,
            slow_places: (concurrency / 2).max(1),
            database_away_until: None,
            database_failures: 0,
        }
    }

    fn next_waiting(&mut self) -> Option<usize> {
        if self.slow_running < self.slow_places { self.waiting.pop_front() } else { None }
    }

    fn finished(&mut self, index: usize, report: Result<CycleReport, tokio::task::JoinError>) {
        let slot = &mut self.slots[index];
        self.slow_running -= usize::from(slot.slow);
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                // The reservation, if there was one, becomes orphaned: nobody knows what was sent.
                tracing::error!(
                    source_name = slot.source_name,
                    error = chain(&error),
                    "source panicked"
                );
                CycleReport::panicked()
            }
        };
        slot.slow = report.was_slow.unwrap_or(slot.slow);
        slot.token = report.lost_token;
        if report.granted {
            slot.pacer.granted();
        }
        self.note_database(report.trouble);
        self.due.insert(index, report.next_in);
    }

    fn note_database(&mut self, trouble: Option<Trouble>) {
        match trouble {
            None => {
                if self.database_failures > 0 {
                    tracing::info!("the database answers again");
                }
                self.database_failures = 0;
                self.database_away_until = None;
            }
            Some(trouble) => {
                if self.database_failures == 0 {
                    tracing::warn!(
                        error = trouble.error,
                        hint = trouble.hint,
                        "the database does not answer; waiting for it"
                    );
                }
                self.database_failures = self.database_failures.saturating_add(1);
                let delay = DATABASE_BACKOFF.delay(self.database_failures, rand::random());
                self.database_away_until = Some(Instant::now() + delay);
            }
        }
    }
}
