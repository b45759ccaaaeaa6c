//! Connections for the hot path: lent for one call, without a word on the wire besides the call itself.
//!
//! sqlx's own pool pings the server whenever a connection comes back, which would double the round trips of a request.
//! Here a connection comes back only when its call was answered. One that failed, or whose call was dropped half-way, is
//! closed instead, so nobody is ever lent a connection in an unknown state.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::pool::with_session_settings;
use crate::failpoint::{self, Place};
use crate::store::{StoreError, failed_to};

/// Longest wait for a connection to come back, and then to be opened.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection this old is closed when it comes back: the server's memory for it only grows.
const LIFETIME: Duration = Duration::from_mins(30);

/// A bounded number of connections to one database.
#[derive(Clone)]
pub struct Connections {
    options: PgConnectOptions,
    places: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Idle>>>,
    max: u32,
    failures: Arc<AtomicU64>,
}

/// How connections are used now, and how calls went.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// That may be open.
    pub max: u32,
    /// That are lent, or being opened.
    pub used: usize,
    /// That are open and lent to nobody.
    pub idle: usize,
    /// Calls since the start that failed, for want of a connection or in the database.
    pub failure_count: u64,
}

struct Idle {
    connection: PgConnection,
    opened_at: Instant,
}

impl Connections {
    /// Up to `max_connections`, opened when they are needed first.
    pub fn new(options: PgConnectOptions, max_connections: u32) -> Self {
        Self {
            options: with_session_settings(options),
            places: Arc::new(Semaphore::new(max_connections as usize)),
            idle: Arc::default(),
            max: max_connections,
            failures: Arc::default(),
        }
    }

    /// How they are used now.
    pub fn usage(&self) -> Usage {
        let used = (self.max as usize).saturating_sub(self.places.available_permits());
        let failure_count = self.failures.load(Ordering::Relaxed);
        Usage { max: self.max, used, idle: lock(&self.idle).len(), failure_count }
    }

    /// Lends a connection; the one that came back last, so that the others can age.
    ///
    /// # Errors
    ///
    /// None came back in time, or none can be opened.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the place back.
    pub async fn lend(&self) -> Result<Lent, StoreError> {
        let outcome = self.try_lend().await;
        if outcome.is_err() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    async fn try_lend(&self) -> Result<Lent, StoreError> {
        let failed = failed_to("get a database connection");
        let waited = timeout(PATIENCE, Arc::clone(&self.places).acquire_owned()).await;
        let place = match waited {
            Ok(Ok(place)) => place,
            Ok(Err(_)) => return Err(failed(sqlx::Error::PoolClosed)),
            Err(_) => return Err(failed(sqlx::Error::PoolTimedOut)),
        };
        let known = lock(&self.idle).pop();
        let idle = if let Some(idle) = known {
            idle
        } else {
            failpoint::hit(Place::ConnectionUnopened);
            let connection = match timeout(PATIENCE, self.options.connect()).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(cause)) => return Err(failed(cause)),
                Err(_) => return Err(failed(sqlx::Error::PoolTimedOut)),
            };
            failpoint::hit(Place::ConnectionOpened);
            Idle { connection, opened_at: Instant::now() }
        };
        Ok(Lent {
            idle: Some(idle),
            home: Arc::clone(&self.idle),
            failures: Arc::clone(&self.failures),
            _place: place,
        })
    }

    /// Lends no more, and closes those that are not lent.
    pub async fn close(&self) {
        self.places.close();
        let idle = std::mem::take(&mut *lock(&self.idle));
        for idle in idle {
            // The server notices a connection that ends without a goodbye, too.
            drop(idle.connection.close().await);
        }
    }
}

/// A connection for one call. Closed when dropped; [`Self::give_back`] keeps it.
pub struct Lent {
    idle: Option<Idle>,
    home: Arc<Mutex<Vec<Idle>>>,
    failures: Arc<AtomicU64>,
    _place: OwnedSemaphorePermit,
}

impl Lent {
    /// Gives the connection back if the server answered, be it with an error of the statement.
    pub fn give_back<T>(mut self, outcome: &Result<T, StoreError>) {
        if outcome.is_err() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        let answered = match outcome {
            Ok(_) => true,
            Err(error) => !error.is_outage() && matches!(error.cause, sqlx::Error::Database(_)),
        };
        if let Some(idle) = self.idle.take()
            && answered
            && idle.opened_at.elapsed() < LIFETIME
        {
            lock(&self.home).push(idle);
        }
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.idle.as_ref().expect("only giving back takes the connection out").connection
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.idle.as_mut().expect("only giving back takes the connection out").connection
    }
}

fn lock(idle: &Mutex<Vec<Idle>>) -> std::sync::MutexGuard<'_, Vec<Idle>> {
    // Every change is one push or pop, so a panic elsewhere leaves nothing half done.
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
