//! What one request costs the database, and what becomes of a process: start, and the end of an owner.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::figure::{Figure, Goal};
use super::pages::configuration;
use super::{fresh, ratio, retire};
use crate::round_trips::proxy;
use crate::support::http::{self, Reply, Server};
use crate::support::program::{Program, signal};
use crate::support::wait_for;

/// Round trips per request, by a proxy before the database that counts the ends of its answers.
pub(super) async fn round_trips() {
    let (database, directory) = (fresh().await, tempfile::tempdir().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    proxy(&database, directory.path(), Arc::clone(&count));
    let server = Server::start(|asked| Reply::Json(http::page(asked, i64::MAX))).await;
    let lines = "batch_size = 10\n";
    let url = database.url_at(directory.path());
    let program = Program::with_database_url(&url, &configuration(&server, 20, lines));
    let mut child = program.start(&["run", "--only", "loader"], "log");
    let asked = async |more_than: usize| {
        wait_for("requests", async || (server.log().len() > more_than).then_some(())).await;
        (server.log().len(), count.load(Ordering::Relaxed))
    };
    let (first_asked, first_trips) = asked(200).await;
    let (last_asked, last_trips) = asked(first_asked + 1000).await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));
    Figure {
        row: "round_trips",
        what: "database round trips per request".to_owned(),
        ours: vec![ratio(last_trips - first_trips, last_asked - first_asked)],
        floor: vec![],
        goal: Some(Goal::at_most(2.0)),
        note: format!("{} requests of 20 sources, real binary", last_asked - first_asked),
    }
    .publish();
    retire(database).await;
}

/// From the start of the process to its first request, on a database that has the schema and the sources.
pub(super) async fn start() {
    let database = fresh().await;
    let server = Server::with_events(1).await;
    let program = Program::new(&database, &configuration(&server, 100, ""));
    let (mut ready, mut first_request) = (Vec::new(), Vec::new());
    for n in 0..6 {
        let before = server.log().len();
        let began = Instant::now();
        let log = format!("log.{n}");
        let mut child = program.start(&["run"], &log);
        while !program.read(&log).contains("eventloader is running") {
            assert!(began.elapsed() < Duration::from_secs(30), "{}", program.read(&log));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let took = began.elapsed();
        let asked = wait_for("a request", async || server.log().get(before).cloned()).await;
        // The first one makes the sources known.
        if n > 0 {
            ready.push(took.as_secs_f64() * 1e3);
            first_request.push((asked.at - began).as_secs_f64() * 1e3);
        }
        signal(&child, Signal::TERM);
        assert_eq!(child.wait().await.unwrap().code(), Some(0));
    }
    let goal = Some(Goal::at_most(100.0));
    let figure = |what: &str, ours| Figure {
        row: "start",
        what: what.to_owned(),
        ours,
        floor: vec![],
        goal,
        note: "100 sources that are known".to_owned(),
    };
    figure("start to ready, ms", ready).publish();
    figure("start to the first request, ms", first_request).publish();
    retire(database).await;
}

/// From the SIGKILL of an instance with a request under way until another one has taken its source over.
pub(super) async fn takeover() {
    let mut took = Vec::new();
    for _ in 0..5 {
        let database = fresh().await;
        let server =
            Server::start(|_| Reply::After(Duration::from_mins(5), Box::new(Reply::Drop))).await;
        let program = Program::new(&database, &configuration(&server, 1, ""));
        let mut owner = program.start(&["run"], "owner");
        wait_for("the owner's request", async || server.log().first().cloned()).await;
        let mut other = program.start(&["run"], "other");
        // Past a heartbeat or two, so that the lease is as fresh as it ever is.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        owner.start_kill().unwrap();
        let began = Instant::now();
        owner.wait().await.unwrap();
        wait_for("the other instance", async || {
            let taken = "select coalesce(bool_or(status = 'orphaned'), false) from eventloader.event_request_log";
            database.value::<bool>(taken).await.then_some(())
        })
        .await;
        took.push(began.elapsed().as_secs_f64());
        signal(&other, Signal::TERM);
        other.wait().await.unwrap();
        retire(database).await;
    }
    Figure {
        row: "takeover",
        what: "a dead owner's source is taken over after, s".to_owned(),
        ours: took,
        floor: vec![],
        goal: Some(Goal::at_most(3.0)),
        note: "lease_ttl 2 s; killed while its request runs".to_owned(),
    }
    .publish();
}
