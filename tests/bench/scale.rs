//! How cost grows with the number of sources and of instances.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::figure::{Figure, Goal};
use super::machine::{cpu_of, cpu_of_server, memory_of};
use super::pages::{self, configuration};
use super::steady::end;
use super::throughput::load;
use super::{RUNS, events_per, fresh, quantile, ratio, retire};
use crate::support::http::{Asked, Reply, Server, page};
use crate::support::program::Program;

/// What so many idle sources cost.
struct Idle {
    requests: usize,
    seconds: f64,
    /// CPU-seconds of our process.
    cpu: f64,
    server_cpu: f64,
    connections: i64,
    /// Resident, MB.
    memory: f64,
}

impl Idle {
    fn micros_per_request(&self, cpu: f64) -> f64 {
        cpu * 1e6 / events_per(self.requests, 1.0)
    }

    fn note(&self, max_idle: Duration) -> String {
        format!(
            "max_idle {max_idle:?}: {:.0} requests/s, {:.0} µs of CPU each, and {:.0} µs of the server",
            events_per(self.requests, self.seconds),
            self.micros_per_request(self.cpu),
            self.micros_per_request(self.server_cpu)
        )
    }
}

/// One process with sources that have nothing new, watched for `length` once each has found its longest pause.
async fn idle_with(sources: usize, max_idle: Duration, settle: Duration, length: Duration) -> Idle {
    let database = fresh().await;
    let server = Server::start(|_| Reply::Json("[]".to_owned())).await;
    let lines = format!("max_idle = \"{}ms\"\n", max_idle.as_millis());
    let program = Program::new(&database, &configuration(&server, sources, &lines));
    let child = program.start(&["run"], "log");
    let pid = child.id().unwrap();
    sleep(settle).await;
    let (cpu, server_cpu) = (cpu_of(pid), cpu_of_server(&database).await);
    let (asked, began, mut connections) = (server.log().len(), Instant::now(), 0);
    while began.elapsed() < length {
        let now = "select count(*) from pg_stat_activity where datname = current_database() and \
                   application_name = 'eventloader'";
        connections = connections.max(database.value::<i64>(now).await);
        sleep(Duration::from_secs(1)).await;
    }
    let idle = Idle {
        requests: server.log().len() - asked,
        seconds: began.elapsed().as_secs_f64(),
        cpu: cpu_of(pid) - cpu,
        server_cpu: cpu_of_server(&database).await - server_cpu,
        connections,
        memory: memory_of(pid, "VmRSS"),
    };
    end(child).await;
    retire(database).await;
    idle
}

/// 100 and 10,000 idle sources.
pub(super) async fn idle() {
    const LENGTH: Duration = Duration::from_secs(30);
    let publish = |what: &str, value: f64, goal: Option<Goal>, note: String| {
        let what = what.to_owned();
        Figure { row: "idle", what, ours: vec![value], floor: vec![], goal, note }.publish();
    };
    let max_idle = Duration::from_secs(5);
    let few = idle_with(100, max_idle, Duration::from_secs(25), LENGTH).await;
    publish("100 sources: memory, MB", few.memory, Some(Goal::at_most(25.0)), few.note(max_idle));
    // The default max_idle, and one for that many sources.
    for (max_idle, settle) in
        [(5, 40), (60, 60)].map(|(a, b)| (Duration::from_secs(a), Duration::from_secs(b)))
    {
        let many = idle_with(10_000, max_idle, settle, LENGTH).await;
        let what = |what| format!("10,000 sources, max_idle {max_idle:?}: {what}");
        let share = many.cpu / many.seconds * 100.0;
        publish(&what("% of a core"), share, Some(Goal::at_most(5.0)), many.note(max_idle));
        let connections = events_per(usize::try_from(many.connections).unwrap(), 1.0);
        publish(
            &what("connections"),
            connections,
            Some(Goal::at_most(10.0)),
            "max_connections 10".to_owned(),
        );
        publish(&what("memory, MB"), many.memory, None, String::new());
    }
}

/// The curves: from 10 to 10,000 sources, from 1 to 16 instances.
pub(super) async fn scale() {
    let publish = |what: String, value: f64| {
        Figure {
            row: "scale",
            what,
            ours: vec![value],
            floor: vec![],
            goal: None,
            note: String::new(),
        }
        .publish();
    };
    // About 150 requests a second each, so that a request costs what it costs beside others.
    for (sources, max_idle) in [(10, 200), (100, 1000), (1000, 7000), (10_000, 60_000)] {
        let max_idle = Duration::from_millis(max_idle);
        let settle = Duration::from_secs(if sources == 10_000 { 45 } else { 12 });
        let idle = idle_with(sources, max_idle, settle, Duration::from_secs(15)).await;
        publish(
            format!("{sources} sources: our µs per request"),
            idle.micros_per_request(idle.cpu),
        );
        publish(
            format!("{sources} sources: server µs per request"),
            idle.micros_per_request(idle.server_cpu),
        );
        publish(format!("{sources} sources: memory, MB"), idle.memory);
    }
    let server = pages::serve(10).await;
    for instances in [1, 2, 4, 8, 16] {
        let database = fresh().await;
        let cost = load(&database, &server, (32, 10), instances).await;
        retire(database).await;
        publish(format!("{instances} instances: events/s"), events_per(320_000, cost.seconds));
        publish(format!("{instances} instances: our µs per event"), cost.cpu * 1e6 / 320_000.0);
        publish(
            format!("{instances} instances: server µs per event"),
            cost.server_cpu * 1e6 / 320_000.0,
        );
    }
}

/// Eight instances against one, then the spacing they keep together.
pub(super) async fn instances() {
    const SOURCES: usize = 32;
    const PAGES: usize = 10;
    let server = pages::serve(PAGES).await;
    let count = SOURCES * PAGES * pages::BATCH;
    let (mut eight, mut one) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        for (instances, rates) in [(1, &mut one), (8, &mut eight)] {
            let database = fresh().await;
            let cost = load(&database, &server, (SOURCES, PAGES), instances).await;
            rates.push(events_per(count, cost.seconds));
            retire(database).await;
        }
    }
    Figure {
        row: "instances",
        what: "events/s of 8 instances, against one".to_owned(),
        ours: eight,
        floor: one,
        goal: Some(Goal::ratio_at_least(0.9)),
        note: format!("{SOURCES} http sources, {count} events"),
    }
    .publish();
    spacing(8).await;
}

/// Full pages without end from 10 sources: how far apart their requests are at the source, and how many of those that the
/// interval allows are sent.
async fn spacing(instances: usize) {
    const SOURCES: usize = 10;
    let database = fresh().await;
    let server = Server::start(|asked| Reply::Json(page(asked, i64::MAX))).await;
    let program = Program::new(&database, &configuration(&server, SOURCES, "batch_size = 10\n"));
    let children: Vec<_> =
        (0..instances).map(|n| program.start(&["run"], &format!("log.{n}"))).collect();
    sleep(Duration::from_secs(30)).await;
    for child in children {
        end(child).await;
    }
    let mut by_source: HashMap<String, Vec<Instant>> = HashMap::new();
    for Asked { at, path, .. } in server.log() {
        by_source.entry(path).or_default().push(at);
    }
    let (mut gaps, mut used) = (Vec::new(), Vec::new());
    for times in by_source.values_mut() {
        times.sort_unstable();
        gaps.extend(times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3));
        let seconds = (times[times.len() - 1] - times[0]).as_secs_f64();
        used.push(events_per(times.len() - 1, seconds) / 5.0 * 100.0);
    }
    let closest = gaps.iter().copied().reduce(f64::min).unwrap();
    let note = format!(
        "{instances} instances, {SOURCES} sources, {} requests; gap p50 {:.1} ms, p99 {:.1} ms",
        gaps.len(),
        quantile(&mut gaps, 0.5),
        quantile(&mut gaps, 0.99)
    );
    let share = used.iter().sum::<f64>() * ratio(1, used.len());
    for (what, value, goal, note) in [
        ("closest requests of a source, ms", closest, Goal::at_least(200.0), note.as_str()),
        ("% of the allowed rate used", share, Goal::at_least(97.0), ""),
    ] {
        Figure {
            row: "instances",
            what: what.to_owned(),
            ours: vec![value],
            floor: vec![],
            goal: Some(goal),
            note: note.to_owned(),
        }
        .publish();
    }
    retire(database).await;
}
