//! One consumer of the group.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::cmd;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::entry::EntryId;
use super::group::{self, Passing, Progress};
use super::hold::{Hold, Stand};
use super::link::Link;
use super::pending::{Consumer, IDS_MAX, InWork};
use super::reader::Reader;
use super::{Place, RedisStreamOptions};
use crate::source::queue::{BatchLimits, Delivery, QueueError, QueueSession};

/// How long leaving may take. Who does not leave in time is found dead later.
const LEAVE: Duration = Duration::from_secs(2);
/// How long at most one look for entries waits where nothing else sets a bound.
const PATIENCE: Duration = Duration::from_mins(1);

/// One consumer of a consumer group.
pub struct RedisStreamSession {
    reader: Mutex<Reader>,
    /// For what must not wait behind the reader.
    consumer: Consumer,
    in_work: Arc<InWork>,
    hold: Arc<Hold>,
    progress: Arc<Progress>,
    has_given_back: AtomicBool,
    /// Ends with the session.
    _life: JoinSet<QueueError>,
}

/// The entries of one delivery.
#[derive(Debug)]
pub struct RedisStreamReceipt {
    ids: Vec<EntryId>,
    /// Where the group goes on behind what was lost.
    passing: Option<Passing>,
}

impl RedisStreamSession {
    pub(super) async fn open(
        options: &RedisStreamOptions,
        place: &Arc<Place>,
        progress: &Arc<Progress>,
        name: &str,
    ) -> Result<Self, QueueError> {
        let link = Link::open(options, place).await?;
        group::ensure(&link, place, options.read_from, progress).await?;
        let consumer = Consumer::new(link, place, options, name);
        let reading = Consumer::new(Link::open(options, place).await?, place, options, name);
        let (in_work, hold) = (Arc::new(InWork::default()), Arc::new(Hold::default()));
        let reader =
            Reader::new(reading, Arc::clone(&in_work), Arc::clone(progress), Arc::clone(&hold));
        let mut life = JoinSet::new();
        let (alive, kept) = (consumer.clone(), Arc::clone(&in_work));
        life.spawn(async move { alive.show_life(&kept).await });
        let has_given_back = AtomicBool::new(false);
        let reader = Mutex::new(reader);
        let progress = Arc::clone(progress);
        Ok(Self { reader, consumer, in_work, hold, progress, has_given_back, _life: life })
    }
}

impl QueueSession for RedisStreamSession {
    type Receipt = RedisStreamReceipt;

    async fn deliver(&self, limits: BatchLimits) -> Result<Delivery<Self::Receipt>, QueueError> {
        let mut reader = self.reader.lock().await;
        let mut deadline = None;
        loop {
            if self.has_given_back.swap(false, Ordering::Relaxed) {
                reader.look_back();
            }
            if reader.is_full(&limits) {
                break;
            }
            let now = Instant::now();
            if reader.has_something() {
                let deadline = *deadline.get_or_insert(now + limits.linger);
                if now >= deadline && !reader.has_more {
                    break;
                }
            }
            let wait =
                deadline.map_or(PATIENCE, |deadline| deadline.saturating_duration_since(now));
            reader.fill(&limits, wait).await?;
        }
        Ok(reader.deliver(&limits))
    }

    async fn acknowledge(&self, receipt: Self::Receipt) -> Result<(), QueueError> {
        let place = &self.consumer.place;
        if let Some(passing) = &receipt.passing {
            group::pass(&self.consumer.link, place, passing).await?;
            self.hold.set(Stand::Settled);
        }
        for ids in receipt.ids.chunks(IDS_MAX) {
            let mut command = cmd("XACK");
            command.arg(place.stream.as_ref()).arg(&place.group);
            for id in ids {
                command.arg(id.to_string());
            }
            self.consumer.link.call(&command, "acknowledge entries").await?;
            self.in_work.end(ids);
        }
        if let Some(last) = receipt.ids.iter().max() {
            self.progress.advance(*last);
        }
        Ok(())
    }

    /// They stay pending, so that others may take them over if we do not, and are delivered again here.
    async fn reject(&self, receipt: Self::Receipt) -> Result<(), QueueError> {
        self.in_work.end(&receipt.ids);
        self.has_given_back.store(true, Ordering::Relaxed);
        if receipt.passing.is_some() {
            self.hold.set(Stand::GivenBack);
        }
        Ok(())
    }

    async fn close(self) {
        let Self { reader, consumer, _life: life, .. } = self;
        drop((reader, life));
        let left = tokio::time::timeout(LEAVE, consumer.leave()).await;
        let error = match left {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "Redis is slow".to_owned(),
        };
        tracing::debug!(error, "left the consumer group without a word");
    }
}

impl Reader {
    fn has_something(&self) -> bool {
        !self.held.is_empty() || !self.gaps.is_empty()
    }

    fn is_full(&self, limits: &BatchLimits) -> bool {
        let bytes: usize = self.held.iter().map(|(_, message)| message.body.len()).sum();
        self.held.len() >= limits.count || bytes >= limits.bytes && !self.held.is_empty()
    }

    /// What is held, up to the limits. Nothing is lost on the way: there is no wait in it.
    fn deliver(&mut self, limits: &BatchLimits) -> Delivery<RedisStreamReceipt> {
        let mut ids = std::mem::take(&mut self.gone);
        let gaps = std::mem::take(&mut self.gaps);
        let passing = self.passing.take();
        let mut messages = Vec::with_capacity(self.held.len().min(limits.count));
        let mut bytes = 0;
        while messages.len() < limits.count && bytes < limits.bytes.max(1) {
            let Some((id, message)) = self.held.pop_front() else { break };
            bytes += message.body.len();
            ids.push(id);
            messages.push(message);
        }
        Delivery { messages, gaps, receipt: RedisStreamReceipt { ids, passing } }
    }
}
