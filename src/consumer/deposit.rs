//! Deposits what was delivered, and does not give up: only what is stored may be acknowledged.

use sqlx::Connection;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Consumer;
use super::batch::StreamBatch;
use crate::loader::cycle_driver::report_gap;
use crate::loader::policy::STORE_BACKOFF;
use crate::metrics::EventCount;
use crate::source::queue::QueueError;
use crate::store::message::{self, Deposited};
use crate::store::{Remedy, StoreError, failed_to, inbox};
use crate::telemetry::{Span, chain};

/// Why a delivery is not stored.
#[derive(Debug)]
pub(super) enum NotStored {
    /// The process ends before the database came back.
    Stopped,
    /// It has no place in the database.
    Rejected(QueueError),
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    stored: u64,
    duplicates: u64,
    refused: u64,
    conflicts: u64,
}

impl Consumer {
    /// Stores a delivery: good messages in the inbox, the others as dead letters. Answers when all of it is committed.
    ///
    /// # Cancel safety
    ///
    /// What was stored before the future is dropped is recognised when it is delivered again.
    pub(super) async fn deposit(
        &self,
        mut batches: Vec<StreamBatch>,
        stop: &CancellationToken,
    ) -> Result<(), NotStored> {
        let mut failures = 0;
        let mut tally = Tally::default();
        loop {
            match self.try_deposit(&batches).await {
                Ok(answers) => {
                    self.settle(&batches, answers, &mut tally, stop).await?;
                    break;
                }
                Err(error) if error.remedy() == Remedy::SetRowAside => {
                    match self.set_unstorable_aside(&mut batches, &error).await {
                        Ok(0) => {
                            self.deposit_singly(&mut batches, &mut tally, stop).await?;
                            break;
                        }
                        Ok(_) => {}
                        Err(error) => self.wait_for_database(&error, &mut failures, stop).await?,
                    }
                }
                Err(error) => self.wait_for_database(&error, &mut failures, stop).await?,
            }
        }
        if failures > 0 {
            tracing::info!(source_name = self.source_name, "the database takes messages again");
        }
        self.report(&batches, tally);
        Ok(())
    }

    async fn try_deposit(&self, batches: &[StreamBatch]) -> Result<Vec<Deposited>, StoreError> {
        let mut lent = self.connections.lend().await?;
        let began = Instant::now();
        let outcome = match batches {
            [batch] => {
                let rows = batch.rows(&self.source_name);
                message::deposit(&mut *lent, &rows).await.map(|answer| vec![answer])
            }
            // One commit for all of them.
            _ => self.deposit_together(&mut lent, batches).await,
        };
        self.metrics.deposited(&self.source_name, began.elapsed());
        lent.give_back(&outcome);
        outcome
    }

    async fn deposit_together(
        &self,
        connection: &mut sqlx::PgConnection,
        batches: &[StreamBatch],
    ) -> Result<Vec<Deposited>, StoreError> {
        let mut transaction =
            connection.begin().await.map_err(failed_to("begin a deposit of messages"))?;
        let mut answers = Vec::with_capacity(batches.len());
        for batch in batches {
            match message::deposit(&mut *transaction, &batch.rows(&self.source_name)).await {
                Ok(answer) => answers.push(answer),
                Err(error) => {
                    // Before the connection is lent again.
                    transaction.rollback().await.map_err(failed_to("give up a deposit"))?;
                    return Err(error);
                }
            }
        }
        transaction.commit().await.map_err(failed_to("commit a deposit of messages"))?;
        Ok(answers)
    }

    /// Keeps what conflicts. Until that is done nothing is acknowledged: a message that comes again conflicts again.
    async fn settle(
        &self,
        batches: &[StreamBatch],
        answers: Vec<Deposited>,
        tally: &mut Tally,
        stop: &CancellationToken,
    ) -> Result<(), NotStored> {
        for (batch, answer) in batches.iter().zip(answers) {
            let (stored, duplicates, conflicts) = match answer {
                Deposited::Stored { stored_count, duplicate_count, conflicts } => {
                    (stored_count, duplicate_count, conflicts)
                }
                Deposited::StreamTaken => {
                    return Err(NotStored::Rejected(stream_taken(&batch.stream)));
                }
                Deposited::Missing => return Err(NotStored::Rejected(missing(&self.source_name))),
            };
            tally.stored += u64::from(stored.cast_unsigned());
            tally.duplicates += u64::from(duplicates.cast_unsigned());
            tally.refused += batch.refused.len() as u64;
            tally.conflicts += conflicts.len() as u64;
            let kept = batch.conflicts(&self.source_name, &conflicts);
            let mut failures = 0;
            while !kept.is_empty()
                && let Err(error) = self.keep_conflicts(&batch.stream, &kept).await
            {
                refuse_data(&error, &batch.stream)?;
                self.wait_for_database(&error, &mut failures, stop).await?;
            }
        }
        Ok(())
    }

    async fn keep_conflicts(
        &self,
        stream: &str,
        kept: &[message::RefusedMessage],
    ) -> Result<(), StoreError> {
        let mut lent = self.connections.lend().await?;
        let outcome = message::keep_conflicts(&mut *lent, stream, kept).await;
        lent.give_back(&outcome);
        outcome
    }

    /// Takes the messages out whose payload `jsonb` refuses, although the screen let them pass. Answers how many.
    async fn set_unstorable_aside(
        &self,
        batches: &mut [StreamBatch],
        cause: &StoreError,
    ) -> Result<usize, StoreError> {
        let mut count = 0;
        for batch in batches {
            let payloads: Vec<&str> =
                batch.messages.iter().map(|m| m.decoded.payload.as_str()).collect();
            let mut lent = self.connections.lend().await?;
            let outcome = inbox::unstorable(&mut *lent, &payloads).await;
            lent.give_back(&outcome);
            let found = outcome?;
            for (place, reason) in found.iter().rev() {
                batch.set_aside(&self.source_name, *place, reason);
            }
            count += found.len();
        }
        tracing::warn!(
            source_name = self.source_name,
            message_count = count,
            error = chain(cause),
            "messages cannot be stored as jsonb"
        );
        Ok(count)
    }

    /// Each message alone, when their batch is refused and nobody knows whose fault it is. Slow, and rare.
    async fn deposit_singly(
        &self,
        batches: &mut [StreamBatch],
        tally: &mut Tally,
        stop: &CancellationToken,
    ) -> Result<(), NotStored> {
        let mut failures = 0;
        for batch in batches.iter_mut() {
            let mut place = 0;
            while place < batch.messages.len() {
                let one = [batch.one(place)];
                match self.try_deposit(&one).await {
                    Ok(answers) => {
                        self.settle(&one, answers, tally, stop).await?;
                        place += 1;
                    }
                    Err(error) if error.remedy() == Remedy::SetRowAside => {
                        batch.set_aside(&self.source_name, place, &chain(&error.cause));
                    }
                    Err(error) => self.wait_for_database(&error, &mut failures, stop).await?,
                }
            }
            // What was refused, and the gaps.
            let rest = [StreamBatch {
                stream: batch.stream.clone(),
                refused: std::mem::take(&mut batch.refused),
                gaps: batch.gaps.clone(),
                ..StreamBatch::default()
            }];
            loop {
                match self.try_deposit(&rest).await {
                    Ok(answers) => break self.settle(&rest, answers, tally, stop).await?,
                    Err(error) => {
                        refuse_data(&error, &batch.stream)?;
                        self.wait_for_database(&error, &mut failures, stop).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits before the database is tried again.
    async fn wait_for_database(
        &self,
        error: &StoreError,
        failures: &mut u32,
        stop: &CancellationToken,
    ) -> Result<(), NotStored> {
        if *failures == 0 {
            tracing::warn!(
                source_name = self.source_name,
                error = chain(error),
                hint = error.hint(),
                "the database does not take messages; nothing is acknowledged until it does"
            );
        }
        *failures = failures.saturating_add(1);
        let delay = STORE_BACKOFF.delay(*failures, rand::random());
        match stop.run_until_cancelled(tokio::time::sleep(delay)).await {
            Some(()) => Ok(()),
            None => Err(NotStored::Stopped),
        }
    }

    fn report(&self, batches: &[StreamBatch], tally: Tally) {
        let source_name = self.source_name.as_str();
        self.metrics.count(source_name, EventCount::Fetched, tally.stored);
        self.metrics.count(source_name, EventCount::Refused, tally.refused + tally.conflicts);
        self.metrics.count(source_name, EventCount::Duplicate, tally.duplicates);
        let span = Span::current();
        span.count("event_count", tally.stored);
        span.count("duplicate_count", tally.duplicates);
        span.count("refused_count", tally.refused);
        span.count("conflict_count", tally.conflicts);
        for batch in batches {
            for gap in &batch.gaps {
                report_gap(&batch.stream, gap);
            }
            if !batch.messages.is_empty() {
                // A hint only: the retry worker also looks by itself.
                drop(self.deposited.try_send(batch.stream.clone()));
            }
        }
        if tally.refused > 0 {
            let message_count = tally.refused;
            tracing::warn!(source_name, message_count, "messages went to the dead letters");
        }
        if tally.conflicts > 0 {
            tracing::error!(
                source_name,
                message_count = tally.conflicts,
                "messages came with other bodies than before; see `eventloader dead-letters list --kind conflict`"
            );
        }
        tracing::debug!(
            source_name,
            stored = tally.stored,
            duplicates = tally.duplicates,
            refused = tally.refused,
            conflicts = tally.conflicts,
            "delivery deposited"
        );
    }
}

/// What breaks a rule of the data although no message is in it, such as a name that is too long, breaks it next time too.
fn refuse_data(error: &StoreError, stream: &str) -> Result<(), NotStored> {
    if error.remedy() != Remedy::SetRowAside {
        return Ok(());
    }
    let reason = format!("the database refuses what is to be kept of {stream}: {}", chain(error));
    Err(NotStored::Rejected(QueueError::rejected(reason)))
}

fn stream_taken(stream: &str) -> QueueError {
    QueueError::rejected(format!(
        "the stream {stream} belongs to an application or to another source"
    ))
    .with_fix("let only one source read it into this database")
}

fn missing(source_name: &str) -> QueueError {
    QueueError::rejected(format!("the source {source_name} is not registered in the database"))
        .with_fix("start eventloader again")
}
