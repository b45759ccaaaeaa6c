//! What is said of a broker that cannot be used.

use std::path::PathBuf;

use eventloader::source::queue::{QueueError, QueueFailure, QueueSession as _, QueueSource as _};
use eventloader::sources::amqp::{Amqp, AmqpOptions};
use eventloader::sources::tls::{ClientFiles, TlsFiles};
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use serde_json::json;
use tokio::net::TcpListener;

use super::{deliver, end, numbered, options, refusal, session, session_of};
use crate::support::rabbitmq::RabbitMq;
use crate::support::tls::Authority;

#[track_caller]
fn assert_says(error: &QueueError, class: QueueFailure, reason: &str, fix: &str) {
    let told = error.fix.as_deref().unwrap_or_default();
    assert!(error.reason.contains(reason) && told.contains(fix), "{error:?}");
    assert_eq!(error.class, class, "{error:?}");
}

#[tokio::test]
async fn a_broker_that_cannot_be_reached_is_unavailable() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let error = refusal(options(&format!("amqp://{address}"), "q")).await;
    assert_says(&error, QueueFailure::Unavailable, &address.to_string(), "whether the broker runs");
    let error = refusal(options("amqp://mq.invalid", "q")).await;
    assert_says(&error, QueueFailure::Unavailable, "mq.invalid:5672", "the host's name");

    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mute.local_addr().unwrap();
    for scheme in ["amqp", "amqps"] {
        let url = format!("{scheme}://{address}?connection_timeout=100");
        let error = refusal(options(&url, "q")).await;
        assert_says(&error, QueueFailure::Unavailable, "did not answer within 100ms", "timeout");
    }
}

#[tokio::test]
async fn the_wrong_port_is_recognised() {
    let rabbit = RabbitMq::shared().await;
    let at = |scheme: &str, port: u16| {
        options(&format!("{scheme}://127.0.0.1:{port}?connection_timeout=3000"), "q")
    };
    let error = refusal(at("amqps", rabbit.ports.amqp)).await;
    assert_says(&error, QueueFailure::Rejected, "does not speak TLS", "amqp://");
    for port in [rabbit.ports.amqps, rabbit.ports.management] {
        let error = refusal(at("amqp", port)).await;
        let fix = error.fix.clone().unwrap_or_default();
        assert!(fix.contains("amqps://") && fix.contains("15672"), "{error:?}");
    }
}

#[tokio::test]
async fn wrong_credentials_and_missing_rights_are_told_apart() {
    let rabbit = RabbitMq::shared().await;
    let queue = rabbit.declare("amqp", &[]).await;
    let url = rabbit.amqp_url();
    let rejected = QueueFailure::Rejected;
    let error = refusal(options(&rabbit.url_as(&url, "tester", "s3cret-wrong"), &queue)).await;
    assert_says(
        &error,
        rejected,
        "refused the user \"tester\" or the password",
        "authenticate_user",
    );
    let error = refusal(options(&rabbit.url_as(&url, "guest", "guest"), &queue)).await;
    assert_says(&error, rejected, "refused the user \"guest\"", "the broker's own machine");

    let writer = format!("writer-{queue}");
    rabbit.create_user(&writer, "pw", ["", ".*", ""]).await;
    let writing = options(&rabbit.url_as(&url, &writer, "pw"), &queue);
    let error = refusal(writing.clone()).await;
    assert_says(&error, rejected, "read access", "set_permissions -p /");
    let error = Amqp::new(writing).unwrap().inspect().await.unwrap_err();
    assert_says(&error, rejected, "read access", "set_permissions -p /");

    let reader = format!("reader-{queue}");
    rabbit.create_user(&reader, "pw", ["", "", ".*"]).await;
    let reading = options(&rabbit.url_as(&url, &reader, "pw"), &queue);
    session_of(reading).await.unwrap().close().await;

    let other = url.replace("/%2f", "/no-such");
    let error = refusal(options(&other, &queue)).await;
    assert_says(&error, rejected, "no virtual host \"no-such\"", "/%2f");
    let vhost = format!("v-{queue}");
    rabbit.api("PUT", &format!("/api/vhosts/{vhost}"), &json!({})).await;
    let other = rabbit.url_as(&url, &reader, "pw").replace("/%2f", &format!("/{vhost}"));
    let error = refusal(options(&other, &queue)).await;
    assert_says(&error, rejected, "access to vhost", "set_permissions -p v-");
}

#[tokio::test]
async fn a_queue_that_cannot_be_consumed_says_why() {
    let rabbit = RabbitMq::shared().await;
    let url = rabbit.amqp_url();
    let rejected = QueueFailure::Rejected;
    let error = refusal(options(&url, "no-such-queue")).await;
    assert_says(&error, rejected, "there is no queue \"no-such-queue\"", "declare = true");

    let stream = rabbit.declare_stream(&[]).await;
    rabbit.publish(&stream, numbered(0..3)).await;
    let error = refusal(options(&url, &stream)).await;
    assert_says(&error, rejected, "is a stream", "type = \"rabbitmq_stream\"");
    let error = Amqp::new(options(&url, &stream)).unwrap().inspect().await.unwrap_err();
    assert_says(&error, rejected, "is a stream", "type = \"rabbitmq_stream\"");
    let topology = Some(super::Topology::default());
    let error = refusal(AmqpOptions { topology, ..options(&url, &stream) }).await;
    assert_says(&error, rejected, "is a stream", "type = \"rabbitmq_stream\"");

    let (_connection, channel) = rabbit.channel().await;
    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let owned = channel.queue_declare("".into(), exclusive, FieldTable::default()).await.unwrap();
    let error = refusal(options(&url, owned.name().as_str())).await;
    assert_says(&error, rejected, "exclusive", "belongs to one connection");

    let queue = rabbit.declare("amqp", &[]).await;
    let alone = BasicConsumeOptions { exclusive: true, ..Default::default() };
    let consumer =
        channel.basic_consume(queue.as_str().into(), "".into(), alone, FieldTable::default()).await;
    let error = refusal(options(&url, &queue)).await;
    assert_says(&error, rejected, "has an exclusive consumer", "list_consumers");
    drop(consumer);
}

#[tokio::test]
async fn a_look_takes_nothing() {
    let rabbit = RabbitMq::shared().await;
    let queue = rabbit.declare("amqp", &[]).await;
    rabbit.publish(&queue, numbered(0..3)).await;
    let running = session(rabbit, &queue).await;
    let _delivered = deliver(&running, 3).await;
    rabbit.publish(&queue, numbered(3..5)).await;
    let _delivered = deliver(&running, 2).await;
    let inspection = Amqp::new(options(&rabbit.amqp_url(), &queue)).unwrap().inspect().await;
    let inspection = inspection.unwrap();
    assert!(inspection.what.ends_with("0 messages ready, 1 consumers"), "{inspection:?}");
    assert!(inspection.warnings.is_empty(), "{inspection:?}");
    running.close().await;
    let inspection = Amqp::new(options(&rabbit.amqp_url(), &queue)).unwrap().inspect().await;
    let inspection = inspection.unwrap();
    assert!(inspection.what.ends_with("5 messages ready, 0 consumers"), "{inspection:?}");
}

#[tokio::test]
async fn a_queue_deleted_under_its_consumer_ends_the_session() {
    let rabbit = RabbitMq::shared().await;
    let queue = rabbit.declare("amqp", &[]).await;
    let session = session(rabbit, &queue).await;
    rabbit.delete(&queue).await;
    for _ in 0..2 {
        let error = end(&session).await;
        assert_says(&error, QueueFailure::Rejected, "was deleted", "create it again");
    }
    session.close().await;
    let error = refusal(options(&rabbit.amqp_url(), &queue)).await;
    assert_says(&error, QueueFailure::Rejected, "there is no queue", "create it");
}

#[tokio::test]
async fn tls_is_checked_both_ways() {
    let rabbit = RabbitMq::with_config(
        "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true",
    )
    .await;
    let queue = rabbit.declare("amqp", &[]).await;
    let home = rabbit.ca_file();
    let own = |name: &str| home.parent().unwrap().join(name);
    // The broker trusts its own authority, whose one certificate is good for servers and clients.
    let with_key = |key_file| Some(ClientFiles { cert_file: own("cert.pem"), key_file });
    let client = with_key(own("key.pem"));
    let at = |url: &str, ca_file: Option<PathBuf>, client: Option<ClientFiles>| {
        let tls = TlsFiles { ca_file, client };
        AmqpOptions { tls, ..options(url, &queue) }
    };
    let (url, ca_file) = (rabbit.amqps_url(), Some(rabbit.ca_file()));
    let good = session_of(at(&url, ca_file.clone(), client.clone())).await.unwrap();
    rabbit.publish(&queue, numbered(0..100)).await;
    let (messages, receipts) = deliver(&good, 100).await;
    assert_eq!(messages.len(), 100);
    super::acknowledge(&good, receipts).await;
    good.close().await;

    let rejected = QueueFailure::Rejected;
    let error = refusal(at(&url, ca_file.clone(), None)).await;
    assert_says(&error, rejected, "refused our certificate", "client_cert_file");
    let error = refusal(at(&url, None, client.clone())).await;
    assert_says(&error, rejected, "UnknownIssuer", "ca_file");
    let other = Authority::new();
    let error = refusal(at(&url, Some(other.file()), client.clone())).await;
    assert_says(&error, rejected, "certificate", "ca_file");
    let elsewhere = url.replace("localhost", "127.0.0.1");
    let error = refusal(at(&elsewhere, ca_file.clone(), client.clone())).await;
    assert_says(&error, rejected, "certificate", "as it stands in the broker's certificate");

    let leaf = other.leaf("localhost", 2099);
    for (ca_file, client, told) in [
        (Some(own("nothing.pem")), None, "cannot read ca_file"),
        (Some(own("key.pem")), None, "it has no \"-----BEGIN CERTIFICATE-----\""),
        (ca_file.clone(), with_key(own("cert.pem")), "client_key_file"),
        (ca_file.clone(), with_key(leaf.key_file.clone()), "TLS cannot be set up"),
    ] {
        let error = Amqp::new(at(&url, ca_file, client)).unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
    }
}
