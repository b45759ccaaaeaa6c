//! `make bench`: what the loader does, beside what the plain client of each broker does, in the same run on the same machine.
//!
//! Not part of the tests: figures decide nothing. PostgreSQL keeps its promises here (fsync on). Every figure is the median
//! of three runs.

mod brokers;
mod table;

use std::sync::Arc;
use std::time::Duration;

use eventloader::event::{Event, Item, JsonText};
use eventloader::source::{EventSource, Page, SourceError};
use serde_json::json;
use tokio::time::Instant;

use crate::queues::conformance::Sent;
use crate::support::database::Database;
use crate::support::loading::{Given, Loading};

/// Messages of each throughput figure.
const COUNT: usize = 200_000;
/// Bytes of each body.
const BYTES: usize = 300;
const RUNS: usize = 3;

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
