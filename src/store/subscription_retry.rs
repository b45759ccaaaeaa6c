//! `subscription_retry`: streams of a subscription that wait, and since which position.
//!
//! A row is made when an event fails (attempts 1 and more). It goes when the stream has caught up with the checkpoint.

use std::time::Duration;

use sqlx::{FromRow, PgPool};

use super::{StoreError, failed_to, interval};

/// A stream that waits.
#[derive(Clone, Debug, FromRow, PartialEq, Eq)]
pub struct WaitingStream {
    /// Its name.
    pub stream: String,
    /// Of the event to try next. Those before it in the stream are done with.
    pub position: i64,
    /// How often that event was tried.
    pub attempts: i32,
}

/// Streams whose time has come, longest waiting first, without those in `busy`, and without those that wait above the
/// position up to which the log was read.
pub async fn due(
    pool: &PgPool,
    name: &str,
    read_to: i64,
    busy: &[&str],
    limit: i64,
) -> Result<Vec<WaitingStream>, StoreError> {
    sqlx::query_as(
        "select stream, position, attempts
         from eventloader.subscription_retry
         where name = $1 and next_attempt_at <= clock_timestamp() and position <= $2 and stream <> all ($3)
         order by next_attempt_at
         limit $4",
    )
    .bind(name)
    .bind(read_to)
    .bind(busy)
    .bind(limit)
    .fetch_all(pool)
    .await
    .map_err(failed_to("look for streams that wait"))
}

/// Which of these streams wait, be it their time or not.
pub async fn waiting_among(
    pool: &PgPool,
    name: &str,
    streams: &[&str],
) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar(
        "select stream from eventloader.subscription_retry where name = $1 and stream = any ($2)",
    )
    .bind(name)
    .bind(streams)
    .fetch_all(pool)
    .await
    .map_err(failed_to("look for streams that wait"))
}

/// Lets a stream wait for another attempt at the event at `position`. `false`: the subscription was lost.
pub async fn wait(
    pool: &PgPool,
    (name, epoch): (&str, i64),
    waiting: &WaitingStream,
    error: &str,
    retry_in: Duration,
) -> Result<bool, StoreError> {
    let result = sqlx::query(
        "with fence as (
             select s.name from eventloader.subscription s where s.name = $1 and s.epoch = $2 for share
         )
         insert into eventloader.subscription_retry (name, stream, position, attempts, next_attempt_at, last_error)
         select f.name, $3, $4, $5, clock_timestamp() + $6::interval, $7 from fence f
         on conflict (name, stream) do update
         set position = excluded.position, attempts = excluded.attempts,
             next_attempt_at = excluded.next_attempt_at, last_error = excluded.last_error",
    )
    .bind(name)
    .bind(epoch)
    .bind(&waiting.stream)
    .bind(waiting.position)
    .bind(waiting.attempts)
    .bind(interval(retry_in))
    .bind(error)
    .execute(pool)
    .await
    .map_err(failed_to("let a stream wait"))?;
    Ok(result.rows_affected() == 1)
}

/// The stream has caught up. `false`: the subscription was lost.
pub async fn end(
    pool: &PgPool,
    (name, epoch): (&str, i64),
    stream: &str,
) -> Result<bool, StoreError> {
    let held: i64 = sqlx::query_scalar(
        "with fence as (
             select s.name from eventloader.subscription s where s.name = $1 and s.epoch = $2 for share
         ), gone as (
             delete from eventloader.subscription_retry r using fence f where r.name = f.name and r.stream = $3
         )
         select count(*) from fence",
    )
    .bind(name)
    .bind(epoch)
    .bind(stream)
    .fetch_one(pool)
    .await
    .map_err(failed_to("let a stream go on"))?;
    Ok(held == 1)
}
