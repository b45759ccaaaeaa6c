//! Several processes with one name.

use std::sync::Arc;
use std::time::Duration;

use eventloader::handler::{HandlerRegistry, LoggedEvent, Pass};
use futures_util::future::join;
use serde_json::Value;
use sqlx::PgConnection;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Calls, append_many, effects, marks, note, noting_all, pass, place, stage, worker};
use crate::support::wait_for;

#[tokio::test]
async fn two_workers_with_one_name_handle_each_event_once() {
    let database = stage().await;
    for stream in ["a", "b", "c"] {
        append_many(&database, stream, 40).await;
    }
    let stop = CancellationToken::new();
    let workers = [0, 1].map(|_| {
        let mut worker = worker(&database, "w", noting_all());
        worker.lease_ttl = Duration::from_millis(600);
        tokio::spawn(worker.run(stop.clone()))
    });
    wait_for("all events", || async { (effects(&database).await.len() >= 120).then_some(()) })
        .await;
    stop.cancel();
    let mut handled_count = 0;
    for worker in workers {
        handled_count += worker.await.unwrap().handled_count;
    }
    assert_eq!((handled_count, effects(&database).await.len()), (120, 120));
    // Given back at the stop: the next one need not wait.
    assert_eq!(pass(&worker(&database, "w", noting_all())).await.handled_count, 0);
}

/// A handler in a process that was taken for dead: the other process waits for the end of its transaction.
#[tokio::test]
async fn a_slow_handler_that_lost_the_lease_is_not_run_twice() {
    let database = stage().await;
    append_many(&database, "orders", 2).await;
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let calls = Calls::default();
    let registry = |who: &'static str| {
        let mut registry = HandlerRegistry::new();
        let (begun, go_on, calls) = (Arc::clone(&begun), Arc::clone(&go_on), calls.clone());
        let call = async move |_: Value, event: LoggedEvent, transaction: &mut PgConnection| {
            calls.add(format!("{who} {}", place(&event)));
            note(&event, transaction).await?;
            if who == "slow" {
                begun.notify_one();
                go_on.notified().await;
            }
            Ok(())
        };
        registry.on("*", call).unwrap();
        registry
    };
    let slow = worker(&database, "w", registry("slow"));
    let second = worker(&database, "w", registry("second"));
    let slow = tokio::spawn(async move { slow.run_once().await.unwrap() });
    begun.notified().await;
    assert!(matches!(second.run_once().await.unwrap(), Pass::StandBy(_)));
    // As if it had been frozen for longer than its lease.
    database.execute("update eventloader.subscription set expires_at = clock_timestamp()").await;
    let (waited, ()) = join(second.run_once(), async {
        wait_for("the second process to wait for the mark", || async {
            let waiting: bool = database
                .value("select exists (select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database())")
                .await;
            waiting.then_some(())
        })
        .await;
        go_on.notify_one();
    })
    .await;
    let Pass::Done(report) = waited.unwrap() else { panic!("the second did not take over") };
    assert_eq!((report.repeated_count, report.handled_count), (1, 1));
    assert!(matches!(slow.await.unwrap(), Pass::StandBy(report) if report.handled_count == 1));
    assert_eq!(calls.all(), ["slow orders/1", "second orders/2"]);
    assert_eq!((effects(&database).await.len(), marks(&database).await), (2, 2));
}

#[tokio::test]
async fn a_handler_that_is_slower_than_the_lease_keeps_it() {
    let database = stage().await;
    append_many(&database, "orders", 1).await;
    let mut registry = HandlerRegistry::new();
    let call = async |_: Value, event: LoggedEvent, transaction: &mut PgConnection| {
        note(&event, transaction).await?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        Ok(())
    };
    registry.on("*", call).unwrap();
    let mut slow = worker(&database, "w", registry);
    slow.lease_ttl = Duration::from_millis(500);
    let second = worker(&database, "w", noting_all());
    let ((), outcome) = join(
        async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(200)).await;
                assert!(matches!(second.run_once().await.unwrap(), Pass::StandBy(_)));
            }
        },
        slow.run_once(),
    )
    .await;
    assert!(matches!(outcome.unwrap(), Pass::Done(report) if report.handled_count == 1));
    assert_eq!(effects(&database).await.len(), 1);
}

#[tokio::test]
async fn at_the_stop_what_is_in_work_is_finished_and_nothing_else_is_begun() {
    let database = stage().await;
    append_many(&database, "orders", 3).await;
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut registry = HandlerRegistry::new();
    let (is_begun, may_end) = (Arc::clone(&begun), Arc::clone(&go_on));
    let call = async move |_: Value, event: LoggedEvent, transaction: &mut PgConnection| {
        note(&event, transaction).await?;
        is_begun.notify_one();
        may_end.notified().await;
        Ok(())
    };
    registry.on("*", call).unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(worker(&database, "w", registry).run(stop.clone()));
    begun.notified().await;
    stop.cancel();
    go_on.notify_one();
    assert_eq!(running.await.unwrap().handled_count, 1);
    assert_eq!(effects(&database).await, ["orders/1"]);
    let (position, is_free): (i64, bool) =
        sqlx::query_as("select position, owner is null from eventloader.subscription")
            .fetch_one(&database.pool)
            .await
            .unwrap();
    assert_eq!((position, is_free), (1, true));
}
