//! `type = "amqp"`: a queue of an AMQP 0-9-1 broker (RabbitMQ), consumed with acknowledgements.
//!
//! A message has no version: events are counted in the order of their arrival. It is deduplicated by its id.

mod broker;
mod connection;
mod failure;
mod inspection;
mod message;
mod session;
mod tls;
mod topology;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lapin::options::{BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::tcp::RustlsConnector;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer};

pub use broker::{Broker, BrokerFault};
use connection::{Link, call};
use failure::Site;
pub use session::{AmqpReceipt, AmqpSession};
pub use topology::{Binding, QueueType, Topology};
use window::Window;

use crate::source::queue::{QueueError, QueueInspection, QueueSource};
use crate::sources::tls::{TlsError, TlsFiles};

/// Longest name of AMQP, in bytes.
pub const NAME_LENGTH_MAX: usize = 255;

/// The argument of a consumer that streams do not know.
const PRIORITY: &str = "x-priority";

/// The argument of a consumer that only streams know, and the header that only their messages have.
const STREAM_OFFSET: &str = "x-stream-offset";

/// What an `amqp` source is made of.
#[derive(Clone, Debug)]
pub struct AmqpOptions {
    /// `url`.
    pub broker: Broker,
    /// `queue`: its name, of 1 to 255 bytes.
    pub queue: String,
    /// `prefetch`: how many messages may be here without being acknowledged. 1 to 65535; fewer as long as so many would
    /// take too much memory, by the sizes of those before.
    pub prefetch: u16,
    /// `declare`: what is created where it is missing; `None`: nothing, the queue has to be there.
    pub topology: Option<Topology>,
    /// `ca_file`, `client_cert_file`, `client_key_file`.
    pub tls: TlsFiles,
}

impl AmqpOptions {
    /// A queue that is there, with the defaults of the configuration.
    pub fn new(broker: Broker, queue: impl Into<String>) -> Self {
        let (queue, tls) = (queue.into(), TlsFiles::default());
        Self { broker, queue, prefetch: 1000, topology: None, tls }
    }

    fn site(&self) -> Site<'_> {
        Site { broker: &self.broker, queue: &self.queue }
    }
}

/// A queue of an AMQP broker.
#[derive(Debug)]
pub struct Amqp {
    options: Arc<AmqpOptions>,
    connector: Option<RustlsConnector>,
    /// The session before ended at a message that could not be read.
    is_unreadable: Arc<AtomicBool>,
}

impl Amqp {
    /// Makes a source; nothing is connected yet.
    ///
    /// # Errors
    ///
    /// The files of certificates cannot be used.
    pub fn new(options: AmqpOptions) -> Result<Self, TlsError> {
        let connector =
            options.broker.is_tls().then(|| tls::connector(&options.tls)).transpose()?;
        Ok(Self { options: Arc::new(options), connector, is_unreadable: Arc::default() })
    }

    async fn open(&self, name: &str) -> Result<Link, QueueError> {
        Link::open(self.options.site(), self.connector.clone(), name).await
    }
}

impl QueueSource for Amqp {
    type Session = AmqpSession;

    async fn connect(&self, consumer: &str) -> Result<AmqpSession, QueueError> {
        let (options, site) = (&self.options, self.options.site());
        let link = self.open(consumer).await?;
        let channel = link.channel(site).await?;
        if let Some(topology) = &options.topology {
            topology.declare(site, &channel).await?;
        } else {
            let found = channel.queue_declare(name(site.queue), passive(), FieldTable::default());
            call(site, "look at the queue", found).await?;
        }
        let is_careful = self.is_unreadable.swap(false, Ordering::Relaxed);
        let window = Window::new(options.prefetch, is_careful);
        let consumer = consume(site, &channel, consumer, window.count()).await?;
        let is_unreadable = Arc::clone(&self.is_unreadable);
        Ok(AmqpSession::new(Arc::clone(options), link, channel, (consumer, window), is_unreadable))
    }

    async fn inspect(&self) -> Result<QueueInspection, QueueError> {
        let site = self.options.site();
        let link = self.open("eventloader check").await?;
        let looked = self.look(&link).await;
        link.close(site).await;
        looked
    }
}

/// Begins to consume, with at most `count` messages that are not acknowledged.
async fn consume(
    site: Site<'_>,
    channel: &Channel,
    tag: &str,
    count: u16,
) -> Result<Consumer, QueueError> {
    let limited = channel.basic_qos(count, BasicQosOptions::default());
    call(site, "limit what it sends", limited).await?;
    let manual = BasicConsumeOptions { no_ack: false, ..BasicConsumeOptions::default() };
    // The usual priority, said aloud: a stream knows none, and refuses it.
    let mut arguments = FieldTable::default();
    arguments.insert(PRIORITY.into(), AMQPValue::LongInt(0));
    let consuming = channel.basic_consume(name(site.queue), name(tag), manual, arguments);
    call(site, "consume the queue", consuming).await
}

/// Only looks.
fn passive() -> QueueDeclareOptions {
    QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() }
}

/// A name that AMQP can hold; a longer one ends early.
fn name(text: &str) -> ShortString {
    text[..text.floor_char_boundary(NAME_LENGTH_MAX)].into()
}
