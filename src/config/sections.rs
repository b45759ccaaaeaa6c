//! The small sections: `[database]`, `[storage]`, `[retry_worker]`, `[admin]`.

use std::net::{Ipv4Addr, SocketAddr};

use secrecy::SecretString;
use url::Url;

use super::error::Problem;
use super::reader::TableReader;
use super::setting::Setting;
use super::shape::Form;

/// `[database]`: the Postgres that coordinates, and by default also keeps the events.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// `url`: `postgres://user:password@host:5432/name`. Also `--database-url` and `DATABASE_URL`.
    /// Default: none, which means the embedded Postgres; an empty value is the same as none.
    pub url: Option<SecretString>,
    /// `max_connections`: the most connections this instance opens. Default 10, 1 to 1000.
    pub max_connections: u32,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self { url: None, max_connections: 10 }
    }
}

impl DatabaseConfig {
    pub(super) fn read(mut table: TableReader<'_>) -> Self {
        let default = Self::default();
        let config = Self {
            url: table.read_or("url", None, postgres_url),
            max_connections: table
                .read_or("max_connections", default.max_connections, |s| s.integer(1..=1000)),
        };
        table.finish();
        config
    }
}

/// `[storage]`: another Postgres for the events, where they are not to be in `[database]`.
#[derive(Debug, Clone, Default)]
pub struct StorageConfig {
    /// `url`: `postgres://…`. Default: none, which means the database of `[database]`.
    pub url: Option<SecretString>,
}

impl StorageConfig {
    pub(super) fn read(mut table: TableReader<'_>) -> Self {
        let config = Self { url: table.read_or("url", None, postgres_url) };
        table.finish();
        config
    }
}

const POSTGRES_URL: Form = Form {
    name: "a PostgreSQL URL",
    pattern: r"^\s*$|^\s*[Pp][Oo][Ss][Tt][Gg][Rr][Ee][Ss]([Qq][Ll])?:",
};
const LISTEN_ADDRESS: Form =
    Form { name: "an IP address and a port", pattern: r"^[0-9.]+:[0-9]+$|^\[.+\]:[0-9]+$" };

/// Checks a database URL; its text is never shown, as it may hold a password.
fn postgres_url(setting: &Setting<'_>) -> Result<Option<SecretString>, Problem> {
    let text = setting.text_of(&POSTGRES_URL)?;
    let value = text.value.trim();
    if value.is_empty() {
        return Ok(None);
    }
    let refuse = |reason: &str| {
        text.refuse(Problem::new(reason).expected("postgres://user:password@host:5432/name"))
    };
    let url = Url::parse(value).map_err(|error| {
        refuse(&format!("not a URL ({error})")).help(if value.contains("://") {
            "percent-encode special characters of the password: @ as %40, / as %2F, # as %23"
        } else {
            "write it as a URL that begins with postgres://"
        })
    })?;
    match url.scheme() {
        "postgres" | "postgresql" => Ok(Some(SecretString::from(value))),
        _ => Err(refuse("not a PostgreSQL URL").help("begin it with postgres://")),
    }
}

/// `[retry_worker]`: moving events from the inbox to the event log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryWorkerConfig {
    /// `batch_size`: the most inbox rows one statement moves. Default 1000, 1 to 1000.
    pub batch_size: u32,
    /// `max_attempts`: tries before an event becomes a dead letter. Default 5, 1 to 100.
    pub max_attempts: u32,
}

impl Default for RetryWorkerConfig {
    fn default() -> Self {
        Self { batch_size: 1000, max_attempts: 5 }
    }
}

impl RetryWorkerConfig {
    pub(super) fn read(mut table: TableReader<'_>) -> Self {
        let default = Self::default();
        let config = Self {
            batch_size: table.read_or("batch_size", default.batch_size, |s| s.integer(1..=1000)),
            max_attempts: table
                .read_or("max_attempts", default.max_attempts, |s| s.integer(1..=100)),
        };
        table.finish();
        config
    }
}

/// `[admin]`: health, metrics, status.
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// `listen`: IP address and port; port 0 takes a free one. Default `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// `token`: who shows it may read everything and change something, at least 16 characters. Default: none, and nothing
    /// can be changed.
    pub token: Option<SecretString>,
    /// `hosts`: names under which it is reached, besides the address itself and, on loopback, `localhost`. Default none.
    pub hosts: Vec<String>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            token: None,
            hosts: Vec::new(),
        }
    }
}

impl AdminConfig {
    /// Whether it listens where every instance does that was told nothing else. Several may be on one machine, and only
    /// one of them gets the address.
    pub fn is_usual_address(&self) -> bool {
        self.listen == Self::default().listen
    }
}

/// A shorter token can be guessed.
const TOKEN_LENGTH_MIN: usize = 16;

impl AdminConfig {
    pub(super) fn read(mut table: TableReader<'_>) -> Self {
        let default = Self::default();
        let listen = table.read("listen", listen_address);
        let token = table.read_or("token", None, token);
        let hosts = table.read_or("hosts", Vec::new(), host_names);
        if let Some(listen) = &listen
            && !listen.value.ip().is_loopback()
            && token.is_none()
        {
            let problem = Problem::new(format!(
                "{} can be reached from other machines, and there is no token",
                listen.value
            ))
            .help("add token = \"${ADMIN_TOKEN}\" (`openssl rand -hex 32` makes one), or listen on 127.0.0.1");
            table.report_at(&listen.origin, "listen", problem);
        }
        table.finish();
        Self { listen: listen.map_or(default.listen, |listen| listen.value), token, hosts }
    }
}

/// Its text is never shown.
fn token(setting: &Setting<'_>) -> Result<Option<SecretString>, Problem> {
    let text = setting.text()?;
    let value = text.value.trim();
    if value.is_empty() {
        return Ok(None);
    }
    let is_sendable = value.bytes().all(|byte| byte.is_ascii_graphic());
    if value.len() < TOKEN_LENGTH_MIN || !is_sendable {
        return Err(text.refuse(
            Problem::new("not a token")
                .expected("at least 16 letters, digits and signs of ASCII, without spaces")
                .help("`openssl rand -hex 32` makes one"),
        ));
    }
    Ok(Some(SecretString::from(value)))
}

fn host_names(setting: &Setting<'_>) -> Result<Vec<String>, Problem> {
    let texts = setting.texts("a list of host names")?;
    let is_name = |name: &str| {
        !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_[]:".contains(c))
            && !name.contains("://")
    };
    texts
        .into_iter()
        .map(|text| {
            if is_name(&text.value) {
                return Ok(text.value.to_ascii_lowercase());
            }
            let problem =
                Problem::new("not a host name").expected("a name such as \"events.example.com\"");
            Err(text.refuse(problem.help("write the host alone, without scheme, port and path")))
        })
        .collect()
}

fn listen_address(setting: &Setting<'_>) -> Result<SocketAddr, Problem> {
    let text = setting.text_of(&LISTEN_ADDRESS)?;
    text.value.parse().map_err(|_| {
        let problem = text.refuse(
            Problem::new("not an address").expected("an IP address and a port: \"127.0.0.1:8080\""),
        );
        let (host, port) = text.value.rsplit_once(':').unwrap_or(("localhost", &text.value));
        match (host, port.parse::<u16>()) {
            ("localhost", Ok(port)) => problem.help(format!("write \"127.0.0.1:{port}\"")),
            ("" | "*", Ok(port)) => {
                problem.help(format!("write \"0.0.0.0:{port}\" for all interfaces"))
            }
            _ => problem,
        }
    })
}
