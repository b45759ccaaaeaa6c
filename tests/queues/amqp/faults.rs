//! Brokers that go away, and come back.

use std::time::Duration;

use eventloader::source::queue::{QueueFailure, QueueSession as _};
use tokio::time::{Instant, timeout};

use super::{LIMITS, acknowledge, bodies, deliver, end, numbered, options, refusal, session};
use crate::support::rabbitmq::RabbitMq;
use crate::support::wait_for;

#[tokio::test]
async fn a_cut_connection_ends_the_session_and_loses_nothing() {
    let rabbit = RabbitMq::shared().await;
    let queue = rabbit.declare("amqp", &[]).await;
    rabbit.publish(&queue, numbered(0..4)).await;
    let name = format!("cut-{queue}");
    let source = super::Amqp::new(options(&rabbit.amqp_url(), &queue)).unwrap();
    let session = super::QueueSource::connect(&source, &name).await.unwrap();
    let (messages, mut receipts) = deliver(&session, 4).await;
    assert_eq!(bodies(&messages), [0, 1, 2, 3]);
    wait_for("the connection in the list", async || {
        (rabbit.close_connections(&name).await > 0).then_some(())
    })
    .await;
    let error = end(&session).await;
    assert_eq!(error.class, QueueFailure::Unavailable);
    assert!(error.reason.contains("closed the connection"), "{error}");
    let late = timeout(Duration::from_secs(20), session.acknowledge(receipts.pop().unwrap())).await;
    assert_eq!(late.unwrap().unwrap_err().class, QueueFailure::Unavailable);
    session.close().await;

    let again = self::session(rabbit, &queue).await;
    let (messages, receipts) = deliver(&again, 4).await;
    assert_eq!(bodies(&messages), [0, 1, 2, 3]);
    acknowledge(&again, receipts).await;
    again.close().await;
    assert_eq!(rabbit.depth(&queue).await, 0);
}

#[tokio::test]
async fn a_dropped_session_gives_its_messages_back_at_once() {
    let rabbit = RabbitMq::shared().await;
    let queue = rabbit.declare("amqp", &[]).await;
    rabbit.publish(&queue, numbered(0..4)).await;
    let dropped = session(rabbit, &queue).await;
    let (messages, _) = deliver(&dropped, 4).await;
    assert_eq!(messages.len(), 4);
    drop(dropped);
    let again = session(rabbit, &queue).await;
    assert_eq!(deliver(&again, 4).await.0.len(), 4);
    again.close().await;
}

#[tokio::test]
async fn a_broker_that_restarts_frees_its_consumers_and_keeps_its_messages() {
    let rabbit = RabbitMq::own().await;
    let queue = rabbit.declare("amqp", &[]).await;
    let persistent = || super::BasicProperties::default().with_delivery_mode(2);
    let publish = |numbers: std::ops::Range<usize>| {
        rabbit.publish(&queue, numbers.map(|n| (n.to_string(), persistent())).collect::<Vec<_>>())
    };
    publish(0..10).await;
    for how in ["stop", "kill"] {
        let running = session(&rabbit, &queue).await;
        let (messages, _) = deliver(&running, 10).await;
        assert_eq!(bodies(&messages), (0..10).collect::<Vec<_>>(), "{how}");
        if how == "stop" {
            rabbit.stop().await;
        } else {
            rabbit.kill().await;
        }
        assert_eq!(end(&running).await.class, QueueFailure::Unavailable, "{how}");
        let away = refusal(options(&rabbit.amqp_url(), &queue)).await;
        assert_eq!(away.class, QueueFailure::Unavailable, "{how}: {away:?}");
        rabbit.start().await;
    }
    let running = session(&rabbit, &queue).await;
    let (messages, receipts) = deliver(&running, 10).await;
    assert_eq!(bodies(&messages), (0..10).collect::<Vec<_>>());
    acknowledge(&running, receipts).await;

    // A broker that hangs: who waits is told after two heartbeats, who connects after its time limit.
    running.close().await;
    publish(10..12).await;
    let url = format!("{}?heartbeat=1&connection_timeout=1000", rabbit.amqp_url());
    let hanging = super::session_of(options(&url, &queue)).await.unwrap();
    let (messages, mut receipts) = deliver(&hanging, 2).await;
    assert_eq!(bodies(&messages), [10, 11]);
    rabbit.freeze().await;
    let started = Instant::now();
    let error = end(&hanging).await;
    assert_eq!(error.class, QueueFailure::Unavailable);
    assert!(error.reason.contains("fell silent"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(hanging.acknowledge(receipts.pop().unwrap()).await.is_err());
    timeout(Duration::from_secs(5), hanging.close()).await.expect("it waits for a frozen broker");
    let error = refusal(options(&url, &queue)).await;
    assert!(error.reason.contains("did not answer within"), "{error}");
    rabbit.thaw().await;
    let again = session(&rabbit, &queue).await;
    let (messages, receipts) = deliver(&again, 2).await;
    assert_eq!(bodies(&messages), [10, 11]);
    acknowledge(&again, receipts).await;
    assert!(timeout(super::SOON, again.deliver(LIMITS)).await.is_err());
}
