//! `subscription`: the checkpoint of a consumer of `events`, and the right of one process to read for it.
//!
//! Who holds an epoch that is over writes nothing: every statement here and in the tables beside it is fenced by it.

use std::time::Duration;

use sqlx::{FromRow, PgExecutor};

use super::{StoreError, failed_to, interval};

/// The right to read for a subscription.
#[derive(Clone, Copy, Debug, FromRow, PartialEq, Eq)]
pub struct Held {
    /// Grows with every change of hands.
    pub epoch: i64,
    /// The checkpoint.
    pub position: i64,
}

/// Takes the subscription for `ttl` if it is free, expired or the owner's own; makes it if there is none. `None`: another
/// process holds it.
pub async fn try_acquire(
    executor: impl PgExecutor<'_>,
    name: &str,
    owner: &str,
    ttl: Duration,
) -> Result<Option<Held>, StoreError> {
    sqlx::query_as(
        "insert into eventloader.subscription as s (name, owner, epoch, expires_at)
         values ($1, $2, 1, clock_timestamp() + $3::interval)
         on conflict (name) do update
         set owner = $2, epoch = s.epoch + 1, expires_at = clock_timestamp() + $3::interval,
             updated_at = clock_timestamp()
         where s.owner is null or s.owner = $2 or s.expires_at <= clock_timestamp()
         returning epoch, position",
    )
    .bind(name)
    .bind(owner)
    .bind(interval(ttl))
    .fetch_optional(executor)
    .await
    .map_err(failed_to("take a subscription"))
}

/// Keeps it for `ttl` from now. `false`: it was lost, for good.
pub async fn renew(
    executor: impl PgExecutor<'_>,
    name: &str,
    epoch: i64,
    ttl: Duration,
) -> Result<bool, StoreError> {
    let result = sqlx::query(
        "update eventloader.subscription set expires_at = clock_timestamp() + $3::interval
         where name = $1 and epoch = $2",
    )
    .bind(name)
    .bind(epoch)
    .bind(interval(ttl))
    .execute(executor)
    .await
    .map_err(failed_to("keep a subscription"))?;
    Ok(result.rows_affected() == 1)
}

/// Moves the checkpoint, never back. `false`: the subscription was lost.
pub async fn advance(
    executor: impl PgExecutor<'_>,
    name: &str,
    epoch: i64,
    position: i64,
) -> Result<bool, StoreError> {
    let result = sqlx::query(
        "update eventloader.subscription
         set position = greatest(position, $3), updated_at = clock_timestamp()
         where name = $1 and epoch = $2",
    )
    .bind(name)
    .bind(epoch)
    .bind(position)
    .execute(executor)
    .await
    .map_err(failed_to("move the checkpoint of a subscription"))?;
    Ok(result.rows_affected() == 1)
}

/// Gives it back, so that another process need not wait until it expires.
pub async fn release(
    executor: impl PgExecutor<'_>,
    name: &str,
    epoch: i64,
) -> Result<(), StoreError> {
    sqlx::query(
        "update eventloader.subscription set owner = null, expires_at = null
         where name = $1 and epoch = $2",
    )
    .bind(name)
    .bind(epoch)
    .execute(executor)
    .await
    .map_err(failed_to("give a subscription back"))?;
    Ok(())
}
