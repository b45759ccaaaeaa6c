//! Up to which id a table may be read, when ids become visible out of order.
//!
//! A sequence gives numbers in order; transactions commit in any. Whoever reads up to the highest id it can see loses
//! those that are committed later. Asking which transactions have an xid does not help: between `nextval` and the
//! insert, a transaction may have none.
//!
//! # The horizon (`PostgreSQL`)
//!
//! 1. One statement reads `top`, the highest id that is visible.
//! 2. A later statement reads which transactions hold the lock of a writer (`RowExclusiveLock`) on the table, on what
//!    it is a partition of, or on its own partitions.
//! 3. When all of *those* have ended, `top` is proven: every id up to it is visible or will never be.
//! 4. A later statement reads the page, up to the proven bound.
//!
//! Proof. Let `y < top` be an id that is not visible in the page of step 4, and yet will be. `top` was drawn before its
//! transaction committed, so before step 1, and `y` before `top`, since the sequence gives numbers in order. An insert
//! takes the lock of the table before it evaluates `nextval`, and the lock is kept to the end of the transaction. So the
//! writer of `y` held its lock since before step 1, and still held it in step 2 or had ended before. If it had ended
//! before step 2, or was seen there and has ended since, then the page's snapshot, taken later, has its rows: a commit
//! becomes visible before its locks are released. Either way `y` is visible: a contradiction.
//!
//! Writers that come later do not count, so the bound moves on however busy the table is, and writers of other tables
//! never count. Every statement has its own snapshot (`read committed`); one snapshot for all would void the proof.
//!
//! `PREPARE TRANSACTION` hands locks from a session to the prepared transaction, under another name. When a writer is
//! gone, it may have become any prepared transaction that is there and was not there, as another's, in step 2. These are
//! waited for as well.
//!
//! What the proof takes for granted, and [`inspection`](super::inspection) checks as far as it can: ids come from one
//! sequence that hands them out in order (`cache 1`), in the statement that inserts them. A number drawn before the
//! insert, by the application or from a session's cache, is drawn without the lock.
//!
//! # The lag (everywhere else)
//!
//! Where locks cannot be seen, an id is read only after an id at or above it was seen `tip_lag` ago: transactions that
//! end within `tip_lag` of a later id's becoming visible lose nothing. Time is the local monotonic clock.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Observations that are kept for one `tip_lag`. Fewer would delay events more, never lose any.
const OBSERVATIONS_MAX: u32 = 32;

/// How the name of a prepared transaction begins: it has no session.
const PREPARED: &str = "-1/";

/// Names of transactions, as `pg_locks.virtualtransaction` has them.
pub(super) type Transactions = BTreeSet<String>;

/// One look at the locks.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// Who holds the lock of a writer.
    pub(super) writers: Transactions,
    /// Which of the transactions that were asked about still run.
    pub(super) running: Transactions,
    /// All prepared transactions of the server, whatever they hold.
    pub(super) prepared: Transactions,
}

/// The proven bound, and the one that is being proven.
#[derive(Debug, Default)]
pub(super) struct Horizon {
    bound: Option<i64>,
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    top: i64,
    /// Whose end is waited for.
    holders: Transactions,
    /// Prepared transactions that no holder can have become.
    others: Transactions,
    since: Instant,
}

impl Horizon {
    /// Up to which id every event is visible. `None`: nothing is proven yet.
    pub(super) fn bound(&self) -> Option<i64> {
        self.bound
    }

    /// Whose end is waited for, and since when.
    pub(super) fn waits_for(&self) -> Option<(&Transactions, Instant)> {
        self.pending.as_ref().map(|pending| (&pending.holders, pending.since))
    }

    /// Begins to prove `top`, seen in a statement before `look`. A proof under way goes on instead.
    pub(super) fn propose(&mut self, top: i64, look: &Look, now: Instant) {
        if self.pending.is_some() || self.bound.is_some_and(|bound| bound >= top) {
            return;
        }
        let others = look.prepared.difference(&look.writers).cloned().collect();
        let holders = look.writers.clone();
        self.pending = Some(Pending { top, holders, others, since: now });
        self.settle();
    }

    /// Goes on with the proof under way.
    pub(super) fn observe(&mut self, look: &Look) {
        let Some(pending) = &mut self.pending else { return };
        let ended = pending.holders.difference(&look.running);
        let may_be_prepared = ended.into_iter().any(|holder| !holder.starts_with(PREPARED));
        pending.holders.retain(|holder| look.running.contains(holder));
        if may_be_prepared {
            pending.holders.extend(look.prepared.difference(&pending.others).cloned());
        }
        self.settle();
    }

    /// Forgets the bounds above `top`, which is the highest id now.
    fn forget_above(&mut self, top: Option<i64>) {
        self.bound = self.bound.filter(|bound| Some(*bound) <= top);
        self.pending.take_if(|pending| Some(pending.top) > top);
    }

    fn settle(&mut self) {
        if let Some(pending) = self.pending.take_if(|pending| pending.holders.is_empty()) {
            self.bound = Some(pending.top);
        }
    }
}

/// The bound that `tip_lag` gives.
#[derive(Debug)]
pub(super) struct TipLag {
    lag: Duration,
    bound: Option<i64>,
    /// Highest visible ids and when they were seen, oldest first.
    seen: VecDeque<(Instant, i64)>,
}

impl TipLag {
    pub(super) fn new(lag: Duration) -> Self {
        Self { lag, bound: None, seen: VecDeque::new() }
    }

    pub(super) fn is_off(&self) -> bool {
        self.lag.is_zero()
    }

    /// `top` was visible at `now`, which never goes back.
    fn see(&mut self, top: i64, now: Instant) {
        if self.is_off() {
            return;
        }
        // Leaving an observation out delays its ids until the next one is old enough.
        let is_due = |(at, highest): &(Instant, i64)| {
            top > *highest && now.duration_since(*at) >= self.lag / OBSERVATIONS_MAX
        };
        if self.seen.back().is_none_or(is_due) && self.bound.is_none_or(|bound| top > bound) {
            self.seen.push_back((now, top));
        }
    }

    /// Forgets what was seen above `top`, which is the highest id now.
    fn forget_above(&mut self, top: Option<i64>) {
        self.bound = self.bound.filter(|bound| Some(*bound) <= top);
        self.seen.retain(|(_, seen)| Some(*seen) <= top);
    }

    /// Up to which id may be read.
    pub(super) fn bound(&mut self, now: Instant) -> Option<i64> {
        if self.is_off() {
            return Some(i64::MAX);
        }
        while let Some((_, top)) =
            self.seen.pop_front_if(|(at, _)| now.duration_since(*at) >= self.lag)
        {
            self.bound = self.bound.max(Some(top));
        }
        self.bound
    }
}

/// How far a relation is known and may be read.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) horizon: Horizon,
    pub(super) tip_lag: TipLag,
    /// The highest id that was seen.
    top: Option<i64>,
}

impl Progress {
    pub(super) fn new(tip_lag: Duration) -> Self {
        Self { horizon: Horizon::default(), tip_lag: TipLag::new(tip_lag), top: None }
    }

    pub(super) fn top(&self) -> Option<i64> {
        self.top
    }

    /// After which id a query is asked for its highest one, so that it answers the one that was seen, if it is there.
    pub(super) fn asks_after(&self, after_id: i64) -> i64 {
        self.top.map_or(after_id, |top| top.saturating_sub(1).max(after_id))
    }

    /// `top` is the highest id above `after_id` that was visible at `now`. `None`: there was none.
    ///
    /// Where the highest id has fallen, the newest rows were deleted, or others took the place of all: what was above
    /// says nothing of ids that are given again.
    pub(super) fn see(&mut self, top: Option<i64>, after_id: i64, now: Instant) {
        if top.is_none() && self.top.is_none_or(|seen| seen <= after_id) {
            return;
        }
        if top < self.top {
            self.horizon.forget_above(top);
            self.tip_lag.forget_above(top);
        }
        self.top = top;
        if let Some(top) = top {
            self.tip_lag.see(top, now);
        }
    }

    /// What another connection to the same database can go on with. Names of transactions are left behind: the proof
    /// under way begins again.
    pub(super) fn for_another_connection(mut self) -> Self {
        self.horizon.pending = None;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> Transactions {
        names.iter().map(ToString::to_string).collect()
    }

    fn look(writers: &[&str], running: &[&str], prepared: &[&str]) -> Look {
        Look { writers: set(writers), running: set(running), prepared: set(prepared) }
    }

    fn proposed(top: i64, first: &Look) -> Horizon {
        let mut horizon = Horizon::default();
        horizon.propose(top, first, Instant::now());
        horizon
    }

    #[test]
    fn without_writers_the_top_is_proven_at_once() {
        assert_eq!(proposed(7, &look(&[], &[], &["-1/9"])).bound(), Some(7));
    }

    #[test]
    fn a_bound_waits_for_the_writers_it_saw_and_for_no_others() {
        let mut horizon = proposed(7, &look(&["3/1", "4/1"], &[], &[]));
        assert_eq!(horizon.bound(), None);
        horizon.observe(&look(&["4/1", "5/1"], &["4/1"], &[]));
        assert_eq!(horizon.bound(), None);
        // A later top does not replace the one that is being proven.
        horizon.propose(9, &look(&["5/1"], &[], &[]), Instant::now());
        horizon.observe(&look(&["5/1"], &[], &[]));
        assert_eq!(horizon.bound(), Some(7));
        horizon.propose(9, &look(&["5/1"], &[], &[]), Instant::now());
        assert_eq!(horizon.bound(), Some(7), "the old bound serves on");
        horizon.observe(&look(&[], &[], &[]));
        assert_eq!(horizon.bound(), Some(9));
    }

    #[test]
    fn a_bound_never_moves_back() {
        let mut horizon = proposed(7, &look(&[], &[], &[]));
        horizon.propose(3, &look(&[], &[], &[]), Instant::now());
        assert_eq!(horizon.bound(), Some(7));
    }

    #[test]
    fn a_writer_that_is_prepared_is_still_waited_for() {
        let mut horizon = proposed(7, &look(&["3/1"], &[], &["-1/5"]));
        horizon.observe(&look(&[], &[], &["-1/5", "-1/8"]));
        assert_eq!(horizon.bound(), None, "3/1 may be -1/8 now");
        horizon.observe(&look(&[], &["-1/8"], &["-1/5", "-1/8", "-1/10"]));
        assert_eq!(horizon.bound(), None);
        horizon.observe(&look(&[], &[], &["-1/5"]));
        assert_eq!(horizon.bound(), Some(7), "-1/5 is somebody else's");
    }

    #[test]
    fn a_look_that_shows_both_names_of_one_transaction_misses_none() {
        let mut horizon = proposed(7, &look(&["3/1"], &[], &[]));
        horizon.observe(&look(&["3/1", "-1/8"], &["3/1"], &["-1/8"]));
        horizon.observe(&look(&["-1/8"], &[], &["-1/8"]));
        assert_eq!(horizon.bound(), None);
        horizon.observe(&look(&[], &[], &[]));
        assert_eq!(horizon.bound(), Some(7));
    }

    #[test]
    fn prepared_transactions_that_keep_coming_do_not_stall_a_bound() {
        let mut horizon = proposed(7, &look(&["3/1"], &[], &[]));
        horizon.observe(&look(&[], &[], &["-1/20"]));
        assert_eq!(horizon.bound(), None);
        horizon.observe(&look(&[], &[], &["-1/21"]));
        assert_eq!(horizon.bound(), Some(7), "-1/20 has become nothing else");
    }

    #[test]
    fn an_id_is_read_when_one_above_it_was_seen_a_lag_ago() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut tip = TipLag::new(2 * second);
        tip.see(10, start);
        assert_eq!(tip.bound(start + second), None);
        tip.see(20, start + second);
        assert_eq!(tip.bound(start + 2 * second), Some(10));
        assert_eq!(tip.bound(start + 3 * second), Some(20));
        tip.see(20, start + 4 * second);
        assert_eq!(tip.bound(start + 9 * second), Some(20));
        assert_eq!(TipLag::new(Duration::ZERO).bound(start), Some(i64::MAX));
    }

    #[test]
    fn what_was_above_is_forgotten_when_the_highest_id_falls() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut progress = Progress::new(second);
        progress.see(Some(4), i64::MIN, start);
        progress.horizon.propose(4, &look(&[], &[], &[]), start);
        progress.see(Some(9), i64::MIN, start + second);
        progress.horizon.propose(9, &look(&["3/1"], &[], &[]), start + second);
        // Nothing above what was read says nothing.
        progress.see(None, 9, start + second);
        assert_eq!(progress.top(), Some(9));
        // The newest rows are gone, and what was seen below them stays.
        progress.see(Some(5), i64::MIN, start + second);
        assert!(progress.horizon.waits_for().is_none());
        assert_eq!(progress.horizon.bound(), Some(4));
        assert_eq!(progress.tip_lag.bound(start + second), Some(4));
        assert_eq!(progress.tip_lag.bound(start + 2 * second), Some(5));
        // Asked for what is at or above 5, there is nothing.
        assert_eq!(progress.asks_after(0), 4);
        progress.see(None, 4, start + 2 * second);
        assert_eq!(progress.top(), None);
        assert_eq!(progress.horizon.bound(), None);
        assert_eq!(progress.tip_lag.bound(start + 9 * second), None);
    }

    #[test]
    fn few_observations_are_kept() {
        let start = Instant::now();
        let mut tip = TipLag::new(Duration::from_secs(3200));
        for millisecond in 0..100_000 {
            let now = start + Duration::from_millis(millisecond * 100);
            tip.see(millisecond.cast_signed(), now);
            tip.bound(now);
        }
        assert!(tip.seen.len() <= OBSERVATIONS_MAX as usize + 1, "{}", tip.seen.len());
    }
}
