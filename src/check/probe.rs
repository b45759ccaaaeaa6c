//! Asks every source for one event, in its turn, and throws the answer away.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::database::{Opened, States, refused};
use super::{Finding, machine, message, subject_of};
use crate::app::{self, AppError, SetUp};
use crate::config::{Config, ProcessConfig, SourceConfig, SourceKind};
use crate::consumer::ConsumedSource;
use crate::database::is_localhost;
use crate::event::Item;
use crate::loader::cycle::{ClaimAnswer, Denial, Grant, Token};
use crate::loader::policy::RETRY_AFTER_MAX;
use crate::loader::{self, LoadedSource};
use crate::mapping::check_order;
use crate::source::{FailureClass, Page, SourceError};
use crate::sources::sql::SqlSource;
use crate::store::request_log::{self, ClaimRequest, CycleEnd};
use crate::store::source::SourceStatus;
use crate::store::{Actor, StoreError, lease};
use crate::telemetry::chain;

/// Sources asked at the same time.
const AT_ONCE: usize = 16;
/// How long a turn is waited for: longer than the spacing of most sources.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks whether it is our turn.
const AGAIN: Duration = Duration::from_millis(100);

/// Asks all sources; findings by source name.
pub(super) async fn all(
    config: &Config,
    process: &ProcessConfig,
    opened: Option<&Opened>,
    actor: &Actor,
) -> HashMap<String, Vec<Finding>> {
    let owner = loader::new_owner();
    let mut clients = app::Clients::default();
    let sources: Vec<_> = config
        .sources
        .iter()
        .map(|source| {
            let is_inside =
                process.in_container && source.kind.host().is_some_and(|host| is_localhost(&host));
            let start_after = source.loading.start_after;
            let loaded = app::set_up(source, &mut clients);
            (source, loaded, start_after, is_inside)
        })
        .collect();
    stream::iter(sources)
        .map(|(config, loaded, start_after, is_inside)| {
            let (owner, name) = (owner.as_str(), config.name.as_str());
            async move {
                if machine::is_missing(config) {
                    return (name.to_owned(), Vec::new());
                }
                let finding = match loaded {
                    Ok(SetUp::Pull(source)) => {
                        let found = one(&source, start_after, opened, owner, actor).await;
                        if is_inside { suspect_localhost(found) } else { found }
                    }
                    Ok(SetUp::Queue(source)) => {
                        return (name.to_owned(), queue(&source, opened).await);
                    }
                    Err(error) => cannot_set_up(name, &error),
                };
                let mut findings = vec![finding];
                // What the catalogue says is asked only of a source that answers.
                if opened.is_some() && findings[0].message == &message::SOURCE_OK {
                    findings.extend(weaknesses(config).await);
                }
                (name.to_owned(), findings)
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

/// What the catalogue of a database says against the promise of a source.
async fn weaknesses(config: &SourceConfig) -> Vec<Finding> {
    let SourceKind::Sql(sql) = &config.kind else { return Vec::new() };
    let subject = subject_of(config.name.as_str());
    match SqlSource::new(app::sql_options(sql)).inspect().await {
        Ok(inspection) => {
            let warnings = inspection.warnings.into_iter();
            warnings.map(|what| Finding::new(&message::SOURCE_WEAKER, &subject, what)).collect()
        }
        Err(error) => vec![Finding::new(&message::SOURCE_FAILED, subject, error.to_string())],
    }
}

/// Looks at a queue without taking anything from it: that needs neither a turn nor the database.
async fn queue(source: &ConsumedSource, opened: Option<&Opened>) -> Vec<Finding> {
    let subject = subject_of(&source.source_name);
    let inspection = match source.inspect().await {
        Ok(inspection) => inspection,
        Err(error) => {
            let finding = Finding::new(&message::SOURCE_FAILED, subject, error.to_string());
            return vec![match error.fix {
                Some(fix) => finding.with_fix(fix),
                None => finding,
            }];
        }
    };
    let mut findings = vec![Finding::new(&message::SOURCE_OK, &subject, inspection.what)];
    let warnings = inspection.warnings.into_iter();
    findings.extend(warnings.map(|what| Finding::new(&message::SOURCE_WEAKER, &subject, what)));
    if let Some(Opened { states: States::Known(states), .. }) = opened
        && let Some(state) = states.get(&source.source_name)
        && state.state == "paused"
    {
        findings.push(denied(subject, Denial::Paused, state));
    }
    findings
}

/// A source at localhost, inside a container, that cannot be reached.
fn suspect_localhost(found: Finding) -> Finding {
    let is_failed = found.message == &message::SOURCE_FAILED;
    if is_failed && found.what.starts_with("cannot connect") {
        return Finding { message: &message::LOCALHOST_IN_CONTAINER, ..found };
    }
    found
}

fn cannot_set_up(name: &str, error: &AppError) -> Finding {
    Finding::new(&message::SOURCE_FAILED, subject_of(name), chain(error))
}

async fn one(
    source: &LoadedSource,
    start_after: i64,
    opened: Option<&Opened>,
    owner: &str,
    actor: &Actor,
) -> Finding {
    let subject = subject_of(&source.source_name);
    let Some(opened) = opened else {
        return Finding::new(&message::SOURCE_NOT_ASKED, subject, "not asked");
    };
    let state = match &opened.states {
        States::Known(states) => states.get(&source.source_name),
        States::NeverLoaded => None,
        States::Unreadable => {
            return Finding::new(&message::SOURCE_NOT_ASKED, subject, "not asked");
        }
    };
    let Some(state) = state else {
        // Nothing has ever loaded it, so nobody else asks it.
        return answered(source, start_after, &ask(source, start_after, None).await);
    };
    let pool = &opened.database.pool;
    match take_turn(source, pool, owner, actor).await {
        Ok(Turn::Ours(grant, claimed_at)) => {
            match probe(source, pool, owner, &grant, claimed_at).await {
                Ok(outcome) => answered(source, grant.after_id, &outcome),
                Err(error) => refused(&subject, &error),
            }
        }
        Ok(Turn::Denied(reason)) => denied(subject, reason, state),
        Err(error) => refused(&subject, &error),
    }
}

enum Turn {
    /// Granted to a claim that was sent at this time.
    Ours(Grant, Instant),
    Denied(Denial),
}

/// Claims the source, as an instance would, and writes down in the same transaction that the window is only probed: a
/// check that is killed must not leave one behind that nobody knows the outcome of. The lease is kept.
async fn take_turn(
    source: &LoadedSource,
    pool: &sqlx::PgPool,
    owner: &str,
    actor: &Actor,
) -> Result<Turn, StoreError> {
    let failed = |cause| StoreError { operation: "claim a window", cause };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request = ClaimRequest {
            source_name: &source.source_name,
            owner,
            token: Token::now_v7(),
            limit: 1,
            lease_ttl: source.settings.lease_ttl,
            orphan_grace: source.settings.orphan_grace(),
            min_interval: source.settings.min_interval,
            on_failure: source.settings.on_failure,
        };
        let claimed_at = Instant::now();
        let mut transaction = pool.begin().await.map_err(failed)?;
        let answer = if source.source.keeps_state() {
            request_log::claim_with_state(&mut *transaction, &request).await?
        } else {
            request_log::claim(&mut *transaction, &request).await?
        };
        if let ClaimAnswer::Granted(grant) = &answer {
            let name = &source.source_name;
            request_log::record_probe(&mut *transaction, name, grant, actor).await?;
        }
        transaction.commit().await.map_err(failed)?;
        let (reason, wait) = match answer {
            ClaimAnswer::Granted(grant) => return Ok(Turn::Ours(grant, claimed_at)),
            ClaimAnswer::Denied { reason, wait } => (reason, wait.unwrap_or(AGAIN)),
        };
        let passes = matches!(reason, Denial::Busy | Denial::Throttled);
        if !passes || Instant::now() + wait.min(AGAIN) > deadline {
            return Ok(Turn::Denied(reason));
        }
        tokio::time::sleep(wait.min(AGAIN)).await;
    }
}

/// Asks, and gives the lease back, with the pause that the source asks for.
async fn probe(
    source: &LoadedSource,
    pool: &sqlx::PgPool,
    owner: &str,
    grant: &Grant,
    claimed_at: Instant,
) -> Result<Result<Page, SourceError>, StoreError> {
    let name = &source.source_name;
    let ttl = source.settings.lease_ttl;
    let renewals = async {
        loop {
            tokio::time::sleep(ttl / 3).await;
            // A lost lease loses nothing: there is nothing to deposit.
            drop(lease::renew(pool, name, owner, grant.epoch, ttl).await);
        }
    };
    let outcome = tokio::select! {
        outcome = ask_in_time(source, grant, claimed_at) => outcome,
        () = renewals => return Ok(Err(SourceError::unknown("not asked"))),
    };
    let was_sent = !matches!(&outcome, Err(error) if error.class == FailureClass::NotSent);
    let end = CycleEnd {
        source_name: name,
        owner,
        request_known_for: was_sent.then_some(Duration::ZERO),
    };
    let pause = match &outcome {
        Ok(page) => page.pause,
        Err(error) => error.retry_after,
    };
    lease::release(pool, end, grant.epoch, pause.map(|pause| pause.min(RETRY_AFTER_MAX))).await?;
    Ok(outcome)
}

/// Asks under a grant that is as fresh as an instance wants it: after a pause the turn may be somebody else's.
async fn ask_in_time(
    source: &LoadedSource,
    grant: &Grant,
    claimed_at: Instant,
) -> Result<Page, SourceError> {
    if claimed_at.elapsed() > source.settings.rules().grant_life {
        return Err(SourceError::not_sent("the turn was over before it was asked; check again"));
    }
    ask(source, grant.after_id, grant.state.as_deref()).await
}

async fn ask(
    source: &LoadedSource,
    after_id: i64,
    state: Option<&str>,
) -> Result<Page, SourceError> {
    let deadline = source.settings.deadline;
    let fetch = source.source.fetch_with_state(after_id, 1, state);
    let page = tokio::time::timeout(deadline, fetch).await.unwrap_or_else(|_| {
        Err(SourceError::unknown(format!("no answer within {} s", deadline.as_secs_f64())))
    })?;
    let limit = if page.state.is_some() { usize::MAX } else { 1 };
    check_order(page.items.iter().filter_map(Item::id), after_id, limit)
        .map_err(|error| SourceError::invalid_page(&error, page.body.clone()))?;
    Ok(page)
}

fn answered(source: &LoadedSource, after_id: i64, outcome: &Result<Page, SourceError>) -> Finding {
    let subject = subject_of(&source.source_name);
    let page = match outcome {
        Ok(page) => page,
        Err(error) => return Finding::new(&message::SOURCE_FAILED, subject, error.to_string()),
    };
    let what = match page.items.first() {
        None => format!("answers: nothing new after id {after_id}"),
        Some(Item::Good(event)) => {
            let event_type = event.event_type.as_deref().unwrap_or(&source.source_name);
            format!("answers: after id {after_id} comes id {}, of type {event_type}", event.id)
        }
        Some(Item::Bad(bad)) => {
            format!("answers, and the next event would become a dead letter: {}", bad.reason)
        }
    };
    Finding::new(&message::SOURCE_OK, subject, what)
}

/// Why it is not our turn, in the words of `status`.
fn denied(subject: String, reason: Denial, state: &SourceStatus) -> Finding {
    let why = state.reason.as_deref().unwrap_or("no reason is recorded");
    let remedy = state.remedy.as_ref().map(|command| format!("`{command}`"));
    let (message, what) = match (reason, state.state.as_str()) {
        (Denial::Paused, _) => (&message::SOURCE_PAUSED, format!("paused: {why}")),
        (Denial::Held, "backing_off") => {
            (&message::SOURCE_BACKING_OFF, format!("backing off: {why}"))
        }
        (Denial::Held, _) => (&message::SOURCE_HELD, format!("held: {why}")),
        (Denial::Missing, _) => {
            (&message::SOURCE_NAME_TAKEN, "is not registered under this name".to_owned())
        }
        (Denial::Busy | Denial::Throttled, "ok") => {
            let owner = state.lease_owner.as_deref().unwrap_or("an instance");
            let at = state.last_request_at.map(|at| at.to_rfc3339()).unwrap_or_default();
            (&message::SOURCE_IN_USE, format!("{owner} loads it, and last asked at {at}"))
        }
        (Denial::Busy | Denial::Throttled, other) => {
            (&message::SOURCE_BACKING_OFF, format!("{other}: {why}"))
        }
    };
    let finding = Finding::new(message, subject, what);
    match remedy {
        Some(remedy) => finding.with_fix(remedy),
        None => finding,
    }
}
