//! Offsets as ids: in order over either protocol, and where there are none.

use eventloader::source::{EventSource, FailureClass, Page};
use rabbitmq_stream_client::{Client, ClientOptions};
use serde_json::json;

use super::{both, declare_brief, good, ids, numbered, overflow, payload, plain, read};
use crate::support::rabbitmq::{PASSWORD, RabbitMq};

fn stream_client(broker: &RabbitMq) -> ClientOptions {
    let options = ClientOptions::builder().host("127.0.0.1").port(broker.ports.stream);
    options.user("tester").password(PASSWORD).build()
}

#[tokio::test]
async fn offsets_are_the_ids_and_payloads_are_unwrapped() {
    let broker = RabbitMq::shared().await;
    let stream = broker.declare_stream(&[]).await;
    for source in both(broker, &stream) {
        let page = source.fetch_events(-1, 10).await.unwrap();
        assert_eq!((page.items, page.gaps), (vec![], vec![]), "nothing is there yet");
    }
    broker.publish(&stream, plain([r#"{"payload":{"a":1}}"#, r#"{"b":2}"#, "{}"])).await;
    broker.publish(&stream, numbered(3..100)).await;
    for source in both(broker, &stream) {
        let items = read(&source, -1, 3).await;
        assert_eq!(ids(&items), [0, 1, 2]);
        assert_eq!(payload(&items[0]), json!({"a": 1}));
        assert_eq!(payload(&items[1]), json!({"b": 2}));
        assert_eq!(good(&items[0]).event_type.as_deref(), Some("clicks"));
        let items = read(&source, 41, 1).await;
        assert_eq!((ids(&items), payload(&items[0])), (vec![42], json!({"n": 42})));
        assert_eq!(ids(&read(&source, 42, 1000).await), (43..100).collect::<Vec<_>>());
        assert_eq!(ids(&read(&source, 99, 10).await), [0; 0]);
        assert_eq!(ids(&read(&source, 98, 10).await), [99], "asked again, after the tip");
        assert_eq!(source.start_after(), -1);
    }
}

#[tokio::test]
async fn either_protocol_takes_over_from_the_other() {
    let broker = RabbitMq::shared().await;
    let stream = broker.declare_stream(&[]).await;
    broker.publish(&stream, numbered(0..2500)).await;
    let sources = both(broker, &stream);
    let mut after_id = -1;
    let mut read = Vec::new();
    for turn in 0.. {
        let page = sources[turn % 2].fetch_events(after_id, 173).await.unwrap();
        let Some(last) = page.items.last() else { break };
        after_id = last.id().unwrap();
        read.extend(page.items.iter().map(|item| (item.id().unwrap(), payload(item))));
    }
    let expected: Vec<_> = (0..2500).map(|n| (n, json!({ "n": n }))).collect();
    assert_eq!(read, expected);
}

#[tokio::test]
async fn offsets_that_the_broker_took_for_itself_are_no_loss() {
    let broker = RabbitMq::shared().await;
    let stream = broker.declare_stream(&[]).await;
    let client = Client::connect(stream_client(broker)).await.unwrap();
    for n in 0..5 {
        broker.publish(&stream, numbered(n..n + 1)).await;
        client.store_offset("other", &stream, u64::try_from(n).unwrap()).await.unwrap();
        client.query_offset("other".to_owned(), &stream).await.unwrap();
    }
    client.close().await.unwrap();
    let [stream_source, amqp_source] = both(broker, &stream);
    let items = read(&stream_source, -1, 5).await;
    let found = ids(&items);
    assert!(found[4] > 4, "the broker left no gap: {found:?}");
    assert_eq!(
        items.iter().map(payload).collect::<Vec<_>>(),
        (0..5).map(|n| json!({"n": n})).collect::<Vec<_>>()
    );
    assert_eq!(ids(&read(&amqp_source, -1, 5).await), found);
    for source in [stream_source, amqp_source] {
        for (nth, id) in found.iter().enumerate() {
            assert_eq!(ids(&read(&source, *id, 5).await), found[nth + 1..]);
        }
    }
}

#[tokio::test]
async fn what_retention_removed_is_a_gap() {
    let broker = RabbitMq::shared().await;
    let stream = declare_brief(broker).await;
    let live = both(broker, &stream);
    for source in &live {
        assert_eq!(ids(&read(source, -1, 10).await), (0..10).collect::<Vec<_>>());
    }
    overflow(broker, &stream).await;
    let gap = |page: &Page, after_id: i64| {
        let [gap] = page.gaps.as_slice() else { panic!("{:?}", page.gaps) };
        assert_eq!(gap.first_id, after_id + 1);
        assert_eq!(gap.last_id + 1, page.items[0].id().unwrap());
        assert!(gap.last_id > 100, "{gap:?}");
    };
    for source in both(broker, &stream) {
        gap(&source.fetch_events(9, 10).await.unwrap(), 9);
        gap(&source.fetch_events(-1, 10).await.unwrap(), -1);
        let page = source.fetch_events(9, 10_000).await.unwrap();
        let kept = ids(&page.items);
        let from = kept.len() - 5;
        let page = source.fetch_events(kept[from] - 1, 100).await.unwrap();
        assert_eq!((page.gaps, ids(&page.items)), (vec![], kept[from..].to_vec()));
    }
}

#[tokio::test]
async fn a_stream_that_was_created_anew_is_not_read_on() {
    let broker = RabbitMq::shared().await;
    let stream = broker.declare_stream(&[]).await;
    broker.publish(&stream, numbered(0..3)).await;
    for source in both(broker, &stream) {
        let mut answer = source.fetch_events(50, 10).await;
        for _ in 0..30 {
            if answer.is_err() {
                break;
            }
            assert_eq!(answer.unwrap().items, []);
            answer = source.fetch_events(50, 10).await;
        }
        let error = answer.unwrap_err();
        assert_eq!(error.class, FailureClass::Rejected);
        assert!(error.reason.contains("ends before offset 50"), "{error}");
        assert_eq!(ids(&read(&source, 1, 10).await), [2]);
    }
}
