//! While a loss is told and not stored yet, nothing new is read: the group stays where it was, and whoever comes next finds
//! the loss again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// Between the reader, which tells a loss, and the session, which hears that it is stored.
#[derive(Debug, Default)]
pub(super) struct Hold {
    stand: Mutex<Stand>,
    ended: Notify,
}

/// How it is with the last loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stand {
    /// It is stored, or there was none.
    #[default]
    Settled,
    /// It is told.
    Told,
    /// It was given back, and is to be told again.
    GivenBack,
}

impl Hold {
    pub(super) fn set(&self, stand: Stand) {
        *self.stand() = stand;
        self.ended.notify_one();
    }

    /// What was given back is answered once.
    pub(super) fn look(&self) -> Stand {
        let mut stand = self.stand();
        let seen = *stand;
        if seen == Stand::GivenBack {
            *stand = Stand::Settled;
        }
        seen
    }

    /// Waits for an end, but not for longer.
    pub(super) async fn wait(&self, patience: Duration) {
        drop(tokio::time::timeout(patience, self.ended.notified()).await);
    }

    fn stand(&self) -> MutexGuard<'_, Stand> {
        self.stand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
