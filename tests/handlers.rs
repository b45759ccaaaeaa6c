//! Handlers by name: routing, once, order, retries, dead letters, and what happens when processes share or die.

mod crash;
mod failures;
mod log;
mod replay;
mod routing;
mod sharing;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventloader::handler::{
    HandlerRegistry, HandlerResult, HandlerWorker, LoggedEvent, Pass, PassReport,
};
use eventloader::loader::policy::Backoff;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::support::database::Database;

/// One attempt after the other without a pause worth speaking of.
const AT_ONCE: Backoff =
    Backoff { base: Duration::from_millis(1), factor: 1, cap: Duration::from_millis(1) };

/// No second attempt by itself.
const NEVER: Backoff =
    Backoff { base: Duration::from_hours(1), factor: 1, cap: Duration::from_hours(1) };

/// A database with a table that handlers write to.
async fn stage() -> Database {
    let database = Database::migrated().await;
    database
        .execute("create table public.effect (position bigint, stream text, version bigint, attempt integer)")
        .await;
    database
}

fn worker(database: &Database, name: &str, registry: HandlerRegistry) -> HandlerWorker {
    let mut worker = HandlerWorker::new(name, database.pool.clone(), registry);
    worker.backoff = AT_ONCE;
    worker
}

/// Appends an event to the log as applications will: head row, announcement, position.
async fn append(
    database: &Database,
    stream: &str,
    event_type: &str,
    payload: &str,
    message_id: Option<Uuid>,
) -> i64 {
    let mut transaction = database.pool.begin().await.unwrap();
    let position = append_in(&mut transaction, stream, event_type, payload, message_id).await;
    transaction.commit().await.unwrap();
    position
}

async fn append_in(
    transaction: &mut PgConnection,
    stream: &str,
    event_type: &str,
    payload: &str,
    message_id: Option<Uuid>,
) -> i64 {
    let version: i64 = sqlx::query_scalar(
        "insert into eventloader.stream as s (stream, version, owner) values ($1, 1, 'application')
         on conflict (stream) do update set version = s.version + 1
         returning version",
    )
    .bind(stream)
    .fetch_one(&mut *transaction)
    .await
    .unwrap();
    sqlx::query("select eventloader.announce_append()").execute(&mut *transaction).await.unwrap();
    sqlx::query_scalar(
        "insert into eventloader.events (stream, version, event_type, payload, message_id)
         values ($1, $2, $3, $4::jsonb, $5)
         returning position",
    )
    .bind(stream)
    .bind(version)
    .bind(event_type)
    .bind(payload)
    .bind(message_id)
    .fetch_one(transaction)
    .await
    .unwrap()
}

/// `count` events of one stream, of type `done`, numbered from 1 in `n`.
async fn append_many(database: &Database, stream: &str, count: i64) {
    for n in 1..=count {
        append(database, stream, "done", &format!(r#"{{"n": {n}}}"#), None).await;
    }
}

/// What a handler did, in the transaction that it was given.
async fn note(event: &LoggedEvent, transaction: &mut PgConnection) -> HandlerResult {
    sqlx::query("insert into public.effect values ($1, $2, $3, $4)")
        .bind(event.position)
        .bind(&event.stream)
        .bind(event.version)
        .bind(i64::from(event.attempt))
        .execute(transaction)
        .await?;
    Ok(())
}

async fn noting(_: Value, event: LoggedEvent, transaction: &mut PgConnection) -> HandlerResult {
    note(&event, transaction).await
}

/// A registry whose only handler notes every event.
fn noting_all() -> HandlerRegistry {
    let mut registry = HandlerRegistry::new();
    registry.on::<Value>("*", noting).unwrap();
    registry
}

/// What was committed: `stream/version`, in the order of positions.
async fn effects(database: &Database) -> Vec<String> {
    database.column("select stream || '/' || version from public.effect order by position").await
}

async fn marks(database: &Database) -> i64 {
    database.value("select count(*) from eventloader.consumed_message").await
}

/// What handlers were called with, committed or not.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<String>>>);

impl Calls {
    fn add(&self, call: impl Into<String>) {
        self.0.lock().unwrap().push(call.into());
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

fn place(event: &LoggedEvent) -> String {
    format!("{}/{}", event.stream, event.version)
}

async fn pass(worker: &HandlerWorker) -> PassReport {
    match worker.run_once().await.unwrap() {
        Pass::Done(report) => report,
        Pass::StandBy(report) => panic!("somebody else holds the subscription: {report:?}"),
    }
}

/// Passes until no stream and no replayed event waits.
async fn passes(database: &Database, worker: &HandlerWorker) -> PassReport {
    let mut total = pass(worker).await;
    while database
        .value::<bool>(
            "select exists (select from eventloader.subscription_retry)
                 or exists (select from eventloader.subscription_replay)",
        )
        .await
    {
        let report = pass(worker).await;
        total.handled_count += report.handled_count;
        total.repeated_count += report.repeated_count;
        total.skipped_count += report.skipped_count;
        total.unknown_count += report.unknown_count;
        total.failed_count += report.failed_count;
        total.dead_letter_count += report.dead_letter_count;
    }
    total
}

/// Lets everything that waits be tried now.
async fn make_due(database: &Database) {
    database
        .execute("update eventloader.subscription_retry set next_attempt_at = clock_timestamp()")
        .await;
}

/// The dead letters: reference, reason, attempts, body.
async fn letters(database: &Database) -> Vec<(String, String, i32, String)> {
    sqlx::query_as(
        "select reference, reason, attempts, convert_from(body, 'UTF8') from eventloader.dead_letter
         where kind = 'message' and replayed_at is null order by id",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap()
}
