//! The consumer group: made where it is missing, and how far it has come.

use std::sync::{Mutex, PoisonError};

use redis::cmd;

use super::entry::EntryId;
use super::gap::Loss;
use super::link::Link;
use super::reply::{self, GroupState, StreamState};
use super::{Place, ReadFrom};
use crate::source::queue::QueueError;

/// How far this process has seen the group come, so that it is made anew there if it is destroyed.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<Option<EntryId>>);

impl Progress {
    pub(super) fn advance(&self, id: EntryId) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = (*seen).max(Some(id));
    }

    fn get(&self) -> Option<EntryId> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the group, unless it exists.
pub(super) async fn ensure(
    link: &Link,
    place: &Place,
    read_from: ReadFrom,
    progress: &Progress,
) -> Result<(), QueueError> {
    let doing = "make the consumer group";
    let stream = stream_state(link, place).await?;
    if let Some((_, Some(_))) = stream {
        return Ok(());
    }
    let mut create = cmd("XGROUP");
    create.arg("CREATE").arg(place.stream.as_ref()).arg(&place.group);
    match (read_from, progress.get()) {
        (ReadFrom::GroupCreated, Some(seen)) => create.arg(seen.to_string()).arg("MKSTREAM"),
        (ReadFrom::GroupCreated, None) => create.arg("$").arg("MKSTREAM"),
        (ReadFrom::Beginning, _) => {
            // What is gone already counts as read: that is what tells it from what will be lost.
            let gone = stream.map_or(0, |(stream, _)| stream.added.saturating_sub(stream.length));
            create.arg("0").arg("MKSTREAM").arg("ENTRIESREAD").arg(gone)
        }
    };
    match link.call(&create, doing).await {
        Err(error) if error.reason.contains("BUSYGROUP") => Ok(()),
        other => other.map(|_| ()),
    }
}

/// What stream and group are like; `None`: there is no stream.
pub(super) async fn stream_state(
    link: &Link,
    place: &Place,
) -> Result<Option<(StreamState, Option<GroupState>)>, QueueError> {
    let doing = "look at the stream";
    let mut kind = cmd("TYPE");
    kind.arg(place.stream.as_ref());
    match reply::text(&link.call(&kind, doing).await?) {
        Some("none") => return Ok(None),
        Some("stream") => {}
        _ => return Err(place.wrong_type()),
    }
    let mut look = redis::pipe();
    look.atomic();
    look.cmd("XINFO").arg("STREAM").arg(place.stream.as_ref());
    look.cmd("XINFO").arg("GROUPS").arg(place.stream.as_ref());
    let answers = link.transact(&look, doing).await?;
    let [stream, groups] = answers.as_slice() else { return Err(link.strange("XINFO")) };
    let stream = reply::stream_state(stream)
        .ok_or_else(|| place.too_old("no entries-added in XINFO STREAM"))?;
    Ok(Some((stream, reply::group_state(groups, &place.group))))
}

/// Where the group goes on behind a loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Passing {
    /// The last id that was read, or that was ever given where nothing is left.
    place: EntryId,
    /// How many entries were ever added up to it; `None`: not known.
    read: Option<u64>,
}

impl Passing {
    /// After these ids were read of a stream that was like this.
    pub(super) fn new(stream: &StreamState, loss: Option<&Loss>, ids: &[EntryId]) -> Self {
        let place = ids.last().copied().unwrap_or(stream.last);
        let read = if place == stream.last {
            Some(stream.added)
        } else {
            loss.and_then(|loss| loss.read).map(|read| read + ids.len() as u64)
        };
        Self { place, read }
    }
}

/// Lets the group go on behind a loss, with a counter that is right. If somebody else reads at this very moment, entries are
/// delivered twice, which whoever stores them recognises.
pub(super) async fn pass(link: &Link, place: &Place, passing: &Passing) -> Result<(), QueueError> {
    let mut set = cmd("XGROUP");
    set.arg("SETID").arg(place.stream.as_ref()).arg(&place.group).arg(passing.place.to_string());
    if let Some(read) = passing.read {
        set.arg("ENTRIESREAD").arg(read);
    }
    link.call(&set, "let the consumer group pass a gap").await.map(|_| ())
}
