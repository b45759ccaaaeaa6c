//! A topic that holds many messages: the mock keeps 5 MiB of a partition.

use std::sync::Arc;
use std::time::Duration;

use eventloader::mapping::message::MessageMapping;
use eventloader::sources::kafka::KafkaSource;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};

use super::stored::Topic;
use crate::queues::conformance::{Fixture, Sent};
use crate::support::kafka::Kafka;

const PARTITIONS: i32 = 20;

/// A topic whose messages go to one partition after the other. Their ids stand in the bodies only.
pub(crate) struct Partitions(Topic);

impl Fixture for Partitions {
    type Source = KafkaSource;

    async fn create() -> Self {
        Self(Topic(Kafka::start(PARTITIONS)))
    }

    fn source(&self) -> Arc<KafkaSource> {
        self.0.source()
    }

    fn mapping(&self) -> MessageMapping {
        self.0.mapping()
    }

    async fn publish(&self, messages: &[Sent]) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.0.0.brokers);
        config.set("queue.buffering.max.messages", "1000000");
        let producer: FutureProducer = config.create().unwrap();
        let mut confirms = Vec::new();
        for (Sent { body, .. }, partition) in messages.iter().zip((0..PARTITIONS).cycle()) {
            let record = FutureRecord::<(), _>::to(self.0.0.topic).payload(body);
            confirms.push(producer.send_result(record.partition(partition)).unwrap());
        }
        producer.flush(Duration::from_mins(1)).unwrap();
        for confirm in confirms {
            confirm.await.unwrap().unwrap();
        }
    }

    async fn unacknowledged(&self) -> usize {
        let kafka = &self.0.0;
        let left = (0..PARTITIONS)
            .map(|partition| kafka.end(partition) - kafka.committed(partition).unwrap_or_default());
        usize::try_from(left.sum::<i64>()).unwrap()
    }
}
