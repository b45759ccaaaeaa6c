//! Proof that the loops of this process still turn: each leaves a sign every second, and whoever wants to know whether the
//! process is alive looks how old the oldest sign is. A database or a source that is away does not stop a loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior};

/// Between two signs of a loop.
const EVERY: Duration = Duration::from_secs(1);

/// A loop without a sign for so long hangs: longer than any call that a loop waits for (connecting to the database, 10 s,
/// and a statement, 30 s).
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The signs of one loop, as others see them.
#[derive(Clone, Debug)]
pub struct Pulse {
    /// Which part of the program.
    pub part: &'static str,
    started: Instant,
    /// Milliseconds after `started`.
    last: Arc<AtomicU64>,
}

impl Pulse {
    /// Of a part that begins now.
    pub fn new(part: &'static str) -> Self {
        Self { part, started: Instant::now(), last: Arc::default() }
    }

    /// Of a part that hangs.
    #[cfg(test)]
    pub(crate) fn dead(part: &'static str) -> Self {
        let started = Instant::now().checked_sub(PATIENCE);
        Self { started: started.expect("the machine runs for longer"), ..Self::new(part) }
    }

    /// How long ago the last sign was.
    pub fn age(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last)
    }

    /// Whether the loop turns.
    pub fn is_alive(&self) -> bool {
        self.age() < PATIENCE
    }

    fn leave_sign(&self) {
        let age = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(age, Ordering::Relaxed);
    }
}

/// Leaves the signs of one loop, in that loop.
#[derive(Debug)]
pub struct Heartbeat {
    pulse: Pulse,
    interval: Interval,
}

impl Heartbeat {
    /// Leaves signs in `pulse`.
    pub fn of(pulse: Pulse) -> Self {
        let mut interval = tokio::time::interval(EVERY);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { pulse, interval }
    }

    /// Waits until the next sign is due, and leaves it.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: the sign is due as before.
    pub async fn beat(&mut self) {
        self.interval.tick().await;
        self.pulse.leave_sign();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_loop_that_does_not_come_round_is_noticed() {
        let pulse = Pulse::dead("loader");
        assert!(!pulse.is_alive());
        Heartbeat::of(pulse.clone()).beat().await;
        assert!(pulse.is_alive() && pulse.age() < PATIENCE / 2);
    }
}
