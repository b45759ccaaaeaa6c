//! Every command: what it does, what it prints, how it ends.

mod completions;
mod config;
mod dead_letters;
mod demo;
mod requests;
mod retry_worker;
mod run;
mod sources;
mod status;
mod terminal;
mod usage;

use serde_json::Value;

use crate::support::database::Database;
use crate::support::program::{Finished, Program};

/// A database with sources `orders` (idle at 10) and `bills` (its window after 20 held), and a program without a
/// configuration of its own.
async fn seeded() -> (Database, Program) {
    let database = Database::migrated().await;
    database
        .execute(
            "select eventloader.register_sources(array['bills', 'orders'], array['http', 'file'], array[20, 10]);
             insert into eventloader.event_request_log
                 (source_name, after_id, limit_count, attempt, status, token, epoch, owner, error, max_id, event_count)
             values
                 ('bills', 0, 100, 1, 'succeeded', gen_random_uuid(), 1, 'host:1:a', null, 20, 20),
                 ('bills', 20, 100, 2, 'failed', gen_random_uuid(), 1, 'host:1:a', 'no answer within the timeout', null, null);
             insert into eventloader.dead_letter (kind, origin, reference, body, reason, detail)
             values
                 ('event', 'orders', '7', '{\"id\":7,\"n\":\"seven\"}', 'too large', '{\"event_id\":7,\"event_type\":\"order\"}'),
                 ('conflict', 'orders', '8', '{\"id\":8}', 'events already holds this id with another body', '{\"event_id\":8}'),
                 ('page', 'bills', 'request 2', '<html>', 'invalid page', '{}');",
        )
        .await;
    let program = Program::new(&database, "");
    (database, program)
}

/// The names of an object's fields, sorted.
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("{value}")).keys().map(String::as_str).collect()
}

/// The command succeeded and printed JSON.
fn json(finished: &Finished) -> Value {
    assert_eq!(finished.code, Some(0), "{finished:?}");
    finished.json()
}

/// The command ended with this code and said these things on standard error, and nothing on standard output.
fn assert_fails(finished: &Finished, code: i32, said: &[&str]) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    assert_eq!(finished.stdout, "", "{finished:?}");
    for part in said {
        assert!(finished.stderr.contains(part), "{part:?} in {finished:?}");
    }
}

/// The actions in the audit log, in order.
async fn audited(database: &Database) -> Vec<(String, String, String, Value)> {
    sqlx::query_as("select actor, action, origin, detail from eventloader.audit_log order by id")
        .fetch_all(&database.pool)
        .await
        .unwrap()
}
