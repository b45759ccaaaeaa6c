//! A stream of RabbitMQ, which is pulled.

use std::sync::Arc;
use std::time::Duration;

use eventloader::mapping::message::MessageMapping;
use eventloader::sources::rabbitmq_stream::{Address, RabbitMqStream, StreamSettings};
use futures_util::StreamExt;
use lapin::BasicProperties;
use rabbitmq_stream_client::Environment;
use rabbitmq_stream_client::types::OffsetSpecification;
use tokio::time::Instant;

use super::super::table::Row;
use super::super::{COUNT, RUNS, median, message, rate, wait_for_stored};
use super::progress;
use crate::support::database::Database;
use crate::support::loading::{Given, Loading};
use crate::support::rabbitmq::{PASSWORD, RabbitMq, USER};

pub(super) const BROKER: &str = "rabbitmq_stream";

/// Throughput only: latency is that of the interval between two requests.
pub(super) async fn measure(loader_per_second: f64) -> Row {
    let rabbit = RabbitMq::shared().await;
    let stream = rabbit.declare_stream(&[]).await;
    let bodies = (0..COUNT).map(|n| (message(n).body, BasicProperties::default()));
    rabbit.publish(&stream, bodies).await;
    let (mut plain, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        progress(BROKER, "the plain client");
        let began = Instant::now();
        drain_plainly(rabbit, &stream).await;
        plain.push(rate(COUNT, began.elapsed()));

        let database = Database::migrated().await;
        let settings = StreamSettings {
            source_name: "bench".to_owned(),
            address: Address::parse(&rabbit.stream_url()).unwrap(),
            stream: stream.clone(),
            mapping: MessageMapping::default(),
            timeout: Duration::from_secs(10),
            poll: Duration::from_millis(500),
            ca_file: None,
        };
        progress(BROKER, "eventloader");
        let mut given = Given::new("bench", Arc::new(RabbitMqStream::new(settings).unwrap()));
        given.settings.min_interval = Duration::ZERO;
        given.start_after = -1;
        let began = Instant::now();
        let loading = Loading::start(&database, &[given]).await;
        wait_for_stored(&database, COUNT).await;
        ours.push(rate(COUNT, began.elapsed()));
        loading.stop().await;
    }
    Row {
        broker: BROKER,
        plain_per_second: median(plain),
        loader_per_second,
        ours_per_second: median(ours),
        p50_ms: f64::NAN,
        p99_ms: f64::NAN,
    }
}

async fn drain_plainly(rabbit: &RabbitMq, stream: &str) {
    let environment = Environment::builder().host("127.0.0.1").port(rabbit.ports.stream);
    let environment = environment.username(USER).password(PASSWORD);
    let environment = environment.build().await.unwrap();
    let consumer = environment.consumer().offset(OffsetSpecification::First);
    let mut consumer = consumer.build(stream).await.unwrap();
    for _ in 0..COUNT {
        drop(consumer.next().await.unwrap().unwrap());
    }
    consumer.handle().close().await.unwrap();
}
