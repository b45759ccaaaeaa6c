//! Starts the server again when it is gone: a disk without room for its write-ahead log ends it, and so does a kernel
//! that is short of memory.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;

use super::cluster::Cluster;
use super::endpoint::Endpoint;
use super::{Embedded, EmbeddedError, Role, find_binaries};
use crate::telemetry::chain;

/// Between two looks whether the server is there, and between two tries to start it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Embedded {
    /// Starts the server again whenever it is gone, at the same address, and says why where it does not start. Never
    /// returns.
    ///
    /// # Cancel safety
    ///
    /// A start that was begun goes on by itself; the next one adopts the server.
    pub async fn keep_up(&self) -> Infallible {
        let mut said = None;
        loop {
            sleep(LOOK_EVERY).await;
            if self.directory.postmaster().is_some() {
                continue;
            }
            match self.start_again().await {
                Ok(true) => {
                    said = None;
                    tracing::info!("the private PostgreSQL was gone, and is running again");
                }
                // Whoever owns it does.
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
        let port = match self.server.endpoint {
            Endpoint::Loopback { port } => port,
            Endpoint::Socket { .. } => 0,
        };
        let (directory, durability) = (&self.directory, self.options.durability);
        let cluster = Cluster { directory, binaries, durability, port };
        cluster.bring_up(self.server.password.clone()).await?;
        Ok(true)
    }
}
