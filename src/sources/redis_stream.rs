//! The queue source `redis_stream`: a consumer group of a stream of Redis 7 or Valkey.
//!
//! Redis keeps what was delivered and not acknowledged in the group's list of pending entries, under the name of the
//! consumer that has it. A session
//!
//! - reads new entries in batches, and acknowledges them when it is told that they are stored;
//! - takes over what other consumers have left pending for `retry_after`, wherever in the list it stands, and tells Redis
//!   again and again that it still works on what it has itself, so that nobody takes that over however slow the database
//!   is;
//! - reports what was trimmed or deleted before it was read.
//!
//! It has two connections: one that waits for entries, and one for everything that must not wait.

mod entry;
mod fault;
mod gap;
mod group;
mod hold;
mod inspect;
mod link;
mod pending;
mod reader;
mod reply;
mod session;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::source::queue::{QueueError, QueueInspection, QueueSource};
use group::Progress;
pub use session::{RedisStreamReceipt, RedisStreamSession};

/// What a stream is read with.
#[derive(Clone, Debug)]
pub struct RedisStreamOptions {
    /// `redis://` or, with TLS, `rediss://`; user, password and number of the database in it.
    pub url: SecretString,
    /// The key of the stream.
    pub stream: String,
    /// The consumer group; made where it is missing.
    pub group: String,
    /// Where a group that is made begins.
    pub read_from: ReadFrom,
    /// How long an entry may be pending without a sign of life before it is taken over. At least 1 s.
    pub retry_after: Duration,
    /// PEM file of the authorities to trust, instead of the machine's.
    pub ca_file: Option<PathBuf>,
}

/// Where a group that does not exist yet begins to read. One that exists goes on where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadFrom {
    /// With the first entry that is there.
    #[default]
    Beginning,
    /// With the first entry that is added after the group was made. A group that was destroyed while this process read it
    /// goes on where it was.
    GroupCreated,
}

/// A consumer group of a stream.
#[derive(Debug)]
pub struct RedisStreamSource {
    options: Arc<RedisStreamOptions>,
    place: Arc<Place>,
    progress: Arc<Progress>,
}

/// Where and what is read, for messages: nothing secret.
#[derive(Debug)]
struct Place {
    /// Host and port.
    address: String,
    is_tls: bool,
    stream: Arc<str>,
    group: String,
}

impl RedisStreamOptions {
    /// What holds for the events, in plain words.
    pub const GUARANTEE: &str = "every entry is acknowledged after it is stored, under a version made of its id, by which a \
        second delivery is recognised; entries of a consumer that died are taken over after retry_after; what was trimmed \
        or deleted before it was read is reported as a gap";

    /// The host it is on.
    pub fn host(&self) -> Option<String> {
        Url::parse(self.url.expose_secret()).ok()?.host_str().map(str::to_owned)
    }
}

impl RedisStreamSource {
    /// Nothing is connected yet.
    pub fn new(options: RedisStreamOptions) -> Self {
        let place = Place {
            address: address_of(options.url.expose_secret()),
            is_tls: options.url.expose_secret().starts_with("rediss://"),
            stream: options.stream.as_str().into(),
            group: options.group.clone(),
        };
        Self { options: Arc::new(options), place: Arc::new(place), progress: Arc::default() }
    }
}

impl QueueSource for RedisStreamSource {
    type Session = RedisStreamSession;

    async fn connect(&self, consumer: &str) -> Result<Self::Session, QueueError> {
        RedisStreamSession::open(&self.options, &self.place, &self.progress, consumer).await
    }

    async fn inspect(&self) -> Result<QueueInspection, QueueError> {
        inspect::inspect(&self.options, &self.place).await
    }
}

/// Host and port, without anything secret.
fn address_of(url: &str) -> String {
    let Ok(url) = Url::parse(url) else { return "an unreadable url".to_owned() };
    let host = url.host_str().unwrap_or("localhost");
    format!("{host}:{}", url.port().unwrap_or(6379))
}
