//! MariaDB and MySQL. Rows come in the binary protocol and are written as JSON by the type of each column; see
//! `value`.

mod value;

use std::str::FromStr as _;

use futures_util::StreamExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::mysql::{MySqlColumn, MySqlConnectOptions, MySqlRow};
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions as _, Executor as _, MySqlConnection, Row as _,
    SqlSafeStr as _, Statement as _, TypeInfo as _,
};
use tokio::time::Instant;

use super::failure::Asked;
use super::horizon::Progress;
use super::inspection::{
    IdFacts, Inspection, TableKind, judge, missing_column, refuse_type, refused,
};
use super::row::{PageBuilder, RowWriter, beyond_bigint, no_id};
use super::{Dialect, LOCK_TIMEOUT_SECONDS, Query, Relation, SqlOptions, TableName, Window};
use crate::source::{Page, SourceError};
use value::{Id, Taken};

const DIALECT: Dialect = Dialect::MySql;

const INTEGERS: &[&str] = &["tinyint", "smallint", "mediumint", "int", "bigint"];

const COLUMNS: &str = "
select cast(column_name as char), cast(data_type as char), cast(is_nullable as char), cast(extra as char)
from information_schema.columns
where table_schema = coalesce(?, database()) and table_name = ?
order by ordinal_position";

const INDEXES: &str = "
select cast(index_name as char), cast(column_name as char), cast(non_unique as signed)
from information_schema.statistics
where table_schema = coalesce(?, database()) and table_name = ?
order by index_name, seq_in_index";

const TABLE: &str = "
select cast(table_type as char), cast(coalesce(create_options, '') as char)
from information_schema.tables
where table_schema = coalesce(?, database()) and table_name = ?";

/// In MariaDB, `json` is a text with this check; MySQL has a type, and another shape of this view.
const JSON_CHECKS: &str = "
select cast(check_clause as char)
from information_schema.check_constraints
where constraint_schema = coalesce(?, database()) and table_name = ?";

/// A connection, and what was seen of the tip.
pub(super) struct MySqlSession {
    connection: MySqlConnection,
    pub(super) inspection: Inspection,
    pub(super) progress: Progress,
    /// The columns that hold JSON as text.
    json: Vec<String>,
    top_sql: String,
    page_sql: String,
}

impl MySqlSession {
    pub(super) async fn open(
        options: &SqlOptions,
        url: &SecretString,
        asked: &Asked,
    ) -> Result<Self, SourceError> {
        let failed = |error: sqlx::Error| asked.failed(DIALECT, &error);
        let connecting = MySqlConnectOptions::from_str(url.expose_secret()).map_err(failed)?;
        // The driver's own: UTF-8 on the wire, and UTC.
        let connecting = connecting.timezone(Some("+00:00".to_owned())).disable_statement_logging();
        let connection = connecting.connect().await.map_err(failed)?;
        let (top_sql, page_sql) = options.statements();
        let mut session = Self {
            connection,
            inspection: Inspection::default(),
            progress: Progress::new(options.tip_lag),
            json: Vec::new(),
            top_sql,
            page_sql,
        };
        session.set_limits(options).await.map_err(failed)?;
        match &options.relation {
            Relation::Table(table) => session.inspect_table(options, table, asked).await?,
            Relation::Query(query) => session.inspect_query(options, query, asked).await?,
        }
        Ok(session)
    }

    async fn set_limits(&mut self, options: &SqlOptions) -> Result<(), sqlx::Error> {
        let (version, step): (String, i64) =
            sqlx::query_as("select version(), cast(@@auto_increment_increment as signed)")
                .fetch_one(&mut self.connection)
                .await?;
        let is_mariadb = version.contains("MariaDB");
        let timeout = if is_mariadb {
            format!("max_statement_time = {}", options.timeout.as_secs_f64())
        } else {
            format!("max_execution_time = {}", options.timeout.as_millis())
        };
        let sql = format!(
            "set session {timeout}, session lock_wait_timeout = {LOCK_TIMEOUT_SECONDS}, \
             session innodb_lock_wait_timeout = {LOCK_TIMEOUT_SECONDS}; \
             set session transaction isolation level read committed"
        );
        self.connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
        self.inspection.server = if is_mariadb { version } else { format!("MySQL {version}") };
        if step > 1 {
            self.inspection.warnings.push(format!(
                "auto_increment_increment is {step}: where several servers are written to, ids do not increase with \
                 time, and rows are lost that appear below ids that were read; write to one server"
            ));
        }
        Ok(())
    }

    pub(super) async fn begin(&mut self, asked: &Asked) -> Result<(), SourceError> {
        let begun = self.connection.execute(sqlx::raw_sql("start transaction read only")).await;
        begun.map(drop).map_err(|error| asked.failed(DIALECT, &error))
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
        let schema = table.schema.as_ref().map(super::Identifier::as_str);
        let name = table.name.as_str();
        let columns: Vec<(String, String, String, String)> = sqlx::query_as(COLUMNS)
            .bind(schema)
            .bind(name)
            .fetch_all(&mut self.connection)
            .await
            .map_err(failed)?;
        if columns.is_empty() {
            return Err(refused(&format!(
                "there is no table or view {table} here that the user can see; name the database in `url` or write \
                 database.table"
            )));
        }
        let names: Vec<String> = columns.iter().map(|column| column.0.clone()).collect();
        let column = columns.iter().find(|column| column.0.eq_ignore_ascii_case(id));
        let (_, data_type, nullable, extra) = column.ok_or_else(|| missing_column(id, &names))?;
        let indexes: Vec<(String, String, i64)> = sqlx::query_as(INDEXES)
            .bind(schema)
            .bind(name)
            .fetch_all(&mut self.connection)
            .await
            .map_err(failed)?;
        let (table_type, create_options): (String, String) = sqlx::query_as(TABLE)
            .bind(schema)
            .bind(name)
            .fetch_one(&mut self.connection)
            .await
            .map_err(failed)?;
        let mut facts = IdFacts {
            type_name: data_type.clone(),
            is_integer: INTEGERS.contains(&data_type.as_str()),
            is_nullable: nullable == "YES",
            is_numbered: extra.contains("auto_increment"),
            kind: match table_type.as_str() {
                "VIEW" | "SYSTEM VIEW" => TableKind::View,
                _ if create_options.contains("partitioned") => TableKind::Partitioned,
                _ => TableKind::Table,
            },
            ..IdFacts::default()
        };
        add_indexes(&mut facts, id, &indexes);
        self.inspection.warnings.extend(judge(id, &facts)?);
        self.inspection.is_indexed = (facts.kind != TableKind::View).then_some(facts.is_indexed);
        self.inspection.id_type = facts.type_name;
        self.inspection.key = facts.key;
        // MySQL has no such column there, and no need of it.
        let checks: Vec<String> = sqlx::query_scalar(JSON_CHECKS)
            .bind(schema)
            .bind(name)
            .fetch_all(&mut self.connection)
            .await
            .unwrap_or_default();
        let is_json = |column: &String| checks.contains(&format!("json_valid(`{column}`)"));
        self.json = names.into_iter().filter(is_json).collect();
        Ok(())
    }

    async fn inspect_query(
        &mut self,
        options: &SqlOptions,
        query: &Query,
        asked: &Asked,
    ) -> Result<(), SourceError> {
        let failed = |error: sqlx::Error| asked.failed(DIALECT, &error);
        let sql = AssertSqlSafe(query.sql().to_owned()).into_sql_str();
        let prepared = self.connection.prepare(sql).await.map_err(failed)?;
        let columns = prepared.columns();
        let names: Vec<String> = columns.iter().map(|column| column.name().to_owned()).collect();
        let id = options.id.as_str();
        let column = columns.iter().find(|column| column.name().eq_ignore_ascii_case(id));
        let column = column.ok_or_else(|| missing_column(id, &names))?;
        let type_name = column.type_info().name().to_ascii_lowercase();
        let is_integer =
            INTEGERS.contains(&type_name.trim_end_matches(" unsigned")) || type_name == "boolean";
        if !is_integer {
            return Err(refuse_type(id, &type_name));
        }
        self.inspection.id_type = type_name;
        Ok(())
    }

    pub(super) async fn read(
        &mut self,
        options: &SqlOptions,
        window: Window,
        asked: &Asked,
    ) -> Result<(Page, bool), SourceError> {
        let failed = |error: sqlx::Error| asked.failed(DIALECT, &error);
        let highest = self.see_tip(options, window).await.map_err(failed)?;
        let bound = self.progress.tip_lag.bound(Instant::now());
        let Some(bound) = bound.filter(|bound| *bound > window.after_id) else {
            return self.nothing(options, highest);
        };
        asked.set();
        let mut query = sqlx::query(AssertSqlSafe(self.page_sql.clone()));
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
        let mut is_whole = true;
        while let Some(row) = rows.next().await {
            let row = row.map_err(failed)?;
            let id = match id_of(&row, options.id.as_str())? {
                Id::Bigint(id) if id <= bound => id,
                // Ordered by id: what follows is above the bound as well.
                Id::Bigint(_) | Id::Beyond(_) => break,
            };
            is_whole = page.push(id, json_of(&row, &self.json, payload));
            if !is_whole {
                break;
            }
        }
        drop(rows);
        if page.row_count() == 0 {
            return self.nothing(options, highest);
        }
        page.finish(window.after_id, window.limit).map(|page| (page, is_whole))
    }

    /// Reads the highest id, where it is needed.
    async fn see_tip(
        &mut self,
        options: &SqlOptions,
        window: Window,
    ) -> Result<Option<u64>, sqlx::Error> {
        let mut after_id = i64::MIN;
        let query = sqlx::query(AssertSqlSafe(self.top_sql.clone()));
        let query = match &options.relation {
            Relation::Table(_) => query,
            Relation::Query(_) if self.progress.tip_lag.is_off() => return Ok(None),
            Relation::Query(text) => {
                after_id = self.progress.asks_after(window.after_id);
                text.binds().iter().fold(query, |query, bind| match bind {
                    super::statement::Bind::AfterId => query.bind(after_id),
                    super::statement::Bind::Limit => query.bind(window.look_ahead()),
                })
            }
        };
        let row = query.fetch_one(&mut self.connection).await?;
        let highest = match value::taken(&row, 0) {
            Some(Taken::Integer(top)) => Some(top),
            _ => None,
        };
        let top = highest.map(|top| i64::try_from(top).unwrap_or(i64::MAX));
        self.progress.see(top, after_id, Instant::now());
        Ok(highest.and_then(|top| u64::try_from(top).ok()))
    }

    /// No row can be read now; if that is because the rest is beyond bigint, somebody has to know.
    fn nothing(
        &mut self,
        options: &SqlOptions,
        highest: Option<u64>,
    ) -> Result<(Page, bool), SourceError> {
        let is_all_read = self.progress.tip_lag.bound(Instant::now()) == Some(i64::MAX);
        match highest.filter(|highest| i64::try_from(*highest).is_err() && is_all_read) {
            Some(highest) => Err(beyond_bigint(options.id.as_str(), highest)),
            None => Ok((Page::default(), true)),
        }
    }
}

fn add_indexes(facts: &mut IdFacts, id: &str, indexes: &[(String, String, i64)]) {
    for (index, column, non_unique) in indexes {
        let columns = || indexes.iter().filter(|other| other.0 == *index);
        if columns().next().is_some_and(|first| first.1 == *column)
            && column.eq_ignore_ascii_case(id)
        {
            facts.is_indexed = true;
            facts.is_unique |= columns().count() == 1 && *non_unique == 0;
        }
        if index == "PRIMARY" {
            facts.key.push(column.clone());
        }
    }
}

fn id_of(row: &MySqlRow, id: &str) -> Result<Id, SourceError> {
    let place = row.columns().iter().position(|column| column.name().eq_ignore_ascii_case(id));
    match place.and_then(|place| value::taken(row, place)) {
        Some(Taken::Integer(number)) => Ok(value::id(number)),
        Some(_) => Err(no_id(id, "something else")),
        None => Err(no_id(id, "null")),
    }
}

/// The row as a JSON object.
fn json_of(row: &MySqlRow, json: &[String], payload: Option<&str>) -> Vec<u8> {
    let mut writer = RowWriter::new();
    for (place, column) in row.columns().iter().enumerate() {
        let name = MySqlColumn::name(column);
        match value::taken(row, place) {
            None => writer.null(name),
            Some(Taken::Integer(number)) => writer.number(name, number),
            Some(Taken::Number(digits)) => writer.raw(name, &digits),
            Some(Taken::Binary(bytes)) => writer.binary(name, bytes),
            Some(Taken::Json(text)) => writer.json(name, text),
            Some(Taken::Text(text)) if json.iter().any(|column| column == name) => {
                writer.json(name, &text);
            }
            Some(Taken::Text(text)) if payload == Some(name) => writer.payload(name, &text),
            Some(Taken::Text(text)) => writer.text(name, &text),
        }
    }
    writer.finish()
}
