//! Taking over a changed configuration while everything runs: on SIGHUP, sources come, change and go, and nothing else.

use std::borrow::Cow;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use sqlx::PgPool;
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};

use super::sources::set_up_all;
use super::{AppError, Reread, register};
use crate::config::{Config, ConfigError, Difference, SourceConfig};
use crate::consumer::ConsumerChange;
use crate::loader::SourceChange;
use crate::sources::http::Clients;
use crate::store::source;
use crate::telemetry::chain;

/// Why a new configuration was not taken over.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    /// The file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file is gone.
    #[error("{} is not there any more", .0.display())]
    NoFile(PathBuf),
    /// It would leave nothing to do, which is a slip more often than a wish.
    #[error("it has no sources; stop eventloader if that is what is wanted")]
    NoSources,
    /// A source cannot be set up, or not be made known to the database.
    #[error(transparent)]
    App(#[from] AppError),
}

/// Who is told what changes.
pub(super) struct HeardBy {
    pub(super) loader: mpsc::Sender<SourceChange>,
    pub(super) consumers: mpsc::Sender<ConsumerChange>,
    pub(super) config: watch::Sender<Arc<Config>>,
}

/// Reloads at every SIGHUP. A configuration that is wrong in any place changes nothing.
pub(super) async fn on_hangups(
    mut hangup: Signal,
    reread: Reread<'_>,
    started_with: &Config,
    pool: &PgPool,
    heard_by: HeardBy,
) -> Infallible {
    let mut current = Cow::Borrowed(started_with);
    loop {
        if hangup.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        match reload(reread, &current, pool, &heard_by).await {
            Ok(config) => current = Cow::Owned(config),
            Err(error) => tracing::error!(
                error = chain(&error),
                "the configuration was not reloaded; everything goes on as before"
            ),
        }
    }
}

async fn reload(
    reread: Reread<'_>,
    current: &Config,
    pool: &PgPool,
    heard_by: &HeardBy,
) -> Result<Config, ReloadError> {
    let config = reread()?;
    if let (None, Some(path)) = (&config.path, &current.path) {
        return Err(ReloadError::NoFile(path.clone()));
    }
    if config.sources.is_empty() {
        return Err(ReloadError::NoSources);
    }
    let difference = Difference::between(current, &config);
    let put: Vec<_> = difference.added.iter().chain(&difference.changed).copied().collect();
    let (loaded, consumed) = set_up_all(put.iter().copied(), &mut Clients::default())?;
    let loaded_names: Vec<_> = loaded.iter().map(|source| source.source_name.as_str()).collect();
    let consumed_names: Vec<_> =
        consumed.iter().map(|source| source.source_name.as_str()).collect();
    let gone_from_loader = gone(&difference, &loaded_names);
    let gone_from_consumers = gone(&difference, &consumed_names);
    let for_loader = SourceChange { put: loaded, removed: gone_from_loader };
    let for_consumers = ConsumerChange { put: consumed, removed: gone_from_consumers };
    register(pool, put.iter().copied()).await?;
    let changed: Vec<_> = difference.changed.iter().map(|source| source.name.as_str()).collect();
    source::end_rejections(pool, &changed).await.map_err(AppError::from)?;
    report(&difference);
    // A loader that is not run by this process, or has ended, has no use for it.
    drop(heard_by.loader.send(for_loader).await);
    drop(heard_by.consumers.send(for_consumers).await);
    heard_by.config.send_replace(Arc::new(config.clone()));
    Ok(config)
}

/// Sources that are left: those that were removed, and those that changed and come in another way now.
fn gone(difference: &Difference<'_>, kept: &[&str]) -> Vec<String> {
    let changed = difference.changed.iter().map(|source| source.name.as_str());
    let names = difference.removed.iter().copied().chain(changed);
    names.filter(|name| !kept.contains(name)).map(str::to_owned).collect()
}

fn report(difference: &Difference<'_>) {
    let names = |sources: &[&SourceConfig]| {
        sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    tracing::info!(
        added = names(&difference.added),
        changed = names(&difference.changed),
        removed = difference.removed.join(", "),
        unchanged_count = difference.unchanged_count,
        "the configuration was reloaded"
    );
    for section in &difference.needs_restart {
        tracing::warn!(section, "this section changed, and counts from the next start on");
    }
}
