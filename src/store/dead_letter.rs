//! `dead_letter`: what was refused or exhausted, kept whole, to be looked at, replayed or discarded.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection, PgExecutor};
use uuid::Uuid;

use super::{Actor, StoreError, failed_to};

/// Every kind there is.
pub const KINDS: [&str; 6] = ["event", "page", "conflict", "message", "outbox", "projection"];

/// One dead letter.
#[derive(Clone, Debug, FromRow, Serialize)]
pub struct DeadLetter {
    /// Its number.
    pub id: i64,
    /// `event`, `page`, `conflict`, `message`, `outbox`, `projection`.
    pub kind: String,
    /// The source, lane or projection.
    pub origin: String,
    /// What it is there: an event id, a request.
    pub reference: String,
    /// Size of the body in bytes.
    pub body_bytes: i64,
    /// Why it was refused.
    pub reason: String,
    /// How often it was tried.
    pub attempts: i32,
    /// What a replay needs besides the body.
    pub detail: serde_json::Value,
    /// When it was refused.
    pub failed_at: DateTime<Utc>,
    /// When it was given back.
    pub replayed_at: Option<DateTime<Utc>>,
}

const COLUMNS: &str = "id, kind, origin, reference, octet_length(body)::bigint as body_bytes, reason, attempts, detail, \
                       failed_at, replayed_at";

/// Which dead letters are meant.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only these, empty: all.
    pub ids: Vec<i64>,
    /// Only this kind.
    pub kind: Option<String>,
    /// Only of this origin.
    pub origin: Option<String>,
    /// Those that were replayed, too.
    pub replayed: bool,
    /// At most so many, newest first.
    pub limit: i64,
}

/// Lists dead letters, without bodies.
pub async fn list(
    executor: impl PgExecutor<'_>,
    filter: &Filter,
) -> Result<Vec<DeadLetter>, StoreError> {
    sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {COLUMNS} from eventloader.dead_letter
         where (cardinality($1::bigint[]) = 0 or id = any ($1))
           and ($2::text is null or kind = $2)
           and ($3::text is null or origin = $3)
           and ($4 or replayed_at is null)
         order by id desc limit $5"
    )))
    .bind(&filter.ids)
    .bind(&filter.kind)
    .bind(&filter.origin)
    .bind(filter.replayed)
    .bind(filter.limit)
    .fetch_all(executor)
    .await
    .map_err(failed_to("list dead letters"))
}

/// How many there are of each kind that were not replayed.
pub async fn count_by_kind(
    executor: impl PgExecutor<'_>,
) -> Result<Vec<(String, i64)>, StoreError> {
    sqlx::query_as(
        "select kind, count(*) from eventloader.dead_letter where replayed_at is null group by kind order by kind",
    )
    .fetch_all(executor)
    .await
    .map_err(failed_to("count dead letters"))
}

/// The body of one, verbatim.
pub async fn body(executor: impl PgExecutor<'_>, id: i64) -> Result<Option<Vec<u8>>, StoreError> {
    sqlx::query_scalar("select body from eventloader.dead_letter where id = $1")
        .bind(id)
        .fetch_optional(executor)
        .await
        .map_err(failed_to("read a dead letter"))
}

/// Locks a dead letter that was not replayed yet; `None`: gone, replayed, or locked by somebody else. The stream's head
/// and the cursor are locked before it, in the order of a move, so that neither waits for the other in a ring.
pub async fn lock(
    connection: &mut PgConnection,
    id: i64,
) -> Result<Option<DeadLetter>, StoreError> {
    for statement in [
        "select from eventloader.stream
         where stream = (select origin from eventloader.dead_letter where id = $1) for update",
        "select from eventloader.source_cursor
         where source_name = (select origin from eventloader.dead_letter where id = $1) for update",
    ] {
        sqlx::query(statement)
            .bind(id)
            .execute(&mut *connection)
            .await
            .map_err(failed_to("lock the source of a dead letter"))?;
    }
    sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {COLUMNS} from eventloader.dead_letter where id = $1 and replayed_at is null
         for update skip locked"
    )))
    .bind(id)
    .fetch_optional(connection)
    .await
    .map_err(failed_to("lock a dead letter"))
}

/// An event on its way back into the inbox.
#[derive(Clone, Debug)]
pub struct ReplayedEvent<'a> {
    /// Its source.
    pub source_name: &'a str,
    /// Its id.
    pub event_id: i64,
    /// Its type.
    pub event_type: &'a str,
    /// Its payload.
    pub payload: &'a str,
    /// Its message id.
    pub message_id: Option<Uuid>,
    /// When it happened.
    pub occurred_at: Option<DateTime<Utc>>,
    /// The request that brought it.
    pub request_id: Option<i64>,
}

/// Puts a locked dead letter back into the inbox and marks it replayed. The watermark goes below it, and below the
/// requested id even if a seek took that back, so that the retry worker finds it.
pub async fn replay_event(
    connection: &mut PgConnection,
    id: i64,
    event: &ReplayedEvent<'_>,
    actor: &Actor,
) -> Result<(), StoreError> {
    sqlx::query(
        "with cursor as (
             update eventloader.source_cursor
             set last_stored_id = least(last_stored_id, greatest(last_requested_id, -9223372036854775807) - 1, $2 - 1), updated_at = clock_timestamp()
             where source_name = $1
         ), inbox as (
             insert into eventloader.event_inbox
                 (source_name, event_id, event_type, payload, message_id, occurred_at, request_id, metadata)
             values ($1, $2, $3, $4::jsonb, $5, $6, $7,
                     (select detail->'metadata' from eventloader.dead_letter where id = $8))
         ), marked as (
             update eventloader.dead_letter set replayed_at = clock_timestamp() where id = $8
         )
         insert into eventloader.audit_log (actor, action, origin, detail)
         values ($9, 'replay dead letter', $1, jsonb_build_object('dead_letter_id', $8, 'event_id', $2))",
    )
    .bind(event.source_name)
    .bind(event.event_id)
    .bind(event.event_type)
    .bind(event.payload)
    .bind(event.message_id)
    .bind(event.occurred_at)
    .bind(event.request_id)
    .bind(id)
    .bind(&actor.0)
    .execute(connection)
    .await
    .map_err(failed_to("replay a dead letter"))?;
    Ok(())
}

/// Marks a locked dead letter replayed whose message was deposited anew in the same transaction.
pub async fn mark_replayed(
    connection: &mut PgConnection,
    id: i64,
    origin: &str,
    actor: &Actor,
) -> Result<(), StoreError> {
    sqlx::query(
        "with marked as (
             update eventloader.dead_letter set replayed_at = clock_timestamp() where id = $1
         )
         insert into eventloader.audit_log (actor, action, origin, detail)
         values ($3, 'replay dead letter', $2, jsonb_build_object('dead_letter_id', $1))",
    )
    .bind(id)
    .bind(origin)
    .bind(&actor.0)
    .execute(connection)
    .await
    .map_err(failed_to("replay a dead letter"))?;
    Ok(())
}

/// Deletes dead letters for good; the audit log keeps what they were.
pub async fn discard(
    executor: impl PgExecutor<'_>,
    ids: &[i64],
    actor: &Actor,
) -> Result<u64, StoreError> {
    let result = sqlx::query(
        "with gone as (
             delete from eventloader.dead_letter where id = any ($1)
             returning id, kind, origin, reference, reason
         )
         insert into eventloader.audit_log (actor, action, origin, detail)
         select $2, 'discard dead letter', origin,
             jsonb_build_object('dead_letter_id', id, 'kind', kind, 'reference', reference, 'reason', reason)
         from gone",
    )
    .bind(ids)
    .bind(&actor.0)
    .execute(executor)
    .await
    .map_err(failed_to("discard dead letters"))?;
    Ok(result.rows_affected())
}
