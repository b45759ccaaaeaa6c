//! `make bench`: what the loader does, beside what plain SQL by `psql` does (the floor), or the plain client of a broker,
//! in the same run on the same machine.
//!
//! Not part of the tests: figures decide nothing. PostgreSQL runs with `benches/postgresql.conf`, which keeps its promises.
//! A figure is the median of three runs, where nothing else is said. `ROWS=move,latency` picks rows.

mod brokers;
mod figure;
mod floor;
mod machine;
mod pages;
mod requests;
mod rivals;
mod scale;
mod steady;
mod table;
mod throughput;

use std::sync::Arc;
use std::time::Duration;

use eventloader::event::{Event, Item, JsonText};
use eventloader::source::{EventSource, Page, SourceError};
use serde_json::json;
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::time::Instant;

use crate::queues::conformance::Sent;
use crate::support::database::Database;
use crate::support::loading::{Given, Loading};

/// Messages of each throughput figure.
const COUNT: usize = 200_000;
/// Bytes of each body.
const BYTES: usize = 300;
const RUNS: usize = 3;

/// The rows, in the order they are measured, beside `brokers`.
const ROWS: [&str; 11] = [
    "end_to_end",
    "move",
    "round_trips",
    "latency",
    "held_snapshot",
    "idle",
    "instances",
    "start",
    "takeover",
    "rivals",
    "scale",
];

/// Whether `ROWS` names a row, or nothing at all.
pub(crate) fn is_wanted(row: &str) -> bool {
    match std::env::var("ROWS") {
        Ok(rows) if !rows.is_empty() => {
            for name in rows.split(',') {
                let known = name == "brokers" || ROWS.contains(&name);
                assert!(
                    known,
                    "ROWS: there is no row {name:?}; there are brokers, {}",
                    ROWS.join(", ")
                );
            }
            rows.split(',').any(|name| name == row)
        }
        // Curves take long, and are no row of the table; rivals have to be installed.
        _ => !["rivals", "scale"].contains(&row),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; `make bench` runs it"]
async fn rows() {
    let wanted: Vec<_> = ROWS.into_iter().filter(|row| is_wanted(row)).collect();
    if wanted.is_empty() {
        return;
    }
    machine::refuse_a_busy_one();
    figure::heading();
    for row in wanted {
        match row {
            "end_to_end" => throughput::end_to_end().await,
            "move" => throughput::moving().await,
            "round_trips" => requests::round_trips().await,
            "latency" => steady::latency().await,
            "held_snapshot" => steady::held_snapshot().await,
            "idle" => scale::idle().await,
            "instances" => scale::instances().await,
            "start" => requests::start().await,
            "takeover" => requests::takeover().await,
            "rivals" => rivals::rivals().await,
            "scale" => scale::scale().await,
            row => unreachable!("{row} is not measured"),
        }
    }
}

/// A database with the schema, on a server that has nothing else to write.
async fn fresh() -> Database {
    let database = Database::migrated().await;
    database.execute("checkpoint").await;
    database
}

/// Drops a database, so that nobody vacuums it while the next one is measured.
async fn retire(database: Database) {
    database.pool.close().await;
    let name = database.options.get_database().unwrap();
    let mut connection = database.options.clone().database("postgres").connect().await.unwrap();
    let drop = sqlx::AssertSqlSafe(format!("drop database {name} with (force)"));
    connection.execute(drop).await.unwrap();
    connection.execute("checkpoint").await.unwrap();
    connection.close().await.unwrap();
}

/// Waits until so many events of sources whose ids are 1, 2, 3… are in `events`, by the small table of cursors.
async fn wait_for_loaded(database: &Database, count: usize) {
    let deadline = Instant::now() + Duration::from_mins(3);
    let sum = "select coalesce(sum(last_stored_id), 0)::bigint from eventloader.source_cursor";
    while usize::try_from(database.value::<i64>(sum).await).unwrap() < count {
        assert!(Instant::now() < deadline, "{count} events are not loaded after 3 minutes");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Bytes of WAL that the server has written.
async fn wal_bytes(database: &Database) -> f64 {
    database.value("select (pg_current_wal_insert_lsn() - '0/0')::float8").await
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn events_per(count: usize, of: f64) -> f64 {
    count as f64 / of
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn ratio(count: usize, of: usize) -> f64 {
    count as f64 / of as f64
}

/// The value below which this share of them lies.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let place = (values.len() as f64 * share) as usize;
    values[place.min(values.len() - 1)]
}

/// A message of [`BYTES`] bytes, with a message id of its own.
fn message(n: usize) -> Sent {
    let id = uuid::Uuid::now_v7();
    let head = format!(r#"{{"message_id":"{id}","n":{n},"sent_us":0,"text":""#);
    let text = "x".repeat(BYTES - head.len() - 2);
    Sent { message_id: Some(id), body: format!("{head}{text}\"}}").into_bytes() }
}

/// Waits until so many events are in `events`. Asks the small table of cursors, not the large one.
async fn wait_for_stored(database: &Database, count: usize) {
    let deadline = Instant::now() + Duration::from_mins(5);
    loop {
        let done: Option<i64> = sqlx::query_scalar("select max(position) from eventloader.events")
            .fetch_one(&database.pool)
            .await
            .unwrap();
        if done.is_some_and(|done| done >= i64::try_from(count).unwrap()) {
            return;
        }
        assert!(Instant::now() < deadline, "{done:?} of {count} events after 5 minutes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn rate(count: usize, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let count = count as f64;
    count / took.as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A source that answers at once, from memory: what the loader does when the source costs nothing.
struct Ready;

#[async_trait::async_trait]
impl EventSource for Ready {
    async fn fetch_events(&self, after_id: i64, limit: u32) -> Result<Page, SourceError> {
        let each = i64::try_from(COUNT / SOURCES).unwrap();
        let ids = after_id + 1..=each.min(after_id + i64::from(limit));
        let text = "x".repeat(BYTES - 40);
        Ok(Page::new(
            ids.map(|id| {
                Item::Good(Event::new(id, JsonText::from_value(&json!({ "id": id, "text": text }))))
            })
            .collect(),
        ))
    }
}

const SOURCES: usize = 8;

/// Events a second from sources that answer at once into `events`.
async fn loader() -> f64 {
    let database = Database::migrated().await;
    let given: Vec<Given> = (0..SOURCES)
        .map(|n| {
            let mut given = Given::new(&format!("ready{n}"), Arc::new(Ready));
            given.settings.min_interval = Duration::ZERO;
            given
        })
        .collect();
    let began = Instant::now();
    let loading = Loading::start(&database, &given).await;
    wait_for_stored(&database, COUNT).await;
    let took = began.elapsed();
    loading.stop().await;
    rate(COUNT, took)
}
