//! How sources are loaded: `[loader]`, and the same keys in each source.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::duration;
use super::error::Problem;
use super::hosts;
use super::reader::TableReader;
use crate::loader::policy::OnFailure;
use crate::sources::http::AllowHosts;

const DAY: Duration = Duration::from_hours(24);
const LEASE_TTLS: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_hours(1);
const MAX_IDLES: RangeInclusive<Duration> = Duration::from_millis(200)..=DAY;

/// Within what a source may be loaded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    batch_size_max: u32,
    min_interval_min: Duration,
    /// Where a source without a cursor begins if nothing is said.
    start_after: i64,
}

impl Limits {
    /// Whoever is asked over and over is spared.
    pub(super) const USUAL: Self =
        Self { batch_size_max: 1000, min_interval_min: Duration::from_millis(200), start_after: 0 };
    /// A connection stays open, over which the broker sends by itself; ids begin at 0.
    pub(super) const STREAM: Self =
        Self { batch_size_max: 10_000, min_interval_min: Duration::ZERO, start_after: -1 };
}

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
        let pace = Pace::read(&mut table, &default.pace(), Limits::USUAL);
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
    /// `batch_size`: the most events one request asks for. Default 1000, 1 to 1000; 10000 for a `rabbitmq_stream`.
    pub batch_size: u32,
    /// `min_interval`: the least time between the starts of two requests, over all instances.
    /// Default 200ms, 200ms to 24h; from 0 for a `rabbitmq_stream`.
    pub min_interval: Duration,
    /// `lease_ttl`: how long a lease lasts without a heartbeat; a dead instance's source is taken
    /// over after it. Default 2s, 500ms to 1h.
    pub lease_ttl: Duration,
    /// `max_idle`: the longest pause between two requests to a source that has nothing new.
    /// Default 5s or `min_interval` where that is longer; `min_interval` to 24h.
    pub max_idle: Duration,
    /// `on_failure`: what follows a request whose outcome is unknown. Default hold.
    pub on_failure: OnFailure,
    /// `start_after`: the id after which a source without a cursor begins. Default 0; -1 for a `rabbitmq_stream`.
    pub start_after: i64,
}

impl Loading {
    pub(super) fn read(
        table: &mut TableReader<'_>,
        defaults: &LoaderConfig,
        limits: Limits,
    ) -> Self {
        let Pace { batch_size, min_interval, lease_ttl, max_idle } =
            Pace::read(table, &defaults.pace(), limits);
        let choices = [("hold", OnFailure::Hold), ("retry", OnFailure::Retry)];
        Self {
            batch_size,
            min_interval,
            lease_ttl,
            max_idle,
            on_failure: table.read_or("on_failure", OnFailure::Hold, |s| s.one_of(&choices)),
            start_after: table
                .read_or("start_after", limits.start_after, |s| s.integer(i64::MIN..=i64::MAX)),
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
    fn read(table: &mut TableReader<'_>, defaults: &Self, limits: Limits) -> Self {
        let batch_sizes = 1..=limits.batch_size_max;
        let batch_size =
            table.read_or("batch_size", defaults.batch_size, |s| s.integer(batch_sizes));
        let min_intervals = limits.min_interval_min..=DAY;
        let min_interval =
            table.read_or("min_interval", defaults.min_interval, |s| s.duration(min_intervals));
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
