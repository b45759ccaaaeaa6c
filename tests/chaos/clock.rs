//! The one clock of a campaign, which is also the database's: both are on this machine.

use std::sync::LazyLock;

use tokio::time::Instant;

use super::history::Micros;

static ANCHOR: LazyLock<(Instant, Micros)> =
    LazyLock::new(|| (Instant::now(), chrono::Utc::now().timestamp_micros()));

/// Microseconds since 1970 that never fall.
pub(crate) fn now() -> Micros {
    let (at, micros) = *ANCHOR;
    micros + Micros::try_from(at.elapsed().as_micros()).unwrap()
}
