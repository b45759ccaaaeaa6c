//! `eventloader create-partitions`.

use futures_util::future::join_all;
use serde_json::json;

use super::{PRUNE, add, archived, count, done, failed, with};
use crate::support::database::Database;
use crate::support::program::Program;

const START: [&str; 5] = ["create-partitions", "--months-ahead", "3", "--start", "2026-11"];

async fn partitions(database: &Database) -> Vec<String> {
    database
        .column(
            "select right(inhrelid::regclass::text, 7) from pg_inherits
             where inhparent = 'eventloader.event_request_log_archive'::regclass order by 1",
        )
        .await
}

#[tokio::test]
async fn so_many_months_from_the_start_are_made_and_stay_as_they_are() {
    let database = Database::migrated().await;
    let program = Program::new(&database, "");
    let made = done(&program.run(&with(&START, &["--json"])).await);
    let first = json!({ "month": "2026-11", "partition": "event_request_log_archive_2026_11", "created": true });
    assert_eq!(made[0], first);
    assert_eq!(partitions(&database).await, ["2026_11", "2026_12", "2027_01"]);
    let again = program.run(&with(&START, &["--months-ahead", "4"])).await;
    failed(&again, 2, &["--months-ahead"]);
    let more =
        program.run(&["create-partitions", "--start", "2026-12", "--months-ahead", "3"]).await;
    assert_eq!(more.code, Some(0), "{more:?}");
    assert_eq!(
        more.stdout,
        "2026-12: event_request_log_archive_2026_12 is there already\n\
         2027-01: event_request_log_archive_2027_01 is there already\n\
         2027-02: event_request_log_archive_2027_02 created\n"
    );
    let indexes: Vec<String> = database
        .column(
            "select pg_get_indexdef(indexrelid) from pg_index
             where indrelid = 'eventloader.event_request_log_archive_2026_11'::regclass order by indisprimary desc",
        )
        .await;
    assert!(indexes[0].ends_with("(id, created_at)"), "{indexes:?}");
    assert!(indexes[1].ends_with("(status, created_at)"), "{indexes:?}");
    assert_eq!(indexes.len(), 2, "those of the archive, each once: {indexes:?}");
}

#[tokio::test]
async fn this_month_is_the_first_by_default() {
    let database = Database::migrated().await;
    let made = done(&Program::new(&database, "").run(&["create-partitions", "--json"]).await);
    let want: Vec<String> = database
        .column(
            "select to_char((clock_timestamp() at time zone 'UTC') + interval '1 month' * n, 'YYYY-MM')
             from generate_series(0, 2) n order by 1",
        )
        .await;
    let months: Vec<_> =
        made.as_array().unwrap().iter().map(|one| one["month"].as_str().unwrap()).collect();
    assert_eq!(months, want);
}

#[tokio::test]
async fn any_number_may_make_them_at_once() {
    let database = Database::migrated().await;
    let program = Program::new(&database, "");
    let arguments = with(&START, &["--json"]);
    let all = join_all((0..6).map(|_| program.run(&arguments))).await;
    let created = all.iter().flat_map(|one| done(one).as_array().unwrap().clone());
    assert_eq!(created.filter(|one| one["created"] == true).count(), 3);
    assert_eq!(partitions(&database).await.len(), 3);
}

#[tokio::test]
async fn wrong_months_are_wrong_usage() {
    let program = Program::with_database_url("postgres://localhost:1/none", "");
    for (arguments, said) in [
        (&["--start", "2026-13"][..], "2026-05"),
        (&["--start", "may"], "2026-05"),
        (&["--start", "2026-05-01"], "2026-05"),
        (&["--start", "1999-01"], "2000-01 to 2199-12"),
        (&["--start", "2199-12"], "2000-01 to 2199-12"),
        (&["--months-ahead", "0"], "1..=120"),
        (&["--months-ahead", "-1"], "1..=120"),
        (&["--months-ahead", "121"], "1..=120"),
    ] {
        failed(&program.run(&with(&["create-partitions"], arguments)).await, 2, &[said]);
    }
}

#[tokio::test]
async fn a_partition_of_ones_own_that_covers_the_month_is_used() {
    let database = Database::migrated().await;
    database.register("s", 0).await;
    database
        .execute(
            "create table eventloader.archive_of_2025 partition of eventloader.event_request_log_archive
                 for values from (minvalue) to ('2026-01-01+00')",
        )
        .await;
    add(&database, "succeeded", "'2025-12-31'", 2).await;
    add(&database, "succeeded", "'2026-01-01 12:00+00'", 2).await;
    let program = Program::new(&database, "");
    let said =
        program.run(&["create-partitions", "--start", "2025-12", "--months-ahead", "1"]).await;
    assert_eq!(said.stdout, "2025-12: archive_of_2025 is there already\n");
    let report = done(&program.run(&with(&PRUNE, &["--archive", "--json"])).await);
    assert_eq!(report["partitions_created"], json!(["event_request_log_archive_2026_01"]));
    assert_eq!((count(&database).await, archived(&database).await), (0, 4));
}

#[tokio::test]
async fn what_is_in_the_way_is_named_and_nothing_is_pruned() {
    for (in_the_way, said) in [
        (
            "create table eventloader.half partition of eventloader.event_request_log_archive
                 for values from ('2026-05-10') to ('2026-06-10')",
            &["\"half\"", "a part of 2026-05"][..],
        ),
        (
            "create table eventloader.event_request_log_archive_2026_05 (id int)",
            &["event_request_log_archive_2026_05", "rename it"],
        ),
        (
            "create table eventloader.rest partition of eventloader.event_request_log_archive default;
             insert into eventloader.event_request_log_archive
             select * from eventloader.event_request_log where created_at < '2026-06-01' limit 1",
            &["\"rest\"", "default partition"],
        ),
    ] {
        let database = Database::migrated().await;
        database.register("s", 0).await;
        add(&database, "succeeded", "'2026-05-05'", 2).await;
        database.execute(in_the_way).await;
        let program = Program::new(&database, "");
        let one = ["create-partitions", "--start", "2026-04", "--months-ahead", "2"];
        let refused = program.run(&one).await;
        failed(&refused, 1, said);
        assert_eq!(refused.stdout, "2026-04: event_request_log_archive_2026_04 created\n");
        failed(&program.run(&with(&PRUNE, &["--archive"])).await, 1, said);
        assert_eq!(count(&database).await, 2);
    }
}

#[tokio::test]
async fn readers_of_the_archive_do_not_hold_it_up() {
    let database = Database::migrated().await;
    let program = Program::new(&database, "");
    assert_eq!(program.run(&START).await.code, Some(0));
    let mut reader = database.pool.begin().await.unwrap();
    sqlx::query("select count(*) from eventloader.event_request_log_archive")
        .execute(&mut *reader)
        .await
        .unwrap();
    let made =
        program.run(&["create-partitions", "--start", "2030-01", "--months-ahead", "1"]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    reader.rollback().await.unwrap();
}
