//! `eventloader status`, `eventloader sources list`.

use rustix::process::Signal;
use serde_json::json;

use super::{json, keys, seeded};
use crate::support::database::Database;
use crate::support::program::{Program, signal};
use crate::support::wait_for;

const SOURCE_KEYS: [&str; 19] = [
    "dead_letter_count",
    "failing_inbox_count",
    "gap_count",
    "held_request_id",
    "held_status",
    "inbox_waiting_since",
    "last_request_at",
    "last_requested_id",
    "last_stored_id",
    "lease_expires_at",
    "lease_owner",
    "not_before",
    "part_of",
    "reason",
    "remedy",
    "since",
    "source_name",
    "state",
    "type",
];

#[tokio::test]
async fn status_tells_the_state_of_each_source_and_what_frees_it() {
    let (_database, program) = seeded().await;
    let status = json(&program.run(&["status", "--json"]).await);
    assert_eq!(
        keys(&status),
        [
            "dead_letter_count",
            "events_estimate",
            "inbox_count",
            "inbox_oldest_seconds",
            "last_position",
            "now",
            "sources"
        ]
    );
    assert_eq!(status["dead_letter_count"], 3);
    let bills = &status["sources"][0];
    assert_eq!(keys(bills), SOURCE_KEYS);
    let want = json!({
        "source_name": "bills", "type": "http", "state": "held", "reason": "no answer within the timeout",
        "remedy": "eventloader requests retry 2", "held_request_id": 2, "held_status": "failed",
        "last_requested_id": 20, "last_stored_id": 20, "dead_letter_count": 1, "failing_inbox_count": 0,
        "lease_owner": null, "lease_expires_at": null, "last_request_at": null, "not_before": null,
        "part_of": null, "gap_count": 0, "since": bills["since"], "inbox_waiting_since": null,
    });
    assert!(bills["since"].is_string(), "{bills}");
    assert_eq!(*bills, want);
    assert_eq!(status["sources"][1]["state"], "ok");

    let text = program.run(&["status"]).await;
    for part in
        ["dead letters 3", "SOURCE", "orders", "bills is held: eventloader requests retry 2"]
    {
        assert!(text.stdout.contains(part), "{part}: {}", text.stdout);
    }
    assert_eq!(json(&program.run(&["sources", "list", "--json"]).await), status["sources"]);
    assert!(program.run(&["sources", "list"]).await.stdout.contains("REQUESTED"));
}

#[tokio::test]
async fn without_sources_status_says_how_they_become_known() {
    let database = Database::migrated().await;
    let program = Program::new(&database, "");
    let status = json(&program.run(&["status", "--json"]).await);
    assert_eq!(status["sources"], json!([]));
    assert_eq!(status["last_position"], 0);
    let text = program.run(&["status"]).await;
    assert!(text.stdout.contains("no sources: `eventloader run` makes"), "{text:?}");
}

#[tokio::test]
async fn watching_goes_on_until_a_signal() {
    let (_database, program) = seeded().await;
    let shown = std::fs::File::create(program.path("shown")).unwrap();
    let mut command = program.command(&["status", "--watch"]);
    let mut child = command.stdout(shown).spawn().unwrap();
    wait_for("a second look", || async {
        (program.read("shown").matches("SOURCE").count() >= 2).then_some(())
    })
    .await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}
