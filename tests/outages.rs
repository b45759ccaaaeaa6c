//! The database goes away in the middle of things.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::database::Database;
use crate::support::http::{self, Reply, Server};
use crate::support::program::{Program, signal};
use crate::support::wait_for;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_at_any_moment_lose_nothing_and_ask_nothing_twice() {
    const SOURCES: i64 = 4;
    const EVENTS: i64 = 4000;
    let database = Database::migrated().await;
    let server = Server::start(|asked| {
        Reply::After(Duration::from_millis(20), Box::new(Reply::Json(http::page(asked, EVENTS))))
    })
    .await;
    let sources: String = (1..=SOURCES)
        .map(|n| {
            format!(
                "[sources.s{n}]\ntype = \"http\"\nurl = \"http://{}/s{n}\"\nbatch_size = 250\n",
                server.address
            )
        })
        .collect();
    let program = Program::new(&database, &sources);
    let mut children = [program.start(&["run"], "log.1"), program.start(&["run"], "log.2")];

    for log in ["log.1", "log.2"] {
        wait_for("the start", || async {
            let text = std::fs::read_to_string(program.path(log)).unwrap();
            text.contains("eventloader is running").then_some(())
        })
        .await;
    }

    // Cuts every connection of the two instances, again and again, until half of the events are there.
    let cut_count = wait_for("half of the events", {
        let cuts = std::sync::atomic::AtomicI64::new(0);
        let database = &database;
        move || {
            let cuts = cuts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async move {
                tokio::time::sleep(Duration::from_millis(40)).await;
                database
                    .execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity
                         where datname = current_database() and pid <> pg_backend_pid()
                           and state = 'active'",
                    )
                    .await;
                let count: i64 = database.value("select count(*) from eventloader.events").await;
                (count >= SOURCES * EVENTS / 2).then_some(cuts)
            }
        }
    })
    .await;
    assert!(cut_count > 10, "{cut_count} cuts are too few to show anything");
    wait_for("all events", || async {
        let count: i64 = database.value("select count(*) from eventloader.events").await;
        (count >= SOURCES * EVENTS).then_some(())
    })
    .await;
    for child in &mut children {
        signal(child, Signal::TERM);
        assert_eq!(child.wait().await.unwrap().code(), Some(0));
    }

    let count: i64 = database.value("select count(*) from eventloader.events").await;
    assert_eq!(count, SOURCES * EVENTS);
    assert_nothing_is_held_or_asked_twice(&database, &server, EVENTS).await;
}

async fn assert_nothing_is_held_or_asked_twice(
    database: &Database,
    server: &Server,
    event_count: i64,
) {
    let held: i64 = database
        .value(
            "select count(*) from eventloader.event_request_log
             where status in ('failed', 'orphaned', 'reserved')",
        )
        .await;
    assert_eq!(held, 0, "no reply that was lost holds a window");
    let mut asked: Vec<_> = server
        .log()
        .into_iter()
        .filter(|asked| asked.after_id < event_count)
        .map(|asked| (asked.path, asked.after_id))
        .collect();
    let total = asked.len();
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len(), total, "a window was asked for twice");
}
