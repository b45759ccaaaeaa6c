//! What becomes of a message: of its body, and of what stands beside it.

use eventloader::event::{BadEvent, Item};
use eventloader::mapping::message::MessageMapping;
use eventloader::sources::rabbitmq_stream::{RabbitMqStream, StreamSettings};
use rabbitmq_stream_client::Environment;
use rabbitmq_stream_client::types::Message;
use serde_json::json;
use uuid::Uuid;

use super::{both, click, good, ids, plain, read, settings, source};
use crate::support::rabbitmq::{PASSWORD, RabbitMq, USER};

fn bad(item: &Item) -> &BadEvent {
    match item {
        Item::Bad(bad) => bad,
        Item::Good(event) => panic!("{event:?}"),
    }
}

#[tokio::test]
async fn what_stands_beside_the_body_is_kept() {
    let broker = RabbitMq::shared().await;
    let stream = broker.declare_stream(&[]).await;
    let id = Uuid::new_v4();
    broker.publish(&stream, [("{}", click(id).with_timestamp(1_700_000_000))]).await;
    let environment = Environment::builder()
        .host("127.0.0.1")
        .port(broker.ports.stream)
        .username(USER)
        .password(PASSWORD)
        .build()
        .await
        .unwrap();
    let producer = environment.producer().build(&stream).await.unwrap();
    let message = Message::builder()
        .body("{}")
        .properties()
        .subject("click.seen")
        .message_id("no uuid".to_owned())
        .message_builder()
        .application_properties()
        .insert("tenant", "acme")
        .message_builder()
        .build();
    producer.send_with_confirm(message).await.unwrap();
    producer.close().await.unwrap();
    for source in both(broker, &stream) {
        let items = read(&source, -1, 2).await;
        let event = good(&items[0]);
        assert_eq!(event.event_type.as_deref(), Some("click.made"));
        assert_eq!(event.message_id, Some(id));
        assert_eq!(event.occurred_at.unwrap().timestamp(), 1_700_000_000);
        let metadata = event.metadata.as_ref().unwrap().as_str();
        assert!(metadata.contains("application/json"), "{metadata}");
        assert!(metadata.contains(r#""tenant":"acme""#), "{metadata}");
        let metadata = good(&items[1]).metadata.as_ref().unwrap().as_str();
        assert!(metadata.contains(r#""tenant":"acme""#), "{metadata}");
        assert!(metadata.contains("no uuid"), "{metadata}");
        assert_eq!(good(&items[1]).message_id, None);
    }
    let items = read(&source(&broker.stream_url(), &stream), 0, 1).await;
    assert_eq!(good(&items[0]).event_type.as_deref(), Some("click.seen"));
}

#[tokio::test]
async fn poison_is_set_aside_and_its_neighbours_go_on() {
    let broker = RabbitMq::shared().await;
    let stream = broker.declare_stream(&[]).await;
    let bodies = ["{}", "no json", "", "[1]", "7", r#"{"payload":1}"#, r#"{"a":"\u0000"}"#, "{}"];
    broker.publish(&stream, plain(bodies)).await;
    for source in both(broker, &stream) {
        let items = read(&source, -1, 8).await;
        assert_eq!(ids(&items), (0..8).collect::<Vec<_>>());
        good(&items[0]);
        good(&items[7]);
        for (item, body) in items.iter().zip(bodies).skip(1).take(6) {
            assert_eq!(bad(item).body, body, "{}", bad(item).reason);
        }
        assert_eq!(bad(&items[2]).reason, "the body is empty");
    }
}

#[tokio::test]
async fn bodies_may_be_large() {
    let broker = RabbitMq::shared().await;
    let stream = broker.declare_stream(&[]).await;
    let large = json!({ "a": "x".repeat((16 << 20) - 8) }).to_string();
    assert_eq!(large.len(), 16 << 20);
    let bodies = ["{}", large.as_str(), "{}", large.as_str()];
    broker.publish(&stream, plain(bodies)).await;
    for source in both(broker, &stream) {
        let items = read(&source, -1, 4).await;
        assert_eq!(ids(&items), [0, 1, 2, 3]);
        assert!(good(&items[1]).payload.as_str() == large, "another body");
        let small = StreamSettings {
            mapping: MessageMapping::default(),
            ..settings(&broker.stream_url(), &stream)
        };
        let small = RabbitMqStream::new(small).unwrap();
        let items = read(&small, -1, 4).await;
        assert!(
            bad(&items[3]).reason.contains("over max_event_bytes"),
            "{}",
            bad(&items[3]).reason
        );
        good(&items[2]);
    }
}
