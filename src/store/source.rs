//! `source` and its companions `source_cursor`, `source_rate_limit`, `stream`: what is known of each source.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection, PgExecutor};

use super::{Actor, StoreError, failed_to, interval};
use crate::loader::policy::Health;

/// A source to be known to the database.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The key under `[sources]`.
    pub source_name: String,
    /// `http`, `file`, …
    pub source_type: String,
    /// The id before the first one.
    pub start_after: i64,
}

/// Makes the rows of every source that has none yet; existing cursors stay. Answers the names among them whose stream
/// belongs to an application: those cannot be loaded.
pub async fn register(
    executor: impl PgExecutor<'_>,
    sources: &[Registration],
) -> Result<Vec<String>, StoreError> {
    // Sorted, so that instances that start together insert in the same order and never wait for each other in a ring.
    let mut sorted: Vec<_> = sources.iter().collect();
    sorted.sort_by(|a, b| a.source_name.cmp(&b.source_name));
    sqlx::query_scalar("select eventloader.register_sources($1, $2, $3)")
        .bind(sorted.iter().map(|s| s.source_name.as_str()).collect::<Vec<_>>())
        .bind(sorted.iter().map(|s| s.source_type.as_str()).collect::<Vec<_>>())
        .bind(sorted.iter().map(|s| s.start_after).collect::<Vec<_>>())
        .fetch_all(executor)
        .await
        .map_err(failed_to("register the sources"))
}

/// What `status` and `sources list` show of a source.
#[derive(Clone, Debug, FromRow, Serialize)]
pub struct SourceStatus {
    /// The source.
    pub source_name: String,
    /// `http`, `file`, …
    #[sqlx(rename = "type")]
    #[serde(rename = "type")]
    pub source_type: String,
    /// `ok`, `paused`, `held`, `rejected`, `backing_off`.
    pub state: String,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// The command that frees it, where one does.
    pub remedy: Option<String>,
    /// Greatest id that was asked for and arrived.
    pub last_requested_id: i64,
    /// Every id up to here is in `events` or `dead_letter`.
    pub last_stored_id: i64,
    /// The instance that works on it now.
    pub lease_owner: Option<String>,
    /// Until when, without a heartbeat.
    pub lease_expires_at: Option<DateTime<Utc>>,
    /// When it was last asked.
    pub last_request_at: Option<DateTime<Utc>>,
    /// Nobody asks it before.
    pub not_before: Option<DateTime<Utc>>,
    /// The request that holds its window.
    pub held_request_id: Option<i64>,
    /// That request's status.
    pub held_status: Option<String>,
    /// Rows of it in the inbox that failed to move at least once.
    pub failing_inbox_count: i64,
    /// Dead letters of it that were not replayed.
    pub dead_letter_count: i64,
    /// The source that it is a partition of.
    pub part_of: Option<String>,
    /// Ranges of ids that its own side had dropped before they were read.
    pub gap_count: i64,
    /// Since when it is in a state that is not `ok`. Of a request that is asked again by itself: its last failure.
    pub since: Option<DateTime<Utc>>,
    /// When the first of its events arrived that are still in the inbox.
    pub inbox_waiting_since: Option<DateTime<Utc>>,
}

/// The state of every source, or of one.
pub async fn status(
    executor: impl PgExecutor<'_>,
    source_name: Option<&str>,
) -> Result<Vec<SourceStatus>, StoreError> {
    sqlx::query_as("select * from eventloader.source_status where $1::text is null or source_name = $1 order by 1")
        .bind(source_name)
        .fetch_all(executor)
        .await
        .map_err(failed_to("read the state of the sources"))
}

/// Totals of the whole loader.
#[derive(Clone, Copy, Debug, Default, FromRow, Serialize)]
pub struct Totals {
    /// Rows in the inbox.
    pub inbox_count: i64,
    /// Age of the oldest of them in seconds.
    pub inbox_oldest_seconds: Option<f64>,
    /// Rows in `events`, as the planner estimates them.
    pub events_estimate: i64,
    /// The last position given out.
    pub last_position: i64,
    /// Dead letters that were not replayed.
    pub dead_letter_count: i64,
    /// The database's time, by which its times are judged.
    pub now: DateTime<Utc>,
}

/// Reads the totals. The inbox is counted only up to 100,000 rows.
pub async fn totals(executor: impl PgExecutor<'_>) -> Result<Totals, StoreError> {
    sqlx::query_as(
        "select
             (select count(*) from (select from eventloader.event_inbox limit 100000) i) as inbox_count,
             (select extract(epoch from clock_timestamp() - min(received_at))::float8
              from (select received_at from eventloader.event_inbox limit 100000) i) as inbox_oldest_seconds,
             (select greatest(reltuples, 0)::bigint from pg_class
              where oid = 'eventloader.events'::regclass) as events_estimate,
             (select case when is_called then last_value else 0 end
              from eventloader.events_position_seq) as last_position,
             (select count(*) from eventloader.dead_letter where replayed_at is null) as dead_letter_count,
             clock_timestamp() as now",
    )
    .fetch_one(executor)
    .await
    .map_err(failed_to("read the totals"))
}

/// Pauses a source on all instances until [`resume`]. `false`: there is no such source.
pub async fn pause(
    executor: impl PgExecutor<'_>,
    source_name: &str,
    actor: &Actor,
    reason: Option<&str>,
) -> Result<bool, StoreError> {
    let result = sqlx::query(
        "with paused as (
             update eventloader.source
             set paused_at = coalesce(paused_at, clock_timestamp()), paused_by = $2, pause_reason = $3
             where source_name = $1
             returning source_name
         )
         insert into eventloader.audit_log (actor, action, origin, detail)
         select $2, 'pause source', source_name, jsonb_build_object('reason', $3::text) from paused",
    )
    .bind(source_name)
    .bind(&actor.0)
    .bind(reason)
    .execute(executor)
    .await
    .map_err(failed_to("pause a source"))?;
    Ok(result.rows_affected() > 0)
}

/// Ends a pause, and any back-off with it. `false`: there is no such source.
pub async fn resume(
    executor: impl PgExecutor<'_>,
    source_name: &str,
    actor: &Actor,
) -> Result<bool, StoreError> {
    let result = sqlx::query(
        "with resumed as (
             update eventloader.source
             set paused_at = null, paused_by = null, pause_reason = null
             where source_name = $1
             returning source_name
         ), rate as (
             update eventloader.source_rate_limit l set not_before = null
             from resumed
             where l.source_name = resumed.source_name
         )
         insert into eventloader.audit_log (actor, action, origin)
         select $2, 'resume source', source_name from resumed",
    )
    .bind(source_name)
    .bind(&actor.0)
    .execute(executor)
    .await
    .map_err(failed_to("resume a source"))?;
    Ok(result.rows_affected() > 0)
}

/// Lets sources be asked at once that were rejected as they were configured before. What a source asked for in
/// `Retry-After` stands.
pub async fn end_rejections(
    executor: impl PgExecutor<'_>,
    source_names: &[&str],
) -> Result<(), StoreError> {
    sqlx::query(
        "update eventloader.source_rate_limit l set not_before = null
         from eventloader.source s
         where s.source_name = l.source_name and s.source_name = any ($1) and s.health = 'rejected'",
    )
    .bind(source_names)
    .execute(executor)
    .await
    .map_err(failed_to("end the pause of rejected sources"))?;
    Ok(())
}

/// Where a source stands, locked for a seek.
#[derive(Clone, Copy, Debug, FromRow)]
pub struct CursorRow {
    /// Greatest id that was asked for and arrived.
    pub last_requested_id: i64,
    /// Every id up to here is stored.
    pub last_stored_id: i64,
    /// Rows of it in the inbox.
    pub inbox_count: i64,
    /// Whether it stands at a state of its own words.
    pub has_state: bool,
}

/// Where a source is to go on.
#[derive(Clone, Copy, Debug)]
pub enum SeekTo<'s> {
    /// After this id.
    Id(i64),
    /// At this state, JSON text; `None`: at its beginning. The ids go on from where they are.
    State(Option<&'s str>),
}

/// Locks a source's lease and cursor and reads where it stands.
pub async fn lock_cursor(
    connection: &mut PgConnection,
    source_name: &str,
) -> Result<Option<CursorRow>, StoreError> {
    let operation = "lock a cursor";
    for statement in [
        "select from eventloader.source_lease where source_name = $1 for update",
        "select from eventloader.stream where stream = $1 for update",
        "select from eventloader.source_cursor where source_name = $1 for update",
    ] {
        sqlx::query(statement)
            .bind(source_name)
            .execute(&mut *connection)
            .await
            .map_err(failed_to(operation))?;
    }
    sqlx::query_as(
        "select c.last_requested_id, c.last_stored_id, c.state is not null as has_state,
             (select count(*) from eventloader.event_inbox i where i.source_name = $1) as inbox_count
         from eventloader.source_cursor c
         where c.source_name = $1",
    )
    .bind(source_name)
    .fetch_optional(connection)
    .await
    .map_err(failed_to(operation))
}

/// Moves a locked cursor to `to`; open windows of the source are closed as `skipped`. For another id the inbox has to hold
/// nothing of the source: rows above the new cursor would keep their request open for ever.
pub async fn seek(
    connection: &mut PgConnection,
    source_name: &str,
    to: SeekTo<'_>,
    actor: &Actor,
) -> Result<(), StoreError> {
    let (id, state) = match to {
        SeekTo::Id(id) => (Some(id), None),
        SeekTo::State(state) => (None, state),
    };
    sqlx::query(
        "with closed as (
             update eventloader.event_request_log
             set status = 'skipped', closed_by = $3, updated_at = clock_timestamp()
             where source_name = $1 and status in ('reserved', 'failed', 'orphaned')
             returning id
         ), before as (
             select last_requested_id, state::text from eventloader.source_cursor where source_name = $1
         ), moved as (
             update eventloader.source_cursor
             set last_requested_id = coalesce($2, last_requested_id),
                 last_stored_id = coalesce($2, last_stored_id),
                 state = case when $2 is null then $4::json else state end,
                 next_attempt = 1,
                 updated_at = clock_timestamp()
             where source_name = $1
         ), rate as (
             update eventloader.source_rate_limit set not_before = null, empty_streak = 0 where source_name = $1
         )
         insert into eventloader.audit_log (actor, action, origin, detail)
         select $3, 'seek source', $1,
             case when $2 is null then jsonb_build_object('from_state', b.state, 'to_state', $4)
             else jsonb_build_object('from', b.last_requested_id, 'to', $2) end
             || jsonb_build_object('closed_requests', (select coalesce(jsonb_agg(id), '[]') from closed))
         from before b",
    )
    .bind(source_name)
    .bind(id)
    .bind(&actor.0)
    .bind(state)
    .execute(connection)
    .await
    .map_err(failed_to("move a cursor"))?;
    Ok(())
}

/// Whether a queue source may be consumed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// An operator paused it.
    pub is_paused: bool,
    /// A back-off lasts that long; nobody has ended it.
    pub wait: Option<Duration>,
}

/// Looks whether a queue source may be consumed. `None`: it is not registered.
pub async fn permission(
    executor: impl PgExecutor<'_>,
    source_name: &str,
) -> Result<Option<Permission>, StoreError> {
    let found: Option<(bool, Option<f64>)> = sqlx::query_as(
        "select s.paused_at is not null, extract(epoch from r.not_before - clock_timestamp())::float8
         from eventloader.source s join eventloader.source_rate_limit r using (source_name)
         where s.source_name = $1",
    )
    .bind(source_name)
    .fetch_optional(executor)
    .await
    .map_err(failed_to("look whether a source is paused"))?;
    Ok(found.map(|(is_paused, seconds)| Permission {
        is_paused,
        wait: seconds.filter(|s| *s > 0.0).and_then(|s| Duration::try_from_secs_f64(s).ok()),
    }))
}

/// The partitions of a queue source: their streams, and the greatest version of each that is in the inbox or beyond.
pub async fn partitions(
    executor: impl PgExecutor<'_>,
    source_name: &str,
) -> Result<Vec<(String, i64)>, StoreError> {
    sqlx::query_as(
        "select c.source_name, c.last_requested_id
         from eventloader.source s join eventloader.source_cursor c using (source_name)
         where s.part_of = $1",
    )
    .bind(source_name)
    .fetch_all(executor)
    .await
    .map_err(failed_to("read how far the partitions of a source are stored"))
}

/// Writes down how it goes with a queue source, for `status`. `wait`: nobody connects before, unless somebody resumes it.
pub async fn note_health(
    executor: impl PgExecutor<'_>,
    source_name: &str,
    health: Health,
    reason: Option<&str>,
    wait: Option<Duration>,
) -> Result<(), StoreError> {
    sqlx::query(
        "with noted as (
             update eventloader.source s
             set health = $2, health_reason = $3,
                 health_since = case when s.health = $2 then s.health_since else clock_timestamp() end
             where s.source_name = $1 and (s.health, s.health_reason) is distinct from ($2, $3)
         )
         update eventloader.source_rate_limit r set not_before = clock_timestamp() + $4::interval
         where r.source_name = $1 and (r.not_before is not null or $4 is not null)",
    )
    .bind(source_name)
    .bind(health.as_str())
    .bind(reason)
    .bind(wait.map(interval))
    .execute(executor)
    .await
    .map_err(failed_to("note the health of a source"))?;
    Ok(())
}
