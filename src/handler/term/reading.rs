//! What a term reads into its lanes: the log, streams that waited, and dead letters that were given back.

use std::collections::HashSet;

use super::Term;
use crate::handler::lanes::{Reason, Task, Then};
use crate::store::event_log::{self, EventHead};
use crate::store::{StoreError, subscription_replay, subscription_retry};

/// Events read at once, without their bodies.
const PAGE: i64 = 500;

/// Streams that waited, and replayed events, taken up at once.
const DUE_AT_ONCE: i64 = 50;

/// Events of one stream that waited, read at once.
const STREAM_PAGE: i64 = 100;

/// Event types without a handler that are told apart in the log.
const UNKNOWN_TYPES_MAX: usize = 1000;

impl Term<'_> {
    /// Looks for work; answers whether there may be more.
    pub(super) async fn look(&mut self) -> Result<bool, StoreError> {
        self.save_checkpoint().await?;
        let is_more = self.read_log().await?;
        let is_due = self.take_up_streams().await? | self.take_up_replays().await?;
        Ok(is_more || is_due)
    }

    /// Reads on in the log. Streams that wait are passed over: the checkpoint may go past them, they catch up later.
    async fn read_log(&mut self) -> Result<bool, StoreError> {
        let pool = &self.worker.pool;
        let watermark = event_log::watermark(pool).await?;
        let after = self.lanes.read_to();
        if watermark <= after {
            return Ok(false);
        }
        let heads = event_log::read_heads(pool, after, watermark, PAGE).await?;
        let streams: HashSet<&str> = heads.iter().map(|head| head.stream.as_str()).collect();
        let streams: Vec<&str> = streams.into_iter().collect();
        let waiting = subscription_retry::waiting_among(pool, &self.worker.name, &streams).await?;
        let waiting: HashSet<String> = waiting.into_iter().collect();
        let read_count = heads.len();
        for head in heads {
            self.lanes.set_read_to(head.position);
            if !waiting.contains(&head.stream) && self.is_known(&head) {
                self.lanes.push(Task { head, attempts: 0, reason: Reason::Next });
            }
        }
        tracing::debug!(
            subscription = self.worker.name,
            event_count = read_count,
            read_to = self.lanes.read_to(),
            watermark,
            "read the event log"
        );
        let is_more = i64::try_from(read_count).unwrap_or(PAGE) == PAGE;
        if !is_more {
            self.lanes.set_read_to(watermark);
        }
        Ok(is_more)
    }

    /// Takes up streams whose time has come.
    async fn take_up_streams(&mut self) -> Result<bool, StoreError> {
        let (pool, name) = (&self.worker.pool, &self.worker.name);
        let (read_to, busy) = (self.lanes.read_to(), self.lanes.streams());
        let due = subscription_retry::due(pool, name, read_to, &busy, DUE_AT_ONCE).await?;
        for waiting in &due {
            let (stream, attempts) = (&waiting.stream, waiting.attempts.cast_unsigned());
            // The event itself; those before it in the stream are done with.
            let before = waiting.position - 1;
            let up_to = waiting.position;
            let found = event_log::read_stream_heads(pool, stream, before, up_to, 1).await?;
            let known = found.into_iter().filter(|head| self.is_known(head));
            let tasks =
                known.map(|head| Task { head, attempts, reason: Reason::CatchUp }).collect();
            if let Then::ReadMore(after) = self.lanes.catch_up(stream, tasks, up_to) {
                self.read_more(stream, after).await?;
            }
        }
        Ok(!due.is_empty())
    }

    /// Reads on in a stream that waited, or lets it go on with the others when it has caught up.
    pub(super) async fn read_more(
        &mut self,
        stream: &str,
        mut after: i64,
    ) -> Result<(), StoreError> {
        let (pool, up_to) = (&self.worker.pool, self.lanes.read_to());
        loop {
            let heads =
                event_log::read_stream_heads(pool, stream, after, up_to, STREAM_PAGE).await?;
            let Some(last) = heads.last() else { break };
            after = last.position;
            let tasks: Vec<Task> = heads
                .into_iter()
                .filter(|head| self.is_known(head))
                .map(|head| Task { head, attempts: 0, reason: Reason::CatchUp })
                .collect();
            if self.lanes.catch_up(stream, tasks, after) == Then::GoOn {
                return Ok(());
            }
        }
        // Nothing was read of the log since, so nothing of the stream is passed over.
        let consumer = (self.worker.name.as_str(), self.held.epoch);
        if subscription_retry::end(pool, consumer, stream).await? {
            self.lanes.caught_up(stream);
        } else {
            self.is_lost = true;
        }
        Ok(())
    }

    /// Takes up dead letters that were given back.
    async fn take_up_replays(&mut self) -> Result<bool, StoreError> {
        let (pool, name) = (&self.worker.pool, &self.worker.name);
        let due = subscription_replay::due(pool, name, &self.lanes.replayed(), DUE_AT_ONCE).await?;
        for event in &due {
            let attempts = event.attempts.cast_unsigned();
            let task = Task { head: event.head.clone(), attempts, reason: Reason::Replay };
            self.lanes.push(task);
        }
        Ok(!due.is_empty())
    }

    /// Whether an event has a handler. Each type that has none is told of once.
    fn is_known(&mut self, head: &EventHead) -> bool {
        if self.worker.registry.find(&head.event_type).is_some() {
            return true;
        }
        self.report.unknown_count += 1;
        if self.unknown_types.len() < UNKNOWN_TYPES_MAX
            && self.unknown_types.insert(head.event_type.clone())
        {
            tracing::warn!(
                subscription = self.worker.name,
                event_type = head.event_type,
                position = head.position,
                "no handler is registered for this event type; its events are passed over"
            );
        }
        false
    }
}
