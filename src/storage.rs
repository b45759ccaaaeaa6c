//! Where events finally go: `events` in the same database as the inbox, or in another PostgreSQL.

use async_trait::async_trait;
use sqlx::{Connection, PgConnection, PgPool};

use crate::store::inbox::{self, MoveOutcome, Moved};
use crate::store::{StoreError, event, failed_to};

/// Moves inbox rows of one source to `events`.
///
/// # Contract
///
/// - One call moves at most `limit` rows, in id order, and either all it answers for or none.
/// - Exactly once: a call that is repeated after a lost reply, a crash or a take-over stores nothing twice.
/// - Two callers never move the same source at once; the second is told [`MoveOutcome::Busy`].
/// - What cannot be stored fails the call with [`Remedy::SetRowAside`](crate::store::Remedy::SetRowAside); the caller
///   narrows `limit` down to the row that is at fault.
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
        let acquired = self.pool.acquire().await;
        let mut connection = acquired.map_err(failed_to("move inbox rows"))?;
        let outcome = inbox::move_batch(&mut *connection, source_name, limit).await;
        if outcome.is_err() {
            // The server tells of an error before it lets go of the locks. The caller's next try, on another
            // connection, would find them and take itself for another instance.
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
        let outcome = self.move_locked(&mut here, source_name, limit).await;
        if outcome.is_err() {
            // The locks have to be gone when the caller tries again; whether the rollback is heard does not matter.
            drop(here.rollback().await);
            return outcome;
        }
        here.commit().await.map_err(failed_to("commit a move"))?;
        outcome
    }
}

impl OtherDatabase {
    async fn move_locked(
        &self,
        here: &mut PgConnection,
        source_name: &str,
        limit: u32,
    ) -> Result<MoveOutcome, StoreError> {
        let Some(rows) = inbox::lock_batch(here, source_name, limit).await? else {
            return Ok(MoveOutcome::Busy);
        };
        let conflicts = if rows.is_empty() {
            Vec::new()
        } else {
            event::store(&self.events, source_name, &rows).await?
        };
        let ids: Vec<i64> = rows.iter().map(|row| row.event_id).collect();
        inbox::finish_batch(here, source_name, &ids, &conflicts).await?;
        if rows.is_empty() {
            return Ok(MoveOutcome::Nothing);
        }
        let conflict_count = i32::try_from(conflicts.len()).unwrap_or(i32::MAX);
        let row_count = i32::try_from(rows.len()).unwrap_or(i32::MAX);
        Ok(MoveOutcome::Moved(Moved {
            moved_count: row_count - conflict_count,
            duplicate_count: 0,
            conflict_count,
        }))
    }
}
