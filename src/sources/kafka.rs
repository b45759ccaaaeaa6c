//! `type = "kafka"`: one topic, as a member of a consumer group.
//!
//! A partition is a stream, `topic/partition`, and an offset its version: a message that comes again, after a crash, a
//! rebalance or for a new group, is recognised by its place. Start reading at [`KafkaSource`].
//!
//! librdkafka has threads of its own, reconnects by itself, and wants to be polled, or the group goes on without us. So a
//! session has a thread that polls whether or not anybody wants messages, with a few batches waiting at most. A database
//! that is away for an hour costs no rebalance: the partitions are paused, and the polling goes on.

mod begin;
mod client;
mod commit;
mod fault;
mod hand_over;
mod inspection;
mod message;
mod poller;
mod positions;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use secrecy::SecretString;
use tokio::task::JoinSet;

use self::client::{Client, Shared};
pub use self::hand_over::Receipt;
use crate::source::queue::{
    BatchLimits, Delivery, QueueError, QueueInspection, QueueSession, QueueSource,
};

/// How long leaving the group may take before nobody waits for it any more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the messages are, and who reads them.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// `host:port` each, at least one; the others of the cluster are found through them.
    pub brokers: Vec<String>,
    /// The topic; never a pattern.
    pub topic: String,
    /// The consumer group.
    pub group: String,
    /// Where a group without committed offsets begins, if nothing of the topic is stored.
    pub read_from: ReadFrom,
    /// How the connections are secured.
    pub security: Security,
}

/// Where a group without committed offsets begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadFrom {
    /// With the first message that the topic still has.
    #[default]
    Beginning,
    /// With what is published from the moment on when the group is first heard of.
    GroupCreated,
}

/// How connections are secured.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// TLS; only in a build with the feature `kafka-tls`.
    pub tls: bool,
    /// The certificates that are trusted, instead of the machine's own; PEM.
    pub ca_file: Option<PathBuf>,
    /// Who logs in; `None`: nobody.
    pub login: Option<Login>,
}

/// Who logs in.
#[derive(Clone, Debug)]
pub struct Login {
    /// The user.
    pub username: String,
    /// Never shown.
    pub password: SecretString,
    /// How.
    pub mechanism: Mechanism,
}

/// How a user logs in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mechanism {
    /// The password is sent as it is.
    #[default]
    Plain,
    /// SCRAM-SHA-256; only in a build with the feature `kafka-tls`.
    ScramSha256,
    /// SCRAM-SHA-512; only in a build with the feature `kafka-tls`.
    ScramSha512,
}

impl KafkaOptions {
    /// The host of the first broker.
    pub fn first_host(&self) -> Option<String> {
        let (host, _) = self.brokers.first()?.rsplit_once(':')?;
        Some(host.to_owned())
    }
}

/// Whether this build can encrypt connections, and log in with SCRAM.
pub fn has_tls() -> bool {
    cfg!(feature = "kafka-tls")
}

impl Mechanism {
    /// Its name in Kafka.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// A topic of Kafka, or of what speaks its protocol.
#[derive(Clone, Debug)]
pub struct KafkaSource {
    options: Arc<KafkaOptions>,
}

/// A member of the group.
#[derive(Debug)]
pub struct KafkaSession {
    shared: Arc<Shared>,
    client: Weak<Client>,
    /// The thread that polls; it leaves the group when it ends.
    thread: JoinSet<()>,
}

impl KafkaSource {
    /// A source that connects when it is asked to.
    pub fn new(options: KafkaOptions) -> Self {
        Self { options: Arc::new(options) }
    }
}

impl QueueSource for KafkaSource {
    type Session = KafkaSession;

    async fn connect(&self, consumer: &str) -> Result<KafkaSession, QueueError> {
        self.connect_behind(consumer, HashMap::new()).await
    }

    async fn connect_behind(
        &self,
        consumer: &str,
        stored: HashMap<String, i64>,
    ) -> Result<KafkaSession, QueueError> {
        let (options, name) = (Arc::clone(&self.options), consumer.to_owned());
        let shared = Arc::new(Shared::new(&options, stored));
        let joining = Arc::clone(&shared);
        let client = blocking(move || {
            let client = client::open(&options, &name, &joining)?;
            let partitions = client::partitions(&client)?;
            if options.read_from == ReadFrom::GroupCreated {
                commit::pin_end(&client, &joining, &partitions)?;
            }
            client.subscribe(&[&options.topic]).map_err(|error| joining.explain(&error))?;
            Ok(Arc::new(client))
        })
        .await?;
        let mut thread = JoinSet::new();
        let (weak, polling) = (Arc::downgrade(&client), Arc::clone(&shared));
        thread.spawn_blocking(move || poller::run(client, &polling));
        Ok(KafkaSession { shared, client: weak, thread })
    }

    async fn inspect(&self) -> Result<QueueInspection, QueueError> {
        let options = Arc::clone(&self.options);
        blocking(move || inspection::inspect(&options)).await
    }
}

impl QueueSession for KafkaSession {
    type Receipt = Receipt;

    async fn deliver(&self, limits: BatchLimits) -> Result<Delivery<Receipt>, QueueError> {
        self.shared.hand_over.batch(limits).await
    }

    async fn acknowledge(&self, receipt: Receipt) -> Result<(), QueueError> {
        self.shared.hand_over.acknowledge(&receipt);
        commit::commit(&self.client, &self.shared).await
    }

    async fn reject(&self, receipt: Receipt) -> Result<(), QueueError> {
        self.shared.hand_over.rewind(&receipt);
        Ok(())
    }

    async fn close(mut self) {
        self.shared.hand_over.stop();
        let left = tokio::time::timeout(CLOSE_TIMEOUT, self.thread.join_next()).await;
        if left.is_err() {
            tracing::debug!(topic = &*self.shared.topic, "leaving the consumer group takes long");
        }
    }
}

impl Drop for KafkaSession {
    fn drop(&mut self) {
        self.shared.hand_over.stop();
    }
}

/// Runs what waits for brokers where it holds nobody up.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, QueueError> + Send + 'static,
) -> Result<T, QueueError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(QueueError::unavailable(format!("the Kafka client ended: {error}")))
    })
}
