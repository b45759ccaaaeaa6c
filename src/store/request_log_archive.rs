//! `event_request_log_archive`: pruned requests that are to be kept, a partition for each month (UTC) of `created_at`.

use chrono::NaiveDate;
use sqlx::{FromRow, PgExecutor};

use super::{StoreError, failed_to};

/// The partition that holds a month.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Partition {
    /// Its name, in schema `eventloader` if it is one of ours.
    pub partition_name: String,
    /// Whether it was made by this call.
    pub created: bool,
}

/// Whether the table is there: it may be dropped by those who do not archive.
pub async fn exists(executor: impl PgExecutor<'_>) -> Result<bool, StoreError> {
    sqlx::query_scalar("select to_regclass('eventloader.event_request_log_archive') is not null")
        .fetch_one(executor)
        .await
        .map_err(failed_to("look for the archive"))
}

/// Today by the database's clock, in UTC.
pub async fn today(executor: impl PgExecutor<'_>) -> Result<NaiveDate, StoreError> {
    sqlx::query_scalar("select (clock_timestamp() at time zone 'UTC')::date")
        .fetch_one(executor)
        .await
        .map_err(failed_to("read the date"))
}

/// Makes the partition for the month of this day, where none covers it.
pub async fn create_partition(
    executor: impl PgExecutor<'_>,
    day: NaiveDate,
) -> Result<Partition, StoreError> {
    sqlx::query_as("select partition_name, created from eventloader.create_archive_partition($1)")
        .bind(day)
        .fetch_one(executor)
        .await
        .map_err(failed_to("create the partition"))
}
