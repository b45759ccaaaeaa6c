//! A consumer over the stream protocol. Written here instead of taken from `rabbitmq-stream-client` 0.11, whose consumer
//! goes silent for ever over a compressed batch or a message that is cut short, whose calls have no time limits, and
//! which keeps a socket for every connection it ever made.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout, timeout_at};

use super::StreamOptions;
use super::chunk::Chunk;
use super::message;
use super::wire::{Body, Command, Frame, Parts, Wire, WireError};
use crate::source::queue::{Message, QueueError};

/// Chunks that the broker may send ahead. They wait in the sockets' buffers, not in memory.
const CREDIT: u16 = 8;
/// The subscription that is read, and the one that looks for the first message.
const READING: u8 = 1;
const LOOKING: u8 = 2;
const OK: u16 = 1;
const FROM_FIRST: u16 = 1;
const FROM_OFFSET: u16 = 4;
const MECHANISM: &str = "PLAIN";

/// A consumer of a stream; dropping it closes the connection.
pub(super) struct Subscription {
    options: Arc<StreamOptions>,
    wire: Wire,
    correlation: u32,
    heartbeat: Duration,
    /// Deliveries that came while an answer was waited for.
    delivered: VecDeque<Parts>,
    /// What came of the subscription that looks.
    first_chunk: Option<Parts>,
    /// The longest frame and the seconds between heartbeats that the broker offers.
    tuned: Option<(u32, u32)>,
    is_open: bool,
    /// Why nothing more comes.
    end: Option<QueueError>,
}

/// A node of the broker.
struct Node {
    host: String,
    port: u32,
}

impl Subscription {
    /// Connects to a node that has the stream, and reads from `from` on, or from the first message.
    pub(super) async fn open(
        options: &Arc<StreamOptions>,
        from: Option<u64>,
    ) -> Result<Self, QueueError> {
        let address = &options.address;
        let (mut opened, own) =
            Self::connect(options, &address.host, u32::from(address.port)).await?;
        let nodes = opened.nodes().await?;
        let is_here = |node: &Node| own.as_ref().is_none_or(|host| *host == node.host);
        if let Some(node) = nodes.first()
            && !nodes.iter().any(is_here)
        {
            let elsewhere = Self::connect(options, &node.host, node.port).await;
            opened = match elsewhere {
                Ok((opened, _)) => opened,
                Err(error) => {
                    let why = error.to_string();
                    return Err(options.advertised_unreachable(&node.host, node.port, &why));
                }
            };
        }
        opened.subscribe(READING, from, CREDIT).await?;
        Ok(opened)
    }

    /// Waits for the next chunk; `None`: none came in time. Not cancel safe.
    pub(super) async fn receive(
        &mut self,
        wait: Duration,
        routed_as: &Arc<str>,
    ) -> Result<Option<Vec<(i64, Message)>>, QueueError> {
        self.keep_alive().await?;
        let until = Instant::now() + wait;
        while self.delivered.is_empty() {
            if let Some(end) = &self.end {
                return Err(end.clone());
            }
            match timeout_at(until, self.wire.receive()).await {
                Ok(frame) => {
                    let frame = frame.map_err(|error| self.options.broken(&error, true))?;
                    self.sort(&frame)?;
                }
                Err(_) if self.wire.heard_at.elapsed() > self.options.timeout => {
                    return Err(self.options.fell_silent());
                }
                Err(_) => return Ok(None),
            }
        }
        let Some(delivery) = self.delivered.pop_front() else { return Ok(None) };
        let credit = Body::default().number([READING]).number(1u16.to_be_bytes());
        self.send("take credit", Command::Credit, credit).await?;
        let chunk =
            Chunk::read(delivery.0).map_err(|fault| QueueError::unavailable(fault.to_string()))?;
        let offsets = chunk.first_offset..;
        let messages = offsets.zip(chunk.entries).map(|(offset, entry)| {
            (i64::try_from(offset).unwrap_or(i64::MAX), message::of_entry(entry, routed_as))
        });
        Ok(Some(messages.collect()))
    }

    /// The offset of the first message that the broker still has; `None`: it has none.
    pub(super) async fn first_offset(&mut self) -> Result<Option<i64>, QueueError> {
        self.first_chunk = None;
        self.subscribe(LOOKING, None, 1).await?;
        let until = Instant::now() + self.options.timeout;
        while self.first_chunk.is_none()
            && let Ok(frame) = timeout_at(until, self.wire.receive()).await
        {
            self.sort(&frame.map_err(|error| self.options.broken(&error, true))?)?;
        }
        let unsubscribe = Body::default().number(self.next_correlation()).number([LOOKING]);
        self.ask("end a subscription", Command::Unsubscribe, unsubscribe).await?;
        self.first_chunk.take().map(|first| Chunk::read(first.0)).transpose().map_or_else(
            |fault| Err(QueueError::unavailable(fault.to_string())),
            |chunk| Ok(chunk.and_then(|chunk| i64::try_from(chunk.first_offset).ok())),
        )
    }

    /// Opens a connection, and tells how the node calls itself.
    async fn connect(
        options: &Arc<StreamOptions>,
        host: &str,
        port: u32,
    ) -> Result<(Self, Option<String>), QueueError> {
        let within = options.timeout;
        let port = u16::try_from(port).unwrap_or_default();
        let stream = timeout(within, Wire::connect(host, port)).await;
        let stream = stream.map_err(|_| options.silent("take a connection"))?;
        let stream = stream.map_err(|cause| options.unreachable(&cause))?;
        let wire = match &options.tls {
            None => Wire::over(stream),
            Some(config) => {
                let agreed = Wire::over_tls(stream, host, Arc::clone(config));
                let agreed = timeout(within, agreed).await;
                let agreed = agreed.map_err(|_| options.silent("agree on TLS"))?;
                agreed.map_err(|cause| options.tls(&cause))?
            }
        };
        let mut opened = Self {
            options: Arc::clone(options),
            wire,
            correlation: 0,
            heartbeat: Duration::MAX,
            delivered: VecDeque::new(),
            first_chunk: None,
            tuned: None,
            is_open: false,
            end: None,
        };
        let own = opened.introduce().await?;
        opened.is_open = true;
        Ok((opened, own))
    }

    /// Logs in, and opens the virtual host. Answers the node's name for itself, which brokers before 3.9 do not tell.
    async fn introduce(&mut self) -> Result<Option<String>, QueueError> {
        let name = format!("eventloader {}", self.options.source_name);
        let properties = [
            ("product", "eventloader"),
            ("version", env!("CARGO_PKG_VERSION")),
            ("connection_name", name.as_str()),
        ];
        let hello = Body::default().number(self.next_correlation()).texts(&properties);
        self.ask("say what it is", Command::PeerProperties, hello).await?;
        let handshake = Body::default().number(self.next_correlation());
        self.ask("say how to log in", Command::SaslHandshake, handshake).await?;
        let (user, password) = (&self.options.address.user, &self.options.address.password);
        let secret = format!("\0{user}\0{}", password.expose_secret());
        let login = Body::default().number(self.next_correlation()).text(MECHANISM);
        let login = login.bytes(secret.as_bytes());
        self.ask("log in", Command::SaslAuthenticate, login).await?;
        self.tune().await?;
        let vhost = self.options.address.vhost.clone();
        let open = Body::default().number(self.next_correlation()).text(&vhost);
        let mut answer = self.ask("open the virtual host", Command::Open, open).await?;
        let told = answer.texts().unwrap_or_default();
        Ok(told.into_iter().find(|(name, _)| name == "advertised_host").map(|(_, host)| host))
    }

    /// Agrees on how often each side says that it is there.
    async fn tune(&mut self) -> Result<(), QueueError> {
        let until = Instant::now() + self.options.timeout;
        let (frame_max, offered) = loop {
            if let Some(tuned) = self.tuned {
                break tuned;
            }
            let frame = timeout_at(until, self.wire.receive()).await;
            let frame = frame.map_err(|_| self.options.silent("say its limits"))?;
            self.sort(&frame.map_err(|error| self.options.broken(&error, false))?)?;
        };
        let wanted = u32::try_from(self.options.timeout.as_secs() / 3).unwrap_or(u32::MAX).max(1);
        let seconds = if offered == 0 { wanted } else { wanted.min(offered) };
        self.heartbeat = Duration::from_secs(seconds.into());
        let agreed = Body::default().number(frame_max.to_be_bytes()).number(seconds.to_be_bytes());
        self.send("agree on its limits", Command::Tune, agreed).await
    }

    /// The nodes that have the stream, those with copies of it first.
    async fn nodes(&mut self) -> Result<Vec<Node>, QueueError> {
        let stream = self.options.stream.clone();
        let wanted = Body::default().number(self.next_correlation());
        let wanted = wanted.number(1u32.to_be_bytes()).text(&stream);
        let answer = self.ask("say where the stream is", Command::Metadata, wanted).await?;
        let (code, nodes) =
            read_nodes(answer).map_err(|error| self.options.broken(&error, true))?;
        if code == OK { Ok(nodes) } else { Err(self.options.refused("read the stream", code)) }
    }

    async fn subscribe(
        &mut self,
        number: u8,
        from: Option<u64>,
        credit: u16,
    ) -> Result<(), QueueError> {
        let stream = self.options.stream.clone();
        let body = Body::default().number(self.next_correlation()).number([number]).text(&stream);
        let body = match from {
            None => body.number(FROM_FIRST.to_be_bytes()),
            Some(offset) => body.number(FROM_OFFSET.to_be_bytes()).number(offset.to_be_bytes()),
        };
        let body = body.number(credit.to_be_bytes()).texts(&[]);
        self.ask("read the stream", Command::Subscribe, body).await.map(drop)
    }

    fn next_correlation(&mut self) -> [u8; 4] {
        self.correlation = self.correlation.wrapping_add(1);
        self.correlation.to_be_bytes()
    }

    /// Sends a command, and waits for what it answers after its code.
    async fn ask(
        &mut self,
        action: &str,
        command: Command,
        body: Body,
    ) -> Result<Parts, QueueError> {
        self.send(action, command, body).await?;
        let until = Instant::now() + self.options.timeout;
        loop {
            let frame = timeout_at(until, self.wire.receive()).await;
            let frame = frame.map_err(|_| self.options.silent(action))?;
            let frame = frame.map_err(|error| self.options.broken(&error, self.is_open))?;
            if !frame.is_answer_to(command) {
                self.sort(&frame)?;
                continue;
            }
            let mut answer = Parts(frame.body);
            let broken = |error| self.options.broken(&error, self.is_open);
            // Calls are made one after the other, so the answer is that to the last one.
            answer.fixed::<4>().map_err(broken)?;
            if command == Command::Metadata {
                return Ok(answer);
            }
            return match answer.u16().map_err(broken)? {
                OK => Ok(answer),
                code => Err(self.options.refused(action, code)),
            };
        }
    }

    async fn send(&mut self, action: &str, command: Command, body: Body) -> Result<(), QueueError> {
        let sent = timeout(self.options.timeout, self.wire.send(command, body)).await;
        let sent = sent.map_err(|_| self.options.silent(action))?;
        sent.map_err(|error| self.options.broken(&error, self.is_open))
    }

    async fn keep_alive(&mut self) -> Result<(), QueueError> {
        if self.wire.sent_at.elapsed() < self.heartbeat / 2 {
            return Ok(());
        }
        self.send("take a heartbeat", Command::Heartbeat, Body::default()).await
    }

    /// Puts what the broker says by itself where it belongs.
    fn sort(&mut self, frame: &Frame) -> Result<(), QueueError> {
        let mut parts = Parts(frame.body.clone());
        let options = Arc::clone(&self.options);
        let broken = |error| options.broken(&error, self.is_open);
        if frame.is(Command::Deliver) {
            match parts.fixed().map_err(broken)? {
                [READING] => self.delivered.push_back(parts),
                [LOOKING] => self.first_chunk = Some(parts),
                _ => {}
            }
        } else if frame.is(Command::MetadataUpdate) {
            self.end = Some(options.moved());
        } else if frame.is(Command::Close) {
            parts.fixed::<6>().map_err(broken)?;
            self.end = Some(options.closed(&parts.text().map_err(broken)?));
        } else if frame.is(Command::Tune) {
            self.tuned = Some((parts.u32().map_err(broken)?, parts.u32().map_err(broken)?));
        } else if frame.is_answer_to(Command::Credit) {
            let code = parts.u16().map_err(broken)?;
            self.end = Some(options.refused("send more", code));
        }
        match &self.end {
            Some(end) if self.delivered.is_empty() => Err(end.clone()),
            _ => Ok(()),
        }
    }
}

fn read_nodes(mut answer: Parts) -> Result<(u16, Vec<Node>), WireError> {
    let mut nodes = Vec::new();
    for _ in 0..answer.u32()? {
        let reference = answer.u16()?;
        nodes.push((reference, Node { host: answer.text()?, port: answer.u32()? }));
    }
    // One stream was asked for.
    if answer.u32()? != 1 {
        return Err(WireError::NotTheProtocol);
    }
    answer.text()?;
    let code = answer.u16()?;
    let leader = answer.u16()?;
    let mut holders = Vec::new();
    for _ in 0..answer.u32()? {
        holders.push(answer.u16()?);
    }
    holders.push(leader);
    nodes.retain(|(reference, _)| holders.contains(reference));
    nodes.sort_by_key(|(reference, _)| holders.iter().position(|holder| holder == reference));
    Ok((code, nodes.into_iter().map(|(_, node)| node).collect()))
}
