//! RabbitMQ's streams, over the stream protocol and over AMQP 0-9-1, at a real broker.

mod messages;
mod offsets;
mod outages;
mod refusals;
mod stored;

use std::time::Duration;

use eventloader::event::{Event, Item};
use eventloader::mapping::message::MessageMapping;
use eventloader::source::EventSource;
use eventloader::sources::rabbitmq_stream::{Address, RabbitMqStream, StreamSettings};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::support::rabbitmq::RabbitMq;

fn settings(url: &str, stream: &str) -> StreamSettings {
    StreamSettings {
        source_name: "clicks".to_owned(),
        address: Address::parse(url).unwrap(),
        stream: stream.to_owned(),
        mapping: MessageMapping { max_event_bytes: 32 << 20, ..MessageMapping::default() },
        timeout: Duration::from_secs(10),
        poll: Duration::from_millis(500),
        ca_file: None,
    }
}

fn source(url: &str, stream: &str) -> RabbitMqStream {
    RabbitMqStream::new(settings(url, stream)).unwrap()
}

/// Both ways to the same stream.
fn both(broker: &RabbitMq, stream: &str) -> [RabbitMqStream; 2] {
    [source(&broker.stream_url(), stream), source(&broker.amqp_url(), stream)]
}

/// The events after this id, until there are so many or none come.
async fn read(source: &RabbitMqStream, mut after_id: i64, count: usize) -> Vec<Item> {
    let mut items = Vec::new();
    while items.len() < count {
        let limit = u32::try_from(count - items.len()).unwrap();
        let page = source.fetch_events(after_id, limit).await.unwrap();
        assert_eq!(page.gaps, []);
        let Some(last) = page.items.last() else { break };
        after_id = last.id().unwrap();
        items.extend(page.items);
    }
    items
}

fn ids(items: &[Item]) -> Vec<i64> {
    items.iter().map(|item| item.id().unwrap()).collect()
}

fn good(item: &Item) -> &Event {
    match item {
        Item::Good(event) => event,
        Item::Bad(bad) => panic!("{bad:?}"),
    }
}

fn payload(item: &Item) -> Value {
    serde_json::from_str(good(item).payload.as_str()).unwrap()
}

fn numbered(range: std::ops::Range<i64>) -> impl Iterator<Item = (String, BasicProperties)> {
    range.map(|n| (json!({ "n": n }).to_string(), BasicProperties::default()))
}

/// Texts as messages without properties.
fn plain<const N: usize>(bodies: [&str; N]) -> [(&str, BasicProperties); N] {
    bodies.map(|body| (body, BasicProperties::default()))
}

/// Properties that say more than the body.
fn click(id: Uuid) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("tenant".into(), AMQPValue::LongString("acme".into()));
    BasicProperties::default()
        .with_type("click.made".into())
        .with_message_id(id.to_string().into())
        .with_content_type("application/json".into())
        .with_headers(headers)
}

/// A stream that keeps little, with a hundred messages.
async fn declare_brief(broker: &RabbitMq) -> String {
    let limits = [
        ("x-max-length-bytes", AMQPValue::LongLongInt(50_000)),
        ("x-stream-max-segment-size-bytes", AMQPValue::LongLongInt(20_000)),
    ];
    let stream = broker.declare_stream(&limits).await;
    broker.publish(&stream, numbered(0..100)).await;
    stream
}

/// Publishes so much to it that retention drops the hundred.
async fn overflow(broker: &RabbitMq, stream: &str) {
    for round in 0..60 {
        let body = json!({ "round": round, "a": "x".repeat(1000) }).to_string();
        broker.publish(stream, (0..10).map(|_| (body.as_str(), BasicProperties::default()))).await;
    }
}

#[tokio::test]
async fn the_broker_of_the_tests_keeps_its_promises() {
    let broker = RabbitMq::own().await;
    let queue = broker.declare("orders", &[("x-max-length", AMQPValue::LongInt(2))]).await;
    // What was declared is written down with a delay: killed at once, the broker forgets it.
    broker.stop().await;
    broker.start().await;
    let (_connection, channel) = broker.channel().await;
    broker.publish(&queue, plain(["a", "b", "c"])).await;
    assert_eq!(broker.depth(&queue).await, 2);
    let ports = broker.ports;
    for port in [ports.amqp, ports.amqps, ports.stream, ports.stream_tls, ports.management] {
        TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    }
    broker.freeze().await;
    broker.thaw().await;
    broker.kill().await;
    assert!(TcpStream::connect(("127.0.0.1", ports.amqp)).await.is_err());
    broker.start().await;
    assert_eq!(broker.depth(&queue).await, 2, "a killed broker keeps what it confirmed");
    assert!(!channel.status().connected());
    broker.set_policy("short", "^orders", json!({ "max-length": 1 })).await;
    broker.create_user("reader", "sesame", ["", "", ".*"]).await;
    assert!(broker.url_as(&broker.stream_tls_url(), "reader", "sesame").contains("reader:sesame@"));
    assert_eq!(broker.close_connections("nobody has this name").await, 0);
    broker.delete(&queue).await;
    assert!(broker.ca_file().exists());
}

#[tokio::test]
async fn all_tests_share_a_broker() {
    let broker = RabbitMq::shared().await;
    let stream = broker.declare_stream(&[]).await;
    broker.publish(&stream, plain([r#"{"a":1}"#])).await;
    assert!(broker.amqps_url().starts_with("amqps://tester:") && broker.stream_url().contains('@'));
    broker.delete(&stream).await;
}
