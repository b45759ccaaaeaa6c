//! Between the thread that polls and the calls of the session: messages that wait for a batch, within bounds.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::positions::{Positions, Span};
use crate::source::queue::{BatchLimits, Delivery, Gap, Message, QueueError};

/// What waits at most, in batches of the size that is asked for: enough to make batches of few partitions.
const BATCHES_WAITING_MAX: usize = 4;
/// Bytes of bodies that wait at most, and one message more.
const BYTES_WAITING_MAX: usize = 16 << 20;

/// What the thread puts in and the session takes out.
#[derive(Debug)]
pub(super) struct HandOver {
    state: Mutex<State>,
    /// Tells the session that a batch may be ready.
    arrived: Notify,
    /// Tells the thread that there is room, or something to do.
    attention: Condvar,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Bytes of the bodies that wait.
    bytes: usize,
    /// Since when the first of them waits.
    since: Option<Instant>,
    limits: BatchLimits,
    positions: Positions,
    failure: Option<QueueError>,
    is_stopping: bool,
}

#[derive(Debug)]
struct Waiting {
    span: Span,
    what: What,
}

#[derive(Debug)]
enum What {
    Message(Box<Message>),
    Gap(Gap),
}

/// What the thread has to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Poll,
    /// Enough waits already.
    Hold,
    /// Read these partitions again, from these offsets.
    Rewind(Vec<(i32, i64)>),
    Stop,
}

/// The spans of one delivery.
#[derive(Debug)]
pub struct Receipt {
    pub(super) spans: Vec<Span>,
}

impl HandOver {
    pub(super) fn new() -> Self {
        let state = State {
            waiting: VecDeque::new(),
            bytes: 0,
            since: None,
            limits: BatchLimits { count: 1000, bytes: 1 << 20, linger: Duration::ZERO },
            positions: Positions::default(),
            failure: None,
            is_stopping: false,
        };
        Self { state: Mutex::new(state), arrived: Notify::new(), attention: Condvar::new() }
    }

    /// Puts a message in, unless its partition is not ours.
    pub(super) fn put(&self, partition: i32, offset: i64, message: Message) -> Next {
        let mut state = self.state();
        if let Some(span) = state.positions.take(partition, offset) {
            state.bytes += message.body.len();
            state.push(Waiting { span, what: What::Message(Box::new(message)) });
            if state.waiting.len() == 1 || state.has_batch() {
                self.arrived.notify_waiters();
            }
        }
        state.next()
    }

    /// A partition is ours, from the committed offset on; a gap is what is lost from there.
    pub(super) fn assign(&self, partition: i32, begin: Option<i64>, gap: Option<Gap>) {
        let mut state = self.state();
        state.positions.assign(partition, begin);
        let Some(gap) = gap else { return };
        if let Some(span) = state.positions.pass(partition, gap.last_id + 1) {
            state.push(Waiting { span, what: What::Gap(gap) });
            self.arrived.notify_waiters();
        }
    }

    /// A partition is no longer ours: what waits of it is for its next owner.
    pub(super) fn revoke(&self, partition: i32) {
        let mut state = self.state();
        state.positions.revoke(partition);
        state.forget_void();
    }

    pub(super) fn rewind(&self, receipt: &Receipt) {
        let mut state = self.state();
        state.positions.rewind(&receipt.spans);
        state.forget_void();
        self.attention.notify_all();
    }

    pub(super) fn rewound(&self, partition: i32) {
        self.state().positions.rewound(partition);
    }

    /// These are stored.
    pub(super) fn acknowledge(&self, receipt: &Receipt) {
        self.state().positions.acknowledge(&receipt.spans);
    }

    /// What has to be committed.
    pub(super) fn due(&self) -> Vec<(i32, i64)> {
        self.state().positions.due()
    }

    pub(super) fn committed(&self, offsets: &[(i32, i64)]) {
        self.state().positions.committed(offsets);
    }

    /// Ends the session. The first reason stays.
    pub(super) fn fail(&self, error: QueueError) {
        self.state().failure.get_or_insert(error);
        self.arrived.notify_waiters();
    }

    pub(super) fn stop(&self) {
        self.state().is_stopping = true;
        self.attention.notify_all();
    }

    pub(super) fn next(&self) -> Next {
        self.state().next()
    }

    /// Waits while enough waits already; at most this long.
    pub(super) fn next_within(&self, patience: Duration) -> Next {
        let full = |state: &mut State| state.next() == Next::Hold;
        let waited = self.attention.wait_timeout_while(self.state(), patience, full);
        waited.unwrap_or_else(PoisonError::into_inner).0.next()
    }

    /// Waits for a batch; see [`crate::source::queue::QueueSession::deliver`]. Until it returns, everything stays here.
    pub(super) async fn batch(&self, limits: BatchLimits) -> Result<Delivery<Receipt>, QueueError> {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            let deadline = {
                let mut state = self.state();
                state.limits = limits;
                if let Some(error) = &state.failure {
                    return Err(error.clone());
                }
                let deadline = state.since.map(|since| since + limits.linger);
                let is_due = deadline.is_some_and(|deadline| deadline <= Instant::now());
                if is_due || state.has_batch() {
                    let delivery = state.take_batch();
                    self.attention.notify_all();
                    return Ok(delivery);
                }
                deadline
            };
            match deadline {
                Some(deadline) => tokio::select! {
                    () = arrived => (),
                    () = tokio::time::sleep_until(deadline) => (),
                },
                None => arrived.await,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
        self.since.get_or_insert_with(Instant::now);
    }

    fn has_batch(&self) -> bool {
        !self.waiting.is_empty()
            && (self.waiting.len() >= self.limits.count || self.bytes >= self.bytes_max())
    }

    fn bytes_max(&self) -> usize {
        self.limits.bytes.min(BYTES_WAITING_MAX)
    }

    fn next(&self) -> Next {
        let rewinds = self.positions.rewinds();
        if self.is_stopping {
            Next::Stop
        } else if !rewinds.is_empty() {
            Next::Rewind(rewinds)
        } else if self.waiting.len() >= BATCHES_WAITING_MAX * self.limits.count
            || self.bytes >= self.bytes_max()
        {
            Next::Hold
        } else {
            Next::Poll
        }
    }

    fn take_batch(&mut self) -> Delivery<Receipt> {
        if self.waiting.len() > self.limits.count {
            self.gather();
        }
        let (mut messages, mut gaps) = (Vec::new(), Vec::new());
        let (mut bytes, mut spans) = (0, BTreeMap::<i32, Vec<Span>>::new());
        while messages.len() < self.limits.count && bytes < self.limits.bytes {
            let Some(Waiting { span, what }) = self.waiting.pop_front() else { break };
            let of_partition = spans.entry(span.partition).or_default();
            match of_partition.last_mut().and_then(|last| Some((last.joined(span)?, last))) {
                Some((joined, last)) => *last = joined,
                None => of_partition.push(span),
            }
            match what {
                What::Message(message) => {
                    bytes += message.body.len();
                    messages.push(*message);
                }
                What::Gap(gap) => gaps.push(gap),
            }
        }
        self.bytes -= bytes;
        self.since = (!self.waiting.is_empty()).then(Instant::now);
        let spans = spans.into_values().flatten().collect();
        Delivery { messages, gaps, receipt: Receipt { spans } }
    }

    /// Puts what waits of one partition together, the partition first that waits longest: what goes to one stream together
    /// is stored together.
    fn gather(&mut self) {
        let mut ranks = HashMap::new();
        for waiting in &self.waiting {
            let next = ranks.len();
            ranks.entry(waiting.span.partition).or_insert(next);
        }
        self.waiting.make_contiguous().sort_by_key(|waiting| ranks[&waiting.span.partition]);
    }

    /// Drops what was taken in a term that is over.
    fn forget_void(&mut self) {
        let positions = &self.positions;
        self.waiting.retain(|waiting| positions.holds(&waiting.span));
        let length = |waiting: &Waiting| match &waiting.what {
            What::Message(message) => message.body.len(),
            What::Gap(_) => 0,
        };
        self.bytes = self.waiting.iter().map(length).sum();
        self.since = self.since.filter(|_| !self.waiting.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_batch_is_of_few_partitions_and_in_their_order() {
        let hand_over = HandOver::new();
        for partition in 0..4 {
            hand_over.assign(partition, Some(0), None);
        }
        for offset in 0..4 {
            for partition in 0..4 {
                let version = Some(offset);
                hand_over.put(partition, offset, Message { version, ..Message::default() });
            }
        }
        let limits = BatchLimits { count: 6, bytes: 1 << 20, linger: Duration::ZERO };
        let mut taken = Vec::new();
        for _ in 0..3 {
            let Delivery { messages, receipt, .. } = hand_over.batch(limits).await.unwrap();
            let partitions: Vec<i32> = receipt.spans.iter().map(|span| span.partition).collect();
            let versions: Vec<i64> =
                messages.iter().filter_map(|message| message.version).collect();
            taken.push((partitions, versions));
        }
        assert_eq!(
            taken,
            [
                (vec![0, 1], vec![0, 1, 2, 3, 0, 1]),
                (vec![1, 2], vec![2, 3, 0, 1, 2, 3]),
                (vec![3], vec![0, 1, 2, 3]),
            ]
        );
    }
}
