//! Pruning the request log by age.
//!
//! The age of a request counts from `created_at`, which also decides its partition in the archive. That somebody closed
//! an old request only yesterday is in the audit log, which is not pruned.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::UpkeepError;
use super::month::Month;
use super::partition::{self, check_archive};
use crate::failpoint::{self, Place};
use crate::store::request_log::prune::{self, Aged, Fate, Finished, Tally};
use crate::store::upkeep;
use crate::telemetry::chain;

/// Rows that one transaction removes: some tens of milliseconds.
pub const BATCH_SIZE: u32 = 10_000;

/// How long finished requests are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Days of 24 hours for those that succeeded; 0: none is kept.
    pub succeeded_days: u32,
    /// Days for those that failed and were closed: retried or skipped.
    pub failed_days: u32,
    /// Whether they go to the archive instead of being deleted.
    pub archive: bool,
}

/// One pruning: what goes, and what went so far.
#[derive(Clone, Debug, Serialize)]
pub struct Pruning {
    /// Whether requests go to the archive.
    pub archive: bool,
    /// Succeeded requests made before this time go.
    pub succeeded_before: DateTime<Utc>,
    /// Retried and skipped requests made before this time go.
    pub failed_before: DateTime<Utc>,
    /// Requests in all.
    pub pruned_count: i64,
    /// The same by status.
    pub statuses: Vec<StatusTally>,
    /// Partitions that were made for them.
    pub partitions_created: Vec<String>,
}

/// Pruned requests of one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StatusTally {
    /// `succeeded`, `retried` or `skipped`.
    pub status: Finished,
    /// How many.
    pub count: i64,
    /// When the oldest was made.
    pub oldest: Option<DateTime<Utc>>,
    /// When the newest was made.
    pub newest: Option<DateTime<Utc>>,
}

impl StatusTally {
    fn add(&mut self, tally: &Tally) {
        self.count += tally.count;
        self.oldest = self.oldest.into_iter().chain(tally.oldest).min();
        self.newest = self.newest.into_iter().chain(tally.newest).max();
    }
}

impl Pruning {
    /// Decides, by the database's clock, what goes. Removes nothing yet.
    ///
    /// # Errors
    ///
    /// The archive is asked for and not there, or the database does not answer.
    pub async fn begin(pool: &PgPool, retention: &Retention) -> Result<Self, UpkeepError> {
        if retention.archive {
            check_archive(pool).await?;
        }
        let days = [retention.succeeded_days, retention.failed_days];
        let [succeeded_before, failed_before] = prune::days_ago(pool, days).await?;
        let nothing = |status| StatusTally { status, count: 0, oldest: None, newest: None };
        Ok(Self {
            archive: retention.archive,
            succeeded_before,
            failed_before,
            pruned_count: 0,
            statuses: Finished::ALL.map(nothing).to_vec(),
            partitions_created: Vec::new(),
        })
    }

    /// Counts what would go.
    ///
    /// # Errors
    ///
    /// The database does not answer or refuses us.
    pub async fn count(&mut self, pool: &PgPool) -> Result<(), UpkeepError> {
        for place in 0..self.statuses.len() {
            let aged = self.aged(place, None);
            self.add(place, &prune::count(pool, &aged).await?);
        }
        Ok(())
    }

    /// Removes batch by batch until nothing is left that goes, or until `stop`. Any number may run at the same time.
    ///
    /// # Errors
    ///
    /// The database does not answer or refuses us, or a partition cannot be made. What was removed before that is in
    /// `self`, and stays removed.
    ///
    /// # Cancel safety
    ///
    /// A batch is one statement: cancelled or killed anywhere, each request is in one place.
    pub async fn run(
        &mut self,
        pool: &PgPool,
        stop: &CancellationToken,
    ) -> Result<(), UpkeepError> {
        if self.archive {
            self.make_partitions(pool, stop).await?;
        }
        let fate = if self.archive { Fate::Archived } else { Fate::Deleted };
        for place in 0..self.statuses.len() {
            // The next batch begins where the last one ended, not at the dead rows that it left.
            let mut from = None;
            while !stop.is_cancelled() {
                failpoint::hit(Place::PruneUnsent);
                let removed =
                    prune::remove(pool, &self.aged(place, from), BATCH_SIZE, fate).await?;
                failpoint::hit(Place::PruneDone);
                self.add(place, &removed);
                from = removed.newest;
                if removed.count < i64::from(BATCH_SIZE) {
                    break;
                }
            }
        }
        // Only for those who watch: what is pruned is pruned.
        if !stop.is_cancelled()
            && let Err(error) = upkeep::note_done(pool, upkeep::PRUNE).await
        {
            tracing::warn!(
                error = chain(&error),
                hint = error.hint(),
                "that the request log was pruned is not noted"
            );
        }
        Ok(())
    }

    /// Makes the partitions for all months that something is archived of.
    async fn make_partitions(
        &mut self,
        pool: &PgPool,
        stop: &CancellationToken,
    ) -> Result<(), UpkeepError> {
        let mut months = BTreeSet::new();
        for place in 0..self.statuses.len() {
            let mut from = None;
            while let Some(oldest) = prune::oldest(pool, &self.aged(place, from)).await? {
                let month = Month::of(oldest.date_naive())?;
                months.insert(month);
                from = Some(month.plus(1)?.start());
            }
        }
        for month in months {
            if stop.is_cancelled() {
                break;
            }
            let made = partition::create(pool, month).await?;
            if made.created {
                self.partitions_created.push(made.partition);
            }
        }
        Ok(())
    }

    fn aged(&self, place: usize, from: Option<DateTime<Utc>>) -> Aged {
        let status = self.statuses[place].status;
        let before = match status {
            Finished::Succeeded => self.succeeded_before,
            Finished::Retried | Finished::Skipped => self.failed_before,
        };
        Aged { status, from, before }
    }

    fn add(&mut self, place: usize, tally: &Tally) {
        self.statuses[place].add(tally);
        self.pruned_count += tally.count;
    }
}
