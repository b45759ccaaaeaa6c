//! Kafka and the database together: what is in `events` after everything that can happen.

use std::sync::Arc;
use std::time::Duration;

use eventloader::consumer::ConsumedSource;
use eventloader::mapping::Pointer;
use eventloader::mapping::message::{MessageMapping, Payload, Place};
use eventloader::sources::kafka::{KafkaOptions, KafkaSource, ReadFrom};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::queues::conformance::{Fixture, Sent, consumed, numbers, queue_conformance};
use crate::support::consuming::Consuming;
use crate::support::database::Database;
use crate::support::kafka::{Kafka, Outgoing};
use crate::support::program::Program;
use crate::support::wait_for;

/// A topic of one partition.
pub(super) struct Topic(pub(super) Kafka);

impl Fixture for Topic {
    type Source = KafkaSource;

    async fn create() -> Self {
        Self(Kafka::start(1))
    }

    fn source(&self) -> Arc<KafkaSource> {
        Arc::new(self.0.source())
    }

    fn mapping(&self) -> MessageMapping {
        MessageMapping {
            event_type: Place::Usual(Pointer::to_key("type")),
            message_id: Place::Usual(Pointer::to_key("message_id")),
            payload: Payload::At(Pointer::whole()),
            ..MessageMapping::default()
        }
    }

    async fn publish(&self, messages: &[Sent]) {
        let each = messages.iter();
        let each = each.map(|Sent { message_id, body }| {
            (body.as_slice(), message_id.map(|id| id.to_string()))
        });
        self.0.publish_all(each).await;
    }

    async fn unacknowledged(&self) -> usize {
        let left = self.0.end(0) - self.0.committed(0).unwrap_or_default();
        usize::try_from(left).unwrap()
    }
}

queue_conformance!(Topic);

/// `eventloader.toml` for the topic.
fn configuration(kafka: &Kafka, more: &str) -> String {
    format!(
        "[sources.clicks]\ntype = \"kafka\"\nbrokers = [\"{}\"]\ntopic = \"clicks\"\n{more}",
        kafka.brokers
    )
}

async fn stored(database: &Database) -> i64 {
    database.value("select count(*) from eventloader.events").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_deposit_and_commit_stores_nothing_twice() {
    let (database, kafka) = (Database::migrated().await, Kafka::start(2));
    let program = Program::new(&database, &configuration(&kafka, ""));
    let mut victim = program.start(&["run"], "victim.log");
    for partition in [0, 1] {
        kafka.publish_numbers(partition, 0..1).await;
    }
    wait_for("the first commits", || async {
        let committed = (kafka.committed(0), kafka.committed(1));
        (committed == (Some(1), Some(1))).then_some(())
    })
    .await;
    let never = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS; 1000];
    kafka.refuse(RDKafkaApiKey::OffsetCommit, &never);
    for partition in [0, 1] {
        kafka.publish_numbers(partition, 1..20).await;
    }
    wait_for("the events", || async { (stored(&database).await == 40).then_some(()) }).await;
    victim.kill().await.unwrap();
    assert_eq!(
        (kafka.committed(0), kafka.committed(1)),
        (Some(1), Some(1)),
        "nothing was committed"
    );
    kafka.refuse_no_more(RDKafkaApiKey::OffsetCommit);
    // The group misses the victim after 10 s.
    let mut heir = program.start(&["run"], "heir.log");
    wait_for("commits", || async {
        let committed = (kafka.committed(0), kafka.committed(1));
        (committed == (Some(20), Some(20))).then_some(())
    })
    .await;
    assert_eq!(stored(&database).await, 40);
    let streams: Vec<String> = database
        .column("select stream || ' ' || count(*) || ' ' || max(version) from eventloader.events group by stream order by 1")
        .await;
    assert_eq!(streams, ["clicks/0 20 19", "clicks/1 20 19"]);
    let letters: i64 = database.value("select count(*) from eventloader.dead_letter").await;
    assert_eq!(letters, 0);
    heir.kill().await.unwrap();
    assert!(!program.read("heir.log").contains("rdkafka"), "{}", program.read("heir.log"));
}

/// The same source in a group that the brokers do not know, or know no longer.
fn forgotten(topic: &Topic, read_from: ReadFrom) -> ConsumedSource {
    let group = format!("forgotten-{read_from:?}");
    let options = KafkaOptions { group, read_from, ..topic.0.options() };
    ConsumedSource::new("q", Arc::new(KafkaSource::new(options)))
        .with_settings(consumed(topic, "q").settings)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_was_forgotten_loses_nothing_and_stores_nothing_twice() {
    for (read_from, read_again) in [(ReadFrom::Beginning, 30), (ReadFrom::GroupCreated, 0)] {
        let (database, topic) = (Database::migrated().await, Topic(Kafka::start(2)));
        topic.0.publish_numbers(0, 0..30).await;
        let consuming = Consuming::start(&database, vec![consumed(&topic, "q")]).await;
        wait_for("the events", || async { (stored(&database).await == 30).then_some(()) }).await;
        consuming.stop().await;
        // While nobody is there: in the partition that was read, and in one of which nothing is stored.
        topic.0.publish_numbers(0, 30..40).await;
        topic.0.publish_numbers(1, 40..45).await;
        let consuming = Consuming::start(&database, vec![forgotten(&topic, read_from)]).await;
        wait_for("what came since", || async { (stored(&database).await >= 45).then_some(()) })
            .await;
        let again = || consuming.duplicates();
        wait_for("what is read again", || async { (again() >= read_again).then_some(()) }).await;
        assert_eq!(again(), read_again, "{read_from:?}");
        consuming.stop().await;
        let mut numbers = numbers(&database).await;
        numbers.sort_unstable();
        assert_eq!(numbers, (0..45).collect::<Vec<_>>(), "{read_from:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_removed_behind_what_is_stored_is_a_gap_for_a_forgotten_group() {
    let (database, topic) = (Database::migrated().await, Topic::create().await);
    topic.0.publish_numbers(0, 0..3).await;
    let consuming = Consuming::start(&database, vec![consumed(&topic, "q")]).await;
    wait_for("the events", || async { (stored(&database).await == 3).then_some(()) }).await;
    consuming.stop().await;
    publish_more_than_is_kept(&topic).await;
    let group = forgotten(&topic, ReadFrom::GroupCreated);
    let consuming = Consuming::start(&database, vec![group]).await;
    let last = "select coalesce(max(version), 0) from eventloader.events";
    wait_for("the last one", || async { (database.value::<i64>(last).await == 10).then_some(()) })
        .await;
    consuming.stop().await;
    assert_eq!(gaps(&database).await, [gap_before_the_first_that_is_left(&database).await]);
}

/// Eight messages of a megabyte.
async fn publish_more_than_is_kept(topic: &Topic) {
    let value = format!("\"{}\"", "x".repeat(1_000_000));
    for _ in 0..8 {
        topic.0.publish(Outgoing { value: Some(value.as_bytes()), ..Outgoing::default() }).await;
    }
}

async fn gaps(database: &Database) -> Vec<String> {
    database.column("select first_id || '..' || last_id from eventloader.source_gap").await
}

async fn gap_before_the_first_that_is_left(database: &Database) -> String {
    let first: i64 =
        database.value("select min(version) from eventloader.events where version > 2").await;
    assert!(first > 3, "nothing was removed");
    format!("3..{}", first - 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn tombstones_are_events_and_empty_values_are_dead_letters() {
    let (database, topic) = (Database::migrated().await, Topic::create().await);
    let key = Some(&b"k"[..]);
    topic.0.publish(Outgoing { key, ..Outgoing::default() }).await;
    topic.0.publish(Outgoing { key, value: Some(b""), ..Outgoing::default() }).await;
    topic
        .0
        .publish(Outgoing { key, value: Some(b"\0\0\0\0\x07avro"), ..Outgoing::default() })
        .await;
    topic.0.publish(Outgoing { key, value: Some(b"7"), ..Outgoing::default() }).await;
    let consuming = Consuming::start(&database, vec![consumed(&topic, "q")]).await;
    wait_for("the events", || async { (stored(&database).await == 2).then_some(()) }).await;
    wait_for("the commit", || async { (topic.0.committed(0) == Some(4)).then_some(()) }).await;
    consuming.stop().await;
    let events: Vec<String> = database
        .column(
            "select concat_ws(' ', stream, version, event_type, payload, metadata->>'key', metadata->>'tombstone') \
             from eventloader.events order by position",
        )
        .await;
    assert_eq!(events, ["clicks/0 0 clicks null k true", "clicks/0 3 clicks 7 k"]);
    let letters: Vec<String> = database
        .column("select reference || ': ' || reason from eventloader.dead_letter order by id")
        .await;
    assert_eq!(letters[0], "clicks/0@1: the body is empty");
    assert!(
        letters[1].starts_with("clicks/0@2: ") && letters[1].contains("schema 7"),
        "{letters:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_written_down() {
    let (database, topic) = (Database::migrated().await, Topic::create().await);
    topic.0.publish_numbers(0, 0..3).await;
    let consuming = Consuming::start(&database, vec![consumed(&topic, "q")]).await;
    wait_for("the commit", || async { (topic.0.committed(0) == Some(3)).then_some(()) }).await;
    consuming.stop().await;
    publish_more_than_is_kept(&topic).await;
    let consuming = Consuming::start(&database, vec![consumed(&topic, "q")]).await;
    wait_for("the commit", || async { (topic.0.committed(0) == Some(11)).then_some(()) }).await;
    consuming.stop().await;
    assert_eq!(gaps(&database).await, [gap_before_the_first_that_is_left(&database).await]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_explains_what_is_missing() {
    let (database, kafka) = (Database::migrated().await, Kafka::start(1));
    let program = Program::new(&database, &configuration(&kafka, ""));
    let checked = program.run(&["check"]).await;
    assert!(checked.stdout.contains("topic \"clicks\": 1 partitions, 0 offsets"), "{checked:?}");
    kafka.refuse_topic(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    let checked = program.run(&["check"]).await;
    assert_ne!(checked.code, Some(0), "{checked:?}");
    assert!(checked.stdout.contains("does not exist at"), "{checked:?}");
    assert!(checked.stdout.contains("kafka-topics.sh --create --topic clicks"), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_the_place_in_the_group_is_kept() {
    let (database, topic) = (Database::migrated().await, Topic::create().await);
    let consuming = Consuming::start(&database, vec![consumed(&topic, "q")]).await;
    topic.0.publish_numbers(0, 0..1).await;
    wait_for("the commit", || async { (topic.0.committed(0) == Some(1)).then_some(()) }).await;
    let mut lock = database.pool.begin().await.unwrap();
    sqlx::query("lock table eventloader.event_inbox in exclusive mode")
        .execute(&mut *lock)
        .await
        .unwrap();
    topic.0.publish_numbers(0, 1..400).await;
    // Longer than the session of a member, and than it takes to pause the partitions.
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert_eq!(topic.0.committed(0), Some(1));
    lock.rollback().await.unwrap();
    wait_for("the commit", || async { (topic.0.committed(0) == Some(400)).then_some(()) }).await;
    consuming.stop().await;
    assert_eq!(numbers(&database).await, (0..400).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_nothing_is_committed_and_nothing_lost() {
    let (database, kafka) = (Database::migrated().await, Kafka::start(2));
    let program = Program::new(&database, &configuration(&kafka, ""));
    let mut running = program.start(&["run"], "log");
    kafka.publish_numbers(0, 0..100).await;
    wait_for("the events", || async { (stored(&database).await == 100).then_some(()) }).await;
    wait_for("the commit", || async { (kafka.committed(0) == Some(100)).then_some(()) }).await;
    database
        .while_away(async {
            kafka.publish_numbers(0, 100..200).await;
            kafka.publish_numbers(1, 0..100).await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_eq!((kafka.committed(0), kafka.committed(1)), (Some(100), None));
        })
        .await;
    wait_for("the commits", || async {
        let committed = (kafka.committed(0), kafka.committed(1));
        (committed == (Some(200), Some(100))).then_some(())
    })
    .await;
    wait_for("the rest", || async { (stored(&database).await >= 300).then_some(()) }).await;
    assert_eq!(stored(&database).await, 300);
    let letters: i64 = database.value("select count(*) from eventloader.dead_letter").await;
    assert_eq!(letters, 0);
    let log = program.read("log");
    assert_eq!(log.matches("the queue is consumed").count(), 1, "it left the group: {log}");
    running.kill().await.unwrap();
}
