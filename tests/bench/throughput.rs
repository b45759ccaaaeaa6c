//! How fast: sources → inbox → `events` with the real binary, and the move alone. What the same runs say of CPU, memory
//! and WAL besides.

use std::time::Duration;

use rustix::process::Signal;
use tempfile::tempdir;
use tokio::time::Instant;

use super::figure::{Figure, Goal};
use super::floor::{self, Work};
use super::machine::{cpu_of, cpu_of_server, memory_of};
use super::pages::{self, configuration};
use super::{RUNS, events_per, fresh, retire, wait_for_loaded, wal_bytes};
use crate::support::database::Database;
use crate::support::http::Server;
use crate::support::program::{Program, signal};

const SOURCES: usize = 32;
const PAGES: usize = 10;

/// What one run cost.
#[derive(Clone, Copy, Default)]
pub(super) struct Cost {
    pub(super) seconds: f64,
    pub(super) wal_bytes: f64,
    /// CPU-seconds of the server, all its processes.
    pub(super) server_cpu: f64,
    /// CPU-seconds of our processes.
    pub(super) cpu: f64,
    /// Of our largest process at its largest, MB.
    pub(super) memory_peak: f64,
}

/// Loads all pages of all sources with so many instances, each a process of its own, from their start on.
pub(super) async fn load(
    database: &Database,
    server: &Server,
    (sources, page_count): (usize, usize),
    instances: usize,
) -> Cost {
    let program = Program::new(database, &configuration(server, sources, ""));
    let (wal, server_cpu) = (wal_bytes(database).await, cpu_of_server(database).await);
    let began = Instant::now();
    let mut children: Vec<_> =
        (0..instances).map(|n| program.start(&["run"], &format!("log.{n}"))).collect();
    wait_for_loaded(database, sources * page_count * pages::BATCH).await;
    let mut cost = Cost { seconds: began.elapsed().as_secs_f64(), ..Cost::default() };
    for child in &children {
        let pid = child.id().unwrap();
        cost.cpu += cpu_of(pid);
        cost.memory_peak = cost.memory_peak.max(memory_of(pid, "VmHWM"));
    }
    cost.wal_bytes = wal_bytes(database).await - wal;
    cost.server_cpu = cpu_of_server(database).await - server_cpu;
    for child in &mut children {
        signal(child, Signal::TERM);
        assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log.0"));
    }
    cost
}

/// The same by `psql`: COPY, then the move.
async fn by_psql(work: Work) -> (Cost, f64) {
    let (database, directory) = (fresh().await, tempdir().unwrap());
    floor::set_up(&database).await;
    work.write_files(directory.path());
    database.execute("checkpoint").await;
    let (wal, server_cpu) = (wal_bytes(&database).await, cpu_of_server(&database).await);
    let copied = work.copy(&database, directory.path(), "floor.inbox").await;
    let moved = work.move_all(&database, directory.path()).await;
    let cost = Cost {
        seconds: copied + moved,
        wal_bytes: wal_bytes(&database).await - wal,
        server_cpu: cpu_of_server(&database).await - server_cpu,
        ..Cost::default()
    };
    retire(database).await;
    (cost, copied)
}

/// Source → inbox → `events`, end to end; CPU, WAL and memory of the same runs.
pub(super) async fn end_to_end() {
    let work = Work { sources: SOURCES, pages: PAGES, sessions: floor::cores() };
    let count = work.event_count();
    let server = pages::serve(PAGES).await;
    let (mut ours, mut floors, mut copies) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (cost, copied) = by_psql(work).await;
        floors.push(cost);
        copies.push(events_per(count, copied));
        let database = fresh().await;
        ours.push(load(&database, &server, (SOURCES, PAGES), 1).await);
        retire(database).await;
    }
    let each = |costs: &[Cost], of: fn(&Cost) -> f64| costs.iter().map(of).collect::<Vec<_>>();
    let per_second = |costs: &[Cost]| -> Vec<f64> {
        costs.iter().map(|cost| events_per(count, cost.seconds)).collect()
    };
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let per_event = |costs: &[Cost], of: fn(&Cost) -> f64| -> Vec<f64> {
        costs.iter().map(|cost| of(cost) / count as f64).collect()
    };
    let row = "end_to_end";
    let note = format!(
        "{SOURCES} http sources, {count} events; COPY alone {:.0} k/s",
        super::median(copies) / 1e3
    );
    let figures = [
        (
            "events/s, source → inbox → events",
            per_second(&ours),
            per_second(&floors),
            Some(Goal::ratio_at_least(0.8)),
            note.as_str(),
        ),
        (
            "events per CPU-second of our process",
            ours.iter().map(|cost| events_per(count, cost.cpu)).collect(),
            vec![],
            Some(Goal::at_least(150_000.0)),
            "",
        ),
        (
            "CPU of the server, µs per event",
            per_event(&ours, |c| c.server_cpu * 1e6),
            per_event(&floors, |c| c.server_cpu * 1e6),
            None,
            "",
        ),
        (
            "WAL per event, bytes",
            per_event(&ours, |c| c.wal_bytes),
            per_event(&floors, |c| c.wal_bytes),
            Some(Goal::ratio_at_most(1.05)),
            "",
        ),
        (
            "memory at its highest under full load, MB",
            each(&ours, |c| c.memory_peak),
            vec![],
            Some(Goal::at_most(36.0)),
            "",
        ),
    ];
    for (what, ours, floor, goal, note) in figures {
        Figure { row, what: what.to_owned(), ours, floor, goal, note: note.to_owned() }.publish();
    }
}

/// The move alone, over an inbox that is full: `retry-worker --once`, which has one connection, and the worker that runs,
/// which has several.
pub(super) async fn moving() {
    for (sessions, what) in
        [(1, "events/s, retry-worker --once"), (floor::cores(), "events/s, retry-worker")]
    {
        let work = Work { sources: 8, pages: 25, sessions };
        let (mut ours, mut floors) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let (database, directory) = (fresh().await, tempdir().unwrap());
            floor::set_up(&database).await;
            work.write_files(directory.path());
            work.copy(&database, directory.path(), "floor.inbox").await;
            database.execute("checkpoint").await;
            floors.push(events_per(
                work.event_count(),
                work.move_all(&database, directory.path()).await,
            ));
            retire(database).await;

            let took = move_preloaded(work, sessions == 1).await;
            ours.push(events_per(work.event_count(), took));
        }
        Figure {
            row: "move",
            what: what.to_owned(),
            ours,
            floor: floors,
            goal: Some(Goal::ratio_at_least(0.95)),
            note: format!("{} events in the inbox; psql: {sessions} sessions", work.event_count()),
        }
        .publish();
    }
}

/// Fills an inbox and moves it; seconds, from the start of the process.
pub(super) async fn move_preloaded(work: Work, once: bool) -> f64 {
    let database = fresh().await;
    fill_inbox(&database, work).await;
    let took = move_all(&database, once, work.event_count()).await;
    retire(database).await;
    took
}

/// As the loader leaves it: a request a page.
async fn fill_inbox(database: &Database, work: Work) {
    let directory = tempdir().unwrap();
    work.write_files(directory.path());
    for source in 0..work.sources {
        database.register(&format!("s{source}"), 0).await;
    }
    work.copy(database, directory.path(), "eventloader.event_inbox").await;
    let last = work.pages * pages::BATCH;
    database
        .run_sql(format!(
            "update eventloader.source_cursor set last_requested_id = {last};
             insert into eventloader.event_request_log
                 (source_name, after_id, limit_count, attempt, status, token, epoch, owner, max_id, event_count)
             select source_name, after_id, 1000, 1, 'inbox_only', gen_random_uuid(), 1, 'bench', after_id + 1000, 1000
             from eventloader.source, generate_series(0, {last} - 1, 1000) after_id;
             analyze eventloader.event_inbox"
        ))
        .await;
    database.execute("checkpoint").await;
}

/// Seconds from the start of the process until all is moved.
async fn move_all(database: &Database, once: bool, count: usize) -> f64 {
    let program = Program::new(database, "");
    let began = Instant::now();
    if once {
        let finished = program.run(&["retry-worker", "--once", "--json"]).await;
        let took = began.elapsed();
        assert_eq!(finished.json()["moved_count"], count, "{finished:?}");
        return took.as_secs_f64();
    }
    let mut child = program.start(&["retry-worker"], "log");
    wait_for_loaded(database, count).await;
    let took = began.elapsed();
    signal(&child, Signal::TERM);
    tokio::time::timeout(Duration::from_secs(30), child.wait()).await.unwrap().unwrap();
    took.as_secs_f64()
}
