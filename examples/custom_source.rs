//! A source of your own: implement [`EventSource`], hand it to a [`Loader`], and its events go through the same inbox,
//! request log and event log as those of the built-in sources.
//!
//! Runs on the embedded PostgreSQL, in a directory that is removed afterwards:
//!
//! ```text
//! cargo run --example custom_source
//! ```

#![expect(clippy::print_stdout, reason = "it is run to be looked at")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use eventloader::event::{Event, Item, JsonText};
use eventloader::loader::{LoadedSource, Loader, Stop};
use eventloader::postgres::connections::Connections;
use eventloader::postgres::embedded::{Durability, Embedded, EmbeddedOptions};
use eventloader::postgres::{migrate, pool};
use eventloader::retry_worker::RetryWorker;
use eventloader::source::{EventSource, Page, SourceError};
use serde_json::json;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

const READING_COUNT: i64 = 2500;

/// A thermometer that keeps its readings, numbered from 1. It stands for whatever you have: a device, a library, an API
/// that is not JSON.
struct Thermometer;

#[async_trait]
impl EventSource for Thermometer {
    /// `SELECT * FROM readings WHERE id > after_id ORDER BY id LIMIT limit`, whatever that is in your case.
    async fn fetch_events(&self, after_id: i64, limit: u32) -> Result<Page, SourceError> {
        let last = READING_COUNT.min(after_id + i64::from(limit));
        let readings = (after_id + 1..=last).map(|id| {
            let payload = json!({ "reading": id, "celsius": 15 + id % 10 });
            Item::Good(Event {
                event_type: Some("temperature.read".to_owned()),
                ..Event::new(id, JsonText::from_value(&payload))
            })
        });
        Ok(Page::new(readings.collect()))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    run().await
}

/// The whole of it.
pub(crate) async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("custom-source-{}", std::process::id()));
    let postgres = Embedded::start(EmbeddedOptions {
        data_dir: directory.clone(),
        data_dir_explicit: true,
        bin_dir: None,
        path: std::env::var_os("PATH"),
        durability: Durability::Disposable,
    })
    .await?;
    let outcome = async {
        migrate::run(&postgres.connect_options()).await?;
        let pool = pool::lazy(postgres.connect_options(), 5);
        let connections = Connections::new(postgres.connect_options(), 4);
        load(connections, &pool).await?;
        report(&pool).await?;
        pool.close().await;
        Ok(())
    }
    .await;
    postgres.stop().await?;
    std::fs::remove_dir_all(directory)?;
    outcome
}

/// Loads the source until all its events are in the event log.
async fn load(connections: Connections, pool: &PgPool) -> Result<(), Box<dyn std::error::Error>> {
    let source = LoadedSource::new("thermometer", Arc::new(Thermometer));
    let (loader, hints) = Loader::new(connections, vec![source]);
    loader.register().await?;
    let worker = RetryWorker::new(pool.clone());

    let (loader_stop, worker_stop) = (Stop::default(), CancellationToken::new());
    let loading = tokio::spawn(loader.run(loader_stop.clone()));
    let moving = tokio::spawn(worker.run(hints, worker_stop.clone()));

    while stored_count(pool).await? < READING_COUNT {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The loader first: it gives up nothing that is in work.
    loader_stop.intake.cancel();
    loading.await?;
    worker_stop.cancel();
    moving.await?;
    Ok(())
}

async fn stored_count(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from eventloader.events").fetch_one(pool).await
}

async fn report(pool: &PgPool) -> Result<(), sqlx::Error> {
    let (count, first, last, warmest): (i64, i64, i64, i32) = sqlx::query_as(
        "select count(*), min(version), max(version), max((payload->>'celsius')::int)
         from eventloader.events where stream = 'thermometer' and event_type = 'temperature.read'",
    )
    .fetch_one(pool)
    .await?;
    assert_eq!(
        (count, first, last),
        (READING_COUNT, 1, READING_COUNT),
        "each reading is stored once"
    );
    println!("{count} readings, from {first} to {last}, each once; the warmest was {warmest} °C");
    let requests: i64 = sqlx::query_scalar(
        "select count(*) from eventloader.event_request_log where status = 'succeeded'",
    )
    .fetch_one(pool)
    .await?;
    println!("{requests} requests brought them; every event names the one it came with");
    Ok(())
}
