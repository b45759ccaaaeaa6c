//! Where a stream is, and how it is read: over the stream protocol, or over AMQP 0-9-1.

use std::fmt;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use url::{Host, Url};

const EXPECTED: &str = "rabbitmq-stream://user:password@host:5552/vhost, also with rabbitmq-stream+tls://, amqp:// or amqps://";

/// How the broker is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `rabbitmq-stream`: the stream protocol. Port 5552; 5551 with TLS.
    Stream,
    /// `amqp`: AMQP 0-9-1. Port 5672; 5671 with TLS.
    Amqp,
}

/// A broker, as a URL names it: `rabbitmq-stream://user:password@host:5552/vhost`.
#[derive(Clone)]
pub struct Address {
    pub(super) protocol: Protocol,
    pub(super) is_tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: SecretString,
    pub(super) vhost: String,
}

/// Why a URL names no broker, and what to do about it. Holds nothing of the URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressFault {
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub expected: &'static str,
    /// How to get there.
    pub help: Option<&'static str>,
}

impl Address {
    /// Reads a URL. Left out: the usual port, user and password `guest`, virtual host `/`.
    ///
    /// # Errors
    ///
    /// It is no URL, one of something else, or has parts that mean nothing here.
    pub fn parse(text: &str) -> Result<Self, AddressFault> {
        let fault = |problem: &str, help| {
            Err(AddressFault { problem: problem.to_owned(), expected: EXPECTED, help })
        };
        let url = match Url::parse(text.trim()) {
            Ok(url) => url,
            Err(error) => {
                let help = "percent-encode special characters of the password: @ as %40, / as %2F, # as %23";
                return fault(&format!("not a URL ({error})"), Some(help));
            }
        };
        let (protocol, is_tls, default_port) = match url.scheme() {
            "rabbitmq-stream" => (Protocol::Stream, false, 5552),
            "rabbitmq-stream+tls" => (Protocol::Stream, true, 5551),
            "amqp" => (Protocol::Amqp, false, 5672),
            "amqps" => (Protocol::Amqp, true, 5671),
            _ => return fault("not the URL of a RabbitMQ", None),
        };
        let host = match url.host() {
            Some(Host::Domain(host)) if !host.is_empty() => decode(host)?,
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            _ => return fault("a URL without a host", None),
        };
        if url.query().is_some() || url.fragment().is_some() {
            let help = "take it out; a # or ? in a user, a password or a virtual host is written %23 or %3F";
            return fault("a URL with a ? or a # in it", Some(help));
        }
        let path = url.path().strip_prefix('/').unwrap_or_default();
        if path.contains('/') {
            let help = "the path is the virtual host; percent-encode a / in its name as %2f";
            return fault("a URL with more than a virtual host after the port", Some(help));
        }
        let or_guest = |text: &str| if text.is_empty() { Ok("guest".into()) } else { decode(text) };
        Ok(Self {
            protocol,
            is_tls,
            host,
            port: url.port().unwrap_or(default_port),
            user: or_guest(url.username())?,
            password: or_guest(url.password().unwrap_or_default())?.into(),
            vhost: if path.is_empty() { "/".to_owned() } else { decode(path)? },
        })
    }

    /// The host, for lists of hosts.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// How the broker is spoken to.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether that is over TLS.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// `host:port`.
    pub(super) fn place(&self) -> String {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = (self.protocol, self.place(), &self.vhost);
        f.debug_struct("Address").field("place", &place).finish_non_exhaustive()
    }
}

fn decode(text: &str) -> Result<String, AddressFault> {
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(|_| AddressFault {
        problem: "a URL with bytes that are not UTF-8".to_owned(),
        expected: EXPECTED,
        help: None,
    })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_url_names_a_broker() {
        for (url, place, user, vhost) in [
            ("rabbitmq-stream://localhost", "localhost:5552", "guest", "/"),
            ("rabbitmq-stream+tls://mq.example.com/%2f", "mq.example.com:5551", "guest", "/"),
            ("rabbitmq-stream://app:p%40ss@10.0.0.1:1/shop", "10.0.0.1:1", "app", "shop"),
            ("amqp://localhost/", "localhost:5672", "guest", "/"),
            ("amqps://a%20b:c@[::1]/x%2fy", "[::1]:5671", "a b", "x/y"),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!((&*address.place(), &*address.user, &*address.vhost), (place, user, vhost));
        }
        let address = Address::parse("rabbitmq-stream://app:p%40ss@h").unwrap();
        assert_eq!(address.password.expose_secret(), "p@ss");
        assert!(!format!("{address:?}").contains("p@ss"));
    }

    #[test]
    fn a_url_that_names_none_is_refused_without_being_repeated() {
        for (url, problem) in [
            ("secret", "not a URL"),
            ("http://u:secret@h", "not the URL of a RabbitMQ"),
            ("amqp://", "without a host"),
            ("rabbitmq-stream://h/secret/b", "more than a virtual host"),
            ("rabbitmq-stream://h/a#secret", "a # in it"),
            ("rabbitmq-stream://h?secret=1", "a ? or"),
            ("rabbitmq-stream://u:%ff@h", "not UTF-8"),
        ] {
            let fault = Address::parse(url).unwrap_err();
            assert!(fault.problem.contains(problem), "{url}: {fault:?}");
            assert!(!fault.problem.contains("secret"), "{fault:?}");
        }
    }
}
