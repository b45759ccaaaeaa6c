//! What cannot be read, and what is said of it.

use std::path::PathBuf;

use eventloader::source::{EventSource, FailureClass, SourceError};
use eventloader::sources::rabbitmq_stream::{RabbitMqStream, StreamSettings};

use super::{ids, numbered, plain, read, settings};
use crate::support::rabbitmq::RabbitMq;

/// The error of a source that cannot be read.
async fn refused(settings: StreamSettings) -> SourceError {
    RabbitMqStream::new(settings).unwrap().fetch_events(-1, 10).await.unwrap_err()
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
