//! Named places where the fault campaign (`tests/chaos/`) ends or freezes the process. Without the feature `chaos` there
//! is nothing of it in the program.
//!
//! `EVENTLOADER_FAILPOINT=claim_granted:3:kill` sends SIGKILL to the own process when it is at the place for the third
//! time; `stop` sends SIGSTOP, once, and whoever watches sends SIGCONT.

macro_rules! places {
    ($($(#[$doc:meta])* $place:ident $name:literal,)*) => {
        /// A place in the program.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Place {
            $($(#[$doc])* $place,)*
        }

        impl Place {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$place,)*];

            /// As the variable names it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$place => $name,)*
                }
            }
        }
    };
}

places! {
    /// The database does not know of the claim.
    ClaimUnsent "claim_unsent",
    /// The reservation is committed, the answer is here.
    ClaimGranted "claim_granted",
    /// The claim was not granted.
    ClaimDenied "claim_denied",
    /// The reply of a claim was lost.
    ClaimLost "claim_lost",
    /// The grant is fresh; its request goes out next.
    GrantFresh "grant_fresh",
    /// A cycle hands over to the source.
    FetchBegun "fetch_begun",
    /// All is ready to be sent: the last place before the socket.
    RequestUnsent "request_unsent",
    /// The head of the answer is here.
    HeadArrived "head_arrived",
    /// The whole body is here.
    BodyArrived "body_arrived",
    /// The body is an array of events.
    PageDecoded "page_decoded",
    /// The source answered with a status that is no page.
    StatusRefused "status_refused",
    /// The page is checked and taken over.
    PageAccepted "page_accepted",
    /// There is no page, and why is known.
    FetchFailed "fetch_failed",
    /// The page is in memory only.
    DepositUnsent "deposit_unsent",
    /// The page is committed.
    DepositDone "deposit_done",
    /// The retry worker is told.
    DepositHinted "deposit_hinted",
    /// The outcome without a page is in memory only.
    CloseUnsent "close_unsent",
    /// The outcome without a page is committed.
    CloseDone "close_done",
    /// The database did not take a result.
    ResultKept "result_kept",
    /// The lease is to be renewed.
    RenewalUnsent "renewal_unsent",
    /// The lease is renewed, or lost.
    RenewalDone "renewal_done",
    /// The loop hears of the end of a cycle.
    CycleEnded "cycle_ended",
    /// A connection to the database is to be opened.
    ConnectionUnopened "connection_unopened",
    /// A connection to the database is open and nobody has it yet.
    ConnectionOpened "connection_opened",
    /// The retry worker looks for sources.
    LookUnsent "look_unsent",
    /// The retry worker knows which sources have something.
    LookDone "look_done",
    /// A batch is to be moved.
    MoveUnsent "move_unsent",
    /// A batch is moved and committed.
    MoveDone "move_done",
    /// A turn at a source is over.
    TurnDone "turn_done",
    /// A consumer asks whether its source is paused.
    PermissionUnsent "permission_unsent",
    /// A consumer is to connect to its broker.
    BrokerUnconnected "broker_unconnected",
    /// A consumer is connected.
    BrokerConnected "broker_connected",
    /// Messages are here, and nothing else is done.
    Delivered "delivered",
    /// Messages are in memory only.
    MessagesUnsent "messages_unsent",
    /// Messages are committed, and nothing is acknowledged.
    MessagesDone "messages_done",
    /// The broker has the acknowledgement.
    Acknowledged "acknowledged",
    /// Message ids are to be forgotten.
    ForgetUnsent "forget_unsent",
    /// The schema is to be looked at.
    MigrationBegun "migration_begun",
    /// The schema lacks something, and it is about to be made.
    MigrationUnsent "migration_unsent",
    /// The schema is up to date.
    MigrationDone "migration_done",
    /// The sources are to be registered.
    RegistrationUnsent "registration_unsent",
    /// The sources are written, and not committed.
    RegistrationOpen "registration_open",
    /// The sources are registered.
    RegistrationDone "registration_done",
    /// Every part is about to run.
    Running "running",
    /// A signal asks to stop.
    StopAsked "stop_asked",
    /// The loader has ended.
    LoaderEnded "loader_ended",
    /// The consumers have ended.
    ConsumersEnded "consumers_ended",
    /// The loader's connections are closed.
    ConnectionsClosed "connections_closed",
    /// The retry worker has ended.
    WorkerEnded "worker_ended",
    /// All is over but the exit.
    DatabaseClosed "database_closed",
    /// A batch of old requests is to be pruned.
    PruneUnsent "prune_unsent",
    /// A batch of old requests is pruned.
    PruneDone "prune_done",
    /// A partition of the archive is to be made.
    PartitionUnsent "partition_unsent",
    /// A partition of the archive is made.
    PartitionDone "partition_done",
}

#[cfg(not(feature = "chaos"))]
#[inline]
pub(crate) const fn hit(_: Place) {}

#[cfg(feature = "chaos")]
pub(crate) use armed::{arm, hit};

#[cfg(feature = "chaos")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    use super::Place;

    struct Armed {
        place: Place,
        /// The next visits that pass.
        left: AtomicU64,
        signal: Signal,
    }

    static ARMED: OnceLock<Armed> = OnceLock::new();

    /// Takes `place:visit:kill|stop`, once, at the start.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn arm(text: &str) -> Result<(), String> {
        let expected = || {
            format!("EVENTLOADER_FAILPOINT={text}: expected place:visit:kill or place:visit:stop")
        };
        let [name, visit, action] =
            text.split(':').collect::<Vec<_>>().try_into().map_err(|_| expected())?;
        let place = Place::ALL.iter().find(|place| place.name() == name).ok_or_else(expected)?;
        let visit: u64 = visit.parse().map_err(|_| expected())?;
        let signal = match action {
            "kill" => Signal::KILL,
            "stop" => Signal::STOP,
            _ => return Err(expected()),
        };
        let armed = Armed { place: *place, left: AtomicU64::new(visit.max(1)), signal };
        ARMED.set(armed).map_err(|_| "armed twice".to_owned())
    }

    /// The process is at a place.
    pub(crate) fn hit(place: Place) {
        let Some(armed) = ARMED.get().filter(|armed| armed.place == place) else { return };
        let is_due = |left: u64| left.checked_sub(1);
        if armed.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_due) == Ok(1) {
            kill_process(getpid(), armed.signal).expect("a process may signal itself");
        }
    }
}
