//! Stopping: the first signal drains, the second leaves at once.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::loader::Stop;

/// How long work in flight may go on after the first signal. Afterwards it is given up, and recorded as unknown.
/// Shorter than systemd's and Docker's patience (90 s and 10 s).
pub const DRAIN: Duration = Duration::from_secs(8);

/// Waits for SIGTERM or SIGINT and drives `stop` through its two stages. Returns when everything has to end now: at
/// the second signal. Never returns otherwise.
///
/// # Errors
///
/// Signals cannot be waited for.
pub async fn on_signals(stop: Stop) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(
        signal = name,
        "stopping: no new requests, work in flight is finished; once more to leave at once"
    );
    stop.intake.cancel();
    tokio::select! {
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
        () = tokio::time::sleep(DRAIN) => {}
    }
    stop.work.cancel();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
