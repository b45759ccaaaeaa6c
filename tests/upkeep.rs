//! Upkeep of the request log: what is pruned and what never, the archive and its partitions, the schedule in `run`.

mod archive;
mod interrupted;
mod partition;
mod plan;
mod prune;
mod schedule;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::support::database::Database;
use crate::support::program::Finished;

const STATUSES: [&str; 7] =
    ["reserved", "inbox_only", "succeeded", "failed", "orphaned", "retried", "skipped"];

const PRUNE: [&str; 5] = ["prune-request-log", "--succeeded-days", "7", "--failed-days", "30"];
const PRUNE_ALL: [&str; 5] = ["prune-request-log", "--succeeded-days", "0", "--failed-days", "0"];

/// The seed's command with further arguments.
fn with<'a>(command: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [command, more].concat()
}

/// A database with source `s` and requests of every status, made 1, 8, 31 and 400 days ago.
async fn seeded() -> Database {
    let database = Database::migrated().await;
    database.register("s", 0).await;
    for status in STATUSES {
        for days in [1, 8, 31, 400] {
            add(&database, status, &format!("clock_timestamp() - interval '24 hours' * {days}"), 1)
                .await;
        }
    }
    database
}

/// Adds requests of source `s`, all made at the same time.
async fn add(database: &Database, status: &str, created_at: &str, count: u32) {
    database
        .run_sql(format!(
            "insert into eventloader.event_request_log
                 (source_name, after_id, limit_count, attempt, status, token, epoch, owner, max_id, event_count, error,
                  closed_by, created_at)
             select 's', m.after_id + n, 100, 1, '{status}', gen_random_uuid(), 7, 'host:1:a', n, 100, 'an error', 'me',
                 {created_at}
             from generate_series(1, {count}) n,
                 (select coalesce(max(after_id), 0) as after_id from eventloader.event_request_log) m"
        ))
        .await;
}

/// Status and age in days of every request in the log.
async fn left(database: &Database) -> Vec<(String, i32)> {
    sqlx::query_as(
        "select status, extract(epoch from clock_timestamp() - created_at)::integer / 86400
         from eventloader.event_request_log order by 1, 2",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap()
}

async fn count(database: &Database) -> i64 {
    database.value("select count(*) from eventloader.event_request_log").await
}

async fn archived(database: &Database) -> i64 {
    database.value("select count(*) from eventloader.event_request_log_archive").await
}

/// Counts by status, where there are any.
fn counts(report: &Value) -> Vec<(String, i64)> {
    let tallies = report["statuses"].as_array().unwrap().iter();
    tallies
        .map(|t| (t["status"].as_str().unwrap().to_owned(), t["count"].as_i64().unwrap()))
        .filter(|(_, count)| *count > 0)
        .collect()
}

fn done(finished: &Finished) -> Value {
    assert_eq!(finished.code, Some(0), "{finished:?}");
    finished.json()
}

fn failed(finished: &Finished, code: i32, said: &[&str]) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    for part in said {
        assert!(finished.stderr.contains(part), "{part:?} in {finished:?}");
    }
}

fn at(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}
