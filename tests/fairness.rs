//! One source's trouble is nobody else's.

use std::time::Duration;

use crate::support::database::Database;
use crate::support::http::{self, Reply, Server};
use crate::support::program::Program;
use crate::support::wait_for;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_that_hang_leave_places_to_those_that_answer() {
    const HEALTHY: i64 = 5;
    let database = Database::migrated().await;
    let healthy = Server::start(|asked| Reply::Json(http::page(asked, 3000))).await;
    let hanging =
        Server::start(|_| Reply::After(Duration::from_mins(10), Box::new(Reply::Drop))).await;
    let sources: String = (1..=HEALTHY)
        .map(|n| format!("[sources.a{n}]\ntype = \"http\"\nurl = \"{}\"\n", healthy.url()))
        // Enough to take the places of the first lane, for longer than the test takes.
        .chain((1..=6).map(|n| {
            format!(
                "[sources.b{n}]\ntype = \"http\"\ntimeout = \"10m\"\nurl = \"{}\"\n",
                hanging.url()
            )
        }))
        .collect();
    let program = Program::new(&database, &format!("[loader]\nconcurrency = 12\n{sources}"));
    let _child = program.start(&["run"], "log");
    wait_for("all events of the healthy sources", || async {
        let count: i64 = database.value("select count(*) from eventloader.events").await;
        (count == HEALTHY * 3000).then_some(())
    })
    .await;
    assert_eq!(hanging.log().len(), 6, "all of them are asked, too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_sources_are_all_asked() {
    const SOURCES: usize = 2000;
    let database = Database::migrated().await;
    let server = Server::start(|asked| Reply::Json(http::page(asked, 2))).await;
    let sources: String = (0..SOURCES)
        .map(|n| format!("[sources.s{n}]\ntype = \"http\"\nurl = \"{}\"\n", server.url()))
        .collect();
    let program = Program::new(&database, &format!("[loader]\nmax_idle = \"1h\"\n{sources}"));
    let _child = program.start(&["run"], "log");
    wait_for("two events of every source", || async {
        let count: i64 = database.value("select count(*) from eventloader.events").await;
        (usize::try_from(count) == Ok(2 * SOURCES)).then_some(())
    })
    .await;
    let connections: i64 = database
        .value(
            "select count(*) from pg_stat_activity
             where datname = current_database() and application_name = 'eventloader'",
        )
        .await;
    assert!(connections <= 18, "{connections} connections, ten of them the program's at most");
}
