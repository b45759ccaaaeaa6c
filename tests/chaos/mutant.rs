//! Protocols broken on purpose. Each has to be caught, by the invariant that it breaks.

use std::time::Duration;

use eventloader::failpoint::Place;
use rand::Rng;
use sqlx::PgPool;

use super::fault::{DatabaseFault, Fault, Plan};
use super::wire::{At, Call, Phase};

/// Faults of one round.
pub(crate) const FAULTS: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A page goes into a request that was closed meanwhile, wherever the cursor stands.
    NoFence,
    /// A window whose holder vanished is asked again, and nothing says so.
    RefetchOfOrphans,
    /// Nobody looks at the age of a grant, and requests are spaced by their grants.
    SpacingByGrant,
    /// An event with another body is taken for the one that is there.
    HiddenConflict,
    /// A queue source acknowledges first and stores then.
    AcknowledgeFirst,
    /// The watermark does not see rows that somebody has locked.
    WatermarkOverLocks,
}

/// A function in the database, what it says, and what it says instead.
type Change = (&'static str, &'static str, &'static str);

impl Mutant {
    pub(crate) const ALL: [Self; 6] = [
        Self::NoFence,
        Self::RefetchOfOrphans,
        Self::SpacingByGrant,
        Self::HiddenConflict,
        Self::AcknowledgeFirst,
        Self::WatermarkOverLocks,
    ];

    /// The invariants of which one has to be seen to break.
    pub(crate) fn breaks(self) -> &'static [&'static str] {
        match self {
            Self::NoFence => &["I10", "I8"],
            Self::RefetchOfOrphans => &["I3"],
            Self::SpacingByGrant => &["I11"],
            Self::HiddenConflict => &["I7"],
            Self::AcknowledgeFirst => &["I4"],
            Self::WatermarkOverLocks => &["I8"],
        }
    }

    /// `EVENTLOADER_MUTANT` of those that are in the program.
    pub(crate) fn variable(self) -> Option<&'static str> {
        match self {
            Self::SpacingByGrant => Some("spacing_by_grant"),
            Self::AcknowledgeFirst => Some("acknowledge_first"),
            _ => None,
        }
    }

    fn changes(self) -> &'static [Change] {
        match self {
            Self::NoFence => &[
                (
                    "deposit_page",
                    "status not in ('reserved', 'orphaned')",
                    "status not in ('reserved', 'orphaned', 'retried')",
                ),
                ("deposit_page", "if requested <> reservation.after_id then", "if false then"),
            ],
            Self::RefetchOfOrphans => {
                &[("claim", "set status = 'orphaned',", "set status = 'succeeded',")]
            }
            Self::HiddenConflict => {
                &[("set_conflicts_aside", "e.payload <> i.payload as differs", "false as differs")]
            }
            Self::WatermarkOverLocks => &[(
                "advance_stored",
                "order by i.event_id\n    limit 1;",
                "order by i.event_id\n    limit 1\n    for update skip locked;",
            )],
            Self::SpacingByGrant | Self::AcknowledgeFirst => &[],
        }
    }

    /// Breaks what is decided in the database.
    pub(crate) async fn change(self, pool: &PgPool) {
        for (function, right, wrong) in self.changes() {
            let definition: String =
                sqlx::query_scalar("select pg_get_functiondef(('eventloader.' || $1)::regproc)")
                    .bind(function)
                    .fetch_one(pool)
                    .await
                    .unwrap();
            assert!(definition.contains(right), "{self:?}: {function} says no longer {right:?}");
            let broken = definition.replace(right, wrong);
            sqlx::raw_sql(sqlx::AssertSqlSafe(broken)).execute(pool).await.unwrap();
        }
    }

    /// What brings it to light.
    pub(crate) fn plan(self, seed: u64) -> Plan {
        let places = match self {
            // The response is here, and the process sleeps until the window was freed and asked again.
            Self::NoFence => {
                return Plan::only(
                    seed,
                    FAULTS,
                    |rng| {
                        let places = [Place::HeadArrived, Place::BodyArrived, Place::DepositUnsent];
                        Fault::PauseAt(places[rng.random_range(0..3)], Duration::from_millis(3500))
                    },
                    Vec::new(),
                );
            }
            Self::SpacingByGrant => {
                return Plan::only(
                    seed,
                    FAULTS,
                    |rng| {
                        let time = Duration::from_millis(rng.random_range(120..190));
                        Fault::PauseAt(Place::GrantFresh, time)
                    },
                    Vec::new(),
                );
            }
            Self::AcknowledgeFirst => {
                let draw =
                    |_: &mut _| Fault::KillAtStatement(At::Call(Call::Messages), Phase::Unsent);
                return Plan::only(seed, FAULTS / 2, draw, Vec::new());
            }
            Self::RefetchOfOrphans => {
                [Place::HeadArrived, Place::PageAccepted, Place::DepositUnsent]
            }
            Self::HiddenConflict => [Place::DepositUnsent, Place::DepositDone, Place::MoveUnsent],
            Self::WatermarkOverLocks => [Place::MoveUnsent, Place::MoveDone, Place::DepositDone],
        };
        let draw = move |rng: &mut rand::rngs::StdRng| {
            Fault::KillAt(places[rng.random_range(0..3)], rng.random_range(1..5))
        };
        let locks = match self {
            Self::WatermarkOverLocks => vec![DatabaseFault::LockRows; 4],
            _ => Vec::new(),
        };
        Plan::only(seed, FAULTS / 2, draw, locks)
    }
}
