//! The source `amqp` against a real RabbitMQ.

mod failures;
mod faults;
mod program;
mod unreadable;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use eventloader::mapping::Pointer;
use eventloader::mapping::message::{MessageMapping, Place};
use eventloader::source::queue::{
    BatchLimits, Delivery, Message, QueueError, QueueFailure, QueueSession, QueueSource,
};
use eventloader::sources::amqp::{
    Amqp, AmqpOptions, AmqpReceipt, AmqpSession, Binding, Broker, QueueType, Topology,
};
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions};
use lapin::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::conformance::{Fixture, Sent, queue_conformance};
use crate::support::rabbitmq::RabbitMq;
use crate::support::wait_for;

const LIMITS: BatchLimits =
    BatchLimits { count: 1000, bytes: 64 << 20, linger: Duration::from_millis(100) };
/// Long enough for whatever is on its way to arrive.
const SOON: Duration = Duration::from_millis(400);
const LATER: Duration = Duration::from_mins(1);

/// A queue of the shared broker.
pub(crate) struct Queue {
    rabbit: &'static RabbitMq,
    name: String,
}

impl Fixture for Queue {
    type Source = Amqp;

    async fn create() -> Self {
        let rabbit = RabbitMq::shared().await;
        Self { rabbit, name: rabbit.declare("amqp", &[]).await }
    }

    fn source(&self) -> Arc<Amqp> {
        let options = options(&self.rabbit.amqp_url(), &self.name);
        Arc::new(Amqp::new(AmqpOptions { prefetch: 100, ..options }).unwrap())
    }

    fn mapping(&self) -> MessageMapping {
        let usual = |key| Place::Usual(Pointer::to_key(key));
        let (event_type, message_id) = (usual("message_name"), usual("message_id"));
        MessageMapping { event_type, message_id, ..MessageMapping::default() }
    }

    async fn publish(&self, messages: &[Sent]) {
        let published = messages.iter().map(|Sent { message_id, body }| {
            let id = message_id.unwrap_or_default().to_string();
            (body, BasicProperties::default().with_message_id(id.into()))
        });
        self.rabbit.publish(&self.name, published).await;
    }

    /// The broker counts these twice a second.
    async fn unacknowledged(&self) -> usize {
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let path =
            format!("/api/queues/%2f/{}?disable_stats=true&enable_queue_totals=true", self.name);
        let shown = self.rabbit.api("GET", &path, &json!(null)).await;
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        usize::try_from(shown["messages"].as_u64().unwrap_or_default()).unwrap()
    }
}

queue_conformance!(Queue);

fn options(url: &str, queue: &str) -> AmqpOptions {
    AmqpOptions::new(Broker::parse(url).unwrap(), queue)
}

async fn session(rabbit: &RabbitMq, queue: &str) -> AmqpSession {
    let source = Amqp::new(options(&rabbit.amqp_url(), queue)).unwrap();
    source.connect("instance-1").await.unwrap()
}

async fn session_of(options: AmqpOptions) -> Result<AmqpSession, QueueError> {
    Amqp::new(options).unwrap().connect("instance-1").await
}

/// Why a connection is refused.
async fn refusal(options: AmqpOptions) -> QueueError {
    let error = session_of(options).await.err().unwrap();
    assert!(!error.to_string().contains("s3cret"), "{error}");
    error
}

fn numbered(numbers: std::ops::Range<usize>) -> impl Iterator<Item = (String, BasicProperties)> {
    numbers.map(|number| (number.to_string(), BasicProperties::default()))
}

fn bodies(messages: &[Message]) -> Vec<usize> {
    messages.iter().map(|m| std::str::from_utf8(&m.body).unwrap().parse().unwrap()).collect()
}

/// Delivers until this many messages are there, and keeps the receipts.
async fn deliver(session: &AmqpSession, count: usize) -> (Vec<Message>, Vec<AmqpReceipt>) {
    let (mut messages, mut receipts) = (Vec::new(), Vec::new());
    while messages.len() < count {
        let next = timeout(Duration::from_secs(20), session.deliver(LIMITS)).await;
        let Delivery { messages: new, receipt, gaps } = next.expect("no message came").unwrap();
        assert!(!new.is_empty() && gaps.is_empty());
        messages.extend(new);
        receipts.push(receipt);
    }
    (messages, receipts)
}

/// The end of the session.
async fn end(session: &AmqpSession) -> QueueError {
    let next = timeout(Duration::from_secs(20), session.deliver(LIMITS)).await;
    next.expect("the session did not end").unwrap_err()
}

async fn acknowledge(session: &AmqpSession, receipts: Vec<AmqpReceipt>) {
    for receipt in receipts {
        session.acknowledge(receipt).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_acknowledged_is_gone_and_the_rest_comes_again() {
    let rabbit = RabbitMq::shared().await;
    for queue_type in ["classic", "quorum"] {
        let kind = ("x-queue-type", AMQPValue::LongString(queue_type.into()));
        let queue = rabbit.declare("amqp", &[kind]).await;
        rabbit.publish(&queue, numbered(0..10)).await;
        let first = session(rabbit, &queue).await;
        let two = BatchLimits { count: 2, ..LIMITS };
        let stored = first.deliver(two).await.unwrap();
        let given_back = first.deliver(two).await.unwrap();
        let open = first.deliver(two).await.unwrap();
        assert_eq!(bodies(&stored.messages), [0, 1]);
        assert_eq!(bodies(&given_back.messages), [2, 3]);
        first.acknowledge(stored.receipt).await.unwrap();
        first.reject(given_back.receipt).await.unwrap();
        first.close().await;

        let second = session(rabbit, &queue).await;
        let (messages, receipts) = deliver(&second, 8).await;
        let mut again = bodies(&messages);
        again.sort_unstable();
        assert_eq!(again, (2..10).collect::<Vec<_>>(), "{queue_type}");
        for before in given_back.messages.iter().chain(&open.messages) {
            assert!(messages.contains(before), "a redelivery differs: {before:?} {messages:?}");
        }
        acknowledge(&second, receipts).await;
        second.close().await;
        assert_eq!(rabbit.depth(&queue).await, 0, "{queue_type}");
    }
}

#[tokio::test]
async fn deliveries_may_be_settled_out_of_order() {
    let rabbit = RabbitMq::shared().await;
    let queue = rabbit.declare("amqp", &[]).await;
    rabbit.publish(&queue, numbered(0..6)).await;
    let session = session(rabbit, &queue).await;
    let two = BatchLimits { count: 2, ..LIMITS };
    let first = session.deliver(two).await.unwrap();
    let second = session.deliver(two).await.unwrap();
    let third = session.deliver(two).await.unwrap();
    session.acknowledge(third.receipt).await.unwrap();
    session.acknowledge(second.receipt).await.unwrap();
    session.reject(first.receipt).await.unwrap();
    let (again, receipts) = deliver(&session, 2).await;
    assert_eq!(bodies(&again), [0, 1]);
    acknowledge(&session, receipts).await;
    session.close().await;
    assert_eq!(rabbit.depth(&queue).await, 0);
}

#[tokio::test]
async fn a_dropped_call_loses_nothing() {
    let rabbit = RabbitMq::shared().await;
    let queue = rabbit.declare("amqp", &[]).await;
    let session = session(rabbit, &queue).await;
    let patient = BatchLimits { linger: LATER, ..LIMITS };
    for round in 0..3 {
        rabbit.publish(&queue, numbered(round * 4..round * 4 + 4)).await;
        assert!(timeout(SOON, session.deliver(patient)).await.is_err(), "it did not linger");
    }
    let hasty = BatchLimits { linger: Duration::ZERO, count: 10, ..LIMITS };
    let ten = session.deliver(hasty).await.unwrap();
    assert_eq!(bodies(&ten.messages), (0..10).collect::<Vec<_>>(), "kept, and within the limit");
    let rest = session.deliver(hasty).await.unwrap();
    assert_eq!(bodies(&rest.messages), [10, 11]);
    session.acknowledge(ten.receipt).await.unwrap();
    session.acknowledge(rest.receipt).await.unwrap();
    session.close().await;
    assert_eq!(rabbit.depth(&queue).await, 0);
}

#[tokio::test]
async fn a_batch_ends_by_count_by_bytes_or_when_it_has_lingered() {
    let rabbit = RabbitMq::shared().await;
    let queue = rabbit.declare("amqp", &[]).await;
    let body = || ("x".repeat(100), BasicProperties::default());
    rabbit.publish(&queue, (0..10).map(|_| body())).await;
    let session = session(rabbit, &queue).await;
    let by_count = BatchLimits { count: 3, linger: LATER, ..LIMITS };
    assert_eq!(session.deliver(by_count).await.unwrap().messages.len(), 3);
    let by_bytes = BatchLimits { bytes: 250, linger: LATER, ..LIMITS };
    assert_eq!(session.deliver(by_bytes).await.unwrap().messages.len(), 3, "the third goes over");
    let started = Instant::now();
    assert_eq!(session.deliver(LIMITS).await.unwrap().messages.len(), 4);
    assert!(started.elapsed() >= LIMITS.linger);
    session.close().await;
}

#[tokio::test]
async fn no_more_than_prefetch_is_here_without_an_acknowledgement() {
    let rabbit = RabbitMq::shared().await;
    let queue = rabbit.declare("amqp", &[]).await;
    rabbit.publish(&queue, numbered(0..30)).await;
    let options = AmqpOptions { prefetch: 10, ..options(&rabbit.amqp_url(), &queue) };
    let session = session_of(options).await.unwrap();
    let patient = BatchLimits { linger: LATER, ..LIMITS };
    for round in 0..3 {
        let mut receipts = Vec::new();
        for first in [round * 10, round * 10 + 5] {
            let batch = timeout(LATER / 2, session.deliver(patient)).await;
            let batch = batch.expect("it lingers for what cannot come").unwrap();
            assert_eq!(bodies(&batch.messages), (first..first + 5).collect::<Vec<_>>());
            receipts.push(batch.receipt);
        }
        assert!(timeout(SOON, session.deliver(LIMITS)).await.is_err(), "more came");
        assert_eq!(rabbit.depth(&queue).await, u32::try_from(20 - 10 * round).unwrap());
        for receipt in receipts {
            session.acknowledge(receipt).await.unwrap();
        }
    }
    session.close().await;
}

#[tokio::test]
async fn large_messages_come_in_smaller_numbers_and_in_order() {
    let rabbit = RabbitMq::shared().await;
    let queue = rabbit.declare("amqp", &[]).await;
    for first in (0..200).step_by(20) {
        let zeros = "0".repeat((1 << 20) - 3);
        let body = |n: usize| (format!("{zeros}{n:03}"), BasicProperties::default());
        rabbit.publish(&queue, (first..first + 20).map(body)).await;
    }
    let session = session(rabbit, &queue).await;
    let limits = BatchLimits { bytes: 32 << 20, ..LIMITS };
    let (mut came, mut receipts) = (Vec::new(), Vec::new());
    // 64 MiB, and what came while the size was not known.
    while came.len() < 74 {
        let delivery = timeout(LATER, session.deliver(limits)).await.unwrap().unwrap();
        came.extend(bodies(&delivery.messages));
        receipts.push(delivery.receipt);
    }
    assert!(timeout(SOON, session.deliver(limits)).await.is_err(), "more came");
    assert_eq!((came.len(), rabbit.depth(&queue).await), (74, 126));
    rabbit.publish(&queue, numbered(200..5200)).await;
    acknowledge(&session, receipts).await;
    while came.len() < 5200 {
        let delivery = timeout(LATER, session.deliver(limits)).await.unwrap().unwrap();
        came.extend(bodies(&delivery.messages));
        session.acknowledge(delivery.receipt).await.unwrap();
    }
    assert!(came == (0..5200).collect::<Vec<_>>(), "another order: {came:?}");
    session.close().await;
    assert_eq!(rabbit.depth(&queue).await, 0);
}

fn headers_of_every_type() -> FieldTable {
    let mut inner = FieldTable::default();
    inner.insert("deep".into(), AMQPValue::Boolean(true));
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("bool", AMQPValue::Boolean(false)),
        ("i8", AMQPValue::ShortShortInt(-8)),
        ("u8", AMQPValue::ShortShortUInt(200)),
        ("i16", AMQPValue::ShortInt(-300)),
        ("u16", AMQPValue::ShortUInt(60_000)),
        ("i32", AMQPValue::LongInt(-70_000)),
        ("u32", AMQPValue::LongUInt(4_000_000_000)),
        ("i64", AMQPValue::LongLongInt(i64::MIN)),
        ("f32", AMQPValue::Float(0.1)),
        ("f64", AMQPValue::Double(99.99)),
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 9_999 })),
        ("text", AMQPValue::LongString("grüße".into())),
        ("latin-1", AMQPValue::LongString(vec![0xfc].into())),
        ("bytes", AMQPValue::ByteArray(ByteArray::from(vec![0, 255]))),
        ("time", AMQPValue::Timestamp(1_700_000_000)),
        (
            "list",
            AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::LongInt(1), AMQPValue::Void])),
        ),
        ("table", AMQPValue::FieldTable(inner)),
        ("void", AMQPValue::Void),
    ] {
        headers.insert(name.into(), value);
    }
    headers
}

#[tokio::test]
async fn properties_and_headers_of_every_type_are_kept() {
    let rabbit = RabbitMq::shared().await;
    let queue = rabbit.declare("amqp", &[]).await;
    let properties = BasicProperties::default()
        .with_headers(headers_of_every_type())
        .with_type("order.placed".into())
        .with_message_id("7f2c1e9a-7b54-4c6e-9c1e-0a4f3a6f2b11".into())
        .with_timestamp(1_700_000_001)
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_correlation_id("c-1".into())
        .with_reply_to("answers".into())
        .with_expiration("60000".into())
        .with_app_id("shop".into())
        .with_cluster_id("c".into())
        .with_priority(3)
        .with_delivery_mode(2);
    let plain = BasicProperties::default().with_message_id("no uuid".into()).with_type("".into());
    rabbit.publish(&queue, [("{}", properties), ("[]", plain)]).await;
    let session = session(rabbit, &queue).await;
    let (messages, _) = deliver(&session, 2).await;
    session.close().await;

    let [full, plain] = &messages[..] else { panic!("{messages:?}") };
    let id = "7f2c1e9a-7b54-4c6e-9c1e-0a4f3a6f2b11";
    assert_eq!((full.message_id.as_deref(), &*full.reference), (Some(id), id));
    assert_eq!(full.event_type.as_deref(), Some("order.placed"));
    let occurred_at: DateTime<Utc> = "2023-11-14T22:13:21Z".parse().unwrap();
    assert_eq!(full.occurred_at, Some(occurred_at));
    assert_eq!((full.version, &full.fault, &*full.routed_as), (None, &None, &*queue));
    let headers = json!({
        "bool": false, "i8": -8, "u8": 200, "i16": -300, "i32": -70_000,
        "u16": 60_000, "u32": 4_000_000_000_u32, "i64": i64::MIN, "f32": 0.1, "f64": 99.99,
        "decimal": 99.99, "text": "grüße", "latin-1": "/A==", "bytes": "AP8=",
        "time": "2023-11-14T22:13:20Z", "list": [1, null], "table": { "deep": true }, "void": null,
    });
    let wanted = json!({
        "exchange": "", "routing_key": queue, "headers": headers, "priority": 3, "delivery_mode": 2,
        "content_type": "application/json", "content_encoding": "utf-8", "correlation_id": "c-1",
        "reply_to": "answers", "expiration": "60000", "app_id": "shop", "cluster_id": "c",
    });
    assert_eq!(json!(full.metadata), wanted);
    assert_eq!((plain.event_type.as_deref(), plain.message_id.as_deref()), (None, Some("no uuid")));
    let wanted = json!({
        "exchange": "", "routing_key": queue, "message_id": "no uuid", "delivery_mode": 2,
    });
    assert_eq!(json!(plain.metadata), wanted);
}

#[tokio::test]
async fn empty_and_large_bodies_come_as_they_are() {
    let rabbit = RabbitMq::shared().await;
    let queue = rabbit.declare("amqp", &[]).await;
    let large: Vec<u8> = (0..16 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
    for body in [&b""[..], &large, &b"{}"[..]] {
        rabbit.publish(&queue, [(body, BasicProperties::default())]).await;
    }
    let session = session(rabbit, &queue).await;
    let (messages, receipts) = deliver(&session, 3).await;
    assert!(messages[0].body.is_empty());
    assert!(messages[1].body == large, "{} bytes", messages[1].body.len());
    assert_eq!(&*messages[2].body, b"{}");
    acknowledge(&session, receipts).await;
    session.close().await;
    assert_eq!(rabbit.depth(&queue).await, 0);
}

#[tokio::test]
async fn the_broker_shows_the_names_of_its_consumers() {
    let rabbit = RabbitMq::shared().await;
    let queue = rabbit.declare("amqp", &[]).await;
    let source = Amqp::new(options(&rabbit.amqp_url(), &queue)).unwrap();
    let long = format!("host-7-{}", "ü".repeat(200));
    let sessions = [source.connect("host-1").await.unwrap(), source.connect(&long).await.unwrap()];
    let consumers = wait_for("both consumers", async || {
        let shown = rabbit.api("GET", "/api/consumers/%2f", &json!(null)).await;
        let shown: Vec<serde_json::Value> = serde_json::from_str(&shown).unwrap();
        let ours = shown.into_iter().filter(|shown| shown["queue"]["name"] == *queue);
        let tags: Vec<String> =
            ours.map(|c| c["consumer_tag"].as_str().unwrap().to_owned()).collect();
        (tags.len() == 2).then_some(tags)
    })
    .await;
    assert!(consumers.contains(&"host-1".to_owned()), "{consumers:?}");
    assert!(consumers.iter().any(|tag| tag.starts_with("host-7-ü")), "{consumers:?}");
    assert_eq!(
        wait_for("a connection", async || {
            Some(rabbit.close_connections("host-7").await).filter(|closed| *closed > 0)
        })
        .await,
        1
    );
    assert_eq!(end(&sessions[1]).await.class, QueueFailure::Unavailable);
}

#[tokio::test]
async fn what_is_missing_is_declared_only_for_those_who_ask() {
    let rabbit = RabbitMq::shared().await;
    let (_connection, channel) = rabbit.channel().await;
    let id = uuid::Uuid::new_v4().simple();
    let (exchange, queue) = (format!("x-{id}"), format!("declared-{id}"));
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    channel
        .exchange_declare(
            exchange.as_str().into(),
            lapin::ExchangeKind::Topic,
            durable,
            FieldTable::default(),
        )
        .await
        .unwrap();
    let passive = options(&rabbit.amqp_url(), &queue);
    let error = refusal(passive.clone()).await;
    assert!(error.reason.contains("there is no queue"), "{error}");

    let binding = Binding { exchange: exchange.clone(), routing_key: "orders.#".to_owned() };
    let topology = Topology { queue_type: Some(QueueType::Quorum), bindings: vec![binding] };
    let asking = AmqpOptions { topology: Some(topology), ..passive.clone() };
    let inspection = Amqp::new(asking.clone()).unwrap().inspect().await.unwrap();
    assert!(inspection.what.ends_with("does not exist yet, and will be declared"));
    for _ in 0..2 {
        session_of(asking.clone()).await.unwrap().close().await;
    }
    let body = b"1";
    channel
        .basic_publish(
            exchange.as_str().into(),
            "orders.eu".into(),
            BasicPublishOptions::default(),
            body,
            BasicProperties::default(),
        )
        .await
        .unwrap()
        .await
        .unwrap();
    let inspection = wait_for("the message", async || {
        let found = Amqp::new(passive.clone()).unwrap().inspect().await.unwrap();
        found.what.contains("1 messages ready").then_some(found)
    })
    .await;
    assert!(inspection.what.ends_with("1 messages ready, 0 consumers"), "{inspection:?}");
    assert!(inspection.warnings[0].contains("delivery-limit"), "{inspection:?}");
    let session = session_of(asking.clone()).await.unwrap();
    let (messages, _) = deliver(&session, 1).await;
    assert_eq!(&*messages[0].routed_as, "orders.eu");
    assert_eq!(messages[0].metadata["exchange"], *exchange);
    assert!(!messages[0].metadata.contains_key("headers"), "{messages:?}");
    session.close().await;

    let classic = Topology { queue_type: Some(QueueType::Classic), bindings: Vec::new() };
    let error = refusal(AmqpOptions { topology: Some(classic), ..passive.clone() }).await;
    assert!(error.reason.contains("is not as declared"), "{error}");
    let nowhere = Binding { exchange: format!("no-{id}"), routing_key: String::new() };
    let topology = Topology { queue_type: Some(QueueType::Quorum), bindings: vec![nowhere] };
    let error = refusal(AmqpOptions { topology: Some(topology), ..passive }).await;
    assert!(error.fix.unwrap().contains("create the exchange"));
}
