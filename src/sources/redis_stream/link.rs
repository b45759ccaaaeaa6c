//! One connection to Redis. It is never rebuilt behind our back: what was sent on a lost one is not sent again.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, IntoConnectionInfo, Pipeline,
    TlsCertificates, Value,
};
use secrecy::ExposeSecret;

use super::{Place, RedisStreamOptions, fault};
use crate::source::queue::QueueError;

/// How long a connection may take to be made, with TLS and the password.
const CONNECT: Duration = Duration::from_secs(10);
/// How long Redis may take to answer; for what waits for entries, on top of that.
const ANSWER: Duration = Duration::from_secs(30);

/// A connection. Clones share it; the last one closes it.
#[derive(Clone)]
pub(super) struct Link {
    connection: MultiplexedConnection,
    place: Arc<Place>,
}

impl Link {
    pub(super) async fn open(
        options: &RedisStreamOptions,
        place: &Arc<Place>,
    ) -> Result<Self, QueueError> {
        let client = client(options).await?;
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let connection = match tokio::time::timeout(CONNECT, connecting).await {
            Ok(connected) => connected.map_err(|error| place.translate(&error, fault::CONNECT))?,
            Err(_) => return Err(place.silent(fault::CONNECT)),
        };
        Ok(Self { connection, place: Arc::clone(place) })
    }

    /// Sends one command. `doing` completes "Redis failed to …".
    ///
    /// # Cancel safety
    ///
    /// Redis carries out what was sent, and its answer is lost.
    pub(super) async fn call(&self, command: &Cmd, doing: &str) -> Result<Value, QueueError> {
        self.call_waiting(command, doing, Duration::ZERO).await
    }

    /// Sends a command that waits for entries for as long as `wait`.
    pub(super) async fn call_waiting(
        &self,
        command: &Cmd,
        doing: &str,
        wait: Duration,
    ) -> Result<Value, QueueError> {
        let mut connection = self.connection.clone();
        let answer = command.query_async::<Value>(&mut connection);
        match tokio::time::timeout(wait + ANSWER, answer).await {
            Ok(answer) => answer.map_err(|error| self.place.translate(&error, doing)),
            Err(_) => Err(self.place.silent(doing)),
        }
    }

    /// Sends commands that are carried out together, with nobody's between them.
    pub(super) async fn transact(
        &self,
        commands: &Pipeline,
        doing: &str,
    ) -> Result<Vec<Value>, QueueError> {
        let mut connection = self.connection.clone();
        let answer = commands.query_async::<Vec<Value>>(&mut connection);
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(answer) => answer.map_err(|error| self.place.translate(&error, doing)),
            Err(_) => Err(self.place.silent(doing)),
        }
    }

    /// An answer that is not as documented.
    pub(super) fn strange(&self, command: &str) -> QueueError {
        QueueError::rejected(format!(
            "the Redis at {} gave a strange answer to {command}",
            self.place.address
        ))
        .with_fix("use Redis 7 or later, or Valkey")
    }
}

async fn client(options: &RedisStreamOptions) -> Result<Client, QueueError> {
    // The library's reason may show a part of the URL.
    let wrong =
        |_| QueueError::rejected("url is not one of a Redis").with_fix("write redis://host:6379");
    let url = options.url.expose_secret();
    let info = url.into_connection_info().map_err(wrong)?;
    let is_tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
    let Some(file) = options.ca_file.as_ref().filter(|_| is_tls) else {
        return Client::open(info).map_err(wrong);
    };
    let shown = file.display();
    let root_cert = tokio::fs::read(file).await.map_err(|error| {
        QueueError::rejected(format!("failed to read ca_file {shown}: {error}"))
    })?;
    if !String::from_utf8_lossy(&root_cert).contains("-----BEGIN CERTIFICATE-----") {
        return Err(QueueError::rejected(format!("ca_file {shown} holds no certificate in PEM")));
    }
    let certificates = TlsCertificates { client_tls: None, root_cert: Some(root_cert) };
    Client::build_with_tls(info, certificates)
        .map_err(|error| QueueError::rejected(format!("ca_file {shown} cannot be used: {error}")))
}
