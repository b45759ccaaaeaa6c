//! Where the server listens and how to speak to it.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    Connection as _, PgConnection,
    error::DatabaseError,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::time::timeout;

/// Name of the superuser and of the database.
pub(super) const NAME: &str = "eventloader";
/// Port in the name of the socket file; nothing listens on it.
pub(super) const SOCKET_PORT: u16 = 5432;
/// Longest path of a socket: `sun_path` without the closing zero.
const SOCKET_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// A unix socket in this directory. Its path is UTF-8.
    Socket { directory: PathBuf, port: u16 },
    /// A loopback port: where a socket path would be too long. Guarded by the password only.
    Loopback { port: u16 },
}

/// A server that took our password.
pub(super) struct Server {
    pub(super) endpoint: Endpoint,
    pub(super) password: SecretString,
    /// Such as `15.18`.
    pub(super) version: String,
}

/// The line-based `postmaster.pid`, as far as we need it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Postmaster {
    pub(super) pid: i32,
    pub(super) endpoint: Endpoint,
}

/// How a server answers an attempt to connect.
#[derive(Debug)]
pub(super) enum Answer {
    /// It takes connections; this is its version.
    Ready { version: String },
    /// It takes connections, but our database is not there yet.
    NoDatabase,
    /// It starts up, recovers or shuts down: wait (57P03).
    Starting,
    /// Nobody listens.
    Silent,
    /// It listens and refuses us.
    Refused(sqlx::Error),
}

impl Endpoint {
    /// A socket in `directory`, unless its path is too long or one that a driver cannot take:
    /// sqlx wants UTF-8, and libpq splits hosts at commas.
    pub(super) fn socket(directory: &Path) -> Option<Self> {
        let file = directory.join(format!(".s.PGSQL.{SOCKET_PORT}"));
        let path = file.to_str()?;
        (path.len() <= SOCKET_PATH_BYTES_MAX && !path.contains(','))
            .then(|| Self::Socket { directory: directory.to_owned(), port: SOCKET_PORT })
    }

    /// `host` as libpq takes it: a socket directory or an address.
    pub(super) fn host(&self) -> String {
        match self {
            Self::Socket { directory, .. } => directory.display().to_string(),
            Self::Loopback { .. } => "127.0.0.1".to_owned(),
        }
    }

    pub(super) fn port(&self) -> u16 {
        match self {
            Self::Socket { port, .. } | Self::Loopback { port } => *port,
        }
    }

    /// Options for sqlx. Their `Debug` shows the password: never log them.
    fn connect_options(&self, password: &SecretString) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass()
            .port(self.port())
            .username(NAME)
            .password(password.expose_secret())
            .database(NAME)
            .ssl_mode(PgSslMode::Disable)
            .application_name(NAME);
        match self {
            Self::Socket { directory, .. } => options.socket(directory),
            Self::Loopback { .. } => options.host("127.0.0.1"),
        }
    }

    /// Connects to our database and says how the server took it.
    pub(super) async fn ask(&self, password: &SecretString) -> Answer {
        match self.query_version(password).await {
            Ok(version) => Answer::Ready { version },
            Err(error) => classify(error),
        }
    }

    async fn query_version(&self, password: &SecretString) -> Result<String, sqlx::Error> {
        let options = self.connect_options(password);
        let mut connection = connect(&options).await?;
        let version: String =
            sqlx::query_scalar("show server_version").fetch_one(&mut connection).await?;
        connection.close().await?;
        // Debian adds its package version in parentheses.
        Ok(version.split(' ').next().unwrap_or_default().to_owned())
    }

    /// Creates our database.
    pub(super) async fn create_database(&self, password: &SecretString) -> Result<(), sqlx::Error> {
        let options = self.connect_options(password).database("postgres");
        let mut connection = connect(&options).await?;
        sqlx::query("create database eventloader").execute(&mut connection).await?;
        connection.close().await
    }
}

impl Server {
    pub(super) fn connect_options(&self) -> PgConnectOptions {
        self.endpoint.connect_options(&self.password)
    }

    /// A URL that both libpq and sqlx read, for sockets too: the directory is the encoded host.
    pub(super) fn url(&self) -> SecretString {
        let (host, port) = (percent_encode(&self.endpoint.host()), self.endpoint.port());
        let password = self.password.expose_secret();
        format!("postgres://{NAME}:{password}@{host}:{port}/{NAME}?sslmode=disable").into()
    }
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    timeout(CONNECT_TIMEOUT, PgConnection::connect_with(options))
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())))
}

fn classify(error: sqlx::Error) -> Answer {
    let code = error.as_database_error().and_then(DatabaseError::code).map(Cow::into_owned);
    match (code.as_deref(), &error) {
        // cannot_connect_now; admin_shutdown and crash_shutdown hit us while it goes down.
        (Some("57P01" | "57P02" | "57P03"), _) => Answer::Starting,
        (Some("3D000"), _) => Answer::NoDatabase,
        (None, sqlx::Error::Io(_)) => Answer::Silent,
        _ => Answer::Refused(error),
    }
}

impl Postmaster {
    /// Reads `postmaster.pid`: pid, data directory, start time, port, socket directory, address.
    /// A file that is still being written, or of a single-user server, gives nothing.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let [pid, _, _, port, directory, address, ..] = lines.as_slice() else { return None };
        let pid: i32 = pid.parse().ok().filter(|pid| *pid > 0)?;
        let port = port.parse().ok()?;
        let endpoint = match (*directory, *address) {
            ("", "") => return None,
            ("", _) => Endpoint::Loopback { port },
            (directory, _) => Endpoint::Socket { directory: directory.into(), port },
        };
        Some(Self { pid, endpoint })
    }
}

fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => {
                encoded.push(char::from(byte));
            }
            // Writing to a String cannot fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_file_names_the_endpoint_once_it_is_complete() {
        let socket = "4242\n/d/cluster\n1700000000\n5432\n/d/socket\n\n  65538  4\nready   \n";
        let endpoint = Endpoint::Socket { directory: "/d/socket".into(), port: 5432 };
        assert_eq!(Postmaster::parse(socket), Some(Postmaster { pid: 4242, endpoint }));
        let loopback = "7\n/d/cluster\n1700000000\n40001\n\n127.0.0.1\n";
        let endpoint = Endpoint::Loopback { port: 40001 };
        assert_eq!(Postmaster::parse(loopback), Some(Postmaster { pid: 7, endpoint }));
        for text in
            ["", "7\n", "-7\n/d\n1\n5432\n/s\n\n", "x\n/d\n1\n5432\n/s\n\n", "7\n/d\n1\n5432\n\n\n"]
        {
            assert_eq!(Postmaster::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn socket_paths_end_at_the_size_of_sun_path_and_have_no_comma() {
        let fits = "/".to_owned() + &"d".repeat(SOCKET_PATH_BYTES_MAX - 15);
        assert!(Endpoint::socket(Path::new(&fits)).is_some());
        assert!(Endpoint::socket(Path::new(&(fits + "d"))).is_none());
        assert!(Endpoint::socket(Path::new("/a,b")).is_none());
    }

    #[test]
    fn url_of_a_socket_is_read_back_by_sqlx() {
        let endpoint = Endpoint::Socket { directory: "/tmp/a b:ü@/s".into(), port: 5432 };
        let server = Server { endpoint, password: "secret".into(), version: String::new() };
        let url = server.url();
        assert_eq!(
            url.expose_secret(),
            "postgres://eventloader:secret@%2Ftmp%2Fa%20b%3A%C3%BC%40%2Fs:5432/eventloader?sslmode=disable"
        );
        let options: PgConnectOptions = url.expose_secret().parse().unwrap();
        assert_eq!(options.get_socket().unwrap(), Path::new("/tmp/a b:ü@/s"));
    }

    #[test]
    fn nobody_listening_is_not_a_refusal() {
        let silent = sqlx::Error::Io(io::ErrorKind::ConnectionRefused.into());
        assert!(matches!(classify(silent), Answer::Silent));
        assert!(matches!(classify(sqlx::Error::PoolClosed), Answer::Refused(_)));
    }
}
