//! Loads that go on at a rate: how long an event waits, what a held snapshot does.

use std::time::Duration;

use rustix::process::Signal;
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::process::Child;
use tokio::time::{Instant, sleep};

use super::figure::{Figure, Goal};
use super::machine::memory_of;
use super::pages::{self, configuration};
use super::{RUNS, events_per, fresh, quantile, retire};
use crate::support::database::{Database, server_log};
use crate::support::http::{Reply, Server};
use crate::support::program::{Program, signal};

/// A server whose sources together gain so many events a second, beginning when it starts.
async fn growing(sources: usize, per_second: usize) -> Server {
    let began = Instant::now();
    let events: Vec<String> = (0..10_000).map(pages::event).collect();
    Server::start(move |asked| {
        let gained =
            began.elapsed().as_secs_f64() * events_per(per_second, 1.0) / events_per(sources, 1.0);
        #[expect(clippy::cast_possible_truncation, reason = "a count of events")]
        let last = (gained as i64).min(asked.after_id + 1000);
        // The id differs, the rest repeats.
        let items = (asked.after_id + 1..=last).map(|id| {
            let (_, rest) = events[usize::try_from(id % 10_000).unwrap()].split_once(',').unwrap();
            format!(r#"{{"id":{id},{rest}"#)
        });
        Reply::Json(format!("[{}]", items.collect::<Vec<_>>().join(",")))
    })
    .await
}

pub(super) async fn end(mut child: Child) {
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}

/// From the commit of an event in the inbox to its commit in `events`, by the server's own books.
pub(super) async fn latency() {
    const SOURCES: usize = 10;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let database = fresh().await;
        // A note of each deposit, whose own commit is that of the deposit.
        database
            .execute(
                "create table public.arrival (source_name text, first_id bigint, last_id bigint);
                 create function public.note_arrival() returns trigger language plpgsql as $$ begin
                     insert into public.arrival select source_name, min(event_id), max(event_id) from added group by 1;
                     return null;
                 end $$;
                 create trigger note_arrival after insert on eventloader.event_inbox referencing new table as added
                     for each statement execute function public.note_arrival()",
            )
            .await;
        let server = growing(SOURCES, 1000).await;
        let program = Program::new(&database, &configuration(&server, SOURCES, ""));
        let child = program.start(&["run"], "log");
        sleep(Duration::from_secs(23)).await;
        end(child).await;
        let mut waits: Vec<f64> = database
            .column(
                "select extract(epoch from pg_xact_commit_timestamp(e.xmin) - pg_xact_commit_timestamp(a.xmin))::float8
                     * 1000
                 from eventloader.events e
                 join public.arrival a on a.source_name = e.stream and e.version between a.first_id and a.last_id
                 where e.recorded_at > (select min(recorded_at) + interval '3 seconds' from eventloader.events)",
            )
            .await;
        assert!(waits.len() > 15_000, "{} events in 20 s: not 1,000 a second", waits.len());
        p50.push(quantile(&mut waits, 0.5));
        p99.push(quantile(&mut waits, 0.99));
        retire(database).await;
    }
    for (what, ours, goal) in [("p50", p50, 10.0), ("p99", p99, 50.0)] {
        Figure {
            row: "latency",
            what: format!("inbox → events, ms, {what}"),
            ours,
            floor: vec![],
            goal: Some(Goal::at_most(goal)),
            note: "1,000 events/s from 10 http sources, 20 s; commit to commit".to_owned(),
        }
        .publish();
    }
}

/// One phase of a steady load.
struct Phase {
    per_second: f64,
    claim_p99: f64,
    move_p99: f64,
    memory: f64,
}

/// 2,000 events/s, first without, then with an open snapshot that holds back vacuum.
pub(super) async fn held_snapshot() {
    const SOURCES: usize = 10;
    let minutes: u64 = std::env::var("EVENTLOADER_BENCH_MINUTES")
        .map_or(3, |text| text.parse().expect("EVENTLOADER_BENCH_MINUTES is a number"));
    let database = fresh().await;
    let name = database.options.get_database().unwrap().to_owned();
    database.run_sql(format!("alter database {name} set log_min_duration_statement = 0")).await;
    let server = growing(SOURCES, 2000).await;
    let program = Program::new(&database, &configuration(&server, SOURCES, ""));
    let child = program.start(&["run"], "log");
    sleep(Duration::from_secs(5)).await;
    let clean = phase(&database, &child, Duration::from_secs(40.min(minutes * 60))).await;
    let mut holder = database.options.clone().connect().await.unwrap();
    holder.execute("begin isolation level repeatable read; select txid_current()").await.unwrap();
    // The first of its minutes fill the tables with dead rows; the last one is looked at.
    sleep(Duration::from_secs(minutes * 60 - 40.min(minutes * 60 / 2))).await;
    let held = phase(&database, &child, Duration::from_secs(40.min(minutes * 60 / 2))).await;
    let dead: i64 = database
        .value(
            "select sum(n_dead_tup)::bigint from pg_stat_user_tables where schemaname = 'eventloader'",
        )
        .await;
    holder.close().await.unwrap();
    end(child).await;
    let note = format!("{minutes} min held, {dead} dead rows; floor: before it was held");
    for (what, ours, floor, goal) in [
        (
            "events/s at 2,000 offered, snapshot held",
            held.per_second,
            clean.per_second,
            Goal::ratio_at_least(0.98),
        ),
        ("claim p99, ms, snapshot held", held.claim_p99, clean.claim_p99, Goal::ratio_at_most(1.5)),
        ("move p99, ms, snapshot held", held.move_p99, clean.move_p99, Goal::ratio_at_most(1.5)),
        (
            "memory, MB, at the end against the beginning",
            held.memory,
            clean.memory,
            Goal::ratio_at_most(1.05),
        ),
    ] {
        Figure {
            row: "held_snapshot",
            what: what.to_owned(),
            ours: vec![ours],
            floor: vec![floor],
            goal: Some(goal),
            note: note.clone(),
        }
        .publish();
    }
    retire(database).await;
}

async fn phase(database: &Database, child: &Child, length: Duration) -> Phase {
    let stored = "select coalesce(sum(last_stored_id), 0)::bigint from eventloader.source_cursor";
    let log = server_log();
    let offset = std::fs::metadata(&log).unwrap().len();
    let (began, before) = (Instant::now(), database.value::<i64>(stored).await);
    sleep(length).await;
    let after = database.value::<i64>(stored).await;
    let per_second =
        events_per(usize::try_from(after - before).unwrap(), began.elapsed().as_secs_f64());
    let text =
        String::from_utf8_lossy(&std::fs::read(&log).unwrap()[usize::try_from(offset).unwrap()..])
            .into_owned();
    let p99 = |function: &str| {
        let mut durations: Vec<f64> =
            text.lines().filter_map(|line| duration(line, function)).collect();
        assert!(
            durations.len() > 500,
            "{} calls of {function} in the server's log",
            durations.len()
        );
        quantile(&mut durations, 0.99)
    };
    Phase {
        per_second,
        claim_p99: p99("eventloader.claim"),
        move_p99: p99("eventloader.move_batch("),
        memory: memory_of(child.id().unwrap(), "VmRSS"),
    }
}

/// `test_x|LOG:  duration: 0.813 ms  execute sqlx_s_1: select … from eventloader.claim(…)`
fn duration(line: &str, function: &str) -> Option<f64> {
    let (head, statement) = line.split_once("ms  execute ")?;
    if !statement.contains(function) {
        return None;
    }
    head.rsplit_once("duration: ")?.1.trim().parse().ok()
}
