//! Builds the parts of `eventloader run` and owns the order in which they start and stop. No decisions of its own.

mod reload;
mod sources;
mod watch;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::sync::watch as watch_channel;
use tokio_util::task::AbortOnDropHandle;

use crate::admin::{AdminError, Running};
use crate::config::{Config, ConfigError, ProcessConfig, RequestLogConfig, SourceConfig};
use crate::consumer::{ConsumedSource, Consumers};
use crate::database::{self, Database, DatabaseError};
use crate::failpoint::{self, Place};
use crate::heartbeat::Pulse;
use crate::loader::{self, LoadedSource, Loader, Stop};
use crate::metrics::{EventCount, Metrics};
use crate::postgres::connections::Connections;
use crate::retry_worker::{self, RetryWorker};
use crate::service_manager;
use crate::shutdown;
pub(crate) use crate::sources::http::Clients;
use crate::storage::{EventStorage, OtherDatabase, SameDatabase};
use crate::store::StoreError;
use crate::store::source::{self, Registration};
use crate::telemetry::chain;
use crate::upkeep::Schedule;
use crate::upkeep::prune::Retention;
use sources::set_up_all;
pub use sources::sql_options;
pub(crate) use sources::{SetUp, set_up};
use watch::Served;

/// Names of sources with new inbox rows that may wait; more than that, and the retry worker's own look finds them.
const HINT_CAPACITY: usize = 1024;

/// What `eventloader run` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Pulls the sources into the inbox.
    Loader,
    /// Moves the inbox to `events`.
    RetryWorker,
    /// Prunes the request log, as often as `[request_log]` says.
    Upkeep,
}

/// Why `eventloader run` ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A source cannot be set up.
    #[error("source {source_name} cannot be set up")]
    Source {
        /// Which.
        source_name: String,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A source has the name of a stream that an application writes.
    #[error(
        "source {0} cannot be loaded: the stream of that name belongs to an application; rename the source"
    )]
    StreamTaken(String),
    /// A statement failed during the start.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Signals cannot be waited for.
    #[error("failed to wait for signals")]
    Signals(#[source] std::io::Error),
    /// The address of the admin server.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// A part ended that never should.
    #[error("the {0} ended unexpectedly")]
    PartEnded(&'static str),
    /// The database hung while everything was to end.
    #[error(
        "stopped without an answer of the database; what it was told last is decided by it, and shows in the request log"
    )]
    Overdue,
    /// The second signal came.
    #[error("stopped at once by a second signal; open requests will show as orphaned")]
    SecondSignal,
}

/// Reads the configuration again.
pub type Reread<'a> = &'a (dyn Fn() -> Result<Config, ConfigError> + Sync);

/// Runs until a signal. On SIGHUP, `reread` gives the configuration whose sources are taken over.
///
/// Start: database, schema, sources, retry worker, loader, upkeep. Stop: no new reservations; requests in flight are
/// finished, or given up after [`shutdown::DRAIN`]; the retry worker and upkeep end between batches; connections close;
/// the embedded server stops last.
///
/// # Errors
///
/// See [`AppError`].
pub async fn run(
    config: &Config,
    process: &ProcessConfig,
    roles: &[Role],
    reread: Reread<'_>,
) -> Result<(), AppError> {
    let stop = Stop::default();
    let hangup = signal(SignalKind::hangup()).map_err(AppError::Signals)?;
    // Before the database is there: whoever asks how it is gets an answer.
    let admin = watch::serve_admin(&config.admin).await?;
    // Heard from the beginning: a start may wait for the database for a minute.
    let mut signals = pin!(shutdown::on_signals(stop.clone()));
    let opened = tokio::select! {
        biased;
        signalled = &mut signals => return Err(second_signal(signalled)),
        opened = Database::open_unless(config, process, &stop.intake) => opened?,
    };
    let Some(database) = opened else {
        tracing::info!("stopped before the database was up");
        return Ok(());
    };
    let outcome = tokio::select! {
        biased;
        signalled = &mut signals => Err(second_signal(signalled)),
        outcome = run_on(&database, config, roles, &stop, hangup, reread, admin.as_ref()) => outcome,
        never = database.keep_running() => match never {},
        () = shutdown::overdue(&stop) => Err(AppError::Overdue),
    };
    database.close().await?;
    failpoint::hit(Place::DatabaseClosed);
    outcome
}

fn second_signal(signalled: std::io::Result<()>) -> AppError {
    match signalled {
        Ok(()) => AppError::SecondSignal,
        Err(error) => AppError::Signals(error),
    }
}

async fn run_on(
    database: &Database,
    config: &Config,
    roles: &[Role],
    stop: &Stop,
    hangup: Signal,
    reread: Reread<'_>,
    admin: Option<&Served>,
) -> Result<(), AppError> {
    let shares = Shares::of(config.database.max_connections);
    let moving = database.share(shares.retry_worker);
    // Whoever waits for the migration of another instance, or for a database that went away again, can be stopped.
    let Some(begun) = stop.intake.run_until_cancelled(begin(database, config, &moving)).await
    else {
        tracing::info!("stopped before it was running");
        return Ok(());
    };
    let Begun { loaded, consumed, worker } = begun?;
    let upkeep = upkeep(&moving, &config.request_log);
    let metrics = Arc::clone(&worker.metrics);
    let connections = database.connections(shares.loader);
    let Assembled { loader, consumers, hints, heard_by, current_config } =
        assemble(config, &connections, &metrics, loaded, consumed);
    let owner = loader.owner.clone();
    tracing::info!(owner, source_count = config.sources.len(), ?roles, "eventloader is running");
    let has = |role: Role| roles.is_empty() || roles.contains(&role);
    let of_loader = [&loader.pulse, &consumers.pulse].into_iter().filter(|_| has(Role::Loader));
    let of_worker = has(Role::RetryWorker).then_some(&worker.pulse);
    let running = Running {
        config: current_config,
        metrics: Arc::clone(&metrics),
        pulses: of_loader.chain(of_worker).cloned().collect(),
        pool: database.share(shares.admin),
        connections: connections.clone(),
        owner,
    };
    failpoint::hit(Place::Running);
    let worker_stop = tokio_util::sync::CancellationToken::new();
    let worker_task =
        has(Role::RetryWorker).then(|| spawn_part(worker.run(hints, worker_stop.clone()), stop));
    let loader_task = has(Role::Loader).then(|| spawn_part(loader.run(stop.clone()), stop));
    let consumers_task = has(Role::Loader).then(|| spawn_part(consumers.run(stop.clone()), stop));
    let upkeep_task = upkeep
        .filter(|_| has(Role::Upkeep))
        .map(|upkeep| spawn_part(upkeep.run(stop.clone()), stop));
    let _summary = spawn(summarise(metrics));
    let _watch = watch::begin(admin, running);

    let reloading = reload::on_hangups(hangup, reread, config, &moving, heard_by);
    tokio::select! {
        biased;
        joined = join("loader", loader_task, &stop.intake) => joined?,
        never = reloading => match never {},
    }
    service_manager::stopping();
    failpoint::hit(Place::LoaderEnded);
    join("consumers", consumers_task, &stop.intake).await?;
    failpoint::hit(Place::ConsumersEnded);
    connections.close().await;
    failpoint::hit(Place::ConnectionsClosed);
    worker_stop.cancel();
    join("retry worker", worker_task, &stop.intake).await?;
    failpoint::hit(Place::WorkerEnded);
    join("upkeep", upkeep_task, &stop.intake).await?;
    tracing::info!("stopped");
    Ok(())
}

/// The parts that load, and who tells them of a changed configuration.
struct Assembled {
    loader: Loader,
    consumers: Consumers,
    hints: mpsc::Receiver<String>,
    heard_by: reload::HeardBy,
    current_config: watch_channel::Receiver<Arc<Config>>,
}

fn assemble(
    config: &Config,
    connections: &Connections,
    metrics: &Arc<Metrics>,
    loaded: Vec<LoadedSource>,
    consumed: Vec<ConsumedSource>,
) -> Assembled {
    let (loader_changes, changes) = mpsc::channel(1);
    let (consumer_changes, consumers_hear) = mpsc::channel(1);
    let (config_changes, current_config) = watch_channel::channel(Arc::new(config.clone()));
    let (deposited, hints) = mpsc::channel(HINT_CAPACITY);
    let owner = loader::new_owner();
    let consumers = Consumers {
        connections: connections.clone(),
        owner: owner.clone(),
        sources: consumed,
        changes: consumers_hear,
        deposited: deposited.clone(),
        metrics: Arc::clone(metrics),
        pulse: Pulse::new("consumers"),
    };
    let loader = Loader {
        connections: connections.clone(),
        owner,
        sources: loaded,
        changes,
        concurrency: config.loader.concurrency,
        deposited,
        metrics: Arc::clone(metrics),
        pulse: Pulse::new("loader"),
    };
    let heard_by = reload::HeardBy {
        loader: loader_changes,
        consumers: consumer_changes,
        config: config_changes,
    };
    Assembled { loader, consumers, hints, heard_by, current_config }
}

/// What is there before anything runs.
struct Begun {
    loaded: Vec<LoadedSource>,
    consumed: Vec<ConsumedSource>,
    worker: RetryWorker,
}

/// Schema, sources, retry worker.
///
/// # Cancel safety
///
/// A migration is a transaction, and so is the registration: what was not committed did not happen.
async fn begin(database: &Database, config: &Config, moving: &PgPool) -> Result<Begun, AppError> {
    let migrated = database.migrate().await.map_err(DatabaseError::from)?;
    tracing::info!(
        version = migrated.version,
        applied_count = migrated.applied_count,
        "schema is up to date"
    );
    let (loaded, consumed) = set_up_all(&config.sources, &mut Clients::default())?;
    register(moving, &config.sources).await?;
    let worker = retry_worker(moving, config).await?;
    Ok(Begun { loaded, consumed, worker })
}

fn spawn<T: Send + 'static>(
    part: impl Future<Output = T> + Send + 'static,
) -> AbortOnDropHandle<T> {
    AbortOnDropHandle::new(tokio::spawn(part))
}

/// Starts a part. When it ends, be it by a panic, the others are asked to end, too. Answers whether it was asked to.
fn spawn_part(
    part: impl Future<Output = ()> + Send + 'static,
    stop: &Stop,
) -> AbortOnDropHandle<bool> {
    let stop = stop.intake.clone();
    spawn(async move {
        let _ends_all = stop.clone().drop_guard();
        part.await;
        stop.is_cancelled()
    })
}

/// Waits for a part to end; one that ends before it was asked to is an error. Without the part: waits for the stop.
async fn join(
    name: &'static str,
    part: Option<AbortOnDropHandle<bool>>,
    stop: &tokio_util::sync::CancellationToken,
) -> Result<(), AppError> {
    let Some(part) = part else {
        stop.cancelled().await;
        return Ok(());
    };
    match part.await {
        Ok(true) => Ok(()),
        Ok(false) => Err(AppError::PartEnded(name)),
        Err(error) => {
            tracing::error!(part = name, error = chain(&error), "part panicked");
            Err(AppError::PartEnded(name))
        }
    }
}

/// Connections for each part.
struct Shares {
    loader: u32,
    retry_worker: u32,
    admin: u32,
}

impl Shares {
    /// Splits `max_connections`. With too few to split, each part has one.
    fn of(max_connections: u32) -> Self {
        let retry_worker = (max_connections / 2).clamp(1, retry_worker::SOURCES_AT_ONCE);
        let admin = 1;
        let loader = max_connections.saturating_sub(retry_worker + admin).max(1);
        Self { loader, retry_worker, admin }
    }
}

/// The retry worker that the configuration asks for.
///
/// # Errors
///
/// The database of `[storage]` cannot be opened.
pub async fn retry_worker(pool: &PgPool, config: &Config) -> Result<RetryWorker, AppError> {
    let storage: Arc<dyn EventStorage> = match &config.storage.url {
        None => Arc::new(SameDatabase { pool: pool.clone() }),
        Some(url) => Arc::new(OtherDatabase {
            inbox: pool.clone(),
            events: database::open_storage(url, config.database.max_connections).await?,
        }),
    };
    Ok(RetryWorker {
        storage,
        batch_size: config.retry_worker.batch_size,
        max_attempts: config.retry_worker.max_attempts,
        ..RetryWorker::new(pool.clone())
    })
}

/// The upkeep that the configuration asks for. It shares the connections of the retry worker: it needs one, for some
/// tens of milliseconds at a time.
fn upkeep(pool: &PgPool, config: &RequestLogConfig) -> Option<Schedule> {
    let retention = Retention {
        succeeded_days: config.succeeded_days,
        failed_days: config.failed_days,
        archive: config.archive,
    };
    config.prune_every.map(|every| Schedule {
        pool: pool.clone(),
        every,
        retention,
        months_ahead: config.months_ahead,
    })
}

/// Makes the sources known to the database: all of them, or none.
async fn register<'a>(
    pool: &PgPool,
    sources: impl IntoIterator<Item = &'a SourceConfig>,
) -> Result<(), AppError> {
    let registrations: Vec<Registration> = sources
        .into_iter()
        .map(|source| Registration {
            source_name: source.name.as_str().to_owned(),
            source_type: source.kind.type_name().to_owned(),
            start_after: source.loading.start_after,
        })
        .collect();
    let failed = |cause| StoreError { operation: "register the sources", cause };
    failpoint::hit(Place::RegistrationUnsent);
    let mut transaction = pool.begin().await.map_err(failed)?;
    if let Some(taken) = source::register(&mut *transaction, &registrations).await?.pop() {
        return Err(AppError::StreamTaken(taken));
    }
    failpoint::hit(Place::RegistrationOpen);
    transaction.commit().await.map_err(failed)?;
    failpoint::hit(Place::RegistrationDone);
    Ok(())
}

/// Says once a second what was done, as long as something was.
async fn summarise(metrics: Arc<Metrics>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = metrics.totals();
    loop {
        tick.tick().await;
        let now = metrics.totals();
        if now != before {
            let since = |what: EventCount| now.events[what as usize] - before.events[what as usize];
            tracing::info!(
                requests = now.requests - before.requests,
                failures = now.failures - before.failures,
                fetched = since(EventCount::Fetched),
                refused = since(EventCount::Refused),
                stored = since(EventCount::Moved),
                stored_total = now.events[EventCount::Moved as usize],
                "in the last second"
            );
        }
        before = now;
    }
}
