//! Upkeep as a part of `eventloader run`.

use std::time::Duration;

use eventloader::loader::Stop;
use eventloader::upkeep::Schedule;
use eventloader::upkeep::prune::Retention;
use rustix::process::Signal;

use super::{add, archived, count, failed, seeded};
use crate::support::database::Database;
use crate::support::http::Server;
use crate::support::program::{Program, signal};
use crate::support::wait_for;

fn source(server: &Server) -> String {
    format!("[sources.api]\ntype = \"http\"\nurl = \"{}\"\n", server.url())
}

#[tokio::test]
async fn run_prunes_and_makes_partitions_when_it_is_told_to() {
    let database = seeded().await;
    let server = Server::with_events(30).await;
    let upkeep = "[request_log]\nprune_every = \"1m\"\narchive = true\nmonths_ahead = 4\n";
    let (_, url) = database.login(Some("eventloader_runtime")).await;
    let program = Program::with_database_url(&url, &(source(&server) + upkeep));
    let mut child = program.start(&["run"], "log");
    wait_for("the pruned log", || async { (archived(&database).await == 7).then_some(()) }).await;
    let ahead: i64 = database
        .value(
            "select count(*) from generate_series(0, 3) n
             where to_regclass('eventloader.event_request_log_archive_'
                 || to_char((clock_timestamp() at time zone 'UTC') + interval '1 month' * n, 'YYYY_MM')) is not null",
        )
        .await;
    assert_eq!(ahead, 4);
    wait_for("the line that says so", || async {
        program.read("log").contains("request log pruned").then_some(())
    })
    .await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));
    assert_eq!(database.value::<i64>("select count(*) from eventloader.events").await, 30);
}

#[tokio::test]
async fn a_run_that_fails_is_told_and_stops_nothing() {
    let database = seeded().await;
    database.execute("drop table eventloader.event_request_log_archive").await;
    let server = Server::with_events(30).await;
    let upkeep = "[request_log]\nprune_every = \"1m\"\narchive = true\n";
    let program = Program::new(&database, &(source(&server) + upkeep));
    let mut child = program.start(&["run"], "log");
    let line = wait_for("the warning", || async {
        let log = program.read("log");
        log.lines()
            .find(|line| line.contains("upkeep of the request log failed"))
            .map(str::to_owned)
    })
    .await;
    assert!(
        line.contains("event_request_log_archive") && line.contains("docs/upkeep.md"),
        "{line}"
    );
    wait_for("all events", || async {
        let stored: i64 = database.value("select count(*) from eventloader.events").await;
        (stored == 30).then_some(())
    })
    .await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));
}

#[tokio::test]
async fn upkeep_can_run_in_a_process_of_its_own() {
    let database = seeded().await;
    let program = Program::new(&database, "[request_log]\nprune_every = \"1m\"\n");
    let mut child = program.start(&["run", "--only", "upkeep"], "log");
    wait_for("the pruned log", || async { (count(&database).await == 21).then_some(()) }).await;
    signal(&child, Signal::INT);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));

    let idle = Program::new(&database, "").run(&["run", "--only", "upkeep"]).await;
    failed(&idle, 78, &["prune_every"]);
}

#[tokio::test]
async fn it_goes_on_after_a_run_and_after_a_failure_until_it_is_stopped() {
    let database = Database::migrated().await;
    database.register("s", 0).await;
    let long_ago = "clock_timestamp() - interval '10 days'";
    add(&database, "succeeded", long_ago, 5).await;
    let stop = Stop::default();
    let schedule = Schedule {
        pool: database.pool.clone(),
        every: Duration::from_millis(20),
        retention: Retention { succeeded_days: 7, failed_days: 30, archive: false },
        months_ahead: 3,
    };
    let task = tokio::spawn(schedule.run(stop.clone()));
    let is_empty = || async { (count(&database).await == 0).then_some(()) };
    wait_for("the first run", is_empty).await;
    database.execute("alter table eventloader.event_request_log rename to away").await;
    // Meanwhile it fails again and again.
    wait_for("a failed run", || async {
        let rolled_back: bool = database
            .value(
                "select xact_rollback > 0 from pg_stat_database where datname = current_database()",
            )
            .await;
        rolled_back.then_some(())
    })
    .await;
    database.execute("alter table eventloader.away rename to event_request_log").await;
    add(&database, "succeeded", long_ago, 5).await;
    wait_for("a later run", is_empty).await;
    stop.intake.cancel();
    task.await.unwrap();
}
