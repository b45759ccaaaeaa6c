//! `source_lease`: the right of one instance to work on a source.
//!
//! Taken by [`request_log::claim`](super::request_log::claim), extended here while a request runs, given back by the
//! deposit or the close that ends the cycle.

use std::time::Duration;

use sqlx::PgExecutor;

use super::request_log::CycleEnd;
use super::{StoreError, failed_to, interval};

/// Extends a lease held under `epoch` by `ttl` from now. `false`: it was lost to another instance, for good.
pub async fn renew(
    executor: impl PgExecutor<'_>,
    source_name: &str,
    owner: &str,
    epoch: i64,
    ttl: Duration,
) -> Result<bool, StoreError> {
    sqlx::query_scalar("select eventloader.renew_lease($1, $2, $3, $4)")
        .bind(source_name)
        .bind(owner)
        .bind(epoch)
        .bind(interval(ttl))
        .fetch_one(executor)
        .await
        .map_err(failed_to("renew the lease"))
}

/// Gives back a lease that no deposit or close ends, because its window was only probed. `pause`: how long nobody is to
/// ask the source.
pub async fn release(
    executor: impl PgExecutor<'_>,
    end: CycleEnd<'_>,
    epoch: i64,
    pause: Option<Duration>,
) -> Result<(), StoreError> {
    sqlx::query(
        "select eventloader.end_cycle($1, $2, $3, clock_timestamp() - $4::interval, $5, null, null)",
    )
    .bind(end.source_name)
    .bind(end.owner)
    .bind(epoch)
    .bind(end.request_known_for.map(interval))
    .bind(pause.map(interval))
    .execute(executor)
    .await
    .map_err(failed_to("give the lease back"))?;
    Ok(())
}
