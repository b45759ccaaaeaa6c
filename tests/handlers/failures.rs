//! Handlers that fail: what is undone, what is tried again, what becomes a dead letter, and who has to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use eventloader::handler::{Handler, HandlerError, HandlerRegistry, HandlerResult, LoggedEvent};
use sqlx::PgConnection;

use super::{
    Calls, NEVER, append, append_many, effects, letters, make_due, marks, note, pass, passes,
    place, stage, worker,
};

/// Notes every event, and then does what the test says.
struct Failing<F> {
    calls: Calls,
    end: F,
}

#[async_trait]
impl<F: Fn(&LoggedEvent) -> HandlerResult + Send + Sync + 'static> Handler for Failing<F> {
    async fn handle(&self, event: LoggedEvent, transaction: &mut PgConnection) -> HandlerResult {
        self.calls.add(format!("{} {}", place(&event), event.attempt));
        note(&event, transaction).await?;
        (self.end)(&event)
    }
}

fn failing<F>(calls: &Calls, end: F) -> HandlerRegistry
where
    F: Fn(&LoggedEvent) -> HandlerResult + Send + Sync + 'static,
{
    let mut registry = HandlerRegistry::new();
    registry.add("*", Failing { calls: calls.clone(), end }).unwrap();
    registry
}

#[derive(Debug, thiserror::Error)]
#[error("cannot reserve the stock")]
struct NoStock(#[source] NoWarehouse);

#[derive(Debug, thiserror::Error)]
#[error("the warehouse is closed")]
struct NoWarehouse;

#[tokio::test]
async fn three_failures_and_a_success_are_four_calls_and_one_mark() {
    let database = stage().await;
    append_many(&database, "orders", 1).await;
    let calls = Calls::default();
    let failures = AtomicU32::new(0);
    let registry = failing(&calls, move |_| {
        if failures.fetch_add(1, Ordering::Relaxed) < 3 {
            Err(NoStock(NoWarehouse).into())
        } else {
            Ok(())
        }
    });
    let report = passes(&database, &worker(&database, "w", registry)).await;
    assert_eq!((report.handled_count, report.failed_count, report.dead_letter_count), (1, 3, 0));
    assert_eq!(calls.all(), ["orders/1 1", "orders/1 2", "orders/1 3", "orders/1 4"]);
    assert_eq!((effects(&database).await.len(), marks(&database).await), (1, 1));
}

#[tokio::test]
async fn a_failure_undoes_the_work_and_the_mark() {
    let database = stage().await;
    append_many(&database, "orders", 1).await;
    let calls = Calls::default();
    let mut worker = worker(&database, "w", failing(&calls, |_| Err(NoStock(NoWarehouse).into())));
    worker.backoff = NEVER;
    assert_eq!(pass(&worker).await.failed_count, 1);
    assert_eq!((effects(&database).await.len(), marks(&database).await), (0, 0));
    let error: String =
        database.value("select last_error from eventloader.subscription_retry").await;
    assert_eq!(error, "cannot reserve the stock: the warehouse is closed");
}

#[tokio::test]
async fn two_retries_are_three_attempts_and_one_dead_letter_and_none_waits() {
    let database = stage().await;
    append_many(&database, "orders", 3).await;
    let calls = Calls::default();
    let registry =
        failing(
            &calls,
            |event| {
                if event.version == 2 { Err(NoStock(NoWarehouse).into()) } else { Ok(()) }
            },
        );
    let mut worker = worker(&database, "w", registry);
    worker.max_attempts = 3;
    let report = passes(&database, &worker).await;
    assert_eq!((report.handled_count, report.failed_count, report.dead_letter_count), (2, 2, 1));
    assert_eq!(calls.all(), ["orders/1 1", "orders/2 1", "orders/2 2", "orders/2 3", "orders/3 1"]);
    assert_eq!(effects(&database).await, ["orders/1", "orders/3"]);
    let want = ("orders/2", "cannot reserve the stock: the warehouse is closed", 3, r#"{"n": 2}"#);
    let letters = letters(&database).await;
    let (reference, reason, attempts, body) = &letters[0];
    assert_eq!((reference.as_str(), reason.as_str(), *attempts, body.as_str()), want);
    assert_eq!(letters.len(), 1);
    assert_eq!(pass(&worker).await, super::PassReport::default());
}

#[tokio::test]
async fn attempts_survive_a_restart() {
    let database = stage().await;
    append_many(&database, "orders", 2).await;
    let calls = Calls::default();
    for _ in 0..3 {
        // A process of its own each time, that ends before the next attempt.
        let registry = failing(&calls, |event| {
            if event.version == 1 { Err(NoStock(NoWarehouse).into()) } else { Ok(()) }
        });
        let mut worker = worker(&database, "w", registry);
        (worker.backoff, worker.max_attempts) = (NEVER, 3);
        make_due(&database).await;
        // As after a crash before the checkpoint was written.
        database.execute("update eventloader.subscription set position = 0").await;
        pass(&worker).await;
    }
    assert_eq!(calls.all(), ["orders/1 1", "orders/1 2", "orders/1 3", "orders/2 1"]);
    assert_eq!(letters(&database).await.len(), 1);
}

#[tokio::test]
async fn a_dead_letter_is_not_tried_again_after_a_crash() {
    let database = stage().await;
    append_many(&database, "orders", 2).await;
    let calls = Calls::default();
    let registry = failing(&calls, |event| {
        if event.version == 1 { Err(HandlerError::permanent("no such customer")) } else { Ok(()) }
    });
    let worker = worker(&database, "w", registry);
    let report = pass(&worker).await;
    assert_eq!((report.handled_count, report.failed_count, report.dead_letter_count), (1, 0, 1));
    assert_eq!(letters(&database).await[0].1, "no such customer");
    database.execute("update eventloader.subscription set position = 0").await;
    let again = pass(&worker).await;
    assert_eq!((again.handled_count, again.repeated_count), (0, 2));
    assert_eq!(calls.count(), 2);
}

#[tokio::test]
async fn a_skipped_event_counts_as_consumed_and_leaves_nothing() {
    let database = stage().await;
    append_many(&database, "orders", 1).await;
    let calls = Calls::default();
    let worker = worker(&database, "w", failing(&calls, |_| Err(HandlerError::skip("test data"))));
    assert_eq!(pass(&worker).await.skipped_count, 1);
    assert_eq!((effects(&database).await.len(), marks(&database).await), (0, 1));
    assert!(letters(&database).await.is_empty());
    database.execute("update eventloader.subscription set position = 0").await;
    assert_eq!(pass(&worker).await.repeated_count, 1);
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn a_panic_is_a_failure_of_that_event_alone() {
    let database = stage().await;
    append_many(&database, "bad", 1).await;
    append_many(&database, "good", 2).await;
    let calls = Calls::default();
    let registry = failing(&calls, |event| {
        assert!(event.stream != "bad", "as the test wants it");
        Ok(())
    });
    let mut worker = worker(&database, "w", registry);
    worker.max_attempts = 2;
    let report = passes(&database, &worker).await;
    assert_eq!((report.handled_count, report.failed_count, report.dead_letter_count), (2, 1, 1));
    assert_eq!(effects(&database).await, ["good/1", "good/2"]);
    let letters = letters(&database).await;
    assert_eq!(letters[0].1, "the handler panicked: as the test wants it");
}

/// PostgreSQL answers the commit of such a transaction as if it were one.
#[tokio::test]
async fn a_handler_that_passes_over_a_failed_statement_has_not_handled() {
    let database = stage().await;
    append_many(&database, "orders", 1).await;
    let mut registry = HandlerRegistry::new();
    let careless =
        async |_: serde_json::Value, event: LoggedEvent, transaction: &mut PgConnection| {
            note(&event, transaction).await?;
            let failed = sqlx::query("select 1 / 0").execute(transaction).await;
            assert!(failed.is_err());
            Ok(())
        };
    registry.on("*", careless).unwrap();
    let mut worker = worker(&database, "w", registry);
    worker.max_attempts = 1;
    assert_eq!(pass(&worker).await.dead_letter_count, 1);
    let letters = letters(&database).await;
    assert!(letters[0].1.contains("a statement of the handler failed and the handler went on"));
    assert_eq!((effects(&database).await.len(), marks(&database).await), (0, 0));
}

#[tokio::test]
async fn what_fails_at_the_commit_is_a_failure_of_the_handler() {
    let database = stage().await;
    database
        .execute(
            "create table public.customer (id bigint primary key);
             create table public.invoice (customer_id bigint references public.customer deferrable initially deferred)",
        )
        .await;
    append_many(&database, "orders", 1).await;
    let mut registry = HandlerRegistry::new();
    let call = async |_: serde_json::Value, _: LoggedEvent, transaction: &mut PgConnection| {
        sqlx::query("insert into public.invoice values (7)").execute(transaction).await?;
        Ok(())
    };
    registry.on("*", call).unwrap();
    let mut worker = worker(&database, "w", registry);
    worker.max_attempts = 1;
    assert_eq!(pass(&worker).await.dead_letter_count, 1);
    let letters = letters(&database).await;
    assert!(letters[0].1.contains("violates foreign key constraint"), "{letters:?}");
    assert_eq!(marks(&database).await, 0);
}

#[tokio::test]
async fn a_handler_that_takes_too_long_is_ended_and_tried_again() {
    let database = stage().await;
    append_many(&database, "orders", 1).await;
    let attempts = Arc::new(AtomicU32::new(0));
    let mut registry = HandlerRegistry::new();
    let seen = Arc::clone(&attempts);
    let call =
        async move |_: serde_json::Value, event: LoggedEvent, transaction: &mut PgConnection| {
            note(&event, transaction).await?;
            if seen.fetch_add(1, Ordering::Relaxed) == 0 {
                std::future::pending::<()>().await;
            }
            Ok(())
        };
    registry.on("*", call).unwrap();
    let mut worker = worker(&database, "w", registry);
    worker.timeout = Duration::from_millis(300);
    let report = passes(&database, &worker).await;
    assert_eq!((report.handled_count, report.failed_count), (1, 1));
    assert_eq!((effects(&database).await.len(), attempts.load(Ordering::Relaxed)), (1, 2));
}

#[tokio::test]
async fn a_poisoned_stream_delays_no_other_and_keeps_its_order() {
    let database = stage().await;
    for n in 1..=5 {
        for stream in ["poisoned", "fine", "well"] {
            append(&database, stream, "done", &format!(r#"{{"n": {n}}}"#), None).await;
        }
    }
    let is_healed = Arc::new(AtomicU32::new(0));
    let healed = Arc::clone(&is_healed);
    let calls = Calls::default();
    let registry = failing(&calls, move |event| {
        let is_poison = event.stream == "poisoned" && event.version == 2;
        if is_poison && healed.load(Ordering::Relaxed) == 0 {
            return Err(NoStock(NoWarehouse).into());
        }
        Ok(())
    });
    let mut worker = worker(&database, "w", registry);
    worker.backoff = NEVER;
    let report = pass(&worker).await;
    assert_eq!((report.handled_count, report.failed_count), (11, 1));
    // The checkpoint is at the end of the log, the stream waits beside it.
    let position: i64 = database.value("select position from eventloader.subscription").await;
    assert_eq!(position, 15);
    let waiting: Vec<String> =
        database.column("select stream || ' ' || position || ' ' || attempts from eventloader.subscription_retry").await;
    assert_eq!(waiting, ["poisoned 4 1"]);

    // What comes meanwhile waits too; the others go on.
    append(&database, "poisoned", "done", r#"{"n": 6}"#, None).await;
    append(&database, "fine", "done", r#"{"n": 6}"#, None).await;
    assert_eq!(pass(&worker).await.handled_count, 1);

    is_healed.store(1, Ordering::Relaxed);
    make_due(&database).await;
    assert_eq!(pass(&worker).await.handled_count, 5);
    let of_poisoned: Vec<String> =
        calls.all().into_iter().filter(|call| call.starts_with("poisoned")).collect();
    let want = ["1 1", "2 1", "2 2", "3 1", "4 1", "5 1", "6 1"];
    assert_eq!(of_poisoned, want.map(|call| format!("poisoned/{call}")));
    let left: i64 = database.value("select count(*) from eventloader.subscription_retry").await;
    assert_eq!(left, 0);
    assert_eq!(effects(&database).await.len(), 17);
}
