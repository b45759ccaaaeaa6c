//! Reading the log: nothing is passed over that is committed late, and streams keep their order.

use std::collections::HashMap;
use std::time::Duration;

use eventloader::store::event_log;
use rand::Rng;
use tokio_util::sync::CancellationToken;

use super::{append, append_in, append_many, effects, noting_all, pass, stage, worker};
use crate::support::wait_for;

const WRITERS: usize = 6;
const APPENDS: usize = 60;

#[tokio::test]
async fn an_event_that_is_committed_late_holds_those_after_it() {
    let database = stage().await;
    append(&database, "early", "done", "{}", None).await;
    let mut late = database.pool.begin().await.unwrap();
    append_in(&mut late, "late", "done", "{}", None).await;
    append(&database, "quick", "done", "{}", None).await;
    let worker = worker(&database, "w", noting_all());
    assert_eq!(event_log::watermark(&database.pool).await.unwrap(), 1);
    pass(&worker).await;
    assert_eq!(effects(&database).await, ["early/1"]);
    late.commit().await.unwrap();
    assert_eq!(event_log::watermark(&database.pool).await.unwrap(), 3);
    pass(&worker).await;
    assert_eq!(effects(&database).await, ["early/1", "late/1", "quick/1"]);
}

#[tokio::test]
async fn an_append_that_is_rolled_back_holds_nobody() {
    let database = stage().await;
    let mut gone = database.pool.begin().await.unwrap();
    append_in(&mut gone, "gone", "done", "{}", None).await;
    gone.rollback().await.unwrap();
    append(&database, "s", "done", "{}", None).await;
    assert_eq!(pass(&worker(&database, "w", noting_all())).await.handled_count, 1);
}

/// A writing transaction that appends nothing, and an advisory lock that is not ours, hold nobody.
#[tokio::test]
async fn other_transactions_hold_nobody() {
    let database = stage().await;
    let mut other = database.pool.begin().await.unwrap();
    for statement in
        ["insert into public.effect values (0)", "select pg_advisory_xact_lock_shared(1)"]
    {
        sqlx::query(statement).execute(&mut *other).await.unwrap();
    }
    append_many(&database, "s", 2).await;
    assert_eq!(pass(&worker(&database, "w", noting_all())).await.handled_count, 2);
    other.rollback().await.unwrap();
}

#[tokio::test]
async fn with_many_writers_what_is_handled_is_what_was_committed_in_order() {
    let database = stage().await;
    let stop = CancellationToken::new();
    let mut worker = worker(&database, "w", noting_all());
    worker.concurrency = 3;
    let running = tokio::spawn(worker.run(stop.clone()));
    let writers = eventloader::postgres::pool::lazy(database.options.clone(), 6);
    let appending = (0..WRITERS).map(|writer| {
        let writers = writers.clone();
        async move {
            for n in 0..APPENDS {
                let mut transaction = writers.begin().await.unwrap();
                let stream = format!("s{}", (writer + n) % 4);
                let pause = rand::rng().random_range(0..4);
                append_in(&mut transaction, &stream, "done", "{}", None).await;
                tokio::time::sleep(Duration::from_millis(pause)).await;
                if rand::rng().random_range(0..5) == 0 {
                    transaction.rollback().await.unwrap();
                } else {
                    transaction.commit().await.unwrap();
                }
            }
        }
    });
    futures_util::future::join_all(appending).await;
    let committed: i64 = database.value("select count(*) from eventloader.events").await;
    wait_for("the checkpoint to reach the end", || async {
        database
            .value::<bool>(
                "select position = (select max(position) from eventloader.events)
                 from eventloader.subscription",
            )
            .await
            .then_some(())
    })
    .await;
    stop.cancel();
    let report = running.await.unwrap();
    assert_eq!((report.handled_count.cast_signed(), report.failed_count), (committed, 0));
    // In the order in which they were written, which is that of their transactions.
    let rows: Vec<(String, i64)> =
        sqlx::query_as("select stream, version from public.effect order by xmin::text::bigint")
            .fetch_all(&database.pool)
            .await
            .unwrap();
    assert_eq!(rows.len().cast_signed(), isize::try_from(committed).unwrap());
    let mut versions: HashMap<String, i64> = HashMap::new();
    for (stream, version) in rows {
        let before = versions.insert(stream.clone(), version).unwrap_or(0);
        assert!(version > before, "{stream}: {version} after {before}");
    }
}
