//! `event_inbox`: events that have arrived and are not yet in `events`.
//!
//! Rows come by [`deposit`], leave by [`move_batch`] (or by the two halves [`lock_batch`] and [`finish_batch`], when
//! `events` is in another database), and wait after [`fail_row`].

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, PgExecutor, Row};
use uuid::Uuid;

use super::request_log::CycleEnd;
use super::{StoreError, failed_to, interval};
use crate::event::{BadEvent, Event, JsonText};
use crate::loader::cycle::{Deposit, Grant, Stored};
use crate::source::queue::Gap;

/// What a deposit stores besides what the cycle decided.
#[derive(Debug)]
pub struct DepositRows<'a> {
    /// Events for the inbox, in id order.
    pub events: &'a [Event],
    /// Events for the dead letters.
    pub bad_events: &'a [BadEvent],
    /// What the source wants to be given with the next request; `None`: as before.
    pub state: Option<&'a str>,
    /// Ids that the source no longer has.
    pub gaps: &'a [Gap],
}

/// How a deposit was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DepositAnswer {
    /// Stored or refused.
    pub stored: Stored,
    /// Events whose id the inbox already held with another body.
    pub conflict_count: i32,
}

/// Stores a page in one round trip and one transaction. Safe to repeat: the token tells.
pub async fn deposit(
    executor: impl PgExecutor<'_>,
    end: CycleEnd<'_>,
    grant: &Grant,
    deposit: &Deposit,
    rows: DepositRows<'_>,
) -> Result<DepositAnswer, StoreError> {
    let events = rows.events;
    let bad = rows.bad_events;
    let row = sqlx::query(
        "select * from eventloader.deposit_page($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)",
    )
    .bind(end.source_name)
    .bind(grant.request_id)
    .bind(grant.token)
    .bind(end.owner)
    .bind(grant.epoch)
    .bind(deposit.max_id)
    .bind(events.iter().map(|e| e.id).collect::<Vec<_>>())
    .bind(events.iter().map(|e| event_type(e.event_type.as_deref(), end)).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.payload.as_str()).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.message_id).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.occurred_at).collect::<Vec<_>>())
    .bind(bad.iter().map(|b| b.reference.as_str()).collect::<Vec<_>>())
    .bind(bad.iter().map(|b| b.body.as_ref()).collect::<Vec<&[u8]>>())
    .bind(bad.iter().map(|b| b.reason.as_str()).collect::<Vec<_>>())
    .bind(bad.iter().map(|b| bad_event_detail(b, end)).collect::<Vec<_>>())
    .bind(end.request_known_for.map(interval))
    .bind(deposit.pause.map(interval))
    .bind(deposit.empty_streak.cast_signed())
    .bind(rows.state)
    .bind(metadata_of(events))
    .bind(rows.gaps.iter().map(|g| g.first_id).collect::<Vec<_>>())
    .bind(rows.gaps.iter().map(|g| g.last_id).collect::<Vec<_>>())
    .bind(rows.gaps.iter().map(|g| g.reason.as_str()).collect::<Vec<_>>())
    .fetch_one(executor)
    .await
    .map_err(failed_to("deposit a page"))?;
    let read = || -> Result<DepositAnswer, sqlx::Error> {
        let stored = match row.try_get::<&str, _>("outcome")? {
            "closed" => Stored::Refused,
            _ => Stored::Yes,
        };
        Ok(DepositAnswer { stored, conflict_count: row.try_get("conflict_count")? })
    };
    read().map_err(failed_to("read the answer to a deposit"))
}

fn event_type<'a>(given: Option<&'a str>, end: CycleEnd<'a>) -> &'a str {
    given.unwrap_or(end.source_name)
}

/// The metadata of each event; nothing at all where none has any, as of most sources.
fn metadata_of(events: &[Event]) -> Option<Vec<Option<&str>>> {
    events
        .iter()
        .any(|event| event.metadata.is_some())
        .then(|| events.iter().map(|event| event.metadata.as_ref().map(JsonText::as_str)).collect())
}

/// What a replay needs besides the body.
fn bad_event_detail(bad: &BadEvent, end: CycleEnd<'_>) -> String {
    let metadata = bad.metadata.as_ref().map(|text| format!(",\"metadata\":{text}"));
    let detail = serde_json::json!({
        "event_id": bad.id,
        "event_type": event_type(bad.event_type.as_deref(), end),
        "message_id": bad.message_id,
        "occurred_at": bad.occurred_at,
        "payload_at": bad.payload_at,
    })
    .to_string();
    // As text, so that the metadata stay exactly what they are.
    format!("{}{}}}", &detail[..detail.len() - 1], metadata.unwrap_or_default())
}

/// The payloads among these that `jsonb` refuses: their places (from 0) and why.
pub async fn unstorable(
    executor: impl PgExecutor<'_>,
    payloads: &[&str],
) -> Result<Vec<(usize, String)>, StoreError> {
    let rows: Vec<(i32, String)> =
        sqlx::query_as("select place, reason from eventloader.unstorable($1)")
            .bind(payloads)
            .fetch_all(executor)
            .await
            .map_err(failed_to("find the payloads that cannot be stored"))?;
    Ok(rows
        .into_iter()
        .map(|(place, reason)| (place.cast_unsigned() as usize - 1, reason))
        .collect())
}

/// What one batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Rows that went to `events`.
    pub moved_count: i32,
    /// Rows that were in `events` already with the same body.
    pub duplicate_count: i32,
    /// Rows that went to the dead letters, because `events` holds another body.
    pub conflict_count: i32,
}

impl Moved {
    /// Rows that left the inbox.
    pub fn row_count(self) -> u32 {
        let sum = self.moved_count + self.duplicate_count + self.conflict_count;
        sum.cast_unsigned()
    }
}

/// How a try to move a batch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveOutcome {
    /// Rows left the inbox.
    Moved(Moved),
    /// Nothing can be moved now: the inbox holds no row of the source that is free and due.
    Nothing,
    /// Another instance is moving this source.
    Busy,
    /// The batch was one row, and it cannot be stored.
    Failed(FailedRow),
}

/// A row that cannot be stored, alone as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRow {
    /// Its id.
    pub event_id: i64,
    /// How often it was tried before.
    pub attempts: i32,
    /// Why it cannot be stored.
    pub reason: String,
}

/// Moves up to `limit` rows of a source to `events` of the same database, in one transaction.
pub async fn move_batch(
    executor: impl PgExecutor<'_>,
    source_name: &str,
    limit: u32,
) -> Result<MoveOutcome, StoreError> {
    let row = sqlx::query("select * from eventloader.move_batch($1, $2)")
        .bind(source_name)
        .bind(limit.cast_signed())
        .fetch_one(executor)
        .await
        .map_err(failed_to("move inbox rows"))?;
    let read = || -> Result<MoveOutcome, sqlx::Error> {
        Ok(match row.try_get::<&str, _>("outcome")? {
            "moved" => MoveOutcome::Moved(Moved {
                moved_count: row.try_get("moved_count")?,
                duplicate_count: row.try_get("duplicate_count")?,
                conflict_count: row.try_get("conflict_count")?,
            }),
            "busy" => MoveOutcome::Busy,
            "failed" => MoveOutcome::Failed(FailedRow {
                event_id: row.try_get("failed_event_id")?,
                attempts: row.try_get("failed_attempts")?,
                reason: row.try_get("failure")?,
            }),
            _ => MoveOutcome::Nothing,
        })
    };
    read().map_err(failed_to("read the answer to a move"))
}

/// One inbox row, for a storage in another database.
#[derive(Clone, Debug, FromRow)]
pub struct InboxRow {
    /// The source's id.
    pub event_id: i64,
    /// How often it was tried before.
    pub attempts: i32,
    /// Its type.
    pub event_type: String,
    /// The payload as text, as `jsonb` prints it.
    pub payload: String,
    /// Its message id.
    pub message_id: Option<Uuid>,
    /// The request that brought it.
    pub request_id: Option<i64>,
    /// When it happened.
    pub occurred_at: Option<DateTime<Utc>>,
    /// Its metadata as text, as `jsonb` prints it.
    pub metadata: Option<String>,
}

/// Locks the stream's head and the next rows of a source until the transaction ends; `None`: another instance moves it.
pub async fn lock_batch(
    connection: &mut PgConnection,
    source_name: &str,
    limit: u32,
) -> Result<Option<Vec<InboxRow>>, StoreError> {
    let operation = "lock inbox rows";
    let head: Option<i32> = sqlx::query_scalar(
        "select 1 from eventloader.stream where stream = $1 and owner = 'source' for update skip locked",
    )
    .bind(source_name)
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed_to(operation))?;
    if head.is_none() {
        return Ok(None);
    }
    let rows = sqlx::query_as(
        // Called once, and bounded on both sides: whatever plan is kept for it, it reads the batch.
        "with batch as materialized (
             select eventloader.lock_inbox_batch($1,
                 (select last_stored_id from eventloader.source_cursor where source_name = $1), $2) as ids
         )
         select event_id, attempts, event_type, payload::text as payload, message_id, request_id, occurred_at,
             metadata::text as metadata
         from eventloader.event_inbox
         where source_name = $1
           and event_id between (select ids[1] from batch) and (select ids[cardinality(ids)] from batch)
           and event_id = any ((select ids from batch)::bigint[])
         order by event_id",
    )
    .bind(source_name)
    .bind(limit.cast_signed())
    .fetch_all(connection)
    .await
    .map_err(failed_to(operation))?;
    Ok(Some(rows))
}

/// A row whose id is stored elsewhere with another body.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// The row's id.
    pub event_id: i64,
    /// Why it cannot be stored.
    pub reason: String,
}

/// Removes rows that another database has stored, sets conflicts aside, and advances the watermark.
pub async fn finish_batch(
    connection: &mut PgConnection,
    source_name: &str,
    event_ids: &[i64],
    conflicts: &[Conflict],
) -> Result<(), StoreError> {
    sqlx::query("select eventloader.finish_batch($1, $2, $3, $4)")
        .bind(source_name)
        .bind(event_ids)
        .bind(conflicts.iter().map(|c| c.event_id).collect::<Vec<_>>())
        .bind(conflicts.iter().map(|c| c.reason.as_str()).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map_err(failed_to("finish moving inbox rows"))?;
    Ok(())
}

/// Writes down that a row could not be moved. `Some(true)`: that was its last attempt, it is a dead letter now.
/// `None`: the row is gone, or somebody has it locked, or tried it at the same time.
pub async fn fail_row(
    executor: impl PgExecutor<'_>,
    source_name: &str,
    row: &FailedRow,
    max_attempts: u32,
    retry_in: Duration,
) -> Result<Option<bool>, StoreError> {
    sqlx::query_scalar("select eventloader.fail_inbox_row($1, $2, $3, $4, $5, $6)")
        .bind(source_name)
        .bind(row.event_id)
        .bind(row.attempts)
        .bind(&row.reason)
        .bind(max_attempts.cast_signed())
        .bind(interval(retry_in))
        .fetch_one(executor)
        .await
        .map_err(failed_to("write down a failed move"))
}

/// Sources whose cursors say that something is left to move. Reads the small cursor table, never the inbox.
pub async fn movable_sources(executor: impl PgExecutor<'_>) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar(
        "select source_name from eventloader.source_cursor
         where last_requested_id > last_stored_id
         order by updated_at",
    )
    .fetch_all(executor)
    .await
    .map_err(failed_to("look for inbox rows"))
}
