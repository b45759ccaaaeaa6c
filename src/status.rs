//! How everything stands: what `eventloader status`, the status page and `/readyz` tell.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;

use crate::config::{SourceConfig, is_queue_type};
use crate::store::StoreError;
use crate::store::source::{self, SourceStatus, Totals};

/// The state of the loader, over all instances.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Over all sources.
    #[serde(flatten)]
    pub totals: Totals,
    /// Every source that was ever loaded, by name.
    pub sources: Vec<SourceStatus>,
}

impl Report {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// The database does not answer or refuses us.
    pub async fn read(pool: &PgPool) -> Result<Self, StoreError> {
        Ok(Self { totals: source::totals(pool).await?, sources: source::status(pool, None).await? })
    }
}

/// A source that does not get on for this long has stalled: longer than a slow answer and a short outage, shorter than
/// anybody wants to wait for the news.
pub const STALLED_AFTER: Duration = Duration::from_mins(1);

/// How long events may wait in the inbox before their source counts as not ready.
const INBOX_PATIENCE: Duration = Duration::from_secs(10);

/// What a busy instance may be late by.
const LATENESS: Duration = Duration::from_secs(5);

/// A source that does not get on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotReady {
    /// The source.
    pub source_name: String,
    /// `paused`, `held`, `rejected`, `backing_off`; `not_asked`: nobody asks it although it is time; `not_moved`: its
    /// events stay in the inbox.
    pub state: String,
    /// Since when, by the database's clock.
    pub since: DateTime<Utc>,
    /// Whether that has lasted for [`STALLED_AFTER`]. A paused source never stalls.
    pub is_stalled: bool,
}

/// When a source is to be asked at the latest after it was last asked; `None`: a broker sends by itself.
pub fn asked_within(source: &SourceConfig) -> Option<Duration> {
    let loading = &source.loading;
    let asked = !is_queue_type(source.kind.type_name());
    asked.then(|| loading.max_idle.max(loading.min_interval) + 2 * loading.lease_ttl + LATENESS)
}

/// Judges a source, which an instance is to ask `asked_within`; since `watched_since` somebody could have asked it.
pub fn not_ready(
    source: &SourceStatus,
    asked_within: Option<Duration>,
    watched_since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Option<NotReady> {
    let of = |state: &str, since: DateTime<Utc>| NotReady {
        source_name: source.source_name.clone(),
        state: state.to_owned(),
        since,
        is_stalled: state != "paused"
            && (now - since).to_std().is_ok_and(|lasted| lasted >= STALLED_AFTER),
    };
    if source.state != "ok" {
        return Some(of(&source.state, source.since.unwrap_or(now)));
    }
    if let Some(arrived) = source.inbox_waiting_since
        && (now - arrived).to_std().is_ok_and(|waited| waited >= INBOX_PATIENCE)
    {
        return Some(of("not_moved", arrived));
    }
    // A request in flight is bounded by the source's own timeout.
    let due = match (asked_within, source.held_request_id) {
        (Some(within), None) => {
            let last = source.last_request_at.map_or(watched_since, |at| at.max(watched_since));
            last + within
        }
        _ => return None,
    };
    (due <= now).then(|| of("not_asked", due))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(state: &str) -> SourceStatus {
        SourceStatus {
            source_name: "orders".to_owned(),
            source_type: "http".to_owned(),
            state: state.to_owned(),
            reason: None,
            remedy: None,
            last_requested_id: 0,
            last_stored_id: 0,
            lease_owner: None,
            lease_expires_at: None,
            last_request_at: None,
            not_before: None,
            held_request_id: None,
            held_status: None,
            failing_inbox_count: 0,
            dead_letter_count: 0,
            part_of: None,
            gap_count: 0,
            since: None,
            inbox_waiting_since: None,
        }
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn told(source: &SourceStatus) -> Option<(String, DateTime<Utc>, bool)> {
        not_ready(source, Some(Duration::from_secs(10)), at(-1000), at(0))
            .map(|told| (told.state, told.since, told.is_stalled))
    }

    #[test]
    fn a_source_is_told_at_once_and_stalls_after_a_minute() {
        for (state, lasted, is_stalled) in [
            ("held", 0, false),
            ("rejected", 59, false),
            ("backing_off", 60, true),
            ("paused", 999, false),
        ] {
            let source = SourceStatus { since: Some(at(-lasted)), ..source(state) };
            assert_eq!(told(&source), Some((state.to_owned(), at(-lasted), is_stalled)));
        }
    }

    #[test]
    fn a_source_that_nobody_asks_is_told() {
        for (last, want) in [
            (Some(-9), None),
            (Some(-10), Some((0, false))),
            (Some(-70), Some((-60, true))),
            // Nobody could have asked it earlier.
            (Some(-5000), Some((-990, true))),
            (None, Some((-990, true))),
        ] {
            let source = SourceStatus { last_request_at: last.map(at), ..source("ok") };
            let want = want.map(|(since, stalled)| ("not_asked".to_owned(), at(since), stalled));
            assert_eq!(told(&source), want, "{last:?}");
            let in_flight = SourceStatus { held_request_id: Some(7), ..source.clone() };
            assert_eq!(told(&in_flight), None);
            assert_eq!(
                not_ready(&source, None, at(-1000), at(0)),
                None,
                "a broker sends by itself"
            );
        }
    }

    #[test]
    fn events_that_stay_in_the_inbox_are_told() {
        let waiting = |seconds: i64| SourceStatus {
            inbox_waiting_since: Some(at(-seconds)),
            last_request_at: Some(at(0)),
            ..source("ok")
        };
        assert_eq!(told(&waiting(9)), None);
        assert_eq!(told(&waiting(10)), Some(("not_moved".to_owned(), at(-10), false)));
        assert_eq!(told(&waiting(60)), Some(("not_moved".to_owned(), at(-60), true)));
    }
}
