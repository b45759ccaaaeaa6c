//! The loader and the retry worker, run in the test's own process on the test's own database.

use std::sync::Arc;
use std::time::Duration;

use eventloader::heartbeat::Pulse;
use eventloader::loader::policy::OnFailure;
use eventloader::loader::{LoadedSource, Loader, SourceSettings, Stop};
use eventloader::postgres::connections::Connections;
use eventloader::retry_worker::RetryWorker;
use eventloader::source::EventSource;
use eventloader::sources::http::{Clients, HttpOptions, HttpSource};
use eventloader::store::source::{Registration, register};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::database::Database;

/// A source to be loaded. Tests change what they are about.
#[derive(Clone)]
pub(crate) struct Given {
    pub(crate) source_name: String,
    pub(crate) kind: Kind,
    pub(crate) settings: SourceSettings,
    pub(crate) start_after: i64,
}

/// Where its events come from.
#[derive(Clone)]
pub(crate) enum Kind {
    Http(Box<HttpOptions>),
    Own(Arc<dyn EventSource>),
}

impl Given {
    /// A source of the test's own.
    pub(crate) fn new(source_name: &str, source: Arc<dyn EventSource>) -> Self {
        Self::of(source_name, Kind::Own(source))
    }

    fn of(source_name: &str, kind: Kind) -> Self {
        let settings = SourceSettings {
            batch_size: 1000,
            min_interval: Duration::from_millis(200),
            lease_ttl: Duration::from_secs(5),
            max_idle: Duration::from_secs(1),
            on_failure: OnFailure::Hold,
            deadline: Duration::from_mins(10),
        };
        Self { source_name: source_name.to_owned(), kind, settings, start_after: 0 }
    }

    /// What an HTTP source is made of.
    pub(crate) fn options(&mut self) -> &mut HttpOptions {
        match &mut self.kind {
            Kind::Http(options) => options,
            Kind::Own(_) => panic!("{} is no HTTP source", self.source_name),
        }
    }

    fn load(&self) -> LoadedSource {
        let source = match &self.kind {
            Kind::Http(options) => {
                Arc::new(HttpSource::new(&mut Clients::default(), (**options).clone()).unwrap())
            }
            Kind::Own(source) => Arc::clone(source),
        };
        let source_name = self.source_name.clone();
        LoadedSource { source_name, source, settings: self.settings }
    }
}

/// An HTTP source as the configuration file would make it, but one that idles briefly.
pub(crate) fn http(source_name: &str, url: &str) -> Given {
    let timeout = Duration::from_secs(10);
    let options = HttpOptions { timeout, ..HttpOptions::new(url.parse().unwrap()) };
    Given::of(source_name, Kind::Http(Box::new(options)))
}

/// A loader and a retry worker that run.
pub(crate) struct Loading {
    pub(crate) stop: Stop,
    worker_stop: CancellationToken,
    loader: JoinHandle<()>,
    worker: JoinHandle<()>,
}

impl Loading {
    /// Registers the sources and starts; several on one database are several instances.
    pub(crate) async fn start(database: &Database, given: &[Given]) -> Self {
        Self::start_with(database, given, 64).await
    }

    /// With so many requests in flight at most.
    pub(crate) async fn start_with(
        database: &Database,
        given: &[Given],
        concurrency: usize,
    ) -> Self {
        let registrations: Vec<_> = given
            .iter()
            .map(|given| Registration {
                source_name: given.source_name.clone(),
                source_type: "http".to_owned(),
                start_after: given.start_after,
            })
            .collect();
        assert_eq!(register(&database.pool, &registrations).await.unwrap(), [""; 0]);
        let sources = given.iter().map(Given::load).collect();
        let (deposited, hints) = mpsc::channel(1024);
        let loader = Loader {
            connections: Connections::new(database.options.clone(), 8),
            owner: format!("test:{}", uuid::Uuid::new_v4()),
            sources,
            changes: mpsc::channel(1).1,
            concurrency,
            deposited,
            metrics: Arc::default(),
            pulse: Pulse::new("loader"),
        };
        let worker = RetryWorker::new(database.pool.clone());
        let (stop, worker_stop) = (Stop::default(), CancellationToken::new());
        Self {
            loader: tokio::spawn(loader.run(stop.clone())),
            worker: tokio::spawn(worker.run(hints, worker_stop.clone())),
            stop,
            worker_stop,
        }
    }

    /// Lets the requests in flight end, then stops.
    pub(crate) async fn stop(self) {
        self.stop.intake.cancel();
        self.loader.await.unwrap();
        self.worker_stop.cancel();
        self.worker.await.unwrap();
    }
}
