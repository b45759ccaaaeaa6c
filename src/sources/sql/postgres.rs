//! PostgreSQL. Rows come as the JSON that the server makes of them, which loses nothing; the bound that they are read up
//! to is that of [`horizon`](super::horizon).

mod catalogue;

use std::str::FromStr as _;
use std::time::Duration;

use futures_util::StreamExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::{PgConnectOptions, PgRow, PgTypeKind};
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions as _, Executor as _, PgConnection, Row as _,
    SqlSafeStr as _, Statement as _, TypeInfo as _,
};
use tokio::time::Instant;

use super::failure::Asked;
use super::horizon::{Look, Progress, Transactions};
use super::inspection::{
    IdFacts, Inspection, Sequence, TableKind, judge, missing_column, refuse_type, refused,
};
use super::row::{PageBuilder, no_id, with_base64};
use super::{
    Dialect, LOCK_TIMEOUT_SECONDS, Query, Relation, SqlOptions, TableName, Window, seconds,
};
use crate::source::{Page, SourceError};
use catalogue::{COLUMNS, FILLED_FROM_ELSEWHERE, ID_FACTS, LOOK, SEQUENCES};

const DIALECT: Dialect = Dialect::Postgres;

/// How long a writer may hold the bound before that is said, and said again.
const PATIENCE: Duration = Duration::from_mins(1);

/// Everything that a value's text depends on is set in each transaction, so that a pooler between us changes nothing.
const SETTINGS: &str = "begin transaction isolation level read committed read only; \
    set local time zone 'UTC'; \
    set local datestyle = 'ISO, YMD'; \
    set local intervalstyle = 'iso_8601'; \
    set local extra_float_digits = 1; \
    set local bytea_output = 'hex'; \
    set local standard_conforming_strings = on; \
    set local idle_in_transaction_session_timeout = '60s'; ";

/// A connection, and how far its table is proven.
pub(super) struct PostgresSession {
    connection: PgConnection,
    pub(super) inspection: Inspection,
    pub(super) progress: Progress,
    /// The last page was not full.
    at_tip: bool,
    /// When a writer was last said to hold the bound.
    said_at: Option<Instant>,
    top_sql: String,
    page_sql: String,
    /// The columns of a query that hold bytes; for a table they are read with each page.
    binary: Vec<String>,
}

impl PostgresSession {
    pub(super) async fn open(
        options: &SqlOptions,
        url: &SecretString,
        asked: &Asked,
    ) -> Result<Self, SourceError> {
        let failed = |error: sqlx::Error| asked.failed(DIALECT, &error);
        let connecting = PgConnectOptions::from_str(url.expose_secret()).map_err(failed)?;
        let connecting = connecting.application_name("eventloader").disable_statement_logging();
        let connection = connecting.connect().await.map_err(failed)?;
        let (top_sql, page_sql) = statements(options);
        let mut session = Self {
            connection,
            inspection: Inspection::default(),
            progress: Progress::new(options.tip_lag),
            at_tip: true,
            said_at: None,
            top_sql,
            page_sql,
            binary: Vec::new(),
        };
        session.begin(options, asked).await?;
        session.inspect(options, asked).await?;
        session.end().await.map_err(failed)?;
        Ok(session)
    }

    pub(super) async fn begin(
        &mut self,
        options: &SqlOptions,
        asked: &Asked,
    ) -> Result<(), SourceError> {
        let timeout = options.timeout.as_millis();
        let sql = format!(
            "{SETTINGS}set local statement_timeout = {timeout}; set local lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'"
        );
        let begun = self.connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await;
        begun.map(drop).map_err(|error| asked.failed(DIALECT, &error))
    }

    pub(super) async fn end(&mut self) -> Result<(), sqlx::Error> {
        self.connection.execute(sqlx::raw_sql("commit")).await.map(drop)
    }

    async fn inspect(&mut self, options: &SqlOptions, asked: &Asked) -> Result<(), SourceError> {
        let failed = |error: sqlx::Error| asked.failed(DIALECT, &error);
        let server =
            "select 'PostgreSQL ' || current_setting('server_version'), pg_is_in_recovery()";
        let (server, in_recovery) =
            sqlx::query_as(server).fetch_one(&mut self.connection).await.map_err(failed)?;
        self.inspection.server = server;
        self.inspection.in_recovery = in_recovery;
        if in_recovery && self.progress.tip_lag.is_off() {
            return Err(refused(
                "the server is a standby, where the writers of the primary cannot be seen; read the primary, or set \
                 tip_lag to more than the longest transaction that writes",
            ));
        }
        match &options.relation {
            Relation::Table(table) => self.inspect_table(options, table, asked).await?,
            Relation::Query(query) => self.inspect_query(options, query, asked).await?,
        }
        if let Some(names) = self.filled_from_elsewhere(asked).await? {
            if self.progress.tip_lag.is_off() {
                return Err(no_lag_for(&names));
            }
            self.inspection.warnings.push(format!(
                "writers of {names} cannot be seen here, so only tip_lag counts: it has to be more than the longest \
                 transaction that writes and, of a materialized view, the time from one refresh to the next"
            ));
        }
        Ok(())
    }

    /// The names of what is filled from elsewhere, among all that this transaction has locked.
    async fn filled_from_elsewhere(
        &mut self,
        asked: &Asked,
    ) -> Result<Option<String>, SourceError> {
        let found = sqlx::query_scalar(FILLED_FROM_ELSEWHERE).fetch_all(&mut self.connection).await;
        let names: Vec<String> = found.map_err(|error| asked.failed(DIALECT, &error))?;
        Ok((!names.is_empty()).then(|| names.join(", ")))
    }

    async fn inspect_table(
        &mut self,
        options: &SqlOptions,
        table: &TableName,
        asked: &Asked,
    ) -> Result<(), SourceError> {
        let failed = |error: sqlx::Error| asked.failed(DIALECT, &error);
        let (name, id) = (table.quoted(DIALECT), options.id.as_str());
        let columns: Vec<String> = sqlx::query_scalar(COLUMNS)
            .bind(&name)
            .fetch_all(&mut self.connection)
            .await
            .map_err(failed)?;
        if columns.is_empty() {
            return Err(refused(&format!(
                "there is no table or view {table} here that the user can see; write schema.table, with upper and lower \
                 case as the database has them"
            )));
        }
        let found = sqlx::query(ID_FACTS)
            .bind(&name)
            .bind(id)
            .fetch_optional(&mut self.connection)
            .await
            .map_err(failed)?;
        let row = found.ok_or_else(|| missing_column(id, &columns))?;
        let sequences = sqlx::query(SEQUENCES)
            .bind(&name)
            .bind(id)
            .fetch_all(&mut self.connection)
            .await
            .map_err(failed)?;
        let sequence = sequences.iter().find_map(|row| sequence(row).ok());
        let facts = id_facts(&row, sequence.is_some()).map_err(failed)?;
        let mut warnings = judge(id, &facts)?;
        warnings.extend(sequence.iter().filter_map(|sequence| sequence.warning(options.tip_lag)));
        self.inspection.id_type = facts.type_name;
        self.inspection.key = facts.key;
        self.inspection.is_indexed = (facts.kind != TableKind::View).then_some(facts.is_indexed);
        self.inspection.sequence = sequence;
        self.inspection.warnings = warnings;
        // Locks the table, and all that a view is made of.
        let sql = AssertSqlSafe(self.top_sql.clone()).into_sql_str();
        self.connection.prepare(sql).await.map(drop).map_err(failed)
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
        let columns: Vec<String> =
            prepared.columns().iter().map(|column| column.name().to_owned()).collect();
        if let Some(twice) = (1..columns.len()).find(|i| columns[..*i].contains(&columns[*i])) {
            let name = &columns[twice];
            return Err(refused(&format!(
                "the query has two columns `{name}`; name one of them anew with `as`"
            )));
        }
        let id = options.id.as_str();
        let column = prepared.columns().iter().find(|column| column.name() == id);
        let column = column.ok_or_else(|| missing_column(id, &columns))?;
        let base = |column: &sqlx::postgres::PgColumn| match column.type_info().kind() {
            PgTypeKind::Domain(base) => base.name().to_owned(),
            _ => column.type_info().name().to_owned(),
        };
        let id_type = base(column);
        if !["INT2", "INT4", "INT8"].contains(&id_type.as_str()) {
            return Err(refuse_type(id, column.type_info().name()));
        }
        self.inspection.id_type = id_type.to_ascii_lowercase();
        self.binary = prepared
            .columns()
            .iter()
            .filter(|column| base(column) == "BYTEA")
            .map(|column| column.name().to_owned())
            .collect();
        Ok(())
    }

    /// Moves the bound on as far as it can be, then reads the page up to it.
    pub(super) async fn read(
        &mut self,
        options: &SqlOptions,
        window: Window,
        asked: &Asked,
    ) -> Result<(Page, bool), SourceError> {
        let bound = self.bound(options, window, asked).await?;
        let Some(bound) = bound.filter(|bound| *bound > window.after_id) else {
            return Ok((Page::default(), true));
        };
        let failed = |error: sqlx::Error| asked.failed(DIALECT, &error);
        asked.set();
        let page_sql = AssertSqlSafe(self.page_sql.clone());
        let mut rows = sqlx::query(page_sql)
            .bind(window.after_id)
            .bind(i64::from(window.limit))
            .bind(bound)
            .bind(&self.binary)
            .fetch(&mut self.connection);
        let mut page = PageBuilder::new(&options.mapping, options.max_page_bytes);
        let mut is_whole = true;
        while let Some(row) = rows.next().await {
            let row = row.map_err(failed)?;
            let id: Option<i64> = row.try_get(0).map_err(failed)?;
            let json: String = row.try_get(1).map_err(failed)?;
            let binary: Vec<String> = row.try_get(2).map_err(failed)?;
            let id = id.ok_or_else(|| no_id(options.id.as_str(), "null"))?;
            is_whole = page.push(id, with_base64(json, &binary));
            if !is_whole {
                break;
            }
        }
        drop(rows);
        self.at_tip = is_whole && page.row_count() < window.limit as usize;
        // What is left of a page that was too large is not read; the connection goes instead.
        page.finish(window.after_id, window.limit).map(|page| (page, is_whole))
    }

    /// Up to which id rows may be read now; see [`horizon`](super::horizon).
    async fn bound(
        &mut self,
        options: &SqlOptions,
        window: Window,
        asked: &Asked,
    ) -> Result<Option<i64>, SourceError> {
        let failed = |error: sqlx::Error| asked.failed(DIALECT, &error);
        let after_page = window.after_id.saturating_add(i64::from(window.limit));
        let is_used_up = self.progress.horizon.bound().is_none_or(|bound| bound < after_page);
        let wants_top = self.progress.horizon.waits_for().is_none() && (self.at_tip || is_used_up)
            || !self.progress.tip_lag.is_off();
        if wants_top {
            let mut after_id = i64::MIN;
            let mut query = sqlx::query_as(AssertSqlSafe(self.top_sql.clone()));
            if matches!(options.relation, Relation::Query(_)) {
                after_id = self.progress.asks_after(window.after_id);
                query = query.bind(after_id).bind(window.look_ahead());
            }
            let (top, has_null): (Option<i64>, bool) =
                query.fetch_one(&mut self.connection).await.map_err(failed)?;
            if has_null {
                return Err(no_id(options.id.as_str(), "null"));
            }
            self.progress.see(top, after_id, Instant::now());
        }
        let lagging = self.progress.tip_lag.bound(Instant::now());
        if self.inspection.in_recovery {
            return Ok(lagging);
        }
        let waited_for = self.progress.horizon.waits_for().map(|(holders, _)| holders.clone());
        if waited_for.is_some() || wants_top && self.progress.top() > self.progress.horizon.bound()
        {
            // A part of the table, or of a view, may be another one since the inspection.
            if self.progress.tip_lag.is_off()
                && let Some(names) = self.filled_from_elsewhere(asked).await?
            {
                return Err(no_lag_for(&names));
            }
            let look = self.look(waited_for.as_ref(), asked).await?;
            match (waited_for, self.progress.top()) {
                (Some(_), _) => self.progress.horizon.observe(&look),
                (None, Some(top)) => self.progress.horizon.propose(top, &look, Instant::now()),
                (None, None) => {}
            }
        }
        self.say_who_is_waited_for();
        Ok(self.progress.horizon.bound().min(lagging))
    }

    async fn look(
        &mut self,
        waited_for: Option<&Transactions>,
        asked: &Asked,
    ) -> Result<Look, SourceError> {
        let failed = |error: sqlx::Error| asked.failed(DIALECT, &error);
        let names: Vec<&str> = waited_for.into_iter().flatten().map(String::as_str).collect();
        let rows: Vec<(String, Option<bool>)> = sqlx::query_as(LOOK)
            .bind(&names)
            .fetch_all(&mut self.connection)
            .await
            .map_err(failed)?;
        let mut look = Look::default();
        for (transaction, writes) in rows {
            if transaction.starts_with("-1/") {
                look.prepared.insert(transaction.clone());
            }
            if writes == Some(true) {
                look.writers.insert(transaction.clone());
            }
            look.running.insert(transaction);
        }
        Ok(look)
    }

    fn say_who_is_waited_for(&mut self) {
        let Some((holders, since)) = self.progress.horizon.waits_for() else { return };
        let since = since.max(self.said_at.unwrap_or(since));
        if since.elapsed() >= PATIENCE {
            self.said_at = Some(Instant::now());
            let transactions = holders.iter().cloned().collect::<Vec<_>>().join(", ");
            tracing::warn!(
                transactions,
                "new events wait for transactions that write to the table and do not end; \
                 pg_locks.virtualtransaction tells whose they are"
            );
        }
    }
}

fn no_lag_for(names: &str) -> SourceError {
    refused(&format!(
        "writers of {names} cannot be seen here, and rows that appear late would be lost; read the tables that are \
         written to, or set tip_lag to more than the longest transaction that writes and, of a materialized view, the \
         time from one refresh to the next"
    ))
}

impl Sequence {
    fn warning(&self, tip_lag: Duration) -> Option<String> {
        let name = &self.name;
        let until = if tip_lag.is_zero() {
            "set tip_lag".to_owned()
        } else {
            format!("tip_lag allows {}", seconds(tip_lag))
        };
        if self.cache_size > 1 {
            Some(format!(
                "{name} has cache {}: sessions keep numbers for later, and a row that takes an old one can be lost; \
                 `alter sequence {name} cache 1`, or {until}",
                self.cache_size
            ))
        } else if self.increment > 1 {
            Some(format!(
                "{name} counts in steps of {}: an application that hands out the numbers between by itself draws them \
                 before the insert, and a row that is committed late can be lost; {until}",
                self.increment
            ))
        } else if self.increment < 0 {
            Some(format!("{name} counts down, and new rows get ids that were passed already"))
        } else {
            None
        }
    }
}

fn sequence(row: &PgRow) -> Result<Sequence, sqlx::Error> {
    Ok(Sequence {
        name: row.try_get("name")?,
        cache_size: row.try_get("cache_size")?,
        increment: row.try_get("increment")?,
    })
}

fn id_facts(row: &PgRow, is_numbered: bool) -> Result<IdFacts, sqlx::Error> {
    let kind: String = row.try_get("kind")?;
    let is_unique: bool = row.try_get("is_unique")?;
    Ok(IdFacts {
        type_name: row.try_get("type_name")?,
        is_integer: row.try_get("is_integer")?,
        is_nullable: row.try_get("is_nullable")?,
        is_unique,
        is_indexed: row.try_get("is_indexed")?,
        key: row.try_get("key")?,
        kind: match kind.as_str() {
            "p" => TableKind::Partitioned,
            "v" | "m" | "f" => TableKind::View,
            _ => TableKind::Table,
        },
        is_numbered,
    })
}

/// The statement that reads the highest id, and the one that reads a page: after $1, at most $2 rows, up to $3.
fn statements(options: &SqlOptions) -> (String, String) {
    let id = options.id.quoted(DIALECT);
    let row = "eventloader_row";
    let (top, rows, binary) = match &options.relation {
        Relation::Table(table) => {
            let table = table.quoted(DIALECT);
            let rows = format!(
                "select t.* from {table} t where t.{id} > $1 and t.{id} <= $3 order by t.{id} limit $2"
            );
            let binary = format!(
                "(select coalesce(array_agg(a.attname::text), '{{}}') || $4::text[]
                from pg_catalog.pg_attribute a
                join pg_catalog.pg_type t on t.oid = a.atttypid
                where a.attrelid = to_regclass('{table}') and not a.attisdropped
                    and 'pg_catalog.bytea'::regtype in (t.oid, t.typbasetype))"
            );
            (format!("select max({id})::int8, false from {table}"), rows, binary)
        }
        Relation::Query(query) => {
            let sql = query.sql();
            let top = format!(
                "select max({row}.{id})::int8, coalesce(bool_or({row}.{id} is null), false)\nfrom (\n{sql}\n) {row}"
            );
            (top, sql.to_owned(), "$4::text[]".to_owned())
        }
    };
    let page = format!(
        "select {row}.{id}::int8, to_json({row}.*)::text, {binary}\nfrom (\n{rows}\n) {row}\n\
         where {row}.{id} is null or {row}.{id} <= $3"
    );
    (top, page)
}
