//! What Redis answers, in our terms. An answer that is not as documented is `None`, never a panic.

use bytes::Bytes;
use redis::Value;

use super::entry::{Entry, EntryId};

/// An entry of an answer; `None`: it was deleted while it was pending.
pub(super) type Found = (EntryId, Option<Entry>);

/// What a stream is like (`XINFO STREAM`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StreamState {
    /// Entries that are there.
    pub(super) length: u64,
    /// The id of the first of them.
    pub(super) first: Option<EntryId>,
    /// The largest id that was ever given.
    pub(super) last: EntryId,
    /// The largest id that was deleted by `XDEL`; zero: none.
    pub(super) deleted: EntryId,
    /// How many entries were ever added.
    pub(super) added: u64,
}

/// How far a group has come (`XINFO GROUPS`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupState {
    /// The last id that was delivered to one of its consumers.
    pub(super) delivered: EntryId,
    /// How many entries were ever added up to it; `None`: Redis does not know.
    pub(super) read: Option<u64>,
    /// Entries that were delivered and not acknowledged.
    pub(super) pending: u64,
    /// Entries that are still to be delivered; `None`: Redis does not know.
    pub(super) lag: Option<u64>,
    /// Its consumers.
    pub(super) consumers: u64,
}

/// What was taken over.
#[derive(Default)]
pub(super) struct Claimed {
    /// Where to go on; zero: everything was looked at.
    pub(super) cursor: EntryId,
    pub(super) entries: Vec<Found>,
    /// Ids that were pending, and whose entries are gone.
    pub(super) deleted: Vec<EntryId>,
}

/// What stream and group were like before the reading, and what was read.
pub(super) struct Reading {
    pub(super) stream: StreamState,
    pub(super) group: GroupState,
    pub(super) entries: Vec<Found>,
    /// Something may be lost, and the group stays where it was.
    pub(super) is_put_back: bool,
}

/// What the script answers that reads.
pub(super) fn reading(value: Value, group: &str) -> Option<Reading> {
    let [stream, groups, entries, put_back] = <[Value; 4]>::try_from(owned(value)?).ok()?;
    Some(Reading {
        stream: stream_state(&stream)?,
        group: group_state(&groups, group)?,
        entries: read_entries(entries)?,
        is_put_back: number(&put_back)? == 1,
    })
}

/// `None`: there is no such member, as in Redis 6.
pub(super) fn stream_state(value: &Value) -> Option<StreamState> {
    Some(StreamState {
        length: number(member(value, "length")?)?,
        first: match member(value, "first-entry")? {
            Value::Nil => None,
            entry => id(items(entry)?.first()?),
        },
        last: id(member(value, "last-generated-id")?)?,
        deleted: id(member(value, "max-deleted-entry-id")?)?,
        added: number(member(value, "entries-added")?)?,
    })
}

/// The group of this name, of all of a stream.
pub(super) fn group_state(value: &Value, name: &str) -> Option<GroupState> {
    let is_it = |group: &&Value| member(group, "name").and_then(text) == Some(name);
    let group = items(value)?.iter().find(is_it)?;
    Some(GroupState {
        delivered: id(member(group, "last-delivered-id")?)?,
        read: member(group, "entries-read").and_then(number),
        pending: number(member(group, "pending")?)?,
        lag: member(group, "lag").and_then(number),
        consumers: number(member(group, "consumers")?)?,
    })
}

/// The entries of the one stream that `XREADGROUP` was asked for.
pub(super) fn read_entries(value: Value) -> Option<Vec<Found>> {
    match value {
        Value::Nil => Some(Vec::new()),
        Value::Array(streams) => match streams.into_iter().next()? {
            Value::Array(mut stream) if stream.len() == 2 => entries(stream.pop()?),
            _ => None,
        },
        Value::Map(streams) => entries(streams.into_iter().next()?.1),
        _ => None,
    }
}

pub(super) fn claimed(value: Value) -> Option<Claimed> {
    let mut parts = owned(value)?.into_iter();
    let cursor = id(&parts.next()?)?;
    let entries = entries(parts.next()?)?;
    let deleted = match parts.next() {
        None => Vec::new(),
        Some(deleted) => items(&deleted)?.iter().map(id).collect::<Option<_>>()?,
    };
    Some(Claimed { cursor, entries, deleted })
}

/// The ids of what `XPENDING` lists.
pub(super) fn pending_ids(value: &Value) -> Option<Vec<EntryId>> {
    items(value)?.iter().map(|entry| id(items(entry)?.first()?)).collect()
}

fn entries(value: Value) -> Option<Vec<Found>> {
    owned(value)?.into_iter().filter(|entry| !matches!(entry, Value::Nil)).map(found).collect()
}

fn found(value: Value) -> Option<Found> {
    let mut parts = owned(value)?.into_iter();
    let id = id(&parts.next()?)?;
    let fields = match parts.next()? {
        Value::Nil => return Some((id, None)),
        fields => owned(fields)?,
    };
    let mut pairs = Vec::with_capacity(fields.len() / 2);
    let mut fields = fields.into_iter();
    while let Some(name) = fields.next() {
        pairs.push((string(name)?, string(fields.next()?)?));
    }
    Some((id, Some(Entry { id, fields: pairs })))
}

fn owned(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(items) => Some(items),
        _ => None,
    }
}

fn items(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(items) => Some(items),
        _ => None,
    }
}

fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let pairs = items(value)?.chunks_exact(2);
    let mut pairs = pairs.filter_map(|pair| Some((pair.first()?, pair.get(1)?)));
    pairs.find(|(found, _)| text(found) == Some(name)).map(|(_, value)| value)
}

fn string(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        Value::SimpleString(text) => Some(text.into()),
        Value::Okay => Some(Bytes::from_static(b"OK")),
        Value::Int(number) => Some(number.to_string().into()),
        _ => None,
    }
}

pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

fn id(value: &Value) -> Option<EntryId> {
    EntryId::parse(text(value)?)
}
