//! The loop of one queue source: connect, take deliveries, deposit, acknowledge; leave when asked or paused.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Consumer;
use super::batch::{StreamBatch, sort};
use super::deposit::NotStored;
use crate::event::TraceNote;
use crate::failpoint::{self, Place};
use crate::loader::Stop;
use crate::loader::policy::{Health, queue_policy};
use crate::mutant::{self, Mutant};
use crate::source::queue::{BatchLimits, Delivery, QueueError, QueueSession, QueueSource};
use crate::store::source::{self, Permission};
use crate::store::{StoreError, message};
use crate::telemetry::{Span, chain};

/// Between two looks whether an operator paused or resumed the source.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Nets below the drivers' own deadlines.
const CONNECT_PATIENCE: Duration = Duration::from_mins(1);
const ACKNOWLEDGE_PATIENCE: Duration = Duration::from_secs(30);
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// Bodies of one batch: what one statement carries, and two batches in memory.
const BATCH_BYTES_MAX: usize = 32 << 20;
/// Between two looks for message ids that need not be remembered any longer.
const FORGET_EVERY: Duration = Duration::from_mins(10);
/// Ids forgotten by one statement.
const FORGET_AT_ONCE: i64 = 10_000;

/// One queue source as this instance consumes it.
pub(super) struct Session<'a, Q> {
    pub(super) consumer: Consumer,
    pub(super) source: &'a Q,
    pub(super) stop: Stop,
}

/// A delivery whose messages are read.
struct Received<R> {
    batches: Vec<StreamBatch>,
    receipt: R,
    span: Span,
}

/// Why a connection ended that did not fail.
enum End {
    Stopped,
    Paused,
}

impl<Q: QueueSource> Session<'_, Q> {
    /// Consumes until `stop`; connects again whenever the connection ends.
    pub(super) async fn run(&self) {
        let source_name = self.consumer.source_name.as_str();
        let mut failures = 0;
        while self.wait_for_permission().await {
            let began = Instant::now();
            match self.consume().await {
                Ok(End::Stopped) => return,
                Ok(End::Paused) => tracing::info!(source_name, "paused; the queue is left"),
                Err(error) => {
                    let (backoff, health) = queue_policy(error.class);
                    // One that worked for a while begins anew.
                    let worked = began.elapsed() > backoff.cap;
                    failures = if worked { 1 } else { failures + 1 };
                    let delay = backoff.delay(failures, rand::random());
                    tracing::warn!(
                        source_name,
                        error = %error,
                        fix = error.fix,
                        failures,
                        again_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                        "the queue cannot be consumed"
                    );
                    let reason = match &error.fix {
                        Some(fix) => format!("{error}; {fix}"),
                        None => error.to_string(),
                    };
                    self.note_health(health, Some(&reason), Some(delay)).await;
                    self.rest(delay).await;
                }
            }
        }
    }

    /// Waits until the source is neither paused nor resting. `false`: stopped.
    async fn wait_for_permission(&self) -> bool {
        let mut is_told = false;
        loop {
            if self.stop.intake.is_cancelled() {
                return false;
            }
            match self.permission().await {
                // Another instance's back-off is not ours: what refuses it may let us in.
                Ok(Some(Permission { is_paused: false, .. })) => return true,
                Ok(Some(_)) => {}
                Ok(None) => tracing::error!(
                    source_name = self.consumer.source_name,
                    "the source is not registered"
                ),
                Err(error) if is_told => {
                    tracing::debug!(error = chain(&error), "the database is still away");
                }
                Err(error) => {
                    is_told = true;
                    tracing::warn!(
                        source_name = self.consumer.source_name,
                        error = chain(&error),
                        hint = error.hint(),
                        "cannot ask the database whether the source is paused; the queue waits until it answers"
                    );
                }
            }
            let wait = tokio::time::sleep(LOOK_EVERY);
            self.stop.intake.run_until_cancelled(wait).await;
        }
    }

    /// Waits, unless somebody resumes the source or stops us.
    async fn rest(&self, delay: Duration) {
        let until = Instant::now() + delay;
        while Instant::now() < until && !self.stop.intake.is_cancelled() {
            let left = until.saturating_duration_since(Instant::now());
            let wait = tokio::time::sleep(left.min(LOOK_EVERY));
            self.stop.intake.run_until_cancelled(wait).await;
            if left > LOOK_EVERY
                && matches!(self.permission().await, Ok(Some(Permission { wait: None, .. })))
            {
                return;
            }
        }
    }

    /// One connection, from its beginning to its end.
    async fn consume(&self) -> Result<End, QueueError> {
        let consumer = self.consumer.owner.as_str();
        failpoint::hit(Place::BrokerUnconnected);
        let stored = self.partitions().await.map_err(|error| {
            let reason = chain(&error);
            QueueError::unavailable(format!("the database does not say where to go on: {reason}"))
        })?;
        let joining = self.source.connect_behind(consumer, stored.into_iter().collect());
        let connecting = timeout(CONNECT_PATIENCE, joining);
        let session = match self.stop.intake.run_until_cancelled(connecting).await {
            None => return Ok(End::Stopped),
            Some(Err(_)) => {
                let seconds = CONNECT_PATIENCE.as_secs();
                let reason = format!("the broker did not let us in within {seconds} s");
                return Err(QueueError::unavailable(reason));
            }
            Some(Ok(connected)) => connected?,
        };
        failpoint::hit(Place::BrokerConnected);
        tracing::info!(source_name = self.consumer.source_name, consumer, "the queue is consumed");
        self.note_health(Health::Ok, None, None).await;
        let outcome = self.take_turns(&session).await;
        // It ends at the broker, too, when nobody says goodbye.
        drop(timeout(CLOSE_PATIENCE, session.close()).await);
        outcome
    }

    /// Takes deliveries one after the other; while one is deposited, the next is being received and read. The call that
    /// receives is given up only at the end: what a driver does in it is finished.
    async fn take_turns(&self, session: &Q::Session) -> Result<End, QueueError> {
        let settings = &self.consumer.settings;
        let limits = BatchLimits {
            count: settings.batch_size,
            bytes: BATCH_BYTES_MAX,
            linger: settings.linger,
        };
        let mut delivering = Box::pin(self.receive(session, limits));
        let mut next = None;
        let mut look_at = Instant::now() + LOOK_EVERY;
        let mut forget_at = Instant::now();
        loop {
            if self.stop.intake.is_cancelled() {
                return Ok(End::Stopped);
            }
            if look_at <= Instant::now() {
                look_at = Instant::now() + LOOK_EVERY;
                if matches!(self.permission().await, Ok(Some(Permission { is_paused: true, .. }))) {
                    return Ok(End::Paused);
                }
            }
            if forget_at <= Instant::now() {
                forget_at = Instant::now() + self.forget().await;
            }
            let delivered = if let Some(delivered) = next.take() {
                delivered
            } else {
                tokio::select! {
                    biased;
                    () = self.stop.intake.cancelled() => continue,
                    delivered = &mut delivering => delivered,
                    () = tokio::time::sleep_until(look_at.min(forget_at)) => continue,
                }
            };
            // A session that failed is asked nothing more.
            let received = delivered?;
            delivering = Box::pin(self.receive(session, limits));
            let mut storing = pin!(self.store(session, received));
            loop {
                tokio::select! {
                    biased;
                    stored = &mut storing => match stored? {
                        Some(end) => return Ok(end),
                        None => break,
                    },
                    delivered = &mut delivering, if next.is_none() => next = Some(delivered),
                }
            }
        }
    }

    /// Takes the next delivery and reads its messages.
    async fn receive(
        &self,
        session: &Q::Session,
        limits: BatchLimits,
    ) -> Result<Received<<Q::Session as QueueSession>::Receipt>, QueueError> {
        let Delivery { mut messages, gaps, receipt } = session.deliver(limits).await?;
        failpoint::hit(Place::Delivered);
        let Consumer { source_name, settings, .. } = &self.consumer;
        let is_empty = messages.is_empty() && gaps.is_empty();
        let span = if is_empty { Span::none() } else { Span::delivery(source_name) };
        if let Some(note) = span.kept_traceparent().map(TraceNote::new) {
            for message in &mut messages {
                note.add_to_message(&mut message.metadata);
            }
        }
        let batches = sort(source_name, &settings.mapping, messages, gaps);
        Ok(Received { batches, receipt, span })
    }

    /// Deposits a delivery and acknowledges it.
    async fn store(
        &self,
        session: &Q::Session,
        received: Received<<Q::Session as QueueSession>::Receipt>,
    ) -> Result<Option<End>, QueueError> {
        let consumer = &self.consumer;
        let Received { batches, receipt, span } = received;
        if mutant::is_on(Mutant::AcknowledgeFirst) {
            session.acknowledge(receipt).await?;
            drop(consumer.deposit(batches, &self.stop.work).await);
            return Ok(None);
        }
        if !batches.is_empty() {
            failpoint::hit(Place::MessagesUnsent);
            match span.around(consumer.deposit(batches, &self.stop.work)).await {
                Ok(()) => span.set("outcome", "stored"),
                Err(NotStored::Stopped) => {
                    span.set("outcome", "stopped");
                    return Ok(Some(End::Stopped));
                }
                Err(NotStored::Rejected(error)) => {
                    span.set("outcome", "rejected");
                    span.failed(&error.to_string());
                    // The others may have a place for them.
                    drop(timeout(ACKNOWLEDGE_PATIENCE, session.reject(receipt)).await);
                    return Err(error);
                }
            }
        }
        failpoint::hit(Place::MessagesDone);
        match timeout(ACKNOWLEDGE_PATIENCE, session.acknowledge(receipt)).await {
            Ok(acknowledged) => {
                failpoint::hit(Place::Acknowledged);
                acknowledged.map(|()| None)
            }
            Err(_) => Err(QueueError::unavailable(format!(
                "the broker took no acknowledgement within {} s",
                ACKNOWLEDGE_PATIENCE.as_secs()
            ))),
        }
    }

    async fn permission(&self) -> Result<Option<Permission>, StoreError> {
        failpoint::hit(Place::PermissionUnsent);
        let mut lent = self.consumer.connections.lend().await?;
        let outcome = source::permission(&mut *lent, &self.consumer.source_name).await;
        lent.give_back(&outcome);
        outcome
    }

    async fn partitions(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let mut lent = self.consumer.connections.lend().await?;
        let outcome = source::partitions(&mut *lent, &self.consumer.source_name).await;
        lent.give_back(&outcome);
        outcome
    }

    /// For `status` only: without a database nobody can read it.
    async fn note_health(&self, health: Health, reason: Option<&str>, wait: Option<Duration>) {
        let name = self.consumer.source_name.as_str();
        let noted = async {
            let mut lent = self.consumer.connections.lend().await?;
            let outcome = source::note_health(&mut *lent, name, health, reason, wait).await;
            lent.give_back(&outcome);
            outcome
        };
        if let Err(error) = noted.await {
            tracing::debug!(source_name = name, error = chain(&error), "health is not noted");
        }
    }

    /// Forgets message ids that are older than their retention. Answers when to look again.
    async fn forget(&self) -> Duration {
        failpoint::hit(Place::ForgetUnsent);
        let consumer = &self.consumer;
        let forgotten = async {
            let mut lent = consumer.connections.lend().await?;
            let retention = consumer.settings.dedup_retention;
            let outcome = message::forget_consumed(
                &mut *lent,
                &consumer.source_name,
                retention,
                FORGET_AT_ONCE,
            )
            .await;
            lent.give_back(&outcome);
            outcome
        };
        match forgotten.await {
            // There may be more; messages come first.
            Ok(count) if count == FORGET_AT_ONCE.cast_unsigned() => LOOK_EVERY,
            Ok(_) => FORGET_EVERY,
            Err(error) => {
                let source_name = consumer.source_name.as_str();
                tracing::debug!(
                    source_name,
                    error = chain(&error),
                    "message ids are not forgotten"
                );
                FORGET_EVERY
            }
        }
    }
}
