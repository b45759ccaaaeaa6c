//! Several processes on one database: who asks what, how far apart, and what a dead one leaves behind.

use std::collections::HashMap;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::database::Database;
use crate::support::http::{self, Reply, Server};
use crate::support::program::{Program, signal};
use crate::support::wait_for;

const SPACING: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_share_twelve_sources_without_asking_twice_or_too_soon() {
    const SOURCES: i64 = 12;
    const EVENTS: i64 = 6000;
    let database = Database::migrated().await;
    // Slow enough that one instance with two places cannot keep up alone.
    let server = Server::start(|asked| {
        Reply::After(Duration::from_millis(100), Box::new(Reply::Json(http::page(asked, EVENTS))))
    })
    .await;
    let sources: String = (1..=SOURCES)
        .map(|n| {
            format!("[sources.s{n}]\ntype = \"http\"\nurl = \"http://{}/s{n}\"\n", server.address)
        })
        .collect();
    let program = Program::new(&database, &format!("[loader]\nconcurrency = 2\n{sources}"));
    let mut children = [program.start(&["run"], "log.1"), program.start(&["run"], "log.2")];

    wait_for("all events", || async {
        let count: i64 = database.value("select count(*) from eventloader.events").await;
        (count >= SOURCES * EVENTS).then_some(())
    })
    .await;
    let owners: i64 =
        database.value("select count(distinct owner) from eventloader.event_request_log").await;
    for child in &mut children {
        signal(child, Signal::TERM);
        assert_eq!(child.wait().await.unwrap().code(), Some(0));
    }

    assert_eq!(owners, 2, "both instances took part");
    let complete: i64 = database
        .value(
            "select count(*) from (
                 select stream from eventloader.events
                 group by stream
                 having count(*) = 6000 and min(version) = 1 and max(version) = 6000
             ) s",
        )
        .await;
    assert_eq!(complete, SOURCES, "every stream holds 1..=6000");
    let inversions: i64 = database
        .value(
            "select count(*) from (
                 select version < lag(version) over (partition by stream order by position) as inverted
                 from eventloader.events
             ) e where inverted",
        )
        .await;
    assert_eq!(inversions, 0, "position order is version order in each stream");
    assert_log(&server, EVENTS);
    let open: i64 = database
        .value(
            "select count(*) from eventloader.event_request_log where status not in ('succeeded')",
        )
        .await;
    assert_eq!(open, 0, "every request succeeded");
}

/// By the server's own log: windows with events were asked once, and requests of a source were 200 ms apart.
fn assert_log(server: &Server, event_count: i64) {
    let mut by_source: HashMap<String, Vec<http::Asked>> = HashMap::new();
    for asked in server.log() {
        by_source.entry(asked.path.clone()).or_default().push(asked);
    }
    for (source, asked) in by_source {
        let mut windows: Vec<i64> =
            asked.iter().map(|a| a.after_id).filter(|id| *id < event_count).collect();
        let count = windows.len();
        windows.sort_unstable();
        windows.dedup();
        assert_eq!(windows.len(), count, "{source}: a window was asked for twice");
        let mut times: Vec<_> = asked.iter().map(|a| a.at).collect();
        times.sort_unstable();
        let closest = times.windows(2).map(|pair| pair[1] - pair[0]).min();
        assert!(closest.is_none_or(|gap| gap >= SPACING), "{source}: requests {closest:?} apart");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_response_and_deposit_holds_the_window_until_an_operator_frees_it() {
    let database = Database::migrated().await;
    // The second window is answered late, so that the process can be stopped while its request runs.
    let server = Server::start(|asked| {
        let page = Reply::Json(http::page(asked, 30));
        match asked.after_id {
            10 => Reply::After(Duration::from_millis(300), Box::new(page)),
            _ => page,
        }
    })
    .await;
    let program = Program::new(
        &database,
        &format!(
            "[sources.api]\ntype = \"http\"\nurl = \"{}\"\nbatch_size = 10\nlease_ttl = \"500ms\"\n",
            server.url()
        ),
    );
    let mut victim = program.start(&["run"], "victim.log");
    wait_for("the second window", || async { server.windows().contains(&10).then_some(()) }).await;
    // Stopped, it cannot take the response that the server sends; killed, it never will.
    signal(&victim, Signal::STOP);
    tokio::time::sleep(Duration::from_millis(600)).await;
    victim.kill().await.unwrap();

    let mut successor = program.start(&["run"], "successor.log");
    let held = wait_for("the orphan", || async {
        let status = program.run(&["status", "--json"]).await.json();
        (status["sources"][0]["held_status"] == "orphaned").then_some(status)
    })
    .await;
    let source = &held["sources"][0];
    let request = source["held_request_id"].as_i64().unwrap();
    assert_eq!(source["state"], "held");
    assert_eq!(source["last_requested_id"], 10);
    assert_eq!(source["remedy"], format!("eventloader requests retry {request}"));
    assert!(source["reason"].as_str().unwrap().contains("vanished"), "{source}");
    assert_eq!(
        server.windows(),
        [0, 10],
        "a window of unknown outcome is not asked again by itself"
    );

    let freed = program.run(&["requests", "retry", &request.to_string()]).await;
    assert_eq!(freed.code, Some(0), "{freed:?}");
    wait_for("all events", || async {
        let count: i64 = database.value("select count(*) from eventloader.events").await;
        (count == 30).then_some(())
    })
    .await;
    signal(&successor, Signal::TERM);
    assert_eq!(successor.wait().await.unwrap().code(), Some(0));
    assert_eq!(
        server.windows()[..4],
        [0, 10, 10, 20],
        "asked again once, after the operator's word"
    );
    let closed_by: String = database
        .value("select closed_by from eventloader.event_request_log where status = 'retried'")
        .await;
    assert_eq!(closed_by, "operator tester");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_comes_after_the_lease_was_lost_is_stored() {
    let database = Database::migrated().await;
    let server = Server::start(|asked| {
        let page = Reply::Json(http::page(asked, 10));
        match asked.after_id {
            0 => Reply::After(Duration::from_millis(300), Box::new(page)),
            _ => page,
        }
    })
    .await;
    let program = Program::new(
        &database,
        &format!(
            "[sources.api]\ntype = \"http\"\nurl = \"{}\"\nlease_ttl = \"500ms\"\n",
            server.url()
        ),
    );
    let mut sleeper = program.start(&["run"], "sleeper.log");
    wait_for("the request", || async { (!server.log().is_empty()).then_some(()) }).await;
    signal(&sleeper, Signal::STOP);
    let mut other = program.start(&["run"], "other.log");
    wait_for("the orphan", || async {
        let count: i64 = database
            .value("select count(*) from eventloader.event_request_log where status = 'orphaned'")
            .await;
        (count == 1).then_some(())
    })
    .await;
    signal(&sleeper, Signal::CONT);
    wait_for("the late response", || async {
        let count: i64 = database.value("select count(*) from eventloader.events").await;
        (count == 10).then_some(())
    })
    .await;
    for child in [&mut sleeper, &mut other] {
        signal(child, Signal::TERM);
        assert_eq!(child.wait().await.unwrap().code(), Some(0));
    }
    assert_eq!(server.windows().iter().filter(|id| **id == 0).count(), 1);
}
