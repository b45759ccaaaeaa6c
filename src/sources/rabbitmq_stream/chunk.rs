//! A chunk of a stream, as the broker delivers it: messages with their offsets, alone or batched and compressed.

use std::io::Read;

use bytes::{Buf, Bytes};
use flate2::read::GzDecoder;

/// Most bytes that a compressed batch may unfold to; what announces more is not read.
const UNFOLDED_BYTES_MAX: u32 = 256 << 20;

const MAGIC_AND_VERSION: u8 = 0x50;
const USER_CHUNK: u8 = 0;

/// What stands at one offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A message, encoded as AMQP 1.0.
    Message(Bytes),
    /// Part of a batch that cannot be read. The bytes are the whole batch, kept with its first message.
    Unreadable {
        /// As it came; empty for all but the first message of the batch.
        batch: Bytes,
        /// Why.
        reason: String,
    },
}

/// A chunk breaks the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a chunk of the stream cannot be read: {0}")]
pub(super) struct ChunkFault(pub(super) &'static str);

/// The messages of a chunk, in the order of their offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) first_offset: u64,
    pub(super) entries: Vec<Entry>,
}

impl Chunk {
    /// Reads what follows the subscription's number in a delivery.
    pub(super) fn read(mut bytes: Bytes) -> Result<Self, ChunkFault> {
        const HEADER_LENGTH: usize = 48;
        if bytes.len() < HEADER_LENGTH {
            return Err(ChunkFault("its head is cut short"));
        }
        if bytes.get_u8() != MAGIC_AND_VERSION {
            return Err(ChunkFault("its format has a version that nothing is known of"));
        }
        let kind = bytes.get_u8();
        let entry_count = bytes.get_u16();
        let record_count = bytes.get_u32() as usize;
        bytes.advance(16); // time and epoch
        let first_offset = bytes.get_u64();
        bytes.advance(4); // checksum: TCP and TLS have their own
        let data_length = bytes.get_u32() as usize;
        bytes.advance(8); // trailer and filter
        if kind != USER_CHUNK {
            return Ok(Self { first_offset, entries: Vec::new() });
        }
        if bytes.len() < data_length {
            return Err(ChunkFault("its data are cut short"));
        }
        bytes.truncate(data_length);
        let mut entries = Vec::with_capacity(record_count.min(data_length));
        for _ in 0..entry_count {
            read_entry(&mut bytes, &mut entries)?;
        }
        if entries.len() != record_count {
            return Err(ChunkFault("it holds another number of messages than it says"));
        }
        Ok(Self { first_offset, entries })
    }
}

fn read_entry(bytes: &mut Bytes, entries: &mut Vec<Entry>) -> Result<(), ChunkFault> {
    const IS_BATCH: u8 = 0x80;
    let kind = *bytes.first().ok_or(ChunkFault("it ends before its last message"))?;
    if kind & IS_BATCH == 0 {
        entries.push(Entry::Message(take_sized(bytes)?));
        return Ok(());
    }
    if bytes.len() < 11 {
        return Err(ChunkFault("the head of a batch is cut short"));
    }
    let whole = bytes.clone();
    bytes.advance(1);
    let record_count = usize::from(bytes.get_u16());
    let unfolded_length = bytes.get_u32();
    let data = take_sized(bytes)?;
    let whole = whole.slice(..11 + data.len());
    let unfolded = unfold((kind >> 4) & 0b111, data, unfolded_length);
    match unfolded.and_then(|unfolded| records(unfolded, record_count)) {
        Ok(messages) => entries.extend(messages.into_iter().map(Entry::Message)),
        Err(reason) => entries.extend((0..record_count).map(|nth| Entry::Unreadable {
            batch: if nth == 0 { whole.clone() } else { Bytes::new() },
            reason: match nth {
                0 => reason.clone(),
                _ => format!("{reason} (its bytes are kept {nth} offsets before this one)"),
            },
        })),
    }
    Ok(())
}

fn take_sized(bytes: &mut Bytes) -> Result<Bytes, ChunkFault> {
    if bytes.len() < 4 {
        return Err(ChunkFault("a length is cut short"));
    }
    let length = bytes.get_u32() as usize;
    if bytes.len() < length {
        return Err(ChunkFault("a message is cut short"));
    }
    Ok(bytes.split_to(length))
}

/// Undoes the compression of a batch.
fn unfold(compression: u8, data: Bytes, unfolded_length: u32) -> Result<Bytes, String> {
    let name = match compression {
        0 => return Ok(data),
        1 => "gzip",
        2 => "snappy",
        3 => "lz4",
        4 => "zstd",
        _ => "something unknown",
    };
    if name != "gzip" {
        return Err(format!(
            "the message is in a batch compressed with {name}, which cannot be read here; have its publisher use gzip or no \
             compression"
        ));
    }
    if unfolded_length > UNFOLDED_BYTES_MAX {
        return Err(format!(
            "the message is in a batch that says to unfold to {unfolded_length} bytes, more than is read here"
        ));
    }
    let mut unfolded = Vec::new();
    let read = GzDecoder::new(data.as_ref())
        .take(u64::from(unfolded_length) + 1)
        .read_to_end(&mut unfolded);
    match read {
        Ok(length) if length == unfolded_length as usize => Ok(unfolded.into()),
        Ok(_) => Err("the message is in a batch of another size than it says".to_owned()),
        Err(error) => Err(format!("the message is in a batch that cannot be unfolded: {error}")),
    }
}

fn records(mut data: Bytes, count: usize) -> Result<Vec<Bytes>, String> {
    let records: Result<Vec<_>, _> = (0..count).map(|_| take_sized(&mut data)).collect();
    records.map_err(|ChunkFault(why)| format!("the message is in a batch in which {why}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use bytes::{BufMut, BytesMut};
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn chunk(entry_count: u16, record_count: u32, data: &[u8]) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_slice(&[MAGIC_AND_VERSION, USER_CHUNK]);
        bytes.put_u16(entry_count);
        bytes.put_u32(record_count);
        bytes.put_bytes(7, 16);
        bytes.put_u64(41);
        bytes.put_u32(0);
        bytes.put_u32(u32::try_from(data.len()).unwrap());
        bytes.put_bytes(0, 8);
        bytes.put_slice(data);
        bytes.freeze()
    }

    fn sized(text: &str) -> Vec<u8> {
        [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
    }

    fn batch(compression: u8, count: u16, unfolded: u32, data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).unwrap();
        let head = [0x80 | (compression << 4)];
        [&head[..], &count.to_be_bytes(), &unfolded.to_be_bytes(), &length.to_be_bytes(), data]
            .concat()
    }

    fn message(text: &'static str) -> Entry {
        Entry::Message(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn messages_stand_alone_and_in_batches() {
        let records = [sized("b"), sized("c")].concat();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&records).unwrap();
        let gzip = gzip.finish().unwrap();
        let length = u32::try_from(records.len()).unwrap();
        for data in [batch(0, 2, length, &records), batch(1, 2, length, &gzip)] {
            let read = Chunk::read(chunk(3, 4, &[sized("a"), data, sized("")].concat())).unwrap();
            assert_eq!(read.first_offset, 41);
            assert_eq!(read.entries, [message("a"), message("b"), message("c"), message("")]);
        }
    }

    #[test]
    fn a_batch_that_cannot_be_read_keeps_its_offsets_and_its_neighbours() {
        for (compression, data, why) in
            [(4, &b"x"[..], "zstd"), (1, b"no gzip", "unfolded"), (0, b"\0\0\0\x09x", "cut short")]
        {
            let bytes = [sized("a"), batch(compression, 2, 9, data), sized("d")].concat();
            let read = Chunk::read(chunk(3, 4, &bytes)).unwrap();
            assert_eq!((&read.entries[0], &read.entries[3]), (&message("a"), &message("d")));
            let Entry::Unreadable { batch, reason } = &read.entries[1] else { panic!("{read:?}") };
            assert!(reason.contains(why) && batch.ends_with(data), "{reason}");
            let Entry::Unreadable { batch, .. } = &read.entries[2] else { panic!("{read:?}") };
            assert!(batch.is_empty());
        }
    }

    #[test]
    fn a_chunk_that_breaks_the_format_is_refused() {
        let good = chunk(1, 1, &sized("a"));
        for length in 0..good.len() {
            assert!(Chunk::read(good.slice(..length)).is_err(), "{length}");
        }
        assert!(Chunk::read(chunk(2, 2, &sized("a"))).is_err());
        assert!(Chunk::read(chunk(1, 2, &sized("a"))).is_err());
        assert!(Chunk::read(chunk(1, u32::MAX, &sized("a"))).is_err());
        assert!(Chunk::read(chunk(1, 1, &[0x80, 0, 1])).is_err());
    }
}
