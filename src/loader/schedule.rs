//! When each source is looked at next, and which cycles are running.
//!
//! Every source has a slot. The key of a slot is never given to another one, so that what is left over of a source that
//! was removed finds nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::task::JoinMap;
use tokio_util::time::{DelayQueue, delay_queue};

use super::cycle::Token;
use super::cycle_driver::{CycleReport, Trouble};
use super::pace::{self, Pacer};
use super::places::{Lane, Places};
use super::policy::Backoff;
use super::{LoadedSource, SLOW, SourceChange};
use crate::telemetry::chain;

/// Database outages: every instance comes back at its own moment, soon.
const DATABASE_BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(250), factor: 2, cap: Duration::from_secs(5) };

/// What the loop knows of a source.
struct Slot {
    source: Arc<LoadedSource>,
    pacer: Pacer,
    /// The token the next claim has to use; `None`: a new one.
    token: Option<Token>,
    /// Its last request took long, or failed.
    slow: bool,
    phase: Phase,
    /// Taken out of the configuration while its cycle is running; goes when that ends.
    removed: bool,
}

enum Phase {
    /// Looked at when the timer ends.
    Due(delay_queue::Key),
    /// Due, and without a place yet.
    Waiting,
    Running(Running),
}

/// A cycle in progress.
struct Running {
    lane: Lane,
    /// When it has to leave the prompt lane.
    overtime: Option<delay_queue::Key>,
}

/// A cycle to be started.
pub(super) struct Start {
    pub(super) key: usize,
    pub(super) source: Arc<LoadedSource>,
    pub(super) token: Token,
}

pub(super) struct Schedule {
    slots: HashMap<usize, Slot>,
    next_key: usize,
    /// When each source is worth a look.
    pub(super) due: DelayQueue<usize>,
    /// Sources that are due and wait for a place: prompt ones and slow ones, each in the order they came.
    waiting: [VecDeque<usize>; 2],
    pub(super) running: JoinMap<usize, CycleReport>,
    pub(super) overtime_due: DelayQueue<usize>,
    places: Places,
    database_away_until: Option<Instant>,
    database_failures: u32,
}

impl Schedule {
    pub(super) fn new(sources: &[LoadedSource], concurrency: usize) -> Self {
        let mut schedule = Self {
            slots: HashMap::with_capacity(sources.len()),
            next_key: 0,
            due: DelayQueue::with_capacity(sources.len()),
            waiting: [VecDeque::new(), VecDeque::new()],
            running: JoinMap::new(),
            overtime_due: DelayQueue::new(),
            places: Places::new(concurrency),
            database_away_until: None,
            database_failures: 0,
        };
        for source in sources {
            schedule.add(source.clone());
        }
        schedule
    }

    fn add(&mut self, source: LoadedSource) {
        let key = self.next_key;
        self.next_key += 1;
        let timer = self.due.insert(key, pace::stagger(key));
        let slot = Slot {
            pacer: Pacer::new(source.settings.min_interval),
            source: Arc::new(source),
            token: None,
            slow: false,
            phase: Phase::Due(timer),
            removed: false,
        };
        self.slots.insert(key, slot);
    }

    /// Takes a change over. A cycle that is running ends as it began; the next one is as the change says.
    pub(super) fn apply(&mut self, change: SourceChange) {
        let keys: HashMap<String, usize> =
            self.slots.iter().map(|(key, slot)| (slot.source.source_name.clone(), *key)).collect();
        for name in change.removed {
            if let Some(key) = keys.get(&name) {
                self.remove(*key);
            }
        }
        for source in change.put {
            match keys.get(&source.source_name).and_then(|key| self.slots.get_mut(key)) {
                Some(slot) => {
                    slot.pacer = Pacer::new(source.settings.min_interval);
                    slot.source = Arc::new(source);
                    slot.slow = false;
                    slot.removed = false;
                    if let Phase::Due(timer) = &slot.phase {
                        self.due.reset(timer, Duration::ZERO);
                    }
                }
                None => self.add(source),
            }
        }
    }

    fn remove(&mut self, key: usize) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        match &slot.phase {
            Phase::Running(_) => slot.removed = true,
            Phase::Due(timer) => {
                self.due.remove(timer);
                self.slots.remove(&key);
            }
            Phase::Waiting => {
                self.slots.remove(&key);
            }
        }
    }

    /// The timer of a source ended.
    pub(super) fn wait(&mut self, key: usize) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.phase = Phase::Waiting;
        self.waiting[usize::from(slot.slow)].push_back(key);
    }

    fn look_in(&mut self, key: usize, wait: Duration) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.phase = Phase::Due(self.due.insert(key, wait));
    }

    /// The next cycle that can be started now; its place is taken.
    pub(super) fn next_start(&mut self) -> Option<Start> {
        loop {
            let (key, lane) = self.next_waiting()?;
            let wait = self.database_wait().map(|wait| wait + pace::stagger(key));
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            if let Some(wait) = wait.or_else(|| slot.pacer.permit().err()) {
                self.look_in(key, wait);
                continue;
            }
            self.places.take(lane);
            let overtime = (lane == Lane::Prompt).then(|| self.overtime_due.insert(key, SLOW));
            slot.phase = Phase::Running(Running { lane, overtime });
            let token = slot.token.take().unwrap_or_else(Token::now_v7);
            return Some(Start { key, source: Arc::clone(&slot.source), token });
        }
    }

    /// The next source that is due, and the lane that has a place for it. How it is slow was decided when it began to wait.
    fn next_waiting(&mut self) -> Option<(usize, Lane)> {
        [false, true].into_iter().find_map(|slow| {
            let lane = self.places.lane_of(slow);
            let has_place = *self.places.free(lane) > 0;
            let key = if has_place { self.waiting[usize::from(slow)].pop_front() } else { None };
            key.map(|key| (key, lane))
        })
    }

    /// Moves a request that takes long to the other lane, or looks again later when that is full.
    pub(super) fn go_into_overtime(&mut self, key: usize) {
        let Some(Slot { phase: Phase::Running(running), .. }) = self.slots.get_mut(&key) else {
            return;
        };
        running.overtime = None;
        if *self.places.free(Lane::Overtime) == 0 {
            if self.places.has_overtime() {
                running.overtime = Some(self.overtime_due.insert(key, SLOW));
            }
            return;
        }
        running.lane = Lane::Overtime;
        self.places.move_to_overtime();
    }

    /// How long until the database may be asked again, where it did not answer.
    fn database_wait(&self) -> Option<Duration> {
        let wait = self.database_away_until?.saturating_duration_since(Instant::now());
        (!wait.is_zero()).then_some(wait)
    }

    /// A cycle ended.
    pub(super) fn finished(&mut self, key: usize, report: Result<CycleReport, JoinError>) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        if let Phase::Running(running) = &mut slot.phase {
            *self.places.free(running.lane) += 1;
            if let Some(timer) = running.overtime.take() {
                self.overtime_due.try_remove(&timer);
            }
        }
        let report = report.unwrap_or_else(|error| {
            // The reservation, if there was one, becomes orphaned: nobody knows what was sent.
            tracing::error!(
                source_name = slot.source.source_name,
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
        if slot.removed {
            self.slots.remove(&key);
        } else {
            self.look_in(key, report.next_in);
        }
        self.note_database(report.trouble);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::memory::MemorySource;

    fn source(name: &str) -> LoadedSource {
        LoadedSource::new(name, Arc::new(MemorySource::default()))
    }

    fn report(was_slow: bool) -> CycleReport {
        CycleReport {
            next_in: Duration::ZERO,
            granted: true,
            was_slow: Some(was_slow),
            unused_token: None,
            trouble: None,
        }
    }

    /// One place in each lane, the prompt one taken by a request that runs, and a slow source that waits.
    fn with_a_slow_one_waiting() -> (Schedule, usize) {
        let mut schedule = Schedule::new(&[source("prompt"), source("slow")], 2);
        schedule.wait(1);
        let start = schedule.next_start().expect("both lanes are free");
        schedule.finished(start.key, Ok(report(true)));
        schedule.wait(0);
        assert_eq!(schedule.next_start().expect("the prompt lane is free").key, 0);
        if let Phase::Due(timer) = &schedule.slots[&1].phase {
            schedule.due.remove(timer);
        }
        schedule.wait(1);
        (schedule, 1)
    }

    #[tokio::test]
    async fn a_change_of_a_waiting_source_takes_no_place_that_is_not_there() {
        let (mut schedule, slow) = with_a_slow_one_waiting();
        schedule.apply(SourceChange { put: vec![source("slow")], removed: Vec::new() });
        assert_eq!(schedule.next_start().expect("it waits for the other lane").key, slow);
        assert_eq!(*schedule.places.free(Lane::Prompt), 0);
        assert_eq!(*schedule.places.free(Lane::Overtime), 0);
    }

    #[tokio::test]
    async fn what_is_left_of_a_removed_source_finds_nothing() {
        let (mut schedule, _) = with_a_slow_one_waiting();
        schedule.apply(SourceChange { put: Vec::new(), removed: vec!["slow".to_owned()] });
        assert!(schedule.next_start().is_none());
        // Its cycle ends after it was taken out: nothing is looked at again.
        schedule.apply(SourceChange { put: Vec::new(), removed: vec!["prompt".to_owned()] });
        schedule.finished(0, Ok(report(false)));
        assert!(schedule.slots.is_empty());
        assert_eq!(*schedule.places.free(Lane::Prompt), 1);
    }

    #[tokio::test]
    async fn a_source_that_comes_back_while_its_cycle_runs_has_one_slot() {
        let (mut schedule, _) = with_a_slow_one_waiting();
        schedule.apply(SourceChange { put: Vec::new(), removed: vec!["prompt".to_owned()] });
        schedule.apply(SourceChange { put: vec![source("prompt")], removed: Vec::new() });
        assert_eq!(schedule.slots.len(), 2);
        schedule.finished(0, Ok(report(false)));
        assert!(matches!(schedule.slots[&0].phase, Phase::Due(_)));
    }
}
