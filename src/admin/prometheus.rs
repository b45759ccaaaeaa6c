//! `/metrics`: what is counted and what the database says, as Prometheus and `OpenMetrics` read it.
//!
//! Labels have few values: outcomes, states and kinds are words of this program, and sources have series of their own up to
//! [`SOURCES_MAX`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use axum::extract::State as Given;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::snapshot::Snapshot;
use super::{Running, State, health};
use crate::metrics::{EventCount, Outcome};
use crate::store::dead_letter::KINDS;
use crate::store::source::SourceStatus;

/// Sources beyond this number, by name, are counted together: as many series as one server of Prometheus takes from one
/// program without a thought.
const SOURCES_MAX: usize = 1000;
/// The label of those.
const OTHER: &str = "_other";

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of this moment.
pub(super) async fn metrics(Given(state): Given<Arc<State>>) -> Response {
    let mut registry = Registry::with_prefix("eventloader");
    let mut families = Families::default();
    families
        .add("build_info", "The version of the program", Kind::Gauge)
        .of([("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let up = "Whether the database answers";
    families.add("database_up", up, Kind::Gauge).of([], 0.0);
    if let Some((running, snapshots)) = state.running() {
        let metrics = &running.metrics;
        for (name, help, histogram) in [
            (
                "request_duration_seconds",
                "How long sources took to answer",
                &metrics.request_duration,
            ),
            (
                "deposit_duration_seconds",
                "How long deposits in the inbox took",
                &metrics.deposit_duration,
            ),
            (
                "move_duration_seconds",
                "How long batches took from the inbox to the event log",
                &metrics.move_duration,
            ),
        ] {
            registry.register(name, help, histogram.clone());
        }
        count_sources(&mut families, running);
        count_process(&mut families, running);
        let answer = snapshots.read().await;
        if let Ok(snapshot) = answer {
            families.add("database_up", up, Kind::Gauge).of([], 1.0);
            let told = health::sources_not_ready(running, snapshots, &snapshot);
            let stalled = told.iter().filter(|source| source.is_stalled);
            let stalled = stalled.map(|source| source.source_name.as_str()).collect();
            database(&mut families, &snapshot);
            sources(&mut families, &snapshot.report.sources, &stalled);
        }
    }
    registry.register_collector(Box::new(families));
    let mut text = String::new();
    encode(&mut text, &registry).expect("writing to a string does not fail");
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
}

/// One metric with all its series.
#[derive(Debug)]
struct Family {
    help: &'static str,
    kind: Kind,
    series: BTreeMap<Vec<(&'static str, String)>, f64>,
}

impl Family {
    /// Adds to a series; those of sources beyond the limit meet in one.
    fn of<const N: usize>(&mut self, labels: [(&'static str, &str); N], value: f64) {
        let labels = labels.map(|(name, value)| (name, value.to_owned())).to_vec();
        *self.series.entry(labels).or_default() += value;
    }
}

/// Metrics by name, without the prefix and without the `_total` of counters.
#[derive(Debug, Default)]
struct Families(BTreeMap<&'static str, Family>);

impl Families {
    fn add(&mut self, name: &'static str, help: &'static str, kind: Kind) -> &mut Family {
        self.0.entry(name).or_insert_with(|| Family { help, kind, series: BTreeMap::new() })
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, family) in &self.0 {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(name, family.help, None, kind)?;
            for (labels, value) in &family.series {
                let mut series = metric.encode_family(labels)?;
                match family.kind {
                    Kind::Counter => series.encode_counter::<NoLabelSet, _, f64>(value, None)?,
                    Kind::Gauge => series.encode_gauge(value)?,
                }
            }
        }
        Ok(())
    }
}

/// Exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
fn float(count: impl TryInto<i64>) -> f64 {
    count.try_into().unwrap_or(i64::MAX) as f64
}

fn timestamp(at: Option<DateTime<Utc>>) -> f64 {
    at.map_or(0.0, |at| float(at.timestamp_millis()) / 1000.0)
}

/// What this process counted of each source.
fn count_sources(families: &mut Families, running: &Running) {
    use Kind::Counter;

    for (place, (name, counted)) in running.metrics.sources().into_iter().enumerate() {
        let source = ("source", if place < SOURCES_MAX { name.as_str() } else { OTHER });
        let requests =
            families.add("requests", "Requests to sources, by what came of them", Counter);
        for outcome in Outcome::ALL {
            let number = counted.outcome(outcome);
            if number > 0 {
                requests.of([source, ("outcome", outcome.name())], float(number));
            }
        }
        for (name, help, value) in [
            (
                "source_request_seconds",
                "Time spent waiting for answers of the source",
                counted.requests.seconds(),
            ),
            ("source_deposits", "Deposits in the inbox", float(counted.deposits.count())),
            (
                "source_deposit_seconds",
                "Time spent depositing in the inbox",
                counted.deposits.seconds(),
            ),
            (
                "source_moves",
                "Batches moved from the inbox to the event log",
                float(counted.moves.count()),
            ),
            ("source_move_seconds", "Time spent moving to the event log", counted.moves.seconds()),
        ] {
            families.add(name, help, Counter).of([source], value);
        }
        for what in EventCount::ALL {
            let (name, help) = match what {
                EventCount::Fetched => ("events_fetched", "Events that went to the inbox"),
                EventCount::Moved => {
                    ("events_moved", "Events that went from the inbox to the event log")
                }
                EventCount::Refused => {
                    ("events_refused", "Events that went to the dead letters on arrival")
                }
                EventCount::Duplicate => {
                    ("events_duplicate", "Messages that were delivered before, and stored then")
                }
            };
            families.add(name, help, Counter).of([source], float(counted.events(what)));
        }
    }
}

/// What this process is doing.
fn count_process(families: &mut Families, running: &Running) {
    use Kind::{Counter, Gauge};

    let hot = running.connections.usage();
    let failures = hot.failure_count + running.metrics.move_failures();
    families
        .add(
            "database_errors",
            "Statements of the loader, the consumers and the retry worker that failed",
            Counter,
        )
        .of([], float(failures));
    let max =
        families.add("connections_max", "Connections to the database that may be open", Gauge);
    max.of([("pool", "hot")], float(hot.max));
    max.of([("pool", "shared")], f64::from(running.pool.options().get_max_connections()));
    let open = families.add("connections", "Connections to the database that are open", Gauge);
    open.of([("pool", "hot"), ("state", "used")], float(hot.used));
    open.of([("pool", "hot"), ("state", "idle")], float(hot.idle));
    let idle = running.pool.num_idle();
    let used = (running.pool.size() as usize).saturating_sub(idle);
    open.of([("pool", "shared"), ("state", "used")], float(used));
    open.of([("pool", "shared"), ("state", "idle")], float(idle));
    let age = families.add("part_heartbeat_age_seconds", "How long ago a loop last turned", Gauge);
    for pulse in &running.pulses {
        age.of([("part", pulse.part)], pulse.age().as_secs_f64());
    }
}

/// What the database says of the whole.
fn database(families: &mut Families, snapshot: &Snapshot) {
    use Kind::Gauge;

    let totals = &snapshot.report.totals;
    for (name, help, value) in [
        (
            "database_latency_seconds",
            "From a question to the database to its answer",
            snapshot.distance.round_trip.as_secs_f64(),
        ),
        (
            "clock_skew_seconds",
            "The clock of the database minus that of this machine",
            snapshot.distance.clock_ahead_seconds,
        ),
        ("inbox_events", "Events in the inbox, counted up to 100,000", float(totals.inbox_count)),
        (
            "inbox_oldest_age_seconds",
            "Age of the oldest event in the inbox",
            totals.inbox_oldest_seconds.unwrap_or_default(),
        ),
        (
            "last_position",
            "The last position given out in the event log",
            float(totals.last_position),
        ),
        (
            "last_prune_timestamp_seconds",
            "When the request log was last pruned; 0: never",
            timestamp(snapshot.last_prune),
        ),
    ] {
        families.add(name, help, Gauge).of([], value);
    }
    let letters = families.add("dead_letters", "Dead letters that were not replayed", Gauge);
    for kind in KINDS {
        letters.of([("kind", kind)], 0.0);
    }
    for (kind, number) in &snapshot.dead_letters_by_kind {
        letters.of([("kind", kind)], float(*number));
    }
}

/// What the database says of each source.
fn sources(
    families: &mut Families,
    sources: &[SourceStatus],
    stalled: &std::collections::HashSet<&str>,
) {
    use Kind::Gauge;

    for (place, status) in sources.iter().enumerate() {
        let source =
            ("source", if place < SOURCES_MAX { status.source_name.as_str() } else { OTHER });
        families
            .add("source_state", "1 for the state that the source is in", Gauge)
            .of([source, ("state", &status.state)], 1.0);
        let is_held = status.state == "held"
            || status.state == "backing_off" && status.held_request_id.is_some();
        for (name, help, value) in [
            (
                "source_stalled",
                "1 where the source has not got on for a minute",
                float(u8::from(stalled.contains(status.source_name.as_str()))),
            ),
            (
                "source_held_windows",
                "Windows whose request has an unknown outcome",
                float(u8::from(is_held)),
            ),
            (
                "source_gaps",
                "Ranges of ids that the source dropped before they were read",
                float(status.gap_count),
            ),
            (
                "source_dead_letters",
                "Dead letters of the source that were not replayed",
                float(status.dead_letter_count),
            ),
            (
                "source_failing_events",
                "Events in the inbox that failed to move at least once",
                float(status.failing_inbox_count),
            ),
            (
                "source_lag_events",
                "Ids that were asked for and are not in the event log",
                float(status.last_requested_id.saturating_sub(status.last_stored_id)),
            ),
            (
                "source_last_requested_id",
                "Greatest id that was asked for and arrived",
                float(status.last_requested_id),
            ),
            (
                "source_last_stored_id",
                "Every id up to here is stored",
                float(status.last_stored_id),
            ),
            (
                "source_last_request_timestamp_seconds",
                "When the source was last asked; 0: never",
                timestamp(status.last_request_at),
            ),
        ] {
            families.add(name, help, Gauge).of([source], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(families: Families) -> String {
        let mut registry = Registry::with_prefix("eventloader");
        registry.register_collector(Box::new(families));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn labels_are_escaped_and_series_of_one_name_add_up() {
        let mut families = Families::default();
        let requests = families.add("requests", "Requests", Kind::Counter);
        requests.of([("source", "a\"b\\c\nd")], 1.0);
        requests.of([("source", OTHER)], 2.0);
        requests.of([("source", OTHER)], 3.0);
        let text = text(families);
        assert!(text.contains(r#"eventloader_requests_total{source="a\"b\\c\nd"} 1.0"#), "{text}");
        assert!(text.contains(r#"eventloader_requests_total{source="_other"} 5.0"#), "{text}");
        assert!(text.contains("# TYPE eventloader_requests counter"), "{text}");
    }
}
