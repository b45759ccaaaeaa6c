//! The driver for Kafka, against a cluster of librdkafka's own.

mod partitions;
mod stored;

use std::time::Duration;

use eventloader::source::queue::{
    Delivery, Gap, QueueFailure, QueueSession as _, QueueSource as _,
};
use eventloader::sources::kafka::{KafkaOptions, KafkaSource, ReadFrom};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::json;

pub(crate) use partitions::Partitions;

use crate::support::kafka::{Kafka, Outgoing, at_most, deliver, deliver_all, references};
use crate::support::wait_for;

const MIB: usize = 1 << 20;

fn numbered(partition: i32, offsets: std::ops::Range<i64>) -> Vec<String> {
    offsets.map(|offset| format!("clicks/{partition}@{offset}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_come_as_they_were_published() {
    let kafka = Kafka::start(2);
    let headers: &[(&str, &[u8])] = &[("ce_type", b"paid"), ("ce_id", b"x-1"), ("trace", b"\xff")];
    kafka.publish(Outgoing { partition: 1, value: Some(b"[1]"), key: Some(b"k"), headers }).await;
    kafka.publish(Outgoing { partition: 1, key: Some(b"k"), ..Outgoing::default() }).await;
    kafka.publish(Outgoing { partition: 1, value: Some(b""), ..Outgoing::default() }).await;
    let session = kafka.source().connect("test-1").await.unwrap();
    let deliveries = deliver_all(&session, 3).await;
    let messages: Vec<_> = deliveries.iter().flat_map(|delivery| &delivery.messages).collect();
    assert_eq!(references(&deliveries), numbered(1, 0..3));
    let [first, tombstone, empty] = messages[..] else { panic!("{messages:?}") };
    assert_eq!(first.stream.as_deref(), Some("clicks/1"));
    assert_eq!((first.version, &*first.body, &*first.routed_as), (Some(0), &b"[1]"[..], "clicks"));
    assert_eq!(first.event_type.as_deref(), Some("paid"));
    assert_eq!(first.message_id.as_deref(), Some("x-1"));
    assert_eq!(first.metadata["key"], "k");
    assert_eq!(first.metadata["headers"]["trace"], json!({ "base64": "/w==" }));
    assert_eq!((&*tombstone.body, &tombstone.metadata["tombstone"]), (&b"null"[..], &json!(true)));
    assert!(empty.body.is_empty() && !empty.metadata.contains_key("tombstone"));
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_acknowledged_is_committed() {
    let kafka = Kafka::start(1);
    kafka.publish_numbers(0, 0..10).await;
    let session = kafka.source().connect("test-1").await.unwrap();
    let mut deliveries = Vec::new();
    for count in [4, 3] {
        deliveries.push(deliver(&session, count).await);
    }
    assert_eq!(references(&deliveries), numbered(0, 0..7));
    assert_eq!(kafka.committed(0), None);
    session.acknowledge(deliveries.remove(0).receipt).await.unwrap();
    assert_eq!(kafka.committed(0), Some(4));
    session.close().await;
    assert_eq!(kafka.committed(0), Some(4), "the end of a session commits nothing");
    let session = kafka.source().connect("test-2").await.unwrap();
    let again = deliver_all(&session, 6).await;
    assert_eq!(references(&again), numbered(0, 4..10));
    for delivery in again {
        session.acknowledge(delivery.receipt).await.unwrap();
    }
    assert_eq!(kafka.committed(0), Some(10));
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_dropped_gives_everything_back() {
    let kafka = Kafka::start(1);
    kafka.publish_numbers(0, 0..5).await;
    let session = kafka.source().connect("test-1").await.unwrap();
    let taken = deliver(&session, 5).await;
    assert_eq!(references(&[taken]), numbered(0, 0..5));
    drop(session);
    let session = kafka.source().connect("test-2").await.unwrap();
    assert_eq!(references(&deliver_all(&session, 5).await), numbered(0, 0..5));
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_is_not_awaited_loses_nothing() {
    let kafka = Kafka::start(1);
    let session = kafka.source().connect("test-1").await.unwrap();
    kafka.publish_numbers(0, 0..3).await;
    // A batch that never fills, dropped again and again while messages arrive.
    let mut limits = at_most(100);
    limits.linger = Duration::from_mins(1);
    for _ in 0..40 {
        let waited = tokio::time::timeout(Duration::from_millis(100), session.deliver(limits));
        assert!(waited.await.is_err(), "the batch is not full");
    }
    assert_eq!(references(&deliver_all(&session, 3).await), numbered(0, 0..3));
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rejected_comes_again_in_the_same_session() {
    let kafka = Kafka::start(2);
    kafka.publish_numbers(0, 0..6).await;
    let session = kafka.source().connect("test-1").await.unwrap();
    let [first, second, third] =
        [deliver(&session, 2).await, deliver(&session, 2).await, deliver(&session, 2).await];
    session.acknowledge(first.receipt).await.unwrap();
    session.reject(second.receipt).await.unwrap();
    session.acknowledge(third.receipt).await.unwrap();
    assert_eq!(kafka.committed(0), Some(2), "what follows a rejected message is not committed");
    let again = deliver_all(&session, 4).await;
    assert_eq!(references(&again), numbered(0, 2..6));
    for delivery in again {
        session.acknowledge(delivery.receipt).await.unwrap();
    }
    assert_eq!(kafka.committed(0), Some(6));
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sessions_share_the_partitions() {
    let kafka = Kafka::start(2);
    kafka.publish_numbers(0, 0..3).await;
    kafka.publish_numbers(1, 0..3).await;
    let first = kafka.source().connect("test-1").await.unwrap();
    let in_hand = deliver_all(&first, 6).await;
    let second = kafka.source().connect("test-2").await.unwrap();
    // One partition moves. What was in hand of it comes to its new owner.
    let moved = deliver_all(&second, 3).await;
    let stream = moved[0].messages[0].stream.clone().unwrap();
    let lost: i32 = stream.trim_start_matches("clicks/").parse().unwrap();
    let kept = 1 - lost;
    assert_eq!(references(&moved), numbered(lost, 0..3));
    for delivery in in_hand {
        first.acknowledge(delivery.receipt).await.unwrap();
    }
    assert_eq!(kafka.committed(lost), None, "the partition is another's");
    assert_eq!(kafka.committed(kept), Some(3));
    for delivery in moved {
        second.acknowledge(delivery.receipt).await.unwrap();
    }
    assert_eq!(kafka.committed(lost), Some(3));
    // The one that leaves gives its partition to the other, which goes on behind what is committed.
    first.close().await;
    kafka.publish_numbers(kept, 3..5).await;
    assert_eq!(references(&deliver_all(&second, 2).await), numbered(kept, 3..5));
    second.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_wants_nothing_stays_in_the_group() {
    let kafka = Kafka::start(2);
    for partition in [0, 1] {
        kafka.publish_numbers(partition, 0..50).await;
    }
    let first = kafka.source().connect("test-1").await.unwrap();
    let taken = deliver(&first, 2).await;
    // A few batches of two wait, the rest is held back; longer than that pauses the partitions.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let second = kafka.source().connect("test-2").await.unwrap();
    let moved = deliver(&second, 1).await;
    assert_eq!(moved.messages.len(), 1, "the first let a partition go while it wanted nothing");
    first.acknowledge(taken.receipt).await.unwrap();
    let kept = format!("clicks/{}", 1 - moved.messages[0].metadata["partition"].as_i64().unwrap());
    let mut last = -1;
    while last < 49 {
        for message in deliver(&first, 10).await.messages {
            assert_eq!(message.stream.as_deref(), Some(kept.as_str()), "{}", message.reference);
            assert!(message.version > Some(last), "{} after {last}", message.reference);
            last = message.version.unwrap();
        }
    }
    first.close().await;
    second.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_come_whole() {
    let kafka = Kafka::start(1);
    let large = format!("\"{}\"", "x".repeat(16 * MIB));
    // The first of its partition: one that comes later makes the cluster forget it at once.
    kafka.publish(Outgoing { value: Some(large.as_bytes()), ..Outgoing::default() }).await;
    let session = kafka.source().connect("test-1").await.unwrap();
    let delivery = deliver(&session, 1).await;
    assert!(delivery.messages[0].body == large.as_bytes());
    session.acknowledge(delivery.receipt).await.unwrap();
    assert_eq!(kafka.committed(0), Some(1));
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_removed_is_a_gap() {
    let kafka = Kafka::start(1);
    kafka.publish_numbers(0, 0..2).await;
    let session = kafka.source().connect("test-1").await.unwrap();
    let delivery = deliver_all(&session, 2).await.pop().unwrap();
    session.acknowledge(delivery.receipt).await.unwrap();
    session.close().await;
    let value = format!("\"{}\"", "x".repeat(MIB));
    for _ in 0..8 {
        kafka.publish(Outgoing { value: Some(value.as_bytes()), ..Outgoing::default() }).await;
    }
    let warnings = kafka.source().inspect().await.unwrap().warnings;
    assert!(warnings[0].starts_with("clicks/0: the offsets 2 to "), "{warnings:?}");
    let session = kafka.source().connect("test-2").await.unwrap();
    // What is lost is known before the first message is fetched.
    let mut delivery = deliver(&session, 1).await;
    if delivery.messages.is_empty() {
        session.acknowledge(delivery.receipt).await.unwrap();
        let next = deliver(&session, 1).await;
        delivery = Delivery { gaps: delivery.gaps, ..next };
    }
    let first = delivery.messages[0].version.unwrap();
    assert!(first > 2, "the cluster still has everything");
    let [Gap { stream, first_id, last_id, reason }] = &delivery.gaps[..] else {
        panic!("{:?}", delivery.gaps)
    };
    assert_eq!((stream.as_deref(), *first_id, *last_id), (Some("clicks/0"), 2, first - 1));
    assert!(reason.contains("retention"), "{reason}");
    session.acknowledge(delivery.receipt).await.unwrap();
    assert_eq!(kafka.committed(0), Some(first + 1), "a gap is reported once");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_overtaken_by_retention_ends_and_the_next_one_knows_what_is_lost() {
    let kafka = Kafka::start(1);
    kafka.publish_numbers(0, 0..8).await;
    let session = kafka.source().connect("test-1").await.unwrap();
    let delivery = deliver(&session, 1).await;
    session.acknowledge(delivery.receipt).await.unwrap();
    // Two messages wait. The rest is not fetched any more once the partition is paused.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let value = format!("\"{}\"", "x".repeat(MIB));
    for _ in 0..8 {
        kafka.publish(Outgoing { value: Some(value.as_bytes()), ..Outgoing::default() }).await;
    }
    let error = loop {
        match session.deliver(at_most(1)).await {
            Ok(delivery) => assert!(delivery.messages[0].version < Some(8), "{delivery:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.class, QueueFailure::Unavailable);
    assert!(error.reason.contains("no longer has the next offset"), "{error}");
    session.close().await;
    let session = kafka.source().connect("test-2").await.unwrap();
    let delivery = deliver(&session, 1).await;
    let gap = delivery.gaps.first().expect("a gap");
    assert_eq!(gap.first_id, 1);
    assert!(gap.last_id >= 8, "{gap:?}");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_begins_where_it_is_told_to() {
    let kafka = Kafka::start(2);
    kafka.publish_numbers(0, 0..3).await;
    let options = KafkaOptions { read_from: ReadFrom::GroupCreated, ..kafka.options() };
    let source = KafkaSource::new(options);
    let session = source.connect("test-1").await.unwrap();
    assert_eq!((kafka.committed(0), kafka.committed(1)), (Some(3), Some(0)));
    session.close().await;
    // Published while nobody reads, and after the group was created.
    kafka.publish_numbers(0, 3..5).await;
    let session = source.connect("test-2").await.unwrap();
    assert_eq!(references(&deliver_all(&session, 2).await), numbered(0, 3..5));
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_away_ends_the_session_and_loses_nothing() {
    let kafka = Kafka::start(1);
    kafka.publish_numbers(0, 0..4).await;
    let session = kafka.source().connect("test-1").await.unwrap();
    let [first, second] = [deliver(&session, 2).await, deliver(&session, 2).await];
    session.acknowledge(first.receipt).await.unwrap();
    kafka.down();
    let error = session.deliver(at_most(1)).await.unwrap_err();
    assert_eq!(error.class, QueueFailure::Unavailable);
    assert!(error.reason.contains(&kafka.brokers), "{error}");
    assert!(error.fix.is_some());
    let refused = session.acknowledge(second.receipt).await.unwrap_err();
    assert_eq!(refused.class, QueueFailure::Unavailable);
    session.close().await;
    let refused = kafka.source().connect("test-1").await.unwrap_err();
    assert_eq!(refused.class, QueueFailure::Unavailable);
    kafka.up();
    let session = kafka.source().connect("test-1").await.unwrap();
    assert_eq!(references(&deliver_all(&session, 2).await), numbered(0, 2..4));
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_fails_for_a_moment_is_made_again() {
    let kafka = Kafka::start(1);
    kafka.publish_numbers(0, 0..2).await;
    let session = kafka.source().connect("test-1").await.unwrap();
    let [first, second] = [deliver(&session, 1).await, deliver(&session, 1).await];
    let rebalance = RDKafkaRespErr::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS;
    kafka.refuse(RDKafkaApiKey::OffsetCommit, &[rebalance, rebalance]);
    session.acknowledge(first.receipt).await.unwrap();
    assert_eq!(kafka.committed(0), Some(1));
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
    kafka.refuse(RDKafkaApiKey::OffsetCommit, &[denied]);
    let error = session.acknowledge(second.receipt).await.unwrap_err();
    assert_eq!(error.class, QueueFailure::Rejected);
    assert!(error.reason.contains("group \"eventloader\""), "{error}");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_may_not_see_its_offsets_leaves_again() {
    let kafka = Kafka::start(1);
    kafka.publish_numbers(0, 0..2).await;
    let session = kafka.source().connect("test-1").await.unwrap();
    // A new group waits 3 s before it hands out partitions.
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
    kafka.refuse(RDKafkaApiKey::OffsetFetch, &[denied; 20]);
    let error = session.deliver(at_most(1)).await.unwrap_err();
    assert_eq!(error.class, QueueFailure::Rejected);
    let closed = tokio::time::timeout(Duration::from_secs(9), session.close()).await;
    assert!(closed.is_ok(), "the group was not left");
    kafka.refuse_no_more(RDKafkaApiKey::OffsetFetch);
    let session = kafka.source().connect("test-2").await.unwrap();
    assert_eq!(references(&deliver_all(&session, 2).await), numbered(0, 0..2));
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_to_do() {
    let kafka = Kafka::start(1);
    let missing = KafkaSource::new(KafkaOptions { topic: "typo".to_owned(), ..kafka.options() });
    for error in
        [missing.connect("test-1").await.unwrap_err(), missing.inspect().await.unwrap_err()]
    {
        assert_eq!(error.class, QueueFailure::Rejected);
        assert_eq!(error.reason, format!("the topic \"typo\" does not exist at {}", kafka.brokers));
        assert!(error.fix.unwrap().contains("kafka-topics.sh --create --topic typo"));
    }
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    kafka.refuse_topic(denied);
    let error = kafka.source().connect("test-1").await.unwrap_err();
    assert_eq!(error.class, QueueFailure::Rejected);
    assert!(error.fix.as_ref().unwrap().contains("--operation Read --topic clicks"), "{error:?}");
    let fine = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    kafka.refuse_topic(fine);
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
    kafka.refuse(RDKafkaApiKey::OffsetFetch, &[denied; 20]);
    let error = kafka.source().inspect().await.unwrap_err();
    assert_eq!(error.class, QueueFailure::Rejected);
    assert!(error.reason.contains("consumer of the group \"eventloader\""), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_do_not_answer_are_named() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options = |brokers: Vec<String>| KafkaOptions { brokers, ..Kafka::start(1).options() };
    let error = KafkaSource::new(options(vec![nobody.to_string()])).inspect().await.unwrap_err();
    assert_eq!(error.class, QueueFailure::Unavailable);
    assert!(error.reason.starts_with(&format!("{nobody} cannot be reached")), "{error}");
    let unknown = vec!["kafka.invalid:9092".to_owned()];
    let error = KafkaSource::new(options(unknown)).inspect().await.unwrap_err();
    assert!(error.reason.contains("kafka.invalid:9092"), "{error}");
    assert!(error.fix.unwrap().contains("`brokers`"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_joins_nobody_and_tells_the_lag() {
    let kafka = Kafka::start(2);
    kafka.publish_numbers(0, 0..5).await;
    let seen = kafka.source().inspect().await.unwrap();
    assert_eq!(
        seen.what,
        "topic \"clicks\": 2 partitions, 5 offsets; group \"eventloader\" has no offsets: it begins with the first \
         message"
    );
    let session = kafka.source().connect("test-1").await.unwrap();
    let delivery = deliver_all(&session, 5).await;
    for delivery in delivery {
        session.acknowledge(delivery.receipt).await.unwrap();
    }
    kafka.publish_numbers(0, 5..7).await;
    let seen = kafka.source().inspect().await.unwrap();
    assert!(
        seen.what.ends_with("7 offsets; group \"eventloader\" is 2 offsets behind"),
        "{seen:?}"
    );
    assert_eq!(seen.warnings, Vec::<String>::new());
    // The session that was there all along still has the partitions.
    let more = wait_for("the messages", || async { Some(deliver(&session, 2).await) }).await;
    assert_eq!(references(&[more]), numbered(0, 5..7));
    session.close().await;
}
