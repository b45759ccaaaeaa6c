//! Which requests go.

use std::cell::Cell;

use futures_util::future::join_all;
use serde_json::json;

use super::{PRUNE, PRUNE_ALL, STATUSES, add, at, count, counts, done, failed, left, seeded, with};
use crate::support::database::Database;
use crate::support::http::Server;
use crate::support::program::{Program, signal};

/// What `--succeeded-days 7 --failed-days 30` leaves of the seeded log.
fn kept() -> Vec<(String, i32)> {
    let ages = |status: &str| match status {
        "succeeded" => &[1][..],
        "retried" | "skipped" => &[1, 8],
        _ => &[1, 8, 31, 400],
    };
    let mut kept: Vec<_> = STATUSES
        .iter()
        .flat_map(|status| ages(status).iter().map(|age| ((*status).to_owned(), *age)))
        .collect();
    kept.sort();
    kept
}

#[tokio::test]
async fn finished_requests_go_by_age_and_live_ones_never() {
    let database = seeded().await;
    let program = Program::new(&database, "");
    let want = [("succeeded".to_owned(), 3), ("retried".to_owned(), 2), ("skipped".to_owned(), 2)];

    let dry = done(&program.run(&with(&PRUNE, &["--dry-run", "--json"])).await);
    assert_eq!(
        (&dry["dry_run"], &dry["complete"], &dry["archive"]),
        (&json!(true), &json!(true), &json!(false))
    );
    assert_eq!((counts(&dry), &dry["pruned_count"]), (want.to_vec(), &json!(7)));
    assert_eq!(count(&database).await, 28, "a dry run removes nothing");
    let age = |tally: &serde_json::Value| (at(&dry["succeeded_before"]) - at(tally)).num_days();
    let succeeded = &dry["statuses"][0];
    assert_eq!((age(&succeeded["oldest"]), age(&succeeded["newest"])), (393, 1));

    let said = program.run(&with(&PRUNE, &["--dry-run"])).await;
    assert!(said.stdout.contains("3 succeeded requests would be deleted, made from "), "{said:?}");
    let pruned = done(&program.run(&with(&PRUNE, &["--json"])).await);
    assert_eq!((counts(&pruned), &pruned["dry_run"]), (want.to_vec(), &json!(false)));
    assert_eq!(pruned["statuses"], dry["statuses"], "it was counted what went");
    assert_eq!(left(&database).await, kept());
    let again = program.run(&PRUNE).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stdout.starts_with("nothing to prune"), "{again:?}");

    let all = done(&program.run(&with(&PRUNE_ALL, &["--json"])).await);
    assert_eq!(all["pruned_count"], json!(5));
    let statuses: Vec<String> = database
        .column("select distinct status from eventloader.event_request_log order by 1")
        .await;
    assert_eq!(statuses, ["failed", "inbox_only", "orphaned", "reserved"]);
}

#[tokio::test]
async fn the_days_default_to_the_configuration_and_then_to_7_and_30() {
    let database = seeded().await;
    let configured =
        Program::new(&database, "[request_log]\nsucceeded_days = 399\nfailed_days = 398\n");
    let report = done(&configured.run(&["prune-request-log", "--dry-run", "--json"]).await);
    assert_eq!(report["pruned_count"], 3);
    let flag = ["prune-request-log", "--succeeded-days", "30", "--dry-run", "--json"];
    assert_eq!(done(&configured.run(&flag).await)["pruned_count"], 4);
    let archiving = Program::new(&database, "[request_log]\narchive = true\n");
    let report = done(&archiving.run(&["prune-request-log", "--json"]).await);
    assert_eq!((&report["pruned_count"], &report["archive"]), (&json!(7), &json!(true)));
    assert_eq!((super::archived(&database).await, left(&database).await), (7, kept()));
}

#[tokio::test]
async fn a_day_has_24_hours_and_a_request_of_just_that_age_stays() {
    let database = Database::migrated().await;
    database.register("s", 0).await;
    // A time zone in which the last days may have had 23 or 25 hours.
    database.run_sql("do $$ begin execute format('alter database %I set timezone = ''America/New_York''', current_database()); end $$".to_owned()).await;
    for (status, days) in [("succeeded", 200), ("skipped", 230)] {
        for minutes in [-2, 2] {
            let at = format!(
                "clock_timestamp() - interval '24 hours' * {days} + interval '1 minute' * {minutes}"
            );
            add(&database, status, &at, 1).await;
        }
    }
    let days = ["prune-request-log", "--succeeded-days", "200", "--failed-days", "230", "--json"];
    let report = done(&Program::new(&database, "").run(&days).await);
    assert_eq!(counts(&report), [("succeeded".to_owned(), 1), ("skipped".to_owned(), 1)]);
    assert_eq!(count(&database).await, 2);
}

#[tokio::test]
async fn wrong_days_are_wrong_usage() {
    let program = Program::with_database_url("postgres://localhost:1/none", "");
    for arguments in [
        &["--succeeded-days", "-7"][..],
        &["--succeeded-days=-7"],
        &["--failed-days", "-1"],
        &["--failed-days", "36501"],
        &["--succeeded-days", "7.5"],
        &["--succeeded-days", "week"],
        &["--succeeded-days", ""],
        &["--yes"],
    ] {
        let refused = program.run(&with(&["prune-request-log"], arguments)).await;
        failed(&refused, 2, &[arguments[0].split('=').next().unwrap()]);
    }
}

#[tokio::test]
async fn a_pruned_log_still_holds_every_held_window() {
    const CLAIM: &str =
        "select outcome from eventloader.claim('s', 'other', gen_random_uuid(), 100, '2 s', '0',
        '1 hour', null, 5)";
    for status in ["reserved", "inbox_only", "failed", "orphaned"] {
        let database = Database::migrated().await;
        database.register("s", 0).await;
        add(&database, status, "clock_timestamp() - interval '5 years'", 1).await;
        database
            .execute(
                "update eventloader.event_request_log set after_id = 0;
                 update eventloader.source_lease set owner = 'one', expires_at = clock_timestamp() - interval '1 s'",
            )
            .await;
        assert_eq!(database.value::<String>(CLAIM).await, "held", "{status}");
        let report = done(&Program::new(&database, "").run(&with(&PRUNE_ALL, &["--json"])).await);
        assert_eq!(report["pruned_count"], 0, "{status}");
        assert_eq!(database.value::<String>(CLAIM).await, "held", "{status}");
    }
}

#[tokio::test]
async fn nothing_misses_a_pruned_request() {
    let database = seeded().await;
    database
        .execute(
            "insert into eventloader.events (stream, version, event_type, payload, request_id)
             select 's', id, 't', '{}', id from eventloader.event_request_log where status = 'succeeded';
             insert into eventloader.dead_letter (kind, origin, reference, body, reason, detail)
             select 'event', 's', '900', '{\"id\":900}', 'too large',
                 jsonb_build_object('event_id', 900, 'event_type', 't', 'request_id', id)
             from eventloader.event_request_log where status = 'succeeded' limit 1;
             update eventloader.source_cursor set last_requested_id = 1000, last_stored_id = 1000",
        )
        .await;
    let (id, token): (i64, uuid::Uuid) = sqlx::query_as(
        "select id, token from eventloader.event_request_log where status = 'retried' order by created_at limit 1",
    )
    .fetch_one(&database.pool)
    .await
    .unwrap();
    let program = Program::new(&database, "");
    assert_eq!(done(&program.run(&with(&PRUNE_ALL, &["--json"])).await)["pruned_count"], 12);

    let gone = program.run(&["requests", "show", &id.to_string()]).await;
    failed(&gone, 1, &["there is no request"]);
    assert_eq!(program.run(&["requests", "list"]).await.code, Some(0));
    assert_eq!(program.run(&["status"]).await.code, Some(0));
    assert_eq!(program.run(&["dead-letters", "replay", "1"]).await.code, Some(0));
    assert_eq!(program.run(&["retry-worker", "--once"]).await.code, Some(0));
    // A late response of a request that was closed: refused, as if its row were still there.
    let outcome: String = sqlx::query_scalar(
        "select outcome from eventloader.deposit('s', $1, $2, 'o', 7, 5, array[5::bigint], array['t'], array['{}'],
             array[null::uuid], array[null::timestamptz], '{}', '{}', '{}', '{}', '0', null, 0)",
    )
    .bind(id)
    .bind(token)
    .fetch_one(&database.pool)
    .await
    .unwrap();
    assert_eq!(outcome, "closed");
    let traced: i64 = database
        .value("select count(*) from eventloader.events where request_id is not null")
        .await;
    assert_eq!(traced, 5, "four events and the replayed one keep the number of their request");
}

#[tokio::test]
async fn several_that_prune_at_once_share_the_work() {
    let database = Database::migrated().await;
    database.register("s", 0).await;
    add(&database, "succeeded", "clock_timestamp() - interval '10 days'", 45_000).await;
    let program = Program::new(&database, "");
    let arguments = with(&PRUNE, &["--archive", "--json"]);
    let reports = join_all((0..4).map(|_| program.run(&arguments))).await;
    let pruned: i64 = reports.iter().map(|one| done(one)["pruned_count"].as_i64().unwrap()).sum();
    assert_eq!((pruned, count(&database).await), (45_000, 0));
    let ids: i64 = database
        .value("select count(distinct id) from eventloader.event_request_log_archive")
        .await;
    assert_eq!((super::archived(&database).await, ids), (45_000, 45_000));
}

#[tokio::test]
async fn loading_goes_on_while_the_log_is_pruned() {
    let database = Database::migrated().await;
    let server = Server::with_events(1500).await;
    let program = Program::new(
        &database,
        &format!("[sources.api]\ntype = \"http\"\nurl = \"{}\"\nbatch_size = 100\n", server.url()),
    );
    let mut child = program.start(&["run"], "log");
    let pruned = Cell::new(0);
    crate::support::wait_for("all events", || async {
        let report = done(&program.run(&with(&PRUNE_ALL, &["--json"])).await);
        pruned.set(pruned.get() + report["pruned_count"].as_i64().unwrap());
        let stored: i64 = database.value("select count(*) from eventloader.events").await;
        (stored == 1500).then_some(())
    })
    .await;
    signal(&child, rustix::process::Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));
    let rest = done(&program.run(&with(&PRUNE_ALL, &["--json"])).await);
    let pruned = pruned.get() + rest["pruned_count"].as_i64().unwrap();
    assert_eq!(pruned, 15, "one request for each hundred events");
    let log = program.read("log");
    assert!(!log.contains("ERROR") && !log.contains("deadlock"), "{log}");
    let windows = server.windows();
    assert!((0..15).all(|n| windows.iter().filter(|w| **w == n * 100).count() == 1), "{windows:?}");
}
