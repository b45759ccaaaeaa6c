//! `[request_log]`: how long finished requests are kept, and who prunes them.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::Problem;
use super::reader::TableReader;
use super::setting;

const PRUNE_EVERY: RangeInclusive<Duration> =
    Duration::from_mins(1)..=Duration::from_hours(30 * 24);
const DAYS: RangeInclusive<u32> = 0..=36_500;

/// `[request_log]`: upkeep of the request log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestLogConfig {
    /// `prune_every`: how often `eventloader run` prunes. Default: never; 1m to 30d.
    pub prune_every: Option<Duration>,
    /// `succeeded_days`: how many days succeeded requests are kept. Default 7, 0 to 36500.
    pub succeeded_days: u32,
    /// `failed_days`: how many days requests are kept that failed and were retried or skipped.
    /// Default 30, 0 to 36500.
    pub failed_days: u32,
    /// `archive`: whether they are moved to the archive instead of being deleted. Default false.
    pub archive: bool,
    /// `months_ahead`: months of the archive, this one included, that `eventloader run` keeps
    /// partitions for. Only with `archive`. Default 3, 1 to 120.
    pub months_ahead: u32,
}

impl Default for RequestLogConfig {
    fn default() -> Self {
        Self {
            prune_every: None,
            succeeded_days: 7,
            failed_days: 30,
            archive: false,
            months_ahead: 3,
        }
    }
}

impl RequestLogConfig {
    pub(super) fn read(mut table: TableReader<'_>) -> Self {
        let default = Self::default();
        let prune_every =
            table.read("prune_every", |s| s.duration(PRUNE_EVERY)).map(|read| read.value);
        let succeeded_days =
            table.read_or("succeeded_days", default.succeeded_days, |s| s.integer(DAYS));
        let failed_days = table.read_or("failed_days", default.failed_days, |s| s.integer(DAYS));
        let archive = table.read_or("archive", default.archive, setting::boolean);
        let months_ahead = table.read("months_ahead", |s| s.integer(1..=120));
        if let (Some(read), false) = (&months_ahead, archive) {
            // Whoever writes it believes that requests are archived, and would find them deleted.
            let problem = Problem::new("there are no partitions without an archive")
                .help("add archive = true to keep pruned requests, or leave months_ahead out");
            table.report_at(&read.origin, "months_ahead", problem);
        }
        table.finish();
        let months_ahead = months_ahead.map_or(default.months_ahead, |read| read.value);
        Self { prune_every, succeeded_days, failed_days, archive, months_ahead }
    }
}
