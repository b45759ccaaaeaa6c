//! The consumer, on the queue in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use eventloader::consumer::{ConsumedSource, ConsumerSettings};
use eventloader::mapping::message::MessageMapping;
use eventloader::source::queue::{Message, QueueError};
use eventloader::sources::memory_queue::MemoryQueue;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use uuid::Uuid;

use crate::support::consuming::Consuming;
use crate::support::database::Database;
use crate::support::wait_for;

fn at(stream: Option<&str>, version: i64, body: &str) -> Message {
    Message {
        stream: stream.map(Into::into),
        version: Some(version),
        reference: version.to_string(),
        body: body.to_owned().into(),
        routed_as: "topic".into(),
        ..Message::default()
    }
}

async fn stored(database: &Database) -> Vec<String> {
    database
        .column("select stream || ' ' || version || ' ' || payload from eventloader.events order by stream, version")
        .await
}

async fn wait_until_empty(queue: &MemoryQueue) {
    wait_for("an empty queue", || async { (queue.left() == 0).then_some(()) }).await;
}

#[tokio::test]
async fn versions_of_the_broker_are_those_of_the_streams() {
    let database = Database::migrated().await;
    let queue = MemoryQueue::new();
    for (stream, version) in [("t/0", 0), ("t/1", 7), ("t/0", 1), ("t/1", 9)] {
        queue.push(at(Some(stream), version, r#"{"a": 1}"#));
    }
    queue.push(at(None, 5, r#"{"a": 2}"#));
    let source = ConsumedSource::new("t", Arc::new(queue.clone()));
    let consuming = Consuming::start(&database, vec![source]).await;
    wait_until_empty(&queue).await;
    // All of it again, as after a group that was set back: one body differs, and one comes late below the others.
    for (stream, version) in [("t/0", 0), ("t/1", 7), ("t/1", 8), ("t/1", 9)] {
        queue.push(at(Some(stream), version, r#"{"a": 1}"#));
    }
    queue.push(at(Some("t/0"), 1, r#"{"a": 3}"#));
    wait_until_empty(&queue).await;
    let want: Vec<String> = ["t 5 2", "t/0 0 1", "t/0 1 1", "t/1 7 1", "t/1 8 1", "t/1 9 1"]
        .map(|line| {
            let (place, a) = line.rsplit_once(' ').unwrap();
            format!(
                "{place} {}",
                json!({ "a": a.parse::<i64>().unwrap() }).to_string().replace(':', ": ")
            )
        })
        .into();
    wait_for("all of it", || async { (stored(&database).await == want).then_some(()) }).await;
    consuming.stop().await;
    let letter: String = database
        .value("select kind || ' ' || origin || ' ' || reference || ' ' || convert_from(body, 'UTF8') from eventloader.dead_letter")
        .await;
    assert_eq!(letter, r#"conflict t/0 1 {"a": 3}"#);
    let cursors: Vec<String> = database
        .column(
            "select source_name || ' ' || coalesce(part_of, '-') || ' ' || last_requested_id || ' ' || last_stored_id
             from eventloader.source_status order by 1",
        )
        .await;
    assert_eq!(cursors, ["t - 5 5", "t/0 t 1 1", "t/1 t 9 9"]);
    // New partitions are no trouble: nobody had to connect again.
    assert_eq!(queue.consumers().len(), 1);
}

#[tokio::test]
async fn a_stream_of_somebody_else_is_not_written_to() {
    let database = Database::migrated().await;
    database
        .execute("insert into eventloader.stream (stream, version, owner) values ('t/0', 3, 'application')")
        .await;
    let queue = MemoryQueue::new();
    queue.push(at(Some("t/0"), 4, "{}"));
    let source = ConsumedSource::new("t", Arc::new(queue.clone()));
    let consuming = Consuming::start(&database, vec![source]).await;
    let reason: String = wait_for("a reason", || async {
        let reasons: Vec<String> = database
            .column("select health || ': ' || health_reason from eventloader.source where health <> 'ok'")
            .await;
        reasons.into_iter().next()
    })
    .await;
    assert!(reason.starts_with("rejected: the stream t/0 belongs to an application"), "{reason}");
    assert_eq!(queue.left(), 1);
    consuming.stop().await;
}

#[tokio::test]
async fn a_queue_that_refuses_shows_in_status_until_it_lets_us_in() {
    let database = Database::migrated().await;
    let queue = MemoryQueue::new();
    queue.close_to_consumers(Some(QueueError::rejected("no such queue").with_fix("declare it")));
    queue.push(Message { body: "{}".into(), routed_as: "a".into(), ..Message::default() });
    let source = ConsumedSource::new("q", Arc::new(queue.clone()));
    let consuming = Consuming::start(&database, vec![source]).await;
    let state = || async {
        let rows: Vec<String> = database
            .column("select state || ' ' || coalesce(reason, '-') || ' ' || coalesce(remedy, '-') from eventloader.source_status")
            .await;
        rows.concat()
    };
    let want = "rejected no such queue; declare it eventloader sources resume q";
    wait_for(want, || async { (state().await == want).then_some(()) }).await;
    queue.close_to_consumers(None);
    // Five seconds of rest are left, unless somebody resumes it.
    database.execute("update eventloader.source_rate_limit set not_before = null").await;
    wait_until_empty(&queue).await;
    wait_for("ok", || async { (state().await == "ok - -").then_some(()) }).await;
    consuming.stop().await;
}

#[tokio::test]
async fn a_session_that_breaks_is_opened_again_under_the_same_name() {
    let database = Database::migrated().await;
    let queue = MemoryQueue::new();
    let source = ConsumedSource::new("q", Arc::new(queue.clone()));
    let consuming = Consuming::start(&database, vec![source]).await;
    for n in 0..5 {
        queue.push(Message { body: "{}".into(), routed_as: "a".into(), ..Message::default() });
        wait_until_empty(&queue).await;
        queue.disconnect();
        wait_for("another session", || async { (queue.consumers().len() > n + 1).then_some(()) })
            .await;
    }
    consuming.stop().await;
    let mut names = queue.consumers();
    names.dedup();
    assert_eq!(names.len(), 1, "{names:?}");
    let versions: Vec<i64> =
        database.column("select version from eventloader.events order by position").await;
    assert_eq!(versions, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn the_first_body_under_an_id_is_the_event_however_the_deliveries_fall() {
    let database = Database::migrated().await;
    let queue = MemoryQueue::new();
    let mut random = StdRng::seed_from_u64(4);
    let (mut first, mut other) = (BTreeMap::new(), BTreeSet::new());
    let messages: Vec<Message> = (0..2000)
        .map(|_| {
            let (id, variant) = (random.random_range(0..150_u128), random.random_range(0..3));
            let body = format!(r#"{{"id": {id}, "variant": {variant}}}"#);
            if *first.entry(id).or_insert_with(|| body.clone()) != body {
                other.insert(body.clone());
            }
            Message {
                message_id: Some(Uuid::from_u128(id + 1).to_string()),
                body: body.into(),
                routed_as: "a".into(),
                ..Message::default()
            }
        })
        .collect();
    // Small batches, and sessions that break at any time.
    let settings = ConsumerSettings {
        batch_size: 7,
        linger: Duration::ZERO,
        mapping: MessageMapping::default(),
        ..ConsumerSettings::default()
    };
    let source = ConsumedSource::new("q", Arc::new(queue.clone())).with_settings(settings);
    let one = Consuming::start(&database, vec![source]).await;
    for message in messages {
        queue.push(message);
        if random.random_bool(0.02) {
            queue.disconnect();
        }
        if random.random_bool(0.1) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    wait_until_empty(&queue).await;
    wait_for("all events", || async {
        let count: i64 = database.value("select count(*) from eventloader.events").await;
        (usize::try_from(count).unwrap() == first.len()).then_some(())
    })
    .await;
    one.stop().await;
    let mut stored: Vec<String> =
        database.column("select payload::text from eventloader.events").await;
    stored.sort();
    let mut want: Vec<String> = first.into_values().collect();
    want.sort();
    assert_eq!(stored, want);
    let letters: BTreeSet<String> = database
        .column("select convert_from(body, 'UTF8') from eventloader.dead_letter where kind = 'conflict'")
        .await
        .into_iter()
        .collect();
    assert_eq!(letters, other);
}
