//! `events`: the one log. Rows are added by a move or an append, never changed.

use sqlx::PgExecutor;

use super::inbox::{Conflict, InboxRow};
use super::{StoreError, failed_to};

/// What became of rows that were to be stored.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Rows that were there already with the same body.
    pub duplicate_count: usize,
    /// Rows that cannot be stored beside what is there.
    pub conflicts: Vec<Conflict>,
}

/// Stores the rows of one source, in id order, in the `events` table of the executor's database, in one transaction.
/// Safe to repeat: rows that are there already with the same body are left alone.
pub async fn store(
    executor: impl PgExecutor<'_>,
    source_name: &str,
    rows: &[InboxRow],
) -> Result<Stored, StoreError> {
    let aside: Vec<(i64, Option<String>)> = sqlx::query_as(
        "select version, reason from eventloader.store_rows($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(source_name)
    .bind(rows.iter().map(|r| r.event_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.event_type.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.payload.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.message_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.request_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.occurred_at).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.metadata.as_deref()).collect::<Vec<_>>())
    .fetch_all(executor)
    .await
    .map_err(failed_to("store events in the other database"))?;
    let aside_count = aside.len();
    let conflicts: Vec<Conflict> = aside
        .into_iter()
        .filter_map(|(event_id, reason)| Some(Conflict { event_id, reason: reason? }))
        .collect();
    Ok(Stored { duplicate_count: aside_count - conflicts.len(), conflicts })
}
