//! Kafka, as far as its mock goes: it keeps 5 MiB a partition, so there are many.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eventloader::consumer::ConsumedSource;
use eventloader::mapping::Pointer;
use eventloader::mapping::message::Payload;
use rdkafka::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use super::{Bench, settings};
use crate::queues::conformance::Sent;
use crate::support::kafka;

const PARTITIONS: i32 = 20;

pub(super) struct Kafka {
    cluster: kafka::Kafka,
    producer: FutureProducer,
    /// Messages so far: each goes to the next partition, because the mock answers one batch of a partition at a time.
    published: AtomicUsize,
}

impl Bench for Kafka {
    const BROKER: &'static str = "kafka";

    async fn create() -> Self {
        let cluster = kafka::Kafka::start(PARTITIONS);
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &cluster.brokers).set("linger.ms", "0");
        config.set("queue.buffering.max.messages", "1000000");
        Self { producer: config.create().unwrap(), cluster, published: AtomicUsize::new(0) }
    }

    fn consumed(&self) -> ConsumedSource {
        let settings = settings("type", Payload::At(Pointer::whole()));
        ConsumedSource::new("bench", Arc::new(self.cluster.source())).with_settings(settings)
    }

    async fn publish(&self, messages: &[Sent]) {
        for Sent { body, .. } in messages {
            let n = self.published.fetch_add(1, Ordering::Relaxed);
            let partition = i32::try_from(n).unwrap() % PARTITIONS;
            let record = FutureRecord::<(), _>::to(self.cluster.topic).payload(body);
            let record = record.partition(partition);
            drop(self.producer.send_result(record).unwrap());
        }
        if messages.len() > 1000 {
            self.producer.flush(Duration::from_mins(1)).unwrap();
        }
    }

    async fn drain_plainly(&self, count: usize) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.cluster.brokers).set("group.id", "plain");
        config.set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
        let consumer: StreamConsumer = config.create().unwrap();
        consumer.subscribe(&[self.cluster.topic]).unwrap();
        for n in 1..=count {
            let message = consumer.recv().await.unwrap();
            if n % 1000 == 0 {
                consumer.commit_message(&message, CommitMode::Async).unwrap();
            }
        }
    }
}
