//! `[storage] url`: what can only go wrong between two databases.

use std::sync::Arc;

use eventloader::postgres::pool;
use eventloader::retry_worker::{PassReport, RetryWorker};
use eventloader::storage::OtherDatabase;
use eventloader::store::{event as event_table, inbox};
use sqlx::{ConnectOptions, Executor};
use tokio_util::sync::CancellationToken;

use super::Stage;
use crate::support::database::Database;
use crate::support::inbox::event;
use crate::support::wait_for;

#[tokio::test]
async fn a_crash_between_the_two_commits_stores_nothing_twice() {
    let stage = Stage::other_database().await;
    stage.inbox.register("s", 0).await;
    let page: Vec<_> = (1..=10).map(event).collect();
    let request = stage.inbox.deposit("s", &page).await;

    let mut here = stage.inbox.pool.begin().await.unwrap();
    let rows = inbox::lock_batch(&mut here, "s", 6).await.unwrap().unwrap();
    assert_eq!(rows.len(), 6);
    event_table::store(&stage.events().pool, "s", &rows).await.unwrap();
    // The process dies here: the other database has committed, this one rolls back.
    here.rollback().await.unwrap();
    assert_eq!(stage.inbox.waiting("s").await, (1..=10).collect::<Vec<_>>());
    assert_eq!(stage.inbox.last_stored_id("s").await, 0);

    let report = stage.worker().run_once().await.unwrap();
    let expected = PassReport { moved_count: 4, duplicate_count: 6, ..PassReport::default() };
    assert_eq!(report, expected);
    assert_eq!(stage.events().stored("s").await, (1..=10).collect::<Vec<_>>());
    assert_eq!(stage.inbox.request_status(request).await, "succeeded");
    let letters: i64 = stage.inbox.value("select count(*) from eventloader.dead_letter").await;
    assert_eq!(letters, 0);
}

#[tokio::test]
async fn a_database_that_is_away_burns_no_attempts_and_is_waited_for() {
    let inbox = Database::migrated().await;
    let other = Database::migrated().await;
    inbox.register("s", 0).await;
    inbox.deposit("s", &[event(1), event(2)]).await;
    admit(&other, &inbox, false).await;
    // A pool that gives up soon, as the database refuses it at once.
    let events = pool::lazy(other.options.clone(), 2);
    let storage = Arc::new(OtherDatabase { inbox: inbox.pool.clone(), events });
    let worker = RetryWorker { storage, ..RetryWorker::new(inbox.pool.clone()) };

    worker.run_once().await.unwrap_err();
    assert_eq!(inbox.waiting("s").await, [1, 2]);
    let attempts: i64 =
        inbox.value("select coalesce(sum(attempts), 0) from eventloader.event_inbox").await;
    assert_eq!(attempts, 0);
    assert_eq!(inbox.last_stored_id("s").await, 0);

    let (_hint, hints) = tokio::sync::mpsc::channel(1);
    let stop = CancellationToken::new();
    let running = tokio::spawn(worker.run(hints, stop.clone()));
    admit(&other, &inbox, true).await;
    wait_for("the events", || async { inbox.waiting("s").await.is_empty().then_some(()) }).await;
    assert_eq!(other.stored("s").await, [1, 2]);
    stop.cancel();
    running.await.unwrap();
}

/// Lets a database take connections, or refuse them.
async fn admit(database: &Database, by: &Database, yes: bool) {
    let name = database.options.get_database().unwrap();
    let mut session = by.options.connect().await.unwrap();
    session
        .execute(sqlx::AssertSqlSafe(format!("alter database {name} allow_connections {yes}")))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_stream_that_an_application_owns_there_delays_no_other_source() {
    let stage = Stage::other_database().await;
    stage
        .events()
        .execute("insert into eventloader.stream (stream, version, owner) values ('theirs', 0, 'application')")
        .await;
    for name in ["ours", "theirs"] {
        stage.inbox.register(name, 0).await;
        stage.inbox.deposit(name, &[event(1)]).await;
    }
    let (hint, hints) = tokio::sync::mpsc::channel(8);
    let stop = CancellationToken::new();
    let running = tokio::spawn(stage.worker().run(hints, stop.clone()));
    for id in 2..=6 {
        stage.inbox.deposit("ours", &[event(id)]).await;
        hint.send("ours".to_owned()).await.unwrap();
        wait_for("the events of the other source", || async {
            (stage.events().stored("ours").await.last() == Some(&id)).then_some(())
        })
        .await;
    }
    stop.cancel();
    running.await.unwrap();
    assert_eq!(stage.inbox.waiting("theirs").await, [1]);
    let attempts: i32 = stage
        .inbox
        .value("select attempts from eventloader.event_inbox where source_name = 'theirs'")
        .await;
    assert_eq!(attempts, 0);
}

#[tokio::test]
async fn a_batch_is_locked_by_one_call() {
    let stage = Stage::other_database().await;
    stage.inbox.register("s", 0).await;
    let page: Vec<_> = (1..=500).map(event).collect();
    stage.inbox.deposit("s", &page).await;
    let mut here = stage.inbox.pool.begin().await.unwrap();
    here.execute("set local track_functions = 'all'").await.unwrap();
    assert_eq!(inbox::lock_batch(&mut here, "s", 100).await.unwrap().unwrap().len(), 100);
    let calls: i64 = sqlx::query_scalar(
        "select pg_stat_get_xact_function_calls('eventloader.lock_inbox_batch'::regproc)",
    )
    .fetch_one(&mut *here)
    .await
    .unwrap();
    assert_eq!(calls, 1);
}
