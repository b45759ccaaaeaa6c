//! Handlers of your own: events are loaded from a source, and async functions of this program handle them by name, each
//! in a transaction that also says that the event was consumed.
//!
//! Runs on the embedded PostgreSQL, in a directory that is removed afterwards:
//!
//! ```text
//! cargo run --example handlers
//! ```

#![expect(clippy::print_stdout, reason = "it is run to be looked at")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use eventloader::event::{Event, Item, JsonText};
use eventloader::handler::{
    HandlerError, HandlerRegistry, HandlerResult, HandlerWorker, LoggedEvent,
};
use eventloader::loader::{LoadedSource, Loader, Stop};
use eventloader::postgres::connections::Connections;
use eventloader::postgres::embedded::{Durability, Embedded, EmbeddedOptions};
use eventloader::postgres::{migrate, pool};
use eventloader::retry_worker::RetryWorker;
use eventloader::source::{EventSource, Page, SourceError};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::{Executor, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

/// A shop, as somebody else's API would tell of it.
struct Shop {
    events: Vec<Value>,
}

#[async_trait]
impl EventSource for Shop {
    async fn fetch_events(&self, after_id: i64, limit: u32) -> Result<Page, SourceError> {
        let ids = (after_id + 1..).take(limit as usize);
        let items = ids.zip(self.events.iter().skip(usize::try_from(after_id).unwrap_or(0)));
        let events = items.map(|(id, event)| {
            Item::Good(Event {
                event_type: event["type"].as_str().map(str::to_owned),
                ..Event::new(id, JsonText::from_value(event))
            })
        });
        Ok(Page::new(events.collect()))
    }
}

fn shop() -> Shop {
    let mut events = Vec::new();
    for order in 1..=40 {
        events.push(json!({ "type": "order.placed", "order": order, "cents": order * 100 }));
        events.push(json!({ "type": "order.paid", "order": order }));
        events.push(json!({ "type": "page.viewed", "order": order }));
    }
    // Somebody's bug: no amount that could be booked.
    events.push(json!({ "type": "order.placed", "order": 41, "cents": "many" }));
    // Nobody's order.
    events.push(json!({ "type": "order.paid", "order": 99 }));
    Shop { events }
}

#[derive(Deserialize)]
struct OrderPlaced {
    order: i64,
    cents: i64,
}

/// What is written here is committed together with the mark that the event was consumed.
async fn book(order: OrderPlaced, _: LoggedEvent, transaction: &mut PgConnection) -> HandlerResult {
    sqlx::query("insert into shop.invoice (id, cents) values ($1, $2)")
        .bind(order.order)
        .bind(order.cents)
        .execute(transaction)
        .await?;
    Ok(())
}

#[derive(Deserialize)]
struct OrderPaid {
    order: i64,
}

async fn settle(paid: OrderPaid, _: LoggedEvent, transaction: &mut PgConnection) -> HandlerResult {
    let settled = sqlx::query("update shop.invoice set paid = true where id = $1")
        .bind(paid.order)
        .execute(transaction)
        .await?;
    match settled.rows_affected() {
        // Trying again would not help.
        0 => Err(HandlerError::permanent(format!("there is no invoice {}", paid.order))),
        _ => Ok(()),
    }
}

/// The first attempt fails, as it does when another service is away. The attempt after it finds nothing of it.
fn registry(failures: Arc<AtomicU32>) -> Result<HandlerRegistry, Box<dyn std::error::Error>> {
    let mut registry = HandlerRegistry::new();
    registry.on("order.placed", book)?;
    let flaky = async move |paid: OrderPaid, event: LoggedEvent, transaction: &mut PgConnection| {
        let order = paid.order;
        settle(paid, event, transaction).await?;
        if order == 7 && failures.fetch_add(1, Ordering::Relaxed) == 0 {
            return Err(HandlerError::retry("the printer of receipts is out of paper"));
        }
        Ok(())
    };
    // Whatever else happens to an order is settled; an exact name counts before a pattern.
    registry.on("order.*", flaky)?;
    Ok(registry)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    run().await
}

/// The whole of it.
pub(crate) async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("handlers-{}", std::process::id()));
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
        let pool = pool::lazy(postgres.connect_options(), 8);
        let connections = Connections::new(postgres.connect_options(), 4);
        pool.execute("create schema shop").await?;
        pool.execute(
            "create table shop.invoice (id bigint primary key, cents bigint, paid boolean)",
        )
        .await?;
        load(connections, &pool).await?;
        let done = report(&pool).await;
        pool.close().await;
        done
    }
    .await;
    postgres.stop().await?;
    std::fs::remove_dir_all(directory)?;
    outcome
}

/// Loads the events and has them handled, side by side as in a program that goes on running.
async fn load(connections: Connections, pool: &PgPool) -> Result<(), Box<dyn std::error::Error>> {
    let shop = shop();
    let event_count = i64::try_from(shop.events.len())?;
    let (loader, hints) = Loader::new(connections, vec![LoadedSource::new("shop", Arc::new(shop))]);
    loader.register().await?;
    let handlers = HandlerWorker::new("bookkeeping", pool.clone(), registry(Arc::default())?);

    let (loader_stop, stop) = (Stop::default(), CancellationToken::new());
    let loading = tokio::spawn(loader.run(loader_stop.clone()));
    let moving = tokio::spawn(RetryWorker::new(pool.clone()).run(hints, stop.clone()));
    let handling = tokio::spawn(handlers.run(stop.clone()));

    while !is_done(pool, event_count).await? {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    loader_stop.intake.cancel();
    loading.await?;
    stop.cancel();
    moving.await?;
    let done = handling.await?;
    println!(
        "{} events handled, {} attempts repeated, {} passed over without a handler",
        done.handled_count, done.failed_count, done.unknown_count
    );
    Ok(())
}

/// Whether everything was handled, and nothing waits for another attempt.
async fn is_done(pool: &PgPool, event_count: i64) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select exists (select from eventloader.subscription where position >= $1)
             and not exists (select from eventloader.subscription_retry)",
    )
    .bind(event_count)
    .fetch_one(pool)
    .await
}

async fn report(pool: &PgPool) -> Result<(), Box<dyn std::error::Error>> {
    let (count, paid, cents): (i64, i64, i64) = sqlx::query_as(
        "select count(*), count(*) filter (where paid), sum(cents)::bigint from shop.invoice",
    )
    .fetch_one(pool)
    .await?;
    println!(
        "{count} invoices over {}.{:02}, {paid} of them paid, each once",
        cents / 100,
        cents % 100
    );
    let letters: Vec<(i64, String)> =
        sqlx::query_as("select id, reason from eventloader.dead_letter order by id")
            .fetch_all(pool)
            .await?;
    for (id, reason) in letters {
        println!("dead letter {id}: {reason}");
    }
    Ok(())
}
