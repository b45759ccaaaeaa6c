//! `subscription_replay`: dead letters of a subscription that were given back, to be handled once more.
//!
//! A row is made by `dead-letters replay`, and goes when its event was handled or became a dead letter again.

use std::time::Duration;

use sqlx::{FromRow, PgConnection, PgPool};

use super::event_log::EventHead;
use super::{Actor, StoreError, failed_to, interval};

/// An event that was given back.
#[derive(Clone, Debug, FromRow)]
pub struct ReplayedEvent {
    /// The event.
    #[sqlx(flatten)]
    pub head: EventHead,
    /// How often it was tried since.
    pub attempts: i32,
}

/// Events whose time has come, in order, without those at the positions in `busy`.
pub async fn due(
    pool: &PgPool,
    name: &str,
    busy: &[i64],
    limit: i64,
) -> Result<Vec<ReplayedEvent>, StoreError> {
    sqlx::query_as(
        "select e.position, e.stream, e.version, e.event_type, e.message_id, r.attempts
         from eventloader.subscription_replay r
         join eventloader.events e on e.position = r.position
         where r.name = $1 and r.next_attempt_at <= clock_timestamp() and r.position <> all ($2)
         order by r.position
         limit $3",
    )
    .bind(name)
    .bind(busy)
    .bind(limit)
    .fetch_all(pool)
    .await
    .map_err(failed_to("look for replayed events"))
}

/// Lets a replayed event wait for another attempt. `false`: the subscription was lost.
pub async fn wait(
    pool: &PgPool,
    (name, epoch): (&str, i64),
    (position, attempts): (i64, i32),
    error: &str,
    retry_in: Duration,
) -> Result<bool, StoreError> {
    let held: i64 = sqlx::query_scalar(
        "with fence as (
             select s.name from eventloader.subscription s where s.name = $1 and s.epoch = $2 for share
         ), kept as (
             update eventloader.subscription_replay r
             set attempts = $4, next_attempt_at = clock_timestamp() + $5::interval, last_error = $6
             from fence f
             where r.name = f.name and r.position = $3
         )
         select count(*) from fence",
    )
    .bind(name)
    .bind(epoch)
    .bind(position)
    .bind(attempts)
    .bind(interval(retry_in))
    .bind(error)
    .fetch_one(pool)
    .await
    .map_err(failed_to("let a replayed event wait"))?;
    Ok(held == 1)
}

/// The event was consumed before, or by itself.
pub async fn end(pool: &PgPool, name: &str, position: i64) -> Result<(), StoreError> {
    sqlx::query("delete from eventloader.subscription_replay where name = $1 and position = $2")
        .bind(name)
        .bind(position)
        .execute(pool)
        .await
        .map_err(failed_to("end a replay"))?;
    Ok(())
}

/// Gives a locked dead letter back to its subscription and marks it replayed. `false`: there is no such subscription, or
/// its event is no longer in the log.
pub async fn request(
    connection: &mut PgConnection,
    dead_letter_id: i64,
    name: &str,
    position: i64,
    actor: &Actor,
) -> Result<bool, StoreError> {
    let result = sqlx::query(
        "with known as (
             select s.name, e.position
             from eventloader.subscription s
             join eventloader.events e on e.position = $3
             where s.name = $2
         ), replay as (
             insert into eventloader.subscription_replay (name, position)
             select k.name, k.position from known k
             on conflict (name, position) do update set next_attempt_at = clock_timestamp()
         ), marked as (
             update eventloader.dead_letter d set replayed_at = clock_timestamp()
             from known where d.id = $1
         )
         insert into eventloader.audit_log (actor, action, origin, detail)
         select $4, 'replay dead letter', k.name, jsonb_build_object('dead_letter_id', $1, 'position', k.position)
         from known k",
    )
    .bind(dead_letter_id)
    .bind(name)
    .bind(position)
    .bind(&actor.0)
    .execute(connection)
    .await
    .map_err(failed_to("replay a dead letter"))?;
    Ok(result.rows_affected() == 1)
}
