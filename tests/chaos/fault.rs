//! The faults, and the list of those of one campaign. All that is random is drawn here, from the seed.

use std::collections::VecDeque;
use std::time::Duration;

use eventloader::failpoint::Place;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::wire::{At, Call, Phase};

/// What is done to an instance.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// SIGKILL after a while.
    Kill(Duration),
    /// SIGKILL at a place, at the n-th visit.
    KillAt(Place, u64),
    /// SIGKILL around a statement of a process.
    KillAtStatement(At, Phase),
    /// SIGSTOP after a while, for a while.
    Pause(Duration, Duration),
    /// SIGSTOP at a place, for a while.
    PauseAt(Place, Duration),
    /// A statement is carried out, and its reply is cut.
    LoseReply(Call),
    /// All its connections to the database end.
    Cut,
    /// Nothing comes through to the database or back, for a while.
    Stall(Duration),
    /// SIGTERM after a while.
    Terminate(Duration),
}

/// What is done to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DatabaseFault {
    /// SIGKILL of the postmaster.
    Kill,
    /// `pg_ctl stop -m immediate`.
    StopAtOnce,
    /// `pg_ctl stop -m fast`.
    StopFast,
    /// `pg_terminate_backend` of whoever is connected.
    TerminateBackends,
    /// All transactions may only read (25006).
    ReadOnly,
    /// No room on the disk (53100, or the end of the server).
    DiskFull,
    /// Somebody else holds the locks of rows in the inbox.
    LockRows,
}

/// The lease of a campaign's sources: the least that is allowed.
pub(crate) const LEASE: Duration = Duration::from_millis(500);

/// Between reservation and request, and between response and deposit.
const PAUSE_PLACES: &[Place] = &[
    Place::ClaimGranted,
    Place::GrantFresh,
    Place::FetchBegun,
    Place::RequestUnsent,
    Place::HeadArrived,
    Place::BodyArrived,
    Place::PageAccepted,
    Place::DepositUnsent,
    Place::CloseUnsent,
    Place::MoveUnsent,
    Place::MessagesUnsent,
    Place::MessagesDone,
];

/// Places that a process comes to all the time.
const BUSY_PLACES: &[Place] = &[
    Place::ClaimUnsent,
    Place::ClaimGranted,
    Place::GrantFresh,
    Place::FetchBegun,
    Place::RequestUnsent,
    Place::HeadArrived,
    Place::BodyArrived,
    Place::PageDecoded,
    Place::PageAccepted,
    Place::DepositUnsent,
    Place::DepositDone,
    Place::DepositHinted,
    Place::CycleEnded,
    Place::MoveUnsent,
    Place::MoveDone,
];

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    /// Faults of instances.
    pub(crate) faults: usize,
    pub(crate) database_faults: usize,
    /// Whether the disk may be filled up.
    pub(crate) has_disk: bool,
}

/// The faults that are still to come.
pub(crate) struct Plan {
    pub(crate) faults: VecDeque<Fault>,
    pub(crate) database_faults: VecDeque<DatabaseFault>,
}

impl Plan {
    /// Every place once, and then by their shares.
    pub(crate) fn new(seed: u64, amount: Amount) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut faults: Vec<Fault> =
            Place::ALL.iter().map(|place| Fault::KillAt(*place, 1)).take(amount.faults).collect();
        let mut statement = 0;
        while faults.len() < amount.faults {
            let fault = draw(&mut rng, &mut statement);
            faults.push(fault);
        }
        faults.shuffle(&mut rng);
        let mut kinds = vec![
            DatabaseFault::TerminateBackends,
            DatabaseFault::LockRows,
            DatabaseFault::ReadOnly,
            DatabaseFault::Kill,
            DatabaseFault::StopAtOnce,
            DatabaseFault::StopFast,
        ];
        if amount.has_disk {
            kinds.push(DatabaseFault::DiskFull);
        }
        let database_faults = kinds.iter().copied().cycle().take(amount.database_faults).collect();
        Self { faults: faults.into(), database_faults }
    }

    /// Only these, over and over.
    pub(crate) fn only(
        seed: u64,
        count: usize,
        draw: impl Fn(&mut StdRng) -> Fault,
        database_faults: Vec<DatabaseFault>,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let faults = (0..count).map(|_| draw(&mut rng)).collect();
        Self { faults, database_faults: database_faults.into() }
    }
}

fn draw(rng: &mut StdRng, statement: &mut u64) -> Fault {
    let soon = Duration::from_millis(rng.random_range(50..500));
    match rng.random_range(0..100) {
        0..28 => {
            let place = Place::ALL[rng.random_range(0..Place::ALL.len())];
            let most = if BUSY_PLACES.contains(&place) { 30 } else { 1 };
            Fault::KillAt(place, rng.random_range(1..=most))
        }
        28..46 => {
            *statement = *statement % 60 + 1;
            let phases = [Phase::Unsent, Phase::Sent, Phase::Answered];
            Fault::KillAtStatement(At::Statement(*statement), phases[rng.random_range(0..3)])
        }
        46..60 => Fault::Kill(soon),
        60..72 => Fault::Pause(soon, pause(rng)),
        72..83 => pause_at(rng),
        83..95 => Fault::LoseReply(lost_call(rng)),
        95 => Fault::Cut,
        96 => Fault::Stall(pause(rng)),
        _ => Fault::Terminate(soon),
    }
}

/// 0.1 to 5 times the lease.
pub(crate) fn pause(rng: &mut StdRng) -> Duration {
    LEASE.mul_f64(rng.random_range(0.1..5.0))
}

pub(crate) fn pause_at(rng: &mut StdRng) -> Fault {
    Fault::PauseAt(PAUSE_PLACES[rng.random_range(0..PAUSE_PLACES.len())], pause(rng))
}

fn lost_call(rng: &mut StdRng) -> Call {
    [Call::Claim, Call::Deposit, Call::Close, Call::Move, Call::Messages][rng.random_range(0..5)]
}
