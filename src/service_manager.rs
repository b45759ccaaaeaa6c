//! Tells systemd, or whoever else listens on `NOTIFY_SOCKET`, how far the program is, and that it is alive.
//!
//! The watchdog is fed only while every loop turns: a process that hangs is ended and started again. What the protocol is:
//! `sd_notify(3)`.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::heartbeat::Pulse;

/// Between two signs where no watchdog asks for more: the line in `systemctl status` is renewed as often.
const EVERY: Duration = Duration::from_secs(10);

/// Everything runs.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The stop has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Feeds the watchdog as long as all loops turn, and renews the line of the state, which `status` gives. Never returns.
pub async fn feed(pulses: &[Pulse], status: impl Fn() -> String) {
    // Twice as often as it has to be: one sign may come late.
    let every = sd_notify::watchdog_enabled().map_or(EVERY, |patience| (patience / 2).min(EVERY));
    let mut tick = tokio::time::interval(every);
    loop {
        tick.tick().await;
        if let Some(pulse) = hanging(pulses) {
            tracing::error!(
                part = pulse.part,
                seconds = pulse.age().as_secs(),
                "a loop hangs; the watchdog is not fed any more"
            );
        }
        tell(&signs(pulses, &status()));
    }
}

fn hanging(pulses: &[Pulse]) -> Option<&Pulse> {
    pulses.iter().find(|pulse| !pulse.is_alive())
}

fn signs<'a>(pulses: &[Pulse], status: &'a str) -> Vec<NotifyState<'a>> {
    let mut states = vec![NotifyState::Status(status)];
    states.extend(hanging(pulses).is_none().then_some(NotifyState::Watchdog));
    states
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_hangs_lets_the_watchdog_starve() {
        let fed = |pulses: &[Pulse]| {
            signs(pulses, "").iter().any(|sign| matches!(sign, NotifyState::Watchdog))
        };
        let (alive, dead) = (Pulse::new("loader"), Pulse::dead("retry-worker"));
        assert!(fed(&[]) && fed(std::slice::from_ref(&alive)));
        assert!(!fed(&[alive, dead]));
    }
}
