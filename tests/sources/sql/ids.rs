//! Which columns can be ids, and what is said about those that cannot.

use eventloader::source::{EventSource, FailureClass};
use eventloader::sources::sql::{Identifier, Inspection, SqlSource};

use super::{Sql, ids, refusal};

/// Asserts that a source is refused for good, with these words.
async fn assert_refused(database: &Sql, table: &str, id: &str, said: &[&str]) {
    let options = super::SqlOptions { id: Identifier::parse(id).unwrap(), ..database.table(table) };
    let error = refusal(options).await;
    assert_eq!(error.class, FailureClass::Rejected, "{error}");
    for part in said {
        assert!(error.reason.contains(part), "{:?}, {table}: {}", database.dialect(), error.reason);
    }
}

async fn inspect(database: &Sql, table: &str) -> Inspection {
    SqlSource::new(database.table(table)).inspect().await.unwrap()
}

#[tokio::test]
async fn columns_that_cannot_be_ids_are_refused_with_a_way_out() {
    for database in Sql::all().await {
        for (table, columns) in [
            ("composite", "tenant int not null, id int not null, primary key (tenant, id)"),
            ("loose", "id bigint not null"),
            ("nullable", "id bigint unique"),
            ("words", "id varchar(36) not null primary key"),
            ("floats", "id double precision not null primary key"),
            ("good", "id bigint not null primary key, event_id int"),
        ] {
            database.run(&format!("create table {table} ({columns})")).await;
        }
        assert_refused(&database, "composite", "id", &["(tenant, id)", "unique column"]).await;
        assert_refused(&database, "loose", "id", &["no unique index", "query"]).await;
        assert_refused(&database, "nullable", "id", &["can be null"]).await;
        assert_refused(&database, "words", "id", &["expected an integer", "identity"]).await;
        assert_refused(&database, "floats", "id", &["expected an integer"]).await;
        assert_refused(&database, "good", "evnt_id", &["did you mean `event_id`?"]).await;
        assert_refused(&database, "nowhere", "id", &["there is no table"]).await;
        assert_refused(&database, "nowhere.good", "id", &["nowhere"]).await;
    }
}

#[tokio::test]
async fn queries_are_judged_by_their_result() {
    for database in Sql::all().await {
        let text = "select 'a' as id, 1 as n where 0 < {after_id} + 1 limit {limit}";
        let error = refusal(database.query(text)).await;
        assert!(error.reason.contains("expected an integer"), "{error}");
        let text = "select 1 as idd where 0 < {after_id} limit {limit}";
        let error = refusal(database.query(text)).await;
        assert!(error.reason.contains("did you mean `idd`?"), "{error}");
        let text = "select case when 1 = 1 then null else 1 end as id where 0 < {after_id} + 1 limit {limit}";
        let error = refusal(database.query(text)).await;
        assert!(error.reason.contains("null"), "{error}");
        // Order is the query's to keep; without it, the page is invalid, not silently short.
        let text = "select * from (select 2 as id union all select 1) x where id > {after_id} limit {limit}";
        let error = refusal(database.query(text)).await;
        assert_eq!(error.class, FailureClass::InvalidPage, "{error}");
    }
}

#[tokio::test]
async fn an_inspection_tells_type_key_index_and_sequence() {
    let database = Sql::postgres().await;
    database
        .run("create table t (id bigint generated always as identity (cache 20) primary key)")
        .await;
    let found = inspect(&database, "t").await;
    assert_eq!(
        (found.id_type.as_str(), &*found.key, found.is_indexed),
        ("bigint", &["id".to_owned()][..], Some(true))
    );
    let sequence = found.sequence.unwrap();
    assert_eq!(
        (sequence.name.as_str(), sequence.cache_size, sequence.increment),
        ("t_id_seq", 20, 1)
    );
    assert!(found.warnings[0].contains("cache 20"), "{:?}", found.warnings);
    assert!(found.server.starts_with("PostgreSQL 1"));
    database.run("create sequence numbers increment 50").await;
    database.run("create table p (id bigint default nextval('numbers'), day date, primary key (id, day)) partition by range (day)").await;
    let found = inspect(&database, "p").await;
    assert_eq!(found.warnings.len(), 2, "{:?}", found.warnings);
    database.run("create view v as select * from t").await;
    assert_eq!(inspect(&database, "v").await.is_indexed, None);

    database.run("create table child () inherits (t)").await;
    let found = refusal(database.table("child")).await;
    assert!(found.reason.contains("no unique index"), "{found}");
    let found = inspect(&database, "t").await;
    assert!(found.warnings[0].contains("over all partitions"), "{:?}", found.warnings);

    let database = Sql::mariadb().await;
    database.run("create table t (id bigint unsigned auto_increment primary key)").await;
    let found = inspect(&database, "t").await;
    assert!(found.server.contains("MariaDB") && found.warnings.is_empty(), "{found:?}");

    let database = Sql::sqlite().await;
    database.run("create table t (id integer primary key)").await;
    database.run("create table a (id integer primary key autoincrement)").await;
    assert!(inspect(&database, "t").await.warnings[0].contains("autoincrement"));
    assert!(inspect(&database, "a").await.warnings.is_empty());
}

#[tokio::test]
async fn ids_beyond_bigint_are_said_when_all_others_are_read() {
    let database = Sql::mariadb().await;
    database.run("create table t (id bigint unsigned primary key)").await;
    database.run("insert into t values (1), (9223372036854775807), (18446744073709551615)").await;
    let source = SqlSource::new(database.table("t"));
    assert_eq!(ids(&source, -5, 10).await, [1, i64::MAX]);
    let error = source.fetch_events(i64::MAX, 10).await.unwrap_err();
    assert!(error.reason.contains("18446744073709551615"), "{error}");
}

#[tokio::test]
async fn sqlite_takes_no_notice_of_the_case_of_a_table() {
    let database = Sql::sqlite().await;
    let said = &["there is no table or view events in the file", "the file has none"];
    assert_refused(&database, "events", "id", said).await;
    database.run("create table Events (Id integer primary key autoincrement, Body text)").await;
    database.run("insert into Events (Body) values ('a')").await;
    database.run("create view Newest as select * from Events").await;
    for table in ["events", "EVENTS", "MAIN.events", "newest"] {
        assert_eq!(ids(&SqlSource::new(database.table(table)), 0, 10).await, [1], "{table}");
    }
    assert!(inspect(&database, "events").await.warnings.is_empty(), "autoincrement was found");
    assert_refused(&database, "event", "id", &["in the file; it has Events"]).await;
    assert_refused(&database, "other.events", "id", &["write the table alone"]).await;
}
