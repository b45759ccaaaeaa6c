//! Upkeep of the request log: finished requests are pruned by age, and the archive gets its partitions in time.
//!
//! A command ([`prune::Pruning`], [`partition::create`]) and the schedule in `eventloader run` ([`Schedule`]) do the
//! same. Nothing here is needed for loading to be right: a log that is never pruned only grows.

pub mod month;
pub mod partition;
pub mod prune;

use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::loader::Stop;
use crate::store::StoreError;
use crate::telemetry::chain;
use month::{Month, MonthError};
use prune::{Pruning, Retention};

/// Why upkeep failed.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// The archive was dropped.
    #[error(
        "there is no table eventloader.event_request_log_archive, so nothing was archived and nothing was pruned"
    )]
    NoArchive,
    /// A partition cannot be made.
    #[error("there is no partition {} of the archive for {month}", month.partition_name())]
    Partition {
        /// The month.
        month: Month,
        /// Why.
        #[source]
        cause: StoreError,
    },
    /// A request was made, or partitions are asked for, at a time that the archive does not have.
    #[error(transparent)]
    Month(#[from] MonthError),
    /// A statement failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl UpkeepError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoArchive => {
                Some("docs/upkeep.md has the statement that makes it again; without --archive requests are deleted".into())
            }
            Self::Partition { month, cause } => {
                let command = format!("`eventloader create-partitions --start {month} --months-ahead 1`");
                match cause.code().as_deref() {
                    Some("42501") => {
                        Some(format!("run {command} with a member of eventloader_runtime or eventloader_owner"))
                    }
                    Some("42P17") => Some(format!(
                        "another partition holds a part of {month}: detach it, or make partitions beside it by hand"
                    )),
                    Some("42P07") => Some(format!(
                        "a table of that name is no partition for {month}: rename it, then run {command}"
                    )),
                    Some("23514") => Some(format!(
                        "the default partition holds requests of {month}: move them out of it, then run {command}"
                    )),
                    _ => cause.hint().map(str::to_owned),
                }
            }
            Self::Month(_) => None,
            Self::Store(cause) => match cause.code().as_deref() {
                Some("23514") => Some("run it again: it makes the partitions that are missing first".into()),
                _ => cause.hint().map(str::to_owned),
            },
        }
    }
}

/// A failed run is repeated after this time, or after the usual one where that is shorter.
const RETRY_AFTER: Duration = Duration::from_hours(1);

/// The longest that the first run waits, so that instances started together do not all begin at once.
const FIRST_DELAY_MAX: Duration = Duration::from_mins(5);

/// Upkeep at intervals, in `eventloader run`.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The database.
    pub pool: PgPool,
    /// How long after the end of a run the next one begins.
    pub every: Duration,
    /// What is kept.
    pub retention: Retention,
    /// Months of the archive, this one included, that have their partitions in advance. Without an archive: unused.
    pub months_ahead: u32,
}

impl Schedule {
    /// Runs at intervals until `stop`. A run that fails is logged, and tried again.
    ///
    /// # Cancel safety
    ///
    /// Ends between batches; see [`Pruning::run`].
    pub async fn run(self, stop: Stop) {
        let mut delay = FIRST_DELAY_MAX.min(self.every / 10).mul_f64(rand::random());
        while stop.intake.run_until_cancelled(tokio::time::sleep(delay)).await.is_some() {
            let outcome = stop.work.run_until_cancelled(self.run_once(&stop.intake)).await;
            delay = match outcome {
                None => return,
                Some(Ok(())) => self.every,
                Some(Err(error)) => {
                    let delay = self.every.min(RETRY_AFTER);
                    tracing::warn!(
                        error = chain(&error),
                        hint = error.hint(),
                        again_in_s = delay.as_secs(),
                        "upkeep of the request log failed"
                    );
                    delay
                }
            };
        }
    }

    /// One run: partitions ahead where there is an archive, then pruning.
    ///
    /// # Errors
    ///
    /// See [`UpkeepError`].
    pub async fn run_once(&self, stop: &CancellationToken) -> Result<(), UpkeepError> {
        let mut pruning = Pruning::begin(&self.pool, &self.retention).await?;
        if self.retention.archive {
            for month in partition::months(&self.pool, None, self.months_ahead).await? {
                let made = partition::create(&self.pool, month).await?;
                if made.created {
                    pruning.partitions_created.push(made.partition);
                }
            }
        }
        let outcome = pruning.run(&self.pool, stop).await;
        if pruning.pruned_count > 0 || !pruning.partitions_created.is_empty() {
            tracing::info!(
                request_count = pruning.pruned_count,
                archived = pruning.archive,
                partitions_created = ?pruning.partitions_created,
                "request log pruned"
            );
        }
        outcome
    }
}
