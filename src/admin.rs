//! The admin server: health, metrics, the status page and its API, over HTTP. It changes nothing but through
//! [`crate::operate`] and [`crate::dead_letter`], as the command line does.
//!
//! Start reading at `routes`; `access.rs` says who may what, `snapshot.rs` what is shown and how old it may be.

mod access;
mod actions;
mod api;
mod health;
mod live;
mod page;
mod prometheus;
mod server;
mod snapshot;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::{AdminConfig, Config};
use crate::heartbeat::Pulse;
use crate::metrics::Metrics;
use crate::postgres::connections::Connections;
use access::Access;
use snapshot::Snapshots;

/// The longest body of a request: a form, or a list of numbers.
const BODY_MAX: usize = 64 << 10;

/// What the server shows and changes; there as soon as everything runs.
pub struct Running {
    /// The configuration as it is now.
    pub config: watch::Receiver<Arc<Config>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The loops.
    pub pulses: Vec<Pulse>,
    /// Connections of its own.
    pub pool: PgPool,
    /// The connections of the loader and the consumers, to be counted.
    pub connections: Connections,
    /// This process.
    pub owner: String,
}

/// What every request is answered from.
struct State {
    access: Access,
    running: OnceLock<(Running, Snapshots)>,
}

impl State {
    fn running(&self) -> Option<&(Running, Snapshots)> {
        self.running.get()
    }
}

/// An address that is listened on, before anything else is there.
pub struct Admin {
    listener: TcpListener,
    state: Arc<State>,
}

/// Tells the admin server what runs.
#[derive(Clone)]
pub struct AdminHandle(Arc<State>);

impl AdminHandle {
    /// From now on the server shows it.
    pub fn begin(&self, running: Running) {
        let snapshots = Snapshots::new(running.pool.clone());
        // Told once.
        drop(self.0.running.set((running, snapshots)));
    }

    /// Keeps the figures of the last hour, for the page. Never returns.
    pub async fn sample(&self) {
        let mut tick = tokio::time::interval(snapshot::SAMPLE_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Some((running, snapshots)) = self.0.running() {
                snapshots.sample(&running.metrics).await;
            }
        }
    }
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen} for health, metrics and status")]
pub struct AdminError {
    /// Where.
    pub listen: SocketAddr,
    /// Why.
    #[source]
    pub cause: std::io::Error,
}

impl AdminError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self.cause.kind() {
            std::io::ErrorKind::AddrInUse => Some(
                "another program listens there, perhaps another eventloader: set [admin] listen to a free port, or to \
                 port 0",
            ),
            std::io::ErrorKind::PermissionDenied => Some(
                "ports below 1024 need a right of their own: set [admin] listen to a higher one",
            ),
            std::io::ErrorKind::AddrNotAvailable => {
                Some("this machine has no such address: correct [admin] listen")
            }
            _ => None,
        }
    }
}

impl Admin {
    /// Begins to listen.
    ///
    /// # Errors
    ///
    /// See [`AdminError`].
    pub async fn bind(config: &AdminConfig) -> Result<Self, AdminError> {
        let listen = config.listen;
        let listener =
            TcpListener::bind(listen).await.map_err(|cause| AdminError { listen, cause })?;
        let address = listener.local_addr().map_err(|cause| AdminError { listen, cause })?;
        tracing::info!(%address, "health, metrics and status are served");
        let access = Access::new(config, address);
        Ok(Self { listener, state: Arc::new(State { access, running: OnceLock::new() }) })
    }

    /// To tell it what runs.
    pub fn handle(&self) -> AdminHandle {
        AdminHandle(Arc::clone(&self.state))
    }

    /// Serves until it is dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropping it closes the connections; what was changed in the database stays changed.
    pub async fn serve(self) {
        server::serve(self.listener, routes(self.state)).await;
    }
}

/// Every address there is.
fn routes(state: Arc<State>) -> Router {
    let open = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/login", get(page::login_form).post(access::login))
        .layer(from_fn(access::in_time));
    let read = Router::new()
        .route("/", get(page::show))
        .route("/live", get(live::live))
        .route("/metrics", get(prometheus::metrics))
        .route("/api/v1/status", get(api::status))
        .route("/api/v1/requests", get(api::requests))
        .route("/api/v1/requests/{id}", get(api::request))
        .route("/api/v1/dead-letters", get(api::dead_letters))
        .route("/api/v1/dead-letters/{id}", get(api::dead_letter))
        .layer(from_fn_with_state(Arc::clone(&state), access::may_read));
    let change = Router::new()
        .route("/api/v1/sources/{name}/pause", post(actions::pause))
        .route("/api/v1/sources/{name}/resume", post(actions::resume))
        .route("/api/v1/requests/{id}/retry", post(actions::retry))
        .route("/api/v1/requests/{id}/skip", post(actions::skip))
        .route("/api/v1/dead-letters/replay", post(actions::replay))
        .route("/api/v1/dead-letters/discard", post(actions::discard))
        .route("/logout", post(access::logout))
        .layer(from_fn_with_state(Arc::clone(&state), access::may_change));
    open.merge(read)
        .merge(change)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn_with_state(Arc::clone(&state), access::is_meant))
        .with_state(state)
}

/// A duration as whole seconds, for JSON and HTML.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs()
}
