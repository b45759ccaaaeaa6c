//! A queue in memory: for tests and for programs that consume what they make themselves.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::source::queue::{
    BatchLimits, Delivery, Message, QueueError, QueueInspection, QueueSession, QueueSource,
};

/// A queue whose messages are pushed by the program. What is not acknowledged is delivered again when its session ends,
/// before what came later. Several sessions compete for the messages.
#[derive(Debug, Clone, Default)]
pub struct MemoryQueue {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Message>,
    /// What sessions have in hand, by session and receipt.
    in_hand: Vec<InHand>,
    last_number: u64,
    acknowledged_count: usize,
    consumers: Vec<String>,
    /// Sessions that began at or before this number are over.
    broken_up_to: u64,
    /// Why nobody is let in.
    closed: Option<QueueError>,
}

#[derive(Debug)]
struct InHand {
    session: u64,
    receipt: u64,
    messages: Vec<Message>,
}

impl MemoryQueue {
    /// A queue without messages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a message at the end.
    pub fn push(&self, message: Message) {
        self.lock().ready.push_back(message);
        self.shared.changed.notify_waiters();
    }

    /// Messages that are not acknowledged, in a consumer's hands or not.
    pub fn left(&self) -> usize {
        let state = self.lock();
        state.ready.len() + state.in_hand.iter().map(|held| held.messages.len()).sum::<usize>()
    }

    /// Messages that were acknowledged, ever.
    pub fn acknowledged_count(&self) -> usize {
        self.lock().acknowledged_count
    }

    /// The names under which consumers came, in order.
    pub fn consumers(&self) -> Vec<String> {
        self.lock().consumers.clone()
    }

    /// Ends all sessions, as a broker does that goes away; it lets consumers in again at once.
    pub fn disconnect(&self) {
        let mut state = self.lock();
        state.broken_up_to = state.last_number;
        drop(state);
        self.shared.changed.notify_waiters();
    }

    /// Refuses consumers with this error; `None`: lets them in again.
    pub fn close_to_consumers(&self, error: Option<QueueError>) {
        self.lock().closed = error;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete before a line that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueSource for MemoryQueue {
    type Session = MemorySession;

    async fn connect(&self, consumer: &str) -> Result<MemorySession, QueueError> {
        let mut state = self.lock();
        if let Some(error) = &state.closed {
            return Err(error.clone());
        }
        state.last_number += 1;
        state.consumers.push(consumer.to_owned());
        Ok(MemorySession { number: state.last_number, shared: Arc::clone(&self.shared) })
    }

    async fn inspect(&self) -> Result<QueueInspection, QueueError> {
        let state = self.lock();
        if let Some(error) = &state.closed {
            return Err(error.clone());
        }
        let what = format!("answers: {} messages are waiting", state.ready.len());
        Ok(QueueInspection { what, warnings: Vec::new() })
    }
}

/// One consumer of a [`MemoryQueue`].
#[derive(Debug)]
pub struct MemorySession {
    number: u64,
    shared: Arc<Shared>,
}

impl MemorySession {
    fn check(&self, state: &State) -> Result<(), QueueError> {
        if self.number <= state.broken_up_to {
            return Err(QueueError::unavailable("the queue ended the session"));
        }
        Ok(())
    }

    fn take_in_hand(&self, state: &mut State, receipt: u64) -> Vec<Message> {
        let place = state
            .in_hand
            .iter()
            .position(|held| held.session == self.number && held.receipt == receipt);
        place.map(|place| state.in_hand.remove(place).messages).unwrap_or_default()
    }
}

impl QueueSession for MemorySession {
    type Receipt = u64;

    async fn deliver(&self, limits: BatchLimits) -> Result<Delivery<u64>, QueueError> {
        let mut full_at = None;
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.shared.lock();
                self.check(&state)?;
                let count = full_count(&state.ready, limits);
                let is_full = count == limits.count || count < state.ready.len();
                let is_over = full_at.is_some_and(|at| at <= Instant::now());
                if count > 0 && (is_full || is_over || limits.linger.is_zero()) {
                    let messages: Vec<_> = state.ready.drain(..count).collect();
                    state.last_number += 1;
                    let receipt = state.last_number;
                    let held = InHand { session: self.number, receipt, messages: messages.clone() };
                    state.in_hand.push(held);
                    return Ok(Delivery { messages, gaps: Vec::new(), receipt });
                }
                if count > 0 {
                    full_at.get_or_insert_with(|| Instant::now() + limits.linger);
                }
            }
            match full_at {
                // Woken by time or by a message: both are looked at.
                Some(at) => drop(timeout_at(at, changed).await),
                None => changed.await,
            }
        }
    }

    async fn acknowledge(&self, receipt: u64) -> Result<(), QueueError> {
        let mut state = self.shared.lock();
        self.check(&state)?;
        let count = self.take_in_hand(&mut state, receipt).len();
        state.acknowledged_count += count;
        Ok(())
    }

    async fn reject(&self, receipt: u64) -> Result<(), QueueError> {
        let mut state = self.shared.lock();
        self.check(&state)?;
        for message in self.take_in_hand(&mut state, receipt).into_iter().rev() {
            state.ready.push_front(message);
        }
        drop(state);
        self.shared.changed.notify_waiters();
        Ok(())
    }

    async fn close(self) {}
}

impl Drop for MemorySession {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let (mine, others): (Vec<_>, Vec<_>) =
            state.in_hand.drain(..).partition(|held| held.session == self.number);
        state.in_hand = others;
        for message in mine.into_iter().rev().flat_map(|held| held.messages.into_iter().rev()) {
            state.ready.push_front(message);
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

/// How many of the ready messages a batch takes.
fn full_count(ready: &VecDeque<Message>, limits: BatchLimits) -> usize {
    let mut bytes = 0;
    let mut count = 0;
    while count < limits.count && count < ready.len() && bytes <= limits.bytes {
        bytes += ready[count].body.len();
        count += 1;
    }
    count
}
