//! Brokers that are away, or silent.

use std::time::Duration;

use eventloader::event::Item;
use eventloader::source::{EventSource, FailureClass};
use eventloader::sources::rabbitmq_stream::{RabbitMqStream, StreamSettings};

use super::{both, ids, numbered, read, settings};
use crate::support::rabbitmq::RabbitMq;
use crate::support::wait_for;

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
