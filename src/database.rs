//! The database of one process: the one that was named, or the embedded one.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, PgPool};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::config::{Config, ProcessConfig};
use crate::postgres::connections::Connections;
use crate::postgres::embedded::{Durability, Embedded, EmbeddedError, EmbeddedOptions};
use crate::postgres::migrate::{self, Migrated, SchemaError};
use crate::postgres::pool;
use crate::store;
use crate::telemetry::chain;

/// How long to wait for a database that is not up yet.
const STARTUP_PATIENCE: Duration = Duration::from_mins(1);

/// Why there is no database to work with.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Neither a URL nor the permission to run an embedded server.
    #[error(
        "no database: set DATABASE_URL (or [database] url in the configuration file), or leave out --no-embedded to use \
         the embedded PostgreSQL"
    )]
    NotConfigured,
    /// The URL cannot be read. The cause is not shown: it may quote the password.
    #[error("the database URL is not valid: expected postgres://user:password@host:5432/name")]
    Url,
    /// The embedded server does not start.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// The server does not answer, or refuses us.
    #[error("cannot connect to the database at {at}")]
    Unavailable {
        /// Host, port and database, without secrets.
        at: String,
        /// What was said.
        #[source]
        cause: sqlx::Error,
    },
    /// The schema is not what this binary needs.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

impl DatabaseError {
    /// What to do about it, where the message itself does not say so.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unavailable { at, cause } => {
                store::hint(cause).or_else(|| unreachable_hint(at, cause))
            }
            Self::Schema(error) => error.hint(),
            Self::NotConfigured | Self::Url | Self::Embedded(_) => None,
        }
    }
}

/// What keeps a connection from being made, judged by what was said.
fn unreachable_hint(at: &str, cause: &sqlx::Error) -> Option<&'static str> {
    match cause {
        sqlx::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => {
            Some(if is_localhost(at.split(':').next().unwrap_or_default()) {
                "start PostgreSQL, or correct host and port of the URL; inside a container localhost is the container itself"
            } else {
                "start PostgreSQL there, let it listen on that address (listen_addresses), or correct host and port of the URL"
            })
        }
        sqlx::Error::Io(error) if error.kind() == ErrorKind::NotFound => {
            Some("correct the directory of the socket in the URL, or name a host")
        }
        sqlx::Error::Io(error) if error.to_string().contains("lookup") => {
            Some("correct the host of the URL; inside a container it is the name of the service")
        }
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => {
            Some("look for a firewall between here and there, and correct host and port of the URL")
        }
        // The driver has no kind of its own for it.
        sqlx::Error::Tls(error) if error.to_string().contains("does not support TLS") => Some(
            "switch TLS on in the server (ssl = on, with a certificate), or take sslmode out of the URL where nobody \
             listens in",
        ),
        sqlx::Error::Tls(_) => Some(
            "the server's certificate must be made for the host of the URL, by a public authority or the one in \
             sslrootcert=FILE",
        ),
        _ => None,
    }
}

/// Whether a host is the machine itself, by its name or address.
pub(crate) fn is_localhost(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An open database.
pub struct Database {
    /// The pool every part shares.
    pub pool: PgPool,
    options: PgConnectOptions,
    embedded: Option<Embedded>,
}

impl Database {
    /// Opens the configured database, or starts (or joins) the embedded one. Waits up to a minute for one that is not
    /// up yet.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn open(config: &Config, process: &ProcessConfig) -> Result<Self, DatabaseError> {
        let never = CancellationToken::new();
        let opened = Self::open_unless(config, process, &never).await?;
        Ok(opened.expect("nobody cancels the token"))
    }

    /// The same without waiting for a database that is not up yet.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn open_now(config: &Config, process: &ProcessConfig) -> Result<Self, DatabaseError> {
        let never = CancellationToken::new();
        let opened = Self::open_within(config, process, &never, Duration::ZERO).await?;
        Ok(opened.expect("nobody cancels the token"))
    }

    /// The same; `None`: `stop` came while the database was waited for.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn open_unless(
        config: &Config,
        process: &ProcessConfig,
        stop: &CancellationToken,
    ) -> Result<Option<Self>, DatabaseError> {
        Self::open_within(config, process, stop, STARTUP_PATIENCE).await
    }

    async fn open_within(
        config: &Config,
        process: &ProcessConfig,
        stop: &CancellationToken,
        patience: Duration,
    ) -> Result<Option<Self>, DatabaseError> {
        let (options, embedded) = match &config.database.url {
            Some(url) => (connect_options(url)?, None),
            None if process.no_embedded => return Err(DatabaseError::NotConfigured),
            None => {
                let embedded = Embedded::start(EmbeddedOptions {
                    data_dir: process.data_dir.clone(),
                    data_dir_explicit: process.data_dir_is_explicit,
                    bin_dir: process.pg_bin.clone(),
                    path: process.search_path.clone(),
                    durability: Durability::Durable,
                })
                .await?;
                (embedded.connect_options(), Some(embedded))
            }
        };
        if let Some(outcome) = stop.run_until_cancelled(wait_until_up(&options, patience)).await {
            outcome?;
            let pool = pool::lazy(options.clone(), config.database.max_connections);
            return Ok(Some(Self { pool, options, embedded }));
        }
        if let Some(embedded) = embedded {
            embedded.stop().await?;
        }
        Ok(None)
    }

    /// A pool of its own for one part, so that a part with many waiters does not keep the others from working. The caller
    /// sees to it that all shares together stay within `max_connections`.
    pub fn share(&self, max_connections: u32) -> PgPool {
        pool::lazy(self.options.clone(), max_connections)
    }

    /// Connections of its own for the loader.
    pub fn connections(&self, max_connections: u32) -> Connections {
        Connections::new(self.options.clone(), max_connections)
    }

    /// How to connect to it. Their `Debug` shows the password: do not log them.
    pub fn connect_options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// Where it is, without its password.
    pub fn shown(&self) -> String {
        shown(&self.options)
    }

    /// Whether it is the private one.
    pub fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// Whether it is on this machine.
    pub fn is_local(&self) -> bool {
        self.options.get_socket().is_some()
            || self.options.get_host().starts_with('/')
            || is_localhost(self.options.get_host())
    }

    /// Whether its certificate is verified.
    pub fn is_verified(&self) -> bool {
        matches!(self.options.get_ssl_mode(), PgSslMode::VerifyCa | PgSslMode::VerifyFull)
    }

    /// Brings the schema up to date.
    ///
    /// # Errors
    ///
    /// See [`SchemaError`].
    pub async fn migrate(&self) -> Result<Migrated, SchemaError> {
        migrate::run(&self.options).await
    }

    /// Starts the embedded server again whenever it is gone; another database is left to its own keepers. Never returns.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    pub async fn keep_running(&self) -> Infallible {
        match &self.embedded {
            Some(embedded) => embedded.keep_running().await,
            None => std::future::pending().await,
        }
    }

    /// Closes all connections, and stops the embedded server if this process started it.
    ///
    /// # Errors
    ///
    /// The embedded server does not stop.
    pub async fn close(self) -> Result<(), DatabaseError> {
        self.pool.close().await;
        if let Some(embedded) = self.embedded {
            embedded.stop().await?;
        }
        Ok(())
    }
}

/// Opens the database of `[storage]` and brings its schema up to date.
///
/// # Errors
///
/// See [`DatabaseError`].
pub async fn open_storage(
    url: &SecretString,
    max_connections: u32,
) -> Result<PgPool, DatabaseError> {
    let options = connect_options(url)?;
    wait_until_up(&options, STARTUP_PATIENCE).await?;
    migrate::run(&options).await?;
    Ok(pool::lazy(options, max_connections))
}

/// Connects to the database of `[storage]` once, and says where it is.
///
/// # Errors
///
/// See [`DatabaseError`].
pub async fn probe_storage(url: &SecretString) -> Result<String, DatabaseError> {
    let options = connect_options(url)?;
    wait_until_up(&options, Duration::ZERO).await?;
    Ok(shown(&options))
}

/// The host of a database URL, if it can be read and names one.
pub fn host_of(url: &SecretString) -> Option<String> {
    Url::parse(url.expose_secret()).ok()?.host_str().map(str::to_owned)
}

/// Parameters of a database URL that the driver knows.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];
/// Parameters that other programs know, so that their names are surely no part of a password.
const FOREIGN_PARAMETERS: &[&str] =
    &["channel_binding", "connect_timeout", "gssencmode", "keepalives", "target_session_attrs"];

/// Reads a database URL. The driver would log unknown parameters with their values, which may be secret (a `?` in a
/// password makes its rest a parameter), so they never reach it.
fn connect_options(url: &SecretString) -> Result<PgConnectOptions, DatabaseError> {
    let mut url = Url::parse(url.expose_secret()).map_err(|_| DatabaseError::Url)?;
    let (known, unknown): (Vec<_>, Vec<_>) = url
        .query_pairs()
        .into_owned()
        .partition(|(key, _)| PARAMETERS.contains(&key.as_str()) || key.starts_with("options["));
    if !unknown.is_empty() {
        url.query_pairs_mut().clear().extend_pairs(known);
    }
    for (key, _) in unknown {
        let parameter = FOREIGN_PARAMETERS.iter().find(|name| **name == key).unwrap_or(&"***");
        tracing::warn!(parameter, "a parameter of the database URL is not known and ignored");
    }
    PgConnectOptions::from_url(&url).map_err(|_| DatabaseError::Url)
}

/// Connects once; retries only what passes by itself: a server that is not there or is starting.
async fn wait_until_up(
    options: &PgConnectOptions,
    patience: Duration,
) -> Result<(), DatabaseError> {
    let deadline = Instant::now() + patience;
    loop {
        let cause = match tokio::time::timeout(Duration::from_secs(10), options.connect()).await {
            Ok(Ok(connection)) => {
                // Whether it says goodbye does not matter.
                drop(connection.close().await);
                return Ok(());
            }
            Ok(Err(cause)) => cause,
            Err(_) => sqlx::Error::PoolTimedOut,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let passes = passes_by_itself(&cause);
        let error = DatabaseError::Unavailable { at: shown(options), cause };
        if !passes || left.is_zero() {
            return Err(error);
        }
        tracing::warn!(
            error = chain(&error),
            hint = error.hint(),
            seconds_left = left.as_secs(),
            "the database is not up yet; trying again"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn passes_by_itself(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        // The server is going down, starting, or has no place left.
        sqlx::Error::Database(error) => {
            matches!(error.code().as_deref(), Some("57P01" | "57P02" | "57P03" | "53300"))
        }
        _ => false,
    }
}

/// Where a database is, without its password.
fn shown(options: &PgConnectOptions) -> String {
    let host = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    format!("{host}, database {}", options.get_database().unwrap_or("(default)"))
}
