//! Sources of type `sql`, on a real PostgreSQL, a real MariaDB and real SQLite files.

mod ids;
mod late;
mod safety;
mod types;

use std::time::Duration;

use eventloader::event::Item;
use eventloader::mapping::{Mapping, Pointer};
use eventloader::source::{EventSource, SourceError};
use eventloader::sources::sql::{
    Dialect, Identifier, Location, Query, Relation, SqlOptions, SqlSource, TableName,
};
use rustix::process::Signal;
use secrecy::SecretString;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, MySqlConnection, PgPool};

use crate::support::database::Database;
use crate::support::mariadb::MariaDb;
use crate::support::program::{Program, signal};
use crate::support::wait_for;

/// A database of one of the three kinds.
pub(super) enum Sql {
    Postgres(Box<PostgresDb>),
    MariaDb(MariaDb),
    Sqlite(SqliteFile),
}

/// A database, and connections with the usual search path.
pub(super) struct PostgresDb {
    pub(super) database: Database,
    pub(super) pool: PgPool,
}

/// A file and a connection that writes to it.
pub(super) struct SqliteFile {
    directory: tempfile::TempDir,
    pool: SqlitePool,
}

impl SqliteFile {
    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("events.db")
    }
}

impl PostgresDb {
    pub(super) async fn boxed(database: Database) -> Box<Self> {
        let pool = PgPoolOptions::new().max_connections(16);
        let pool = pool.connect_with(database.options.clone()).await.unwrap();
        Box::new(Self { database, pool })
    }
}

impl Sql {
    pub(super) async fn postgres() -> Self {
        Self::Postgres(PostgresDb::boxed(Database::empty().await).await)
    }

    pub(super) async fn mariadb() -> Self {
        Self::MariaDb(MariaDb::create().await)
    }

    pub(super) async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let connecting = SqliteConnectOptions::new()
            .filename(directory.path().join("events.db"))
            .create_if_missing(true);
        let pool = SqlitePool::connect_with(connecting).await.unwrap();
        Self::Sqlite(SqliteFile { directory, pool })
    }

    /// A statement of the application.
    pub(super) async fn run(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Postgres(database) => database.pool.execute(sql).await.map(drop).unwrap(),
            Self::MariaDb(database) => database.pool.execute(sql).await.map(drop).unwrap(),
            Self::Sqlite(file) => file.pool.execute(sql).await.map(drop).unwrap(),
        }
    }

    /// The same, on a connection and a runtime of its own, for those who cannot wait for a future.
    pub(super) fn run_blocking(&self, sql: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let sql = AssertSqlSafe(sql.to_owned());
        runtime.block_on(async {
            match self {
                Self::Postgres(d) => {
                    let mut connection = d.database.options.connect().await.unwrap();
                    connection.execute(sql).await.map(drop).unwrap();
                }
                Self::MariaDb(d) => {
                    let mut connection = MySqlConnection::connect(&d.url).await.unwrap();
                    connection.execute(sql).await.map(drop).unwrap();
                }
                Self::Sqlite(file) => {
                    let connecting = SqliteConnectOptions::new().filename(file.path());
                    let mut connection = connecting.connect().await.unwrap();
                    connection.execute(sql).await.map(drop).unwrap();
                }
            }
        });
    }

    /// A text as it stands between single quotes.
    pub(super) fn escaped(&self, text: &str) -> String {
        let text = text.replace('\'', "''");
        if matches!(self, Self::MariaDb(_)) { text.replace('\\', "\\\\") } else { text }
    }

    pub(super) async fn count(&self, table: &str) -> i64 {
        let sql = AssertSqlSafe(format!("select count(*) from {table}"));
        match self {
            Self::Postgres(d) => sqlx::query_scalar(sql).fetch_one(&d.pool).await.unwrap(),
            Self::MariaDb(d) => sqlx::query_scalar(sql).fetch_one(&d.pool).await.unwrap(),
            Self::Sqlite(file) => sqlx::query_scalar(sql).fetch_one(&file.pool).await.unwrap(),
        }
    }

    pub(super) fn location(&self) -> Location {
        match self {
            Self::Postgres(database) => {
                Location::Postgres(SecretString::from(&*database.database.url))
            }
            Self::MariaDb(database) => Location::MySql(SecretString::from(&*database.url)),
            Self::Sqlite(file) => Location::Sqlite(file.path()),
        }
    }

    /// What a source that reads a table is made of, without a lag.
    pub(super) fn table(&self, table: &str) -> SqlOptions {
        SqlOptions {
            location: self.location(),
            relation: Relation::Table(TableName::parse(table).unwrap()),
            id: Identifier::parse("id").unwrap(),
            mapping: Mapping::default(),
            timeout: Duration::from_secs(10),
            tip_lag: Duration::ZERO,
            max_page_bytes: 64 << 20,
        }
    }

    /// What a source that reads a query is made of.
    pub(super) fn query(&self, query: &str) -> SqlOptions {
        let query = Query::parse(query, self.location().dialect()).unwrap();
        SqlOptions { relation: Relation::Query(query), ..self.table("unused") }
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.location().dialect()
    }

    /// Each kind in turn.
    pub(super) async fn all() -> [Self; 3] {
        [Self::postgres().await, Self::mariadb().await, Self::sqlite().await]
    }
}

/// From the configuration file to the log, with the real binary.
#[tokio::test]
async fn a_configured_source_is_loaded() {
    let database = Database::migrated().await;
    let postgres = Sql::Postgres(PostgresDb::boxed(Database::empty().await).await);
    let Sql::Postgres(server) = &postgres else { unreachable!() };
    let program = Program::new(
        &database,
        &format!(
            "[sources.shop]\ntype = \"sql\"\nurl = \"{}\"\ntable = \"t\"\nevent_type = \"kind\"\npayload = \"body\"\n\
             [sources.till]\ntype = \"sql\"\nurl = \"sqlite://till.db\"\nquery = \"select n, day from t where n > \
             {{after_id}} order by n limit {{limit}}\"\nid = \"n\"\n",
            server.database.url
        ),
    );
    postgres.run("create table t (id bigint primary key, kind text, body json)").await;
    postgres
        .run("insert into t select n, 'sale', '{\"a\": 1.50}' from generate_series(1, 1500) n")
        .await;
    let till =
        SqliteConnectOptions::new().filename(program.path("till.db")).create_if_missing(true);
    let mut till = till.connect().await.unwrap();
    till.execute("create table t (n integer primary key autoincrement, day text)").await.unwrap();
    till.execute("insert into t (day) values ('mo'), ('tu')").await.unwrap();
    let mut child = program.start(&["run"], "log");
    wait_for("the events", || async {
        let count = "select count(*) from eventloader.events";
        (database.value::<i64>(count).await >= 1502).then_some(())
    })
    .await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    let first = "select event_type || payload::text from eventloader.events where stream = 'shop' and version = 1";
    assert_eq!(database.value::<String>(first).await, "sale{\"a\": 1.50}");
    let last = "select payload::text from eventloader.events where stream = 'till' and version = 2";
    assert_eq!(database.value::<String>(last).await, "{\"n\": 2, \"day\": \"tu\"}");
}

/// The payload of a mapping.
pub(super) fn payload(column: &str) -> Mapping {
    Mapping { payload: Pointer::to_key(column), ..Mapping::default() }
}

/// The ids of a page.
pub(super) async fn ids(source: &SqlSource, after_id: i64, limit: u32) -> Vec<i64> {
    let page = source.fetch_events(after_id, limit).await.unwrap();
    page.items.iter().filter_map(Item::id).collect()
}

/// Why the first page is not answered.
pub(super) async fn refusal(options: SqlOptions) -> SourceError {
    match SqlSource::new(options.clone()).fetch_events(0, 10).await {
        Ok(page) => panic!("{options:?} answers {page:?}"),
        Err(error) => error,
    }
}

/// The payload of the one event of a source.
pub(super) async fn only_payload(options: SqlOptions) -> String {
    let page = SqlSource::new(options).fetch_events(i64::MIN, 10).await.unwrap();
    match page.items.as_slice() {
        [Item::Good(event)] => event.payload.to_string(),
        other => panic!("{other:?}"),
    }
}
