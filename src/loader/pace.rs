//! When this instance looks at a source again. PostgreSQL decides whether it may be asked; this only saves looking.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::cycle::{Denial, Ending};

/// How often another instance's source is looked at, to take it over when that instance dies. The promise is a take-over
/// within `lease_ttl` + 1 s.
pub const FOLLOW_EVERY: Duration = Duration::from_millis(700);

/// A claim that was this much too early is repeated at its time. One that was earlier met the work of another instance:
/// that one goes on, and this one looks again at leisure, so that instances do not race for every single request.
const EARLY: Duration = Duration::from_millis(20);

/// Added to the spacing: the moment that it counts from is written down by a call to the database, and a claim whose way is
/// shorter than that call's was would come too early and cost a round trip for nothing.
const MARGIN: Duration = Duration::from_millis(1);

/// How often a source is looked at that may not be asked for long, to notice that an operator lifted it.
const THROTTLED_EVERY: Duration = Duration::from_secs(30);

/// When a claim is repeated that was not answered.
const CLAIM_AGAIN: Duration = Duration::from_millis(500);

/// How often a held or paused source is looked at, to notice that an operator freed it.
const HELD_EVERY: Duration = Duration::from_secs(1);

/// Lets one request through per `min_interval`, so that PostgreSQL is asked only when a source may be due.
pub struct Pacer {
    /// `None`: no spacing is asked for.
    limiter: Option<DefaultDirectRateLimiter>,
    clock: DefaultClock,
    /// A permit that was taken and not used, because the claim was denied.
    unused: bool,
}

impl Pacer {
    /// A pacer for one source.
    pub fn new(min_interval: Duration) -> Self {
        let limiter = Quota::with_period(min_interval)
            .map(|quota| RateLimiter::direct(quota.allow_burst(NonZeroU32::MIN)));
        Self { limiter, clock: DefaultClock::default(), unused: false }
    }

    /// Takes the permit for the next claim, or says how long until there is one.
    ///
    /// # Errors
    ///
    /// The time until the next permit.
    pub fn permit(&mut self) -> Result<(), Duration> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        if !self.unused {
            limiter.check().map_err(|not_until| not_until.wait_time_from(self.clock.now()))?;
            self.unused = true;
        }
        Ok(())
    }

    /// The permit was used: a request was granted.
    pub fn granted(&mut self) {
        self.unused = false;
    }
}

/// Spreads sources that would otherwise all be due at the same moment.
pub fn stagger(index: usize) -> Duration {
    Duration::from_micros(u64::try_from(index % 10_000).unwrap_or_default() * 20)
}

/// How long until the source is worth another claim. `since_answer` is the time since its answer was known.
/// `jitter` is in 0.0..1.0.
pub fn next_look(
    ending: &Ending,
    min_interval: Duration,
    since_answer: Duration,
    jitter: f64,
) -> Duration {
    let spacing = match min_interval {
        Duration::ZERO => Duration::ZERO,
        interval => (interval + MARGIN).saturating_sub(since_answer),
    };
    let follow = FOLLOW_EVERY.mul_f64(0.8 + 0.2 * jitter);
    match ending {
        Ending::Denied { reason: Denial::Busy, wait, .. } => {
            wait.map_or(follow, |wait| wait.min(follow))
        }
        Ending::Denied { reason: Denial::Throttled, wait, .. } => {
            let wait = wait.unwrap_or(min_interval);
            if wait <= EARLY { wait } else { wait.clamp(follow, THROTTLED_EVERY) }
        }
        Ending::Denied {
            reason: Denial::Held | Denial::Paused | Denial::Missing, wait, ..
        } => wait.map_or(HELD_EVERY, |wait| wait.min(HELD_EVERY)).mul_f64(0.8 + 0.2 * jitter),
        Ending::ClaimLost(_) => CLAIM_AGAIN.mul_f64(0.5 + jitter),
        Ending::Deposited | Ending::Refused | Ending::Closed(None) => spacing,
        Ending::Empty(pause) | Ending::Closed(Some(pause)) => {
            pause.saturating_sub(since_answer).max(spacing).min(THROTTLED_EVERY)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::cycle::Token;

    #[test]
    fn a_denied_claim_keeps_its_permit() {
        let mut pacer = Pacer::new(Duration::from_mins(1));
        assert!(pacer.permit().is_ok());
        assert!(pacer.permit().is_ok(), "the first permit was not used");
        pacer.granted();
        let wait = pacer.permit().unwrap_err();
        assert!(wait > Duration::from_secs(50), "{wait:?}");
    }

    #[test]
    fn a_source_of_another_instance_is_looked_at_before_its_takeover_is_due() {
        let ending = Ending::Denied {
            token: Token::nil(),
            reason: Denial::Busy,
            wait: Some(Duration::from_secs(30)),
        };
        let look = next_look(&ending, Duration::from_millis(200), Duration::ZERO, 1.0);
        assert!(look <= FOLLOW_EVERY, "{look:?}");
    }

    #[test]
    fn a_long_pause_does_not_hide_that_an_operator_ended_it() {
        let hour = Duration::from_hours(1);
        for ending in [Ending::Closed(Some(hour)), Ending::Empty(hour)] {
            let look = next_look(&ending, Duration::from_millis(200), Duration::ZERO, 0.5);
            assert_eq!(look, THROTTLED_EVERY, "{ending:?}");
        }
    }

    #[test]
    fn spacing_counts_from_the_answer() {
        let look = next_look(
            &Ending::Deposited,
            Duration::from_millis(200),
            Duration::from_millis(30),
            0.5,
        );
        assert_eq!(look, Duration::from_millis(170) + MARGIN);
    }
}
