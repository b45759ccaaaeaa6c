//! `upkeep`: when something that is done now and then was last done to its end.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::{StoreError, failed_to};

/// Pruning the request log.
pub const PRUNE: &str = "prune request log";

/// Notes that a task is done.
pub async fn note_done(executor: impl PgExecutor<'_>, task: &str) -> Result<(), StoreError> {
    sqlx::query(
        "insert into eventloader.upkeep (task) values ($1)
         on conflict (task) do update set done_at = clock_timestamp()",
    )
    .bind(task)
    .execute(executor)
    .await
    .map_err(failed_to("note that upkeep is done"))?;
    Ok(())
}

/// When a task was last done; `None`: never.
pub async fn done_at(
    executor: impl PgExecutor<'_>,
    task: &str,
) -> Result<Option<DateTime<Utc>>, StoreError> {
    sqlx::query_scalar("select done_at from eventloader.upkeep where task = $1")
        .bind(task)
        .fetch_optional(executor)
        .await
        .map_err(failed_to("ask when upkeep was done"))
}
