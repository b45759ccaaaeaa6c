//! SQLite. The file is opened for reading alone; each value is written as JSON by its own type, whatever its column is
//! declared as.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions as _, Executor as _, Row as _, SqlSafeStr as _,
    SqliteConnection, Statement as _, TypeInfo as _, ValueRef as _,
};
use tokio::time::Instant;

use super::failure::Asked;
use super::horizon::Progress;
use super::inspection::{IdFacts, Inspection, TableKind, judge, missing_column, refused};
use super::row::{PageBuilder, RowWriter, no_id};
use super::{Dialect, LOCK_TIMEOUT_SECONDS, Query, Relation, SqlOptions, TableName, Window};
use crate::event::excerpt::excerpt;
use crate::source::{FailureClass, Page, SourceError};

const DIALECT: Dialect = Dialect::Sqlite;

/// Longest list of tables that is shown, in characters.
const TABLES_LENGTH_MAX: usize = 300;

/// Steps of the virtual machine between two looks at the clock.
const STEPS_PER_LOOK: i32 = 10_000;

const COLUMNS: &str =
    r#"select name, type, "notnull", pk from pragma_table_info(?1, ?2) order by cid"#;

const UNIQUE: &str = r#"
select count(*)
from pragma_index_list(?1, ?2) as l
where l."unique" = 1 and l.partial = 0
    and (select group_concat(i.name) from pragma_index_info(l.name, ?2) as i) = ?3"#;

/// Device and inode: the file itself, whatever its name.
type FileId = (u64, u64);

/// Which file has this name now. `None`: none that can be seen.
async fn file_at(path: &Path) -> Option<FileId> {
    tokio::fs::metadata(path).await.ok().map(|file| (file.dev(), file.ino()))
}

/// A connection.
pub(super) struct SqliteSession {
    connection: SqliteConnection,
    path: PathBuf,
    file: Option<FileId>,
    pub(super) inspection: Inspection,
    progress: Progress,
    /// When a statement is interrupted; read by the progress handler.
    deadline: Arc<Mutex<Instant>>,
    /// The columns that are declared as JSON.
    json: Vec<String>,
    top_sql: String,
    page_sql: String,
}

impl SqliteSession {
    pub(super) async fn open(
        options: &SqlOptions,
        path: &Path,
        asked: &Asked,
    ) -> Result<Self, SourceError> {
        let failed = |error: sqlx::Error| asked.failed(DIALECT, &error);
        let connecting = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .pragma("query_only", "on")
            .busy_timeout(Duration::from_secs(LOCK_TIMEOUT_SECONDS))
            .disable_statement_logging();
        // Before it is opened: one that is put in its place meanwhile is noticed when the next request begins.
        let file = file_at(path).await;
        let mut connection = connecting.connect().await.map_err(failed)?;
        let deadline = Arc::new(Mutex::new(Instant::now() + options.timeout));
        let watched = Arc::clone(&deadline);
        connection
            .lock_handle()
            .await
            .map_err(failed)?
            .set_progress_handler(STEPS_PER_LOOK, move || {
                Instant::now() < *watched.lock().unwrap_or_else(PoisonError::into_inner)
            });
        let (top_sql, page_sql) = options.statements();
        let mut session = Self {
            connection,
            path: path.to_owned(),
            file,
            inspection: Inspection::default(),
            progress: Progress::new(options.tip_lag),
            deadline,
            json: Vec::new(),
            top_sql,
            page_sql,
        };
        let version = "select 'SQLite ' || sqlite_version()";
        session.inspection.server =
            sqlx::query_scalar(version).fetch_one(&mut session.connection).await.map_err(failed)?;
        match &options.relation {
            Relation::Table(table) => session.inspect_table(options, table, asked).await?,
            Relation::Query(query) => session.inspect_query(options, query, asked).await?,
        }
        Ok(session)
    }

    /// Fails where another file has been put in the place of the one that is open.
    ///
    /// Begins a transaction and reads the schema in it. The driver asks for the columns of a statement when it is
    /// prepared, and panics where the file has changed since: now it cannot until the transaction ends.
    pub(super) async fn begin(
        &mut self,
        options: &SqlOptions,
        asked: &Asked,
    ) -> Result<(), SourceError> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) =
            Instant::now() + options.timeout;
        if file_at(&self.path).await != self.file {
            return Err(SourceError::new(
                FailureClass::NotSent,
                "the file was replaced by another",
            ));
        }
        let failed = |error: sqlx::Error| asked.failed(DIALECT, &error);
        self.connection.execute(sqlx::raw_sql("begin")).await.map_err(failed)?;
        let read = "select count(*) from sqlite_schema";
        let read = sqlx::query_scalar::<_, i64>(read).fetch_one(&mut self.connection).await;
        read.map(drop).map_err(failed)
    }

    pub(super) async fn end(&mut self) -> Result<(), sqlx::Error> {
        self.connection.execute(sqlx::raw_sql("commit")).await.map(drop)
    }

    async fn inspect_table(
        &mut self,
        options: &SqlOptions,
        table: &TableName,
        asked: &Asked,
    ) -> Result<(), SourceError> {
        let failed = |error: sqlx::Error| asked.failed(DIALECT, &error);
        let id = options.id.as_str();
        let schema = table.schema.as_ref().map_or("main", super::Identifier::as_str);
        let (name, kind, sql) = self.find_table(table, schema, asked).await?;
        let columns: Vec<(String, String, i64, i64)> = sqlx::query_as(COLUMNS)
            .bind(&name)
            .bind(schema)
            .fetch_all(&mut self.connection)
            .await
            .map_err(failed)?;
        let names: Vec<String> = columns.iter().map(|column| column.0.clone()).collect();
        let column = columns.iter().find(|column| column.0.eq_ignore_ascii_case(id));
        let (id, declared, not_null, place) = column.ok_or_else(|| missing_column(id, &names))?;
        let unique_count: i64 = sqlx::query_scalar(UNIQUE)
            .bind(&name)
            .bind(schema)
            .bind(id)
            .fetch_one(&mut self.connection)
            .await
            .map_err(failed)?;
        let mut key: Vec<_> = columns.iter().filter(|column| column.3 > 0).collect();
        key.sort_by_key(|column| column.3);
        let sql = sql.to_ascii_lowercase();
        // The one column that is the row's own number, under another name.
        let is_rowid = *place == 1
            && key.len() == 1
            && declared.eq_ignore_ascii_case("integer")
            && !sql.contains("without rowid");
        let facts = IdFacts {
            type_name: declared.to_ascii_lowercase(),
            // What SQLite gives the affinity of an integer.
            is_integer: declared.to_ascii_lowercase().contains("int"),
            is_nullable: !is_rowid && *not_null == 0,
            is_unique: is_rowid || unique_count > 0,
            is_indexed: is_rowid || unique_count > 0,
            key: key.into_iter().map(|column| column.0.clone()).collect(),
            kind: if kind == "view" { TableKind::View } else { TableKind::Table },
            is_numbered: is_rowid,
        };
        let mut warnings = judge(id, &facts)?;
        if is_rowid && !sql.contains("autoincrement") {
            warnings.push(format!(
                "`{id}` is not autoincrement: when the newest row is deleted, its id is given again, and the row that \
                 gets it is not loaded"
            ));
        }
        self.json = columns
            .iter()
            .filter(|column| column.1.eq_ignore_ascii_case("json"))
            .map(|column| column.0.clone())
            .collect();
        self.inspection.is_indexed = (facts.kind == TableKind::Table).then_some(facts.is_indexed);
        self.inspection.id_type = facts.type_name;
        self.inspection.key = facts.key;
        self.inspection.warnings = warnings;
        Ok(())
    }

    /// The name of a table or view as the file has it, which of the two it is, and its definition. SQLite takes no
    /// notice of the case of names.
    async fn find_table(
        &mut self,
        table: &TableName,
        schema: &str,
        asked: &Asked,
    ) -> Result<(String, String, String), SourceError> {
        let failed = |error: sqlx::Error| asked.failed(DIALECT, &error);
        let schemas: Vec<String> = sqlx::query_scalar("select name from pragma_database_list")
            .fetch_all(&mut self.connection)
            .await
            .map_err(failed)?;
        let Some(schema) = schemas.iter().find(|known| known.eq_ignore_ascii_case(schema)) else {
            let help = "of a file, write the table alone";
            return Err(refused(&format!("there is no table or view {table} in the file; {help}")));
        };
        let catalogue = format!(
            "select name, type, coalesce(sql, '') from \"{schema}\".sqlite_schema where type in ('table', 'view')"
        );
        let mut tables: Vec<(String, String, String)> = sqlx::query_as(AssertSqlSafe(catalogue))
            .fetch_all(&mut self.connection)
            .await
            .map_err(failed)?;
        let is_it =
            |found: &(String, String, String)| found.0.eq_ignore_ascii_case(table.name.as_str());
        if let Some(place) = tables.iter().position(is_it) {
            return Ok(tables.swap_remove(place));
        }
        let mut names: Vec<_> = tables.iter().map(|found| found.0.as_str()).collect();
        names.retain(|name| !name.starts_with("sqlite_"));
        let help = if names.is_empty() {
            "the file has none; check the path in `url`".to_owned()
        } else {
            excerpt(&format!("it has {}", names.join(", ")), TABLES_LENGTH_MAX)
        };
        Err(refused(&format!("there is no table or view {table} in the file; {help}")))
    }

    /// The columns of a query have no types; each id is looked at when it comes.
    async fn inspect_query(
        &mut self,
        options: &SqlOptions,
        query: &Query,
        asked: &Asked,
    ) -> Result<(), SourceError> {
        let sql = AssertSqlSafe(query.sql().to_owned()).into_sql_str();
        let prepared = self.connection.prepare(sql).await;
        let prepared = prepared.map_err(|error| asked.failed(DIALECT, &error))?;
        let columns: Vec<String> =
            prepared.columns().iter().map(|column| column.name().to_owned()).collect();
        let id = options.id.as_str();
        if !columns.iter().any(|column| column.eq_ignore_ascii_case(id)) {
            return Err(missing_column(id, &columns));
        }
        "integer".clone_into(&mut self.inspection.id_type);
        Ok(())
    }

    pub(super) async fn read(
        &mut self,
        options: &SqlOptions,
        window: Window,
        asked: &Asked,
    ) -> Result<Page, SourceError> {
        let failed = |error: sqlx::Error| asked.failed(DIALECT, &error);
        self.see_tip(options, window).await.map_err(failed)?;
        let bound = self.progress.tip_lag.bound(Instant::now());
        let Some(bound) = bound.filter(|bound| *bound > window.after_id) else {
            return Ok(Page::default());
        };
        asked.set();
        // Prepared each time, as the columns may be others now; see `begin`.
        let mut query = sqlx::query(AssertSqlSafe(self.page_sql.clone())).persistent(false);
        query = match &options.relation {
            Relation::Table(_) => {
                query.bind(window.after_id).bind(bound).bind(i64::from(window.limit))
            }
            Relation::Query(text) => {
                text.binds().iter().fold(query, |query, bind| query.bind(window.value(*bind)))
            }
        };
        let payload = options.payload_column();
        let mut rows = query.fetch(&mut self.connection);
        let mut page = PageBuilder::new(&options.mapping, options.max_page_bytes);
        while let Some(row) = rows.next().await {
            let row = row.map_err(failed)?;
            let id = id_of(&row, options.id.as_str())?;
            if id > bound {
                break;
            }
            if !page.push(id, json_of(&row, &self.json, payload)) {
                break;
            }
        }
        // Ends the statement, also where rows are left.
        drop(rows);
        page.finish(window.after_id, window.limit)
    }

    async fn see_tip(&mut self, options: &SqlOptions, window: Window) -> Result<(), sqlx::Error> {
        if self.progress.tip_lag.is_off() {
            return Ok(());
        }
        let mut after_id = i64::MIN;
        let mut query = sqlx::query_scalar(AssertSqlSafe(self.top_sql.clone()));
        if let Relation::Query(text) = &options.relation {
            after_id = self.progress.asks_after(window.after_id);
            query = text.binds().iter().fold(query, |query, bind| match bind {
                super::statement::Bind::AfterId => query.bind(after_id),
                super::statement::Bind::Limit => query.bind(window.look_ahead()),
            });
        }
        let top: Option<i64> = query.fetch_one(&mut self.connection).await?;
        self.progress.see(top, after_id, Instant::now());
        Ok(())
    }
}

fn id_of(row: &SqliteRow, id: &str) -> Result<i64, SourceError> {
    let place = row.columns().iter().position(|column| column.name().eq_ignore_ascii_case(id));
    let place = place.unwrap_or(0);
    match row.try_get_raw(place).map(|value| value.type_info().name().to_owned()).as_deref() {
        Ok("INTEGER") => row.try_get_unchecked(place).map_err(|_| no_id(id, "no integer")),
        Ok(other) => Err(no_id(id, &other.to_ascii_lowercase())),
        Err(_) => Err(no_id(id, "nothing")),
    }
}

/// The row as a JSON object.
fn json_of(row: &SqliteRow, json: &[String], payload: Option<&str>) -> Vec<u8> {
    let mut writer = RowWriter::new();
    for (place, column) in row.columns().iter().enumerate() {
        let name = column.name();
        let Ok(value) = row.try_get_raw(place) else { continue };
        let kind =
            if value.is_null() { "NULL".to_owned() } else { value.type_info().name().to_owned() };
        drop(value);
        match kind.as_str() {
            "INTEGER" => {
                writer.number(name, row.try_get_unchecked::<i64, _>(place).unwrap_or_default());
            }
            "REAL" => {
                writer.float(name, row.try_get_unchecked::<f64, _>(place).unwrap_or(f64::NAN));
            }
            "NULL" => writer.null(name),
            other => {
                let bytes: &[u8] = row.try_get_unchecked(place).unwrap_or_default();
                if other == "BLOB" {
                    writer.binary(name, bytes);
                } else if json.iter().any(|column| column == name) {
                    writer.json(name, bytes);
                } else if payload == Some(name) {
                    writer.payload(name, bytes);
                } else {
                    writer.text(name, bytes);
                }
            }
        }
    }
    writer.finish()
}
