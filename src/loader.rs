//! The loop that pulls every source: one cycle per due source, many sources at a time, one request per source.
//!
//! Start reading at [`Loader::run`]; one cycle is in `cycle_driver.rs`, what is decided in it in `cycle.rs`.

mod calls;
pub mod cycle;
mod cycle_driver;
pub mod pace;
pub mod policy;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::JoinMap;
use tokio_util::time::{DelayQueue, delay_queue};

use crate::postgres::connections::Connections;
use crate::source::EventSource;
use crate::store::StoreError;
use crate::store::source::{self, Registration};
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

impl LoadedSource {
    /// A source with the default settings.
    pub fn new(source_name: impl Into<String>, source: Arc<dyn EventSource>) -> Self {
        Self { source_name: source_name.into(), source, settings: SourceSettings::default() }
    }
}

impl Default for SourceSettings {
    /// Those of a source in `eventloader.toml` that sets nothing.
    fn default() -> Self {
        Self {
            batch_size: 1000,
            min_interval: Duration::from_millis(200),
            lease_ttl: Duration::from_secs(2),
            max_idle: Duration::from_secs(5),
            on_failure: OnFailure::Hold,
            deadline: Duration::from_mins(1),
        }
    }
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

/// A source that cannot be made known to the database.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Its name is that of a stream that an application writes.
    #[error("the stream {0} belongs to an application; give the source another name")]
    StreamTaken(String),
    /// The database does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The loader of one instance.
pub struct Loader {
    /// Connections to the database, of its own: closed when the loader ends.
    pub connections: Connections,
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

/// A request that takes longer than this goes on in overtime.
const SLOW: Duration = Duration::from_secs(2);

impl Loader {
    /// A loader with at most 64 requests in flight, and the hints it gives to
    /// [`RetryWorker::run`](crate::retry_worker::RetryWorker::run).
    pub fn new(
        connections: Connections,
        sources: Vec<LoadedSource>,
    ) -> (Self, mpsc::Receiver<String>) {
        let (deposited, hints) = mpsc::channel(1024);
        let loader = Self {
            connections,
            owner: new_owner(),
            sources,
            concurrency: 64,
            deposited,
            counters: Arc::default(),
        };
        (loader, hints)
    }

    /// Makes the sources known to the database; the cursor of one that is known already stays where it is. Has to come
    /// before [`Loader::run`].
    ///
    /// # Errors
    ///
    /// See [`RegisterError`].
    pub async fn register(&self) -> Result<(), RegisterError> {
        let registrations: Vec<Registration> = self
            .sources
            .iter()
            .map(|loaded| Registration {
                source_name: loaded.source_name.clone(),
                source_type: "custom".to_owned(),
                start_after: loaded.source.start_after(),
            })
            .collect();
        let mut lent = self.connections.lend().await?;
        let outcome = source::register(&mut *lent, &registrations).await;
        lent.give_back(&outcome);
        match outcome?.pop() {
            Some(taken) => Err(RegisterError::StreamTaken(taken)),
            None => Ok(()),
        }
    }

    /// Runs until `stop.intake` and until the cycles in flight are over.
    ///
    /// Of several things that are ready the loop takes, in this order: the end of a cycle (it frees a place), the
    /// stop, the next due source.
    pub async fn run(self, stop: Stop) {
        let mut state = LoopState::new(&self.sources, self.concurrency);
        let loader = Arc::new(self);
        while !(stop.intake.is_cancelled() && state.running.is_empty()) {
            let going_on = !stop.intake.is_cancelled();
            tokio::select! {
                biased;
                Some((index, report)) = state.running.join_next() => state.finished(index, report),
                () = stop.intake.cancelled(), if going_on => {}
                Some(late) = state.overtime_due.next(), if going_on => {
                    state.go_into_overtime(late.into_inner());
                }
                Some(due) = state.due.next(), if going_on => state.wait(due.into_inner()),
            }
            while !stop.intake.is_cancelled()
                && let Some(index) = state.next_waiting()
            {
                loader.start_cycle(&mut state, index, &stop);
            }
        }
        loader.connections.close().await;
    }

    fn start_cycle(self: &Arc<Self>, state: &mut LoopState, index: usize, stop: &Stop) {
        if let Some(wait) = state.database_wait() {
            state.due.insert(index, wait + pace::stagger(index));
            return;
        }
        let slot = &mut state.slots[index];
        if let Err(wait) = slot.pacer.permit() {
            state.due.insert(index, wait);
            return;
        }
        let lane = state.places.take(slot.slow);
        let overtime = (lane == Lane::Prompt).then(|| state.overtime_due.insert(index, SLOW));
        slot.running = Some(Running { lane, overtime });
        let token = slot.token.take().unwrap_or_else(Token::now_v7);
        let loader = Arc::clone(self);
        let stop = stop.clone();
        state.running.spawn(index, async move {
            let source = &loader.sources[index];
            cycle_driver::run_cycle(&loader, source, token, &stop).await
        });
    }
}

/// The two lanes for requests in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// For sources that answer soon, and for those that were never asked.
    Prompt,
    /// For requests that take long, and for sources whose last request did, or failed.
    Overtime,
}

/// The places for requests in flight: one half in each lane. A request that takes long leaves the prompt lane as long as
/// there is room in the other, so sources that hang do not keep those waiting that answer.
#[derive(Debug)]
struct Places {
    prompt_free: usize,
    overtime_free: usize,
    /// With a single place there is no second lane.
    has_overtime: bool,
}

impl Places {
    fn new(concurrency: usize) -> Self {
        let overtime_free = concurrency / 2;
        Self {
            prompt_free: concurrency - overtime_free,
            overtime_free,
            has_overtime: overtime_free > 0,
        }
    }

    fn lane_of(&self, slow: bool) -> Lane {
        if slow && self.has_overtime { Lane::Overtime } else { Lane::Prompt }
    }

    fn free(&mut self, lane: Lane) -> &mut usize {
        match lane {
            Lane::Prompt => &mut self.prompt_free,
            Lane::Overtime => &mut self.overtime_free,
        }
    }

    /// Takes a place that [`Self::free`] said is there.
    fn take(&mut self, slow: bool) -> Lane {
        let lane = self.lane_of(slow);
        *self.free(lane) -= 1;
        lane
    }
}

/// What the loop knows of a source.
struct Slot {
    pacer: Pacer,
    /// The token the next claim has to use; `None`: a new one.
    token: Option<Token>,
    /// Its last request took long, or failed.
    slow: bool,
    running: Option<Running>,
    source_name: String,
}

/// A cycle in progress.
struct Running {
    lane: Lane,
    /// When it has to leave the prompt lane.
    overtime: Option<delay_queue::Key>,
}

struct LoopState {
    slots: Vec<Slot>,
    /// When each source is worth a look.
    due: DelayQueue<usize>,
    /// Sources that are due and wait for a place: prompt ones and slow ones, each in the order they came.
    waiting: [VecDeque<usize>; 2],
    running: JoinMap<usize, CycleReport>,
    overtime_due: DelayQueue<usize>,
    places: Places,
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
                    slow: false,
                    running: None,
                    source_name: source.source_name.clone(),
                }
            })
            .collect();
        Self {
            slots,
            due,
            waiting: [VecDeque::new(), VecDeque::new()],
            running: JoinMap::new(),
            overtime_due: DelayQueue::new(),
            places: Places::new(concurrency),
            database_away_until: None,
            database_failures: 0,
        }
    }

    fn wait(&mut self, index: usize) {
        self.waiting[usize::from(self.slots[index].slow)].push_back(index);
    }

    /// The next source that is due and has a place.
    fn next_waiting(&mut self) -> Option<usize> {
        [false, true].into_iter().find_map(|slow| {
            let lane = self.places.lane_of(slow);
            let has_place = *self.places.free(lane) > 0;
            if has_place { self.waiting[usize::from(slow)].pop_front() } else { None }
        })
    }

    /// Moves a request that takes long to the other lane, or looks again later when that is full.
    fn go_into_overtime(&mut self, index: usize) {
        let Some(running) = &mut self.slots[index].running else { return };
        running.overtime = None;
        if self.places.overtime_free == 0 {
            if self.places.has_overtime {
                running.overtime = Some(self.overtime_due.insert(index, SLOW));
            }
            return;
        }
        running.lane = Lane::Overtime;
        self.places.overtime_free -= 1;
        self.places.prompt_free += 1;
    }

    /// How long until the database may be asked again, where it did not answer.
    fn database_wait(&self) -> Option<Duration> {
        let wait = self.database_away_until?.saturating_duration_since(Instant::now());
        (!wait.is_zero()).then_some(wait)
    }

    fn finished(&mut self, index: usize, report: Result<CycleReport, tokio::task::JoinError>) {
        let slot = &mut self.slots[index];
        if let Some(running) = slot.running.take() {
            *self.places.free(running.lane) += 1;
            if let Some(key) = running.overtime {
                self.overtime_due.try_remove(&key);
            }
        }
        let report = report.unwrap_or_else(|error| {
            // The reservation, if there was one, becomes orphaned: nobody knows what was sent.
            tracing::error!(
                source_name = slot.source_name,
                error = chain(&error),
                "source panicked"
            );
            CycleReport::panicked()
        });
        slot.slow = report.was_slow.unwrap_or(slot.slow);
        slot.token = report.unused_token;
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

/// Names this process unlike any other that ever ran.
pub(crate) fn new_owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "host",
        name => name,
    };
    let unique = uuid::Uuid::new_v4().simple().to_string();
    format!("{host}:{}:{}", std::process::id(), &unique[..12])
}
