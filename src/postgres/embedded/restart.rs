//! Starting the server again when it dies under a process that goes on.

use std::future::pending;
use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _};
use tokio::time::sleep;

use super::{Embedded, Role, cluster::Cluster, endpoint::Answer};
use crate::telemetry::chain;

/// Between two looks at the server. A look is a ping on a connection that is kept.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a start that failed: a full disk does not empty itself at once.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(10);

impl Embedded {
    /// Starts the server again whenever it is gone, where it was, for as long as this is polled. Never returns.
    ///
    /// Only the owner does so; a process that attached leaves it to the owner.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time; a server that is being started then is stopped by [`stop`](Self::stop), or adopted by
    /// the next start.
    pub async fn keep_running(&self) {
        let Role::Owner { binaries, .. } = &self.role else { return pending().await };
        let cluster = Cluster {
            directory: &self.directory,
            binaries,
            durability: self.options.durability,
            endpoint: Some(&self.server.endpoint),
        };
        loop {
            self.wait_until_lost().await;
            let answer = self.server.endpoint.ask(&self.server.password).await;
            if !matches!(answer, Answer::Silent) {
                // It is there: it recovers, has no place left, or is there again.
                sleep(LOOK_EVERY).await;
                continue;
            }
            tracing::warn!("the private PostgreSQL is gone; starting it again");
            match cluster.bring_up(self.server.password.clone()).await {
                Ok(_) => self.announce("private PostgreSQL is running again"),
                Err(error) => {
                    tracing::error!(
                        error = chain(&error),
                        again_in_s = PAUSE_AFTER_FAILURE.as_secs(),
                        "the private PostgreSQL cannot be started again"
                    );
                    sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
        }
    }

    /// Returns when a connection to the server breaks, or cannot be made.
    async fn wait_until_lost(&self) {
        let Ok(mut connection) = self.connect_options().connect().await else { return };
        while connection.ping().await.is_ok() {
            sleep(LOOK_EVERY).await;
        }
    }
}
