//! RabbitMQ's streams, over the stream protocol and over AMQP 0-9-1, at a real broker.

use lapin::BasicProperties;
use lapin::types::AMQPValue;
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::rabbitmq::RabbitMq;

/// Texts as messages without properties.
fn plain<const N: usize>(bodies: [&str; N]) -> [(&str, BasicProperties); N] {
    bodies.map(|body| (body, BasicProperties::default()))
}

#[tokio::test]
async fn the_broker_of_the_tests_keeps_its_promises() {
    let broker = RabbitMq::own().await;
    let (_connection, channel) = broker.channel().await;
    let queue = broker.declare("orders", &[("x-max-length", AMQPValue::LongInt(2))]).await;
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
    broker.stop().await;
    broker.start().await;
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
