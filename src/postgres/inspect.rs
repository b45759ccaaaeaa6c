//! What a server says of itself, for `eventloader check`. Changes nothing.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, FromRow, PgConnection};
use tokio::time::Instant;
use uuid::Uuid;

use super::pool::with_session_settings;
use crate::store::{StoreError, failed_to};

/// What was found.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// Such as `16.2`.
    pub version: String,
    /// Such as 16.
    pub major: i32,
    /// Of one statement.
    pub round_trip: Duration,
    /// Why nothing can be written, where that is so.
    pub read_only: Option<&'static str>,
    /// Connections that this user may still open.
    pub free_connections: i64,
    /// The server's clock, minus this machine's.
    pub clock_ahead_seconds: f64,
    /// The connection uses TLS.
    pub is_encrypted: bool,
    /// Two connections shared one session of the server.
    pub is_pooled: bool,
    /// Statements have no time limit: the settings that we give each connection are lost on the way.
    pub is_unlimited: bool,
}

#[derive(FromRow)]
struct Answer {
    version: String,
    version_number: i32,
    is_standby: bool,
    is_read_only: bool,
    free_connections: i64,
    clock_ahead_seconds: f64,
    is_encrypted: bool,
    statement_timeout: String,
}

/// Asks the server, on two connections.
///
/// # Errors
///
/// It does not answer.
pub async fn inspect(options: &PgConnectOptions) -> Result<Inspection, StoreError> {
    let failed = || failed_to("look at the server");
    let options = with_session_settings(options.clone());
    let mut first = options.connect().await.map_err(failed())?;
    let mut second = options.connect().await.map_err(failed())?;
    let is_pooled = share_a_session(&mut first, &mut second).await.map_err(failed())?;
    let sent_at = Instant::now();
    sqlx::raw_sql("select 1").execute(&mut first).await.map_err(failed())?;
    let round_trip = sent_at.elapsed();
    let answer: Answer = ask(&mut first).await.map_err(failed())?;
    let read_only = match (answer.is_standby, answer.is_read_only) {
        (true, _) => Some("the server is a standby"),
        (false, true) => Some("transactions are read-only by default"),
        (false, false) => None,
    };
    for connection in [first, second] {
        drop(connection.close().await);
    }
    Ok(Inspection {
        version: answer.version.split(' ').next().unwrap_or_default().to_owned(),
        major: answer.version_number / 10_000,
        round_trip,
        read_only,
        free_connections: answer.free_connections,
        clock_ahead_seconds: answer.clock_ahead_seconds,
        is_encrypted: answer.is_encrypted,
        is_pooled,
        is_unlimited: answer.statement_timeout == "0",
    })
}

async fn ask(connection: &mut PgConnection) -> Result<Answer, sqlx::Error> {
    sqlx::query_as(
        "select
             current_setting('server_version') as version,
             current_setting('server_version_num')::integer as version_number,
             pg_is_in_recovery() as is_standby,
             current_setting('default_transaction_read_only')::boolean as is_read_only,
             least(
                 current_setting('max_connections')::bigint
                     - current_setting('superuser_reserved_connections')::bigint
                     - (select count(*) from pg_stat_activity where backend_type = 'client backend'),
                 case when r.rolconnlimit < 0 then 2147483647 else r.rolconnlimit
                     - (select count(*) from pg_stat_activity where usename = current_user) end
             -- The two connections of this look itself will be free again.
             ) + 2 as free_connections,
             extract(epoch from clock_timestamp() - $1)::float8 as clock_ahead_seconds,
             coalesce((select s.ssl from pg_stat_ssl s where s.pid = pg_backend_pid()), false) as is_encrypted,
             current_setting('statement_timeout') as statement_timeout
         from pg_roles r
         where r.rolname = current_user",
    )
    .bind(chrono::Utc::now())
    .fetch_one(connection)
    .await
}

/// How far away the server is, in time.
#[derive(Clone, Copy, Debug)]
pub struct Distance {
    /// From the question to the answer.
    pub round_trip: Duration,
    /// The server's clock minus this machine's, in seconds; wrong by half a round trip at most.
    pub clock_ahead_seconds: f64,
}

/// Measures the distance to the server, whose connection should be open already.
///
/// # Errors
///
/// It does not answer.
pub async fn distance(connection: &mut PgConnection) -> Result<Distance, StoreError> {
    let sent_at = Instant::now();
    let ahead = sqlx::query_scalar("select extract(epoch from clock_timestamp() - $1)::float8")
        .bind(chrono::Utc::now())
        .fetch_one(connection)
        .await
        .map_err(failed_to("ask the database for the time"))?;
    Ok(Distance { round_trip: sent_at.elapsed(), clock_ahead_seconds: ahead })
}

/// Leaves a mark in the session of one connection and looks for it from the other. Without a pooler in transaction mode
/// it cannot be there. Simple statements only: prepared ones would fail in just that case.
async fn share_a_session(
    first: &mut PgConnection,
    second: &mut PgConnection,
) -> Result<bool, sqlx::Error> {
    use sqlx::Row;

    let mark = Uuid::new_v4().simple().to_string();
    let leave = format!("select set_config('eventloader.session_mark', '{mark}', false)");
    sqlx::raw_sql(sqlx::AssertSqlSafe(leave)).execute(&mut *first).await?;
    let look = "select current_setting('eventloader.session_mark', true) as mark";
    let row = sqlx::raw_sql(look).fetch_one(&mut *second).await?;
    let seen: Option<String> = row.try_get("mark")?;
    sqlx::raw_sql("reset eventloader.session_mark").execute(first).await?;
    Ok(seen.as_deref() == Some(mark.as_str()))
}

/// Rights that `run` needs and this user lacks.
#[derive(Debug, Clone)]
pub struct MissingRights {
    /// As it is written in SQL.
    pub user: String,
    /// Such as `update eventloader.source_lease`; at most five, then how many more.
    pub rights: Vec<String>,
}

/// Compares the rights of this user with those of `eventloader_runtime`.
///
/// # Errors
///
/// The server does not answer.
pub async fn missing_rights(options: &PgConnectOptions) -> Result<MissingRights, StoreError> {
    let failed = || failed_to("read the rights of the database user");
    let mut connection = with_session_settings(options.clone()).connect().await.map_err(failed())?;
    let user: String = sqlx::query_scalar("select quote_ident(current_user)")
        .fetch_one(&mut connection)
        .await
        .map_err(failed())?;
    let rows: Vec<String> = sqlx::query_scalar(
        "select lower(a.privilege_type) || ' ' || c.oid::regclass
         from pg_class c, aclexplode(c.relacl) a, pg_roles r
         where c.relnamespace = 'eventloader'::regnamespace and r.oid = a.grantee
             and r.rolname = 'eventloader_runtime' and c.relkind in ('r', 'p', 'v')
             and not has_table_privilege(c.oid, a.privilege_type)
         union all
         select 'execute ' || p.oid::regproc
         from pg_proc p, aclexplode(p.proacl) a, pg_roles r
         where p.pronamespace = 'eventloader'::regnamespace and r.oid = a.grantee
             and r.rolname = 'eventloader_runtime' and not has_function_privilege(p.oid, a.privilege_type)
         order by 1",
    )
    .fetch_all(&mut connection)
    .await
    .map_err(failed())?;
    drop(connection.close().await);
    let more = rows.len().saturating_sub(5);
    let mut rights: Vec<String> = rows.into_iter().take(5).collect();
    if more > 0 {
        rights.push(format!("and {more} more"));
    }
    Ok(MissingRights { user, rights })
}
