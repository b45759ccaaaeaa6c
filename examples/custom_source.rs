//! A source of your own, loaded with the library: the first 2,500 square numbers, once, into `events`.
//!
//! `cargo run --example custom_source` uses `DATABASE_URL`, or the embedded `PostgreSQL` where there is none.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use eventloader::app;
use eventloader::config::{Config, Environment, LoadRequest, ProcessConfig};
use eventloader::database::Database;
use eventloader::loader::policy::OnFailure;
use eventloader::loader::{LoadedSource, Loader, SourceSettings, Stop};
use eventloader::mapping::Mapping;
use eventloader::source::{EventSource, Page, SourceError};
use eventloader::store::source::{Registration, register};
use tokio::sync::mpsc;

struct Squares;

#[async_trait]
impl EventSource for Squares {
    /// Answers what `select … where id > after_id order by id limit limit` would.
    async fn fetch_events(&self, after_id: i64, limit: u32) -> Result<Page, SourceError> {
        let mapping = Mapping::default();
        let last = 2500.min(after_id + i64::from(limit));
        let mut items = Vec::new();
        for id in after_id + 1..=last {
            let json = Bytes::from(format!(r#"{{"id": {id}, "square": {}}}"#, id * id));
            let item =
                mapping.item(&json).map_err(|error| SourceError::invalid_page(&error, json))?;
            items.push(item);
        }
        Ok(Page::new(items))
    }
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "a program of its own")]
async fn main() -> Result<(), Box<dyn Error>> {
    let environment = Environment::from_process();
    let process = ProcessConfig::from_environment(&environment)?;
    let config = Config::load(&LoadRequest::default(), &environment)?;
    let database = Database::open(&config, &process).await?;
    database.migrate().await?;

    let name = "squares".to_owned();
    let registration = Registration {
        source_name: name.clone(),
        source_type: "squares".to_owned(),
        start_after: 0,
    };
    register(&database.pool, &[registration]).await?;
    let source = LoadedSource {
        source_name: name,
        source: Arc::new(Squares),
        settings: SourceSettings {
            batch_size: 1000,
            min_interval: Duration::from_millis(200),
            lease_ttl: Duration::from_secs(2),
            max_idle: Duration::from_secs(5),
            on_failure: OnFailure::Hold,
            deadline: Duration::from_secs(30),
        },
    };
    // The loader names each source with new inbox rows; the retry worker moves them to `events`.
    let (deposited, mut hints) = mpsc::channel(16);
    let stop = Stop::default();
    let loader = Loader {
        connections: database.connections(2),
        // Has to be unlike that of any other process that ever ran.
        owner: format!("custom_source:{}", uuid::Uuid::new_v4()),
        sources: vec![source],
        concurrency: 1,
        deposited,
        counters: Arc::default(),
    };
    let worker = app::retry_worker(&database.pool, &config).await?;
    let moves = async {
        let mut moved_count = 0;
        while moved_count < 2500
            && let Ok(Some(_)) = tokio::time::timeout(Duration::from_secs(3), hints.recv()).await
        {
            moved_count += worker.run_once().await?.moved_count;
        }
        stop.intake.cancel();
        Ok::<_, Box<dyn Error>>(moved_count)
    };
    let ((), moved_count) = tokio::join!(loader.run(stop.clone()), moves);
    println!("{} events moved", moved_count?);
    database.close().await?;
    Ok(())
}
