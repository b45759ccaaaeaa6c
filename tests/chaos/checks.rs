//! The invariants, as pure functions over a history. Each has to be able to fail: `tests/chaos/checks/samples.rs` has a
//! history for each that breaks it.

mod asking;
mod end;
mod protocol;
mod samples;

pub(crate) use protocol::TRAFFIC_MIN;

use super::history::History;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Violation {
    pub(crate) check: &'static str,
    pub(crate) what: String,
}

/// What the judgement of a history is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) violations: Vec<Violation>,
    /// Requests that came too early because their process was stopped between its last look and the write: no protocol
    /// can keep that from happening, so each is listed.
    pub(crate) residual: Vec<String>,
    /// What each check looked at.
    pub(crate) looked_at: Vec<(&'static str, u64)>,
}

impl Verdict {
    fn looked_at(&mut self, check: &'static str, count: usize) {
        self.looked_at.push((check, count as u64));
    }

    fn broken(&mut self, check: &'static str, what: impl Into<String>) {
        self.violations.push(Violation { check, what: what.into() });
    }

    /// The invariants that do not hold, each once.
    pub(crate) fn checks(&self) -> Vec<&'static str> {
        let mut checks: Vec<_> = self.violations.iter().map(|v| v.check).collect();
        checks.sort_unstable();
        checks.dedup();
        checks
    }
}

/// A check and what it says.
type Check = (&'static str, fn(&History, &mut Verdict));

const CHECKS: &[Check] = &[
    ("I1 I2: one request a reservation, which is committed before", asking::reserved_before),
    ("I3: no window is asked again without a record", asking::asked_again),
    ("I11: requests of a source are 200 ms apart", asking::spacing),
    ("I12: nobody asks before Retry-After", asking::patience),
    ("I4 I5 I7 I14: every event, once, as it was sent", end::events),
    ("I6: order, and nothing below a reader", end::order),
    ("I5: what was published to the queue, once", end::queue),
    ("I8: cursors never fall, and pass nothing", protocol::cursors),
    ("I9 I17: leases do not overlap, epochs rise", protocol::leases),
    ("I10: only what may follow follows", protocol::transitions),
    ("I18: SIGTERM ends with 0 and leaves nothing", protocol::terminations),
    ("I20: memory, files and connections are bounded", end::bounds),
    ("L1 L3: everything arrives once the faults have ended", end::drained),
    ("L2: a source is taken over", protocol::takeovers),
    ("L5: what is held is shown", end::shown),
    ("M2: there was traffic around every fault", protocol::traffic),
];

/// Judges.
pub(crate) fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    for (_, check) in CHECKS {
        check(history, &mut verdict);
    }
    verdict
}
