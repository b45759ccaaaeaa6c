//! The schema: applied once however many start at once, as users rely on it, append-only, and never used by a binary
//! that does not know it.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use serde_json::json;
use sqlx::Executor;

use crate::support::database::Database;
use crate::support::program::Program;
use crate::support::troubleshooting::assert_told;

/// DESIGN section 4: what users rely on.
const COLUMNS: &[(&str, &[(&str, &str)])] = &[
    (
        "source_lease",
        &[
            ("source_name", "text"),
            ("owner", "text"),
            ("epoch", "bigint"),
            ("expires_at", "timestamp with time zone"),
        ],
    ),
    (
        "source_rate_limit",
        &[
            ("source_name", "text"),
            ("last_request_at", "timestamp with time zone"),
            ("not_before", "timestamp with time zone"),
        ],
    ),
    (
        "source_cursor",
        &[
            ("source_name", "text"),
            ("last_requested_id", "bigint"),
            ("last_stored_id", "bigint"),
            ("updated_at", "timestamp with time zone"),
        ],
    ),
    (
        "event_request_log",
        &[
            ("id", "bigint"),
            ("source_name", "text"),
            ("after_id", "bigint"),
            ("limit_count", "integer"),
            ("attempt", "integer"),
            ("status", "text"),
            ("max_id", "bigint"),
            ("event_count", "integer"),
            ("error", "text"),
            ("owner", "text"),
            ("created_at", "timestamp with time zone"),
            ("updated_at", "timestamp with time zone"),
        ],
    ),
    (
        "event_request_log_archive",
        &[
            ("id", "bigint"),
            ("source_name", "text"),
            ("after_id", "bigint"),
            ("limit_count", "integer"),
            ("attempt", "integer"),
            ("status", "text"),
            ("max_id", "bigint"),
            ("event_count", "integer"),
            ("error", "text"),
            ("owner", "text"),
            ("created_at", "timestamp with time zone"),
            ("updated_at", "timestamp with time zone"),
        ],
    ),
    (
        "outbox",
        &[
            ("id", "uuid"),
            ("name", "text"),
            ("payload", "jsonb"),
            ("headers", "jsonb"),
            ("key", "text"),
            ("created_at", "timestamp with time zone"),
            ("available_at", "timestamp with time zone"),
            ("attempts", "integer"),
            ("last_error", "text"),
            ("published_at", "timestamp with time zone"),
        ],
    ),
    (
        "event_inbox",
        &[
            ("source_name", "text"),
            ("event_id", "bigint"),
            ("event_type", "text"),
            ("payload", "jsonb"),
            ("message_id", "uuid"),
            ("request_id", "bigint"),
            ("attempts", "integer"),
            ("next_attempt_at", "timestamp with time zone"),
            ("last_error", "text"),
            ("received_at", "timestamp with time zone"),
        ],
    ),
    (
        "events",
        &[
            ("position", "bigint"),
            ("stream", "text"),
            ("version", "bigint"),
            ("event_type", "text"),
            ("schema_version", "integer"),
            ("payload", "jsonb"),
            ("metadata", "jsonb"),
            ("tags", "ARRAY"),
            ("message_id", "uuid"),
            ("occurred_at", "timestamp with time zone"),
            ("recorded_at", "timestamp with time zone"),
        ],
    ),
    (
        "subscription",
        &[
            ("name", "text"),
            ("position", "bigint"),
            ("owner", "text"),
            ("epoch", "bigint"),
            ("expires_at", "timestamp with time zone"),
        ],
    ),
    ("stream", &[("stream", "text"), ("version", "bigint"), ("owner", "text")]),
    (
        "dead_letter",
        &[
            ("id", "bigint"),
            ("kind", "text"),
            ("origin", "text"),
            ("reference", "text"),
            ("body", "bytea"),
            ("reason", "text"),
            ("attempts", "integer"),
            ("failed_at", "timestamp with time zone"),
            ("replayed_at", "timestamp with time zone"),
        ],
    ),
];

/// Columns that a unique index covers, in its order, with its condition.
const UNIQUE: &[(&str, &str)] = &[
    ("source_lease", "(source_name)"),
    ("source_rate_limit", "(source_name)"),
    ("source_cursor", "(source_name)"),
    ("event_request_log", "(id)"),
    ("event_request_log", "(source_name, after_id) WHERE (status = ANY"),
    ("event_inbox", "(source_name, event_id)"),
    ("events", "(stream, version)"),
    ("events", "(stream, message_id) WHERE (message_id IS NOT NULL)"),
    ("stream", "(stream)"),
    ("subscription", "(name)"),
    ("dead_letter", "(id)"),
];

#[tokio::test]
async fn of_sixteen_that_migrate_at_once_one_applies_and_all_succeed() {
    for round in 0..3 {
        let database = Database::empty().await;
        let program = Program::new(&database, "");
        let finished =
            join_all((0..16).map(|_| async { program.run(&["migrate", "--json"]).await })).await;
        let mut applied = Vec::new();
        for one in &finished {
            assert_eq!(one.code, Some(0), "round {round}: {one:?}");
            applied.push(one.json()["applied_count"].as_u64().unwrap());
        }
        let recorded: i64 =
            database.value("select count(*) from eventloader._sqlx_migrations where success").await;
        applied.sort_unstable();
        let mut want = vec![0; 15];
        want.push(recorded.unsigned_abs());
        assert_eq!(applied, want, "round {round}");
    }
}

#[tokio::test]
async fn every_promised_column_and_key_is_there() {
    let database = Database::migrated().await;
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "select table_name::text, column_name::text, data_type::text from information_schema.columns
         where table_schema = 'eventloader'",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap();
    let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (table, column, data_type) in rows {
        found.entry(table).or_default().insert(column, data_type);
    }
    for (table, columns) in COLUMNS {
        for (column, data_type) in *columns {
            let found = found.get(*table).and_then(|columns| columns.get(*column));
            assert_eq!(found.map(String::as_str), Some(*data_type), "{table}.{column}");
        }
    }
    let indexes: Vec<String> = database
        .column("select indexdef from pg_indexes where schemaname = 'eventloader' and indexdef like 'CREATE UNIQUE%'")
        .await;
    for (table, key) in UNIQUE {
        let wanted = format!("ON eventloader.{table} USING btree {key}");
        assert!(indexes.iter().any(|index| index.contains(&wanted)), "{wanted}: {indexes:#?}");
    }
}

#[tokio::test]
async fn nothing_is_made_outside_our_schema() {
    let database = Database::migrated().await;
    let others: Vec<String> = database
        .column(
            "select relname::text from pg_class where relnamespace not in
                 ('eventloader'::regnamespace, 'pg_catalog'::regnamespace, 'information_schema'::regnamespace)
                 and relnamespace::regnamespace::text not like 'pg_%'",
        )
        .await;
    assert_eq!(others, Vec::<String>::new());
}

#[tokio::test]
async fn an_older_binary_refuses_a_newer_schema_and_touches_nothing() {
    let database = Database::migrated().await;
    let known: i64 = database.value("select max(version) from eventloader._sqlx_migrations").await;
    database
        .execute(
            "insert into eventloader._sqlx_migrations (version, description, success, checksum, execution_time)
             values (29990101000000, 'from the future', true, '\\x00', 0)",
        )
        .await;
    let program =
        Program::new(&database, "[sources.a]\ntype = \"file\"\npath = \"events.ndjson\"\n");
    std::fs::write(program.path("events.ndjson"), "{\"id\":1}\n").unwrap();
    for arguments in [&["migrate"][..], &["run"], &["status"], &["retry-worker", "--once"]] {
        let refused = program.run(arguments).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert_eq!(refused.stdout, "");
        for part in ["29990101000000", &known.to_string()] {
            assert!(refused.stderr.contains(part), "{part}: {refused:?}");
        }
        assert_told("schema too new", &refused.stderr);
    }
    let sources: i64 = database.value("select count(*) from eventloader.source").await;
    assert_eq!(sources, 0);
}

#[tokio::test]
async fn a_schema_of_another_build_is_refused() {
    let database = Database::migrated().await;
    database
        .execute(
            "update eventloader._sqlx_migrations set checksum = '\\x00'
             where version = (select min(version) from eventloader._sqlx_migrations)",
        )
        .await;
    let refused = Program::new(&database, "").run(&["status"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("different build"), "{refused:?}");
}

#[tokio::test]
async fn a_user_who_may_not_migrate_is_told_the_grant_that_helps() {
    let database = Database::empty().await;
    let (login, url) = database.login(None).await;
    let program = Program::with_database_url(&url, "");
    let refused = program.run(&["migrate"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let grant = refused.stderr.split('`').nth(1).unwrap().to_owned();
    assert!(grant.starts_with("grant create on database ") && grant.ends_with(&login), "{grant}");
    assert_told("may not make the schema", &refused.stderr);
    let left: bool = database.value("select to_regnamespace('eventloader') is null").await;
    assert!(left);

    database.run_sql(grant).await;
    let done = program.run(&["migrate", "--json"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let up_to_date = program.run(&["migrate"]).await;
    assert!(up_to_date.stdout.contains("up to date"), "{up_to_date:?}");
}

#[tokio::test]
async fn events_are_never_rewritten_unless_the_transaction_says_so() {
    let database = Database::migrated().await;
    database
        .execute(
            "insert into eventloader.events (stream, version, event_type, payload)
             select 's', n, 't', '{}' from generate_series(1, 3) n",
        )
        .await;
    for statement in [
        "update eventloader.events set payload = '[]'",
        "delete from eventloader.events where version = 1",
        "truncate eventloader.events",
        // Not even one that would change nothing.
        "delete from eventloader.events where false",
    ] {
        let error = database.pool.execute(statement).await.unwrap_err();
        let error = error.into_database_error().unwrap();
        assert_eq!(error.code().as_deref(), Some("42501"), "{statement}: {error}");
        let error = error.downcast::<sqlx::postgres::PgDatabaseError>();
        assert_eq!(error.hint(), Some("add a correcting event instead"), "{statement}");
    }
    let mut transaction = database.pool.begin().await.unwrap();
    for statement in [
        "set local eventloader.allow_rewrite = 'on'",
        "update eventloader.events set payload = '[]' where version = 1",
        "delete from eventloader.events where version = 2",
    ] {
        transaction.execute(statement).await.unwrap();
    }
    transaction.commit().await.unwrap();
    let payloads: Vec<serde_json::Value> =
        database.column("select payload from eventloader.events order by version").await;
    assert_eq!(payloads, [json!([]), json!({})]);

    let after = database.pool.execute("truncate eventloader.events").await;
    assert!(after.is_err(), "the permission ends with its transaction");
    let mut transaction = database.pool.begin().await.unwrap();
    transaction.execute("set local eventloader.allow_rewrite = 'on'").await.unwrap();
    transaction.execute("truncate eventloader.events").await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(database.value::<i64>("select count(*) from eventloader.events").await, 0);
}

#[tokio::test]
async fn positions_follow_versions_in_every_stream_however_many_move() {
    let database = Database::migrated().await;
    database
        .execute(
            "select eventloader.register_sources(array['a', 'b', 'c'], array['http', 'http', 'http'],
                 array[0, 0, 0]);
             insert into eventloader.event_inbox (source_name, event_id, event_type, payload)
             select s, n * 3, 't', '{}' from unnest(array['a', 'b', 'c']) s, generate_series(1, 2000) n;
             update eventloader.source_cursor set last_requested_id = 6000",
        )
        .await;
    let program = Program::new(&database, "[retry_worker]\nbatch_size = 40\n");
    let movers = join_all(
        (0..6).map(|_| async { program.run(&["retry-worker", "--once", "--json"]).await }),
    )
    .await;
    let mut moved = 0;
    for mover in &movers {
        assert_eq!(mover.code, Some(0), "{mover:?}");
        moved += mover.json()["moved_count"].as_i64().unwrap();
    }
    assert_eq!(moved, 6000);
    let inversions: i64 = database
        .value(
            "select count(*) from (
                 select version, lag(version) over (partition by stream order by position) as before
                 from eventloader.events) e
             where before >= version",
        )
        .await;
    assert_eq!(inversions, 0);
    let positions: Vec<i64> = database.column("select position from eventloader.events").await;
    assert_eq!(positions.iter().collect::<BTreeSet<_>>().len(), 6000);
}
