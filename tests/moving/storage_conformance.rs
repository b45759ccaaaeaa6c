//! What every storage promises, run by each of them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use eventloader::event::{BadEvent, Event};
use eventloader::retry_worker::{PassReport, RetryWorker};
use eventloader::store::inbox::MoveOutcome;
use futures_util::future::join_all;
use serde_json::json;
use sqlx::Executor;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Stage;
use crate::support::inbox::{event, event_with};
use crate::support::wait_for;

/// Runs every case with each storage.
macro_rules! storage_conformance {
    ($($case:ident,)*) => {
        mod same_database {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Stage::same_database().await).await;
            })*
        }
        mod other_database {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Stage::other_database().await).await;
            })*
        }
    };
}

storage_conformance! {
    sources_move_in_id_order,
    one_two_and_eight_workers_move_each_row_once,
    a_second_pass_finds_no_work,
    locked_rows_are_passed_by_and_pin_the_watermark,
    all_rows_locked_is_no_work,
    a_request_succeeds_when_its_own_events_are_stored,
    a_request_without_good_events_succeeds,
    poison_is_isolated_retried_and_becomes_a_dead_letter,
    poison_in_a_row_leaves_its_neighbours_alone,
    workers_at_once_never_blame_a_neighbour,
    other_bodies_are_conflicts,
    message_ids_of_other_events_are_conflicts,
    duplicates_vanish,
    gaps_negative_ids_and_the_ends_of_bigint,
    a_move_given_up_half_way_is_repeated_harmlessly,
    a_busy_source_is_left_to_the_one_who_has_it,
    a_running_worker_moves_deposits_until_it_is_stopped,
    attributes_arrive_unchanged,
    a_batch_of_large_events_is_bounded_by_its_bytes,
}

fn events(ids: impl IntoIterator<Item = i64>) -> Vec<Event> {
    ids.into_iter().map(event).collect()
}

fn poison(id: i64) -> Event {
    event_with(id, &json!({ "id": id, "poison": true }))
}

fn moved(count: u64) -> PassReport {
    PassReport { moved_count: count, ..PassReport::default() }
}

async fn sources_move_in_id_order(stage: Stage) {
    for name in ["a", "b", "c"] {
        stage.inbox.register(name, 0).await;
        stage.inbox.deposit(name, &events(1..=700)).await;
        stage.inbox.deposit(name, &events(701..=1500)).await;
    }
    let worker = RetryWorker { batch_size: 300, ..stage.worker() };
    assert_eq!(worker.run_once().await.unwrap(), moved(4500));
    for name in ["a", "b", "c"] {
        assert_eq!(stage.events().stored(name).await, (1..=1500).collect::<Vec<_>>());
        assert_eq!(stage.inbox.last_stored_id(name).await, 1500);
    }
    let heads: Vec<i64> =
        stage.events().column("select version from eventloader.stream order by stream").await;
    assert_eq!(heads, [1500, 1500, 1500]);
    let statuses: Vec<String> =
        stage.inbox.column("select distinct status from eventloader.event_request_log").await;
    assert_eq!(statuses, ["succeeded"]);
}

async fn one_two_and_eight_workers_move_each_row_once(stage: Stage) {
    for (round, worker_count) in [1, 2, 8].into_iter().enumerate() {
        let first = i64::try_from(round).unwrap() * 1000;
        for name in ["a", "b"] {
            stage.inbox.register(name, 0).await;
            stage.inbox.deposit(name, &events(first + 1..=first + 1000)).await;
        }
        let worker = RetryWorker { batch_size: 70, ..stage.worker() };
        let passes = join_all((0..worker_count).map(|_| worker.run_once())).await;
        let total: u64 = passes.into_iter().map(|pass| pass.unwrap().moved_count).sum();
        assert_eq!(total, 2000, "{worker_count} workers");
    }
    for name in ["a", "b"] {
        assert_eq!(stage.events().stored(name).await, (1..=3000).collect::<Vec<_>>());
        assert_eq!(stage.inbox.waiting(name).await, [0; 0]);
        assert_eq!(stage.inbox.last_stored_id(name).await, 3000);
    }
}

async fn a_second_pass_finds_no_work(stage: Stage) {
    stage.inbox.register("s", 0).await;
    stage.inbox.deposit("s", &events([1, 2])).await;
    assert_eq!(stage.worker().run_once().await.unwrap(), moved(2));
    assert_eq!(stage.inbox.waiting("s").await, [0; 0]);
    assert_eq!(stage.worker().run_once().await.unwrap(), PassReport::default());
    assert_eq!(stage.events().stored("s").await, [1, 2]);
}

async fn locked_rows_are_passed_by_and_pin_the_watermark(stage: Stage) {
    stage.inbox.register("s", 0).await;
    let request = stage.inbox.deposit("s", &events(1..=6)).await;
    let mut session = stage.lock_rows("event_id in (3, 5)").await;

    assert_eq!(stage.worker().run_once().await.unwrap(), moved(4));
    assert_eq!(stage.events().stored("s").await, [1, 2, 4, 6]);
    assert_eq!(stage.inbox.last_stored_id("s").await, 2);
    assert_eq!(stage.inbox.request_status(request).await, "inbox_only");

    session.execute("rollback").await.unwrap();
    assert_eq!(stage.worker().run_once().await.unwrap(), moved(2));
    assert_eq!(stage.events().stored("s").await, [1, 2, 4, 6, 3, 5]);
    assert_eq!(stage.inbox.last_stored_id("s").await, 6);
    assert_eq!(stage.inbox.request_status(request).await, "succeeded");
}

async fn all_rows_locked_is_no_work(stage: Stage) {
    stage.inbox.register("s", 0).await;
    stage.inbox.deposit("s", &events([1, 2])).await;
    let mut session = stage.lock_rows("true").await;
    assert_eq!(stage.worker().run_once().await.unwrap(), PassReport::default());
    assert_eq!(stage.inbox.last_stored_id("s").await, 0);
    session.execute("rollback").await.unwrap();
    assert_eq!(stage.worker().run_once().await.unwrap(), moved(2));
}

async fn a_request_succeeds_when_its_own_events_are_stored(stage: Stage) {
    stage.inbox.register("s", 0).await;
    let first = stage.inbox.deposit("s", &events(1..=5)).await;
    let second = stage.inbox.deposit("s", &events(6..=10)).await;
    assert_eq!(stage.inbox.request_status(second).await, "inbox_only");
    let mut session = stage.lock_rows("event_id = 3").await;
    stage.worker().run_once().await.unwrap();
    assert_eq!(stage.inbox.request_status(first).await, "inbox_only");
    assert_eq!(stage.inbox.request_status(second).await, "succeeded");
    session.execute("rollback").await.unwrap();
    stage.worker().run_once().await.unwrap();
    assert_eq!(stage.inbox.request_status(first).await, "succeeded");
}

async fn a_request_without_good_events_succeeds(stage: Stage) {
    stage.inbox.register("s", 0).await;
    let bad = BadEvent {
        id: Some(4),
        reference: "4".to_owned(),
        body: br#"{"id":4,"x":"\u0000"}"#.as_slice().into(),
        reason: "no".to_owned(),
        payload_at: String::new(),
        event_type: None,
        occurred_at: None,
        message_id: None,
        metadata: None,
    };
    let request = stage.inbox.deposit_page("s", Some(4), &[], &[bad]).await;
    assert_eq!(stage.inbox.request_status(request).await, "inbox_only");
    assert_eq!(stage.worker().run_once().await.unwrap(), PassReport::default());
    assert_eq!(stage.inbox.request_status(request).await, "succeeded");
    assert_eq!(stage.inbox.last_stored_id("s").await, 4);
}

async fn poison_is_isolated_retried_and_becomes_a_dead_letter(stage: Stage) {
    stage.refuse_poison().await;
    stage.inbox.register("s", 0).await;
    let mut page = events(1..=100);
    page[6] = poison(7);
    page[60] = poison(61);
    let request = stage.inbox.deposit("s", &page).await;
    let worker = RetryWorker { max_attempts: 3, ..stage.worker() };

    let report = worker.run_once().await.unwrap();
    assert_eq!(report, PassReport { failed_count: 2, ..moved(98) });
    assert_eq!(stage.inbox.waiting("s").await, [7, 61]);
    assert_eq!(stage.inbox.last_stored_id("s").await, 6);
    let error: String = stage
        .inbox
        .value("select last_error from eventloader.event_inbox where event_id = 7")
        .await;
    assert!(error.contains("no_poison"), "{error}");

    assert_eq!(worker.run_once().await.unwrap(), PassReport::default(), "backoff is waited for");
    let first = backoff(&stage).await;
    stage.end_backoff().await;
    let report = worker.run_once().await.unwrap();
    assert_eq!(report, PassReport { failed_count: 2, ..PassReport::default() });
    assert!(!report.is_clean());
    let second = backoff(&stage).await;
    assert!(second > first * 2, "{first:?} {second:?}");
    assert_eq!(stage.inbox.request_status(request).await, "inbox_only");

    stage.end_backoff().await;
    let report = worker.run_once().await.unwrap();
    assert_eq!(report, PassReport { exhausted_count: 2, ..PassReport::default() });
    assert_eq!(stage.inbox.waiting("s").await, [0; 0]);
    assert_eq!(stage.inbox.last_stored_id("s").await, 100);
    assert_eq!(stage.inbox.request_status(request).await, "succeeded");
    let letters: Vec<(String, String, serde_json::Value, String, i32)> = sqlx::query_as(
        "select kind, reference, convert_from(body, 'UTF8')::json, reason, attempts
         from eventloader.dead_letter order by id",
    )
    .fetch_all(&stage.inbox.pool)
    .await
    .unwrap();
    assert_eq!(letters.len(), 2);
    let (kind, reference, body, reason, attempts) = &letters[0];
    assert_eq!((kind.as_str(), reference.as_str(), *attempts), ("event", "7", 3));
    assert_eq!(*body, json!({ "id": 7, "poison": true }));
    assert!(reason.contains("no_poison"), "{reason}");
}

/// How long row 7 still waits.
async fn backoff(stage: &Stage) -> Duration {
    let next: DateTime<Utc> = stage
        .inbox
        .value("select next_attempt_at from eventloader.event_inbox where event_id = 7")
        .await;
    (next - Utc::now()).to_std().unwrap_or_default()
}

async fn poison_in_a_row_leaves_its_neighbours_alone(stage: Stage) {
    stage.refuse_poison().await;
    stage.inbox.register("s", 0).await;
    let page: Vec<Event> =
        (1..=60).map(|id| if id % 3 == 0 || id > 50 { poison(id) } else { event(id) }).collect();
    stage.inbox.deposit("s", &page).await;
    let good: Vec<i64> = (1..=50).filter(|id| id % 3 != 0).collect();
    let worker = RetryWorker { max_attempts: 1, ..stage.worker() };
    let report = worker.run_once().await.unwrap();
    assert_eq!(report.moved_count, good.len() as u64);
    assert_eq!(report.exhausted_count, 60 - good.len() as u64);
    assert_eq!(stage.events().stored("s").await, good);
    assert_eq!(stage.inbox.last_stored_id("s").await, 60);
}

async fn workers_at_once_never_blame_a_neighbour(stage: Stage) {
    stage.refuse_poison().await;
    stage.inbox.register("s", 0).await;
    let page: Vec<Event> =
        (1..=200).map(|id| if id % 10 == 0 { poison(id) } else { event(id) }).collect();
    stage.inbox.deposit("s", &page).await;
    let worker = RetryWorker { max_attempts: 1, batch_size: 8, ..stage.worker() };
    // A worker that finds the source busy leaves; the others come back until nothing is left.
    while !stage.inbox.waiting("s").await.is_empty() {
        for pass in join_all((0..8).map(|_| worker.run_once())).await {
            pass.unwrap();
        }
    }
    assert_eq!(
        stage.events().stored("s").await,
        (1..=200).filter(|id| id % 10 != 0).collect::<Vec<_>>()
    );
    let letters: Vec<i64> = stage
        .inbox
        .column("select reference::bigint from eventloader.dead_letter order by 1")
        .await;
    assert_eq!(letters, (1..=20).map(|n| n * 10).collect::<Vec<_>>());
}

/// Stores events of a source, then takes its cursor back as a seek does.
async fn store_and_seek_back(stage: &Stage, page: &[Event]) {
    stage.inbox.register("s", 0).await;
    stage.inbox.deposit("s", page).await;
    stage.worker().run_once().await.unwrap();
    stage
        .inbox
        .execute("update eventloader.source_cursor set last_requested_id = 0, last_stored_id = 0")
        .await;
}

async fn conflicts(stage: &Stage) -> Vec<(String, serde_json::Value, String)> {
    sqlx::query_as(
        "select reference, convert_from(body, 'UTF8')::json, reason from eventloader.dead_letter
         where kind = 'conflict' and origin = 's' order by reference::bigint",
    )
    .fetch_all(&stage.inbox.pool)
    .await
    .unwrap()
}

async fn other_bodies_are_conflicts(stage: Stage) {
    store_and_seek_back(&stage, &events(1..=3)).await;
    let other = json!({ "id": 2, "price": 1.10 });
    let request =
        stage.inbox.deposit("s", &[event(1), event_with(2, &other), event(3), event(4)]).await;
    let report = stage.worker().run_once().await.unwrap();
    let expected = PassReport { duplicate_count: 2, conflict_count: 1, ..moved(1) };
    assert_eq!(report, expected);
    assert_eq!(stage.events().stored("s").await, [1, 2, 3, 4]);
    let kept: serde_json::Value =
        stage.events().value("select payload from eventloader.events where version = 2").await;
    assert_eq!(kept, json!({ "id": 2 }), "what came first stays");
    let conflicts = conflicts(&stage).await;
    assert_eq!(conflicts.len(), 1);
    assert_eq!((conflicts[0].0.as_str(), &conflicts[0].1), ("2", &other));
    assert!(conflicts[0].2.contains("another body"), "{}", conflicts[0].2);
    assert_eq!(stage.inbox.request_status(request).await, "succeeded");
    assert_eq!(stage.inbox.last_stored_id("s").await, 4);
}

async fn message_ids_of_other_events_are_conflicts(stage: Stage) {
    let ids: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
    let with = |id, message_id| Event { message_id: Some(message_id), ..event(id) };
    store_and_seek_back(&stage, &[with(1, ids[0])]).await;
    let page = [
        // Known: a duplicate.
        with(1, ids[0]),
        // The message id of event 1.
        with(2, ids[0]),
        with(3, ids[1]),
        // The message id of event 3, in the same batch.
        with(4, ids[1]),
        with(5, ids[1]),
        event(6),
        with(7, ids[2]),
    ];
    stage.inbox.deposit("s", &page).await;
    let report = stage.worker().run_once().await.unwrap();
    assert_eq!(report, PassReport { duplicate_count: 1, conflict_count: 3, ..moved(3) });
    assert_eq!(stage.events().stored("s").await, [1, 3, 6, 7]);
    let conflicts = conflicts(&stage).await;
    let references: Vec<&str> = conflicts.iter().map(|c| c.0.as_str()).collect();
    assert_eq!(references, ["2", "4", "5"]);
    assert!(conflicts[0].2.contains(&ids[0].to_string()), "{}", conflicts[0].2);
}

async fn duplicates_vanish(stage: Stage) {
    store_and_seek_back(&stage, &events(1..=3)).await;
    let before: Vec<i64> = stage.events().column("select position from eventloader.events").await;
    stage.inbox.deposit("s", &events(1..=3)).await;
    let report = stage.worker().run_once().await.unwrap();
    assert_eq!(report, PassReport { duplicate_count: 3, ..PassReport::default() });
    let after: Vec<i64> = stage.events().column("select position from eventloader.events").await;
    assert_eq!(after, before);
    let letters: i64 = stage.inbox.value("select count(*) from eventloader.dead_letter").await;
    assert_eq!(letters, 0);
    assert_eq!(stage.inbox.waiting("s").await, [0; 0]);
}

async fn gaps_negative_ids_and_the_ends_of_bigint(stage: Stage) {
    stage.inbox.register("streams", -1).await;
    stage.inbox.register("wide", i64::MIN).await;
    stage.inbox.register("gone", 0).await;
    stage.inbox.deposit("streams", &events([0, 1, 7])).await;
    let request = stage.inbox.deposit("wide", &events([i64::MIN + 1, -5, 0, i64::MAX])).await;
    // The lowest row left is the lowest one there can be.
    let mut session = stage.lock_rows("event_id < -5").await;
    stage.worker().run_once().await.unwrap();
    assert_eq!(stage.inbox.last_stored_id("wide").await, i64::MIN);
    session.execute("rollback").await.unwrap();
    stage.worker().run_once().await.unwrap();
    assert_eq!(stage.inbox.last_stored_id("streams").await, 7);
    assert_eq!(stage.events().stored("streams").await, [0, 1, 7]);
    assert_eq!(stage.inbox.last_stored_id("wide").await, i64::MAX);
    assert_eq!(stage.events().stored("wide").await, [-5, 0, i64::MAX, i64::MIN + 1]);
    assert_eq!(stage.inbox.request_status(request).await, "succeeded");
    // At the very end a source can still be asked, and has nothing.
    stage.inbox.deposit("wide", &[]).await;
    assert_eq!(stage.worker().run_once().await.unwrap(), PassReport::default());
}

async fn a_move_given_up_half_way_is_repeated_harmlessly(stage: Stage) {
    stage.inbox.register("s", 0).await;
    stage.inbox.deposit("s", &events(1..=2000)).await;
    for given_up_after in (0..40).map(|n| Duration::from_micros(n * 250)) {
        // The server goes on with a statement whose client is gone: what it commits, nobody is told.
        drop(tokio::time::timeout(given_up_after, stage.storage.move_batch("s", 40)).await);
    }
    wait_for("the rest to move", || async {
        stage.worker().run_once().await.unwrap();
        stage.inbox.waiting("s").await.is_empty().then_some(())
    })
    .await;
    let mut stored = stage.events().stored("s").await;
    stored.sort_unstable();
    assert_eq!(stored, (1..=2000).collect::<Vec<_>>());
    let letters: i64 = stage.inbox.value("select count(*) from eventloader.dead_letter").await;
    assert_eq!(letters, 0);
    assert_eq!(stage.inbox.last_stored_id("s").await, 2000);
}

async fn a_busy_source_is_left_to_the_one_who_has_it(stage: Stage) {
    for name in ["a", "b"] {
        stage.inbox.register(name, 0).await;
        stage.inbox.deposit(name, &events(1..=3)).await;
    }
    let mut transaction = stage.inbox.pool.begin().await.unwrap();
    transaction
        .execute("select from eventloader.stream where stream = 'a' for update")
        .await
        .unwrap();
    assert_eq!(stage.storage.move_batch("a", 10).await.unwrap(), MoveOutcome::Busy);
    assert_eq!(stage.worker().run_once().await.unwrap(), moved(3));
    assert_eq!(stage.events().stored("b").await, [1, 2, 3]);
    transaction.rollback().await.unwrap();
    assert_eq!(stage.worker().run_once().await.unwrap(), moved(3));
    assert_eq!(stage.storage.move_batch("nobody", 10).await.unwrap(), MoveOutcome::Busy);
}

async fn a_running_worker_moves_deposits_until_it_is_stopped(stage: Stage) {
    let (hint, hints) = tokio::sync::mpsc::channel(8);
    let stop = CancellationToken::new();
    let running = tokio::spawn(stage.worker().run(hints, stop.clone()));
    for (name, hinted) in [("hinted", true), ("found", false)] {
        stage.inbox.register(name, 0).await;
        stage.inbox.deposit(name, &events(1..=20)).await;
        if hinted {
            hint.send(name.to_owned()).await.unwrap();
        }
        wait_for("the events", || async {
            (stage.events().stored(name).await.len() == 20).then_some(())
        })
        .await;
    }
    stop.cancel();
    running.await.unwrap();
}

type Row = (i64, String, String, Option<Uuid>, Option<DateTime<Utc>>, Option<i64>);

async fn attributes_arrive_unchanged(stage: Stage) {
    let occurred_at: DateTime<Utc> = "2024-02-29T23:59:59.123456Z".parse().unwrap();
    let message_id = Uuid::now_v7();
    let payload =
        r#"{"id": 9007199254740993, "n": 0.1000, "big": 123456789012345678901234567890, "e": 1e2}"#;
    let event = Event {
        id: 9_007_199_254_740_993,
        event_type: Some("order.placed".to_owned()),
        payload: eventloader::event::JsonText::parse(payload).unwrap(),
        occurred_at: Some(occurred_at),
        message_id: Some(message_id),
        metadata: None,
    };
    stage.inbox.register("s", 0).await;
    let request = stage.inbox.deposit("s", &[event]).await;
    stage.worker().run_once().await.unwrap();
    let row: Row = sqlx::query_as(
        "select version, event_type, payload::text, message_id, occurred_at, request_id from eventloader.events",
    )
    .fetch_one(&stage.events().pool)
    .await
    .unwrap();
    let printed =
        r#"{"e": 100, "n": 0.1000, "id": 9007199254740993, "big": 123456789012345678901234567890}"#;
    let expected: Row = (
        9_007_199_254_740_993,
        "order.placed".to_owned(),
        printed.to_owned(),
        Some(message_id),
        Some(occurred_at),
        Some(request),
    );
    assert_eq!(row, expected);
}

async fn a_batch_of_large_events_is_bounded_by_its_bytes(stage: Stage) {
    stage.inbox.register("s", 0).await;
    // Hexadecimal digits without an order: they stay as long as they are.
    let large = |id: i64| {
        let text: String = (0..32_000).map(|_| Uuid::new_v4().simple().to_string()).collect();
        event_with(id, &json!({ "id": id, "text": text }))
    };
    for ids in [1..=20, 21..=40] {
        stage.inbox.deposit("s", &ids.map(large).collect::<Vec<_>>()).await;
    }
    let mut counts = Vec::new();
    while let MoveOutcome::Moved(moved) = stage.storage.move_batch("s", 1000).await.unwrap() {
        counts.push(moved.moved_count);
    }
    assert_eq!(counts, [33, 7]);
    assert_eq!(stage.events().stored("s").await, (1..=40).collect::<Vec<_>>());
    assert_eq!(stage.inbox.last_stored_id("s").await, 40);
}
