//! `event_request_log`: one row is the right to send one request for one window.
//!
//! ```text
//! (claim) reserved ──deposit──▶ inbox_only ──move──▶ succeeded
//!            │  └──close──▶ failed ──────┐
//!            └──claim of another, lease and grace over──▶ orphaned
//!                        failed, orphaned ──operator or policy──▶ retried, skipped
//!                        orphaned ──late deposit──▶ inbox_only
//! ```
//! An empty page, and a request that was never sent or was refused, deletes the row.

pub mod prune;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection, PgExecutor, Row};

use super::{Actor, StoreError, failed_to, interval};
use crate::loader::cycle::{ClaimAnswer, Close, Denial, Grant, Token};
use crate::loader::policy::{OnFailure, RETRY_BACKOFF, Verdict, WINDOW_ATTEMPTS_MAX};

/// What a claim needs to know.
#[derive(Clone, Debug)]
pub struct ClaimRequest<'a> {
    /// The source.
    pub source_name: &'a str,
    /// This process, unlike any other that ever ran.
    pub owner: &'a str,
    /// New, or that of a claim whose reply was lost.
    pub token: Token,
    /// Events to ask for, 1..=10,000.
    pub limit: u32,
    /// How long the lease lasts without renewal.
    pub lease_ttl: Duration,
    /// How much longer than its lease a holder that is only slow may take, before its window shows as orphaned.
    pub orphan_grace: Duration,
    /// Least time between two requests.
    pub min_interval: Duration,
    /// Whether an orphaned window is asked again by itself.
    pub on_failure: OnFailure,
}

/// Takes lease, spacing, cursor and reservation in one round trip.
pub async fn claim(
    executor: impl PgExecutor<'_>,
    request: &ClaimRequest<'_>,
) -> Result<ClaimAnswer, StoreError> {
    let function =
        "select *, null::text as state from eventloader.claim($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    claim_by(executor, request, function).await
}

/// As [`claim`], with the state that came with the source's last page.
pub async fn claim_with_state(
    executor: impl PgExecutor<'_>,
    request: &ClaimRequest<'_>,
) -> Result<ClaimAnswer, StoreError> {
    let function = "select * from eventloader.claim_with_state($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    claim_by(executor, request, function).await
}

async fn claim_by(
    executor: impl PgExecutor<'_>,
    request: &ClaimRequest<'_>,
    function: &'static str,
) -> Result<ClaimAnswer, StoreError> {
    let orphan_retry_in = match request.on_failure {
        OnFailure::Hold => None,
        OnFailure::Retry => Some(interval(RETRY_BACKOFF.base)),
    };
    let row = sqlx::query(function)
        .bind(request.source_name)
        .bind(request.owner)
        .bind(request.token)
        .bind(request.limit.min(10_000).cast_signed())
        .bind(interval(request.lease_ttl))
        .bind(interval(request.min_interval))
        .bind(interval(request.orphan_grace))
        .bind(orphan_retry_in)
        .bind(WINDOW_ATTEMPTS_MAX.cast_signed())
        .fetch_one(executor)
        .await
        .map_err(failed_to("claim a window"))?;
    claim_answer(&row, request.token).map_err(failed_to("read the answer to a claim"))
}

fn claim_answer(row: &sqlx::postgres::PgRow, token: Token) -> Result<ClaimAnswer, sqlx::Error> {
    let reason = match row.try_get::<&str, _>("outcome")? {
        "granted" => {
            return Ok(ClaimAnswer::Granted(Grant {
                request_id: row.try_get("request_id")?,
                token,
                epoch: row.try_get("epoch")?,
                after_id: row.try_get("after_id")?,
                attempt: row.try_get::<i32, _>("attempt")?.cast_unsigned(),
                empty_streak: row.try_get::<i32, _>("empty_streak")?.cast_unsigned(),
                failure_streak: row.try_get::<i32, _>("failure_streak")?.cast_unsigned(),
                state: row.try_get("state")?,
            }));
        }
        "busy" => Denial::Busy,
        "throttled" => Denial::Throttled,
        "held" => Denial::Held,
        "paused" => Denial::Paused,
        _ => Denial::Missing,
    };
    let wait_ms: Option<i64> = row.try_get("wait_ms")?;
    let wait = wait_ms.map(|ms| Duration::from_millis(ms.max(1).cast_unsigned()));
    Ok(ClaimAnswer::Denied { reason, wait })
}

/// Who ends a cycle, and when its request was surely at the source.
#[derive(Clone, Copy, Debug)]
pub struct CycleEnd<'a> {
    /// The source.
    pub source_name: &'a str,
    /// This process.
    pub owner: &'a str,
    /// How long ago the source surely had the request; `None`: it was never sent.
    pub request_known_for: Option<Duration>,
}

/// Ends a reservation that brought no page. Safe to repeat: the token tells.
pub async fn close(
    executor: impl PgExecutor<'_>,
    end: CycleEnd<'_>,
    grant: &Grant,
    close: &Close,
    error: &str,
    page: Option<&[u8]>,
) -> Result<(), StoreError> {
    sqlx::query(
        "select eventloader.close_request($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(end.source_name)
    .bind(grant.request_id)
    .bind(grant.token)
    .bind(end.owner)
    .bind(grant.epoch)
    .bind(close.verdict == Verdict::Fail)
    .bind(error)
    .bind(close.retry_in.map(interval))
    .bind(page)
    .bind(end.request_known_for.map(interval))
    .bind(close.pause.map(interval))
    .bind(close.failure_streak.cast_signed())
    .bind(close.health.map(crate::loader::policy::Health::as_str))
    .execute(executor)
    .await
    .map_err(failed_to("close a request"))?;
    Ok(())
}

/// One row of the log.
#[derive(Clone, Debug, FromRow, Serialize)]
pub struct Request {
    /// The reservation's number.
    pub id: i64,
    /// The source.
    pub source_name: String,
    /// Events with greater ids were asked for.
    pub after_id: i64,
    /// How many were asked for at most.
    pub limit_count: i32,
    /// Which attempt at the window it was.
    pub attempt: i32,
    /// `reserved`, `inbox_only`, `succeeded`, `failed`, `orphaned`, `retried`, `skipped`.
    pub status: String,
    /// Greatest id of the page.
    pub max_id: Option<i64>,
    /// Events stored in the inbox.
    pub event_count: Option<i32>,
    /// What went wrong.
    pub error: Option<String>,
    /// The instance that held it.
    pub owner: String,
    /// When it is asked again by itself; none: an operator has to.
    pub retry_at: Option<DateTime<Utc>>,
    /// Who closed it: an operator or a policy.
    pub closed_by: Option<String>,
    /// When it was reserved.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

const COLUMNS: &str = "id, source_name, after_id, limit_count, attempt, status, max_id, event_count, error, owner, \
                       retry_at, closed_by, created_at, updated_at";

/// Which rows to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this source.
    pub source_name: Option<String>,
    /// Only this status.
    pub status: Option<String>,
    /// At most so many, newest first.
    pub limit: i64,
}

/// Lists the newest rows.
pub async fn list(
    executor: impl PgExecutor<'_>,
    filter: &Filter,
) -> Result<Vec<Request>, StoreError> {
    sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {COLUMNS} from eventloader.event_request_log r
         where ($1::text is null or r.source_name = $1) and ($2::text is null or r.status = $2)
         order by r.id desc limit $3"
    )))
    .bind(&filter.source_name)
    .bind(&filter.status)
    .bind(filter.limit)
    .fetch_all(executor)
    .await
    .map_err(failed_to("list requests"))
}

/// One row by its number.
pub async fn show(executor: impl PgExecutor<'_>, id: i64) -> Result<Option<Request>, StoreError> {
    sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {COLUMNS} from eventloader.event_request_log where id = $1"
    )))
    .bind(id)
    .fetch_optional(executor)
    .await
    .map_err(failed_to("read a request"))
}

/// Locks a request for an operator's decision: its source's lease row first, as every change of a reservation does.
pub async fn lock(connection: &mut PgConnection, id: i64) -> Result<Option<Request>, StoreError> {
    sqlx::query(
        "select from eventloader.source_lease
         where source_name = (select source_name from eventloader.event_request_log where id = $1)
         for update",
    )
    .bind(id)
    .execute(&mut *connection)
    .await
    .map_err(failed_to("lock a request"))?;
    show(connection, id).await
}

/// Closes a reservation of ours before its request is sent: the answer is only looked at, and the window stays free to be
/// asked again. The lease is kept.
pub async fn record_probe(
    executor: impl PgExecutor<'_>,
    source_name: &str,
    grant: &Grant,
    actor: &Actor,
) -> Result<(), StoreError> {
    sqlx::query(
        "with lease as materialized (
             select from eventloader.source_lease where source_name = $1 for update
         ), closed as (
             update eventloader.event_request_log r
             set status = 'retried', closed_by = $4, error = 'asked by `eventloader check`, which keeps no answer',
                 updated_at = clock_timestamp()
             from lease
             where r.id = $2 and r.token = $3
             returning r.after_id
         )
         insert into eventloader.audit_log (actor, action, origin, detail)
         select $4, 'probe source', $1, jsonb_build_object('request_id', $2, 'after_id', after_id) from closed",
    )
    .bind(source_name)
    .bind(grant.request_id)
    .bind(grant.token)
    .bind(&actor.0)
    .execute(executor)
    .await
    .map_err(failed_to("write a probe down"))?;
    Ok(())
}

/// Frees the window of a locked request to be asked again, at once.
pub async fn retry(
    connection: &mut PgConnection,
    request: &Request,
    actor: &Actor,
) -> Result<(), StoreError> {
    sqlx::query(
        "with closed as (
             update eventloader.event_request_log
             set status = 'retried', closed_by = $2, updated_at = clock_timestamp()
             where id = $1
             returning source_name, after_id, attempt
         ), cursor as (
             update eventloader.source_cursor c set next_attempt = closed.attempt + 1
             from closed
             where c.source_name = closed.source_name and c.last_requested_id = closed.after_id
         ), rate as (
             update eventloader.source_rate_limit l set not_before = null
             from closed
             where l.source_name = closed.source_name
         )
         insert into eventloader.audit_log (actor, action, origin, detail)
         select $2, 'retry request', source_name, jsonb_build_object('request_id', $1, 'after_id', after_id) from closed",
    )
    .bind(request.id)
    .bind(&actor.0)
    .execute(connection)
    .await
    .map_err(failed_to("free a window"))?;
    Ok(())
}

/// Gives up the window of a locked request: the cursor goes to `up_to`, what lies between is never asked for.
pub async fn skip(
    connection: &mut PgConnection,
    request: &Request,
    up_to: i64,
    actor: &Actor,
) -> Result<(), StoreError> {
    sqlx::query(
        "with closed as (
             update eventloader.event_request_log
             set status = 'skipped', closed_by = $2, updated_at = clock_timestamp()
             where id = $1
             returning source_name, after_id
         ), cursor as (
             update eventloader.source_cursor c
             set last_requested_id = greatest(c.last_requested_id, $3), next_attempt = 1, updated_at = clock_timestamp()
             from closed
             where c.source_name = closed.source_name and c.last_requested_id = closed.after_id
         ), rate as (
             update eventloader.source_rate_limit l set not_before = null
             from closed
             where l.source_name = closed.source_name
         )
         insert into eventloader.audit_log (actor, action, origin, detail)
         select $2, 'skip request', source_name,
             jsonb_build_object('request_id', $1, 'after_id', after_id, 'up_to', $3)
         from closed",
    )
    .bind(request.id)
    .bind(&actor.0)
    .bind(up_to)
    .execute(connection)
    .await
    .map_err(failed_to("skip a window"))?;
    Ok(())
}
