//! The event API of `eventloader demo`: one server, several sources, each with a mood that real ones have.
//!
//! An event is a pure function of its source and its id, so the server keeps no events, and answers the same window the
//! same way whenever it is asked.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

/// How many events a source has at the start, and how many come each second.
const GROWTH: &[(&str, u64, f64)] = &[
    ("orders", 20_000, 40.0),
    ("reviews", 300, 5.0),
    ("payments", 2_000, 10.0),
    ("clicks", 500, 3.0),
    ("refunds", 200, 1.0),
];
/// Every so many requests `reviews` says that it is asked too often.
const REVIEWS_REFUSE_EVERY: u64 = 3;
/// Every so many requests `payments` fails after it did the work.
const PAYMENTS_FAIL_EVERY: u64 = 4;
/// An event of `clicks` that PostgreSQL cannot hold.
const BAD_CLICK: u64 = 77;
/// The window of `refunds` that fails the first time it is asked for.
const REFUNDS_FAIL_AFTER: u64 = 100;

/// The server's state.
struct Api {
    started_at: Instant,
    requests: Mutex<HashMap<String, u64>>,
    refunds_failed: AtomicU64,
}

#[derive(Deserialize)]
struct Window {
    after_id: u64,
    limit: u64,
}

/// The API, to be served.
pub fn api() -> Router {
    let api = Api {
        started_at: Instant::now(),
        requests: Mutex::default(),
        refunds_failed: AtomicU64::new(0),
    };
    Router::new().route("/{source}", get(answer)).with_state(Arc::new(api))
}

/// The configuration that loads it, and a file and a program beside it.
pub fn configuration(api: SocketAddr) -> String {
    let source = |name: &str, further: &str| {
        format!(
            "[sources.{name}]\ntype = \"http\"\nurl = \"http://{api}/{name}\"\nevent_type = \"/type\"\n{further}\n"
        )
    };
    [
        "# What `eventloader demo` runs. Each of its sources has a mood that real ones have.\n\n".to_owned(),
        "# Answers well.\n".to_owned() + &source("orders", ""),
        "# Says now and then that it is asked too often (429, Retry-After).\n".to_owned()
            + &source("reviews", "batch_size = 20\n"),
        "# Fails now and then when it already did the work. Asking it again does no harm, so it may be.\n".to_owned()
            + &source("payments", "batch_size = 100\non_failure = \"retry\"\n"),
        "# Has an event that PostgreSQL cannot hold: a dead letter, and its neighbours go on.\n".to_owned()
            + &source("clicks", "batch_size = 50\n"),
        "# Fails once, and nobody knows whether it did the work: held until somebody decides.\n".to_owned()
            + &source("refunds", "batch_size = 50\n"),
        "# A file that grows.\n[sources.audit]\ntype = \"file\"\npath = \"audit.ndjson\"\n".to_owned(),
    ]
    .concat()
}

/// A line of the file that grows.
pub fn audit_line(id: u64) -> String {
    format!(
        "{}\n",
        json!({ "id": id, "who": format!("user {}", id % 7), "did": "looked at the demo" })
    )
}

async fn answer(
    State(api): State<Arc<Api>>,
    Path(source): Path<String>,
    Query(window): Query<Window>,
) -> Response {
    let Some((_, base, per_second)) = GROWTH.iter().find(|(name, ..)| *name == source) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let request = api.count(&source);
    let grown = api.started_at.elapsed().mul_f64(*per_second).as_secs();
    let page = page(&source, base + grown, &window);
    match source.as_str() {
        "reviews" if request.is_multiple_of(REVIEWS_REFUSE_EVERY) => {
            (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")]).into_response()
        }
        "payments" if request.is_multiple_of(PAYMENTS_FAIL_EVERY) => {
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
        "refunds"
            if window.after_id == REFUNDS_FAIL_AFTER
                && api.refunds_failed.fetch_add(1, Ordering::Relaxed) == 0 =>
        {
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
        _ => axum::Json(page).into_response(),
    }
}

impl Api {
    fn count(&self, source: &str) -> u64 {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let count = requests.entry(source.to_owned()).or_default();
        *count += 1;
        *count
    }
}

fn page(source: &str, last: u64, window: &Window) -> Value {
    let end = last.min(window.after_id.saturating_add(window.limit));
    (window.after_id + 1..=end).map(|id| event(source, id)).collect()
}

fn event(source: &str, id: u64) -> Value {
    let what = ["placed", "paid", "shipped"][(id % 3) as usize];
    let text = if source == "clicks" && id == BAD_CLICK { "nul: \u{0}" } else { "well" };
    json!({
        "id": id,
        "type": format!("{}.{what}", source.trim_end_matches('s')),
        "number": id / 3 + 1,
        "amount": format!("{}.{:02}", id * 7 % 500, id * 13 % 100),
        "text": text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_answered_with_increasing_ids_above_it() {
        let ids = |after_id, limit| -> Vec<u64> {
            let page = page("orders", 10, &Window { after_id, limit });
            page.as_array().unwrap().iter().map(|event| event["id"].as_u64().unwrap()).collect()
        };
        assert_eq!(ids(0, 3), [1, 2, 3]);
        assert_eq!(ids(8, 3), [9, 10]);
        assert!(ids(10, 3).is_empty());
    }
}
