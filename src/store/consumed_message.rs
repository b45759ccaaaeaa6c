//! `consumed_message`, as handlers use it: the mark that an event was handled, written in the handler's own transaction.
//!
//! The mark comes first and is held by the open transaction: whoever wants to handle the same event waits for its end.

use std::time::Duration;

use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use super::event_log::{EventBody, EventHead};
use super::{StoreError, failed_to};

/// Who consumes, and by which right.
#[derive(Clone, Copy, Debug)]
pub struct Consumer<'a> {
    /// The subscription.
    pub name: &'a str,
    /// Under which it is held.
    pub epoch: i64,
}

impl Consumer<'_> {
    /// What it is called in the ledger. Queue sources have their names there; none has a tab in it.
    pub fn ledger_name(self) -> String {
        format!("subscription\t{}", self.name)
    }
}

/// What the attempt to mark an event found.
#[derive(Clone, Debug)]
pub enum Mark {
    /// It is marked now, by this transaction.
    Fresh(EventBody),
    /// It was consumed before, or is no longer in the log.
    Consumed,
    /// It is a dead letter that waits for somebody.
    DeadLetter,
    /// The subscription was lost.
    Lost,
}

#[derive(FromRow)]
struct Row {
    is_held: bool,
    is_dead_letter: bool,
    is_marked: bool,
    #[sqlx(flatten)]
    body: EventBody,
}

/// How the dead letters of a subscription name their event.
pub fn reference(head: &EventHead) -> String {
    format!("{}/{}", head.stream, head.version)
}

/// Marks an event as consumed and reads it, in the transaction of its handler. Waits for another transaction that has
/// marked it and is not over. The transaction may idle for `idle` while the handler is busy elsewhere.
pub async fn mark(
    transaction: &mut PgConnection,
    consumer: Consumer<'_>,
    head: &EventHead,
    message_id: Uuid,
    idle: Duration,
) -> Result<Mark, StoreError> {
    let idle_ms = idle.as_millis().min(i32::MAX.unsigned_abs().into());
    let row: Option<Row> = sqlx::query_as(
        "with fence as (
             select from eventloader.subscription s where s.name = $1 and s.epoch = $2
         ), letter as (
             select from eventloader.dead_letter d
             where d.origin = $1 and d.kind = 'message' and d.reference = $3 and d.replayed_at is null
               and d.detail->>'subscription' = $1
         ), mark as (
             insert into eventloader.consumed_message (consumer, message_id)
             select $4, $5
             where exists (select from fence) and not exists (select from letter)
             on conflict (consumer, message_id) do nothing
             returning message_id
         ), patience as materialized (
             select set_config('idle_in_transaction_session_timeout', $6, true) as idle
         )
         select exists (select from fence) as is_held, exists (select from letter) as is_dead_letter,
             exists (select from mark) as is_marked, p.idle,
             e.schema_version, e.payload::text as payload, e.metadata, e.tags, e.occurred_at, e.recorded_at
         from patience p, eventloader.events e
         where e.stream = $7 and e.version = $8",
    )
    .bind(consumer.name)
    .bind(consumer.epoch)
    .bind(reference(head))
    .bind(consumer.ledger_name())
    .bind(message_id)
    .bind(idle_ms.to_string())
    .bind(&head.stream)
    .bind(head.version)
    .fetch_optional(transaction)
    .await
    .map_err(failed_to("mark an event as consumed"))?;
    Ok(match row {
        Some(Row { is_held: false, .. }) => Mark::Lost,
        Some(Row { is_dead_letter: true, .. }) => Mark::DeadLetter,
        // Without a row: erased since it was read.
        None | Some(Row { is_marked: false, .. }) => Mark::Consumed,
        Some(Row { body, .. }) => Mark::Fresh(body),
    })
}

/// Whether the mark is still in the transaction, which is about to be committed; ends the replay of the event, if it was
/// one. PostgreSQL answers the commit of a transaction in which a statement failed as if it were one.
pub async fn is_marked(
    transaction: &mut PgConnection,
    consumer: Consumer<'_>,
    head: &EventHead,
    message_id: Uuid,
) -> Result<bool, StoreError> {
    sqlx::query_scalar(
        "with replay as (
             delete from eventloader.subscription_replay r where r.name = $1 and r.position = $2
         )
         select exists (
             select from eventloader.consumed_message c where c.consumer = $3 and c.message_id = $4)",
    )
    .bind(consumer.name)
    .bind(head.position)
    .bind(consumer.ledger_name())
    .bind(message_id)
    .fetch_one(transaction)
    .await
    .map_err(failed_to("finish the transaction of a handler"))
}

/// Sets an event aside that its handler refuses: a dead letter, with the payload as its body. A replay of it is
/// over. `false`: the subscription was lost.
pub async fn set_aside(
    pool: &PgPool,
    consumer: Consumer<'_>,
    head: &EventHead,
    message_id: Uuid,
    reason: &str,
    attempts: i32,
) -> Result<bool, StoreError> {
    let held: i64 = sqlx::query_scalar(
        "with fence as (
             select s.name from eventloader.subscription s where s.name = $1 and s.epoch = $2 for share
         ), letter as (
             insert into eventloader.dead_letter (kind, origin, reference, body, reason, attempts, detail)
             select 'message', f.name, $3, convert_to(e.payload::text, 'UTF8'), $4, $5,
                 jsonb_build_object('subscription', f.name, 'stream', e.stream, 'version', e.version,
                     'position', e.position, 'event_type', e.event_type, 'message_id', $6::uuid,
                     'occurred_at', e.occurred_at)
             from fence f
             join eventloader.events e on e.stream = $7 and e.version = $8
             on conflict (origin, kind, reference, sha256(body)) where replayed_at is null do nothing
         ), replay as (
             delete from eventloader.subscription_replay r using fence f where r.name = f.name and r.position = $9
         )
         select count(*) from fence",
    )
    .bind(consumer.name)
    .bind(consumer.epoch)
    .bind(reference(head))
    .bind(reason)
    .bind(attempts)
    .bind(message_id)
    .bind(&head.stream)
    .bind(head.version)
    .bind(head.position)
    .fetch_one(pool)
    .await
    .map_err(failed_to("keep a dead letter"))?;
    Ok(held == 1)
}
