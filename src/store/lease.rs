//! `source_lease`: the right of one instance to work on a source.
//!
//! Taken by [`request_log::claim`](super::request_log::claim), extended here while a request runs, given back by the
//! deposit or the close that ends the cycle.

use std::time::Duration;

use sqlx::PgExecutor;

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
