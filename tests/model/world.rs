//! Everything there is in the model: the database's rows, the instances, what the source was asked, and one call that is
//! still on its way to the database although its caller has given it up.

use eventloader::loader::cycle::{Close, Deposit, Grant, State, Token};
use eventloader::loader::policy::Verdict;

use super::ledger::{CycleEnd, Ledger, Owner, Status, Time};

/// The owner of a lease whose process is gone. One number for all: what belonged to one of them is told apart from
/// what belonged to another by the epoch.
pub(crate) const GONE: Owner = Owner::MAX;

/// No end of faults.
pub(crate) const UNLIMITED: u8 = u8::MAX;

/// Sizes and times of one exploration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) instance_count: usize,
    /// Windows that have an event each; after the last one the source is empty.
    pub(crate) window_count: i64,
    pub(crate) min_interval: Time,
    pub(crate) lease_ttl: Time,
    pub(crate) orphan_grace: Time,
    /// In units of time, at most the lease.
    pub(crate) grant_life: Time,
    /// How many faults, unhappy answers and interventions there are at most, of all kinds together.
    pub(crate) fault_count: u8,
    /// Whether calls can be carried out long after they were given up.
    pub(crate) has_stragglers: bool,
    /// Whether the moments of requests are kept. Without them no request has to wait, and states are few.
    pub(crate) has_spacing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) ledger: Ledger,
    pub(crate) instances: Vec<Instance>,
    pub(crate) straggler: Option<Call>,
    /// What the source was asked, in order.
    pub(crate) wire: Vec<Wire>,
    /// Ids that an operator gave up.
    pub(crate) skipped: Vec<i64>,
    pub(crate) faults_left: u8,
    pub(crate) breach: Option<Breach>,
}

/// One process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Instance {
    /// The token its next claim has to use.
    pub(crate) token: Option<Token>,
    pub(crate) cycle: Option<Cycle>,
}

/// What a process holds during a cycle, as the driver does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cycle {
    pub(crate) state: State,
    /// Since before the claim was sent.
    pub(crate) age: Time,
    pub(crate) sent: Sent,
    /// Since the answer of the source was known.
    pub(crate) known_for: Option<Time>,
    /// A mutant that stores in two steps is between them.
    pub(crate) is_half_stored: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Sent {
    /// Nothing is on the wire; so long ago the grant was found fresh.
    No {
        checked: Time,
    },
    Yes,
}

/// A call to the database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Claim { owner: Owner, token: Token },
    Deposit { end: CycleEnd, grant: Grant, deposit: Deposit },
    Close { end: CycleEnd, grant: Grant, close: Close },
    Renew { owner: Owner, epoch: i64 },
}

/// One line of the source's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wire {
    pub(crate) request_id: i64,
    pub(crate) after_id: i64,
    pub(crate) at: Time,
    /// The process was paused between the last look at the clock and the write. No program can prevent that.
    pub(crate) is_late: bool,
    /// The source answered that there is nothing, or that it will not say.
    pub(crate) is_settled: bool,
}

/// What the source answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reply {
    Page,
    Empty,
    Refused,
    /// It may have answered; nobody knows.
    Lost,
}

/// What must never happen, seen while it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Breach {
    SentUnreserved,
    TooSoon,
    CursorFell,
    LeasesOverlap,
    EpochReused,
    OldEpoch,
    OldToken,
    PageThrownAway,
    TokenForgotten,
    TooManyAttempts,
}

impl World {
    pub(crate) fn new(bounds: &Bounds) -> Self {
        Self {
            ledger: Ledger::default(),
            instances: vec![Instance::default(); bounds.instance_count],
            straggler: None,
            wire: Vec::new(),
            skipped: Vec::new(),
            faults_left: bounds.fault_count,
            breach: None,
        }
    }

    /// A token that nothing in this world has.
    pub(crate) fn new_token(&self) -> Token {
        let tokens = self.ledger.requests.iter().map(|request| request.token);
        let tokens = tokens.chain(self.instances.iter().filter_map(Instance::token));
        let tokens = tokens.chain(self.straggler.iter().filter_map(Call::token));
        Token::from_u128(tokens.map(|token| token.as_u128()).max().unwrap_or_default() + 1)
    }

    /// Lets one unit of time pass.
    pub(crate) fn tick(&mut self) {
        self.ledger.tick(1);
        for cycle in self.instances.iter_mut().filter_map(|instance| instance.cycle.as_mut()) {
            cycle.age += 1;
            cycle.known_for = cycle.known_for.map(|time| time + 1);
            if let Sent::No { checked } = &mut cycle.sent {
                *checked += 1;
            }
        }
        self.wire.iter_mut().for_each(|wire| wire.at -= 1);
    }

    /// Brings states that no rule and no property can tell apart to one form: times beyond every limit, numbers that
    /// only have to differ, rows that nobody can refer to any more, and the order of the instances.
    pub(crate) fn normalize(&mut self, bounds: &Bounds, attempts_matter: bool) {
        if !bounds.has_spacing {
            self.forget_moments(bounds);
        }
        self.clamp_times(bounds);
        self.forget_unreferenced(bounds, attempts_matter);
        self.blank_pauses();
        if !attempts_matter {
            self.ledger.cursor.next_attempt = 1;
            self.ledger.requests.iter_mut().for_each(|request| request.attempt = 1);
            self.each_grant(|grant| grant.attempt = 1);
        }
        self.renumber_requests();
        self.renumber_epochs();
        self.renumber_tokens();
        self.sort_instances();
        self.renumber_tokens();
    }

    fn clamp_times(&mut self, bounds: &Bounds) {
        let ledger = &mut self.ledger;
        let old = bounds.min_interval + bounds.lease_ttl;
        ledger.lease.expires_at = ledger.lease.expires_at.max(-bounds.orphan_grace);
        ledger.rate.last_request_at = ledger.rate.last_request_at.map(|at| at.max(-old));
        ledger.rate.not_before = None;
        ledger.rate.empty_streak = 0;
        ledger.rate.failure_streak = 0;
        for request in &mut ledger.requests {
            request.owner = 0;
            request.epoch = 0;
            request.retry_at = request.retry_at.map(|at| at.max(0));
        }
        ledger.inbox.sort_unstable();
        for cycle in self.instances.iter_mut().filter_map(|instance| instance.cycle.as_mut()) {
            cycle.known_for = cycle.known_for.map(|time| time.min(old));
            // The age is looked at once.
            let is_unchecked = matches!(cycle.state, State::Granted(_));
            cycle.age = if is_unchecked { cycle.age.min(bounds.grant_life) } else { 0 };
            if let Sent::No { checked } = &mut cycle.sent {
                let is_waiting = matches!(cycle.state, State::InFlight(_));
                *checked = if is_waiting { (*checked).min(1) } else { 0 };
            }
        }
        for wire in &mut self.wire {
            wire.at = wire.at.max(-bounds.min_interval);
            wire.is_late &= wire.at > -bounds.min_interval;
        }
    }

    /// How long a source is left alone decides nothing that is checked here, but for the spacing.
    fn blank_pauses(&mut self) {
        let blank = |deposit: Option<&mut Deposit>, close: Option<&mut Close>| {
            if let Some(deposit) = deposit {
                (deposit.empty_streak, deposit.pause) = (0, None);
            }
            if let Some(close) = close {
                (close.failure_streak, close.pause, close.health) = (0, None, None);
            }
        };
        for cycle in self.instances.iter_mut().filter_map(|instance| instance.cycle.as_mut()) {
            match &mut cycle.state {
                State::Depositing(_, deposit) => blank(Some(deposit), None),
                State::Closing(_, close) => blank(None, Some(close)),
                _ => {}
            }
        }
        match &mut self.straggler {
            Some(Call::Deposit { end, deposit, .. }) => {
                end.not_before_in = None;
                blank(Some(deposit), None);
            }
            Some(Call::Close { end, close, .. }) => {
                end.not_before_in = None;
                blank(None, Some(close));
            }
            Some(Call::Claim { .. } | Call::Renew { .. }) | None => {}
        }
    }

    /// Drops closed requests and settled lines that nobody can refer to any more, and tokens of no open reservation.
    fn forget_unreferenced(&mut self, bounds: &Bounds, attempts_matter: bool) {
        let mut in_hand: Vec<i64> = Vec::new();
        self.each_grant(|grant| in_hand.push(grant.request_id));
        let can_send: Vec<i64> = self.instances.iter().filter_map(Instance::unfinished).collect();
        let requests = &mut self.ledger.requests;
        for request in requests.iter_mut().filter(|request| request.status == Status::Skipped) {
            request.status = Status::Retried;
        }
        self.wire.retain(|wire| {
            let row = requests.iter().find(|request| request.id == wire.request_id);
            let is_freed = row.is_some_and(|request| request.status == Status::Retried);
            let is_recent = wire.at > -bounds.min_interval;
            is_recent
                || can_send.contains(&wire.request_id)
                || !(wire.is_settled || (is_freed && !attempts_matter))
        });
        // A window that was freed on record has to stay on record as long as its request is.
        let wire = &self.wire;
        requests.retain(|request| {
            let is_on_wire = wire.iter().any(|line| line.request_id == request.id);
            request.status.is_live()
                || in_hand.contains(&request.id)
                || (request.status == Status::Retried && is_on_wire)
        });
        for instance in self.instances.iter_mut().filter(|instance| instance.cycle.is_none()) {
            instance.token = instance.token.filter(|token| {
                requests.iter().any(|r| r.token == *token && r.status.is_live())
                    || self.straggler.as_ref().is_some_and(|call| call.token() == Some(*token))
            });
        }
    }

    fn forget_moments(&mut self, bounds: &Bounds) {
        self.ledger.rate.last_request_at = None;
        self.wire.iter_mut().for_each(|wire| wire.at = -bounds.min_interval);
        for cycle in self.instances.iter_mut().filter_map(|instance| instance.cycle.as_mut()) {
            cycle.known_for = None;
        }
        if let Some(Call::Deposit { end, .. } | Call::Close { end, .. }) = &mut self.straggler {
            end.request_known_for = None;
        }
    }

    fn renumber_requests(&mut self) {
        let mut ids: Vec<i64> = self.ledger.requests.iter().map(|request| request.id).collect();
        ids.extend(self.wire.iter().map(|wire| wire.request_id));
        ids.extend(self.ledger.inbox.iter().map(|(_, request_id)| *request_id));
        self.each_grant(|grant| ids.push(grant.request_id));
        ids.sort_unstable();
        ids.dedup();
        let new = |id| rank(&ids, id);
        self.ledger.requests.iter_mut().for_each(|request| request.id = new(request.id));
        self.wire.iter_mut().for_each(|wire| wire.request_id = new(wire.request_id));
        self.ledger.inbox.iter_mut().for_each(|(_, id)| *id = new(*id));
        self.each_grant(|grant| grant.request_id = new(grant.request_id));
        self.ledger.next_request_id = i64::try_from(ids.len()).unwrap_or(i64::MAX) + 1;
    }

    /// All that matters of an epoch is whether it is that of the lease: 1; an older one never is again: 0.
    fn renumber_epochs(&mut self) {
        let current = self.ledger.lease.epoch;
        let new = |epoch: i64| i64::from(epoch == current);
        self.each_grant(|grant| grant.epoch = new(grant.epoch));
        self.ledger.lease.epoch = 1;
        match &mut self.straggler {
            Some(Call::Renew { epoch, owner }) => {
                *epoch = new(*epoch);
                if *epoch == 0 {
                    *owner = GONE;
                }
            }
            Some(Call::Deposit { end, grant, .. } | Call::Close { end, grant, .. })
                if grant.epoch == 0 =>
            {
                end.owner = GONE;
            }
            _ => {}
        }
    }

    fn renumber_tokens(&mut self) {
        let mut old: Vec<Token> = Vec::with_capacity(8);
        let mut place = |token: &mut Token| {
            let known = old.iter().position(|other| other == token);
            let number = known.unwrap_or_else(|| {
                old.push(*token);
                old.len() - 1
            });
            *token = Token::from_u128(number as u128 + 1);
        };
        self.ledger.requests.iter_mut().for_each(|request| place(&mut request.token));
        if let Some(Call::Claim { token, .. }) = &mut self.straggler {
            place(token);
        }
        for instance in &mut self.instances {
            instance.token.iter_mut().for_each(&mut place);
        }
        self.each_grant(|grant| place(&mut grant.token));
    }

    /// Instances are alike: only what they hold tells them apart.
    fn sort_instances(&mut self) {
        let known = self.ledger.requests.len() as u128 + 1;
        // A token of no row is only a name: it must not decide the order.
        let blank = |token: Token| token.as_u128().min(known);
        let key = |instance: &Instance| {
            let token = instance.token.map(blank);
            let cycle = instance.cycle.as_ref().map(|cycle| {
                let (phase, fails) = match &cycle.state {
                    State::Claiming(_) | State::Ended(_) => (0, false),
                    State::Granted(_) => (1, false),
                    State::InFlight(_) => (2, false),
                    State::Depositing(_, deposit) => (3, deposit.max_id.is_some()),
                    State::Closing(_, close) => (4, close.verdict == Verdict::Fail),
                };
                let grant = cycle.grant().map(|grant| {
                    (grant.request_id, blank(grant.token), grant.epoch, grant.after_id)
                });
                (phase, fails, grant, cycle.age, cycle.known_for, cycle.sent)
            });
            (token, cycle)
        };
        let owner = self.ledger.lease.owner;
        let straggler = self.straggler.as_ref().map(Call::owner);
        let mut order: Vec<_> = (0..self.instances.len())
            .map(|place| {
                let number = Owner::try_from(place).expect("a few instances");
                let ties = (owner == Some(number), straggler == Some(number));
                (key(&self.instances[place]), ties, place)
            })
            .collect();
        order.sort_unstable();
        let mut new = vec![0; order.len()];
        for (to, (_, _, from)) in order.iter().enumerate() {
            new[*from] = Owner::try_from(to).expect("a few instances");
        }
        let rename = |owner: &mut Owner| {
            if *owner != GONE {
                *owner = new[usize::from(*owner)];
            }
        };
        let mut old = std::mem::take(&mut self.instances);
        self.instances = order.iter().map(|(_, _, from)| std::mem::take(&mut old[*from])).collect();
        self.ledger.lease.owner.iter_mut().for_each(rename);
        self.straggler.iter_mut().for_each(|call| rename(call.owner_mut()));
    }

    fn each_grant(&mut self, mut change: impl FnMut(&mut Grant)) {
        self.instances.iter_mut().for_each(|instance| instance.each_grant(&mut change));
        if let Some(Call::Deposit { grant, .. } | Call::Close { grant, .. }) = &mut self.straggler {
            change(grant);
        }
    }
}

/// The place of a number among sorted ones, from 1.
fn rank(sorted: &[i64], number: i64) -> i64 {
    let place = sorted.partition_point(|other| *other < number);
    i64::try_from(place).expect("a few requests") + 1
}

impl Instance {
    pub(crate) fn token(&self) -> Option<Token> {
        self.token.or_else(|| self.cycle.as_ref().and_then(Cycle::grant).map(|grant| grant.token))
    }

    /// The request that it may be sending.
    fn unfinished(&self) -> Option<i64> {
        match &self.cycle.as_ref()?.state {
            State::Granted(grant) | State::InFlight(grant) => Some(grant.request_id),
            _ => None,
        }
    }

    fn each_grant(&mut self, change: &mut impl FnMut(&mut Grant)) {
        let Some(cycle) = &mut self.cycle else { return };
        match &mut cycle.state {
            State::Granted(grant)
            | State::InFlight(grant)
            | State::Depositing(grant, _)
            | State::Closing(grant, _) => change(grant),
            State::Claiming(_) | State::Ended(_) => {}
        }
    }
}

impl Cycle {
    pub(crate) fn grant(&self) -> Option<&Grant> {
        match &self.state {
            State::Granted(grant)
            | State::InFlight(grant)
            | State::Depositing(grant, _)
            | State::Closing(grant, _) => Some(grant),
            State::Claiming(_) | State::Ended(_) => None,
        }
    }
}

impl Call {
    fn token(&self) -> Option<Token> {
        match self {
            Self::Claim { token, .. } => Some(*token),
            Self::Deposit { grant, .. } | Self::Close { grant, .. } => Some(grant.token),
            Self::Renew { .. } => None,
        }
    }

    pub(crate) fn owner(&self) -> Owner {
        match self {
            Self::Claim { owner, .. } | Self::Renew { owner, .. } => *owner,
            Self::Deposit { end, .. } | Self::Close { end, .. } => end.owner,
        }
    }

    pub(crate) fn owner_mut(&mut self) -> &mut Owner {
        match self {
            Self::Claim { owner, .. } | Self::Renew { owner, .. } => owner,
            Self::Deposit { end, .. } | Self::Close { end, .. } => &mut end.owner,
        }
    }
}
