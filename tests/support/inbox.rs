//! Fills the inbox the way the loader does: a claim, then the deposit of a page.

use std::time::Duration;

use eventloader::event::{BadEvent, Event, JsonText};
use eventloader::loader::cycle::{ClaimAnswer, Deposit, Token};
use eventloader::loader::policy::OnFailure;
use eventloader::store::inbox::{self, DepositRows};
use eventloader::store::request_log::{self, ClaimRequest, CycleEnd};
use eventloader::store::source::{self, Registration};
use serde_json::json;

use super::database::Database;

/// An event `{"id": n}`.
pub(crate) fn event(id: i64) -> Event {
    event_with(id, &json!({ "id": id }))
}

/// An event with this payload.
pub(crate) fn event_with(id: i64, payload: &serde_json::Value) -> Event {
    Event {
        id,
        event_type: None,
        payload: JsonText::from_value(payload),
        occurred_at: None,
        message_id: None,
        metadata: None,
    }
}

impl Database {
    /// Makes a source known.
    pub(crate) async fn register(&self, source_name: &str, start_after: i64) {
        let registration = Registration {
            source_name: source_name.to_owned(),
            source_type: "memory".to_owned(),
            start_after,
        };
        assert!(source::register(&self.pool, &[registration]).await.unwrap().is_empty());
    }

    /// Claims the next window of a source and deposits a page; answers the request.
    pub(crate) async fn deposit(&self, source_name: &str, events: &[Event]) -> i64 {
        let max_id = events.last().map(|event| event.id);
        self.deposit_page(source_name, max_id, events, &[]).await
    }

    /// Deposits a page with events that cannot be stored.
    pub(crate) async fn deposit_page(
        &self,
        source_name: &str,
        max_id: Option<i64>,
        events: &[Event],
        bad_events: &[BadEvent],
    ) -> i64 {
        let owner = "tester";
        let claim = ClaimRequest {
            source_name,
            owner,
            token: Token::now_v7(),
            limit: 10_000,
            lease_ttl: Duration::from_secs(10),
            orphan_grace: Duration::ZERO,
            min_interval: Duration::ZERO,
            on_failure: OnFailure::Hold,
        };
        let ClaimAnswer::Granted(grant) = request_log::claim(&self.pool, &claim).await.unwrap()
        else {
            panic!("the window of {source_name} is not granted");
        };
        let end = CycleEnd { source_name, owner, request_known_for: Some(Duration::ZERO) };
        let deposit = Deposit { max_id, empty_streak: 0, pause: None };
        let rows = DepositRows { events, bad_events, state: None, gaps: &[] };
        inbox::deposit(&self.pool, end, &grant, &deposit, rows).await.unwrap();
        grant.request_id
    }

    /// Every id up to here is in `events` or `dead_letter`.
    pub(crate) async fn last_stored_id(&self, source_name: &str) -> i64 {
        sqlx::query_scalar(
            "select last_stored_id from eventloader.source_cursor where source_name = $1",
        )
        .bind(source_name)
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    /// The status of a request.
    pub(crate) async fn request_status(&self, id: i64) -> String {
        request_log::show(&self.pool, id).await.unwrap().unwrap().status
    }

    /// Ids in the inbox.
    pub(crate) async fn waiting(&self, source_name: &str) -> Vec<i64> {
        sqlx::query_scalar(
            "select event_id from eventloader.event_inbox where source_name = $1 order by event_id",
        )
        .bind(source_name)
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }

    /// Ids in `events`, in the order of their positions.
    pub(crate) async fn stored(&self, source_name: &str) -> Vec<i64> {
        sqlx::query_scalar(
            "select version from eventloader.events where stream = $1 order by position",
        )
        .bind(source_name)
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }
}
