//! Ids that become visible late: the horizon of PostgreSQL and the lag of MariaDB, with a naive reader beside them that
//! has to lose events, or the test proves nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use eventloader::source::{EventSource, FailureClass};
use eventloader::sources::sql::SqlSource;
use rand::Rng;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tokio::task::JoinSet;

use super::{PostgresDb, Sql, ids, refusal};
use crate::support::database::Database;
use crate::support::loading::{Given, Loading};
use crate::support::wait_for;

const TABLE: &str =
    "create table t (id bigint generated always as identity primary key, body text)";
const INSERT: &str = "insert into t (body) values ('x')";

/// A transaction of the application that is open.
struct Writer(PgConnection);

impl Writer {
    async fn begin(database: &Sql, sql: &str) -> Self {
        let Sql::Postgres(server) = database else { unreachable!() };
        let mut connection = PgConnection::connect_with(&server.database.options).await.unwrap();
        connection.execute("begin").await.unwrap();
        connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
        Self(connection)
    }

    async fn end(mut self, how: &'static str) {
        self.0.execute(how).await.unwrap();
    }
}

async fn naive(database: &Sql) -> Vec<i64> {
    let Sql::Postgres(server) = database else { unreachable!() };
    sqlx::query_scalar("select id from t order by id").fetch_all(&server.pool).await.unwrap()
}

#[tokio::test]
async fn an_id_that_is_committed_late_is_waited_for() {
    for end in ["commit", "rollback"] {
        let database = Sql::postgres().await;
        database.run(TABLE).await;
        let source = SqlSource::new(database.table("t"));
        let late = Writer::begin(&database, INSERT).await;
        database.run(INSERT).await;
        assert_eq!(naive(&database).await, [2], "whoever takes 2 now loses 1");
        assert_eq!(ids(&source, 0, 10).await, [0; 0]);
        late.end(end).await;
        let want = if end == "commit" { vec![1, 2] } else { vec![2] };
        assert_eq!(ids(&source, 0, 10).await, want);
    }
}

#[tokio::test]
async fn a_query_and_a_view_wait_as_a_table_does() {
    let database = Sql::postgres().await;
    database.run(TABLE).await;
    database.run("create table other (id bigint)").await;
    database.run("create view v as select * from t where body is not null").await;
    let query = "select * from v where id > {after_id} order by id limit {limit}";
    let sources = [SqlSource::new(database.table("v")), SqlSource::new(database.query(query))];
    let late = Writer::begin(&database, INSERT).await;
    let elsewhere = Writer::begin(&database, "insert into other values (1)").await;
    database.run(INSERT).await;
    for source in &sources {
        assert_eq!(ids(source, 0, 10).await, [0; 0]);
    }
    late.end("commit").await;
    for source in &sources {
        assert_eq!(ids(source, 0, 10).await, [1, 2]);
    }
    elsewhere.end("commit").await;
}

#[tokio::test]
async fn what_is_filled_from_elsewhere_is_refused_without_a_lag() {
    let database = Sql::postgres().await;
    database.run(TABLE).await;
    let late = Writer::begin(&database, INSERT).await;
    database.run(INSERT).await;
    database.run("create materialized view m as select * from t").await;
    database.run("create view v as select * from m").await;
    let query = "select * from v where id > {after_id} order by id limit {limit}";
    let sources = [database.table("m"), database.table("v"), database.query(query)];
    for options in &sources {
        let error = refusal(options.clone()).await;
        assert_eq!(error.class, FailureClass::Rejected, "{error}");
        assert!(error.reason.contains("m (materialized view)"), "{error}");
        assert!(error.reason.contains("set tip_lag"), "{error}");
    }
    late.end("commit").await;
    database.run("refresh materialized view m").await;
    database.run("create view changing as select * from t where id = 1").await;
    let changed = SqlSource::new(database.table("changing"));
    assert_eq!(ids(&changed, 0, 10).await, [1]);
    database.run("create or replace view changing as select * from m").await;
    let error = changed.fetch_events(1, 10).await.unwrap_err();
    assert!(error.reason.contains("m (materialized view)"), "{error}");
    for mut options in sources {
        options.tip_lag = Duration::from_millis(1);
        let source = SqlSource::new(options);
        let warnings = source.inspect().await.unwrap().warnings;
        assert!(warnings.iter().any(|w| w.contains("only tip_lag counts")), "{warnings:?}");
        assert_eq!(ids(&source, 0, 10).await, [0; 0]);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(ids(&source, 0, 10).await, [1, 2]);
    }
}

#[tokio::test]
async fn a_foreign_partition_is_refused() {
    let database = Sql::postgres().await;
    database.run("create sequence numbers").await;
    let columns = "id bigint not null default nextval('numbers'), day int not null";
    database.run(&format!("create table p ({columns}) partition by list (day)")).await;
    database.run("create table p1 partition of p for values in (1)").await;
    database.run("create unique index on p1 (id)").await;
    database.run("insert into p (day) values (1)").await;
    assert_eq!(ids(&SqlSource::new(database.table("p")), 0, 10).await, [1]);
    database.run("create foreign data wrapper w").await;
    database.run("create server s foreign data wrapper w").await;
    database.run("create foreign table p2 partition of p for values in (2) server s").await;
    let error = refusal(database.table("p")).await;
    assert_eq!(error.class, FailureClass::Rejected, "{error}");
    assert!(error.reason.contains("p2 (foreign table)"), "{error}");
    let leaf = SqlSource::new(database.table("p1"));
    assert_eq!(ids(&leaf, 0, 10).await, [1], "its writers are all here");
}

#[tokio::test]
async fn a_number_drawn_before_the_transaction_has_an_xid_is_waited_for() {
    let database = Sql::postgres().await;
    database.run(TABLE).await;
    database.run("insert into t (body) select 'x' from generate_series(1, 3)").await;
    let source = SqlSource::new(database.table("t"));
    assert_eq!(ids(&source, 0, 10).await, [1, 2, 3]);
    let Sql::Postgres(server) = &database else { unreachable!() };
    let pool = server.pool.clone();
    // The id comes first, then the sleep, then the row, and only then an xid.
    let slow = tokio::spawn(async move {
        pool.execute("insert into t (body) values (pg_sleep(1)::text)").await.unwrap();
    });
    let drawn = "select last_value from t_id_seq";
    wait_for("the number to be drawn", || async {
        let last: i64 = sqlx::query_scalar(drawn).fetch_one(&server.pool).await.unwrap();
        (last == 4).then_some(())
    })
    .await;
    database.run(INSERT).await;
    assert_eq!(ids(&source, 3, 10).await, [0; 0]);
    slow.await.unwrap();
    assert_eq!(ids(&source, 3, 10).await, [4, 5]);
}

#[tokio::test]
async fn writers_that_keep_coming_and_writers_of_other_tables_hold_nothing_up() {
    let database = Sql::postgres().await;
    database.run(TABLE).await;
    database.run("create table other (id bigint)").await;
    let source = SqlSource::new(database.table("t"));
    let elsewhere = Writer::begin(&database, "insert into other values (1)").await;
    database.run(INSERT).await;
    assert_eq!(ids(&source, 0, 10).await, [1]);
    let mut writer = Writer::begin(&database, INSERT).await;
    database.run(INSERT).await;
    let mut read = 1;
    for _ in 0..5 {
        // There is always a writer under way, and each page brings what was seen before it.
        assert_eq!(ids(&source, read, 10).await, [0; 0]);
        let next = Writer::begin(&database, INSERT).await;
        writer.end("commit").await;
        database.run(INSERT).await;
        let page = ids(&source, read, 10).await;
        assert!(page.len() >= 2, "{page:?}");
        read = *page.last().unwrap();
        writer = next;
    }
    writer.end("rollback").await;
    elsewhere.end("rollback").await;
}

#[tokio::test]
async fn writers_of_partitions_and_of_their_root_are_seen_from_both() {
    let database = Sql::postgres().await;
    database.run("create sequence s").await;
    database.run("create table t (id bigint not null default nextval('s'), body text, day int not null, primary key (id, day)) partition by list (day)").await;
    for day in [1, 2] {
        database.run(&format!("create table t{day} partition of t for values in ({day})")).await;
    }
    database.run("create unique index on t1 (id)").await;
    let (root, leaf) = (SqlSource::new(database.table("t")), SqlSource::new(database.table("t1")));
    let late = Writer::begin(&database, "insert into t1 (body, day) values ('x', 1)").await;
    database.run("insert into t (body, day) values ('x', 1)").await;
    assert_eq!(ids(&root, 0, 10).await, [0; 0]);
    assert_eq!(ids(&leaf, 0, 10).await, [0; 0]);
    late.end("commit").await;
    assert_eq!(ids(&root, 0, 10).await, [1, 2]);
    // A writer of the root may have drawn its number and not yet chosen the partition.
    let late = Writer::begin(&database, "lock table only t in row exclusive mode").await;
    database.run("insert into t1 (body, day) values ('x', 1)").await;
    assert_eq!(ids(&leaf, 2, 10).await, [0; 0]);
    late.end("commit").await;
    assert_eq!(ids(&leaf, 2, 10).await, [3]);
}

/// Transactions of one writer: some rows each, a pause between number and commit, some rolled back in part or whole.
async fn write(pool: PgPool, count: usize, until: Duration) -> BTreeSet<i64> {
    let mut committed = BTreeSet::new();
    for _ in 0..count {
        let (rows, pause, fate) = {
            let mut random = rand::rng();
            (
                random.random_range(1..=4),
                random.random_range(Duration::ZERO..until),
                random.random_range(0..10),
            )
        };
        let mut transaction = pool.begin().await.unwrap();
        let insert = "insert into t (body) select 'x' from generate_series(1, $1) returning id";
        let mut ids: Vec<i64> =
            sqlx::query_scalar(insert).bind(rows).fetch_all(&mut *transaction).await.unwrap();
        tokio::time::sleep(pause).await;
        if fate < 3 {
            transaction.execute("savepoint s").await.unwrap();
            let more: Vec<i64> =
                sqlx::query_scalar(insert).bind(2).fetch_all(&mut *transaction).await.unwrap();
            tokio::time::sleep(pause / 2).await;
            if fate == 0 {
                transaction.execute("rollback to savepoint s").await.unwrap();
            } else {
                ids.extend(more);
            }
        }
        if fate == 9 {
            transaction.rollback().await.unwrap();
        } else {
            transaction.commit().await.unwrap();
            committed.extend(ids);
        }
    }
    committed
}

/// What a reader by `id > cursor` finds while others write.
async fn read_naively(pool: PgPool, stop: tokio_util::sync::CancellationToken) -> BTreeSet<i64> {
    let mut found = BTreeSet::new();
    while !stop.is_cancelled() {
        let after_id = found.last().copied().unwrap_or(0);
        let sql = "select id from t where id > $1 order by id limit 1000";
        let page: Vec<i64> = sqlx::query_scalar(sql).bind(after_id).fetch_all(&pool).await.unwrap();
        found.extend(page);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    found
}

#[tokio::test]
async fn with_writers_that_commit_in_any_order_every_committed_id_is_loaded_once() {
    let server = PostgresDb::boxed(Database::migrated().await).await;
    server.pool.execute(TABLE).await.unwrap();
    let database = Sql::Postgres(server);
    let Sql::Postgres(server) = &database else { unreachable!() };
    let source: Arc<dyn EventSource> = Arc::new(SqlSource::new(database.table("t")));
    let mut given = Given::new("billing", source);
    given.settings.min_interval = Duration::from_millis(20);
    given.settings.max_idle = Duration::from_millis(50);
    let loading = Loading::start(&server.database, &[given]).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let naive = tokio::spawn(read_naively(server.pool.clone(), stop.clone()));
    let mut writers = JoinSet::new();
    for _ in 0..10 {
        writers.spawn(write(server.pool.clone(), 40, Duration::from_millis(60)));
    }
    // One that holds the smallest numbers for long.
    writers.spawn(write(server.pool.clone(), 2, Duration::from_secs(2)));
    let committed: BTreeSet<i64> = writers.join_all().await.into_iter().flatten().collect();
    wait_for("the events", || async {
        (server.database.stored("billing").await.len() >= committed.len()).then_some(())
    })
    .await;
    stop.cancel();
    let naive = naive.await.unwrap();
    loading.stop().await;
    let stored = server.database.stored("billing").await;
    let lost_by_naive = committed.difference(&naive).count();
    println!(
        "{} ids committed, {} loaded, {lost_by_naive} lost by a naive reader",
        committed.len(),
        stored.len()
    );
    assert_eq!(stored, committed.iter().copied().collect::<Vec<_>>());
    assert!(lost_by_naive > 0, "nothing was committed out of order, so nothing is proven");
}

#[tokio::test]
async fn in_mariadb_transactions_shorter_than_the_lag_lose_nothing() {
    let database = Sql::mariadb().await;
    database.run("create table t (id bigint auto_increment primary key, body text)").await;
    let Sql::MariaDb(server) = &database else { unreachable!() };
    let mut options = database.table("t");
    options.tip_lag = Duration::from_secs(1);
    let source = SqlSource::new(options);
    let mut writers = JoinSet::new();
    for _ in 0..8 {
        let pool = server.pool.clone();
        writers.spawn(async move {
            for _ in 0..15 {
                let mut transaction = pool.begin().await.unwrap();
                transaction.execute("insert into t (body) values ('x')").await.unwrap();
                let pause = rand::rng().random_range(0..100);
                tokio::time::sleep(Duration::from_millis(pause)).await;
                transaction.commit().await.unwrap();
            }
        });
    }
    let (mut loaded, mut naive) = (Vec::new(), Vec::new());
    let naive_source = SqlSource::new(database.table("t"));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while loaded.len() < 120 && tokio::time::Instant::now() < deadline {
        loaded.extend(ids(&source, loaded.last().copied().unwrap_or(0), 1000).await);
        naive.extend(ids(&naive_source, naive.last().copied().unwrap_or(0), 1000).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while writers.join_next().await.is_some() {}
    println!(
        "120 ids committed, {} loaded, {} lost without a lag",
        loaded.len(),
        120 - naive.len()
    );
    assert_eq!(loaded, (1..=120).collect::<Vec<_>>());
    assert!(naive.len() < 120, "nothing was committed out of order, so nothing is proven");
}

#[tokio::test]
async fn a_backlog_is_not_slowed_by_the_lag() {
    for database in Sql::all().await {
        database.run("create table t (id bigint not null primary key)").await;
        let rows: Vec<String> = (1..=3000).map(|id| format!("({id})")).collect();
        database.run(&format!("insert into t values {}", rows.join(","))).await;
        let query = "select * from t where id > {after_id} order by id limit {limit}";
        for mut options in [database.table("t"), database.query(query)] {
            options.tip_lag = Duration::from_millis(300);
            let source = SqlSource::new(options);
            assert_eq!(ids(&source, 0, 500).await, [0; 0], "nothing is known of the tip yet");
            tokio::time::sleep(Duration::from_millis(310)).await;
            for page in 0..6 {
                assert_eq!(ids(&source, page * 500, 500).await.len(), 500);
            }
        }
    }
}

#[tokio::test]
async fn pages_that_are_cut_do_not_wait_for_the_lag_again() {
    for database in Sql::all().await {
        database.run("create table t (id bigint not null primary key, body varchar(99))").await;
        let rows: Vec<String> = (1..=8).map(|id| format!("({id}, '{}')", "x".repeat(60))).collect();
        database.run(&format!("insert into t values {}", rows.join(","))).await;
        let query = "select * from t where id > {after_id} order by id limit {limit}";
        for mut options in [database.table("t"), database.query(query)] {
            options.tip_lag = Duration::from_secs(3);
            options.max_page_bytes = 200;
            let source = SqlSource::new(options);
            assert_eq!(ids(&source, 0, 100).await, [0; 0], "nothing is known of the tip yet");
            tokio::time::sleep(Duration::from_millis(3010)).await;
            for after_id in [0, 2, 4, 6] {
                assert_eq!(ids(&source, after_id, 100).await, [after_id + 1, after_id + 2]);
            }
        }
    }
}

#[tokio::test]
async fn a_table_that_is_filled_anew_is_proven_anew() {
    let database = Sql::postgres().await;
    database.run(TABLE).await;
    database.run("insert into t (body) select 'x' from generate_series(1, 5)").await;
    let query = "select * from t where id > {after_id} order by id limit {limit}";
    let sources = [SqlSource::new(database.table("t")), SqlSource::new(database.query(query))];
    for source in &sources {
        assert_eq!(ids(source, 0, 10).await, [1, 2, 3, 4, 5]);
    }
    database.run("truncate t restart identity").await;
    let late = Writer::begin(&database, INSERT).await;
    database.run(INSERT).await;
    for source in &sources {
        assert_eq!(ids(source, 0, 10).await, [0; 0], "1 is not committed");
    }
    late.end("commit").await;
    for source in &sources {
        // A query says that its highest id is gone, and the next time which one it is now.
        ids(source, 0, 10).await;
        assert_eq!(ids(source, 0, 10).await, [1, 2]);
    }
}

#[tokio::test]
async fn a_table_that_is_filled_anew_waits_for_the_lag_again() {
    for database in Sql::all().await {
        database.run("create table t (id bigint not null primary key)").await;
        let query = "select * from t where id > {after_id} order by id limit {limit}";
        for mut options in [database.table("t"), database.query(query)] {
            options.tip_lag = Duration::from_millis(500);
            let source = SqlSource::new(options);
            database.run("insert into t values (1), (2), (3)").await;
            assert_eq!(ids(&source, 0, 10).await, [0; 0]);
            tokio::time::sleep(Duration::from_millis(510)).await;
            assert_eq!(ids(&source, 0, 10).await, [1, 2, 3]);
            database.run("delete from t").await;
            database.run("insert into t values (2)").await;
            assert_eq!(ids(&source, 0, 10).await, [0; 0], "1 may be committed late");
            assert_eq!(ids(&source, 0, 10).await, [0; 0]);
            tokio::time::sleep(Duration::from_millis(510)).await;
            assert_eq!(ids(&source, 0, 10).await, [2]);
            database.run("delete from t").await;
        }
    }
}
