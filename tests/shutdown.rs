//! Stopping: what is in flight is finished, nothing new begins, and what cannot be finished is written down.

use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Child;

use crate::support::database::Database;
use crate::support::http::{Reply, Server, page};
use crate::support::program::{Program, signal};
use crate::support::wait_for;

struct Bundle {
    database: Database,
    server: Server,
    program: Program,
    child: Child,
}

/// `run` with a request in flight at a server that answers after `delay`.
async fn in_flight(delay: Duration) -> Bundle {
    let database = Database::migrated().await;
    let server =
        Server::start(move |asked| Reply::After(delay, Box::new(Reply::Json(page(asked, 5)))))
            .await;
    let program = Program::new(
        &database,
        &format!(
            "[loader]\nlease_ttl = \"500ms\"\n[sources.api]\ntype = \"http\"\nurl = \"{}\"\n",
            server.url()
        ),
    );
    let child = program.start(&["run"], "log");
    wait_for("a request", || async { (!server.log().is_empty()).then_some(()) }).await;
    Bundle { database, server, program, child }
}

impl Bundle {
    async fn statuses(&self) -> Vec<String> {
        self.database.column("select status from eventloader.event_request_log order by id").await
    }

    async fn assert_lease_is_free(&self) {
        let held: i64 = self
            .database
            .value("select count(*) from eventloader.source_lease where owner is not null")
            .await;
        assert_eq!(held, 0);
    }

    async fn wait_for_log(&self, text: &str) {
        wait_for(text, || async { self.program.read("log").contains(text).then_some(()) }).await;
    }
}

#[tokio::test]
async fn a_request_in_flight_is_finished_and_no_other_begins() {
    let mut bundle = in_flight(Duration::from_secs(2)).await;
    signal(&bundle.child, Signal::TERM);
    bundle.wait_for_log("stopping").await;
    assert_eq!(bundle.statuses().await, ["reserved"], "the answer is not there yet");
    assert_eq!(
        bundle.child.wait().await.unwrap().code(),
        Some(0),
        "{}",
        bundle.program.read("log")
    );

    assert_eq!(bundle.server.windows(), [0]);
    let statuses = bundle.statuses().await;
    assert!(statuses == ["inbox_only"] || statuses == ["succeeded"], "{statuses:?}");
    let stored: i64 = bundle
        .database
        .value("select (select count(*) from eventloader.events) + (select count(*) from eventloader.event_inbox)")
        .await;
    assert_eq!(stored, 5);
    bundle.assert_lease_is_free().await;
    let connections: i64 = bundle
        .database
        .value(
            "select count(*) from pg_stat_activity
             where datname = current_database() and application_name = 'eventloader' and pid <> pg_backend_pid()
                 and state <> 'idle'",
        )
        .await;
    assert_eq!(connections, 0);
}

#[tokio::test]
async fn a_second_signal_leaves_at_once_and_the_window_is_held_as_orphaned() {
    let mut bundle = in_flight(Duration::from_mins(1)).await;
    signal(&bundle.child, Signal::TERM);
    bundle.wait_for_log("stopping").await;
    signal(&bundle.child, Signal::INT);
    let ended = tokio::time::timeout(Duration::from_secs(5), bundle.child.wait()).await;
    assert_eq!(ended.unwrap().unwrap().code(), Some(1), "{}", bundle.program.read("log"));
    bundle.wait_for_log("stopped at once by a second signal").await;
    assert_eq!(bundle.statuses().await, ["reserved"]);

    // The next instance finds out, and does not ask the window again by itself.
    let mut next = bundle.program.start(&["run"], "next");
    wait_for("the orphan", || async { (bundle.statuses().await == ["orphaned"]).then_some(()) })
        .await;
    signal(&next, Signal::TERM);
    assert_eq!(next.wait().await.unwrap().code(), Some(0));
    assert_eq!(bundle.server.windows(), [0]);
    bundle.assert_lease_is_free().await;
}

#[tokio::test]
async fn a_request_that_outlasts_the_drain_is_written_down_as_unknown() {
    let mut bundle = in_flight(Duration::from_mins(1)).await;
    signal(&bundle.child, Signal::INT);
    assert_eq!(
        bundle.child.wait().await.unwrap().code(),
        Some(0),
        "{}",
        bundle.program.read("log")
    );
    assert_eq!(bundle.statuses().await, ["failed"]);
    let error: String =
        bundle.database.value("select error from eventloader.event_request_log").await;
    assert!(error.contains("stopped while the request was running"), "{error}");
    bundle.assert_lease_is_free().await;
}

#[tokio::test]
async fn a_start_that_waits_for_the_migration_of_another_can_be_stopped() {
    let database = Database::empty().await;
    let mut migrating = database.pool.acquire().await.unwrap();
    // As an instance holds it that migrates.
    let lock = "select pg_advisory_lock(17740, 1)";
    sqlx::query(lock).execute(&mut *migrating).await.unwrap();
    let program =
        Program::new(&database, "[sources.api]\ntype = \"http\"\nurl = \"http://127.0.0.1:9\"\n");
    let mut child = program.start(&["run"], "log");
    wait_for("a start that waits", async || {
        let waiting = "select exists (select from pg_stat_activity
            where datname = current_database() and wait_event = 'advisory')";
        database.value::<bool>(waiting).await.then_some(())
    })
    .await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));
    assert!(program.read("log").contains("stopped before it was running"));
    migrating.close().await.unwrap();
    assert_eq!(program.run(&["migrate"]).await.code, Some(0));
}
