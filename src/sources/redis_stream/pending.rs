//! What consumers have and did not acknowledge: the signs of life for our own, and the end of dead consumers.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Value, cmd};

use super::entry::EntryId;
use super::link::Link;
use super::reply;
use super::{Place, RedisStreamOptions};
use crate::source::queue::QueueError;

/// Ids in one command.
pub(super) const IDS_MAX: usize = 1000;
/// A consumer is dead when it has done nothing for this many times `retry_after`, and has nothing pending.
const DEAD_AFTER: u32 = 10;

/// Removes consumers that have nothing pending and have been idle for long enough: all but `ARGV[3]`, or only that one. A
/// script, because nothing may become pending between the look and the removal: it would be lost.
const REMOVE: &str = r"
local removed = 0
for _, found in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local consumer = {}
    for i = 1, #found, 2 do consumer[found[i]] = found[i + 1] end
    local is_meant = (consumer.name == ARGV[3]) == (ARGV[4] == 'itself')
    if is_meant and consumer.pending == 0 and consumer.idle >= tonumber(ARGV[2]) then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
        removed = removed + 1
    end
end
return removed
";

/// Sets for how long entries have been idle, but only of those that are still under the name `ARGV[2]`. A script, because
/// somebody else may take an entry over between the look and `XCLAIM`, which would take it back. What was trimmed or
/// deleted is left alone: `XCLAIM` would forget it, and nobody could report it any more.
const SET_IDLE: &str = r"
local own = {}
for i = 4, #ARGV do
    local is_own = #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2]) > 0
    if is_own and #redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i]) > 0 then own[#own + 1] = ARGV[i] end
end
if #own > 0 then
    local claim = {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0}
    for _, id in ipairs(own) do claim[#claim + 1] = id end
    for _, word in ipairs({'IDLE', ARGV[3], 'JUSTID'}) do claim[#claim + 1] = word end
    redis.call(unpack(claim))
end
return #own
";

/// The ids that this session has, from their delivery by Redis to their acknowledgement.
#[derive(Debug, Default)]
pub(super) struct InWork(Mutex<BTreeSet<EntryId>>);

impl InWork {
    fn ids(&self) -> MutexGuard<'_, BTreeSet<EntryId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers whether it was not in work already.
    pub(super) fn begin(&self, id: EntryId) -> bool {
        self.ids().insert(id)
    }

    pub(super) fn end(&self, ended: &[EntryId]) {
        let mut ids = self.ids();
        for id in ended {
            ids.remove(id);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids().is_empty()
    }

    fn only(&self, mut of: Vec<EntryId>) -> Vec<EntryId> {
        let ids = self.ids();
        of.retain(|id| ids.contains(id));
        of
    }
}

/// What one consumer has pending.
#[derive(Clone)]
pub(super) struct Consumer {
    pub(super) link: Link,
    pub(super) place: std::sync::Arc<Place>,
    pub(super) name: String,
    pub(super) retry_after: Duration,
}

impl Consumer {
    pub(super) fn new(
        link: Link,
        place: &std::sync::Arc<Place>,
        options: &RedisStreamOptions,
        name: &str,
    ) -> Self {
        let place = std::sync::Arc::clone(place);
        Self { link, place, name: name.to_owned(), retry_after: options.retry_after }
    }

    /// Tells Redis at a third of `retry_after` that what is in work is still worked on. Returns when the connection fails,
    /// which whoever works finds out by itself.
    pub(super) async fn show_life(&self, in_work: &InWork) -> QueueError {
        let mut ticks = tokio::time::interval(self.retry_after / 3);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.show_life_once(in_work).await {
                tracing::debug!(error = %error, "stopped to show life for pending entries");
                return error;
            }
        }
    }

    /// Only what this session works on, and not what else Redis has under our name.
    async fn show_life_once(&self, in_work: &InWork) -> Result<(), QueueError> {
        let mut after = None;
        while !in_work.is_empty() {
            let ids = self.pending(after).await?;
            after = ids.last().copied();
            let is_last = ids.len() < IDS_MAX;
            self.set_idle(&in_work.only(ids), Duration::ZERO).await?;
            if is_last {
                break;
            }
        }
        Ok(())
    }

    /// Lets others take over at once what this consumer has, and removes it.
    pub(super) async fn leave(&self) -> Result<(), QueueError> {
        let mut after = None;
        loop {
            let ids = self.pending(after).await?;
            self.set_idle(&ids, self.retry_after).await?;
            if ids.len() < IDS_MAX {
                break;
            }
            after = ids.last().copied();
        }
        self.remove("itself", Duration::ZERO).await.map(|_| ())
    }

    /// Removes the consumers that are dead, never one that has something pending.
    pub(super) async fn remove_dead(&self) {
        match self.remove("others", self.retry_after * DEAD_AFTER).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(
                stream = self.place.stream.as_ref(),
                group = self.place.group,
                count,
                "removed dead consumers of the group; they had nothing pending"
            ),
            // They do no harm but to the eye.
            Err(error) => tracing::debug!(error = %error, "dead consumers of the group stay"),
        }
    }

    async fn remove(&self, whom: &str, idle: Duration) -> Result<i64, QueueError> {
        let mut remove = cmd("EVAL");
        remove.arg(REMOVE).arg(1).arg(self.place.stream.as_ref());
        remove.arg(&self.place.group).arg(millis(idle)).arg(&self.name).arg(whom);
        match self.link.call(&remove, "remove dead consumers").await? {
            Value::Int(count) => Ok(count),
            _ => Err(self.link.strange("EVAL")),
        }
    }

    /// The ids above `after` that are pending under this name, at most [`IDS_MAX`].
    async fn pending(&self, after: Option<EntryId>) -> Result<Vec<EntryId>, QueueError> {
        let mut list = cmd("XPENDING");
        let start = after.map_or_else(|| "-".to_owned(), |id| format!("({id}"));
        list.arg(self.place.stream.as_ref()).arg(&self.place.group);
        list.arg(start).arg("+").arg(IDS_MAX).arg(&self.name);
        let listed = self.link.call(&list, "list pending entries").await?;
        reply::pending_ids(&listed).ok_or_else(|| self.link.strange("XPENDING"))
    }

    /// Only what is still under our name: somebody else may work on it by now.
    async fn set_idle(&self, ids: &[EntryId], idle: Duration) -> Result<(), QueueError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut set = cmd("EVAL");
        set.arg(SET_IDLE).arg(1).arg(self.place.stream.as_ref());
        set.arg(&self.place.group).arg(&self.name).arg(millis(idle));
        for id in ids {
            set.arg(id.to_string());
        }
        self.link.call(&set, "keep pending entries").await.map(|_| ())
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
