//! Frames of the stream protocol over a connection.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

/// Longest frame that is believed in. A chunk holds what a publisher sent at once; what is longer is no frame at all.
const FRAME_BYTES_MAX: usize = 1 << 30;
/// Room for reading, so that a chunk comes in few pieces.
const READ_BYTES: usize = 64 << 10;

/// Set in the key of an answer.
const IS_ANSWER: u16 = 0x8000;
const VERSION: u16 = 1;

/// The keys of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Command {
    Subscribe = 7,
    Deliver = 8,
    Credit = 9,
    Unsubscribe = 12,
    Metadata = 15,
    MetadataUpdate = 16,
    PeerProperties = 17,
    SaslHandshake = 18,
    SaslAuthenticate = 19,
    Tune = 20,
    Open = 21,
    Close = 22,
    Heartbeat = 23,
}

/// Why no more frames come.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error(transparent)]
    Broken(#[from] io::Error),
    #[error("what it sends is not the stream protocol")]
    NotTheProtocol,
}

/// What came, by its key.
#[derive(Debug)]
pub(super) struct Frame {
    key: u16,
    pub(super) body: Bytes,
}

impl Frame {
    pub(super) fn is(&self, command: Command) -> bool {
        self.key == command as u16
    }

    pub(super) fn is_answer_to(&self, command: Command) -> bool {
        self.key == command as u16 | IS_ANSWER
    }
}

/// A body to be sent.
#[derive(Debug, Default)]
pub(super) struct Body(Vec<u8>);

impl Body {
    pub(super) fn number<const N: usize>(mut self, bytes: [u8; N]) -> Self {
        self.0.put_slice(&bytes);
        self
    }

    pub(super) fn text(mut self, text: &str) -> Self {
        // Longer ones are refused with the configuration.
        self.0.put_u16(u16::try_from(text.len()).unwrap_or_default());
        self.0.put_slice(text.as_bytes());
        self
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.put_u32(u32::try_from(bytes.len()).unwrap_or_default());
        self.0.put_slice(bytes);
        self
    }

    pub(super) fn texts(self, texts: &[(&str, &str)]) -> Self {
        let count = u32::try_from(texts.len()).unwrap_or_default();
        let counted = self.number(count.to_be_bytes());
        texts.iter().fold(counted, |body, (name, value)| body.text(name).text(value))
    }
}

/// A connection, dropped together with what was read ahead.
pub(super) struct Wire {
    stream: Box<dyn Duplex>,
    inbound: BytesMut,
    /// When the last frame came.
    pub(super) heard_at: Instant,
    /// When the last frame was sent.
    pub(super) sent_at: Instant,
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

impl Wire {
    pub(super) async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    pub(super) async fn over_tls(
        stream: TcpStream,
        host: &str,
        config: Arc<rustls::ClientConfig>,
    ) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Self::over(TlsConnector::from(config).connect(name, stream).await?))
    }

    pub(super) fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let now = Instant::now();
        Self { stream: Box::new(stream), inbound: BytesMut::new(), heard_at: now, sent_at: now }
    }

    /// Sends a command. Not cancel safe: half a command makes the connection useless.
    pub(super) async fn send(&mut self, command: Command, body: Body) -> Result<(), WireError> {
        let length = u32::try_from(4 + body.0.len()).map_err(|_| WireError::NotTheProtocol)?;
        let mut frame = Vec::with_capacity(8 + body.0.len());
        frame.put_u32(length);
        frame.put_u16(command as u16);
        frame.put_u16(VERSION);
        frame.put_slice(&body.0);
        self.stream.write_all(&frame).await?;
        self.stream.flush().await?;
        self.sent_at = Instant::now();
        Ok(())
    }

    /// Waits for a frame. Cancel safe.
    pub(super) async fn receive(&mut self) -> Result<Frame, WireError> {
        loop {
            if let Some(frame) = self.parse()? {
                self.heard_at = Instant::now();
                return Ok(frame);
            }
            self.inbound.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.inbound).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    fn parse(&mut self) -> Result<Option<Frame>, WireError> {
        let Some(length) = self.inbound.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
        else {
            return Ok(None);
        };
        let length = length as usize;
        if !(4..=FRAME_BYTES_MAX).contains(&length) {
            return Err(WireError::NotTheProtocol);
        }
        if self.inbound.len() < 4 + length {
            // A long one at once, instead of growing piece by piece.
            self.inbound.reserve(4 + length - self.inbound.len());
            return Ok(None);
        }
        let mut body = self.inbound.split_to(4 + length).freeze();
        body.advance(4);
        let key = body.get_u16();
        body.advance(2);
        Ok(Some(Frame { key, body }))
    }
}

/// Reads the parts of a body.
#[derive(Debug)]
pub(super) struct Parts(pub(super) Bytes);

impl Parts {
    pub(super) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let fixed = *self.0.first_chunk().ok_or(WireError::NotTheProtocol)?;
        self.0.advance(N);
        Ok(fixed)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.fixed().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.fixed().map(u32::from_be_bytes)
    }

    /// A length of -1 is no text at all.
    pub(super) fn text(&mut self) -> Result<String, WireError> {
        let length = usize::try_from(self.fixed().map(i16::from_be_bytes)?).unwrap_or(0);
        if self.0.len() < length {
            return Err(WireError::NotTheProtocol);
        }
        Ok(String::from_utf8_lossy(&self.0.split_to(length)).into_owned())
    }

    pub(super) fn texts(&mut self) -> Result<Vec<(String, String)>, WireError> {
        (0..self.u32()?).map(|_| Ok((self.text()?, self.text()?))).collect()
    }
}
