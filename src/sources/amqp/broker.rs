//! Where a broker is, and as whom it is asked.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

/// How long a silent connection is believed in is twice this: short enough to notice a dead broker soon, long enough for
/// a busy one.
const DEFAULT_HEARTBEAT_S: u16 = 10;
const HEARTBEATS_S: RangeInclusive<u16> = 1..=600;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUTS_MS: RangeInclusive<u64> = 100..=600_000;
const EXPECTED: &str = "amqp:// or amqps://, as in amqp://user:password@localhost:5672/%2f";

/// A broker, as a URL names it: `amqp://user:password@host:5672/vhost`.
#[derive(Clone)]
pub struct Broker {
    is_tls: bool,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    user: String,
    password: SecretString,
    vhost: String,
    heartbeat_s: u16,
    timeout: Duration,
}

/// Why a URL does not name a broker, and what to do about it. Holds nothing of the URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerFault {
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub expected: &'static str,
    /// How to get there.
    pub help: Option<&'static str>,
}

impl BrokerFault {
    fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), expected: EXPECTED, help: None }
    }

    fn help(self, help: &'static str) -> Self {
        Self { help: Some(help), ..self }
    }
}

impl Broker {
    /// Reads a URL, with what the URI specification of RabbitMQ leaves open filled in: port 5672 (5671 with TLS), user and
    /// password `guest`, virtual host `/`, also for a path that is empty. `?heartbeat=` is in seconds (1 to 600, default
    /// 10), `?connection_timeout=` in milliseconds (100 to 600000, default 10000) and holds for every answer of the broker.
    ///
    /// # Errors
    ///
    /// The URL is another kind of URL, or has parts that nothing is known of.
    pub fn parse(text: &str) -> Result<Self, BrokerFault> {
        let text = text.trim();
        let url = Url::parse(text).map_err(|error| {
            BrokerFault::new(format!("not a URL ({error})")).help(
                "percent-encode special characters of the password: @ as %40, / as %2F, # as %23",
            )
        })?;
        let is_tls = match url.scheme() {
            "amqp" => false,
            "amqps" => true,
            _ => return Err(BrokerFault::new("not the URL of an AMQP broker")),
        };
        let host = match url.host() {
            Some(Host::Domain(host)) if !host.is_empty() => decode(host)?,
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            _ => return Err(BrokerFault::new("a URL without a host")),
        };
        if url.fragment().is_some() {
            return Err(BrokerFault::new("a URL with a # in it")
                .help("percent-encode it: %23 in a password, a user or a virtual host"));
        }
        let or_guest = |text: &str| if text.is_empty() { Ok("guest".into()) } else { decode(text) };
        let path = url.path().strip_prefix('/').unwrap_or_default();
        if path.contains('/') {
            return Err(BrokerFault::new("a URL with more than a virtual host after the port")
                .help("percent-encode a / in the virtual host's name as %2f"));
        }
        let vhost = if path.is_empty() { "/".to_owned() } else { decode(path)? };
        let default_port = if is_tls { 5671 } else { 5672 };
        let mut broker = Self {
            is_tls,
            host,
            port: url.port().unwrap_or(default_port),
            user: or_guest(url.username())?,
            password: or_guest(url.password().unwrap_or_default())?.into(),
            vhost,
            heartbeat_s: DEFAULT_HEARTBEAT_S,
            timeout: DEFAULT_TIMEOUT,
        };
        for (key, value) in url.query_pairs() {
            broker.set(&key, &value)?;
        }
        Ok(broker)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), BrokerFault> {
        match key {
            "heartbeat" => {
                let within = value.parse().ok().filter(|seconds| HEARTBEATS_S.contains(seconds));
                let (low, high) = (HEARTBEATS_S.start(), HEARTBEATS_S.end());
                self.heartbeat_s = within.ok_or_else(|| {
                    BrokerFault::new(format!(
                        "heartbeat is no number of seconds from {low} to {high}"
                    ))
                })?;
            }
            "connection_timeout" => {
                let within = value.parse().ok().filter(|ms| TIMEOUTS_MS.contains(ms));
                let (low, high) = (TIMEOUTS_MS.start(), TIMEOUTS_MS.end());
                self.timeout = within.map(Duration::from_millis).ok_or_else(|| {
                    BrokerFault::new(format!(
                        "connection_timeout is no number of milliseconds from {low} to {high}"
                    ))
                })?;
            }
            _ => {
                return Err(BrokerFault::new("a URL with a parameter that nothing is known of")
                    .help(
                        "only ?heartbeat= and ?connection_timeout= can be set; take the others out",
                    ));
            }
        }
        Ok(())
    }

    /// The host, for lists of hosts.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether it is spoken to over TLS.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }

    pub(super) fn vhost(&self) -> &str {
        &self.vhost
    }

    /// The longest that one answer may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// `host:port`.
    pub(super) fn place(&self) -> String {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// As the client library wants it. Holds the password.
    pub(super) fn uri(&self) -> AMQPUri {
        AMQPUri {
            scheme: if self.is_tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo {
                    username: self.user.clone(),
                    password: self.password.expose_secret().to_owned(),
                },
                host: self.host.clone(),
                port: self.port,
            },
            vhost: self.vhost.clone(),
            query: AMQPQueryString {
                heartbeat: Some(self.heartbeat_s),
                ..AMQPQueryString::default()
            },
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = (self.place(), &self.vhost);
        f.debug_struct("Broker").field("place", &place).finish_non_exhaustive()
    }
}

fn decode(text: &str) -> Result<String, BrokerFault> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| BrokerFault::new("a URL with bytes that are not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_broker() {
        for (url, place, user, vhost) in [
            ("amqp://localhost", "localhost:5672", "guest", "/"),
            ("amqp://localhost/", "localhost:5672", "guest", "/"),
            ("amqps://mq.example.com/%2f", "mq.example.com:5671", "guest", "/"),
            ("amqp://app:p%40ss@10.0.0.1:5673/shop", "10.0.0.1:5673", "app", "shop"),
            ("amqp://a%20b:c@[::1]:1/x%2fy", "[::1]:1", "a b", "x/y"),
        ] {
            let broker = Broker::parse(url).unwrap();
            assert_eq!((&*broker.place(), broker.user(), broker.vhost()), (place, user, vhost));
        }
        let broker =
            Broker::parse("amqp://app:p%40ss@h?heartbeat=3&connection_timeout=250").unwrap();
        assert_eq!(broker.uri().query.heartbeat, Some(3));
        assert_eq!(broker.uri().authority.userinfo.password, "p@ss");
        assert_eq!(broker.timeout(), Duration::from_millis(250));
        assert!(!format!("{broker:?}").contains("p@ss"));
    }

    #[test]
    fn a_url_that_names_none_is_refused_without_being_repeated() {
        for (url, problem) in [
            ("secret", "not a URL"),
            ("http://u:secret@h", "not the URL of an AMQP broker"),
            ("amqp://", "without a host"),
            ("amqp://h/secret/b", "more than a virtual host"),
            ("amqp://h/a#secret", "a # in it"),
            ("amqp://h?secret=1", "nothing is known of"),
            ("amqp://h?heartbeat=0", "heartbeat is no number of seconds"),
            ("amqp://h?connection_timeout=secret", "connection_timeout is no number"),
            ("amqp://u:%ff@h", "not UTF-8"),
        ] {
            let fault = Broker::parse(url).unwrap_err();
            assert!(fault.problem.contains(problem), "{url}: {fault:?}");
            assert!(!fault.problem.contains("secret"), "{fault:?}");
        }
    }
}
