//! `events`: the one log. Rows are added by a move or an append, never changed.

use sqlx::PgExecutor;

use super::inbox::{Conflict, InboxRow};
use super::{StoreError, failed_to};

/// Stores the rows of one source in the `events` table of the executor's database, in one transaction. Rows that are
/// there already with the same body are left alone; answers those that are there with another one.
pub async fn store(
    executor: impl PgExecutor<'_>,
    source_name: &str,
    rows: &[InboxRow],
) -> Result<Vec<Conflict>, StoreError> {
    let conflicts: Vec<(i64, String)> = sqlx::query_as(
        "select version, reason from eventloader.store_events($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(source_name)
    .bind(rows.iter().map(|r| r.event_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.event_type.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.payload.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.message_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.request_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.occurred_at).collect::<Vec<_>>())
    .fetch_all(executor)
    .await
    .map_err(failed_to("store events in the other database"))?;
    Ok(conflicts.into_iter().map(|(event_id, reason)| Conflict { event_id, reason }).collect())
}
