//! Consumes queue sources: takes what a broker delivers, deposits it in the inbox, and acknowledges it after the commit.
//!
//! Start reading at [`Consumers::run`], which keeps one task per source; `session.rs` is the loop of one connection,
//! `batch.rs` what becomes of one delivery, without any I/O.

mod batch;
mod deposit;
mod session;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::JoinMap;

use crate::heartbeat::{Heartbeat, Pulse};
use crate::loader::Stop;
use crate::mapping::message::MessageMapping;
use crate::metrics::Metrics;
use crate::postgres::connections::Connections;
use crate::source::queue::{QueueError, QueueInspection, QueueSource};
use crate::telemetry::chain;
pub(crate) use batch::{StreamBatch, message_of};
use session::Session;

/// After a panic in a driver.
const PANIC_REST: Duration = Duration::from_secs(5);

/// How one queue source is consumed.
#[derive(Clone, Debug)]
pub struct ConsumerSettings {
    /// Most messages of one deposit, 1..=10,000.
    pub batch_size: usize,
    /// How long to wait for more after the first message of a batch.
    pub linger: Duration,
    /// How messages become events.
    pub mapping: MessageMapping,
    /// How long message ids are remembered.
    pub dedup_retention: Duration,
}

impl Default for ConsumerSettings {
    /// Those of a source in `eventloader.toml` that sets nothing.
    fn default() -> Self {
        Self {
            batch_size: 1000,
            linger: Duration::from_millis(5),
            mapping: MessageMapping::default(),
            dedup_retention: Duration::from_hours(30 * 24),
        }
    }
}

/// A queue source and how it is consumed.
#[derive(Clone)]
pub struct ConsumedSource {
    /// The key under `[sources]`.
    pub source_name: String,
    /// How it is consumed.
    pub settings: ConsumerSettings,
    source: Arc<dyn AnyQueue>,
}

impl ConsumedSource {
    /// A source with the default settings.
    pub fn new(source_name: impl Into<String>, source: Arc<impl QueueSource>) -> Self {
        Self {
            source_name: source_name.into(),
            settings: ConsumerSettings::default(),
            source: Arc::new(Typed(source)),
        }
    }

    /// The same source with these settings.
    #[must_use]
    pub fn with_settings(mut self, settings: ConsumerSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Looks at the queue without taking anything from it.
    ///
    /// # Errors
    ///
    /// What keeps it from being consumed.
    pub async fn inspect(&self) -> Result<QueueInspection, QueueError> {
        self.source.inspect().await
    }
}

/// Queue sources of any type, whose sessions differ.
trait AnyQueue: Send + Sync {
    fn consume(&self, consumer: Consumer, stop: Stop) -> BoxFuture<'static, ()>;
    fn inspect(&self) -> BoxFuture<'_, Result<QueueInspection, QueueError>>;
}

struct Typed<Q>(Arc<Q>);

impl<Q: QueueSource> AnyQueue for Typed<Q> {
    fn consume(&self, consumer: Consumer, stop: Stop) -> BoxFuture<'static, ()> {
        let source = Arc::clone(&self.0);
        Box::pin(async move { Session { consumer, source: &*source, stop }.run().await })
    }

    fn inspect(&self) -> BoxFuture<'_, Result<QueueInspection, QueueError>> {
        Box::pin(self.0.inspect())
    }
}

/// What the consumer of one source works with.
#[derive(Clone)]
struct Consumer {
    source_name: String,
    settings: ConsumerSettings,
    connections: Connections,
    /// This process, as the broker knows it.
    owner: String,
    /// Told the streams that have new inbox rows. A hint.
    deposited: mpsc::Sender<String>,
    metrics: Arc<Metrics>,
}

/// What becomes different while the consumers run. The sources have to be registered.
#[derive(Clone, Default)]
pub struct ConsumerChange {
    /// Sources that are new, or take the place of those of the same name.
    pub put: Vec<ConsumedSource>,
    /// Sources that are no longer consumed. What is in hand is stored and acknowledged.
    pub removed: Vec<String>,
}

/// The consumers of one instance.
pub struct Consumers {
    /// Connections to the database.
    pub connections: Connections,
    /// This process, unlike any other that ever ran; brokers know it under this name.
    pub owner: String,
    /// The sources they begin with.
    pub sources: Vec<ConsumedSource>,
    /// Sources that come, change and go; a closed channel means that none do.
    pub changes: mpsc::Receiver<ConsumerChange>,
    /// Told the name of each stream that has new inbox rows. A hint: it may be full or closed.
    pub deposited: mpsc::Sender<String>,
    /// Counts since the start.
    pub metrics: Arc<Metrics>,
    /// The sign that the loop turns.
    pub pulse: Pulse,
}

/// A source in work.
struct Running {
    /// What is consumed when this task has ended; `None`: nothing, the source was removed.
    next: Option<ConsumedSource>,
    /// Ends this source alone.
    leave: CancellationToken,
}

impl Consumers {
    /// Consumers of these sources, and the hints they give to
    /// [`RetryWorker::run`](crate::retry_worker::RetryWorker::run). The sources have to be
    /// [registered](crate::store::source::register).
    pub fn new(
        connections: Connections,
        sources: Vec<ConsumedSource>,
    ) -> (Self, mpsc::Receiver<String>) {
        let (deposited, hints) = mpsc::channel(1024);
        let consumers = Self {
            connections,
            owner: crate::loader::new_owner(),
            sources,
            changes: mpsc::channel(1).1,
            deposited,
            metrics: Arc::default(),
            pulse: Pulse::new("consumers"),
        };
        (consumers, hints)
    }

    /// Runs until `stop.intake`, and until what is in hand is stored and acknowledged, or given up at `stop.work`.
    pub async fn run(mut self, stop: Stop) {
        let mut changes = std::mem::replace(&mut self.changes, mpsc::channel(1).1);
        let mut running: HashMap<String, Running> = HashMap::new();
        let mut tasks: JoinMap<String, ()> = JoinMap::new();
        let mut heartbeat = Heartbeat::of(self.pulse.clone());
        for source in std::mem::take(&mut self.sources) {
            self.start(source, &mut running, &mut tasks, &stop, Duration::ZERO);
        }
        loop {
            // Read once: between two looks it may come, and leave nothing to wait for.
            let going_on = !stop.intake.is_cancelled();
            if !going_on && tasks.is_empty() {
                return;
            }
            tokio::select! {
                biased;
                () = heartbeat.beat() => {}
                Some((name, outcome)) = tasks.join_next() => {
                    if let Err(error) = &outcome {
                        tracing::error!(source_name = name, error = chain(error), "consumer panicked");
                    }
                    let next = running.remove(&name).and_then(|ended| ended.next);
                    if let Some(source) = next.filter(|_| going_on) {
                        let rest = if outcome.is_err() { PANIC_REST } else { Duration::ZERO };
                        self.start(source, &mut running, &mut tasks, &stop, rest);
                    }
                }
                () = stop.intake.cancelled(), if going_on => {}
                Some(change) = changes.recv(), if going_on => {
                    for name in change.removed {
                        if let Some(removed) = running.get_mut(&name) {
                            removed.next = None;
                            removed.leave.cancel();
                        }
                    }
                    for source in change.put {
                        match running.get_mut(&source.source_name) {
                            // Started when the old one has ended: two would compete for the messages in hand.
                            Some(old) => {
                                old.next = Some(source);
                                old.leave.cancel();
                            }
                            None => self.start(source, &mut running, &mut tasks, &stop, Duration::ZERO),
                        }
                    }
                }
            }
        }
    }

    fn start(
        &self,
        source: ConsumedSource,
        running: &mut HashMap<String, Running>,
        tasks: &mut JoinMap<String, ()>,
        stop: &Stop,
        rest: Duration,
    ) {
        let consumer = Consumer {
            source_name: source.source_name.clone(),
            settings: source.settings.clone(),
            connections: self.connections.clone(),
            owner: self.owner.clone(),
            deposited: self.deposited.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        let leave = stop.intake.child_token();
        let own_stop = Stop { intake: leave.clone(), work: stop.work.clone() };
        let consume = source.source.consume(consumer, own_stop);
        let resting = leave.clone();
        tasks.spawn(source.source_name.clone(), async move {
            if resting.run_until_cancelled(tokio::time::sleep(rest)).await.is_some() {
                consume.await;
            }
        });
        running.insert(source.source_name.clone(), Running { next: Some(source), leave });
    }
}
