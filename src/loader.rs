//! The loop that pulls every source: one cycle per due source, many sources at a time, one request per source.
//!
//! Start reading at [`Loader::run`]; one cycle is in `cycle_driver.rs`, what is decided in it in `cycle.rs`.

mod calls;
pub mod cycle;
pub(crate) mod cycle_driver;
pub mod pace;
mod places;
pub mod policy;
mod schedule;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::failpoint::{self, Place};
use crate::heartbeat::{Heartbeat, Pulse};
use crate::metrics::Metrics;
use crate::postgres::connections::Connections;
use crate::source::EventSource;
use crate::store::StoreError;
use crate::store::source::{self, Registration};
use cycle::Rules;
use policy::OnFailure;
use schedule::Schedule;

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

    /// How much longer than its lease a holder that is only slow may take to deposit. Late deposits are stored all the
    /// same; the grace keeps windows from being shown, or asked again, for a short stall.
    pub(crate) fn orphan_grace(&self) -> Duration {
        ORPHAN_GRACE_MAX.min(self.lease_ttl / 2)
    }
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

/// What becomes different while the loader runs. The sources have to be registered.
#[derive(Clone, Default)]
pub struct SourceChange {
    /// Sources that are new, or take the place of those of the same name from their next request on.
    pub put: Vec<LoadedSource>,
    /// Sources that are no longer asked. A request in flight is finished and its events are kept.
    pub removed: Vec<String>,
}

/// The loader of one instance.
pub struct Loader {
    /// Connections to the database.
    pub connections: Connections,
    /// This process, unlike any other that ever ran.
    pub owner: String,
    /// The sources it begins with.
    pub sources: Vec<LoadedSource>,
    /// Sources that come, change and go while it runs; a closed channel means that none do.
    pub changes: mpsc::Receiver<SourceChange>,
    /// Requests in flight at most.
    pub concurrency: usize,
    /// Told the name of each source that has new inbox rows. A hint: it may be full or closed.
    pub deposited: mpsc::Sender<String>,
    /// Counts since the start.
    pub metrics: Arc<Metrics>,
    /// The sign that the loop turns.
    pub pulse: Pulse,
}

/// A source is promised to be taken over within `lease_ttl` + 1 s: half of that second is left to those who look.
const ORPHAN_GRACE_MAX: Duration = Duration::from_millis(500);

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
            changes: mpsc::channel(1).1,
            concurrency: 64,
            deposited,
            metrics: Arc::default(),
            pulse: Pulse::new("loader"),
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
    /// stop, a change of the sources, a request that takes long, the next due source.
    pub async fn run(mut self, stop: Stop) {
        let mut schedule = Schedule::new(&self.sources, self.concurrency);
        let mut changes = std::mem::replace(&mut self.changes, mpsc::channel(1).1);
        let mut heartbeat = Heartbeat::of(self.pulse.clone());
        let loader = Arc::new(self);
        loop {
            // Read once: between two looks it may come, and leave nothing to wait for.
            let going_on = !stop.intake.is_cancelled();
            if !going_on && schedule.running.is_empty() {
                return;
            }
            tokio::select! {
                biased;
                () = heartbeat.beat() => {}
                Some((key, report)) = schedule.running.join_next() => {
                    failpoint::hit(Place::CycleEnded);
                    schedule.finished(key, report);
                }
                () = stop.intake.cancelled(), if going_on => {}
                Some(change) = changes.recv(), if going_on => schedule.apply(change),
                Some(late) = schedule.overtime_due.next(), if going_on => {
                    schedule.go_into_overtime(late.into_inner());
                }
                Some(due) = schedule.due.next(), if going_on => schedule.wait(due.into_inner()),
            }
            while !stop.intake.is_cancelled()
                && let Some(start) = schedule.next_start()
            {
                let (loader, stop) = (Arc::clone(&loader), stop.clone());
                schedule.running.spawn(start.key, async move {
                    cycle_driver::run_cycle(&loader, &start.source, start.token, &stop).await
                });
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
