//! One private PostgreSQL for the whole run, one database per test.

use std::path::{Path, PathBuf};
use std::sync::{LazyLock, mpsc};

use eventloader::postgres::embedded::{Durability, Embedded, EmbeddedOptions};
use eventloader::postgres::{migrate, pool};
use secrecy::ExposeSecret;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgPool};
use url::Url;

const TEMPLATE: &str = "migrated";

/// The server. It is stopped and removed when the test process ends, however it ends.
struct Server {
    options: PgConnectOptions,
    url: Url,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    // A thread with a runtime of its own: the server outlives the runtime of the test that happens to come first.
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            sender.send(start().await).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().unwrap()
});

fn data_dir() -> PathBuf {
    std::env::temp_dir().join(format!("eventloader-test-{}", std::process::id()))
}

/// Where the server writes what it logs.
pub(crate) fn server_log() -> PathBuf {
    data_dir().join("postgres.log")
}

async fn start() -> Server {
    let options = EmbeddedOptions {
        data_dir: data_dir(),
        data_dir_explicit: true,
        bin_dir: None,
        path: std::env::var_os("PATH"),
        durability: Durability::Disposable,
    };
    let mut embedded = Embedded::start(options.clone()).await.unwrap();
    if std::env::var_os("EVENTLOADER_BENCH").is_some() {
        embedded = restart_for_bench(embedded, options).await;
    }
    embedded.reap_with_process().unwrap();
    let server = Server {
        options: embedded.connect_options(),
        url: embedded.url().expose_secret().parse().unwrap(),
    };
    let mut connection = server.options.connect().await.unwrap();
    connection.execute(sqlx::AssertSqlSafe(format!("create database {TEMPLATE}"))).await.unwrap();
    connection.close().await.unwrap();
    migrate::run(&server.options.clone().database(TEMPLATE)).await.unwrap();
    // The server has to go on: forgetting the handle leaves it to the reaper.
    std::mem::forget(embedded);
    server
}

/// Figures of a database that may forget are worth nothing: restarts it with the settings of the bench. This file is the
/// last that the server reads.
async fn restart_for_bench(embedded: Embedded, options: EmbeddedOptions) -> Embedded {
    embedded.stop().await.unwrap();
    let path = options.data_dir.join("cluster/postgresql.auto.conf");
    let settings = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/postgresql.conf");
    let text =
        std::fs::read_to_string(&path).unwrap() + &std::fs::read_to_string(settings).unwrap();
    std::fs::write(path, text).unwrap();
    Embedded::start(options).await.unwrap()
}

/// A database for one test.
pub(crate) struct Database {
    pub(crate) pool: PgPool,
    pub(crate) options: PgConnectOptions,
    /// For programs: `--database-url`.
    pub(crate) url: String,
}

impl Database {
    /// A database with the schema.
    pub(crate) async fn migrated() -> Self {
        Self::create(&format!(" template {TEMPLATE}")).await
    }

    /// A database without anything.
    pub(crate) async fn empty() -> Self {
        Self::create("").await
    }

    async fn create(template: &str) -> Self {
        let server = &*SERVER;
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        let mut connection = server.options.connect().await.unwrap();
        connection
            .execute(sqlx::AssertSqlSafe(format!("create database {name}{template}")))
            .await
            .unwrap();
        connection.close().await.unwrap();
        let options = server.options.clone().database(&name);
        let mut url = server.url.clone();
        url.set_path(&name);
        Self { pool: pool::lazy(options.clone(), 8), options, url: url.into() }
    }

    /// The URL for another user.
    pub(crate) fn url_as(&self, user: &str, password: &str) -> String {
        let mut url: Url = self.url.parse().unwrap();
        url.set_username(user).unwrap();
        url.set_password(Some(password)).unwrap();
        url.into()
    }

    /// The URL for a socket in another directory.
    pub(crate) fn url_at(&self, directory: &Path) -> String {
        let mut url: Url = self.url.parse().unwrap();
        let kept: Vec<(String, String)> =
            url.query_pairs().into_owned().filter(|(name, _)| name != "host").collect();
        url.query_pairs_mut()
            .clear()
            .extend_pairs(kept)
            .append_pair("host", directory.to_str().unwrap());
        url.into()
    }

    /// A login role of its own, member of a group role; its name and its URL. Roles belong to the whole server.
    pub(crate) async fn login(&self, member_of: Option<&str>) -> (String, String) {
        let name = format!("login_{}", uuid::Uuid::new_v4().simple());
        let membership = member_of.map(|role| format!(" in role {role}")).unwrap_or_default();
        self.run_sql(format!("create role {name} login password 'secret'{membership}")).await;
        let url = self.url_as(&name, "secret");
        (name, url)
    }

    /// A statement put together by the test.
    pub(crate) async fn run_sql(&self, sql: String) {
        self.pool.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
    }

    /// One value.
    pub(crate) async fn value<T>(&self, sql: &'static str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// A column.
    pub(crate) async fn column<T>(&self, sql: &'static str) -> Vec<T>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(sql).fetch_all(&self.pool).await.unwrap()
    }

    /// Cuts all connections of the database, and lets nobody in until the end of `during`.
    pub(crate) async fn while_away(&self, during: impl Future<Output = ()>) {
        let mut own = self.options.connect().await.unwrap();
        let away = "update pg_database set datallowconn = false where datname = current_database()";
        own.execute(away).await.unwrap();
        own.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()",
        )
        .await
        .unwrap();
        during.await;
        let back = "update pg_database set datallowconn = true where datname = current_database()";
        own.execute(back).await.unwrap();
        own.close().await.unwrap();
        // The connections of this pool were cut, too.
        for _ in 0..self.pool.size() {
            drop(self.pool.execute("select 1").await);
        }
    }

    /// A statement without an answer.
    pub(crate) async fn execute(&self, sql: &'static str) {
        self.pool.execute(sql).await.unwrap();
    }
}
