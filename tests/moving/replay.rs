//! Dead letters on their way back.

use eventloader::dead_letter::{Judge, Replay, replay};
use eventloader::event::{BadEvent, Event};
use eventloader::retry_worker::{PassReport, RetryWorker};
use eventloader::store::Actor;
use futures_util::future::join_all;
use serde_json::json;

use super::Stage;
use crate::support::database::Database;
use crate::support::inbox::{event, event_with};

const MAX_EVENT_BYTES: usize = 1 << 20;

async fn replay_one(database: &Database, id: i64) -> Replay {
    replay(&database.pool, id, &Actor("tester".to_owned()), &Judge::Events(MAX_EVENT_BYTES))
        .await
        .unwrap()
}

async fn letter(database: &Database) -> i64 {
    database.value("select id from eventloader.dead_letter where replayed_at is null").await
}

/// Events 1 to 3, of which the second is a dead letter.
async fn with_exhausted_event(stage: &Stage) {
    stage.refuse_poison().await;
    stage.inbox.register("s", 0).await;
    let poison =
        Event { event_type: Some("odd".to_owned()), ..event_with(2, &json!({ "poison": 1.5 })) };
    stage.inbox.deposit("s", &[event(1), poison, event(3)]).await;
    let worker = RetryWorker { max_attempts: 1, ..stage.worker() };
    assert_eq!(worker.run_once().await.unwrap().exhausted_count, 1);
    assert_eq!(stage.inbox.last_stored_id("s").await, 3);
    stage.accept_poison().await;
}

async fn a_letter_below_the_watermark_comes_back_once(stage: Stage) {
    with_exhausted_event(&stage).await;
    let id = letter(&stage.inbox).await;
    assert_eq!(replay_one(&stage.inbox, id).await, Replay::Replayed);
    assert_eq!(stage.inbox.last_stored_id("s").await, 1);
    assert_eq!(replay_one(&stage.inbox, id).await, Replay::Gone);
    assert_eq!(stage.worker().run_once().await.unwrap().moved_count, 1);
    assert_eq!(stage.events().stored("s").await, [1, 3, 2]);
    assert_eq!(stage.inbox.last_stored_id("s").await, 3);
    let (event_type, payload): (String, String) = sqlx::query_as(
        "select event_type, payload::text from eventloader.events where version = 2",
    )
    .fetch_one(&stage.events().pool)
    .await
    .unwrap();
    assert_eq!((event_type.as_str(), payload.as_str()), ("odd", r#"{"poison": 1.5}"#));
    let audited: i64 = stage
        .inbox
        .value("select count(*) from eventloader.audit_log where action = 'replay dead letter'")
        .await;
    assert_eq!(audited, 1);
    assert_eq!(stage.worker().run_once().await.unwrap(), PassReport::default());
}

#[tokio::test]
async fn a_letter_comes_back_beside_the_inbox() {
    a_letter_below_the_watermark_comes_back_once(Stage::same_database().await).await;
}

#[tokio::test]
async fn a_letter_comes_back_in_another_database() {
    a_letter_below_the_watermark_comes_back_once(Stage::other_database().await).await;
}

#[tokio::test]
async fn eight_replays_at_once_give_one_event() {
    let stage = Stage::same_database().await;
    with_exhausted_event(&stage).await;
    let id = letter(&stage.inbox).await;
    let answers = join_all((0..8).map(|_| replay_one(&stage.inbox, id))).await;
    assert_eq!(answers.iter().filter(|answer| **answer == Replay::Replayed).count(), 1);
    assert_eq!(answers.iter().filter(|answer| **answer == Replay::Gone).count(), 7);
    stage.worker().run_once().await.unwrap();
    assert_eq!(stage.inbox.stored("s").await, [1, 3, 2]);
}

#[tokio::test]
async fn a_letter_above_a_cursor_that_was_taken_back_is_moved_at_once() {
    let stage = Stage::same_database().await;
    with_exhausted_event(&stage).await;
    stage
        .inbox
        .execute("update eventloader.source_cursor set last_requested_id = 1, last_stored_id = 1")
        .await;
    let id = letter(&stage.inbox).await;
    assert_eq!(replay_one(&stage.inbox, id).await, Replay::Replayed);
    assert_eq!(stage.worker().run_once().await.unwrap().moved_count, 1);
    assert_eq!(stage.inbox.last_stored_id("s").await, 1);
    assert_eq!(stage.inbox.stored("s").await, [1, 3, 2]);
}

#[tokio::test]
async fn a_letter_that_fails_again_is_a_new_letter() {
    let stage = Stage::same_database().await;
    with_exhausted_event(&stage).await;
    stage.refuse_poison().await;
    let id = letter(&stage.inbox).await;
    assert_eq!(replay_one(&stage.inbox, id).await, Replay::Replayed);
    let worker = RetryWorker { max_attempts: 1, ..stage.worker() };
    assert_eq!(worker.run_once().await.unwrap().exhausted_count, 1);
    assert_ne!(letter(&stage.inbox).await, id);
    assert_eq!(stage.inbox.last_stored_id("s").await, 3);
}

#[tokio::test]
async fn an_event_of_the_greatest_size_comes_back_as_postgres_prints_it() {
    let stage = Stage::same_database().await;
    stage.refuse_poison().await;
    stage.inbox.register("s", 0).await;
    // Compact, it has the greatest size; printed with spaces it is longer.
    let members: Vec<String> = (0..50_000).map(|n| format!("\"{n}\":1")).collect();
    let payload = format!("{{\"poison\":1,{}}}", members.join(","));
    let limit = payload.len();
    let big = Event { payload: eventloader::event::JsonText::parse(payload).unwrap(), ..event(1) };
    stage.inbox.deposit("s", &[big]).await;
    RetryWorker { max_attempts: 1, ..stage.worker() }.run_once().await.unwrap();
    stage.accept_poison().await;
    let id = letter(&stage.inbox).await;
    let answer = replay(&stage.inbox.pool, id, &Actor("tester".to_owned()), &Judge::Events(limit))
        .await
        .unwrap();
    assert_eq!(answer, Replay::Replayed);
}

fn bad(id: Option<i64>, body: &'static str) -> BadEvent {
    BadEvent {
        id,
        reference: id.map_or_else(|| "line 1 after id 0".to_owned(), |id| id.to_string()),
        body: body.into(),
        reason: "refused".to_owned(),
        payload_at: "/data".to_owned(),
        event_type: None,
        occurred_at: None,
        message_id: None,
        metadata: None,
    }
}

/// Deposits one bad event and tries to replay it.
async fn replay_bad(bad: BadEvent) -> (Stage, Replay) {
    let stage = Stage::same_database().await;
    stage.inbox.register("s", 0).await;
    stage.inbox.deposit_page("s", Some(2), &[event(2)], &[bad]).await;
    stage.worker().run_once().await.unwrap();
    let id = letter(&stage.inbox).await;
    let answer = replay_one(&stage.inbox, id).await;
    (stage, answer)
}

#[tokio::test]
async fn a_letter_whose_fault_is_gone_is_read_with_its_pointer() {
    // Too long once; the limit was raised since.
    let (stage, answer) = replay_bad(bad(Some(1), r#"{"id":1,"data":{"n":1.0}}"#)).await;
    assert_eq!(answer, Replay::Replayed);
    stage.worker().run_once().await.unwrap();
    let payload: String =
        stage.inbox.value("select payload::text from eventloader.events where version = 1").await;
    assert_eq!(payload, r#"{"n": 1.0}"#);
}

#[tokio::test]
async fn letters_that_cannot_come_back_say_why() {
    let cases = [
        (bad(Some(1), r#"{"id":1,"data":"\u0000"}"#), "still cannot be stored"),
        (bad(Some(1), "no json"), "still cannot be stored"),
        (bad(None, "no json"), "no id"),
    ];
    for (bad, expected) in cases {
        let (stage, answer) = replay_bad(bad).await;
        let Replay::Refused(reason) = answer else { panic!("{expected}: {answer:?}") };
        assert!(reason.contains(expected), "{reason}");
        let left: i64 = stage
            .inbox
            .value("select count(*) from eventloader.dead_letter where replayed_at is null")
            .await;
        assert_eq!(left, 1, "a refused letter stays");
    }
}

#[tokio::test]
async fn conflicts_pages_and_unknown_letters_are_not_replayed() {
    let database = Database::migrated().await;
    for kind in ["conflict", "page"] {
        let id: i64 = sqlx::query_scalar(
            "insert into eventloader.dead_letter (kind, origin, reference, body, reason, detail)
             values ($1, 's', '1', '{}', 'reason', '{\"event_id\": 1}') returning id",
        )
        .bind(kind)
        .fetch_one(&database.pool)
        .await
        .unwrap();
        let Replay::Refused(reason) = replay_one(&database, id).await else {
            panic!("a {kind} was replayed");
        };
        assert!(!reason.is_empty());
    }
    assert_eq!(replay_one(&database, 4711).await, Replay::Gone);
}

#[tokio::test]
async fn a_letter_whose_id_is_in_the_inbox_again_is_refused() {
    let stage = Stage::same_database().await;
    with_exhausted_event(&stage).await;
    stage
        .inbox
        .execute("update eventloader.source_cursor set last_requested_id = 1, last_stored_id = 1")
        .await;
    stage.inbox.deposit("s", &[event(2)]).await;
    let id = letter(&stage.inbox).await;
    assert!(matches!(replay_one(&stage.inbox, id).await, Replay::Refused(_)));
    stage.worker().run_once().await.unwrap();
    assert_eq!(stage.inbox.stored("s").await, [1, 3, 2]);
    // Back as another body under the same id: a conflict, not silent.
    assert_eq!(replay_one(&stage.inbox, id).await, Replay::Replayed);
    assert_eq!(stage.worker().run_once().await.unwrap().conflict_count, 1);
}
