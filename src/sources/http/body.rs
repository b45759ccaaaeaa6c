//! Bodies: read within a limit, unpacked within the same limit, and mapped.

use std::io::Write;

use bytes::{Bytes, BytesMut};
use flate2::write::MultiGzDecoder;
use futures_util::StreamExt;
use reqwest::Response;
use tokio::time::{Instant, timeout_at};

use super::HEADER_LENGTH_MAX;
use super::failure::cause;
use crate::event::Item;
use crate::event::excerpt::excerpt;
use crate::mapping::Mapping;
use crate::source::{FailureClass, SourceError};

/// How much of a body that broke a size limit is kept as a dead letter.
const KEPT_OF_OVERSIZED: usize = 1 << 20;

/// Room made at once for a body that says how long it is. One that is longer, or says more than it has, grows as it comes.
const ROOM_MAX: usize = 1 << 20;

/// Why a body could not be read.
pub(super) enum BodyError {
    /// The deadline came first.
    Late,
    /// The connection broke, or the body is shorter than it said.
    Broken(String),
    /// It is over the limit; its beginning.
    Oversized(Bytes),
}

/// Reads a body of at most `max_bytes` as it was sent.
pub(super) async fn read(
    response: Response,
    deadline: Instant,
    max_bytes: usize,
) -> Result<Bytes, BodyError> {
    let said = response.content_length().and_then(|length| usize::try_from(length).ok());
    let mut body = BytesMut::with_capacity(said.unwrap_or(0).min(ROOM_MAX).min(max_bytes));
    let mut chunks = response.bytes_stream();
    while let Some(chunk) =
        timeout_at(deadline, chunks.next()).await.map_err(|_| BodyError::Late)?
    {
        let chunk = chunk.map_err(|error| BodyError::Broken(cause(error)))?;
        if body.len() + chunk.len() > max_bytes {
            body.extend_from_slice(&chunk[..chunk.len().min(KEPT_OF_OVERSIZED)]);
            return Err(BodyError::Oversized(body.freeze()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Unpacks a body and reads its events.
pub(super) fn decode(
    mapping: &Mapping,
    encoding: Option<&str>,
    sent: Bytes,
    max_bytes: usize,
) -> Result<(Vec<Item>, Bytes), SourceError> {
    let body = match encoding {
        None | Some("" | "identity") => sent,
        Some("gzip" | "x-gzip") => gunzip(&sent, max_bytes)?,
        Some(other) => {
            let other = excerpt(other, HEADER_LENGTH_MAX);
            let reason = format!("content-encoding \"{other}\" was not asked for; gzip was");
            return Err(invalid(&reason, sent));
        }
    };
    match mapping.items_of_page(&body) {
        Ok(items) => Ok((items, body)),
        Err(error) => Err(SourceError::invalid_page(&error, body)),
    }
}

/// Unpacks, and stops as soon as the limit is passed, so that a bomb costs no more than the limit.
fn gunzip(sent: &Bytes, max_bytes: usize) -> Result<Bytes, SourceError> {
    let mut decoder = MultiGzDecoder::new(Limited { out: Vec::new(), max_bytes, exceeded: false });
    let outcome = decoder.write_all(sent).and_then(|()| decoder.try_finish());
    let limited = decoder.get_ref();
    if limited.exceeded {
        return Err(oversized("unpacked body", max_bytes, &limited.out));
    }
    outcome
        .map_err(|error| invalid(&format!("the gzip body is damaged: {error}"), sent.clone()))?;
    Ok(Bytes::from(std::mem::take(&mut decoder.get_mut().out)))
}

struct Limited {
    out: Vec<u8>,
    max_bytes: usize,
    exceeded: bool,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.out.len() + bytes.len() > self.max_bytes {
            self.exceeded = true;
            return Err(std::io::Error::other("over the limit"));
        }
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(super) fn oversized(what: &str, max_bytes: usize, so_far: &[u8]) -> SourceError {
    let kept = &so_far[..so_far.len().min(KEPT_OF_OVERSIZED)];
    invalid(
        &format!(
            "the {what} is larger than max_page_bytes = {max_bytes}; lower batch_size or raise max_page_bytes (its \
             first {} bytes are kept)",
            kept.len()
        ),
        Bytes::copy_from_slice(kept),
    )
}

pub(super) fn invalid(reason: &str, body: Bytes) -> SourceError {
    SourceError {
        page: Some(body),
        ..SourceError::new(FailureClass::InvalidPage, format!("invalid page: {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gzip_bomb_stops_at_the_limit() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![b' '; 50 << 20]).unwrap();
        let bomb = Bytes::from(encoder.finish().unwrap());
        assert!(bomb.len() < 100_000);
        let error = gunzip(&bomb, 1 << 20).unwrap_err();
        assert_eq!(error.class, FailureClass::InvalidPage);
        assert!(error.reason.contains("max_page_bytes"), "{error}");
    }

    #[test]
    fn a_truncated_gzip_body_is_invalid() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(b"[]").unwrap();
        let mut bytes = encoder.finish().unwrap();
        bytes.truncate(bytes.len() - 6);
        let error = gunzip(&Bytes::from(bytes), 1 << 20).unwrap_err();
        assert!(error.reason.contains("damaged"), "{error}");
    }
}
