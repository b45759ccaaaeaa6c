//! What can happen next, and what comes of it. Decisions are those of the product: [`cycle::begin`] and [`cycle::step`],
//! performed here as the driver performs them there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eventloader::loader::cycle::{
    self, Answer, ClaimAnswer, Close, Deposit, Effect, Event, Grant, Rules, State, Stored,
};
use eventloader::loader::policy::{FailureClass, OnFailure, Verdict, WINDOW_ATTEMPTS_MAX};
use stateright::{Model, Property};

use super::ledger::{Claim, Claimed, CycleEnd, Ledger, Owner, Status, Time};
use super::mutant::Mutant;
use super::properties;
use super::world::{
    Bounds, Breach, Call, Cycle, GONE, Instance, Reply, Sent, UNLIMITED, Wire, World,
};

/// What can happen next. Numbers are places in `World::instances`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// An idle instance claims.
    Claim(usize, Fate),
    /// It looks at the age of its grant and sends its request at once.
    Start(usize),
    /// It looks at the age of its grant, and is paused before it sends anything.
    StartAndPause(usize),
    /// It is told to stop before it has sent anything.
    Stop(usize),
    /// It wakes from that pause and sends.
    SendLate(usize),
    /// Its request does not get away.
    FailToSend(usize),
    /// The source answers, or does not.
    Answer(usize, Reply),
    /// It stores the page, or closes the reservation.
    Store(usize, Fate),
    /// PostgreSQL will not take the page for what is in it.
    FindUnstorable(usize),
    /// It renews its lease.
    Renew(usize),
    /// A heartbeat is on its way for long.
    DelayRenewal(usize),
    /// The process dies, and another one starts.
    Crash(usize),
    /// The call that its caller gave up is carried out.
    Arrive,
    /// The retry worker moves the inbox to the log.
    Move,
    /// An operator retries the held window.
    Retry,
    /// An operator gives up the held window with its event.
    Skip,
    /// An operator seeks to where the source stands, which closes what is open.
    Seek,
    /// Time passes. All that is not moving is paused.
    Tick,
}

/// What becomes of a call. One that is lost on its way to the database changes nothing and is no action of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
    Answered,
    /// Carried out, and the reply is lost.
    ReplyLost,
    /// Given up by the caller, and carried out later.
    Delayed,
}

/// Situations that have to occur, or the exploration proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Situation {
    TakenOver,
    LateDepositStored,
    LateDepositRefused,
    Orphaned,
    ClaimResumed,
    OrphanResumed,
    StaleGrantReleased,
    RepeatedDeposit,
    StragglerChangedNothing,
    SentAfterPause,
    AllStored,
}

impl Situation {
    pub(crate) const ALL: [(Self, &'static str); 11] = [
        (Self::TakenOver, "a lease that was not given back is taken over"),
        (Self::LateDepositStored, "a page is stored after the lease was lost"),
        (Self::LateDepositRefused, "a page is refused after an operator freed its window"),
        (Self::Orphaned, "a reservation is orphaned"),
        (Self::ClaimResumed, "a claim is resumed with its token after a lost reply"),
        (Self::OrphanResumed, "an orphaned reservation is resumed by its owner"),
        (Self::StaleGrantReleased, "a grant is released because it is too old"),
        (Self::RepeatedDeposit, "a deposit is repeated after a lost reply"),
        (Self::StragglerChangedNothing, "a call that comes too late changes nothing"),
        (Self::SentAfterPause, "a request is sent after a pause that no check can see"),
        (Self::AllStored, "every event is in the log"),
    ];
}

/// The model.
#[derive(Clone)]
pub(crate) struct Protocol {
    pub(crate) bounds: Bounds,
    pub(crate) on_failure: OnFailure,
    pub(crate) mutant: Option<Mutant>,
    reached: Arc<[AtomicUsize; Situation::ALL.len()]>,
}

/// One unit of the model's time.
const UNIT: Duration = Duration::from_secs(1);

/// How a call was answered.
enum Reported {
    Claimed(Claimed),
    Stored(Stored),
    Done,
}

impl Protocol {
    pub(crate) fn new(bounds: Bounds, on_failure: OnFailure, mutant: Option<Mutant>) -> Self {
        Self { bounds, on_failure, mutant, reached: Arc::default() }
    }

    fn reach(&self, situation: Situation) {
        self.reached[situation as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn times_reached(&self, situation: Situation) -> usize {
        self.reached[situation as usize].load(Ordering::Relaxed)
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn rules(&self) -> Rules {
        Rules {
            min_interval: UNIT * self.bounds.min_interval.unsigned_abs(),
            max_idle: UNIT * self.bounds.min_interval.unsigned_abs(),
            grant_life: UNIT * self.bounds.grant_life.unsigned_abs(),
            on_failure: self.on_failure,
        }
    }

    fn claim(&self, owner: u8, token: cycle::Token) -> Claim {
        Claim {
            owner,
            token,
            lease_ttl: self.bounds.lease_ttl,
            min_interval: self.bounds.min_interval,
            orphan_grace: self.bounds.orphan_grace,
            orphan_retry_in: (self.on_failure == OnFailure::Retry).then_some(1),
            max_attempts: WINDOW_ATTEMPTS_MAX,
        }
    }

    /// Carries a call out in the database.
    fn carry_out(&self, world: &mut World, call: &Call) -> Reported {
        let before = world.ledger.clone();
        let ledger = &mut world.ledger;
        let reported = match call {
            Call::Claim { owner, token } => {
                let claim = self.claim(*owner, *token);
                Reported::Claimed(match self.mutant {
                    Some(mutant) => mutant.claim(ledger, &claim),
                    None => ledger.claim(&claim),
                })
            }
            Call::Deposit { end, grant, deposit } => {
                let ids: Vec<i64> = deposit.max_id.into_iter().collect();
                Reported::Stored(match self.mutant {
                    Some(mutant) => mutant.deposit(ledger, end, grant, deposit, &ids),
                    None => ledger.deposit(end, grant, deposit, &ids),
                })
            }
            Call::Close { end, grant, close } => {
                self.close(ledger, end, grant, close);
                Reported::Done
            }
            Call::Renew { owner, epoch } => {
                let ttl = self.bounds.lease_ttl;
                match self.mutant {
                    Some(mutant) => mutant.renew(ledger, *owner, *epoch, ttl),
                    None => ledger.renew(*owner, *epoch, ttl),
                };
                Reported::Done
            }
        };
        self.audit(world, &before, call, &reported);
        reported
    }

    fn close(&self, ledger: &mut Ledger, end: &CycleEnd, grant: &Grant, close: &Close) {
        let retry_in = if self.is(Mutant::RetryWithoutEnd) && close.verdict == Verdict::Fail {
            Some(1)
        } else {
            close.retry_in.map(units)
        };
        let grant = self.mutant.map_or_else(|| grant.clone(), |m| m.window_grant(ledger, grant));
        ledger.close(end, &grant, close, retry_in);
    }

    /// Looks at what a call changed.
    fn audit(&self, world: &mut World, before: &Ledger, call: &Call, reported: &Reported) {
        let after = &world.ledger;
        let breach = properties::breach_of_call(&self.bounds, before, after, call);
        let count_orphans = |ledger: &Ledger| {
            ledger.requests.iter().filter(|r| r.status == Status::Orphaned).count()
        };
        if count_orphans(after) > count_orphans(before) {
            self.reach(Situation::Orphaned);
        }
        if before.lease.owner.is_some_and(|owner| after.lease.owner.is_some_and(|o| o != owner)) {
            self.reach(Situation::TakenOver);
        }
        match (call, reported) {
            (Call::Claim { token, .. }, Reported::Claimed(Claimed::Granted(_))) => {
                match before.requests.iter().find(|r| r.token == *token && r.status.is_open()) {
                    Some(request) if request.status == Status::Orphaned => {
                        self.reach(Situation::OrphanResumed);
                    }
                    Some(_) => self.reach(Situation::ClaimResumed),
                    None => {}
                }
            }
            (Call::Deposit { grant, .. }, Reported::Stored(stored)) => {
                let status = before.request(grant.request_id).map(|request| request.status);
                match (stored, status) {
                    (Stored::Refused, _) => self.reach(Situation::LateDepositRefused),
                    (Stored::Yes, Some(Status::Orphaned)) => {
                        self.reach(Situation::LateDepositStored);
                    }
                    (Stored::Yes, Some(Status::InboxOnly | Status::Succeeded) | None) => {
                        self.reach(Situation::RepeatedDeposit);
                    }
                    (Stored::Yes, _) => {}
                }
            }
            _ => {}
        }
        world.breach = world.breach.or(breach);
    }

    fn claims(&self, world: &mut World, place: usize, fate: Fate) {
        let token = world.instances[place].token.unwrap_or_else(|| world.new_token());
        let (state, effect) = cycle::begin(token);
        let Effect::Claim(token) = effect else { return };
        let call = Call::Claim { owner: owner_of(place), token };
        let event = match fate {
            Fate::Answered => match self.carry_out(world, &call) {
                Reported::Claimed(claimed) => Event::ClaimAnswered(claim_answer(claimed)),
                Reported::Stored(_) | Reported::Done => Event::ReplyLost,
            },
            Fate::ReplyLost => {
                let _given_up = self.carry_out(world, &call);
                Event::ReplyLost
            }
            Fate::Delayed => {
                world.straggler = Some(call);
                match world.ledger.clone().claim(&self.claim(owner_of(place), token)) {
                    Claimed::Granted(grant) if self.is(Mutant::SendBeforeCommit) => {
                        Event::ClaimAnswered(ClaimAnswer::Granted(grant))
                    }
                    _ => Event::ReplyLost,
                }
            }
        };
        let is_lost = event == Event::ReplyLost;
        let cycle = Cycle {
            state,
            age: 0,
            sent: Sent::No { checked: 0 },
            known_for: None,
            is_half_stored: false,
        };
        world.instances[place] = Instance { token: None, cycle: Some(cycle) };
        self.take_step(world, place, event);
        if is_lost && self.is(Mutant::NewTokenAfterLostReply) {
            world.instances[place].token = None;
        }
        let kept = world.instances[place].token();
        let is_open = |r: &super::ledger::Request| r.token == token && r.status.is_open();
        if kept != Some(token) && world.ledger.requests.iter().any(is_open) {
            world.breach = world.breach.or(Some(Breach::TokenForgotten));
        }
    }

    /// Tells the state machine of an instance what happened.
    fn take_step(&self, world: &mut World, place: usize, event: Event) {
        let Some(cycle) = &mut world.instances[place].cycle else { return };
        let (state, effect) = cycle::step(&self.rules(), cycle.state.clone(), event);
        match effect {
            Effect::End(ending) => {
                world.instances[place] = Instance { token: ending.unused_token(), cycle: None };
            }
            effect => {
                assert_eq!(effect, effect_of(&state), "the state alone says what to do next");
                cycle.state = state;
            }
        }
    }

    fn measures_age(&self, world: &mut World, place: usize) {
        let Some(cycle) = &mut world.instances[place].cycle else { return };
        let is_blind = self.is(Mutant::SpacingByGrantOnly) || self.is(Mutant::NoFreshnessCheck);
        let age = if is_blind { 0 } else { cycle.age };
        cycle.sent = Sent::No { checked: 0 };
        self.take_step(world, place, Event::GrantAged(UNIT * age.unsigned_abs()));
        let cycle = world.instances[place].cycle.as_ref();
        if cycle.is_some_and(|cycle| matches!(cycle.state, State::Closing(..))) {
            self.reach(Situation::StaleGrantReleased);
        }
    }

    fn sends(&self, world: &mut World, place: usize) {
        let Some(cycle) = &mut world.instances[place].cycle else { return };
        let (State::InFlight(grant), Sent::No { checked }) = (&cycle.state, cycle.sent) else {
            return;
        };
        let wire = Wire {
            request_id: grant.request_id,
            after_id: grant.after_id,
            at: 0,
            is_late: checked > 0,
            is_settled: false,
        };
        let is_reserved = world.ledger.reservation(grant.request_id, grant.token).is_some();
        cycle.sent = Sent::Yes;
        let too_soon = world.wire.iter().any(|earlier| {
            earlier.at > -self.bounds.min_interval && !earlier.is_late && !wire.is_late
        });
        let attempts = world
            .wire
            .iter()
            .filter(|earlier| earlier.after_id == wire.after_id && !earlier.is_settled)
            .count();
        if !is_reserved {
            world.breach = Some(Breach::SentUnreserved);
        } else if too_soon {
            world.breach = Some(Breach::TooSoon);
        } else if self.on_failure == OnFailure::Retry && attempts >= WINDOW_ATTEMPTS_MAX as usize {
            world.breach = Some(Breach::TooManyAttempts);
        }
        if wire.is_late {
            self.reach(Situation::SentAfterPause);
        }
        world.wire.push(wire);
    }

    fn answers(&self, world: &mut World, place: usize, reply: Reply) {
        let Some(cycle) = &mut world.instances[place].cycle else { return };
        let State::InFlight(grant) = &cycle.state else { return };
        let line = world.wire.iter_mut().rev().find(|wire| wire.request_id == grant.request_id);
        if let Some(wire) = line {
            wire.is_settled = matches!(reply, Reply::Empty | Reply::Refused);
        }
        if reply == Reply::Lost && self.is(Mutant::ResendInFlight) {
            cycle.sent = Sent::No { checked: 0 };
            return;
        }
        cycle.known_for = Some(0);
        let answer = match reply {
            Reply::Page => Answer::Page { max_id: Some(grant.after_id + 1), pause: None },
            Reply::Empty => Answer::Page { max_id: None, pause: None },
            Reply::Refused => Answer::Failure { class: FailureClass::Refused, retry_after: None },
            Reply::Lost => Answer::Failure { class: FailureClass::Unknown, retry_after: None },
        };
        self.take_step(world, place, Event::Answered(answer, 500));
    }

    /// The call that a deposit or a close is.
    fn call(world: &World, place: usize) -> Option<Call> {
        let cycle = world.instances[place].cycle.as_ref()?;
        let end = |pause: Option<Duration>| CycleEnd {
            owner: owner_of(place),
            request_known_for: cycle.known_for,
            not_before_in: pause.map(units),
        };
        match effect_of(&cycle.state) {
            Effect::Deposit(grant, deposit) => {
                Some(Call::Deposit { end: end(deposit.pause), grant, deposit })
            }
            Effect::Close(grant, close) => {
                Some(Call::Close { end: end(close.pause), grant, close })
            }
            _ => None,
        }
    }

    fn stores(&self, world: &mut World, place: usize, fate: Fate) {
        let Some(call) = Self::call(world, place) else { return };
        if self.is(Mutant::CursorBeforeInbox) && self.stores_other_half(world, place) {
            return;
        }
        let event = match fate {
            Fate::Answered => match self.carry_out(world, &call) {
                Reported::Stored(stored) => Event::DepositAnswered(stored),
                Reported::Done | Reported::Claimed(_) => Event::CloseAnswered,
            },
            Fate::ReplyLost => {
                let _given_up = self.carry_out(world, &call);
                Event::ReplyLost
            }
            Fate::Delayed => {
                world.straggler = Some(call);
                Event::ReplyLost
            }
        };
        if self.is(Mutant::CursorBeforeInbox)
            && let Some(cycle) = &mut world.instances[place].cycle
            && event == Event::DepositAnswered(Stored::Yes)
        {
            cycle.is_half_stored = true;
            return;
        }
        self.take_step(world, place, event);
    }

    /// The second transaction of a mutant.
    fn stores_other_half(&self, world: &mut World, place: usize) -> bool {
        let Some(cycle) = &world.instances[place].cycle else { return false };
        let (true, State::Depositing(grant, Deposit { max_id, .. })) =
            (cycle.is_half_stored, &cycle.state)
        else {
            return false;
        };
        let request_id = grant.request_id;
        world.ledger.inbox.extend(max_id.map(|id| (id, request_id)));
        self.take_step(world, place, Event::DepositAnswered(Stored::Yes));
        true
    }

    fn crashes(world: &mut World, place: usize) {
        world.instances[place] = Instance::default();
        let number = owner_of(place);
        if world.ledger.lease.owner == Some(number) {
            world.ledger.lease.owner = Some(GONE);
        }
        if let Some(call) = &mut world.straggler
            && call.owner() == number
        {
            *call.owner_mut() = GONE;
        }
    }

    fn arrives(&self, world: &mut World) {
        let Some(call) = world.straggler.take() else { return };
        let before = world.ledger.clone();
        let _given_up = self.carry_out(world, &call);
        if before.requests == world.ledger.requests {
            self.reach(Situation::StragglerChangedNothing);
        }
    }

    fn moves(&self, world: &mut World) {
        let inbox = world.ledger.inbox.clone();
        world.ledger.move_inbox();
        if self.is(Mutant::MoveInTwoSteps) {
            world.ledger.inbox = inbox;
        }
        let stored: i64 = world.ledger.events.len().try_into().expect("a few events");
        if stored == self.bounds.window_count {
            self.reach(Situation::AllStored);
        }
    }

    fn performs(&self, world: &mut World, action: Action) {
        match action {
            Action::Claim(place, fate) => self.claims(world, place, fate),
            Action::Start(place) => {
                self.measures_age(world, place);
                self.sends(world, place);
            }
            Action::StartAndPause(place) => self.measures_age(world, place),
            Action::Stop(place) => self.take_step(world, place, Event::Stopping),
            Action::SendLate(place) => self.sends(world, place),
            Action::FailToSend(place) => {
                let class = FailureClass::NotSent;
                let answer = Answer::Failure { class, retry_after: None };
                self.take_step(world, place, Event::Answered(answer, 500));
            }
            Action::Answer(place, reply) => self.answers(world, place, reply),
            Action::Store(place, fate) => self.stores(world, place, fate),
            Action::FindUnstorable(place) => self.take_step(world, place, Event::Unstorable),
            Action::Renew(place) | Action::DelayRenewal(place) => {
                let grant = world.instances[place].cycle.as_ref().and_then(Cycle::grant);
                let Some(epoch) = grant.map(|grant| grant.epoch) else { return };
                let call = Call::Renew { owner: owner_of(place), epoch };
                if let Action::Renew(_) = action {
                    let _given_up = self.carry_out(world, &call);
                } else {
                    world.straggler = Some(call);
                }
            }
            Action::Crash(place) => Self::crashes(world, place),
            Action::Arrive => self.arrives(world),
            Action::Move => self.moves(world),
            Action::Retry | Action::Skip => {
                let Some(place) = world.ledger.live() else { return };
                let request = world.ledger.requests[place];
                if action == Action::Retry {
                    world.ledger.retry(request.id);
                } else {
                    world.skipped.push(request.after_id + 1);
                    world.ledger.skip(request.id, request.after_id + 1);
                    world.ledger.advance_stored();
                }
            }
            Action::Seek => world.ledger.seek(world.ledger.cursor.last_requested_id),
            Action::Tick => world.tick(),
        }
    }

    /// What each fault costs; `false`: it may not happen any more.
    fn pay(&self, world: &mut World, action: Action) -> bool {
        let is_fault = match action {
            Action::Claim(_, fate) | Action::Store(_, fate) => fate != Fate::Answered,
            Action::Answer(_, reply) => reply == Reply::Lost,
            Action::DelayRenewal(_)
            | Action::FindUnstorable(_)
            | Action::Crash(_)
            | Action::Retry
            | Action::Skip
            | Action::Seek => true,
            _ => false,
        };
        let Some(left) = world.faults_left.checked_sub(u8::from(is_fault)) else { return false };
        if self.bounds.fault_count < UNLIMITED {
            world.faults_left = left;
        }
        true
    }

    fn instance_actions(&self, world: &World, place: usize, actions: &mut Vec<Action>) {
        let can_delay = world.straggler.is_none() && self.bounds.has_stragglers;
        let fates = [Fate::Answered, Fate::ReplyLost, Fate::Delayed];
        let fates = fates.into_iter().filter(|fate| can_delay || *fate != Fate::Delayed);
        let Some(cycle) = &world.instances[place].cycle else {
            actions.extend(fates.map(|fate| Action::Claim(place, fate)));
            return;
        };
        actions.push(Action::Crash(place));
        match (&cycle.state, cycle.sent) {
            (State::Granted(_), _) => {
                let starts = [Action::Start(place), Action::StartAndPause(place)];
                actions.extend(starts.into_iter().chain([Action::Stop(place)]));
            }
            (State::InFlight(_), Sent::No { checked }) => {
                actions.push(Action::FailToSend(place));
                // Without a pause it is `Action::Start`.
                actions.extend((checked > 0).then_some(Action::SendLate(place)));
            }
            (State::InFlight(grant), Sent::Yes) => {
                let has_event = grant.after_id < self.bounds.window_count;
                let replies = [Reply::Empty, Reply::Refused, Reply::Lost, Reply::Page];
                let can_give = |reply: &Reply| match reply {
                    // An answer that is well ends the count of attempts.
                    Reply::Empty => self.on_failure == OnFailure::Hold,
                    Reply::Page => has_event,
                    Reply::Refused | Reply::Lost => true,
                };
                let replies = replies.into_iter().filter(can_give);
                actions.extend(replies.map(|reply| Action::Answer(place, reply)));
            }
            (State::Depositing(..), _) => {
                actions.extend(fates.map(|fate| Action::Store(place, fate)));
                actions.push(Action::FindUnstorable(place));
            }
            (State::Closing(..), _) => {
                actions.extend(fates.map(|fate| Action::Store(place, fate)));
            }
            (State::Claiming(_) | State::Ended(_), _) => {}
        }
        if let State::InFlight(_) = cycle.state {
            actions.push(Action::Renew(place));
            actions.extend(can_delay.then_some(Action::DelayRenewal(place)));
        }
    }
}

/// The owner that the instance at a place is.
fn owner_of(place: usize) -> Owner {
    Owner::try_from(place).expect("a few instances")
}

/// What a state asks for. `cycle::step` answers the same; keeping one of the two keeps the model's states small.
fn effect_of(state: &State) -> Effect {
    match state.clone() {
        State::Claiming(token) => Effect::Claim(token),
        State::Granted(_) => Effect::MeasureAge,
        State::InFlight(grant) => Effect::Fetch(grant),
        State::Depositing(grant, deposit) => Effect::Deposit(grant, deposit),
        State::Closing(grant, close) => Effect::Close(grant, close),
        State::Ended(ending) => Effect::End(ending),
    }
}

/// A duration in the model's time. Pauses are cut short: how long they last decides nothing that is checked.
fn units(duration: Duration) -> Time {
    i32::from(duration >= UNIT)
}

fn claim_answer(claimed: Claimed) -> ClaimAnswer {
    match claimed {
        Claimed::Granted(grant) => ClaimAnswer::Granted(grant),
        Claimed::Denied { reason, wait } => {
            ClaimAnswer::Denied { reason, wait: wait.map(|wait| UNIT * wait.max(0).unsigned_abs()) }
        }
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.bounds)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.breach.is_some() {
            return;
        }
        for place in 0..world.instances.len() {
            self.instance_actions(world, place, actions);
        }
        actions.push(Action::Tick);
        if world.straggler.is_some() {
            actions.push(Action::Arrive);
        }
        if !world.ledger.inbox.is_empty() {
            actions.push(Action::Move);
        }
        if self.on_failure == OnFailure::Retry {
            // Attempts are bounded as long as no operator asks for more.
            return;
        }
        let live = world.ledger.live().map(|place| &world.ledger.requests[place]);
        if live.is_some_and(|request| request.status.is_held()) {
            actions.push(Action::Retry);
            if live.is_some_and(|request| request.after_id < self.bounds.window_count) {
                actions.push(Action::Skip);
            }
        }
        if live.is_some() && world.ledger.may_seek() {
            actions.push(Action::Seek);
        }
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        if !self.pay(&mut world, action) {
            return None;
        }
        self.performs(&mut world, action);
        let cursor = |world: &World| world.ledger.cursor.last_requested_id;
        if cursor(&world) < cursor(before) {
            world.breach = world.breach.or(Some(Breach::CursorFell));
        }
        world.normalize(&self.bounds, self.on_failure == OnFailure::Retry);
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
