//! Where archived requests go.

use super::{PRUNE, PRUNE_ALL, add, archived, count, done, failed, left, seeded, with};
use crate::support::database::Database;
use crate::support::program::Program;

#[tokio::test]
async fn archived_requests_keep_every_column_as_owner_and_as_runtime() {
    for role in ["eventloader_owner", "eventloader_runtime"] {
        let database = seeded().await;
        let (_, url) = database.login(Some(role)).await;
        let before: Vec<String> = database
            .column(
                "select r::text from eventloader.event_request_log r
                 where status in ('succeeded', 'retried', 'skipped') order by id",
            )
            .await;
        let program = Program::with_database_url(&url, "");
        let report = done(&program.run(&with(&PRUNE_ALL, &["--archive", "--json"])).await);
        assert_eq!(report["pruned_count"], 12, "{role}");
        let after: Vec<String> = database
            .column("select r::text from eventloader.event_request_log_archive r order by id")
            .await;
        assert_eq!(after, before, "{role}");
        assert_eq!(left(&database).await.len(), 16, "{role}");
        let months: Vec<String> = database
            .column(
                "select distinct 'event_request_log_archive_' || to_char(created_at at time zone 'UTC', 'YYYY_MM')
                 from eventloader.event_request_log_archive order by 1",
            )
            .await;
        let tables: Vec<String> = database
            .column(
                "select distinct c.relname::text from eventloader.event_request_log_archive a
                 join pg_class c on c.oid = a.tableoid order by 1",
            )
            .await;
        assert_eq!(tables, months, "{role}: each request is in the partition of its month");
        let mut made: Vec<String> =
            serde_json::from_value(report["partitions_created"].clone()).unwrap();
        made.sort();
        assert_eq!(made, months, "{role}");
        let readable: bool = database
            .value(
                "select bool_and(has_table_privilege('eventloader_readonly', inhrelid, 'select')
                     and not has_table_privilege('eventloader_readonly', inhrelid, 'insert, update, delete')
                     and has_table_privilege('eventloader_runtime', inhrelid, 'insert'))
                 from pg_inherits where inhparent = 'eventloader.event_request_log_archive'::regclass",
            )
            .await;
        assert!(readable, "{role}");
    }
}

#[tokio::test]
async fn months_end_in_utc_in_every_time_zone() {
    for zone in ["America/New_York", "Pacific/Auckland", "Asia/Kolkata"] {
        let database = Database::migrated().await;
        database.register("s", 0).await;
        database
            .run_sql(format!(
                "do $$ begin execute format('alter database %I set timezone = ''{zone}''', current_database()); end $$"
            ))
            .await;
        let times = [
            ("2025-02-28 23:59:59.999999+00", "2025_02"),
            ("2025-03-01 00:00:00+00", "2025_03"),
            // The month in which New York loses an hour, and Auckland soon after.
            ("2025-03-31 23:59:59.999999+00", "2025_03"),
            ("2025-04-01 00:00:00+00", "2025_04"),
            ("2025-12-31 23:59:59.999999+00", "2025_12"),
            ("2026-01-01 00:00:00+00", "2026_01"),
        ];
        for (time, _) in times {
            add(&database, "succeeded", &format!("'{time}'"), 1).await;
        }
        // A session of the zone itself, which the program's are not.
        let mut session = database.pool.acquire().await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(format!("set timezone = '{zone}'")))
            .execute(&mut *session)
            .await
            .unwrap();
        let name: String = sqlx::query_scalar(
            "select partition_name from eventloader.create_archive_partition('2025-03-01')",
        )
        .fetch_one(&mut *session)
        .await
        .unwrap();
        assert_eq!(name, "event_request_log_archive_2025_03");
        drop(session);
        let report =
            done(&Program::new(&database, "").run(&with(&PRUNE, &["--archive", "--json"])).await);
        assert_eq!(report["pruned_count"], 6, "{zone}");
        let tables: Vec<String> = database
            .column(
                "select right(c.relname::text, 7) from eventloader.event_request_log_archive a
                 join pg_class c on c.oid = a.tableoid order by a.created_at",
            )
            .await;
        assert_eq!(tables, times.map(|(_, month)| month), "{zone}");
    }
}

#[tokio::test]
async fn without_its_table_nothing_is_pruned_and_the_page_says_how_to_make_it_again() {
    let database = seeded().await;
    database.execute("drop table eventloader.event_request_log_archive").await;
    let program = Program::new(&database, "");
    for more in [&["--archive"][..], &["--archive", "--dry-run"]] {
        let refused = program.run(&with(&PRUNE, more)).await;
        failed(&refused, 1, &["event_request_log_archive", "nothing was pruned", "docs/upkeep.md"]);
    }
    failed(
        &program.run(&["create-partitions"]).await,
        1,
        &["event_request_log_archive", "docs/upkeep.md"],
    );
    assert_eq!(count(&database).await, 28);

    let page = include_str!("../../docs/upkeep.md");
    let statement = page.split("```sql\n").find(|block| block.starts_with("create table")).unwrap();
    database.run_sql(statement.split("```").next().unwrap().to_owned()).await;
    let (_, url) = database.login(Some("eventloader_runtime")).await;
    let runtime = Program::with_database_url(&url, "");
    let report = done(&runtime.run(&with(&PRUNE, &["--archive", "--json"])).await);
    assert_eq!((&report["pruned_count"], archived(&database).await), (&7.into(), 7));
}

#[tokio::test]
async fn a_role_that_may_not_make_partitions_is_told_which_is_missing_and_the_command() {
    let database = Database::migrated().await;
    database.register("s", 0).await;
    add(&database, "succeeded", "'2026-05-05'", 3).await;
    let (login, url) = database.login(None).await;
    database
        .run_sql(format!(
            "grant usage on schema eventloader to {login};
             grant select, update, delete on eventloader.event_request_log to {login};
             grant insert on eventloader.event_request_log_archive to {login};
             grant select on eventloader._sqlx_migrations to {login}"
        ))
        .await;
    let program = Program::with_database_url(&url, "");
    let refused = program.run(&with(&PRUNE, &["--archive"])).await;
    let command = "eventloader create-partitions --start 2026-05 --months-ahead 1";
    failed(&refused, 1, &["event_request_log_archive_2026_05", command, "eventloader_runtime"]);
    assert_eq!((count(&database).await, archived(&database).await), (3, 0));

    let arguments: Vec<_> = command.split(' ').skip(1).collect();
    assert_eq!(Program::new(&database, "").run(&arguments).await.code, Some(0));
    // The function is also what looks for the partition.
    database
        .run_sql(format!(
            "grant execute on function eventloader.create_archive_partition(date) to {login}"
        ))
        .await;
    let pruned = program.run(&with(&PRUNE, &["--archive"])).await;
    assert_eq!(pruned.code, Some(0), "{pruned:?}");
    assert_eq!((count(&database).await, archived(&database).await), (0, 3));
}

#[tokio::test]
async fn only_the_roles_that_write_may_make_partitions() {
    let database = Database::migrated().await;
    let may: Vec<bool> = database
        .column(
            "select has_function_privilege(r, 'eventloader.create_archive_partition(date)', 'execute')
             from unnest(array['public', 'eventloader_readonly', 'eventloader_runtime', 'eventloader_owner']) r",
        )
        .await;
    assert_eq!(may, [false, false, true, true]);
    let owners: Vec<String> = database
        .column(
            "select distinct o::regrole::text from (
                 select proowner from pg_proc where proname = 'create_archive_partition'
                 union all
                 select relowner from pg_class where relname = 'event_request_log_archive') x (o)",
        )
        .await;
    assert_eq!(owners, ["eventloader_owner"], "it runs as the owner of what it changes");
    for day in ["null", "'infinity'", "'1999-12-31'", "'2200-01-01'"] {
        let sql = format!("select * from eventloader.create_archive_partition({day})");
        let refused = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&database.pool).await;
        let error = refused.unwrap_err().into_database_error().unwrap();
        assert_eq!(error.code().as_deref(), Some("22023"), "{day}: {error}");
    }
}
