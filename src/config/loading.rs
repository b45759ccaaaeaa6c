//! How sources are loaded: `[loader]`, and the same keys in each source.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::duration;
use super::error::Problem;
use super::hosts;
use super::reader::TableReader;
use crate::loader::policy::OnFailure;
use crate::sources::http::AllowHosts;

const BATCH_SIZES: RangeInclusive<u32> = 1..=1000;
const DAY: Duration = Duration::from_hours(24);
const MIN_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(200)..=DAY;
const LEASE_TTLS: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_hours(1);
const MAX_IDLES: RangeInclusive<Duration> = Duration::from_millis(200)..=DAY;

/// `[loader]`: the loader of this instance, and the defaults of every source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderConfig {
    /// `concurrency`: requests in flight per instance. Default 64, 1 to 10000.
    pub concurrency: usize,
    /// `batch_size`: see [`Loading::batch_size`]; the default of every source.
    pub batch_size: u32,
    /// `min_interval`: see [`Loading::min_interval`]; the default of every source.
    pub min_interval: Duration,
    /// `lease_ttl`: see [`Loading::lease_ttl`]; the default of every source.
    pub lease_ttl: Duration,
    /// `max_idle`: see [`Loading::max_idle`]; the default of every source.
    pub max_idle: Duration,
    /// `allow_hosts`: see [`HttpOptions::allow_hosts`](crate::sources::http::HttpOptions::allow_hosts); the default of
    /// every http source. Default none.
    pub allow_hosts: Option<AllowHosts>,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            concurrency: 64,
            batch_size: 1000,
            min_interval: Duration::from_millis(200),
            lease_ttl: Duration::from_secs(2),
            max_idle: Duration::from_secs(5),
            allow_hosts: None,
        }
    }
}

impl LoaderConfig {
    pub(super) fn read(mut table: TableReader<'_>) -> Self {
        let default = Self::default();
        let concurrency =
            table.read_or("concurrency", default.concurrency, |s| s.integer(1..=10_000));
        let pace = Pace::read(&mut table, &default.pace());
        let allow_hosts = table.read("allow_hosts", hosts::allow_hosts).map(|read| read.value);
        table.finish();
        Self {
            concurrency,
            batch_size: pace.batch_size,
            min_interval: pace.min_interval,
            lease_ttl: pace.lease_ttl,
            max_idle: pace.max_idle,
            allow_hosts,
        }
    }

    fn pace(&self) -> Pace {
        Pace {
            batch_size: self.batch_size,
            min_interval: self.min_interval,
            lease_ttl: self.lease_ttl,
            max_idle: self.max_idle,
        }
    }
}

/// How one source is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loading {
    /// `batch_size`: the most events one request asks for. Default 1000, 1 to 1000.
    pub batch_size: u32,
    /// `min_interval`: the least time between the starts of two requests, over all instances.
    /// Default 200ms, 200ms to 24h.
    pub min_interval: Duration,
    /// `lease_ttl`: how long a lease lasts without a heartbeat; a dead instance's source is taken
    /// over after it. Default 2s, 500ms to 1h.
    pub lease_ttl: Duration,
    /// `max_idle`: the longest pause between two requests to a source that has nothing new.
    /// Default 5s or `min_interval` where that is longer; `min_interval` to 24h.
    pub max_idle: Duration,
    /// `on_failure`: what follows a request whose outcome is unknown. Default hold.
    pub on_failure: OnFailure,
    /// `start_after`: the id after which a source without a cursor begins. Default 0.
    pub start_after: i64,
}

impl Loading {
    pub(super) fn read(table: &mut TableReader<'_>, defaults: &LoaderConfig) -> Self {
        let Pace { batch_size, min_interval, lease_ttl, max_idle } =
            Pace::read(table, &defaults.pace());
        let choices = [("hold", OnFailure::Hold), ("retry", OnFailure::Retry)];
        Self {
            batch_size,
            min_interval,
            lease_ttl,
            max_idle,
            on_failure: table.read_or("on_failure", OnFailure::Hold, |s| s.one_of(&choices)),
            start_after: table.read_or("start_after", 0, |s| s.integer(i64::MIN..=i64::MAX)),
        }
    }
}

impl Loading {
    /// What stands here for a source that is not asked.
    pub(super) fn of_queue(defaults: &LoaderConfig) -> Self {
        let Pace { batch_size, min_interval, lease_ttl, max_idle } = defaults.pace();
        let (on_failure, start_after) = (OnFailure::Hold, 0);
        Self { batch_size, min_interval, lease_ttl, max_idle, on_failure, start_after }
    }
}

/// The values that `[loader]` and a source have in common.
struct Pace {
    batch_size: u32,
    min_interval: Duration,
    lease_ttl: Duration,
    max_idle: Duration,
}

impl Pace {
    fn read(table: &mut TableReader<'_>, defaults: &Self) -> Self {
        let batch_size =
            table.read_or("batch_size", defaults.batch_size, |s| s.integer(BATCH_SIZES));
        let min_interval =
            table.read_or("min_interval", defaults.min_interval, |s| s.duration(MIN_INTERVALS));
        let lease_ttl = table.read_or("lease_ttl", defaults.lease_ttl, |s| s.duration(LEASE_TTLS));
        let max_idle = read_max_idle(table, defaults.max_idle, min_interval);
        Self { batch_size, min_interval, lease_ttl, max_idle }
    }
}

/// Reads `max_idle`. An inherited one gives way to a longer `min_interval`; one that stands in the
/// same table has to agree with it.
fn read_max_idle(table: &mut TableReader<'_>, default: Duration, min: Duration) -> Duration {
    let Some(read) = table.read("max_idle", |s| s.duration(MAX_IDLES)) else {
        if default < min {
            table.settle("max_idle", "default, raised to min_interval", || {
                format!("{:?}", duration::format(min))
            });
        }
        return default.max(min);
    };
    if read.value < min {
        let (value, least) = (duration::format(read.value), duration::format(min));
        let problem = Problem::new(format!("found \"{value}\", shorter than min_interval"))
            .expected(format!("at least min_interval, which is \"{least}\" here"))
            .help("raise max_idle, lower min_interval, or leave max_idle out");
        table.report_at(&read.origin, "max_idle", problem);
    }
    read.value
}
