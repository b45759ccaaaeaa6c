//! Who watches while everything runs: the admin server, and the service manager.

use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use super::spawn;
use crate::admin::{Admin, AdminError, AdminHandle, Running};
use crate::config::AdminConfig;
use crate::metrics::EventCount;
use crate::service_manager;
use crate::telemetry::chain;

/// The admin server as it runs; it ends when this is dropped.
pub(super) struct Served {
    handle: AdminHandle,
    _server: AbortOnDropHandle<()>,
}

/// Begins to serve. An address that is taken is an error, but for the usual one, which may belong to another instance on
/// this machine: then events are loaded without it.
pub(super) async fn serve_admin(config: &AdminConfig) -> Result<Option<Served>, AdminError> {
    match Admin::bind(config).await {
        Ok(admin) => Ok(Some(Served { handle: admin.handle(), _server: spawn(admin.serve()) })),
        Err(error) if !config.is_usual_address() => Err(error),
        Err(error) => {
            tracing::warn!(
                error = chain(&error),
                hint = error.hint(),
                "health, metrics and status are not served"
            );
            Ok(None)
        }
    }
}

/// Tells those who watch that everything runs, and keeps them told as long as the answer is not dropped.
pub(super) fn begin(served: Option<&Served>, running: Running) -> [AbortOnDropHandle<()>; 2] {
    let handle = served.map(|served| served.handle.clone());
    let (pulses, metrics) = (running.pulses.clone(), Arc::clone(&running.metrics));
    if let Some(handle) = &handle {
        handle.begin(running);
    }
    service_manager::ready();
    let sampled = spawn(async move {
        if let Some(handle) = handle {
            handle.sample().await;
        }
    });
    let fed = spawn(async move {
        let status = || {
            let totals = metrics.totals();
            format!(
                "{} requests, {} events stored since the start",
                totals.requests,
                totals.events[EventCount::Moved as usize]
            )
        };
        service_manager::feed(&pulses, status).await;
    });
    [sampled, fed]
}
