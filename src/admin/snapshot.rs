//! What the database says, read for all who ask at about the same time, and the figures of the last hour.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio::time::{Instant, timeout};

use crate::metrics::{EventCount, Metrics};
use crate::postgres::inspect::{self, Distance};
use crate::status::Report;
use crate::store::{StoreError, dead_letter, failed_to, upkeep};
use crate::telemetry::chain;

/// How old an answer may be.
const AGE_MAX: Duration = Duration::from_secs(1);
/// How long the database may take; health checks do not wait longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two samples.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// Samples that are kept: an hour.
const SAMPLES_MAX: usize = 720;
/// Over how many samples the rate of requests is taken: a minute.
const RATE_SAMPLES: usize = 12;

/// What the database said.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) report: Report,
    pub(super) dead_letters_by_kind: Vec<(String, i64)>,
    pub(super) last_prune: Option<DateTime<Utc>>,
    pub(super) distance: Distance,
}

/// The database did not answer, and since when.
#[derive(Clone, Debug)]
pub(super) struct Away {
    pub(super) reason: String,
    pub(super) since: Instant,
}

pub(super) type Answer = Result<Arc<Snapshot>, Away>;

/// What was counted at one time.
struct Sample {
    at: Instant,
    moved: u64,
    requests: HashMap<String, u64>,
}

pub(super) struct Snapshots {
    pool: PgPool,
    /// Taken by whoever asks first; the others wait for the same answer.
    last: tokio::sync::Mutex<Option<(Instant, Answer)>>,
    samples: Mutex<VecDeque<Sample>>,
    /// When this process began to watch, by the database's clock.
    watched_since: Mutex<Option<DateTime<Utc>>>,
}

impl Snapshots {
    pub(super) fn new(pool: PgPool) -> Self {
        Self {
            pool,
            last: tokio::sync::Mutex::default(),
            samples: Mutex::default(),
            watched_since: Mutex::default(),
        }
    }

    /// At most a second old.
    pub(super) async fn read(&self) -> Answer {
        let mut last = self.last.lock().await;
        if let Some((at, answer)) = &*last
            && at.elapsed() < AGE_MAX
        {
            return answer.clone();
        }
        let outcome = match timeout(PATIENCE, self.ask()).await {
            Ok(Ok(snapshot)) => Ok(Arc::new(snapshot)),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        let answer = outcome.map_err(|reason| {
            let since = match &*last {
                Some((_, Err(away))) => away.since,
                _ => Instant::now(),
            };
            Away { reason, since }
        });
        *last = Some((Instant::now(), answer.clone()));
        answer
    }

    /// Something was changed: whoever reads next sees it.
    pub(super) async fn forget(&self) {
        let mut last = self.last.lock().await;
        if matches!(*last, Some((_, Ok(_)))) {
            *last = None;
        }
    }

    async fn ask(&self) -> Result<Snapshot, StoreError> {
        let failed = failed_to("connect to read the status");
        let mut connection = self.pool.acquire().await.map_err(failed)?;
        let last_prune = upkeep::done_at(&mut *connection, upkeep::PRUNE).await?;
        let distance = inspect::distance(&mut connection).await?;
        let dead_letters_by_kind = dead_letter::count_by_kind(&mut *connection).await?;
        drop(connection);
        let report = Report::read(&self.pool).await?;
        let mut watched = self.watched_since.lock().unwrap_or_else(PoisonError::into_inner);
        watched.get_or_insert(report.totals.now);
        Ok(Snapshot { report, dead_letters_by_kind, last_prune, distance })
    }

    /// When this process began to watch the sources.
    pub(super) fn watched_since(&self) -> DateTime<Utc> {
        let watched = self.watched_since.lock().unwrap_or_else(PoisonError::into_inner);
        watched.unwrap_or_default()
    }

    /// Notes what is counted now.
    pub(super) async fn sample(&self, metrics: &Metrics) {
        if self.watched_since() == DateTime::<Utc>::default() {
            drop(self.read().await);
        }
        let sources = metrics.sources();
        let requests = sources.iter().map(|(name, s)| (name.clone(), s.requests.count())).collect();
        let moved = sources.iter().map(|(_, source)| source.events(EventCount::Moved)).sum();
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push_back(Sample { at: Instant::now(), moved, requests });
        // Requests by source are needed for the last minute only.
        let old = samples.len().saturating_sub(RATE_SAMPLES + 2);
        if let Some(sample) = old.checked_sub(1).and_then(|place| samples.get_mut(place)) {
            sample.requests = HashMap::new();
        }
        if samples.len() > SAMPLES_MAX {
            samples.pop_front();
        }
    }

    /// Events that this process moved to the event log, a second, oldest sample first.
    pub(super) fn event_rates(&self) -> Vec<f64> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = samples.iter().zip(samples.iter().skip(1));
        pairs
            .map(|(before, after)| {
                let seconds = (after.at - before.at).as_secs_f64();
                rate(after.moved.saturating_sub(before.moved), seconds)
            })
            .collect()
    }

    /// Requests that this process sends, a second, by source, over the last minute.
    pub(super) fn request_rates(&self) -> HashMap<String, f64> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let first = samples.len().saturating_sub(RATE_SAMPLES + 1);
        let (Some(before), Some(after)) = (samples.get(first), samples.back()) else {
            return HashMap::new();
        };
        let seconds = (after.at - before.at).as_secs_f64();
        let rate_of = |name: &str, now: u64| {
            rate(
                now.saturating_sub(before.requests.get(name).copied().unwrap_or_default()),
                seconds,
            )
        };
        after.requests.iter().map(|(name, now)| (name.clone(), rate_of(name, *now))).collect()
    }
}

fn rate(count: u64, seconds: f64) -> f64 {
    if seconds <= 0.0 {
        return 0.0;
    }
    // Exact up to 2^53 events.
    #[expect(clippy::cast_precision_loss, reason = "a rate is shown with three digits")]
    let count = count as f64;
    count / seconds
}
