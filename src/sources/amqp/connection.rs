//! A connection to the broker that ends when it is dropped, whatever state it is in.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapin::tcp::{AsyncTcpStream, RustlsConnector};
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::failure::Site;
use crate::source::queue::QueueError;

/// Reply code of a connection that ends as it should.
const REPLY_SUCCESS: u16 = 200;

/// An open connection. Dropping it cuts it: the broker gives what was not acknowledged to others.
pub(super) struct Link {
    connection: Connection,
    #[expect(dead_code, reason = "its end is what counts")]
    wire: Wire,
}

impl Link {
    /// Connects and introduces itself as `name`. Every step ends by itself.
    pub(super) async fn open(
        site: Site<'_>,
        tls: Option<RustlsConnector>,
        name: &str,
    ) -> Result<Self, QueueError> {
        let wire = Wire::default();
        let runtime = lapin::runtime::default_runtime().map_err(|error| site.opening(&error))?;
        let (broker, queue, slot) =
            (site.broker.clone(), site.queue.to_owned(), Arc::clone(&wire.0));
        let opening = Connection::connector(
            site.broker.uri(),
            runtime,
            async move |_, runtime| {
                let site = Site { broker: &broker, queue: &queue };
                let within = broker.timeout();
                let found = timeout(within, lookup_host((broker.host(), broker.port()))).await;
                let found = found.map_err(|_| told(site.silent("resolve its name")))?;
                let addresses: Vec<_> = found.map_err(|e| told(site.unreachable(&e)))?.collect();
                let connected = timeout(within, AsyncTcpStream::connect(&runtime, addresses)).await;
                let connected = connected.map_err(|_| told(site.silent("take a connection")))?;
                let stream = connected.map_err(|error| told(site.unreachable(&error)))?;
                if let AsyncTcpStream::Plain(plain) = &stream {
                    let socket = plain.get_ref().as_fd().try_clone_to_owned()?;
                    slot.hold(TcpStream::from(socket));
                }
                let Some(connector) = &tls else { return Ok(stream) };
                let agreed = timeout(within, stream.into_rustls(connector, broker.host())).await;
                let agreed = agreed.map_err(|_| told(site.silent("agree on TLS")))?;
                agreed.map_err(|error| told(site.tls(&error)))
            },
            properties(name),
        );
        // Each step has this long; what they leave open is the handshake of AMQP.
        let within = site.broker.timeout() * 4;
        let connection = timeout(within, opening).await.map_err(|_| site.silent("open it"))?;
        let connection = connection.map_err(|error| site.opening(&error))?;
        Ok(Self { connection, wire })
    }

    /// Opens a channel.
    pub(super) async fn channel(&self, site: Site<'_>) -> Result<Channel, QueueError> {
        call(site, "open a channel", self.connection.create_channel()).await
    }

    /// Says goodbye, if the broker listens.
    pub(super) async fn close(self, site: Site<'_>) {
        let closing = self.connection.close(REPLY_SUCCESS, "closed".into());
        // It is cut in any case.
        drop(timeout(site.broker.timeout(), closing).await);
    }
}

/// One call to the broker, under its time limit.
pub(super) async fn call<T>(
    site: Site<'_>,
    action: &str,
    answer: impl Future<Output = lapin::Result<T>>,
) -> Result<T, QueueError> {
    match timeout(site.broker.timeout(), answer).await {
        Ok(answered) => answered.map_err(|error| site.failed(action, &error)),
        Err(_) => Err(site.silent(action)),
    }
}

/// How the library carries an error of ours.
fn told(error: QueueError) -> lapin::Error {
    std::io::Error::other(error).into()
}

fn properties(name: &str) -> ConnectionProperties {
    ConnectionProperties::default()
        .with_connection_name(name.into())
        .with_client_property("product".into(), "eventloader".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into())
}

/// The socket below a connection, ended when this is dropped. The library's thread ends with its socket, and with nothing
/// else if the broker never says a word.
#[derive(Default)]
struct Wire(Arc<Slot>);

#[derive(Default)]
struct Slot(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Opening,
    Open(TcpStream),
    Cut,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the socket in, or ends it if nobody waits for it any more.
    fn hold(&self, socket: TcpStream) {
        let mut state = self.state();
        match *state {
            State::Cut => end(&socket),
            State::Opening | State::Open(_) => *state = State::Open(socket),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let State::Open(socket) = std::mem::replace(&mut *self.0.state(), State::Cut) {
            end(&socket);
        }
    }
}

/// One that has ended by itself is no error.
fn end(socket: &TcpStream) {
    drop(socket.shutdown(Shutdown::Both));
}
