//! What follows from each way a request can end: the one table that says release, fail, back off.
//!
//! Pure: no clock, no I/O. Jitter comes in as a number, so that tests and the model decide it.

use std::time::Duration;

use crate::source::queue::QueueFailure;

/// Longest `Retry-After` that is honoured. A source that asks for more is asked again after this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// Attempts at one window, the first included, before `on_failure = "retry"` holds it for an operator.
pub const WINDOW_ATTEMPTS_MAX: u32 = 5;

/// How a request ended that brought no valid page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// Nothing reached the source: name resolution, connection refused, TLS, a grant grown too old.
    NotSent,
    /// The source answered that it will not serve now: 429, 503.
    Refused,
    /// The source answered that the request is wrong: 3xx, 4xx.
    Rejected,
    /// The request may have been served, and nobody knows: a timeout, a reset, another 5xx, a truncated body.
    Unknown,
    /// The source answered with something that is no valid page.
    InvalidPage,
}

/// What becomes of the reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The row is deleted: asking the window again is safe.
    Release,
    /// The row becomes `failed` and holds the window, until an operator or `on_failure = "retry"` frees it.
    Fail,
}

/// What `status` shows of a source after a request ended this way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// The last request was answered.
    Ok,
    /// The source cannot be reached, refuses, or its answers cannot be used.
    BackingOff,
    /// The source says the request is wrong; somebody has to change the configuration or the source.
    Rejected,
}

impl Health {
    /// The word in `source.health`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::BackingOff => "backing_off",
            Self::Rejected => "rejected",
        }
    }
}

/// Exponential back-off: `base × factor^(n − 1)`, at most `cap`, ± 10 % jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Delay after the first failure.
    pub base: Duration,
    /// Growth per further failure.
    pub factor: u32,
    /// Longest delay, before jitter.
    pub cap: Duration,
}

impl Backoff {
    /// The delay after `failure_count` failures in a row (from 1). `jitter` is in 0.0..1.0, 0.5 adds nothing.
    pub fn delay(&self, failure_count: u32, jitter: f64) -> Duration {
        let exponent = failure_count.saturating_sub(1).min(16);
        let factor = self.factor.saturating_pow(exponent);
        let delay = self.base.saturating_mul(factor).min(self.cap);
        delay.mul_f64(0.9 + 0.2 * jitter.clamp(0.0, 1.0))
    }
}

/// Windows of unknown outcome and inbox rows that could not be moved: 1 s × 4 up to 300 s.
pub const RETRY_BACKOFF: Backoff =
    Backoff { base: Duration::from_secs(1), factor: 4, cap: Duration::from_mins(5) };

/// A result that the database does not take: it is kept and tried again until it does.
pub const STORE_BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(100), factor: 2, cap: Duration::from_secs(5) };

/// One row of the policy table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What becomes of the reservation.
    pub verdict: Verdict,
    /// When the source may be asked again.
    pub backoff: Backoff,
    /// What `status` shows.
    pub health: Health,
}

/// The table of DESIGN section 5.
pub const fn policy(class: FailureClass) -> Policy {
    const SHORT: Backoff =
        Backoff { base: Duration::from_secs(1), factor: 2, cap: Duration::from_mins(1) };
    const LONG: Backoff =
        Backoff { base: Duration::from_mins(1), factor: 2, cap: Duration::from_mins(5) };
    match class {
        FailureClass::NotSent | FailureClass::Refused => {
            Policy { verdict: Verdict::Release, backoff: SHORT, health: Health::BackingOff }
        }
        FailureClass::Rejected => {
            Policy { verdict: Verdict::Release, backoff: LONG, health: Health::Rejected }
        }
        FailureClass::Unknown | FailureClass::InvalidPage => {
            Policy { verdict: Verdict::Fail, backoff: RETRY_BACKOFF, health: Health::BackingOff }
        }
    }
}

/// The table of queue sources: how long until the next connection is tried, and what `status` shows meanwhile. Nothing
/// is held: a message that was not acknowledged is delivered again.
pub const fn queue_policy(failure: QueueFailure) -> (Backoff, Health) {
    match failure {
        QueueFailure::Unavailable => {
            let cap = Duration::from_secs(10);
            (Backoff { base: Duration::from_millis(250), factor: 2, cap }, Health::BackingOff)
        }
        QueueFailure::Rejected => {
            let cap = Duration::from_mins(1);
            (Backoff { base: Duration::from_secs(5), factor: 2, cap }, Health::Rejected)
        }
    }
}

/// What to do with a window whose outcome is unknown, set per source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnFailure {
    /// Wait for `eventloader requests retry`.
    #[default]
    Hold,
    /// Ask again by itself, up to [`WINDOW_ATTEMPTS_MAX`] attempts, then hold.
    Retry,
}

/// How long until a failed window is asked again by itself; `None`: it is held for an operator.
pub fn retry_in(on_failure: OnFailure, attempt: u32, jitter: f64) -> Option<Duration> {
    match on_failure {
        OnFailure::Retry if attempt < WINDOW_ATTEMPTS_MAX => {
            Some(RETRY_BACKOFF.delay(attempt, jitter))
        }
        OnFailure::Hold | OnFailure::Retry => None,
    }
}

/// How long nobody asks the source after a failure: its own `Retry-After`, capped, or the back-off, whichever is longer.
pub fn pause_after_failure(
    class: FailureClass,
    failure_count: u32,
    retry_after: Option<Duration>,
    jitter: f64,
) -> Duration {
    let backoff = policy(class).backoff.delay(failure_count, jitter);
    match retry_after {
        Some(asked) => asked.min(RETRY_AFTER_MAX).max(backoff),
        None => backoff,
    }
}

/// How long nobody asks the source after its `empty_count`-th empty page in a row: `min_interval` doubled each time,
/// at most `max_idle`.
pub fn pause_after_empty(empty_count: u32, min_interval: Duration, max_idle: Duration) -> Duration {
    let base = min_interval.max(Duration::from_millis(10));
    base.saturating_mul(2_u32.saturating_pow(empty_count.min(31))).min(max_idle.max(min_interval))
}

/// How long nobody asks the source after a page: as long as it is idle, or as long as it asked for (capped like a
/// `Retry-After`), whichever is longer.
pub fn pause_after_page(idle: Option<Duration>, asked: Option<Duration>) -> Option<Duration> {
    idle.max(asked.map(|asked| asked.min(RETRY_AFTER_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_by_four_up_to_the_cap() {
        let delays: Vec<_> = (0..7).map(|n| RETRY_BACKOFF.delay(n, 0.5).as_millis()).collect();
        assert_eq!(delays, [1000, 1000, 4000, 16_000, 64_000, 256_000, 300_000]);
    }

    #[test]
    fn jitter_stays_within_ten_percent() {
        for jitter in [0.0, 0.3, 1.0, 7.0, -1.0] {
            let delay = RETRY_BACKOFF.delay(2, jitter).as_secs_f64();
            assert!((3.6..=4.4).contains(&delay), "{delay}");
        }
    }

    #[test]
    fn retry_after_is_capped_and_never_shortens_the_backoff() {
        let pause = |asked: u64| {
            pause_after_failure(FailureClass::Refused, 1, Some(Duration::from_secs(asked)), 0.5)
        };
        assert_eq!(pause(0), Duration::from_secs(1));
        assert_eq!(pause(7), Duration::from_secs(7));
        assert_eq!(pause(1_000_000_000), RETRY_AFTER_MAX);
    }

    #[test]
    fn a_page_can_ask_for_a_pause_that_is_capped_and_never_shortens_the_idle_one() {
        let seconds = |n| Some(Duration::from_secs(n));
        for (idle, asked, want) in [
            (None, None, None),
            (None, seconds(7), seconds(7)),
            (seconds(3), None, seconds(3)),
            (seconds(3), seconds(2), seconds(3)),
            (seconds(3), seconds(20), seconds(20)),
            (None, Some(Duration::MAX), Some(RETRY_AFTER_MAX)),
        ] {
            assert_eq!(pause_after_page(idle, asked), want, "{idle:?} {asked:?}");
        }
    }

    #[test]
    fn hold_is_never_retried_and_retry_ends_after_five_attempts() {
        assert_eq!(retry_in(OnFailure::Hold, 1, 0.5), None);
        assert_eq!(retry_in(OnFailure::Retry, 4, 0.5), Some(Duration::from_secs(64)));
        assert_eq!(retry_in(OnFailure::Retry, 5, 0.5), None);
    }

    #[test]
    fn idle_pause_doubles_up_to_max_idle() {
        let pause = |n| pause_after_empty(n, Duration::from_millis(200), Duration::from_secs(5));
        assert_eq!(pause(1), Duration::from_millis(400));
        assert_eq!(pause(4), Duration::from_millis(3200));
        assert_eq!(pause(5), Duration::from_secs(5));
        assert_eq!(pause(4_000_000_000), Duration::from_secs(5));
    }
}
