//! The consumer group: made where it is missing, and how far it has come.

use std::sync::{LazyLock, Mutex, PoisonError};

use redis::cmd;

use super::entry::EntryId;
use super::gap::Loss;
use super::link::Link;
use super::reply::{self, GroupState, StreamState};
use super::{Place, ReadFrom};
use crate::source::queue::QueueError;

/// For scripts: a flat list of names and values as a table; whether an id is after another.
pub(super) const FUNCTIONS: &str = r"
local function members(flat)
    local found = {}
    for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
    return found
end
local function is_after(one, other)
    local ms, seq = string.match(one, '(%d+)-(%d+)')
    local other_ms, other_seq = string.match(other, '(%d+)-(%d+)')
    if ms ~= other_ms then return tonumber(ms) > tonumber(other_ms) end
    return tonumber(seq) > tonumber(other_seq)
end
";

/// Lets the group go on behind `ARGV[2]`, `ARGV[3]` being how many entries were ever added up to it, or empty; never back to
/// where it was, for somebody else may have read on.
static PASS: LazyLock<String> = LazyLock::new(|| [FUNCTIONS, PASS_BODY].concat());
const PASS_BODY: &str = r"
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local group = members(flat)
    if group['name'] == ARGV[1] and is_after(ARGV[2], group['last-delivered-id']) then
        local set = {'XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2]}
        if ARGV[3] ~= '' then set[6], set[7] = 'ENTRIESREAD', ARGV[3] end
        redis.call(unpack(set))
    end
end
";

/// How far this process has stored what it read of the group, so that it is made anew there if it is destroyed.
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
    let read = passing.read.map_or_else(String::new, |read| read.to_string());
    let mut pass = cmd("EVAL");
    pass.arg(PASS.as_str()).arg(1).arg(place.stream.as_ref());
    pass.arg(&place.group).arg(passing.place.to_string()).arg(read);
    link.call(&pass, "let the consumer group pass a gap").await.map(|_| ())
}
