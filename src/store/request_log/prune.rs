//! Removes finished requests by age. In every statement stands which statuses are finished, so that no caller can remove
//! a row that holds its window, and so that `event_request_log_finished`, which has only those, serves it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{AssertSqlSafe, FromRow, PgExecutor, PgPool};

use crate::store::{StoreError, failed_to};

/// A status that a request never leaves. The others hold their window: without the row it could be asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finished {
    /// Its events are in the event log.
    Succeeded,
    /// It failed or was orphaned, and its window was freed to be asked again.
    Retried,
    /// It failed or was orphaned, and its window was given up.
    Skipped,
}

impl Finished {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Succeeded, Self::Retried, Self::Skipped];

    /// As it stands in the column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Retried => "retried",
            Self::Skipped => "skipped",
        }
    }
}

/// Finished requests of one status and of an age.
#[derive(Clone, Copy, Debug)]
pub struct Aged {
    /// The status.
    pub status: Finished,
    /// Made at this time or later; `None`: however early.
    pub from: Option<DateTime<Utc>>,
    /// Made before this time.
    pub before: DateTime<Utc>,
}

/// How many requests, and when the oldest and the newest of them were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
pub struct Tally {
    /// How many.
    pub count: i64,
    /// When the oldest was made; none where there are none.
    pub oldest: Option<DateTime<Utc>>,
    /// When the newest was made.
    pub newest: Option<DateTime<Utc>>,
}

const AGED: &str = "r.status = $1
    and r.status in ('succeeded', 'retried', 'skipped')
    and r.created_at >= coalesce($2, '-infinity')
    and r.created_at < $3";

/// The times that lie so many days of 24 hours back.
pub async fn days_ago<const N: usize>(
    executor: impl PgExecutor<'_>,
    days: [u32; N],
) -> Result<[DateTime<Utc>; N], StoreError> {
    let now: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()")
        .fetch_one(executor)
        .await
        .map_err(failed_to("read the time"))?;
    Ok(days.map(|days| now - chrono::Duration::days(i64::from(days))))
}

/// Counts them.
pub async fn count(pool: &PgPool, aged: &Aged) -> Result<Tally, StoreError> {
    const OPERATION: &str = "count old requests";
    let mut transaction = pool.begin().await.map_err(failed_to(OPERATION))?;
    // A log that nobody ever pruned takes long to count.
    sqlx::query("set local statement_timeout = 0")
        .execute(&mut *transaction)
        .await
        .map_err(failed_to(OPERATION))?;
    sqlx::query_as(AssertSqlSafe(format!(
        "select count(*), min(r.created_at) as oldest, max(r.created_at) as newest
         from eventloader.event_request_log r where {AGED}"
    )))
    .bind(aged.status.as_str())
    .bind(aged.from)
    .bind(aged.before)
    .fetch_one(&mut *transaction)
    .await
    .map_err(failed_to(OPERATION))
}

/// When the oldest of them was made.
pub async fn oldest(
    executor: impl PgExecutor<'_>,
    aged: &Aged,
) -> Result<Option<DateTime<Utc>>, StoreError> {
    sqlx::query_scalar(AssertSqlSafe(format!(
        "select r.created_at from eventloader.event_request_log r where {AGED} order by r.created_at limit 1"
    )))
    .bind(aged.status.as_str())
    .bind(aged.from)
    .bind(aged.before)
    .fetch_optional(executor)
    .await
    .map_err(failed_to("find the oldest request"))
}

/// What becomes of a pruned request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is deleted.
    Deleted,
    /// It goes to `event_request_log_archive`, with all its columns.
    Archived,
}

/// Removes the oldest of them, at most `limit`, in one statement. Those that somebody else is removing are left to them;
/// fewer than `limit` means that nothing else is left.
pub async fn remove(
    executor: impl PgExecutor<'_>,
    aged: &Aged,
    limit: u32,
    fate: Fate,
) -> Result<Tally, StoreError> {
    sqlx::query_as(AssertSqlSafe(removal(fate)))
        .bind(aged.status.as_str())
        .bind(aged.from)
        .bind(aged.before)
        .bind(i64::from(limit))
        .fetch_one(executor)
        .await
        .map_err(failed_to(match fate {
            Fate::Deleted => "prune requests",
            Fate::Archived => "archive requests",
        }))
}

/// The ids as an array, not as a relation to join: that the rows are found by their key is no choice of the planner.
fn removal(fate: Fate) -> String {
    const COLUMNS: &str = "id, source_name, after_id, limit_count, attempt, status, token, epoch, owner, max_id, \
                           event_count, error, retry_at, closed_by, created_at, updated_at";
    let kept = match fate {
        Fate::Deleted => String::new(),
        Fate::Archived => format!(
            ", kept as (
                 insert into eventloader.event_request_log_archive ({COLUMNS})
                 select {COLUMNS} from gone
             )"
        ),
    };
    format!(
        "with gone as (
             delete from eventloader.event_request_log g
             where g.id = any (array(
                 select r.id from eventloader.event_request_log r
                 where {AGED}
                 order by r.created_at
                 limit $4
                 for update skip locked))
             returning {COLUMNS}
         ){kept}
         select count(*), min(created_at) as oldest, max(created_at) as newest from gone"
    )
}
