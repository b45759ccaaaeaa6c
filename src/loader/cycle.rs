//! One cycle of one source as a pure state machine: claim, check the grant, fetch, deposit or close.
//!
//! [`step`] takes the state and what happened, and answers the new state and the one thing to do next. It reads no clock
//! and does no I/O; `loader.rs` performs the effects, and the model in `tests/model/` explores every order in which
//! they can succeed, fail, or be cut short.
//!
//! ```text
//! Claiming ──granted──▶ Granted ──fresh──▶ InFlight ──page────▶ Depositing ──stored──▶ Ended
//!     │                    │                   └────failure──▶ Closing ────closed───▶ Ended
//!     └─not granted─▶ Ended└──too old, stopping──────────────────▲
//! ```

use std::time::Duration;

use uuid::Uuid;

use super::policy::{self, FailureClass, Health, OnFailure, Verdict};

/// Identifies one reservation; only who knows it can deposit. A token is used for one reservation and never again.
pub type Token = Uuid;

/// What the configuration says of a source, as far as decisions need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// Least time between two requests of the source.
    pub min_interval: Duration,
    /// Longest pause of a source that has nothing new.
    pub max_idle: Duration,
    /// A grant older than this is given back unused. Has to be shorter than the lease, because after the lease (and
    /// a grace) others may close the reservation and ask again.
    pub grant_life: Duration,
    /// What to do when an outcome is unknown.
    pub on_failure: OnFailure,
}

/// The right to send one request for one window.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// `event_request_log.id`.
    pub request_id: i64,
    /// The reservation's token.
    pub token: Token,
    /// The lease's epoch.
    pub epoch: i64,
    /// Events with greater ids are asked for.
    pub after_id: i64,
    /// Which attempt at this window it is, from 1.
    pub attempt: u32,
    /// Empty pages in a row before this request.
    pub empty_streak: u32,
    /// Failures in a row before this request.
    pub failure_streak: u32,
    /// What came with the last page, of a source that keeps a state.
    pub state: Option<String>,
}

/// The database's answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClaimAnswer {
    /// One request may be sent.
    Granted(Grant),
    /// Not now; `wait` is how long until it is worth asking again, `None` until somebody acts.
    Denied {
        /// Why.
        reason: Denial,
        /// Until when.
        wait: Option<Duration>,
    },
}

/// Why a claim was not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// Another instance works on the source.
    Busy,
    /// The spacing, a `Retry-After` or a back-off has not passed.
    Throttled,
    /// The window's outcome is unknown, or a reservation is open whose holder does not answer.
    Held,
    /// An operator paused the source.
    Paused,
    /// The source is not registered.
    Missing,
}

/// How the request ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// A valid page; its greatest id, `None` for an empty one.
    Page {
        /// Greatest id of the page, bad events included.
        max_id: Option<i64>,
        /// How long the source asks not to be asked again.
        pause: Option<Duration>,
    },
    /// No valid page.
    Failure {
        /// How it failed.
        class: FailureClass,
        /// What the source asked for in `Retry-After`.
        retry_after: Option<Duration>,
    },
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The claim was answered.
    ClaimAnswered(ClaimAnswer),
    /// The reply to the call in progress is lost: it may have been carried out, or not, or may still be.
    ReplyLost,
    /// The grant is this old at the moment of sending, measured on the monotonic clock from before the claim was sent.
    GrantAged(Duration),
    /// The process is asked to stop.
    Stopping,
    /// The source answered, or did not; `jitter` is in thousandths.
    Answered(Answer, u16),
    /// The deposit was answered: stored (now or by an earlier try), or refused because the reservation was closed.
    DepositAnswered(Stored),
    /// The page as a whole cannot be stored.
    Unstorable,
    /// The close was answered.
    CloseAnswered,
}

/// The database's answer to a deposit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stored {
    /// The page is in the inbox, or was empty.
    Yes,
    /// An operator or a policy closed the reservation meanwhile; the page is not stored.
    Refused,
}

/// How a reservation without a page is closed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Close {
    /// Delete the row, or keep it as `failed`.
    pub verdict: Verdict,
    /// When a failed window is asked again by itself; `None`: by an operator.
    pub retry_in: Option<Duration>,
    /// How long nobody asks the source.
    pub pause: Option<Duration>,
    /// Failures in a row, this one included.
    pub failure_streak: u32,
    /// What `status` shows; `None`: as before.
    pub health: Option<Health>,
}

/// Where the cycle is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// A claim with this token is being made.
    Claiming(Token),
    /// The grant is here; nothing has been sent.
    Granted(Grant),
    /// The request may be on the wire.
    InFlight(Grant),
    /// The page is in hand and being stored.
    Depositing(Grant, Deposit),
    /// The reservation is being closed without a page.
    Closing(Grant, Close),
    /// Over.
    Ended(Ending),
}

/// How the page is stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Deposit {
    /// Greatest id of the page; `None`: empty.
    pub max_id: Option<i64>,
    /// Empty pages in a row, this one included.
    pub empty_streak: u32,
    /// How long nobody asks the source; `None`: only the spacing counts.
    pub pause: Option<Duration>,
}

/// How the cycle ended, for the loop to decide when to look at the source again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Not granted.
    Denied {
        /// What the claim was made with.
        token: Token,
        /// Why.
        reason: Denial,
        /// How long until it is worth asking again.
        wait: Option<Duration>,
    },
    /// The claim's reply is lost: whether there is a reservation with this token is unknown.
    ClaimLost(Token),
    /// A page with events is in the inbox.
    Deposited,
    /// The page was empty; ask again after this.
    Empty(Duration),
    /// The page came too late: its reservation had been closed.
    Refused,
    /// No page; ask again after this. `None`: nothing was wrong with the source.
    Closed(Option<Duration>),
}

impl Ending {
    /// The token the next claim has to use; `None`: a new one.
    ///
    /// A token stays until a claim with it is granted, through denials too: a claim before that, whose reply was lost,
    /// may have made the reservation, and forgetting its token would leave it open until it shows as orphaned.
    pub fn unused_token(&self) -> Option<Token> {
        match self {
            Self::Denied { token, .. } | Self::ClaimLost(token) => Some(*token),
            Self::Deposited | Self::Empty(_) | Self::Refused | Self::Closed(_) => None,
        }
    }
}

/// The one thing to do next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Ask the database for a grant.
    Claim(Token),
    /// Measure how old the grant is, and report it at once.
    MeasureAge,
    /// Send the request.
    Fetch(Grant),
    /// Store the page. Repeated with the same token until it is answered.
    Deposit(Grant, Deposit),
    /// Close the reservation. Repeated with the same token until it is answered.
    Close(Grant, Close),
    /// Nothing: the cycle is over.
    End(Ending),
}

/// Begins a cycle. The token is new, or [that of the last cycle](Ending::unused_token).
pub fn begin(token: Token) -> (State, Effect) {
    (State::Claiming(token), Effect::Claim(token))
}

/// Takes one step. A lost reply, and any event that does not belong to the state, changes nothing and repeats the state's
/// effect, which is safe for all but one: a request on the wire is closed as unknown instead of being sent again.
pub fn step(rules: &Rules, state: State, event: Event) -> (State, Effect) {
    match (state, event) {
        (State::Claiming(_), Event::ClaimAnswered(ClaimAnswer::Granted(grant))) => {
            (State::Granted(grant), Effect::MeasureAge)
        }
        (State::Claiming(token), Event::ClaimAnswered(ClaimAnswer::Denied { reason, wait })) => {
            end(Ending::Denied { token, reason, wait })
        }
        (State::Claiming(token), Event::ReplyLost | Event::Stopping) => {
            end(Ending::ClaimLost(token))
        }
        (State::Granted(grant), Event::GrantAged(age)) if age < rules.grant_life => {
            (State::InFlight(grant.clone()), Effect::Fetch(grant))
        }
        (State::Granted(grant), Event::GrantAged(_) | Event::Stopping) => release_unused(grant),
        (State::InFlight(grant), Event::Answered(Answer::Page { max_id, pause }, _)) => {
            let deposit = deposit(rules, &grant, max_id, pause);
            (State::Depositing(grant.clone(), deposit.clone()), Effect::Deposit(grant, deposit))
        }
        (
            State::InFlight(grant),
            Event::Answered(Answer::Failure { class, retry_after }, jitter),
        ) => {
            let close = close(rules, &grant, class, retry_after, f64::from(jitter) / 1000.0);
            (State::Closing(grant.clone(), close.clone()), Effect::Close(grant, close))
        }
        (State::Depositing(_, deposit), Event::DepositAnswered(Stored::Yes)) => {
            end(match (deposit.max_id, deposit.pause) {
                (None, Some(pause)) => Ending::Empty(pause),
                _ => Ending::Deposited,
            })
        }
        (State::Depositing(..), Event::DepositAnswered(Stored::Refused)) => end(Ending::Refused),
        (State::Depositing(grant, _), Event::Unstorable) => {
            let close = close(rules, &grant, FailureClass::InvalidPage, None, 0.5);
            (State::Closing(grant.clone(), close.clone()), Effect::Close(grant, close))
        }
        (State::Closing(_, close), Event::CloseAnswered) => end(Ending::Closed(close.pause)),
        // Whatever else happens to a request on the wire, it is never sent again: its outcome is unknown.
        (State::InFlight(grant), _) => {
            let close = close(rules, &grant, FailureClass::Unknown, None, 0.5);
            (State::Closing(grant.clone(), close.clone()), Effect::Close(grant, close))
        }
        (State::Claiming(token), _) => begin(token),
        (State::Granted(grant), _) => (State::Granted(grant), Effect::MeasureAge),
        (State::Depositing(grant, deposit), _) => {
            (State::Depositing(grant.clone(), deposit.clone()), Effect::Deposit(grant, deposit))
        }
        (State::Closing(grant, close), _) => {
            (State::Closing(grant.clone(), close.clone()), Effect::Close(grant, close))
        }
        (State::Ended(ending), _) => end(ending),
    }
}

fn end(ending: Ending) -> (State, Effect) {
    (State::Ended(ending.clone()), Effect::End(ending))
}

/// Gives a grant back that was never used: no fault of the source, so its streaks stay.
fn release_unused(grant: Grant) -> (State, Effect) {
    let close = Close {
        verdict: Verdict::Release,
        retry_in: None,
        pause: None,
        failure_streak: grant.failure_streak,
        health: None,
    };
    (State::Closing(grant.clone(), close.clone()), Effect::Close(grant, close))
}

fn deposit(rules: &Rules, grant: &Grant, max_id: Option<i64>, asked: Option<Duration>) -> Deposit {
    let empty_streak = if max_id.is_some() { 0 } else { grant.empty_streak.saturating_add(1) };
    let idle = max_id
        .is_none()
        .then(|| policy::pause_after_empty(empty_streak, rules.min_interval, rules.max_idle));
    Deposit { max_id, empty_streak, pause: policy::pause_after_page(idle, asked) }
}

fn close(
    rules: &Rules,
    grant: &Grant,
    class: FailureClass,
    retry_after: Option<Duration>,
    jitter: f64,
) -> Close {
    let policy = policy::policy(class);
    let failure_streak = grant.failure_streak.saturating_add(1);
    let retry_in = match policy.verdict {
        Verdict::Fail => policy::retry_in(rules.on_failure, grant.attempt, jitter),
        Verdict::Release => None,
    };
    let pause = match policy.verdict {
        // The window is held or waits for `retry_in`: a further pause would only delay the operator's retry.
        Verdict::Fail => retry_after.map(|asked| asked.min(policy::RETRY_AFTER_MAX)),
        Verdict::Release => {
            Some(policy::pause_after_failure(class, failure_streak, retry_after, jitter))
        }
    };
    Close { verdict: policy.verdict, retry_in, pause, failure_streak, health: Some(policy.health) }
}
