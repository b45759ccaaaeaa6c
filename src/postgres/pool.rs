//! The connection pool, with the limits that keep one stuck statement from holding up the rest.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

/// Longest a statement may run; longer than any of ours, shorter than a stuck server would hold us.
const STATEMENT_TIMEOUT: &str = "30s";
/// Longest wait for a row lock. All our locks are held for milliseconds.
const LOCK_TIMEOUT: &str = "10s";
/// A transaction that waits for its client holds back vacuum and every reader of the log.
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "30s";

/// Adds our session settings to connect options.
pub fn with_session_settings(options: PgConnectOptions) -> PgConnectOptions {
    options.application_name("eventloader").options([
        ("statement_timeout", STATEMENT_TIMEOUT),
        ("lock_timeout", LOCK_TIMEOUT),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
        // Ours are short statements. Compiling one that the planner thinks expensive takes longer than running it.
        ("jit", "off"),
        ("search_path", "pg_catalog"),
        ("TimeZone", "UTC"),
    ])
}

/// A pool that connects when first used.
///
/// Connections are not pinged before use: that would double the round trips. A call that meets a dead connection fails
/// as [`Remedy::TryAgain`](crate::store::Remedy::TryAgain), and the pool drops the connection.
pub fn lazy(options: PgConnectOptions, max_connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(Duration::from_secs(10))
        .idle_timeout(Duration::from_mins(5))
        .max_lifetime(Duration::from_mins(30))
        .test_before_acquire(false)
        .connect_lazy_with(with_session_settings(options))
}
