//! End to end: sources → inbox → `events`, with the real binary.

use std::collections::HashMap;

use rustix::process::Signal;

use crate::support::database::Database;
use crate::support::http::Server;
use crate::support::program::{Program, signal};
use crate::support::wait_for;

/// Waits until the log holds so many events.
async fn events(database: &Database, count: i64) {
    wait_for("the events", || async {
        (database.value::<i64>("select count(*) from eventloader.events").await >= count)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_event_of_an_api_and_a_file_arrives_once_and_in_order() {
    let database = Database::migrated().await;
    let server = Server::with_events(2500).await;
    let program = Program::new(
        &database,
        &format!(
            "[sources.api]\ntype = \"http\"\nurl = \"{}\"\n[sources.file]\ntype = \"file\"\npath = \"events.ndjson\"\n",
            server.url()
        ),
    );
    let lines: Vec<String> = (1..=50).map(|id| format!("{{\"id\":{id}}}\n")).collect();
    std::fs::write(program.path("events.ndjson"), lines.concat()).unwrap();

    let mut child = program.start(&["run"], "log");
    events(&database, 2550).await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));

    let stored: Vec<i64> = database
        .column("select version from eventloader.events where stream = 'api' order by position")
        .await;
    assert_eq!(stored, (1..=2500).collect::<Vec<i64>>());
    let stored: Vec<i64> = database
        .column("select version from eventloader.events where stream = 'file' order by position")
        .await;
    assert_eq!(stored, (1..=50).collect::<Vec<i64>>());
    let left: i64 = database.value("select count(*) from eventloader.event_inbox").await;
    assert_eq!(left, 0);
    assert_windows_asked_once(&server);
}

/// Every window that had events was asked for once.
fn assert_windows_asked_once(server: &Server) {
    let mut counts: HashMap<i64, usize> = HashMap::new();
    for after_id in server.windows() {
        *counts.entry(after_id).or_default() += 1;
    }
    for after_id in [0, 1000, 2000] {
        assert_eq!(counts.get(&after_id), Some(&1), "window after {after_id}");
    }
}
