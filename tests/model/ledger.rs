//! What PostgreSQL keeps of one source, and the rules by which it changes: the twin of the functions in
//! `migrations/20261120000002_loading.sql`. `tests/twin.rs` checks that both do the same; the model explores this one.
//!
//! Times are whole numbers relative to now, so that two moments which differ only by the hour are the same state; time
//! passes by [`Ledger::tick`].

use eventloader::loader::cycle::{Close, Denial, Deposit, Grant, Stored, Token};
use eventloader::loader::policy::Verdict;

/// A moment relative to now: negative in the past.
pub(crate) type Time = i32;

/// An instance, by number. An instance that starts again is another owner.
pub(crate) type Owner = u8;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lease {
    pub(crate) owner: Option<Owner>,
    pub(crate) epoch: i64,
    pub(crate) expires_at: Time,
}

impl Lease {
    pub(crate) fn is_held(&self) -> bool {
        self.owner.is_some() && self.expires_at > 0
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Rate {
    pub(crate) last_request_at: Option<Time>,
    pub(crate) not_before: Option<Time>,
    pub(crate) empty_streak: u32,
    pub(crate) failure_streak: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Cursor {
    pub(crate) last_requested_id: i64,
    pub(crate) last_stored_id: i64,
    pub(crate) next_attempt: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Status {
    Reserved,
    InboxOnly,
    Succeeded,
    Failed,
    Orphaned,
    Retried,
    Skipped,
}

impl Status {
    pub(crate) fn is_live(self) -> bool {
        matches!(self, Self::Reserved | Self::InboxOnly | Self::Failed | Self::Orphaned)
    }

    /// Whether a page can still come for it.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Reserved | Self::Orphaned)
    }

    /// Whether an operator may free its window.
    pub(crate) fn is_held(self) -> bool {
        matches!(self, Self::Failed | Self::Orphaned)
    }
}

/// One row of `event_request_log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Request {
    pub(crate) id: i64,
    pub(crate) after_id: i64,
    pub(crate) attempt: u32,
    pub(crate) status: Status,
    pub(crate) token: Token,
    pub(crate) epoch: i64,
    pub(crate) owner: Owner,
    pub(crate) max_id: Option<i64>,
    pub(crate) retry_at: Option<Time>,
}

/// All rows of one source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ledger {
    pub(crate) lease: Lease,
    pub(crate) rate: Rate,
    pub(crate) cursor: Cursor,
    pub(crate) is_paused: bool,
    pub(crate) requests: Vec<Request>,
    pub(crate) next_request_id: i64,
    /// `event_inbox`: each id with the request that brought it.
    pub(crate) inbox: Vec<(i64, i64)>,
    pub(crate) events: Vec<i64>,
}

/// What a claim says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) owner: Owner,
    pub(crate) token: Token,
    pub(crate) lease_ttl: Time,
    pub(crate) min_interval: Time,
    pub(crate) orphan_grace: Time,
    pub(crate) orphan_retry_in: Option<Time>,
    pub(crate) max_attempts: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claimed {
    Granted(Grant),
    Denied { reason: Denial, wait: Option<Time> },
}

/// What a deposit and a close say besides what the cycle decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CycleEnd {
    pub(crate) owner: Owner,
    pub(crate) request_known_for: Option<Time>,
    pub(crate) not_before_in: Option<Time>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            lease: Lease::default(),
            rate: Rate::default(),
            cursor: Cursor { last_requested_id: 0, last_stored_id: 0, next_attempt: 1 },
            is_paused: false,
            requests: Vec::new(),
            next_request_id: 1,
            inbox: Vec::new(),
            events: Vec::new(),
        }
    }
}

impl Ledger {
    /// Lets time pass: every moment moves into the past.
    pub(crate) fn tick(&mut self, by: Time) {
        let shift = |at: &mut Option<Time>| *at = at.map(|at| at - by);
        if self.lease.owner.is_some() {
            self.lease.expires_at -= by;
        }
        shift(&mut self.rate.last_request_at);
        shift(&mut self.rate.not_before);
        self.requests.iter_mut().for_each(|request| shift(&mut request.retry_at));
    }

    pub(crate) fn request(&self, id: i64) -> Option<&Request> {
        self.requests.iter().find(|request| request.id == id)
    }

    /// The place of the row that `deposit` and `close_request` may act on.
    pub(crate) fn reservation(&self, id: i64, token: Token) -> Option<usize> {
        self.requests.iter().position(|request| request.id == id && request.token == token)
    }

    /// The place of the live row of the window that is to be asked next.
    pub(crate) fn live(&self) -> Option<usize> {
        let after_id = self.cursor.last_requested_id;
        self.requests.iter().position(|r| r.after_id == after_id && r.status.is_live())
    }

    /// `eventloader.claim`.
    pub(crate) fn claim(&mut self, claim: &Claim) -> Claimed {
        if self.lease.is_held() && self.lease.owner != Some(claim.owner) {
            return denied(Denial::Busy, Some(self.lease.expires_at));
        }
        let mut live = self.live();
        if let Some(place) = live
            && self.requests[place].status == Status::Reserved
            && self.requests[place].token != claim.token
        {
            let orphan_at = self.lease.expires_at + claim.orphan_grace;
            if self.lease.owner.is_some() && orphan_at > 0 {
                return denied(Denial::Held, Some(orphan_at));
            }
            self.mark_orphan(place, claim);
        }
        if let Some(place) = live
            && self.requests[place].status.is_held()
            && self.requests[place].token != claim.token
            && self.requests[place].retry_at.is_some_and(|at| at <= 0)
        {
            self.requests[place].status = Status::Retried;
            self.cursor.next_attempt = self.requests[place].attempt + 1;
            live = None;
        }
        let resumed = live.filter(|place| {
            let request = &self.requests[*place];
            request.token == claim.token && request.status.is_open()
        });
        if let (Some(place), None) = (live, resumed) {
            return denied(Denial::Held, self.requests[place].retry_at);
        }
        if self.is_paused {
            return denied(Denial::Paused, None);
        }
        if resumed.is_none()
            && let Some(free_at) = self.free_at(claim)
            && free_at > 0
        {
            return denied(Denial::Throttled, Some(free_at));
        }
        Claimed::Granted(self.grant(claim, resumed))
    }

    fn mark_orphan(&mut self, place: usize, claim: &Claim) {
        if self.lease.owner.is_some() {
            self.rate.last_request_at = self.rate.last_request_at.map(|at| at + claim.lease_ttl);
        }
        self.lease = Lease { owner: None, epoch: self.lease.epoch + 1, expires_at: 0 };
        let request = &mut self.requests[place];
        request.status = Status::Orphaned;
        request.retry_at = claim.orphan_retry_in.filter(|_| request.attempt < claim.max_attempts);
    }

    /// When the source may be asked again.
    fn free_at(&self, claim: &Claim) -> Option<Time> {
        let unreturned = if self.lease.owner.is_some() { claim.lease_ttl } else { 0 };
        let spaced = self.rate.last_request_at.map(|at| at + claim.min_interval + unreturned);
        spaced.max(self.rate.not_before)
    }

    fn grant(&mut self, claim: &Claim, resumed: Option<usize>) -> Grant {
        let epoch = self.lease.epoch + 1;
        self.lease = Lease { owner: Some(claim.owner), epoch, expires_at: claim.lease_ttl };
        self.rate.last_request_at = Some(0);
        let place = resumed.unwrap_or_else(|| {
            self.requests.push(Request {
                id: self.next_request_id,
                after_id: self.cursor.last_requested_id,
                attempt: self.cursor.next_attempt,
                status: Status::Reserved,
                token: claim.token,
                epoch,
                owner: claim.owner,
                max_id: None,
                retry_at: None,
            });
            self.next_request_id += 1;
            self.requests.len() - 1
        });
        let request = &mut self.requests[place];
        request.status = Status::Reserved;
        request.owner = claim.owner;
        request.epoch = epoch;
        request.retry_at = None;
        Grant {
            request_id: request.id,
            token: claim.token,
            epoch,
            after_id: request.after_id,
            attempt: request.attempt,
            empty_streak: self.rate.empty_streak,
            failure_streak: self.rate.failure_streak,
            state: None,
        }
    }

    /// `eventloader.renew_lease`.
    pub(crate) fn renew(&mut self, owner: Owner, epoch: i64, ttl: Time) -> bool {
        let ours = self.lease.owner == Some(owner) && self.lease.epoch == epoch;
        if ours {
            self.lease.expires_at = ttl;
        }
        ours
    }

    /// `eventloader.end_cycle`.
    pub(crate) fn end_cycle(&mut self, end: &CycleEnd, epoch: i64, streaks: Option<(u32, u32)>) {
        if self.lease.owner == Some(end.owner) && self.lease.epoch == epoch {
            self.lease.owner = None;
            self.lease.expires_at = 0;
        }
        let known_at = end.request_known_for.map(|ago| -ago);
        self.rate.last_request_at = self.rate.last_request_at.max(known_at);
        self.rate.not_before = self.rate.not_before.max(end.not_before_in);
        if let Some((empty_streak, failure_streak)) = streaks {
            self.rate.empty_streak = empty_streak;
            self.rate.failure_streak = failure_streak;
        }
    }

    /// `eventloader.deposit`.
    pub(crate) fn deposit(
        &mut self,
        end: &CycleEnd,
        grant: &Grant,
        deposit: &Deposit,
        event_ids: &[i64],
    ) -> Stored {
        let place = self.reservation(grant.request_id, grant.token);
        match place.map(|place| self.requests[place].status) {
            Some(Status::InboxOnly | Status::Succeeded) => return Stored::Yes,
            None if deposit.max_id.is_none() => return Stored::Yes,
            Some(Status::Reserved | Status::Orphaned) => {}
            Some(Status::Failed | Status::Retried | Status::Skipped) | None => {
                self.end_cycle(&CycleEnd { not_before_in: None, ..*end }, grant.epoch, None);
                return Stored::Refused;
            }
        }
        let Some(place) = place else { return Stored::Refused };
        self.store_page(place, deposit.max_id, event_ids);
        self.end_cycle(end, grant.epoch, Some((deposit.empty_streak, 0)));
        Stored::Yes
    }

    pub(crate) fn store_page(&mut self, place: usize, max_id: Option<i64>, event_ids: &[i64]) {
        self.cursor.next_attempt = 1;
        let Some(max_id) = max_id else {
            self.requests.remove(place);
            return;
        };
        let request = &mut self.requests[place];
        request.status = Status::InboxOnly;
        request.max_id = Some(max_id);
        request.retry_at = None;
        let request_id = request.id;
        for id in event_ids {
            if !self.inbox.iter().any(|(held, _)| held == id) {
                self.inbox.push((*id, request_id));
            }
        }
        self.cursor.last_requested_id = max_id;
    }

    /// `eventloader.close_request`.
    pub(crate) fn close(
        &mut self,
        end: &CycleEnd,
        grant: &Grant,
        close: &Close,
        retry_in: Option<Time>,
    ) {
        let Some(place) = self.reservation(grant.request_id, grant.token) else {
            return;
        };
        let status = self.requests[place].status;
        if !status.is_open() {
            if status != Status::Failed || close.verdict != Verdict::Fail {
                self.end_cycle(end, grant.epoch, None);
            }
            return;
        }
        match close.verdict {
            Verdict::Fail => {
                let request = &mut self.requests[place];
                request.status = Status::Failed;
                request.retry_at = retry_in;
            }
            Verdict::Release => drop(self.requests.remove(place)),
        }
        self.end_cycle(end, grant.epoch, Some((0, close.failure_streak)));
    }

    /// `eventloader.move_batch` with a batch that holds everything.
    pub(crate) fn move_inbox(&mut self) {
        self.inbox.sort_unstable();
        for (id, _) in std::mem::take(&mut self.inbox) {
            if !self.events.contains(&id) {
                self.events.push(id);
            }
        }
        self.advance_stored();
    }

    pub(crate) fn advance_stored(&mut self) {
        let requested = self.cursor.last_requested_id;
        let lowest_left = self.inbox.iter().map(|(id, _)| id - 1).min();
        let stored = lowest_left.unwrap_or(requested).min(requested);
        self.cursor.last_stored_id = self.cursor.last_stored_id.max(stored);
        for request in &mut self.requests {
            if request.status == Status::InboxOnly && request.max_id <= Some(stored) {
                request.status = Status::Succeeded;
            }
        }
    }

    /// `eventloader requests retry`, for a request that is held.
    pub(crate) fn retry(&mut self, id: i64) {
        let Some(request) = self.requests.iter_mut().find(|r| r.id == id) else { return };
        request.status = Status::Retried;
        if request.after_id == self.cursor.last_requested_id {
            self.cursor.next_attempt = request.attempt + 1;
        }
        self.rate.not_before = None;
    }

    /// `eventloader requests skip`, for a request that is held.
    pub(crate) fn skip(&mut self, id: i64, up_to: i64) {
        let Some(request) = self.requests.iter_mut().find(|r| r.id == id) else { return };
        request.status = Status::Skipped;
        if request.after_id == self.cursor.last_requested_id {
            self.cursor.last_requested_id = self.cursor.last_requested_id.max(up_to);
            self.cursor.next_attempt = 1;
        }
        self.rate.not_before = None;
    }

    /// `eventloader sources seek`, allowed while nothing is on its way to `events`.
    pub(crate) fn seek(&mut self, to: i64) {
        for request in &mut self.requests {
            if request.status.is_open() || request.status == Status::Failed {
                request.status = Status::Skipped;
            }
        }
        self.cursor = Cursor { last_requested_id: to, last_stored_id: to, next_attempt: 1 };
        self.rate.not_before = None;
        self.rate.empty_streak = 0;
    }

    pub(crate) fn may_seek(&self) -> bool {
        self.inbox.is_empty() && self.cursor.last_stored_id == self.cursor.last_requested_id
    }
}

fn denied(reason: Denial, wait: Option<Time>) -> Claimed {
    Claimed::Denied { reason, wait }
}
