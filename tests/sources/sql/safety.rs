//! A source only reads, in bounded time, and says honestly what became of a request.

use std::time::Duration;

use eventloader::source::{EventSource, FailureClass};
use eventloader::sources::sql::{Location, Query, SqlOptions, SqlSource};
use secrecy::SecretString;
use tokio::time::Instant;

use super::{Sql, ids, refusal};

const TABLE: &str = "create table t (id bigint not null primary key, body varchar(20))";

#[tokio::test]
async fn what_writes_is_refused_by_the_database_itself() {
    let postgres = Sql::postgres().await;
    postgres.run(TABLE).await;
    postgres.run("insert into t values (1, 'a')").await;
    postgres.run("create sequence s").await;
    postgres
        .run("create function w() returns bigint language sql as 'delete from t returning id'")
        .await;
    for text in [
        "with d as (delete from t returning id) select id from d where id > {after_id} limit {limit}",
        "select w() as id where 0 < {after_id} + 1 limit {limit}",
        "select nextval('s') as id where 0 < {after_id} + 1 limit {limit}",
        "select id from t where id > {after_id} limit {limit} for update",
        "select set_config('transaction_read_only', 'off', true)::bigint as id where 0 < {after_id} + 1 limit {limit}",
    ] {
        let error = refusal(postgres.query(text)).await;
        assert_eq!(error.class, FailureClass::Rejected, "{text}: {error}");
    }
    let mariadb = Sql::mariadb().await;
    mariadb.run(TABLE).await;
    mariadb.run("insert into t values (1, 'a')").await;
    mariadb.run("create function w() returns bigint begin delete from t; return 1; end").await;
    let error =
        refusal(mariadb.query("select w() as id where 0 < {after_id} + 1 limit {limit}")).await;
    assert_eq!(error.class, FailureClass::Rejected, "{error}");
    let sqlite = Sql::sqlite().await;
    sqlite.run(TABLE).await;
    sqlite.run("insert into t values (1, 'a')").await;
    let text = "with x as (select 1) delete from t where id > {after_id} returning id, {limit}";
    let error = refusal(sqlite.query(text)).await;
    assert_eq!(error.class, FailureClass::Rejected, "{error}");
    for database in [postgres, mariadb, sqlite] {
        assert_eq!(database.count("t").await, 1);
    }
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_ended_at_the_server() {
    let postgres =
        "select id from t where id > {after_id} and pg_sleep(20) is not null limit {limit}";
    let mariadb = "select id, sleep(20) as s from t where id > {after_id} limit {limit}";
    let sqlite = "with recursive n (id) as (select 1 union all select id + 1 from n) \
                  select max(id) as id from n where id > {after_id} limit {limit}";
    for (database, text) in Sql::all().await.into_iter().zip([postgres, mariadb, sqlite]) {
        database.run(TABLE).await;
        database.run("insert into t values (1, 'a')").await;
        let mut options = database.query(text);
        options.timeout = Duration::from_millis(300);
        let began = Instant::now();
        let error = refusal(options).await;
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}: {error}", database.dialect());
        let known = [FailureClass::Unknown, FailureClass::Refused];
        assert!(known.contains(&error.class), "{:?}: {error:?}", database.dialect());
        assert!(error.reason.contains("timeout"), "{error}");
    }
}

#[tokio::test]
async fn what_a_server_says_decides_the_class_and_no_secret_is_said() {
    let at = |location| SqlOptions { location, ..sample() };
    let nobody = "postgres://u:hunter2@127.0.0.1:1/d";
    let error = refusal(at(Location::Postgres(SecretString::from(nobody)))).await;
    assert_eq!(error.class, FailureClass::NotSent, "{error}");
    assert!(!error.reason.contains("hunter2"));
    let nobody = "mysql://u:hunter2@127.0.0.1:1/d";
    let error = refusal(at(Location::MySql(SecretString::from(nobody)))).await;
    assert_eq!(error.class, FailureClass::NotSent, "{error}");
    let error = refusal(at(Location::Sqlite("/nonexistent/x.db".into()))).await;
    assert_eq!(error.class, FailureClass::Refused, "{error}");
    assert!(error.reason.contains("has to exist"));

    let mariadb = Sql::mariadb().await;
    let Sql::MariaDb(server) = &mariadb else { unreachable!() };
    let wrong = server.url_as("tester", "hunter2");
    let error = refusal(at(Location::MySql(SecretString::from(wrong)))).await;
    assert_eq!(error.class, FailureClass::Rejected, "{error}");
    assert!(error.reason.contains("check user and password") && !error.reason.contains("hunter2"));
    let shown = format!("{:?}", SqlSource::new(mariadb.table("t")));
    assert!(!shown.contains("s3cret"), "{shown}");

    let postgres = Sql::postgres().await;
    postgres.run(TABLE).await;
    let Sql::Postgres(server) = &postgres else { unreachable!() };
    let (role, url) = server.database.login(None).await;
    let mut options = postgres.table("t");
    options.location = Location::Postgres(SecretString::from(url));
    let error = refusal(options.clone()).await;
    assert_eq!(error.class, FailureClass::Rejected, "{error}");
    assert!(error.reason.contains("grant the user"), "{error}");
    postgres.run(&format!("grant select on t to {role}")).await;
    assert_eq!(ids(&SqlSource::new(options), 0, 10).await, [0; 0]);
}

fn sample() -> SqlOptions {
    let query = "select id from t where id > {after_id} limit {limit}";
    SqlOptions {
        location: Location::Sqlite("x".into()),
        relation: eventloader::sources::sql::Relation::Query(
            Query::parse(query, eventloader::sources::sql::Dialect::Sqlite).unwrap(),
        ),
        id: eventloader::sources::sql::Identifier::parse("id").unwrap(),
        mapping: eventloader::mapping::Mapping::default(),
        timeout: Duration::from_secs(5),
        tip_lag: Duration::ZERO,
        max_page_bytes: 1 << 20,
    }
}

#[tokio::test]
async fn a_connection_that_was_cut_between_requests_is_made_anew_unnoticed() {
    let database = Sql::postgres().await;
    database.run(TABLE).await;
    database.run("insert into t values (1, 'a')").await;
    let source = SqlSource::new(database.table("t"));
    assert_eq!(ids(&source, 0, 10).await, [1]);
    let Sql::Postgres(server) = &database else { unreachable!() };
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
               where datname = current_database() and application_name = 'eventloader' \
               and pid <> pg_backend_pid()";
    let count: i64 = sqlx::query_scalar(cut).fetch_one(&server.pool).await.unwrap();
    assert!(count >= 1);
    database.run("insert into t values (2, 'b')").await;
    assert_eq!(ids(&source, 0, 10).await, [1, 2]);
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_no_half_read_connection() {
    let database = Sql::postgres().await;
    database.run(TABLE).await;
    database.run("insert into t values (1, 'a'), (2, 'b')").await;
    let text =
        "select id, pg_sleep(0.2)::text from t where id > {after_id} order by id limit {limit}";
    let source = SqlSource::new(database.query(text));
    let dropped =
        tokio::time::timeout(Duration::from_millis(150), source.fetch_events(0, 10)).await;
    assert!(dropped.is_err());
    assert_eq!(ids(&source, 1, 10).await, [2]);
}

#[tokio::test]
async fn a_sqlite_file_that_is_replaced_is_opened_anew() {
    let (old, new) = (Sql::sqlite().await, Sql::sqlite().await);
    for database in [&old, &new] {
        database.run(TABLE).await;
        database.run("insert into t values (1, 'a')").await;
    }
    new.run("insert into t values (2, 'b')").await;
    let source = SqlSource::new(old.table("t"));
    assert_eq!(ids(&source, 0, 10).await, [1]);
    let (Sql::Sqlite(old), Sql::Sqlite(new)) = (&old, &new) else { unreachable!() };
    std::fs::rename(new.path(), old.path()).unwrap();
    assert_eq!(ids(&source, 1, 10).await, [2]);
    std::fs::remove_file(old.path()).unwrap();
    let error = source.fetch_events(2, 10).await.unwrap_err();
    assert_eq!(error.class, FailureClass::Refused, "{error}");
    assert!(error.reason.contains("the file has to exist"), "{error}");
}
