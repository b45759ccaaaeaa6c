//! `/healthz`: whether the process works at all, whatever becomes of others. `/readyz`: whether it gets on.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Given;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::snapshot::{Snapshot, Snapshots};
use super::{Running, State, seconds};
use crate::heartbeat::PATIENCE;
use crate::status::{NotReady, STALLED_AFTER, asked_within, not_ready};

/// Whether the loops turn. The database and the sources are not looked at: restarting this process mends neither.
pub(super) async fn healthz(Given(state): Given<Arc<State>>) -> Response {
    let pulses = state.running().map(|(running, _)| running.pulses.as_slice()).unwrap_or_default();
    let is_healthy = pulses.iter().all(crate::heartbeat::Pulse::is_alive);
    let parts: Vec<_> = pulses
        .iter()
        .map(|pulse| {
            json!({
                "part": pulse.part, "alive": pulse.is_alive(),
                "seconds_since_last_sign": seconds(pulse.age()),
            })
        })
        .collect();
    let status = if is_healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "healthy": is_healthy, "parts": parts, "patience_seconds": seconds(PATIENCE),
    });
    (status, Json(body)).into_response()
}

/// The configured sources that do not get on, the longest first.
pub(super) fn sources_not_ready(
    running: &Running,
    snapshots: &Snapshots,
    snapshot: &Snapshot,
) -> Vec<NotReady> {
    let config = Arc::clone(&running.config.borrow());
    let watched_since = snapshots.watched_since();
    let now = snapshot.report.totals.now;
    let known: std::collections::HashMap<_, _> =
        config.sources.iter().map(|source| (source.name.as_str(), source)).collect();
    let mut told: Vec<_> = snapshot
        .report
        .sources
        .iter()
        .filter_map(|source| {
            // Of a source that is configured no longer nobody expects anything.
            let name = source.part_of.as_deref().unwrap_or(&source.source_name);
            not_ready(source, asked_within(known.get(name)?), watched_since, now)
        })
        .collect();
    told.sort_by(|a, b| (a.since, &a.source_name).cmp(&(b.since, &b.source_name)));
    told
}

/// Whether the database answers, the loops turn, and no source has stalled. Reasons may quote what sources said, so they
/// are on the status page only.
pub(super) async fn readyz(Given(state): Given<Arc<State>>) -> Response {
    let Some((running, snapshots)) = state.running() else {
        let body = json!({ "ready": false, "why": "starting: waiting for the database" });
        return (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    };
    let stuck: Vec<_> =
        running.pulses.iter().filter(|p| !p.is_alive()).map(|pulse| pulse.part).collect();
    let (told, database) = match snapshots.read().await {
        Ok(snapshot) => {
            (sources_not_ready(running, snapshots, &snapshot), json!({ "ready": true }))
        }
        Err(away) => {
            let away = json!({ "ready": false, "seconds": seconds(away.since.elapsed()) });
            (Vec::new(), away)
        }
    };
    let stalled: Vec<_> = told.iter().filter(|source| source.is_stalled).collect();
    let mut why = Vec::new();
    if database["ready"] == false {
        why.push("the database does not answer".to_owned());
    }
    why.extend(stuck.iter().map(|part| format!("the {part} hangs")));
    why.extend(stalled.iter().map(|source| format!("{} has stalled", source.source_name)));
    let is_ready = why.is_empty();
    let body = json!({
        "ready": is_ready,
        "why": why,
        "database": database,
        "parts_stuck": stuck,
        "sources_not_ready": told,
        "stalled_after_seconds": seconds(STALLED_AFTER),
    });
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}
