//! `eventloader retry-worker`.

use rustix::process::Signal;
use serde_json::json;

use super::{assert_fails, json, seeded};
use crate::support::database::Database;
use crate::support::program::{Program, signal};
use crate::support::wait_for;

/// Events 11 to 15 of `orders` have arrived.
async fn arrive(database: &Database) {
    database
        .execute(
            "insert into eventloader.event_inbox (source_name, event_id, event_type, payload)
             select 'orders', n, 'order', jsonb_build_object('id', n) from generate_series(11, 15) n;
             update eventloader.source_cursor set last_requested_id = 15 where source_name = 'orders'",
        )
        .await;
}

#[tokio::test]
async fn a_pass_moves_what_has_arrived_and_then_finds_no_work() {
    let (database, program) = seeded().await;
    arrive(&database).await;
    let moved = program.run(&["retry-worker", "--once", "--json"]).await;
    let want = json!({
        "moved_count": 5, "duplicate_count": 0, "conflict_count": 0, "failed_count": 0, "exhausted_count": 0,
    });
    assert_eq!(json(&moved), want);
    let versions: Vec<i64> =
        database.column("select version from eventloader.events order by position").await;
    assert_eq!(versions, [11, 12, 13, 14, 15]);
    let idle = program.run(&["retry-worker", "--once"]).await;
    assert_eq!(idle.code, Some(0), "{idle:?}");
    assert!(idle.stdout.starts_with("no work"), "{idle:?}");
}

#[tokio::test]
async fn a_row_that_cannot_be_moved_fails_the_pass_and_not_its_neighbours() {
    let (database, program) = seeded().await;
    arrive(&database).await;
    database
        .execute("alter table eventloader.events add constraint not_thirteen check (version <> 13)")
        .await;
    let first = program.run(&["retry-worker", "--once", "--json"]).await;
    assert_eq!(first.code, Some(1), "{first:?}");
    let counts = first.json();
    assert_eq!((&counts["moved_count"], &counts["failed_count"]), (&json!(4), &json!(1)));
    assert!(
        first.stderr.contains("hint:") && first.stderr.contains("dead-letters list"),
        "{first:?}"
    );
    let status = json(&program.run(&["status", "--json"]).await);
    assert_eq!(status["sources"][1]["failing_inbox_count"], 1);
    assert_eq!(status["sources"][1]["last_stored_id"], 12, "the watermark stops before it");

    // While it waits for its next attempt nothing can be done, which is no failure.
    database
        .execute("update eventloader.event_inbox set next_attempt_at = clock_timestamp() + interval '1 hour'")
        .await;
    assert_eq!(program.run(&["retry-worker", "--once"]).await.code, Some(0));
    database.execute("update eventloader.event_inbox set next_attempt_at = null").await;
    let last = program
        .run_with(
            &[("EVENTLOADER_RETRY_WORKER__MAX_ATTEMPTS", "2")],
            &["retry-worker", "--once", "--json"],
        )
        .await;
    assert_eq!(last.code, Some(1), "{last:?}");
    assert_eq!(last.json()["exhausted_count"], 1);
    let letters = ["dead-letters", "list", "--origin", "orders", "--kind", "event", "--json"];
    let letter = &json(&program.run(&letters).await)[0];
    assert_eq!((&letter["reference"], &letter["attempts"]), (&json!("13"), &json!(2)));
    assert!(letter["reason"].as_str().unwrap().contains("not_thirteen"), "{letter}");

    database.execute("alter table eventloader.events drop constraint not_thirteen").await;
    let id = letter["id"].to_string();
    assert_eq!(program.run(&["dead-letters", "replay", &id]).await.code, Some(0));
    assert_eq!(json(&program.run(&["retry-worker", "--once", "--json"]).await)["moved_count"], 1);
}

#[tokio::test]
async fn without_once_it_moves_until_a_signal() {
    let (database, program) = seeded().await;
    let mut child = program.start(&["retry-worker"], "log");
    arrive(&database).await;
    wait_for("the moved events", || async {
        (database.value::<i64>("select count(*) from eventloader.events").await == 5).then_some(())
    })
    .await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn json_needs_once() {
    let program = Program::with_database_url("postgres://localhost/none", "");
    assert_fails(&program.run(&["retry-worker", "--json"]).await, 2, &["--once"]);
}
