//! Protocols that look right and are not. Each changes one transition of the model; each has to be caught.

use eventloader::loader::cycle::{Deposit, Grant, Stored};

use super::ledger::{Claim, Claimed, CycleEnd, Ledger, Owner, Status, Time};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A claim does not look at the lease of another.
    NoFence,
    /// A window whose holder vanished is asked again at once.
    RefetchOfOrphans,
    /// The cursor moves first, the events follow in a transaction of their own.
    CursorBeforeInbox,
    /// A heartbeat revives whatever lease there is.
    LeaseWithoutEpoch,
    /// An orphan is marked without a new epoch.
    OrphanWithoutEpoch,
    /// Nobody looks at the age of a grant, and a deposit does not correct when the source was asked.
    SpacingByGrantOnly,
    /// Only the look at the age is missing.
    NoFreshnessCheck,
    /// Only the correction is missing.
    NoCorrection,
    /// The request of a holder that vanished counts from its grant.
    NoSpacingAfterVanished,
    /// A deposit goes to whatever reservation its window has.
    DepositWithoutToken,
    /// A deposit looks at its token and not at the state of the reservation.
    DepositIntoClosed,
    /// A release deletes whatever reservation its window has.
    ReleaseWithoutToken,
    /// A claim whose reply was lost is followed by one with a new token.
    NewTokenAfterLostReply,
    /// The request goes out before the reservation is known to be committed.
    SendBeforeCommit,
    /// A request whose outcome is unknown is sent once more.
    ResendInFlight,
    /// Events are copied to the log first, and leave the inbox in a transaction of their own.
    MoveInTwoSteps,
    /// A window that fails is asked again without end. Only with `on_failure = "retry"`.
    RetryWithoutEnd,
}

impl Mutant {
    pub(crate) const ALL: [Self; 17] = [
        Self::NoFence,
        Self::RefetchOfOrphans,
        Self::CursorBeforeInbox,
        Self::LeaseWithoutEpoch,
        Self::OrphanWithoutEpoch,
        Self::SpacingByGrantOnly,
        Self::NoFreshnessCheck,
        Self::NoCorrection,
        Self::NoSpacingAfterVanished,
        Self::DepositWithoutToken,
        Self::DepositIntoClosed,
        Self::ReleaseWithoutToken,
        Self::NewTokenAfterLostReply,
        Self::SendBeforeCommit,
        Self::ResendInFlight,
        Self::MoveInTwoSteps,
        Self::RetryWithoutEnd,
    ];

    /// The invariants of which a counterexample is expected to break one.
    pub(crate) fn breaks(self) -> &'static [&'static str] {
        match self {
            Self::NoFence => &["I9", "I10"],
            Self::RefetchOfOrphans => &["I3"],
            Self::CursorBeforeInbox => &["I8"],
            Self::LeaseWithoutEpoch => &["I9"],
            Self::OrphanWithoutEpoch
            | Self::DepositWithoutToken
            | Self::DepositIntoClosed
            | Self::ReleaseWithoutToken => &["I10"],
            Self::SpacingByGrantOnly
            | Self::NoFreshnessCheck
            | Self::NoCorrection
            | Self::NoSpacingAfterVanished => &["I11"],
            Self::NewTokenAfterLostReply => &["lost claim"],
            Self::SendBeforeCommit => &["I2"],
            Self::ResendInFlight => &["I1"],
            Self::MoveInTwoSteps => &["I5"],
            Self::RetryWithoutEnd => &["attempts"],
        }
    }

    pub(crate) fn claim(self, ledger: &mut Ledger, claim: &Claim) -> Claimed {
        match self {
            Self::NoFence if ledger.lease.owner != Some(claim.owner) => {
                ledger.lease.expires_at = -claim.orphan_grace;
                ledger.claim(claim)
            }
            Self::RefetchOfOrphans => {
                let answer = ledger.claim(claim);
                let Some(place) = ledger.live() else { return answer };
                if ledger.requests[place].status != Status::Orphaned {
                    return answer;
                }
                // No longer live, and nothing says why.
                ledger.requests[place].status = Status::Succeeded;
                ledger.claim(claim)
            }
            Self::OrphanWithoutEpoch => {
                let epoch = ledger.lease.epoch;
                let answer = ledger.claim(claim);
                if matches!(answer, Claimed::Denied { .. }) {
                    ledger.lease.epoch = epoch;
                }
                answer
            }
            Self::NoSpacingAfterVanished => {
                let asked_at = ledger.rate.last_request_at;
                let answer = ledger.claim(claim);
                if matches!(answer, Claimed::Denied { .. }) {
                    ledger.rate.last_request_at = asked_at;
                }
                answer
            }
            _ => ledger.claim(claim),
        }
    }

    pub(crate) fn renew(self, ledger: &mut Ledger, owner: Owner, epoch: i64, ttl: Time) -> bool {
        if self == Self::LeaseWithoutEpoch {
            ledger.lease.owner = Some(owner);
            ledger.lease.expires_at = ttl;
            return true;
        }
        ledger.renew(owner, epoch, ttl)
    }

    pub(crate) fn deposit(
        self,
        ledger: &mut Ledger,
        end: &CycleEnd,
        grant: &Grant,
        deposit: &Deposit,
        event_ids: &[i64],
    ) -> Stored {
        let uncorrected = CycleEnd { request_known_for: None, ..*end };
        match self {
            Self::NoCorrection | Self::SpacingByGrantOnly => {
                ledger.deposit(&uncorrected, grant, deposit, event_ids)
            }
            Self::CursorBeforeInbox => ledger.deposit(end, grant, deposit, &[]),
            Self::DepositWithoutToken => {
                let grant = self.window_grant(ledger, grant);
                ledger.deposit(end, &grant, deposit, event_ids)
            }
            Self::DepositIntoClosed => match ledger.reservation(grant.request_id, grant.token) {
                Some(place)
                    if ledger.requests[place].status == Status::Retried
                        && ledger.requests[place].after_id == ledger.cursor.last_requested_id =>
                {
                    ledger.store_page(place, deposit.max_id, event_ids);
                    Stored::Yes
                }
                _ => ledger.deposit(end, grant, deposit, event_ids),
            },
            _ => ledger.deposit(end, grant, deposit, event_ids),
        }
    }

    /// The grant of whatever reservation the window has.
    pub(crate) fn window_grant(self, ledger: &Ledger, grant: &Grant) -> Grant {
        let by_window = matches!(self, Self::DepositWithoutToken | Self::ReleaseWithoutToken);
        let live = ledger.live().map(|place| &ledger.requests[place]);
        match live.filter(|request| by_window && request.after_id == grant.after_id) {
            Some(live) => Grant { request_id: live.id, token: live.token, ..grant.clone() },
            None => grant.clone(),
        }
    }
}
