//! Taking entries: our own that nobody has, those of the dead, new ones.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::{Cmd, cmd};
use tokio::time::Instant;

use super::entry::EntryId;
use super::gap::{Watch, deleted_while_pending};
use super::group::{self, Passing, Progress};
use super::hold::{Hold, Stand};
use super::pending::{Consumer, InWork, millis};
use super::reply::{self, Found, Reading};
use crate::source::queue::{BatchLimits, Gap, Message, QueueError};

/// Longest wait for entries in one command. What was given back, and what is to be taken over, waits for its end.
const BLOCK_MAX: Duration = Duration::from_secs(1);
/// Entries in one command. Nobody knows before how large they are.
const CHUNK_MAX: usize = 1024;
const CHUNK_FIRST: usize = 16;
/// How often at least is looked for what dead consumers have left.
const CLAIM_EVERY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// Reads `ARGV[3]` new entries, and looks in the same moment whether some are missing before them. Where that may be, which is
/// judged as by [`Watch`], the group is put back: whoever does not come to store what is missing leaves it to be found.
static READ: LazyLock<String> = LazyLock::new(|| [group::FUNCTIONS, READ_BODY].concat());
const READ_BODY: &str = r"
local stream, groups = redis.call('XINFO', 'STREAM', KEYS[1]), redis.call('XINFO', 'GROUPS', KEYS[1])
local entries = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], '>')
local is_put_back, found = 0, members(stream)
for _, flat in ipairs(groups) do
    local group = members(flat)
    local delivered, read = group['last-delivered-id'], group['entries-read']
    if group['name'] == ARGV[1] and is_after(found['last-generated-id'], delivered) then
        local first, deleted = found['first-entry'], found['max-deleted-entry-id']
        local is_before = not first or is_after(first[1], delivered)
        local is_trimmed = read and is_before and found['entries-added'] - found['length'] > read
        local is_deleted = deleted ~= ARGV[4] and is_after(deleted, delivered)
        if is_trimmed or is_deleted then
            local set = {'XGROUP', 'SETID', KEYS[1], ARGV[1], delivered}
            if read then set[6], set[7] = 'ENTRIESREAD', read end
            redis.call(unpack(set))
            is_put_back = 1
        end
    end
end
return {stream, groups, entries, is_put_back}
";

/// Takes over at most `ARGV[5]` entries from `ARGV[4]` on that have been idle for long enough. `XAUTOCLAIM` would forget what
/// was trimmed or deleted as it names it, idle or not; here that is named and stays pending until its loss is stored.
const CLAIM: &str = r"
local claim, lost = {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3]}, {}
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], ARGV[4], '+', ARGV[5])
for _, entry in ipairs(pending) do
    if #redis.call('XRANGE', KEYS[1], entry[1], entry[1]) > 0 then
        claim[#claim + 1] = entry[1]
    else
        lost[#lost + 1] = entry[1]
    end
end
local claimed = {}
if #claim > 5 then claimed = redis.call(unpack(claim)) end
local last = '0-0'
if #pending == tonumber(ARGV[5]) then last = pending[#pending][1] end
return {last, claimed, lost}
";

/// Takes entries from Redis, and keeps them until they are delivered.
pub(super) struct Reader {
    consumer: Consumer,
    in_work: Arc<InWork>,
    progress: Arc<Progress>,
    watch: Watch,
    /// What was known before the loss that is told.
    watch_before: Watch,
    hold: Arc<Hold>,
    /// What was taken, in the order it came.
    pub(super) held: VecDeque<(EntryId, Message)>,
    /// What was found lost, and the ids that are acknowledged with it.
    pub(super) gaps: Vec<Gap>,
    pub(super) gone: Vec<EntryId>,
    /// Where the group goes on when they are stored.
    pub(super) passing: Option<Passing>,
    /// After which id there may be entries under our name that nobody works on.
    look_back: Option<EntryId>,
    claim_cursor: EntryId,
    claim_at: Instant,
    /// The last look found as much as it asked for: there is more, for which nobody needs to wait.
    pub(super) has_more: bool,
    chunk: usize,
    largest: usize,
}

impl Reader {
    pub(super) fn new(
        consumer: Consumer,
        in_work: Arc<InWork>,
        progress: Arc<Progress>,
        hold: Arc<Hold>,
    ) -> Self {
        Self {
            consumer,
            in_work,
            progress,
            watch: Watch::default(),
            watch_before: Watch::default(),
            hold,
            held: VecDeque::new(),
            gaps: Vec::new(),
            gone: Vec::new(),
            passing: None,
            // An earlier session of this process may have left something.
            look_back: Some(EntryId::ZERO),
            claim_cursor: EntryId::ZERO,
            claim_at: Instant::now(),
            has_more: false,
            chunk: CHUNK_FIRST,
            largest: 0,
        }
    }

    /// There are entries under our name that nobody works on.
    pub(super) fn look_back(&mut self) {
        self.look_back = Some(EntryId::ZERO);
    }

    /// Looks once for entries, and waits for new ones for at most `wait`.
    ///
    /// # Cancel safety
    ///
    /// What Redis delivers to nobody is found by the next call.
    pub(super) async fn fill(
        &mut self,
        limits: &BatchLimits,
        wait: Duration,
    ) -> Result<(), QueueError> {
        let count = limits.count.saturating_sub(self.held.len()).clamp(1, self.chunk);
        if let Some(after) = self.look_back {
            return self.read_own(after, count, limits).await;
        }
        if Instant::now() >= self.claim_at {
            return self.claim(count, limits).await;
        }
        match self.hold.look() {
            Stand::Settled => {}
            Stand::Told => {
                self.has_more = false;
                self.hold.wait(wait.min(BLOCK_MAX)).await;
                return Ok(());
            }
            Stand::GivenBack => self.watch = std::mem::take(&mut self.watch_before),
        }
        // Until the answer is here, Redis knows more than we do.
        self.look_back = Some(EntryId::ZERO);
        let is_drained = self.read_new(count, limits).await?;
        let wait = wait.min(BLOCK_MAX).min(self.claim_at.saturating_duration_since(Instant::now()));
        if is_drained && !wait.is_zero() {
            self.wait_for_new(count, wait, limits).await?;
        }
        self.look_back = None;
        Ok(())
    }

    async fn read_own(
        &mut self,
        after: EntryId,
        count: usize,
        limits: &BatchLimits,
    ) -> Result<(), QueueError> {
        let command = self.read_command(count, None, &after.to_string());
        let answer = self.consumer.link.call(&command, "read its own pending entries").await?;
        let found = self.entries(answer)?;
        self.look_back = match found.last() {
            Some((last, _)) if found.len() == count => Some(*last),
            _ => None,
        };
        self.has_more = found.len() == count;
        self.take(found, limits);
        Ok(())
    }

    /// Takes over what was pending for long. Whoever is alive shows it for what it has.
    async fn claim(&mut self, count: usize, limits: &BatchLimits) -> Result<(), QueueError> {
        self.look_back = Some(EntryId::ZERO);
        let place = &self.consumer.place;
        let from = match self.claim_cursor {
            EntryId::ZERO => "-".to_owned(),
            after => format!("({after}"),
        };
        let mut command = cmd("EVAL");
        command.arg(CLAIM).arg(1).arg(place.stream.as_ref()).arg(&place.group);
        command
            .arg(&self.consumer.name)
            .arg(millis(self.consumer.retry_after))
            .arg(from)
            .arg(count);
        let answer = self.consumer.link.call(&command, "take over pending entries").await?;
        let claimed = reply::claimed(answer).ok_or_else(|| self.consumer.link.strange("EVAL"))?;
        for id in claimed.deleted {
            self.lose(id);
        }
        self.claim_cursor = claimed.cursor;
        self.has_more = claimed.entries.len() == count;
        self.take(claimed.entries, limits);
        self.look_back = None;
        if self.claim_cursor == EntryId::ZERO {
            let (least, most) = CLAIM_EVERY;
            self.claim_at = Instant::now() + (self.consumer.retry_after / 2).clamp(least, most);
            self.consumer.remove_dead().await;
        }
        Ok(())
    }

    /// Reads what is there, and looks whether something is missing. Answers whether nothing was there.
    async fn read_new(&mut self, count: usize, limits: &BatchLimits) -> Result<bool, QueueError> {
        let Consumer { link, place, name, .. } = self.consumer.clone();
        let known = self.watch.deleted().map_or_else(String::new, |id| id.to_string());
        let mut read = cmd("EVAL");
        read.arg(READ.as_str()).arg(1).arg(place.stream.as_ref());
        read.arg(&place.group).arg(name).arg(count).arg(known);
        let answer = link.call(&read, "read the stream").await?;
        let reading = reply::reading(answer, &place.group).ok_or_else(|| link.strange("EVAL"))?;
        let Reading { stream, group, entries, is_put_back } = reading;
        let ids: Vec<EntryId> = entries.iter().map(|(id, _)| *id).collect();
        if ids.is_empty() && self.in_work.is_empty() {
            self.progress.advance(group.delivered);
        }
        let before = self.watch.clone();
        let loss = self.watch.look(&stream, &group);
        self.has_more = ids.len() == count;
        self.take(entries, limits);
        let passing = is_put_back.then(|| Passing::new(&stream, loss.as_ref(), &ids));
        match (loss, passing) {
            (Some(loss), passing) => {
                self.gaps.push(loss.into_gap());
                if passing.is_some() {
                    (self.passing, self.watch_before) = (passing, before);
                    self.has_more = false;
                    self.hold.set(Stand::Told);
                }
            }
            // It was told before.
            (None, Some(passing)) => group::pass(&link, &place, &passing).await?,
            (None, None) => {}
        }
        Ok(ids.is_empty() && self.gaps.is_empty())
    }

    async fn wait_for_new(
        &mut self,
        count: usize,
        wait: Duration,
        limits: &BatchLimits,
    ) -> Result<(), QueueError> {
        let command = self.read_command(count, Some(wait), ">");
        let answer = self.consumer.link.call_waiting(&command, "wait for entries", wait).await?;
        let found = self.entries(answer)?;
        self.take(found, limits);
        Ok(())
    }

    fn read_command(&self, count: usize, block: Option<Duration>, after: &str) -> Cmd {
        let place = &self.consumer.place;
        let mut command = cmd("XREADGROUP");
        command.arg("GROUP").arg(&place.group).arg(&self.consumer.name).arg("COUNT").arg(count);
        if let Some(block) = block {
            // Zero would be for ever.
            command.arg("BLOCK").arg(millis(block).max(1));
        }
        command.arg("STREAMS").arg(place.stream.as_ref()).arg(after);
        command
    }

    fn entries(&self, answer: redis::Value) -> Result<Vec<Found>, QueueError> {
        reply::read_entries(answer).ok_or_else(|| self.consumer.link.strange("XREADGROUP"))
    }

    /// Reports what was trimmed or deleted while it was pending, once. It is acknowledged when the report is stored.
    fn lose(&mut self, id: EntryId) {
        if self.in_work.begin(id) {
            self.gaps.push(deleted_while_pending(id));
            self.gone.push(id);
        }
    }

    /// Keeps what is not in work already, and learns how large entries are.
    fn take(&mut self, found: Vec<Found>, limits: &BatchLimits) {
        if found.is_empty() {
            return;
        }
        let mut largest = self.largest / 2;
        for (id, entry) in found {
            let Some(entry) = entry else {
                self.lose(id);
                continue;
            };
            if self.in_work.begin(id) {
                let message = entry.into_message(&self.consumer.place.stream);
                largest = largest.max(message.body.len());
                self.held.push_back((id, message));
            }
        }
        self.largest = largest;
        let fitting = limits.bytes / largest.max(1);
        self.chunk = fitting.clamp(1, (self.chunk * 2).min(CHUNK_MAX));
    }
}
