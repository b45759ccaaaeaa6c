//! Inbox → `events`: the retry worker and its storages.

mod claim_plan;
mod other_database;
mod plans;
mod replay;
mod storage_conformance;

use std::sync::Arc;

use eventloader::retry_worker::RetryWorker;
use eventloader::storage::{EventStorage, OtherDatabase, SameDatabase};
use sqlx::{Connection, Executor, PgConnection};

use crate::support::database::Database;

/// An inbox, and where its events go.
struct Stage {
    inbox: Database,
    other: Option<Database>,
    storage: Arc<dyn EventStorage>,
}

impl Stage {
    /// `events` beside the inbox.
    async fn same_database() -> Self {
        let inbox = Database::migrated().await;
        let storage = Arc::new(SameDatabase { pool: inbox.pool.clone() });
        Self { inbox, other: None, storage }
    }

    /// `events` in another database.
    async fn other_database() -> Self {
        let (inbox, other) = (Database::migrated().await, Database::migrated().await);
        let storage =
            Arc::new(OtherDatabase { inbox: inbox.pool.clone(), events: other.pool.clone() });
        Self { inbox, other: Some(other), storage }
    }

    /// The database with `events`.
    fn events(&self) -> &Database {
        self.other.as_ref().unwrap_or(&self.inbox)
    }

    fn worker(&self) -> RetryWorker {
        RetryWorker {
            storage: Arc::clone(&self.storage),
            ..RetryWorker::new(self.inbox.pool.clone())
        }
    }

    /// Lets `events` refuse payloads with a key `poison`.
    async fn refuse_poison(&self) {
        self.events()
            .execute(
                "alter table eventloader.events
                 add constraint no_poison check (not jsonb_exists(payload, 'poison'))",
            )
            .await;
    }

    async fn accept_poison(&self) {
        self.events().execute("alter table eventloader.events drop constraint no_poison").await;
    }

    /// Lets rows that wait for another attempt be tried at once.
    async fn end_backoff(&self) {
        self.inbox
            .execute("update eventloader.event_inbox set next_attempt_at = clock_timestamp()")
            .await;
    }

    /// A session that holds locks on inbox rows until it is dropped or rolled back.
    async fn lock_rows(&self, condition: &str) -> PgConnection {
        let mut session = PgConnection::connect_with(&self.inbox.options).await.unwrap();
        session.execute("begin").await.unwrap();
        let rows = session
            .fetch_all(sqlx::AssertSqlSafe(format!(
                "select from eventloader.event_inbox where {condition} for update"
            )))
            .await
            .unwrap();
        assert!(!rows.is_empty());
        session
    }
}
