//! A term: a subscription is held, and what is read for it is given to the handlers.

mod reading;

use std::collections::HashSet;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::attempt::{Attempt, Outcome};
use super::lanes::{Lanes, Reason, Task, Then};
use super::worker::{HandlerWorker, PassReport};
use crate::store::consumed_message::Consumer;
use crate::store::subscription::{self, Held};
use crate::store::{StoreError, message};

/// How often the log is looked at when nothing was new.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often marks that are older than needed are looked for, and how many are removed then.
const FORGET_EVERY: Duration = Duration::from_mins(10);
const FORGET_AT_ONCE: i64 = 10_000;

/// When the work ends by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Never.
    Stopped,
    /// When nothing is left to do now.
    CaughtUp,
}

/// The time between taking the subscription and giving it back.
pub(super) struct Term<'a> {
    worker: &'a HandlerWorker,
    held: Held,
    lanes: Lanes,
    /// As it was last written.
    checkpoint: i64,
    /// Somebody else has the subscription.
    pub(super) is_lost: bool,
    jobs: JoinSet<(Task, Result<Outcome, StoreError>)>,
    report: &'a mut PassReport,
    /// Event types without a handler that were told of.
    unknown_types: &'a mut HashSet<String>,
}

impl<'a> Term<'a> {
    pub(super) fn new(
        worker: &'a HandlerWorker,
        held: Held,
        report: &'a mut PassReport,
        unknown_types: &'a mut HashSet<String>,
    ) -> Self {
        Self {
            worker,
            held,
            lanes: Lanes::at(held.position),
            checkpoint: held.position,
            is_lost: false,
            jobs: JoinSet::new(),
            report,
            unknown_types,
        }
    }

    /// The loop. In the order of priority: stop; an event is done with; the lease; the log.
    pub(super) async fn run(
        &mut self,
        stop: &CancellationToken,
        until: Until,
    ) -> Result<(), StoreError> {
        let mut heartbeat = interval(self.worker.lease_ttl() / 3);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look_at = Instant::now();
        let mut forget_at = look_at;
        let mut trouble = None;
        let mut is_caught_up = false;
        loop {
            let is_ending = stop.is_cancelled() || self.is_lost || trouble.is_some();
            if !is_ending {
                self.start_jobs();
            }
            let is_done = is_caught_up && self.lanes.is_empty() && until == Until::CaughtUp;
            if self.jobs.is_empty() && (is_ending || is_done) {
                break;
            }
            let step = tokio::select! {
                biased;
                () = stop.cancelled(), if !is_ending => Ok(()),
                Some(done) = self.jobs.join_next() => {
                    is_caught_up = false;
                    self.finish_job(done).await
                }
                _ = heartbeat.tick() => self.keep().await,
                () = sleep_until(look_at), if !is_ending && !self.lanes.is_full() => {
                    let looked = self.look().await;
                    is_caught_up = matches!(looked, Ok(false));
                    let pause = if is_caught_up { LOOK_EVERY } else { Duration::ZERO };
                    look_at = Instant::now() + pause;
                    if is_caught_up && self.lanes.is_empty() && forget_at <= look_at {
                        forget_at = look_at + FORGET_EVERY;
                        self.forget().await
                    } else {
                        looked.map(|_| ())
                    }
                }
            };
            if let Err(error) = step {
                // What is in work may still be committed; only then the term ends.
                trouble.get_or_insert(error);
            }
        }
        self.save_checkpoint().await?;
        trouble.map_or(Ok(()), Err)
    }

    fn start_jobs(&mut self) {
        let connections = self.worker.pool.options().get_max_connections();
        let at_once = self.worker.concurrency.min(connections.saturating_sub(1)).max(1) as usize;
        while self.jobs.len() < at_once
            && let Some(task) = self.lanes.start()
        {
            let worker = self.worker.clone();
            let epoch = self.held.epoch;
            self.jobs.spawn(async move {
                let attempt = Attempt {
                    pool: &worker.pool,
                    registry: &worker.registry,
                    consumer: Consumer { name: &worker.name, epoch },
                    max_attempts: worker.max_attempts,
                    backoff: worker.backoff,
                    timeout: worker.timeout,
                };
                let outcome = attempt.run(&task).await;
                (task, outcome)
            });
        }
    }

    async fn finish_job(
        &mut self,
        done: Result<(Task, Result<Outcome, StoreError>), JoinError>,
    ) -> Result<(), StoreError> {
        let (task, outcome) = match done {
            Ok((task, outcome)) => (task, outcome?),
            // The handler's panics are caught; this one is ours. The event stays unfinished.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        self.report.count(outcome);
        tracing::debug!(
            subscription = self.worker.name,
            stream = task.head.stream,
            version = task.head.version,
            ?outcome,
            "event is done with"
        );
        match outcome {
            Outcome::Lost => self.is_lost = true,
            Outcome::Failed | Outcome::Collided if task.reason != Reason::Replay => {
                self.lanes.wait(&task);
            }
            _ => {
                if let Then::ReadMore(after) = self.lanes.finish(&task) {
                    self.read_more(&task.head.stream, after).await?;
                }
            }
        }
        Ok(())
    }

    /// The heartbeat.
    async fn keep(&mut self) -> Result<(), StoreError> {
        let (name, ttl) = (&self.worker.name, self.worker.lease_ttl());
        if !subscription::renew(&self.worker.pool, name, self.held.epoch, ttl).await? {
            self.is_lost = true;
        }
        Ok(())
    }

    async fn save_checkpoint(&mut self) -> Result<(), StoreError> {
        let position = self.lanes.checkpoint();
        if position <= self.checkpoint || self.is_lost {
            return Ok(());
        }
        let (pool, name) = (&self.worker.pool, &self.worker.name);
        if subscription::advance(pool, name, self.held.epoch, position).await? {
            self.checkpoint = position;
        } else {
            self.is_lost = true;
        }
        Ok(())
    }

    /// Removes old marks. Only when everything is done with: what is above the checkpoint needs its mark, however old.
    async fn forget(&mut self) -> Result<(), StoreError> {
        self.save_checkpoint().await?;
        let consumer = Consumer { name: &self.worker.name, epoch: self.held.epoch };
        let retention = self.worker.dedup_retention;
        let forgotten_count = message::forget_consumed(
            &self.worker.pool,
            &consumer.ledger_name(),
            retention,
            FORGET_AT_ONCE,
        )
        .await?;
        tracing::debug!(subscription = self.worker.name, forgotten_count, "forgot old marks");
        Ok(())
    }
}
