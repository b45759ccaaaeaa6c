//! Starting the server again when it is gone under a process that goes on: killed, or ended by a disk without room for its
//! write-ahead log.

use std::convert::Infallible;
use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _};
use tokio::time::sleep;

use super::{Embedded, EmbeddedError, Role, cluster::Cluster, endpoint::Answer, find_binaries};
use crate::telemetry::chain;

/// Between two looks at the server, which are pings on a connection that is kept, and between two tries to start it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Embedded {
    /// Starts the server again whenever it is gone, where it was, for as long as this is polled; says once why it does not
    /// start. A process that attached leaves it to the owner, as long as there is one. Never returns.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time; a server that is being started then is stopped by [`stop`](Self::stop), or adopted by
    /// the next start.
    pub async fn keep_running(&self) -> Infallible {
        let mut said = None;
        loop {
            self.wait_until_lost().await;
            let answer = self.server.endpoint.ask(&self.server.password).await;
            // Otherwise it is there: it recovers, has no place left, or is there again.
            if matches!(answer, Answer::Silent) {
                match self.start_again().await {
                    Ok(true) => {
                        said = None;
                        self.announce("the private PostgreSQL was gone, and is running again");
                    }
                    Ok(false) => {}
                    Err(error) => {
                        let error = chain(&error);
                        if said.as_ref() != Some(&error) {
                            tracing::error!(
                                error,
                                "the private PostgreSQL is gone and does not start; trying until it does"
                            );
                            said = Some(error);
                        }
                    }
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Returns when a connection to the server breaks, or cannot be made.
    async fn wait_until_lost(&self) {
        let Ok(mut connection) = self.connect_options().connect().await else { return };
        while connection.ping().await.is_ok() {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Starts it; `false`: another process owns it.
    async fn start_again(&self) -> Result<bool, EmbeddedError> {
        let found;
        let (_lock, binaries) = match &self.role {
            Role::Owner { binaries, .. } => (None, binaries),
            Role::Attached => {
                let Some(lock) = self.directory.try_own()? else { return Ok(false) };
                found = find_binaries(&self.directory, &self.options).await?;
                (Some(lock), &found)
            }
        };
        let cluster = Cluster {
            directory: &self.directory,
            binaries,
            durability: self.options.durability,
            endpoint: Some(&self.server.endpoint),
        };
        cluster.bring_up(self.server.password.clone()).await?;
        Ok(true)
    }
}
