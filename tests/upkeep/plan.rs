//! What pruning reads is proportional to what it prunes, however many requests are live or not yet old.

use eventloader::postgres::pool;
use eventloader::upkeep::prune::{Pruning, Retention};
use tokio_util::sync::CancellationToken;

use super::add;
use crate::support::database::Database;

/// Rows of the log read one after another, and rows found by an index, by this connection or others that are done.
async fn reads(database: &Database) -> (i64, i64) {
    database.execute("select pg_stat_force_next_flush()").await;
    sqlx::query_as(
        "select seq_tup_read, idx_tup_fetch from pg_stat_all_tables
         where relid = 'eventloader.event_request_log'::regclass",
    )
    .fetch_one(&database.pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn the_log_is_never_scanned() {
    const PRUNED: i64 = 25_000;
    let database = Database::migrated().await;
    // One connection for all, so that its counters are complete when it is asked for them.
    let database = Database { pool: pool::lazy(database.options.clone(), 1), ..database };
    database.register("s", 0).await;
    let old = "clock_timestamp() - interval '10 days' - interval '1 second' * n";
    add(&database, "failed", old, 100_000).await;
    add(&database, "succeeded", "clock_timestamp()", 100_000).await;
    // Without statistics, with those of a log that has nothing old, and with good ones.
    for prepare in [
        "select 1",
        "analyze eventloader.event_request_log",
        "vacuum analyze eventloader.event_request_log",
    ] {
        database.execute(prepare).await;
        add(&database, "succeeded", old, u32::try_from(PRUNED).unwrap()).await;
        let before = reads(&database).await;
        let retention = Retention { succeeded_days: 7, failed_days: 30, archive: true };
        let mut pruning = Pruning::begin(&database.pool, &retention).await.unwrap();
        pruning.run(&database.pool, &CancellationToken::new()).await.unwrap();
        assert_eq!(pruning.pruned_count, PRUNED, "{prepare}");
        let after = reads(&database).await;
        assert_eq!(after.0, before.0, "{prepare}: rows read one after another");
        let found = after.1 - before.1;
        assert!((PRUNED..4 * PRUNED).contains(&found), "{prepare}: {found} rows found by an index");
    }

    // That these numbers tell: without the index the log is scanned.
    database.execute("drop index eventloader.event_request_log_finished").await;
    add(&database, "succeeded", old, 1).await;
    let before = reads(&database).await;
    let retention = Retention { succeeded_days: 7, failed_days: 30, archive: false };
    let mut pruning = Pruning::begin(&database.pool, &retention).await.unwrap();
    pruning.run(&database.pool, &CancellationToken::new()).await.unwrap();
    let after = reads(&database).await;
    assert!(after.0 - before.0 >= 200_000, "{before:?} {after:?}");
}
