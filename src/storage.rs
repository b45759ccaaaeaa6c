//! Where events finally go: `events` in the same database as the inbox, or in another PostgreSQL.

use async_trait::async_trait;
use sqlx::{Connection, PgPool};

use crate::store::inbox::{self, FailedRow, MoveOutcome, Moved};
use crate::store::{Remedy, StoreError, event, failed_to};
use crate::telemetry::chain;

/// Moves inbox rows of one source to `events`.
///
/// # Contract
///
/// - One call moves at most `limit` rows, in id order, and either all it answers for or none.
/// - Exactly once: a call that is repeated after a lost reply, a crash or a take-over stores nothing twice.
/// - Two callers never move the same source at once; the second is told [`MoveOutcome::Busy`].
/// - A batch of several rows that holds one that cannot be stored fails the call with [`Remedy::SetRowAside`] and
///   changes nothing; the caller narrows `limit`. A batch of one such row is answered with [`MoveOutcome::Failed`], which
///   names it.
#[async_trait]
pub trait EventStorage: Send + Sync {
    /// Moves the next batch.
    async fn move_batch(&self, source_name: &str, limit: u32) -> Result<MoveOutcome, StoreError>;
}

/// `events` beside the inbox: one statement, one transaction.
#[derive(Clone, Debug)]
pub struct SameDatabase {
    /// The database.
    pub pool: PgPool,
}

#[async_trait]
impl EventStorage for SameDatabase {
    async fn move_batch(&self, source_name: &str, limit: u32) -> Result<MoveOutcome, StoreError> {
        let mut connection =
            self.pool.acquire().await.map_err(failed_to("connect to move inbox rows"))?;
        let outcome = inbox::move_batch(&mut *connection, source_name, limit).await;
        if outcome.is_err() {
            // PostgreSQL reports an error before it lets go of the locks: a second answer says that it has. Without it
            // the next try, on another connection, would find the source busy.
            drop(connection.ping().await);
        }
        outcome
    }
}

/// `events` in another PostgreSQL.
///
/// Order of writes: store there, commit there, remove here. A crash in between leaves the rows in the inbox; the next
/// move finds their keys taken with equal bodies and only removes them.
#[derive(Clone, Debug)]
pub struct OtherDatabase {
    /// The database with the inbox.
    pub inbox: PgPool,
    /// The database with `events`.
    pub events: PgPool,
}

#[async_trait]
impl EventStorage for OtherDatabase {
    async fn move_batch(&self, source_name: &str, limit: u32) -> Result<MoveOutcome, StoreError> {
        let mut here = self.inbox.begin().await.map_err(failed_to("begin a move"))?;
        let Some(rows) = inbox::lock_batch(&mut here, source_name, limit).await? else {
            return Ok(MoveOutcome::Busy);
        };
        let stored = if rows.is_empty() {
            event::Stored::default()
        } else {
            match event::store(&self.events, source_name, &rows).await {
                Ok(stored) => stored,
                Err(error) => {
                    // Waited for, so that the next try does not find the source busy.
                    here.rollback().await.map_err(failed_to("give up a move"))?;
                    return match rows.as_slice() {
                        [row] if error.remedy() == Remedy::SetRowAside => {
                            Ok(MoveOutcome::Failed(FailedRow {
                                event_id: row.event_id,
                                attempts: row.attempts,
                                reason: chain(&error.cause),
                            }))
                        }
                        _ => Err(error),
                    };
                }
            }
        };
        let ids: Vec<i64> = rows.iter().map(|row| row.event_id).collect();
        inbox::finish_batch(&mut here, source_name, &ids, &stored.conflicts).await?;
        here.commit().await.map_err(failed_to("commit a move"))?;
        if rows.is_empty() {
            return Ok(MoveOutcome::Nothing);
        }
        let count = |rows: usize| i32::try_from(rows).unwrap_or(i32::MAX);
        let aside_count = stored.duplicate_count + stored.conflicts.len();
        Ok(MoveOutcome::Moved(Moved {
            moved_count: count(rows.len() - aside_count),
            duplicate_count: count(stored.duplicate_count),
            conflict_count: count(stored.conflicts.len()),
        }))
    }
}
