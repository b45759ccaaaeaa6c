//! A consumer of a stream over AMQP 0-9-1, for brokers whose stream port is closed.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::tcp::{AsyncTcpStream, RustlsConnector};
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Channel, Connection, ConnectionProperties, Consumer};
use secrecy::ExposeSecret;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::StreamOptions;
use super::failure::DELIVER;
use super::message::{OFFSET, of_delivery, offset};
use crate::source::queue::{Message, QueueError};

/// Bytes of messages that the library may hold, if they are as long as they may be; and how many messages.
const AHEAD_BYTES: usize = 256 << 20;
const AHEAD_MIN: usize = 32;
const AHEAD_MAX: usize = 1000;

/// A consumer of a stream; dropping it cuts the connection.
pub(super) struct ClassicConsumer {
    options: Arc<StreamOptions>,
    channel: Channel,
    consumer: Consumer,
    prefetch: u16,
    /// Deliveries since the last acknowledgement, which is what makes the broker send more.
    unacknowledged: u16,
    connection: Connection,
    #[expect(dead_code, reason = "its end is what counts")]
    socket: Socket,
}

impl ClassicConsumer {
    /// Reads from `from` on, or from the first message.
    pub(super) async fn open(
        options: &Arc<StreamOptions>,
        from: Option<u64>,
    ) -> Result<Self, QueueError> {
        let socket = Socket::default();
        // Each step below has this long; what they leave open is the handshake.
        let within = options.timeout * 3;
        let connection = timeout(within, connect(options, &socket)).await;
        let connection = connection.map_err(|_| options.silent("open a connection"))??;
        let channel = call(options, "open a channel", connection.create_channel()).await?;
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared =
            channel.queue_declare(options.stream.as_str().into(), passive, FieldTable::default());
        call(options, "find the stream", declared).await?;
        let ahead = AHEAD_BYTES / options.mapping.max_event_bytes.max(1);
        let prefetch = u16::try_from(ahead.clamp(AHEAD_MIN, AHEAD_MAX)).unwrap_or(u16::MAX);
        let consumer = consume(options, &channel, prefetch, from).await?;
        Ok(Self {
            options: Arc::clone(options),
            channel,
            consumer,
            prefetch,
            unacknowledged: 0,
            connection,
            socket,
        })
    }

    /// Waits for messages, and takes those that are there; `None`: none came in time. Not cancel safe.
    pub(super) async fn receive(
        &mut self,
        wait: Duration,
        routed_as: &Arc<str>,
    ) -> Result<Option<Vec<(i64, Message)>>, QueueError> {
        let Ok(first) = timeout(wait, self.consumer.next()).await else { return Ok(None) };
        let mut messages = Vec::new();
        let mut next = Some(first);
        let mut last_tag = 0;
        while let Some(delivered) = next {
            let delivery = self.delivered(delivered)?;
            last_tag = delivery.delivery_tag;
            let Some(offset) = offset(&delivery) else { return Err(self.options.not_a_stream()) };
            messages.push((offset, of_delivery(delivery, routed_as)));
            if messages.len() >= usize::from(self.prefetch) {
                break;
            }
            next = self.consumer.next().now_or_never();
        }
        self.unacknowledged += u16::try_from(messages.len()).unwrap_or(u16::MAX);
        if self.unacknowledged >= self.prefetch / 2 {
            let acknowledged = self.channel.basic_ack(last_tag, BasicAckOptions { multiple: true });
            call(&self.options, "send more", acknowledged).await?;
            self.unacknowledged = 0;
        }
        Ok(Some(messages))
    }

    /// The offset of the first message that the broker still has; `None`: it has none.
    pub(super) async fn first_offset(&mut self) -> Result<Option<i64>, QueueError> {
        let opened = self.connection.create_channel();
        let channel = call(&self.options, "open a channel", opened).await?;
        let mut consumer = consume(&self.options, &channel, 1, None).await?;
        let first = timeout(self.options.timeout, consumer.next()).await;
        let found = match first {
            Ok(delivered) => offset(&self.delivered(delivered)?),
            Err(_) => None,
        };
        let closed = channel.close(200, "found".into());
        call(&self.options, "close a channel", closed).await?;
        Ok(found)
    }

    /// The broker ends a consumer by saying nothing more to it.
    fn delivered(
        &self,
        delivered: Option<lapin::Result<Delivery>>,
    ) -> Result<Delivery, QueueError> {
        match delivered {
            Some(Ok(delivery)) => Ok(delivery),
            Some(Err(error)) => Err(self.options.amqp(DELIVER, &error)),
            None => Err(self.options.moved()),
        }
    }
}

async fn consume(
    options: &StreamOptions,
    channel: &Channel,
    prefetch: u16,
    from: Option<u64>,
) -> Result<Consumer, QueueError> {
    // A stream refuses consumers without a limit, and those that do not acknowledge.
    let qos = channel.basic_qos(prefetch, BasicQosOptions::default());
    call(options, "limit what it sends ahead", qos).await?;
    let from = from.and_then(|from| i64::try_from(from).ok());
    let from = from.map_or(AMQPValue::LongString("first".into()), AMQPValue::LongLongInt);
    let mut arguments = FieldTable::default();
    arguments.insert(OFFSET.into(), from);
    let consumed = channel.basic_consume(
        options.stream.as_str().into(),
        "".into(),
        BasicConsumeOptions::default(),
        arguments,
    );
    call(options, "read the stream", consumed).await
}

async fn connect(options: &Arc<StreamOptions>, socket: &Socket) -> Result<Connection, QueueError> {
    let runtime = lapin::runtime::default_runtime();
    let runtime = runtime.map_err(|error| options.amqp("open a connection", &error))?;
    let (reached, slot) = (Arc::clone(options), Arc::clone(&socket.0));
    let name = format!("eventloader {}", options.source_name);
    let properties = ConnectionProperties::default()
        .with_connection_name(name.into())
        .with_client_property("product".into(), "eventloader".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    let connection = Connection::connector(
        uri(options),
        runtime,
        async move |_, runtime| {
            let (address, within) = (&reached.address, reached.timeout);
            let found = timeout(within, lookup_host((address.host.as_str(), address.port))).await;
            let found = found.map_err(|_| told(reached.silent("resolve its name")))?;
            let places: Vec<_> =
                found.map_err(|cause| told(reached.unreachable(&cause)))?.collect();
            let connected = timeout(within, AsyncTcpStream::connect(&runtime, places)).await;
            let connected = connected.map_err(|_| told(reached.silent("take a connection")))?;
            let stream = connected.map_err(|cause| told(reached.unreachable(&cause)))?;
            if let AsyncTcpStream::Plain(plain) = &stream {
                let copy = plain.get_ref().as_fd().try_clone_to_owned()?;
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(TcpStream::from(copy));
            }
            let Some(config) = &reached.tls else { return Ok(stream) };
            let connector = RustlsConnector::from(Arc::clone(config));
            let agreed = timeout(within, stream.into_rustls(&connector, &address.host)).await;
            let agreed = agreed.map_err(|_| told(reached.silent("agree on TLS")))?;
            agreed.map_err(|cause| told(reached.tls(&cause)))
        },
        properties,
    );
    let connection = connection.await;
    connection.map_err(|error| options.amqp("open a connection", &error))
}

/// As the library wants it. Holds the password.
fn uri(options: &StreamOptions) -> AMQPUri {
    let address = &options.address;
    let heartbeat = (options.timeout.as_secs() / 3).clamp(1, 600);
    AMQPUri {
        scheme: if address.is_tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: address.user.clone(),
                password: address.password.expose_secret().to_owned(),
            },
            host: address.host.clone(),
            port: address.port,
        },
        vhost: address.vhost.clone(),
        query: AMQPQueryString {
            heartbeat: u16::try_from(heartbeat).ok(),
            ..AMQPQueryString::default()
        },
    }
}

/// One call to the broker, under its time limit.
async fn call<T>(
    options: &StreamOptions,
    action: &str,
    answer: impl Future<Output = lapin::Result<T>>,
) -> Result<T, QueueError> {
    match timeout(options.timeout, answer).await {
        Ok(answered) => answered.map_err(|error| options.amqp(action, &error)),
        Err(_) => Err(options.silent(action)),
    }
}

/// How the library carries an error of ours.
fn told(error: QueueError) -> lapin::Error {
    std::io::Error::other(error).into()
}

/// The socket below a connection, ended with this: the library's thread ends with its socket, and with nothing else if
/// the broker never says a word.
#[derive(Default)]
struct Socket(Arc<Mutex<Option<TcpStream>>>);

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(socket) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // One that has ended by itself is no error.
            drop(socket.shutdown(Shutdown::Both));
        }
    }
}
