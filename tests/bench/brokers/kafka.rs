//! Kafka, as far as its mock goes: it keeps 5 MiB a partition, so there are many.

use std::sync::Arc;
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
    kafka: kafka::Kafka,
    producer: FutureProducer,
}

impl Bench for Kafka {
    const BROKER: &'static str = "kafka";

    async fn create() -> Self {
        let kafka = kafka::Kafka::start(PARTITIONS);
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &kafka.brokers).set("linger.ms", "0");
        config.set("queue.buffering.max.messages", "1000000");
        Self { producer: config.create().unwrap(), kafka }
    }

    fn consumed(&self) -> ConsumedSource {
        let settings = settings("type", Payload::At(Pointer::whole()));
        ConsumedSource::new("bench", Arc::new(self.kafka.source())).with_settings(settings)
    }

    async fn publish(&self, messages: &[Sent]) {
        for (n, Sent { body, .. }) in messages.iter().enumerate() {
            let partition = i32::try_from(n).unwrap() % PARTITIONS;
            let record = FutureRecord::<(), _>::to(self.kafka.topic).payload(body);
            let record = record.partition(partition);
            drop(self.producer.send_result(record).unwrap());
        }
        if messages.len() > 1000 {
            self.producer.flush(Duration::from_mins(1)).unwrap();
        }
    }

    async fn drain_plainly(&self, count: usize) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.kafka.brokers).set("group.id", "plain");
        config.set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
        let consumer: StreamConsumer = config.create().unwrap();
        consumer.subscribe(&[self.kafka.topic]).unwrap();
        for n in 1..=count {
            let message = consumer.recv().await.unwrap();
            if n % 1000 == 0 {
                consumer.commit_message(&message, CommitMode::Async).unwrap();
            }
        }
    }
}
