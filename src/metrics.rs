//! What is counted while the program runs: for each source, and over all of them. The parts count, and `/metrics`, the
//! status page and the summary line of the log read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;

use crate::loader::policy::FailureClass;

/// Bounds of the histograms in seconds: from a local answer to the longest timeout that is usual.
const BOUNDS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A page with events.
    Page,
    /// A page without any: nothing is new.
    Empty,
    /// No page.
    Failed(FailureClass),
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Page,
        Self::Empty,
        Self::Failed(FailureClass::NotSent),
        Self::Failed(FailureClass::Refused),
        Self::Failed(FailureClass::Rejected),
        Self::Failed(FailureClass::Unknown),
        Self::Failed(FailureClass::InvalidPage),
    ];

    /// Its name as a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Empty => "empty",
            Self::Failed(FailureClass::NotSent) => "not_sent",
            Self::Failed(FailureClass::Refused) => "refused",
            Self::Failed(FailureClass::Rejected) => "rejected",
            Self::Failed(FailureClass::Unknown) => "unknown",
            Self::Failed(FailureClass::InvalidPage) => "invalid_page",
        }
    }

    fn place(self) -> usize {
        Self::ALL.iter().position(|outcome| *outcome == self).unwrap_or_default()
    }
}

/// How often something was done, and how long it took in all.
#[derive(Debug, Default)]
pub struct Timed {
    count: AtomicU64,
    microseconds: AtomicU64,
}

impl Timed {
    fn add(&self, took: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }

    /// How often.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// How long, in seconds.
    pub fn seconds(&self) -> f64 {
        Duration::from_micros(self.microseconds.load(Ordering::Relaxed)).as_secs_f64()
    }
}

/// What is counted of one source.
#[derive(Debug, Default)]
pub struct SourceMetrics {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    /// Waiting for answers of the source.
    pub requests: Timed,
    /// Deposits in the inbox.
    pub deposits: Timed,
    /// Batches moved to the event log.
    pub moves: Timed,
    events: [AtomicU64; EventCount::ALL.len()],
}

/// What happened to events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventCount {
    /// They went to the inbox.
    Fetched,
    /// They went from the inbox to the event log.
    Moved,
    /// They went to the dead letters on arrival.
    Refused,
    /// They were delivered before, and stored then.
    Duplicate,
}

impl EventCount {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Fetched, Self::Moved, Self::Refused, Self::Duplicate];

    /// Its name in that of the metric.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fetched => "fetched",
            Self::Moved => "moved",
            Self::Refused => "refused",
            Self::Duplicate => "duplicate",
        }
    }
}

impl SourceMetrics {
    /// Requests that ended so.
    pub fn outcome(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome.place()].load(Ordering::Relaxed)
    }

    /// Events to which that happened.
    pub fn events(&self, what: EventCount) -> u64 {
        self.events[what as usize].load(Ordering::Relaxed)
    }
}

/// What is counted over all sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests that were answered with a page or a failure.
    pub requests: u64,
    /// Requests that brought no valid page.
    pub failures: u64,
    /// By [`EventCount`].
    pub events: [u64; EventCount::ALL.len()],
}

/// The counts of one process since its start.
#[derive(Debug)]
pub struct Metrics {
    sources: RwLock<HashMap<String, Arc<SourceMetrics>>>,
    /// How long answers of sources took.
    pub request_duration: Histogram,
    /// How long deposits took.
    pub deposit_duration: Histogram,
    /// How long moves of a batch took.
    pub move_duration: Histogram,
    move_failures: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            sources: RwLock::default(),
            request_duration: Histogram::new(BOUNDS),
            deposit_duration: Histogram::new(BOUNDS),
            move_duration: Histogram::new(BOUNDS),
            move_failures: AtomicU64::new(0),
        }
    }
}

impl Metrics {
    /// Counts a request.
    pub fn requested(&self, source_name: &str, outcome: Outcome, took: Duration) {
        let source = self.source(source_name);
        source.outcomes[outcome.place()].fetch_add(1, Ordering::Relaxed);
        source.requests.add(took);
        self.request_duration.observe(took.as_secs_f64());
    }

    /// Counts a deposit.
    pub fn deposited(&self, source_name: &str, took: Duration) {
        self.source(source_name).deposits.add(took);
        self.deposit_duration.observe(took.as_secs_f64());
    }

    /// Counts a batch that was moved to the event log.
    pub fn moved(&self, source_name: &str, took: Duration) {
        self.source(source_name).moves.add(took);
        self.move_duration.observe(took.as_secs_f64());
    }

    /// Counts events.
    pub fn count(&self, source_name: &str, what: EventCount, event_count: u64) {
        if event_count > 0 {
            self.source(source_name).events[what as usize]
                .fetch_add(event_count, Ordering::Relaxed);
        }
    }

    /// Counts a statement of the retry worker that failed.
    pub fn move_failed(&self) {
        self.move_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Statements of the retry worker that failed.
    pub fn move_failures(&self) -> u64 {
        self.move_failures.load(Ordering::Relaxed)
    }

    /// The counts of one source.
    pub fn source(&self, source_name: &str) -> Arc<SourceMetrics> {
        let known = self.sources.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = known.get(source_name) {
            return Arc::clone(source);
        }
        drop(known);
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(sources.entry(source_name.to_owned()).or_default())
    }

    /// All sources that anything was counted of, by name.
    pub fn sources(&self) -> Vec<(String, Arc<SourceMetrics>)> {
        let known = self.sources.read().unwrap_or_else(PoisonError::into_inner);
        let mut sources: Vec<_> =
            known.iter().map(|(name, source)| (name.clone(), Arc::clone(source))).collect();
        drop(known);
        sources.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        sources
    }

    /// Over all sources.
    pub fn totals(&self) -> Totals {
        let known = self.sources.read().unwrap_or_else(PoisonError::into_inner);
        let mut totals = Totals::default();
        for source in known.values() {
            for outcome in Outcome::ALL {
                let count = source.outcome(outcome);
                totals.requests += count;
                totals.failures += if matches!(outcome, Outcome::Failed(_)) { count } else { 0 };
            }
            for what in EventCount::ALL {
                totals.events[what as usize] += source.events(what);
            }
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_a_place_and_a_name_of_its_own() {
        for (place, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome.place(), place);
            let same_name = Outcome::ALL.iter().filter(|other| other.name() == outcome.name());
            assert_eq!(same_name.count(), 1, "{}", outcome.name());
        }
        for (place, what) in EventCount::ALL.into_iter().enumerate() {
            assert_eq!(what as usize, place);
        }
    }

    #[test]
    fn totals_are_over_all_sources() {
        let metrics = Metrics::default();
        metrics.requested("a", Outcome::Page, Duration::from_millis(2));
        metrics.requested("b", Outcome::Failed(FailureClass::Refused), Duration::from_millis(3));
        metrics.count("a", EventCount::Fetched, 7);
        metrics.count("b", EventCount::Fetched, 0);
        let totals = metrics.totals();
        assert_eq!((totals.requests, totals.failures, totals.events), (2, 1, [7, 0, 0, 0]));
        assert_eq!(metrics.sources().len(), 2);
        assert!((metrics.source("b").requests.seconds() - 0.003).abs() < 1e-9);
    }
}
