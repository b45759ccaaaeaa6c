//! What a claim reads is proportional to its batch, whatever lies dead in front of it.

use serde_json::Value;
use sqlx::{Connection, Executor, PgConnection};

use crate::support::database::Database;

const BATCH: i64 = 1000;

/// Pages that a statement touches, those of the functions it calls included.
async fn pages(database: &Database, sql: &'static str) -> i64 {
    let mut transaction = database.pool.begin().await.unwrap();
    let plan: Value = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "explain (analyze, buffers, format json) {sql}"
    )))
    .fetch_one(&mut *transaction)
    .await
    .unwrap();
    transaction.rollback().await.unwrap();
    let count = |key: &str| plan[0]["Plan"][key].as_i64().unwrap();
    count("Shared Hit Blocks") + count("Shared Read Blocks")
}

async fn fill(database: &Database, from: i64, to: i64) {
    sqlx::query(
        "insert into eventloader.event_inbox (source_name, event_id, event_type, payload)
         select 's', g, 's', jsonb_build_object('id', g, 'text', repeat('x', 200))
         from generate_series($1::bigint, $2) g",
    )
    .bind(from)
    .bind(to)
    .execute(&database.pool)
    .await
    .unwrap();
}

async fn set_cursor(database: &Database, stored: i64, requested: i64) {
    sqlx::query("update eventloader.source_cursor set last_stored_id = $1, last_requested_id = $2")
        .bind(stored)
        .bind(requested)
        .execute(&database.pool)
        .await
        .unwrap();
}

#[tokio::test]
async fn dead_rows_under_a_held_snapshot_are_not_walked_over() {
    let database = Database::migrated().await;
    database.register("s", 0).await;
    fill(&database, 1, 200_000).await;
    let mut holder = PgConnection::connect_with(&database.options).await.unwrap();
    holder.execute("begin isolation level repeatable read").await.unwrap();
    holder.execute("select count(*) from eventloader.source").await.unwrap();
    database.execute("delete from eventloader.event_inbox").await;
    fill(&database, 200_001, 202_000).await;
    set_cursor(&database, 200_000, 202_000).await;

    // Without statistics, with those of a mostly dead table, and those of a table that was empty.
    for prepare in ["select 1", "vacuum analyze eventloader.event_inbox"] {
        database.execute(prepare).await;
        let claim =
            pages(&database, "select eventloader.lock_inbox_batch('s', 200000, 1000)").await;
        assert!(claim < 4 * BATCH, "{prepare}: a claim of {BATCH} rows touches {claim} pages");
        let whole = pages(&database, "select * from eventloader.move_batch('s', 1000)").await;
        assert!(whole < 40 * BATCH, "{prepare}: a move of {BATCH} rows touches {whole} pages");
    }
    let unbounded = pages(&database, "select eventloader.lock_inbox_batch('s', 0, 1000)").await;
    assert!(unbounded > 4 * BATCH, "the dead rows are there: {unbounded} pages without the bound");
    holder.execute("rollback").await.unwrap();
}

#[tokio::test]
async fn a_full_inbox_is_read_batch_by_batch() {
    let database = Database::migrated().await;
    database.register("s", 0).await;
    database.execute("vacuum analyze eventloader.event_inbox, eventloader.events").await;
    fill(&database, 1, 50_000).await;
    set_cursor(&database, 0, 50_000).await;
    for prepare in ["select 1", "vacuum analyze eventloader.event_inbox", "set enable_seqscan = on"]
    {
        database.execute(prepare).await;
        let claim = pages(&database, "select eventloader.lock_inbox_batch('s', 0, 1000)").await;
        assert!(claim < 4 * BATCH, "{prepare}: a claim of {BATCH} rows touches {claim} pages");
        let whole = pages(&database, "select * from eventloader.move_batch('s', 1000)").await;
        assert!(whole < 40 * BATCH, "{prepare}: a move of {BATCH} rows touches {whole} pages");
    }
}

#[tokio::test]
async fn message_ids_cost_no_more_than_in_proportion() {
    let database = Database::migrated().await;
    database.register("s", 0).await;
    fill(&database, 1, 5000).await;
    set_cursor(&database, 0, 5000).await;
    let without = pages(&database, "select * from eventloader.move_batch('s', 1000)").await;
    database.execute("update eventloader.event_inbox set message_id = gen_random_uuid()").await;
    let with = pages(&database, "select * from eventloader.move_batch('s', 1000)").await;
    assert!(with < 3 * without, "{with} pages with message ids, {without} without");
}
