//! Stopping: the first signal drains, the second leaves at once.

use std::io::IsTerminal;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failpoint::{self, Place};
use crate::loader::Stop;

/// How long work in flight may go on after the first signal. Afterwards it is given up, and recorded as unknown.
/// Shorter than systemd's and Docker's patience (90 s and 10 s).
pub const DRAIN: Duration = Duration::from_secs(8);

/// How long what was given up may take to be written down. A database that hangs must not keep the process alive for
/// longer than service managers wait.
const GIVE_UP: Duration = Duration::from_secs(15);

/// Returns when the stop has taken longer than it may.
pub async fn overdue(stop: &Stop) {
    stop.work.cancelled().await;
    tokio::time::sleep(GIVE_UP).await;
}

/// Waits for SIGTERM or SIGINT, or the end of a part, and drives `stop` through its two stages. Returns when everything has
/// to end now: at the second signal. Never returns otherwise.
///
/// # Errors
///
/// Signals cannot be waited for.
pub async fn on_signals(stop: Stop) -> std::io::Result<()> {
    let mut signals = Signals::new()?;
    tokio::select! {
        name = signals.next() => tracing::info!(
            signal = name,
            "stopping: no new requests, work in flight is finished; once more to leave at once"
        ),
        // A part has ended by itself: the others have as long as after a signal.
        () = stop.intake.cancelled() => {}
    }
    failpoint::hit(Place::StopAsked);
    stop.intake.cancel();
    tokio::select! {
        _ = signals.next() => return Ok(()),
        () = tokio::time::sleep(DRAIN) => {}
    }
    stop.work.cancel();
    signals.next().await;
    Ok(())
}

/// The signals that ask to stop.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Started from a terminal, whose end is a reason to stop.
    has_terminal: bool,
}

impl Signals {
    /// From now on they do not end the process by themselves.
    ///
    /// # Errors
    ///
    /// Signals cannot be waited for.
    pub fn new() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        Ok(Self { terminate, interrupt, hangup, has_terminal: std::io::stdin().is_terminal() })
    }

    /// Waits for the next one and names it.
    ///
    /// # Cancel safety
    ///
    /// Loses none.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = terminal_closed(&mut self.hangup), if self.has_terminal => "SIGHUP of its terminal",
        }
    }
}

/// Waits for a SIGHUP that comes because the terminal is gone, and not from somebody who wants a reload.
async fn terminal_closed(hangup: &mut Signal) {
    loop {
        hangup.recv().await;
        if !std::io::stdin().is_terminal() {
            return;
        }
    }
}
