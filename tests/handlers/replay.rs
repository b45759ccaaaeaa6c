//! Dead letters of handlers on their way back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use eventloader::handler::{HandlerError, HandlerRegistry, LoggedEvent};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{append_many, effects, letters, marks, note, passes, stage, worker};
use crate::support::database::Database;
use crate::support::program::Program;

/// Three events, of which the handler refused the second, and a switch that makes it take it.
async fn with_dead_letter() -> (Database, eventloader::handler::HandlerWorker, Arc<AtomicBool>) {
    let database = stage().await;
    append_many(&database, "orders", 3).await;
    let accepts = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&accepts);
    let mut registry = HandlerRegistry::new();
    let call = async move |_: Value, event: LoggedEvent, transaction: &mut PgConnection| {
        note(&event, transaction).await?;
        if event.version == 2 && !switch.load(Ordering::Relaxed) {
            return Err(HandlerError::retry("the customer is unknown"));
        }
        Ok(())
    };
    registry.on("done", call).unwrap();
    let mut worker = worker(&database, "stock", registry);
    worker.max_attempts = 2;
    let report = passes(&database, &worker).await;
    assert_eq!((report.handled_count, report.dead_letter_count), (2, 1));
    (database, worker, accepts)
}

#[tokio::test]
async fn a_replayed_dead_letter_goes_through_its_handler_once() {
    let (database, worker, accepts) = with_dead_letter().await;
    let program = Program::new(&database, "");
    let done = program.run(&["dead-letters", "replay", "1", "--json"]).await;
    assert_eq!(done.json(), json!([{ "id": 1, "outcome": "replayed" }]), "{done:?}");
    assert!(letters(&database).await.is_empty());
    let (action, origin): (String, String) =
        sqlx::query_as("select action, origin from eventloader.audit_log")
            .fetch_one(&database.pool)
            .await
            .unwrap();
    assert_eq!((action.as_str(), origin.as_str()), ("replay dead letter", "stock"));

    accepts.store(true, Ordering::Relaxed);
    let report = passes(&database, &worker).await;
    assert_eq!((report.handled_count, report.repeated_count), (1, 0));
    assert_eq!(effects(&database).await, ["orders/1", "orders/2", "orders/3"]);
    assert_eq!((marks(&database).await, passes(&database, &worker).await.handled_count), (3, 0));
    let again = program.run(&["dead-letters", "replay", "1"]).await;
    assert_eq!(again.code, Some(1), "{again:?}");
}

#[tokio::test]
async fn a_replayed_event_that_fails_again_is_a_new_dead_letter() {
    let (database, worker, _) = with_dead_letter().await;
    let program = Program::new(&database, "");
    program.run(&["dead-letters", "replay", "1"]).await;
    let report = passes(&database, &worker).await;
    assert_eq!((report.failed_count, report.dead_letter_count), (1, 1));
    let letters = letters(&database).await;
    assert_eq!((letters[0].0.as_str(), letters[0].2), ("orders/2", 2));
    assert_eq!(effects(&database).await, ["orders/1", "orders/3"]);
}

#[tokio::test]
async fn a_replayed_event_without_a_handler_stays_a_dead_letter() {
    let (database, _, _) = with_dead_letter().await;
    Program::new(&database, "").run(&["dead-letters", "replay", "1"]).await;
    let mut registry = HandlerRegistry::new();
    registry.on::<Value>("other", super::noting).unwrap();
    assert_eq!(passes(&database, &worker(&database, "stock", registry)).await.dead_letter_count, 1);
    assert_eq!(letters(&database).await[0].1, "no handler is registered for done");
}

#[tokio::test]
async fn a_dead_letter_of_a_subscription_that_is_gone_says_so() {
    let (database, _, _) = with_dead_letter().await;
    database.execute("delete from eventloader.subscription").await;
    let refused = Program::new(&database, "").run(&["dead-letters", "replay", "1"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stdout.contains("not replayed: there is no subscription stock"), "{refused:?}");
    assert_eq!(letters(&database).await.len(), 1);
}
