//! The invariants of `reliability.md`, in forms that can fail: over the source's own log, the rows, and what each call
//! changed, never over what an instance believes.

use stateright::Property;

use super::ledger::{Ledger, Status};
use super::protocol::{Protocol, Situation};
use super::world::{Bounds, Breach, Call, World};

#[expect(clippy::too_many_lines, reason = "a list, one entry a property")]
pub(crate) fn all() -> Vec<Property<Protocol>> {
    let mut properties = vec![
        Property::always("I1 one request per reservation", |_, world: &World| is_asked_once(world)),
        Property::always("I2 reserved before it is asked", |_, world: &World| {
            world.breach != Some(Breach::SentUnreserved)
        }),
        Property::always(
            "I3 asked again only after empty, refused, or on record",
            |_, world: &World| asked_again_for_a_reason(world),
        ),
        Property::always("I5 each event in one place", |_, world: &World| {
            is_in_one_place(&world.ledger)
        }),
        Property::always("I8 the cursor never falls", |_, world: &World| {
            world.breach != Some(Breach::CursorFell)
        }),
        Property::always("I8 all up to the cursor is durable", |_, world: &World| {
            is_durable(world)
        }),
        Property::always("I9 leases never overlap", |_, world: &World| {
            world.breach != Some(Breach::LeasesOverlap)
        }),
        Property::always("I9 an epoch has one owner and never comes again", |_, world: &World| {
            world.breach != Some(Breach::EpochReused)
        }),
        Property::always("I10 reserved and orphaned under a new epoch only", |_, world: &World| {
            world.breach != Some(Breach::OldEpoch)
        }),
        Property::always("I10 stored and closed under its own token only", |_, world: &World| {
            world.breach != Some(Breach::OldToken)
        }),
        Property::always("I11 requests start an interval apart", |_, world: &World| {
            world.breach != Some(Breach::TooSoon)
        }),
        Property::always(
            "late page: refused only when its window was freed",
            |_, world: &World| world.breach != Some(Breach::PageThrownAway),
        ),
        Property::always("lost claim: its living owner resumes it", |_, world: &World| {
            world.breach != Some(Breach::TokenForgotten)
        }),
        Property::always("attempts: five, then an operator", |_, world: &World| {
            world.breach != Some(Breach::TooManyAttempts)
        }),
    ];
    // Seen while a step is taken, so that no state has to remember it.
    properties.extend([
        sometimes(
            |model: &Protocol, _| model.times_reached(Situation::TakenOver) > 0,
            Situation::TakenOver,
        ),
        sometimes(
            |model: &Protocol, _| model.times_reached(Situation::LateDepositStored) > 0,
            Situation::LateDepositStored,
        ),
        sometimes(
            |model: &Protocol, _| model.times_reached(Situation::LateDepositRefused) > 0,
            Situation::LateDepositRefused,
        ),
        sometimes(
            |model: &Protocol, _| model.times_reached(Situation::Orphaned) > 0,
            Situation::Orphaned,
        ),
        sometimes(
            |model: &Protocol, _| model.times_reached(Situation::ClaimResumed) > 0,
            Situation::ClaimResumed,
        ),
        sometimes(
            |model: &Protocol, _| model.times_reached(Situation::OrphanResumed) > 0,
            Situation::OrphanResumed,
        ),
        sometimes(
            |model: &Protocol, _| model.times_reached(Situation::StaleGrantReleased) > 0,
            Situation::StaleGrantReleased,
        ),
        sometimes(
            |model: &Protocol, _| model.times_reached(Situation::RepeatedDeposit) > 0,
            Situation::RepeatedDeposit,
        ),
        sometimes(
            |model: &Protocol, _| model.times_reached(Situation::StragglerChangedNothing) > 0,
            Situation::StragglerChangedNothing,
        ),
        sometimes(
            |model: &Protocol, _| model.times_reached(Situation::SentAfterPause) > 0,
            Situation::SentAfterPause,
        ),
        sometimes(
            |model: &Protocol, _| model.times_reached(Situation::AllStored) > 0,
            Situation::AllStored,
        ),
    ]);
    properties
}

fn sometimes(condition: fn(&Protocol, &World) -> bool, situation: Situation) -> Property<Protocol> {
    Property::sometimes(Situation::ALL[situation as usize].1, condition)
}

fn is_asked_once(world: &World) -> bool {
    let asks = |id| world.wire.iter().filter(|line| line.request_id == id).count();
    world.wire.iter().all(|line| asks(line.request_id) == 1)
}

fn is_in_one_place(ledger: &Ledger) -> bool {
    let inbox = || ledger.inbox.iter().map(|(id, _)| *id);
    let ids = || inbox().chain(ledger.events.iter().copied());
    ids().all(|id| ids().filter(|other| *other == id).count() == 1)
}

/// Everything up to the cursor is stored, but for what an operator gave up.
fn is_durable(world: &World) -> bool {
    let ledger = &world.ledger;
    (1..=ledger.cursor.last_requested_id).all(|id| {
        ledger.events.contains(&id)
            || ledger.inbox.iter().any(|(held, _)| *held == id)
            || world.skipped.contains(&id)
    })
}

/// Of two requests for one window, the reservation that came first was answered empty or refused, or its window was
/// freed on record.
fn asked_again_for_a_reason(world: &World) -> bool {
    world.wire.iter().all(|first| {
        let is_freed = || {
            let status = world.ledger.request(first.request_id).map(|request| request.status);
            matches!(status, Some(Status::Retried | Status::Skipped))
        };
        let is_asked_again = || {
            let again = |later: &&super::world::Wire| {
                later.after_id == first.after_id && later.request_id > first.request_id
            };
            world.wire.iter().any(|later| again(&later))
        };
        first.is_settled || !is_asked_again() || is_freed()
    })
}

/// What a call to the database did that it must not do.
pub(crate) fn breach_of_call(
    bounds: &Bounds,
    before: &Ledger,
    after: &Ledger,
    call: &Call,
) -> Option<Breach> {
    breach_of_lease(before, after)
        .or_else(|| breach_of_reservation(bounds, before, after))
        .or_else(|| breach_of_token(before, after, call))
}

fn breach_of_lease(before: &Ledger, after: &Ledger) -> Option<Breach> {
    let (old, new) = (&before.lease, &after.lease);
    let changes_hands = new.owner.is_some() && new.owner != old.owner;
    if changes_hands && old.is_held() {
        return Some(Breach::LeasesOverlap);
    }
    let is_reused = new.epoch < old.epoch || (changes_hands && new.epoch == old.epoch);
    is_reused.then_some(Breach::EpochReused)
}

/// Who reserves or marks an orphan has just taken the lease, and the one before had run out.
fn breach_of_reservation(bounds: &Bounds, before: &Ledger, after: &Ledger) -> Option<Breach> {
    let was_held =
        before.lease.owner.is_some() && before.lease.expires_at + bounds.orphan_grace > 0;
    after.requests.iter().find_map(|request| {
        let old = before.request(request.id).map(|old| (old.status, old.epoch));
        let is_new = old != Some((request.status, request.epoch));
        let is_old_epoch = match request.status {
            Status::Reserved => is_new && after.lease.epoch <= before.lease.epoch,
            Status::Orphaned => is_new && (was_held || after.lease.epoch <= before.lease.epoch),
            _ => false,
        };
        is_old_epoch.then_some(Breach::OldEpoch)
    })
}

/// Only the call with its token stores for, closes or removes a reservation, only while it is open, and it is not
/// refused then.
fn breach_of_token(before: &Ledger, after: &Ledger, call: &Call) -> Option<Breach> {
    let own = match call {
        Call::Deposit { grant, .. } | Call::Close { grant, .. } => {
            before.reservation(grant.request_id, grant.token).map(|place| before.requests[place])
        }
        Call::Claim { .. } | Call::Renew { .. } => return None,
    };
    let open = own.filter(|own| own.status.is_open());
    for request in &before.requests {
        let is_own = open.is_some_and(|own| own.id == request.id);
        let status = after.request(request.id).map(|request| request.status);
        if !is_own && status != Some(request.status) {
            return Some(Breach::OldToken);
        }
        if is_own && status == Some(request.status) {
            return Some(Breach::PageThrownAway);
        }
    }
    let is_stored = before.cursor.last_requested_id != after.cursor.last_requested_id
        || before.inbox != after.inbox;
    (is_stored && open.is_none()).then_some(Breach::OldToken)
}
