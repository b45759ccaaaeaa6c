//! Consumers and a retry worker, run in the test's own process on the test's own database.

use std::sync::Arc;

use eventloader::consumer::{ConsumedSource, Consumers};
use eventloader::loader::Stop;
use eventloader::metrics::{EventCount, Metrics};
use eventloader::postgres::connections::Connections;
use eventloader::retry_worker::RetryWorker;
use eventloader::store::source::{Registration, register};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::database::Database;

/// One instance that consumes.
pub(crate) struct Consuming {
    pub(crate) stop: Stop,
    pub(crate) metrics: Arc<Metrics>,
    worker_stop: CancellationToken,
    consumers: JoinHandle<()>,
    worker: JoinHandle<()>,
}

impl Consuming {
    /// Registers the sources and starts; several on one database are several instances.
    pub(crate) async fn start(database: &Database, sources: Vec<ConsumedSource>) -> Self {
        Self::start_on(database, Connections::new(database.options.clone(), 4), sources).await
    }

    /// With these connections, perhaps through a proxy.
    pub(crate) async fn start_on(
        database: &Database,
        connections: Connections,
        sources: Vec<ConsumedSource>,
    ) -> Self {
        let registrations: Vec<_> = sources
            .iter()
            .map(|source| Registration {
                source_name: source.source_name.clone(),
                source_type: "custom".to_owned(),
                start_after: 0,
            })
            .collect();
        assert_eq!(register(&database.pool, &registrations).await.unwrap(), [""; 0]);
        let (consumers, hints) = Consumers::new(connections, sources);
        let worker = RetryWorker::new(database.pool.clone());
        let (stop, worker_stop) = (Stop::default(), CancellationToken::new());
        Self {
            metrics: Arc::clone(&consumers.metrics),
            consumers: tokio::spawn(consumers.run(stop.clone())),
            worker: tokio::spawn(worker.run(hints, worker_stop.clone())),
            stop,
            worker_stop,
        }
    }

    /// Messages that were delivered before, and stored then.
    pub(crate) fn duplicates(&self) -> u64 {
        self.metrics.totals().events[EventCount::Duplicate as usize]
    }

    /// Lets what is in hand be stored and acknowledged, then stops.
    pub(crate) async fn stop(self) {
        self.stop.intake.cancel();
        self.consumers.await.unwrap();
        self.worker_stop.cancel();
        self.worker.await.unwrap();
    }

    /// Ends without a goodbye, as a killed process does.
    pub(crate) async fn kill(self) {
        self.consumers.abort();
        self.worker.abort();
        assert!(self.consumers.await.unwrap_err().is_cancelled());
        drop(self.worker.await);
    }
}
