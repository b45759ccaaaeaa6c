//! A Kafka cluster in this process, by librdkafka: it listens on loopback, so that other processes reach it, too. It keeps
//! 5 MiB or 100,000 messages of a partition, has no rights and no compaction, and lets a new group wait 3 s.

use std::sync::mpsc;
use std::time::Duration;

use eventloader::source::queue::{BatchLimits, Delivery, QueueSession};
use eventloader::sources::kafka::{
    KafkaOptions, KafkaSession, KafkaSource, ReadFrom, Receipt, Security,
};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};

/// Longer than anything that is waited for. Whenever a member joins a group or leaves it, the cluster waits 9 s for the
/// others (a second less than the session of a member, whoever is there already); a partition that changes hands takes two
/// such rounds, a heartbeat of 3 s each to hear of them, and another round where the joins of one overlap the other.
const PATIENCE: Duration = Duration::from_secs(90);

/// A cluster with one topic.
pub(crate) struct Kafka {
    /// To the thread that has the cluster, which cannot leave it.
    cluster: mpsc::Sender<Work>,
    pub(crate) brokers: String,
    pub(crate) topic: &'static str,
    producer: FutureProducer,
}

type Cluster = MockCluster<'static, DefaultProducerContext>;
type Work = Box<dyn FnOnce(&Cluster) + Send>;

/// A message to publish.
#[derive(Clone, Copy, Default)]
pub(crate) struct Outgoing<'a> {
    pub(crate) partition: i32,
    /// `None`: a tombstone.
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) headers: &'a [(&'a str, &'a [u8])],
}

impl Kafka {
    /// One broker, and the topic `clicks` with this many partitions.
    pub(crate) fn start(partitions: i32) -> Self {
        let topic = "clicks";
        let (cluster, work) = mpsc::channel::<Work>();
        std::thread::spawn(move || {
            let cluster = MockCluster::new(1).unwrap();
            for work in work {
                work(&cluster);
            }
        });
        let brokers = on(&cluster, move |cluster| {
            cluster.create_topic(topic, partitions, 1).unwrap();
            cluster.bootstrap_servers()
        });
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &brokers);
        config.set("message.max.bytes", "33554432").set("linger.ms", "0");
        // A record set for each message: the cluster drops them as wholes.
        config.set("batch.num.messages", "1");
        let producer = config.create().unwrap();
        Self { cluster, brokers, topic, producer }
    }

    /// Ends all connections, and lets nobody in.
    pub(crate) fn down(&self) {
        on(&self.cluster, |cluster| cluster.broker_down(1).unwrap());
    }

    pub(crate) fn up(&self) {
        on(&self.cluster, |cluster| cluster.broker_up(1).unwrap());
    }

    pub(crate) fn options(&self) -> KafkaOptions {
        KafkaOptions {
            brokers: self.brokers.split(',').map(str::to_owned).collect(),
            topic: self.topic.to_owned(),
            group: "eventloader".to_owned(),
            read_from: ReadFrom::Beginning,
            security: Security::default(),
        }
    }

    pub(crate) fn source(&self) -> KafkaSource {
        KafkaSource::new(self.options())
    }

    /// Publishes one message; answers its offset.
    pub(crate) async fn publish(&self, outgoing: Outgoing<'_>) -> i64 {
        let mut headers = OwnedHeaders::new();
        for (key, value) in outgoing.headers {
            headers = headers.insert(Header { key, value: Some(*value) });
        }
        let mut record = FutureRecord::<[u8], [u8]>::to(self.topic).partition(outgoing.partition);
        record.payload = outgoing.value;
        record.key = outgoing.key;
        record.headers = (!outgoing.headers.is_empty()).then_some(headers);
        self.producer.send(record, PATIENCE).await.unwrap().offset
    }

    /// Publishes values, perhaps with a header `ce_id`, in this order, without waiting for one before the next.
    pub(crate) async fn publish_all<'a>(
        &self,
        messages: impl Iterator<Item = (&'a [u8], Option<String>)>,
    ) {
        let mut sent = Vec::new();
        for (value, id) in messages {
            let mut record = FutureRecord::<[u8], _>::to(self.topic).partition(0).payload(value);
            record.headers = id.map(|id| {
                OwnedHeaders::new().insert(Header { key: "ce_id", value: Some(id.as_bytes()) })
            });
            let queued = self.producer.send_result(record);
            sent.push(queued.unwrap_or_else(|(error, _)| panic!("{error}")));
        }
        for sent in sent {
            sent.await.unwrap().unwrap();
        }
    }

    /// Publishes numbers as objects to a partition.
    pub(crate) async fn publish_numbers(&self, partition: i32, numbers: std::ops::Range<i64>) {
        for number in numbers {
            let value = format!("{{\"n\":{number}}}");
            let value = Some(value.as_bytes());
            self.publish(Outgoing { partition, value, ..Outgoing::default() }).await;
        }
    }

    /// The next requests of a kind are answered with these errors.
    pub(crate) fn refuse(&self, request: RDKafkaApiKey, errors: &[RDKafkaRespErr]) {
        let errors = errors.to_vec();
        on(&self.cluster, move |cluster| cluster.request_errors(request, &errors));
    }

    /// What was said before is forgotten.
    pub(crate) fn refuse_no_more(&self, request: RDKafkaApiKey) {
        on(&self.cluster, move |cluster| cluster.clear_request_errors(request));
    }

    /// Asked for the topic, brokers answer this.
    pub(crate) fn refuse_topic(&self, error: RDKafkaRespErr) {
        let topic = self.topic;
        on(&self.cluster, move |cluster| cluster.topic_error(topic, error).unwrap());
    }

    /// The offset after the last one.
    pub(crate) fn end(&self, partition: i32) -> i64 {
        self.asking().fetch_watermarks(self.topic, partition, PATIENCE).unwrap().1
    }

    /// A client of the group that never joins.
    fn asking(&self) -> BaseConsumer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("group.id", "eventloader");
        config.create().unwrap()
    }

    /// The offset that the group has committed.
    pub(crate) fn committed(&self, partition: i32) -> Option<i64> {
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition(self.topic, partition);
        let answer = self.asking().committed_offsets(wanted, PATIENCE).unwrap();
        match answer.elements()[0].offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }
}

/// Has the cluster's thread do something.
fn on<T: Send + 'static>(
    cluster: &mpsc::Sender<Work>,
    work: impl FnOnce(&Cluster) -> T + Send + 'static,
) -> T {
    let (answer, answered) = mpsc::channel();
    let work: Work = Box::new(move |cluster| answer.send(work(cluster)).unwrap());
    cluster.send(work).unwrap();
    answered.recv().unwrap()
}

/// At most this many messages, without waiting for more of them.
pub(crate) fn at_most(count: usize) -> BatchLimits {
    BatchLimits { count, bytes: 64 << 20, linger: Duration::from_millis(20) }
}

/// Delivers, and gives up where nothing comes.
pub(crate) async fn deliver(session: &KafkaSession, count: usize) -> Delivery<Receipt> {
    let delivery = tokio::time::timeout(PATIENCE, session.deliver(at_most(count))).await;
    delivery.expect("no messages came in time").unwrap()
}

/// Delivers until there are as many messages; acknowledges nothing.
pub(crate) async fn deliver_all(session: &KafkaSession, count: usize) -> Vec<Delivery<Receipt>> {
    let (mut deliveries, mut rest) = (Vec::new(), count);
    while rest > 0 {
        let delivery = deliver(session, rest).await;
        rest -= delivery.messages.len();
        deliveries.push(delivery);
    }
    deliveries
}

/// `topic/partition@offset` of messages.
pub(crate) fn references(deliveries: &[Delivery<Receipt>]) -> Vec<String> {
    let all = deliveries.iter().flat_map(|delivery| &delivery.messages);
    all.map(|message| message.reference.clone()).collect()
}
