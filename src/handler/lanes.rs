//! Which event is handled next: one at a time of each stream, in order. Pure: no clock, no I/O.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::store::event_log::EventHead;

/// Events that are read ahead, over all streams.
const READ_AHEAD_MAX: usize = 2000;

/// An event that waits for its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) head: EventHead,
    /// How often it was tried.
    pub(super) attempts: u32,
    pub(super) reason: Reason,
}

/// Why an event is handled now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// It is next in the log.
    Next,
    /// Its stream waited, and catches up with the checkpoint.
    CatchUp,
    /// It was a dead letter, and was given back.
    Replay,
}

/// What follows in a stream after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Nothing has to be done.
    GoOn,
    /// Events after this position may be there that were not read.
    ReadMore(i64),
}

/// The streams with something to do. Streams that wait are in the database and not here.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    streams: HashMap<String, Lane>,
    /// Streams of which an event can be started, each once.
    ready: VecDeque<String>,
    /// Positions of what was read from the log and is neither handled nor written down as waiting.
    unfinished: BTreeSet<i64>,
    /// Read up to here.
    read_to: i64,
    /// Events queued and running.
    size: usize,
}

#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<Task>,
    /// The position of the event that is being handled.
    running: Option<i64>,
    /// It waited: what is beyond the queue is in the database, after this position.
    catches_up_after: Option<i64>,
}

impl Lanes {
    /// Nothing yet, of a log that was consumed up to `position`.
    pub(super) fn at(position: i64) -> Self {
        Self { read_to: position, ..Self::default() }
    }

    /// The log was read up to here.
    pub(super) fn read_to(&self) -> i64 {
        self.read_to
    }

    /// The log was read up to `position`, whatever was found.
    pub(super) fn set_read_to(&mut self, position: i64) {
        self.read_to = self.read_to.max(position);
    }

    /// Everything up to here is handled or written down.
    pub(super) fn checkpoint(&self) -> i64 {
        self.unfinished.first().map_or(self.read_to, |first| first - 1)
    }

    /// Whether no more should be read ahead.
    pub(super) fn is_full(&self) -> bool {
        self.size >= READ_AHEAD_MAX
    }

    /// Whether nothing is queued or running.
    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// The streams with something queued or running.
    pub(super) fn streams(&self) -> Vec<&str> {
        self.streams.keys().map(String::as_str).collect()
    }

    /// The positions of the replayed events that are queued, and of all that run.
    pub(super) fn replayed(&self) -> Vec<i64> {
        let mut positions: Vec<i64> = Vec::new();
        for lane in self.streams.values() {
            let replayed = lane.queue.iter().filter(|task| task.reason == Reason::Replay);
            positions.extend(replayed.map(|task| task.head.position).chain(lane.running));
        }
        positions
    }

    /// Queues an event behind the others of its stream.
    pub(super) fn push(&mut self, task: Task) {
        if task.reason == Reason::Next {
            self.unfinished.insert(task.head.position);
            self.set_read_to(task.head.position);
        }
        let lane = self.streams.entry(task.head.stream.clone()).or_default();
        if lane.queue.is_empty() && lane.running.is_none() {
            self.ready.push_back(task.head.stream.clone());
        }
        lane.queue.push_back(task);
        self.size += 1;
    }

    /// Queues what a stream that waited has to catch up with. More may follow after `after`. Answers what to do if that
    /// is nothing.
    pub(super) fn catch_up(&mut self, stream: &str, tasks: Vec<Task>, after: i64) -> Then {
        self.streams.entry(stream.to_owned()).or_default().catches_up_after = Some(after);
        for task in tasks {
            self.push(task);
        }
        self.then(stream)
    }

    /// Takes the next event to handle. The streams take turns.
    pub(super) fn start(&mut self) -> Option<Task> {
        let stream = self.ready.pop_front()?;
        let lane = self.streams.get_mut(&stream)?;
        let task = lane.queue.pop_front()?;
        lane.running = Some(task.head.position);
        Some(task)
    }

    /// The running event of a stream is done with.
    pub(super) fn finish(&mut self, task: &Task) -> Then {
        if task.reason == Reason::Next {
            self.unfinished.remove(&task.head.position);
        }
        if let Some(lane) = self.streams.get_mut(&task.head.stream) {
            lane.running = None;
            self.size -= 1;
            if !lane.queue.is_empty() {
                self.ready.push_back(task.head.stream.clone());
            }
        }
        self.then(&task.head.stream)
    }

    /// The stream of a running event waits, as is written down: what was read of it is dropped, to be read again.
    pub(super) fn wait(&mut self, task: &Task) {
        let lane = self.streams.remove(&task.head.stream).unwrap_or_default();
        self.size -= lane.queue.len() + usize::from(lane.running.is_some());
        for dropped in lane.queue.iter().chain([task]) {
            if dropped.reason == Reason::Next {
                self.unfinished.remove(&dropped.head.position);
            }
        }
    }

    /// A stream has caught up.
    pub(super) fn caught_up(&mut self, stream: &str) {
        self.streams.remove(stream);
    }

    fn then(&mut self, stream: &str) -> Then {
        let Some(lane) = self.streams.get(stream) else { return Then::GoOn };
        if lane.running.is_some() || !lane.queue.is_empty() {
            return Then::GoOn;
        }
        if let Some(after) = lane.catches_up_after {
            return Then::ReadMore(after);
        }
        self.streams.remove(stream);
        Then::GoOn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(stream: &str, position: i64, reason: Reason) -> Task {
        let head = EventHead {
            position,
            stream: stream.to_owned(),
            version: position,
            event_type: "t".to_owned(),
            message_id: None,
        };
        Task { head, attempts: 0, reason }
    }

    fn next(stream: &str, position: i64) -> Task {
        task(stream, position, Reason::Next)
    }

    #[test]
    fn streams_take_turns_and_each_runs_one_event_at_a_time() {
        let mut lanes = Lanes::at(0);
        for (stream, position) in [("a", 1), ("a", 2), ("b", 3), ("a", 4)] {
            lanes.push(next(stream, position));
        }
        assert_eq!(lanes.start(), Some(next("a", 1)));
        assert_eq!(lanes.start(), Some(next("b", 3)));
        assert_eq!(lanes.start(), None);
        lanes.push(next("b", 5));
        assert_eq!(lanes.start(), None);
        assert_eq!(lanes.finish(&next("b", 3)), Then::GoOn);
        assert_eq!(lanes.start(), Some(next("b", 5)));
        assert_eq!(lanes.checkpoint(), 0);
        lanes.finish(&next("a", 1));
        assert_eq!(lanes.checkpoint(), 1);
        lanes.finish(&next("b", 5));
        assert_eq!(lanes.start(), Some(next("a", 2)));
        lanes.finish(&next("a", 2));
        assert_eq!(lanes.checkpoint(), 3);
        assert_eq!(lanes.start(), Some(next("a", 4)));
        lanes.finish(&next("a", 4));
        assert_eq!((lanes.checkpoint(), lanes.is_empty()), (5, true));
    }

    #[test]
    fn a_stream_that_waits_holds_neither_the_checkpoint_nor_the_others() {
        let mut lanes = Lanes::at(0);
        for (stream, position) in [("a", 1), ("b", 2), ("a", 3)] {
            lanes.push(next(stream, position));
        }
        let failing = lanes.start().unwrap();
        lanes.wait(&failing);
        assert_eq!(lanes.checkpoint(), 1);
        let other = lanes.start().unwrap();
        assert_eq!(other, next("b", 2));
        lanes.finish(&other);
        assert_eq!((lanes.checkpoint(), lanes.is_empty(), lanes.start()), (3, true, None));
    }

    #[test]
    fn a_stream_that_catches_up_asks_for_more_until_there_is_none() {
        let mut lanes = Lanes::at(9);
        let (first, second) = (task("a", 2, Reason::CatchUp), task("a", 5, Reason::CatchUp));
        assert_eq!(lanes.catch_up("a", vec![first.clone(), second.clone()], 5), Then::GoOn);
        assert_eq!((lanes.start(), lanes.start()), (Some(first.clone()), None));
        assert_eq!(lanes.finish(&first), Then::GoOn);
        assert_eq!(lanes.start(), Some(second.clone()));
        assert_eq!(lanes.finish(&second), Then::ReadMore(5));
        assert_eq!(lanes.catch_up("a", Vec::new(), 9), Then::ReadMore(9));
        lanes.caught_up("a");
        assert_eq!((lanes.checkpoint(), lanes.is_empty()), (9, true));
    }

    #[test]
    fn a_replayed_event_takes_its_turn_in_its_stream() {
        let mut lanes = Lanes::at(9);
        lanes.push(next("a", 10));
        lanes.push(task("a", 3, Reason::Replay));
        assert_eq!(lanes.replayed(), [3]);
        assert_eq!(lanes.start(), Some(next("a", 10)));
        assert_eq!(lanes.start(), None);
        lanes.finish(&next("a", 10));
        assert_eq!(lanes.checkpoint(), 10);
        assert_eq!(lanes.start(), Some(task("a", 3, Reason::Replay)));
        lanes.finish(&task("a", 3, Reason::Replay));
        assert!(lanes.is_empty());
    }

    #[test]
    fn reading_ahead_is_bounded() {
        let mut lanes = Lanes::at(0);
        for position in 1..=2000 {
            assert!(!lanes.is_full());
            lanes.push(next(&format!("s{}", position % 7), position));
        }
        assert!(lanes.is_full());
        let task = lanes.start().unwrap();
        lanes.finish(&task);
        assert!(!lanes.is_full());
    }
}
