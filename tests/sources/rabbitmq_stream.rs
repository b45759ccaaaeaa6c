//! RabbitMQ's streams, over the stream protocol and over AMQP 0-9-1, at a real broker.

mod stored;

use std::path::PathBuf;
use std::time::Duration;

use eventloader::event::{BadEvent, Event, Item};
use eventloader::mapping::message::MessageMapping;
use eventloader::source::{EventSource, FailureClass, Page, SourceError};
use eventloader::sources::rabbitmq_stream::{Address, RabbitMqStream, StreamSettings};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use rabbitmq_stream_client::types::Message;
use rabbitmq_stream_client::{Client, ClientOptions, Environment};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::rabbitmq::{PASSWORD, RabbitMq, USER};
use crate::support::wait_for;

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

fn bad(item: &Item) -> &BadEvent {
    match item {
        Item::Bad(bad) => bad,
        Item::Good(event) => panic!("{event:?}"),
    }
}

fn payload(item: &Item) -> Value {
    serde_json::from_str(good(item).payload.as_str()).unwrap()
}

fn numbered(range: std::ops::Range<i64>) -> impl Iterator<Item = (String, BasicProperties)> {
    range.map(|n| (json!({ "n": n }).to_string(), BasicProperties::default()))
}

/// The error of a source that cannot be read.
async fn refused(settings: StreamSettings) -> SourceError {
    RabbitMqStream::new(settings).unwrap().fetch_events(-1, 10).await.unwrap_err()
}

fn stream_client(broker: &RabbitMq) -> ClientOptions {
    let options = ClientOptions::builder().host("127.0.0.1").port(broker.ports.stream);
    options.user("tester").password(PASSWORD).build()
}

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
async fn what_stands_beside_the_body_is_kept() {
    let broker = RabbitMq::shared().await;
    let stream = broker.declare_stream(&[]).await;
    let id = uuid::Uuid::new_v4();
    let mut headers = FieldTable::default();
    headers.insert("tenant".into(), AMQPValue::LongString("acme".into()));
    let properties = BasicProperties::default()
        .with_type("click.made".into())
        .with_message_id(id.to_string().into())
        .with_timestamp(1_700_000_000)
        .with_content_type("application/json".into())
        .with_headers(headers);
    broker.publish(&stream, [("{}", properties)]).await;
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
    let limits = [
        ("x-max-length-bytes", AMQPValue::LongLongInt(50_000)),
        ("x-stream-max-segment-size-bytes", AMQPValue::LongLongInt(20_000)),
    ];
    let stream = broker.declare_stream(&limits).await;
    broker.publish(&stream, numbered(0..100)).await;
    let live = both(broker, &stream);
    for source in &live {
        assert_eq!(ids(&read(source, -1, 10).await), (0..10).collect::<Vec<_>>());
    }
    for round in 0..60 {
        let body = json!({ "round": round, "a": "x".repeat(1000) }).to_string();
        broker.publish(&stream, (0..10).map(|_| (body.as_str(), BasicProperties::default()))).await;
    }
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

#[tokio::test]
async fn reading_goes_on_when_the_broker_is_back() {
    let broker = RabbitMq::own().await;
    let stream = broker.declare_stream(&[]).await;
    broker.publish(&stream, numbered(0..50)).await;
    // With its first stream, the broker begins to keep a list of streams, and knows that it has one after its next end in
    // order: killed before that, RabbitMQ 4.0 begins another list, and this stream is "not available" for good.
    broker.stop().await;
    broker.start().await;
    let sources = both(&broker, &stream);
    wait_for("the stream to be led", || async { sources[0].fetch_events(-1, 1).await.ok() }).await;
    for source in &sources {
        assert_eq!(read(source, -1, 20).await.len(), 20);
    }
    broker.kill().await;
    for source in &sources {
        // What had arrived before is still good.
        let mut after_id = 19;
        let mut answer = source.fetch_events(after_id, 10).await;
        while let Ok(page) = answer {
            after_id = page.items.last().and_then(Item::id).unwrap_or(after_id);
            answer = source.fetch_events(after_id, 10).await;
        }
        let error = answer.unwrap_err();
        assert_eq!(error.class, FailureClass::NotSent, "{error}");
        assert!(error.reason.contains("cannot connect to 127.0.0.1"), "{error}");
    }
    broker.start().await;
    // Ready, it still has to find out who leads the stream.
    wait_for("the stream to be back", || async {
        sources[0].fetch_events(19, 10).await.ok().filter(|page| !page.items.is_empty())
    })
    .await;
    broker.publish(&stream, numbered(50..60)).await;
    for source in &sources {
        assert_eq!(ids(&read(source, 19, 1000).await), (20..60).collect::<Vec<_>>());
    }
    // The management plugin learns of connections after a while.
    wait_for("a connection to be cut", || async {
        (broker.close_connections("eventloader clicks").await >= 1).then_some(())
    })
    .await;
    broker.publish(&stream, numbered(60..61)).await;
    for source in &sources {
        assert_eq!(ids(&read(source, 59, 1000).await), [60], "an idle connection that was cut");
    }
    broker.delete(&stream).await;
    for source in &sources {
        let error = source.fetch_events(60, 10).await.unwrap_err();
        assert!(error.reason.contains("there is no stream"), "{error}");
    }
}

#[tokio::test]
async fn a_frozen_broker_is_noticed() {
    let broker = RabbitMq::own().await;
    let stream = broker.declare_stream(&[]).await;
    broker.publish(&stream, numbered(0..5)).await;
    let brief = |url: &str| {
        let timeout = Duration::from_secs(3);
        RabbitMqStream::new(StreamSettings { timeout, ..settings(url, &stream) }).unwrap()
    };
    let sources = [brief(&broker.stream_url()), brief(&broker.amqp_url())];
    for source in &sources {
        assert_eq!(read(source, -1, 5).await.len(), 5);
    }
    broker.freeze().await;
    for source in &sources {
        let error = wait_for("the silence to be noticed", || async {
            source.fetch_events(4, 10).await.err()
        });
        let error = error.await;
        assert_eq!(error.class, FailureClass::NotSent);
        assert!(error.reason.contains("did not answer"), "{error}");
    }
    broker.thaw().await;
    broker.publish(&stream, numbered(5..6)).await;
    for source in &sources {
        let page = wait_for("the broker to answer again", || async {
            source.fetch_events(4, 10).await.ok().filter(|page| !page.items.is_empty())
        });
        assert_eq!(ids(&page.await.items), [5]);
    }
}

#[tokio::test]
async fn tls_needs_a_certificate_that_is_trusted() {
    let broker = RabbitMq::shared().await;
    let stream = broker.declare_stream(&[]).await;
    broker.publish(&stream, numbered(0..3)).await;
    for url in [broker.stream_tls_url(), broker.amqps_url()] {
        let with = |url: &str, ca_file: Option<PathBuf>| StreamSettings {
            ca_file,
            ..settings(url, &stream)
        };
        let trusting = RabbitMqStream::new(with(&url, Some(broker.ca_file()))).unwrap();
        assert_eq!(ids(&read(&trusting, -1, 10).await), [0, 1, 2]);
        let error = refused(with(&url, None)).await;
        assert_eq!(error.class, FailureClass::Rejected, "{error}");
        assert!(error.reason.contains("ca_file"), "{error}");
        let elsewhere = url.replace("@localhost:", "@127.0.0.1:");
        let error = refused(with(&elsewhere, Some(broker.ca_file()))).await;
        assert!(error.reason.contains("as it stands in the broker's certificate"), "{error}");
    }
}

#[tokio::test]
async fn the_classic_traps_are_explained() {
    let broker = RabbitMq::shared().await;
    let stream = broker.declare_stream(&[]).await;
    let queue = broker.declare("classic", &[]).await;
    broker.publish(&queue, plain(["{}"])).await;
    broker.create_user("lonely", "sesame", ["", "", ""]).await;
    for url in [broker.stream_url(), broker.amqp_url()] {
        let nowhere = url.replace("%2f", "nowhere");
        for (url, stream, says) in [
            (
                broker.url_as(&url, "tester", "wrong"),
                &stream,
                "refused the user \"tester\" or the password",
            ),
            (
                broker.url_as(&url, "guest", "guest"),
                &stream,
                "may only connect from the broker's own machine",
            ),
            (broker.url_as(&url, "lonely", "sesame"), &stream, "the right to read the stream"),
            (nowhere, &stream, "no virtual host \"nowhere\""),
            (url.clone(), &"missing".to_owned(), "there is no stream \"missing\""),
        ] {
            let error = refused(settings(&url, stream)).await;
            assert_eq!(error.class, FailureClass::Rejected, "{error}");
            assert!(error.reason.contains(says), "{says}: {error}");
            assert!(!error.reason.contains("s3cret"), "{error}");
        }
    }
    let error = refused(settings(&broker.amqp_url(), &queue)).await;
    assert!(error.reason.contains("is a queue and no stream"), "{error}");
    assert_eq!(broker.depth(&queue).await, 1, "nothing was taken out of it");
    let error = refused(settings(&broker.stream_url(), &queue)).await;
    assert!(error.reason.contains("there is no stream"), "{error}");
    let port = |url: String, from: u16, to: u16| url.replace(&from.to_string(), &to.to_string());
    let ports = broker.ports;
    let error =
        refused(settings(&port(broker.stream_url(), ports.stream, ports.amqp), &stream)).await;
    assert!(error.reason.contains("stream port (5552"), "{error}");
    let error = refused(settings(&port(broker.stream_url(), ports.stream, 1), &stream)).await;
    assert!(error.reason.contains("rabbitmq-plugins enable rabbitmq_stream"), "{error}");
    assert_eq!(error.class, FailureClass::NotSent);
}
