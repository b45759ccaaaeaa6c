//! A message whose properties are no text, which the client library cannot read.

use std::net::SocketAddr;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Connection, ConnectionProperties};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::BasicProperties;
use super::program::{assert_all_once, message, source, started, stopped, wait_for_events};
use crate::support::database::Database;
use crate::support::program::Program;
use crate::support::rabbitmq::RabbitMq;
use crate::support::wait_for;

/// What a publisher writes through [`latin_1`], and what arrives instead.
const WRITTEN: &[u8] = b"gr--sse";
const ARRIVES: &[u8] = b"gr\xfc\xdfsse";

/// A way to the broker for a publisher that writes another encoding.
async fn latin_1(port: u16) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let broker = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_broker, mut to_broker) = broker.into_split();
        let there = async move {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                for at in 0..count {
                    if buffer[at..count].starts_with(WRITTEN) {
                        buffer[at..at + ARRIVES.len()].copy_from_slice(ARRIVES);
                    }
                }
                to_broker.write_all(&buffer[..count]).await.unwrap();
            }
        };
        drop(tokio::join!(there, tokio::io::copy(&mut from_broker, &mut to_client)));
    });
    address
}

async fn publish_unreadable(rabbit: &RabbitMq, queue: &str) {
    assert_eq!(WRITTEN.len(), ARRIVES.len());
    let port = latin_1(rabbit.ports.amqp).await.port().to_string();
    let url = rabbit.amqp_url().replace(&rabbit.ports.amqp.to_string(), &port);
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let kind = String::from_utf8(WRITTEN.to_vec()).unwrap();
    let properties = BasicProperties::default().with_type(kind.into()).with_delivery_mode(2);
    let sent = channel.basic_publish(
        "".into(),
        queue.into(),
        BasicPublishOptions::default(),
        b"the unreadable one",
        properties,
    );
    assert!(sent.await.unwrap().await.unwrap().is_ack());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_leave_the_queue_and_the_one_at_fault_is_named() {
    let (database, rabbit) = (Database::migrated().await, RabbitMq::shared().await);
    let queue = rabbit.declare("amqp", &[]).await;
    rabbit.publish(&queue, (0..30).map(message)).await;
    publish_unreadable(rabbit, &queue).await;
    rabbit.publish(&queue, (30..60).map(message)).await;
    let program = Program::new(&database, &source("payments", &rabbit.amqp_url(), &queue, ""));
    let child = started(&program, "log").await;
    // In the second session they come one by one, and are acknowledged before the next.
    wait_for("the unreadable one at the head of the queue", || async {
        (rabbit.depth(&queue).await == 31).then_some(())
    })
    .await;
    wait_for_events(&database, 30).await;
    let status = program.run(&["status"]).await;
    for said in [program.read("log"), status.stdout] {
        assert!(said.contains("is not UTF-8") && said.contains(&queue), "{said}");
    }
    assert!(program.read("log").contains("Get messages"), "{}", program.read("log"));

    // The broker cannot show it either, and has taken it out when it says so.
    let get = json!({ "count": 1, "ackmode": "ack_requeue_false", "encoding": "auto" });
    let url = format!("http://127.0.0.1:{}/api/queues/%2f/{queue}/get", rabbit.ports.management);
    let asked = reqwest::Client::new().post(url).basic_auth("tester", Some("s3cret-of-rabbitmq"));
    let taken = asked.body(get.to_string()).send().await.unwrap();
    assert_eq!((taken.status().as_u16(), rabbit.depth(&queue).await), (500, 30));
    let resumed = program.run(&["sources", "resume", "payments"]).await;
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    wait_for_events(&database, 60).await;
    wait_for("an empty queue", || async { (rabbit.depth(&queue).await == 0).then_some(()) }).await;
    stopped(child).await;
    assert_all_once(&database, 60).await;
}
