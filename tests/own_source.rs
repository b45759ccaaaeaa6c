//! Sources that programs bring themselves: whatever they do, the loader goes on, and every text stays readable.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use eventloader::event::{BadEvent, Event, Item, JsonText};
use eventloader::source::{EventSource, Page, SourceError};
use serde_json::json;

use crate::support::database::Database;
use crate::support::loading::{Given, Loading};
use crate::support::wait_for;

/// Answers what the test says, and counts how often it was asked.
struct OwnSource<F> {
    answer: F,
    asked: AtomicUsize,
}

#[async_trait]
impl<F: Fn(i64) -> Result<Page, SourceError> + Send + Sync> EventSource for OwnSource<F> {
    async fn fetch_events(&self, after_id: i64, _limit: u32) -> Result<Page, SourceError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        (self.answer)(after_id)
    }
}

fn own<F>(answer: F) -> Arc<OwnSource<F>>
where
    F: Fn(i64) -> Result<Page, SourceError> + Send + Sync + 'static,
{
    Arc::new(OwnSource { answer, asked: AtomicUsize::new(0) })
}

fn event(id: i64, value: &str) -> Event {
    let payload = JsonText::from_value(&json!({ "id": id, "n": value }));
    Event { id, event_type: None, payload, occurred_at: None, message_id: None, metadata: None }
}

async fn state(database: &Database, state: &'static str) -> (String, String) {
    wait_for(&format!("the source to be {state}"), || async {
        sqlx::query_as(
            "select coalesce(reason, ''), coalesce(remedy, '') from eventloader.source_status where state = $1",
        )
        .bind(state)
        .fetch_optional(&database.pool)
        .await
        .unwrap()
    })
    .await
}

#[tokio::test]
async fn a_reason_with_anything_in_it_is_kept_readable() {
    let database = Database::migrated().await;
    let reason = format!("\0\u{1b}[2J\nforged line\u{202e}{}", "é".repeat(1_000_000));
    let source = own(move |_| Err(SourceError::unknown(reason.clone())));
    let loading =
        Loading::start(&database, &[Given::new("own", Arc::<OwnSource<_>>::clone(&source))]).await;
    let (reason, remedy) = state(&database, "held").await;
    assert!(reason.starts_with(r"\u0000\u001b[2J\u000aforged line\u202eéé"), "{reason:.100}");
    assert!(reason.chars().count() < 1100 && reason.ends_with('…'), "{}", reason.len());
    assert_eq!(remedy, "eventloader requests retry 1");
    assert_eq!(source.asked.load(Ordering::Relaxed), 1);
    loading.stop().await;
}

/// What nobody screened is set aside by PostgreSQL's own judgement; its neighbours go on.
#[tokio::test]
async fn a_payload_that_was_not_screened_is_set_aside() {
    let database = Database::migrated().await;
    let source = own(|after_id| {
        let items = [event(1, "good"), event(2, "bad \0"), event(3, "good")];
        Ok(Page::new(items.into_iter().filter(|e| e.id > after_id).map(Item::Good).collect()))
    });
    let loading = Loading::start(&database, &[Given::new("own", source)]).await;
    let ids = wait_for("the good events", || async {
        let ids: Vec<i64> =
            database.column("select version from eventloader.events order by position").await;
        (ids.len() == 2).then_some(ids)
    })
    .await;
    assert_eq!(ids, [1, 3]);
    let letters: Vec<String> = database
        .column("select concat_ws(' ', kind, reference, convert_from(body, 'UTF8'), reason) from eventloader.dead_letter")
        .await;
    let want = r#"event 2 {"id":2,"n":"bad \u0000"} unsupported Unicode escape sequence"#;
    assert_eq!(letters, [want]);
    loading.stop().await;
}

/// A page that the database refuses as a whole is an invalid page: kept, and held for an operator.
#[tokio::test]
async fn a_page_that_the_database_refuses_is_kept_and_held() {
    let database = Database::migrated().await;
    let source = own(|_| {
        let event = Event { event_type: Some("a\0b".to_owned()), ..event(1, "good") };
        let body = Bytes::from_static(b"as it came");
        Ok(Page { items: vec![Item::Good(event)], body, ..Page::default() })
    });
    let loading = Loading::start(&database, &[Given::new("own", source)]).await;
    let (reason, remedy) = state(&database, "held").await;
    assert!(
        reason.starts_with("the page cannot be stored: failed to deposit a page: "),
        "{reason}"
    );
    assert_eq!(remedy, "eventloader requests retry 1");
    let letters: Vec<String> = database
        .column("select concat_ws(' ', kind, reference, convert_from(body, 'UTF8')) from eventloader.dead_letter")
        .await;
    assert_eq!(letters, ["page request 1 as it came"]);
    loading.stop().await;
}

#[tokio::test]
async fn the_reason_of_a_bad_event_is_kept_readable() {
    let database = Database::migrated().await;
    let source = own(|after_id| {
        let bad = BadEvent {
            id: Some(1),
            reference: "1".to_owned(),
            body: Bytes::from_static(b"\0\xff"),
            reason: "\0\n".repeat(100_000),
            payload_at: String::new(),
            event_type: None,
            occurred_at: None,
            message_id: None,
            metadata: None,
        };
        Ok(Page::new(if after_id == 0 { vec![Item::Bad(bad)] } else { Vec::new() }))
    });
    let loading = Loading::start(&database, &[Given::new("own", source)]).await;
    wait_for("the dead letter", || async {
        let letters: i64 = database
            .value(
                r"select count(*) from eventloader.dead_letter
                  where body = '\x00ff' and reason like '\\u0000\\u000a%' and length(reason) < 7000",
            )
            .await;
        (letters == 1).then_some(())
    })
    .await;
    loading.stop().await;
}

/// Nobody knows what became of the request of a source that panics, so its window is held; the others go on.
#[tokio::test]
async fn a_source_that_panics_is_held_and_the_others_go_on() {
    let database = Database::migrated().await;
    let panicking = own(|_| panic!("as the test wants it"));
    let fine = own(|after_id| Ok(Page::new(vec![Item::Good(event(after_id + 1, "good"))])));
    let mut given = Given::new("panicking", Arc::<OwnSource<_>>::clone(&panicking));
    given.settings.lease_ttl = Duration::from_millis(500);
    let loading = Loading::start(&database, &[given, Given::new("fine", fine)]).await;
    let (reason, _) = state(&database, "held").await;
    assert!(reason.contains("is silent") || reason.contains("vanished"), "{reason}");
    let remedy = wait_for("the window to be orphaned", || async {
        let (_, remedy) = state(&database, "held").await;
        Some(remedy).filter(|remedy| !remedy.is_empty())
    })
    .await;
    assert!(remedy.starts_with("eventloader requests retry "), "{remedy}");
    assert_eq!(panicking.asked.load(Ordering::Relaxed), 1);
    let before: i64 = database.value("select count(*) from eventloader.events").await;
    wait_for("more events", || async {
        let now: i64 = database.value("select count(*) from eventloader.events").await;
        (now > before + 3).then_some(())
    })
    .await;
    loading.stop().await;
}
