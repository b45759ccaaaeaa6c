//! `type = "sql"`: a table or a query of PostgreSQL, MariaDB, MySQL or SQLite.
//!
//! One connection is kept between requests and made anew when it is broken. Every request runs in a read-only
//! transaction of its own; values are bound. How far a table may be read while others write to it is decided in
//! `horizon`; which columns can be ids in [`inspection`]. `docs/sql_source.md` is the page for users.

mod failure;
mod horizon;
pub mod inspection;
mod mysql;
mod postgres;
mod row;
mod sqlite;
mod statement;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::mapping::Mapping;
use crate::source::{EventSource, Page, SourceError};
use failure::Asked;
use horizon::Progress;
pub use inspection::Inspection;
use mysql::MySqlSession;
use postgres::PostgresSession;
use sqlite::SqliteSession;
pub use statement::{Identifier, NotAName, Query, QueryFault, TableName};

/// How long a request may take beyond the `timeout` of its statements: connecting, and looking around.
const GRACE: Duration = Duration::from_secs(10);

/// Longest wait for a lock, in seconds: somebody changes the table.
const LOCK_TIMEOUT_SECONDS: u64 = 5;

/// Pages that a query is asked to look ahead, to find an id up to which it may be read.
const LOOK_AHEAD_PAGES: i64 = 10;

/// The kind of SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// MariaDB and MySQL.
    MySql,
    /// SQLite.
    Sqlite,
}

/// Where the database is.
#[derive(Clone, Debug)]
pub enum Location {
    /// `postgres://…`.
    Postgres(SecretString),
    /// `mysql://…` or `mariadb://…`.
    MySql(SecretString),
    /// The file of `sqlite://…`.
    Sqlite(PathBuf),
}

impl Location {
    /// The kind of SQL that is spoken there.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Postgres(_) => Dialect::Postgres,
            Self::MySql(_) => Dialect::MySql,
            Self::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// The host of the URL; none of a file.
    pub fn host(&self) -> Option<String> {
        match self {
            Self::Postgres(url) | Self::MySql(url) => {
                Url::parse(url.expose_secret()).ok()?.host_str().map(str::to_owned)
            }
            Self::Sqlite(_) => None,
        }
    }
}

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    /// All rows of a table or view.
    Table(TableName),
    /// What a query answers.
    Query(Query),
}

/// What a SQL source needs to know.
#[derive(Clone, Debug)]
pub struct SqlOptions {
    /// The database.
    pub location: Location,
    /// The table or query.
    pub relation: Relation,
    /// The id column.
    pub id: Identifier,
    /// Where the parts of an event stand in a row; its `id` is not used.
    pub mapping: Mapping,
    /// The longest that a statement may take.
    pub timeout: Duration,
    /// How long ago an id at or above an event's has to have been seen. Zero: no such wait.
    pub tip_lag: Duration,
    /// Most bytes of rows in one page. A page ends early where it would be larger.
    pub max_page_bytes: usize,
}

impl SqlOptions {
    /// The statement that reads the highest id, and the one that reads a page, of databases whose placeholders are `?`.
    fn statements(&self) -> (String, String) {
        let dialect = self.location.dialect();
        let id = self.id.quoted(dialect);
        match &self.relation {
            Relation::Table(table) => {
                let table = table.quoted(dialect);
                let page = format!(
                    "select * from {table} where {id} > ? and {id} <= ? order by {id} limit ?"
                );
                (format!("select max({id}) from {table}"), page)
            }
            Relation::Query(query) => {
                let sql = query.sql();
                (format!("select max(r.{id}) from (\n{sql}\n) r"), sql.to_owned())
            }
        }
    }

    /// The column of the payload, where it is not the whole row.
    fn payload_column(&self) -> Option<&str> {
        self.mapping.payload.split_first().map(|(column, _)| column)
    }

    /// The longest that one call may take, connecting included.
    pub fn deadline(&self) -> Duration {
        self.timeout + GRACE
    }
}

/// A SQL source.
pub struct SqlSource {
    options: SqlOptions,
    kept: Mutex<Kept>,
}

/// What is kept from one request to the next.
#[derive(Default)]
enum Kept {
    #[default]
    Nothing,
    Session(Session),
    /// The connection was closed on purpose, to end a statement.
    Progress(Progress),
}

impl fmt::Debug for SqlSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlSource").field("options", &self.options).finish_non_exhaustive()
    }
}

impl SqlSource {
    /// A source; connects when it is first asked.
    pub fn new(options: SqlOptions) -> Self {
        Self { options, kept: Mutex::default() }
    }

    /// What is promised of this source, by its configuration alone. See [`SqlOptions::guarantee`].
    pub fn guarantee(&self) -> String {
        self.options.guarantee()
    }

    /// Connects anew, reads the catalogue, and judges the id column as the first request would. Asks for no events.
    ///
    /// # Errors
    ///
    /// The errors that the first request would end with. Not cancelled by anything but the caller; takes at most
    /// `timeout` and ten seconds.
    pub async fn inspect(&self) -> Result<Inspection, SourceError> {
        let asked = Asked::default();
        let opened = timeout_at(self.deadline(), Session::open(&self.options, &asked)).await;
        Ok(opened.unwrap_or_else(|_| Err(self.too_late(&asked)))?.inspection().clone())
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.options.deadline()
    }

    fn too_late(&self, asked: &Asked) -> SourceError {
        let waited = seconds(self.options.deadline());
        SourceError::new(asked.class(), format!("the database did not answer within {waited}"))
    }

    /// What is kept is taken out while it is used: a call that fails or is cancelled leaves nothing behind, and the
    /// connection is closed with it.
    async fn fetch(&self, window: Window, asked: &Asked) -> Result<Page, SourceError> {
        let mut kept = self.kept.lock().await;
        let (mut usable, mut progress) = (None, None);
        match std::mem::take(&mut *kept) {
            Kept::Session(mut session) => {
                // One that broke while nothing was asked of it is made anew.
                let has_begun = session.begin(&self.options, asked).await.is_ok();
                usable = has_begun.then_some(session);
            }
            Kept::Progress(of_before) => progress = Some(of_before),
            Kept::Nothing => {}
        }
        let mut session = if let Some(session) = usable {
            session
        } else {
            let mut session = Session::open(&self.options, asked).await?;
            session.resume(progress);
            session.begin(&self.options, asked).await?;
            session
        };
        let (page, is_reusable) = session.read(&self.options, window, asked).await?;
        if !is_reusable {
            *kept = session.into_progress().map_or(Kept::Nothing, Kept::Progress);
        } else if session.end().await.is_ok() {
            *kept = Kept::Session(session);
        }
        Ok(page)
    }
}

#[async_trait]
impl EventSource for SqlSource {
    async fn fetch_events(&self, after_id: i64, limit: u32) -> Result<Page, SourceError> {
        let asked = Asked::default();
        let window = Window { after_id, limit };
        let fetched = timeout_at(self.deadline(), self.fetch(window, &asked)).await;
        fetched.unwrap_or_else(|_| Err(self.too_late(&asked)))
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
struct Window {
    after_id: i64,
    limit: u32,
}

impl Window {
    /// The value of a placeholder.
    fn value(self, bind: statement::Bind) -> i64 {
        match bind {
            statement::Bind::AfterId => self.after_id,
            statement::Bind::Limit => i64::from(self.limit),
        }
    }

    /// The rows that a query is asked to look ahead.
    fn look_ahead(self) -> i64 {
        i64::from(self.limit) * LOOK_AHEAD_PAGES
    }
}

/// A connection that was inspected, and what is remembered of the database while it lasts. The next connection may lead
/// to another server, so nothing outlives one that broke; what outlives one that was closed on purpose is [`Progress`].
enum Session {
    Postgres(Box<PostgresSession>),
    MySql(Box<MySqlSession>),
    Sqlite(Box<SqliteSession>),
}

impl Session {
    async fn open(options: &SqlOptions, asked: &Asked) -> Result<Self, SourceError> {
        let session = match &options.location {
            Location::Postgres(url) => {
                PostgresSession::open(options, url, asked).await.map(Box::new).map(Self::Postgres)
            }
            Location::MySql(url) => {
                MySqlSession::open(options, url, asked).await.map(Box::new).map(Self::MySql)
            }
            Location::Sqlite(path) => {
                SqliteSession::open(options, path, asked).await.map(Box::new).map(Self::Sqlite)
            }
        }?;
        for warning in &session.inspection().warnings {
            tracing::warn!(warning, "the database weakens what a sql source can promise");
        }
        Ok(session)
    }

    fn inspection(&self) -> &Inspection {
        match self {
            Self::Postgres(session) => &session.inspection,
            Self::MySql(session) => &session.inspection,
            Self::Sqlite(session) => &session.inspection,
        }
    }

    /// What another session can go on with. `None`: a file's is never closed on purpose.
    fn into_progress(self) -> Option<Progress> {
        match self {
            Self::Postgres(session) => Some(session.progress.for_another_connection()),
            Self::MySql(session) => Some(session.progress.for_another_connection()),
            Self::Sqlite(_) => None,
        }
    }

    /// Goes on where the session before was closed on purpose. The highest id is read again before any row.
    fn resume(&mut self, progress: Option<Progress>) {
        let Some(progress) = progress else { return };
        match self {
            Self::Postgres(session) => session.progress = progress,
            Self::MySql(session) => session.progress = progress,
            Self::Sqlite(_) => {}
        }
    }

    async fn begin(&mut self, options: &SqlOptions, asked: &Asked) -> Result<(), SourceError> {
        match self {
            Self::Postgres(session) => session.begin(options, asked).await,
            Self::MySql(session) => session.begin(asked).await,
            Self::Sqlite(session) => session.begin(options, asked).await,
        }
    }

    /// The page, and whether the connection can be used again.
    async fn read(
        &mut self,
        options: &SqlOptions,
        window: Window,
        asked: &Asked,
    ) -> Result<(Page, bool), SourceError> {
        match self {
            Self::Postgres(session) => session.read(options, window, asked).await,
            Self::MySql(session) => session.read(options, window, asked).await,
            Self::Sqlite(session) => {
                session.read(options, window, asked).await.map(|page| (page, true))
            }
        }
    }

    async fn end(&mut self) -> Result<(), sqlx::Error> {
        match self {
            Self::Postgres(session) => session.end().await,
            Self::MySql(session) => session.end().await,
            Self::Sqlite(session) => session.end().await,
        }
    }
}

/// A duration as people write it, to the millisecond.
fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}
