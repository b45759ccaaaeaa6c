//! What tests stand on.

pub(crate) mod admin;
pub(crate) mod browser;
pub(crate) mod cable;
pub(crate) mod consuming;
pub(crate) mod database;
pub(crate) mod disk;
pub(crate) mod http;
pub(crate) mod inbox;
#[cfg(feature = "kafka")]
pub(crate) mod kafka;
pub(crate) mod loading;
pub(crate) mod mariadb;
pub(crate) mod pooler;
pub(crate) mod program;
pub(crate) mod prometheus;
pub(crate) mod proxy;
pub(crate) mod rabbitmq;
pub(crate) mod redis;
pub(crate) mod tls;
pub(crate) mod troubleshooting;

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// Waits until `look` answers something, and fails the test with `what` if it does not in 30 s. For values, not timings.
pub(crate) async fn wait_for<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited 30 s for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
