//! The monthly partitions of the archive.

use serde::Serialize;
use sqlx::PgPool;

use super::UpkeepError;
use super::month::{Month, MonthError};
use crate::failpoint::{self, Place};
use crate::store::request_log_archive;

/// The partition of one month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// The month, as in `2026-05`.
    pub month: String,
    /// The table, in schema `eventloader` if it is one of ours.
    pub partition: String,
    /// Whether it was made now; else it was there already.
    pub created: bool,
}

/// The months from `start` on, this one included; `start` `None`: this month by the database's clock, in UTC.
///
/// # Errors
///
/// The archive is not there, the last month is too late, or the database does not answer.
pub async fn months(
    pool: &PgPool,
    start: Option<Month>,
    count: u32,
) -> Result<Vec<Month>, UpkeepError> {
    check_archive(pool).await?;
    let start = match start {
        Some(start) => start,
        None => Month::of(request_log_archive::today(pool).await?)?,
    };
    let months: Result<_, MonthError> = (0..count).map(|later| start.plus(later)).collect();
    Ok(months?)
}

/// Makes the partition of a month, where none covers it. Any number may do so at the same time.
///
/// # Errors
///
/// [`UpkeepError::Partition`].
pub async fn create(pool: &PgPool, month: Month) -> Result<Partition, UpkeepError> {
    failpoint::hit(Place::PartitionUnsent);
    let partition = request_log_archive::create_partition(pool, month.first_day())
        .await
        .map_err(|cause| UpkeepError::Partition { month, cause })?;
    failpoint::hit(Place::PartitionDone);
    Ok(Partition {
        month: month.to_string(),
        partition: partition.partition_name,
        created: partition.created,
    })
}

pub(super) async fn check_archive(pool: &PgPool) -> Result<(), UpkeepError> {
    let exists = request_log_archive::exists(pool).await?;
    exists.then_some(()).ok_or(UpkeepError::NoArchive)
}
