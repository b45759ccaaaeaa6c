//! What queue sources deliver, on its way into `event_inbox` and `dead_letter`.

use std::time::Duration;

use bytes::Bytes;
use sqlx::{PgExecutor, Row};

use super::{StoreError, failed_to};
use crate::event::JsonText;
use crate::mapping::message::Decoded;
use crate::source::queue::Gap;

/// A message that can be stored.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// Its version in the stream; `None`: the next one.
    pub version: Option<i64>,
    /// What it says.
    pub decoded: Decoded,
    /// Tells it from another one with its message id.
    pub body_hash: [u8; 16],
}

/// A message that becomes a dead letter.
#[derive(Clone, Debug)]
pub struct RefusedMessage {
    /// What it is called at the broker.
    pub reference: String,
    /// Verbatim.
    pub body: Bytes,
    /// Why.
    pub reason: String,
    /// What a replay needs besides the body: a JSON object that `jsonb` can hold.
    pub detail: serde_json::Value,
}

/// What was delivered for one stream.
#[derive(Debug)]
pub struct MessageRows<'a> {
    /// The queue source; message ids are unique in it.
    pub source_name: &'a str,
    /// The stream, which is that of the source or one of its partitions.
    pub stream: &'a str,
    /// For the inbox, in order of arrival.
    pub messages: &'a [NewMessage],
    /// For the dead letters.
    pub refused: &'a [RefusedMessage],
    /// Versions the broker no longer has.
    pub gaps: &'a [Gap],
    /// The greatest version of all that was delivered; `None`: the versions are given here.
    pub max_version: Option<i64>,
}

/// How a deposit was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deposited {
    /// In the inbox, or known already.
    Stored {
        /// Rows that went to the inbox.
        stored_count: i32,
        /// Messages that came before with an equal body.
        duplicate_count: i32,
        /// Messages that came before with another body: their places (from 0), and what they meet. Not stored anywhere yet.
        conflicts: Vec<(usize, String)>,
    },
    /// The stream belongs to an application or to another source.
    StreamTaken,
    /// The source is not registered.
    Missing,
}

/// Stores messages in one round trip and one transaction. Safe to repeat: who was stored is a duplicate then.
pub async fn deposit(
    executor: impl PgExecutor<'_>,
    rows: &MessageRows<'_>,
) -> Result<Deposited, StoreError> {
    let (messages, refused, gaps) = (rows.messages, rows.refused, rows.gaps);
    let row = sqlx::query(
        "select * from eventloader.deposit_messages($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
    )
    .bind(rows.source_name)
    .bind(rows.stream)
    .bind(messages.iter().map(|m| m.version).collect::<Vec<_>>())
    .bind(messages.iter().map(|m| m.decoded.event_type.as_str()).collect::<Vec<_>>())
    .bind(messages.iter().map(|m| m.decoded.payload.as_str()).collect::<Vec<_>>())
    .bind(
        messages
            .iter()
            .map(|m| m.decoded.metadata.as_ref().map(JsonText::as_str))
            .collect::<Vec<_>>(),
    )
    .bind(messages.iter().map(|m| m.decoded.message_id).collect::<Vec<_>>())
    .bind(messages.iter().map(|m| m.decoded.occurred_at).collect::<Vec<_>>())
    .bind(messages.iter().map(|m| m.body_hash.as_slice()).collect::<Vec<_>>())
    .bind(rows.max_version)
    .bind(refused.iter().map(|r| r.reference.as_str()).collect::<Vec<_>>())
    .bind(refused.iter().map(|r| r.body.as_ref()).collect::<Vec<&[u8]>>())
    .bind(refused.iter().map(|r| r.reason.as_str()).collect::<Vec<_>>())
    .bind(refused.iter().map(|r| r.detail.to_string()).collect::<Vec<_>>())
    .bind(gaps.iter().map(|g| g.first_id).collect::<Vec<_>>())
    .bind(gaps.iter().map(|g| g.last_id).collect::<Vec<_>>())
    .bind(gaps.iter().map(|g| g.reason.as_str()).collect::<Vec<_>>())
    .fetch_one(executor)
    .await
    .map_err(failed_to("deposit messages"))?;
    read_answer(&row).map_err(failed_to("read the answer to a deposit of messages"))
}

fn read_answer(row: &sqlx::postgres::PgRow) -> Result<Deposited, sqlx::Error> {
    match row.try_get::<&str, _>("outcome")? {
        "taken" => return Ok(Deposited::StreamTaken),
        "missing" => return Ok(Deposited::Missing),
        _ => {}
    }
    let places: Option<Vec<i32>> = row.try_get("conflict_places")?;
    let reasons: Option<Vec<String>> = row.try_get("conflict_reasons")?;
    let places =
        places.unwrap_or_default().into_iter().map(|place| place.cast_unsigned() as usize - 1);
    Ok(Deposited::Stored {
        stored_count: row.try_get("stored_count")?,
        duplicate_count: row.try_get("duplicate_count")?,
        conflicts: places.zip(reasons.unwrap_or_default()).collect(),
    })
}

/// Keeps messages that came before with another body.
pub async fn keep_conflicts(
    executor: impl PgExecutor<'_>,
    stream: &str,
    refused: &[RefusedMessage],
) -> Result<(), StoreError> {
    sqlx::query("select eventloader.keep_messages('conflict', $1, $2, $3, $4, $5)")
        .bind(stream)
        .bind(refused.iter().map(|r| r.reference.as_str()).collect::<Vec<_>>())
        .bind(refused.iter().map(|r| r.body.as_ref()).collect::<Vec<&[u8]>>())
        .bind(refused.iter().map(|r| r.reason.as_str()).collect::<Vec<_>>())
        .bind(refused.iter().map(|r| r.detail.to_string()).collect::<Vec<_>>())
        .execute(executor)
        .await
        .map_err(failed_to("keep conflicting messages"))?;
    Ok(())
}

/// Forgets up to `limit` message ids that a consumer met longer ago than `retention`. Answers how many.
pub async fn forget_consumed(
    executor: impl PgExecutor<'_>,
    consumer: &str,
    retention: Duration,
    limit: i64,
) -> Result<u64, StoreError> {
    let result = sqlx::query(
        "delete from eventloader.consumed_message
         where ctid = any (array(
             select c.ctid from eventloader.consumed_message c
             where c.consumer = $1 and c.consumed_at < clock_timestamp() - $2::interval
             limit $3
             for update skip locked))",
    )
    .bind(consumer)
    .bind(super::interval(retention))
    .bind(limit)
    .execute(executor)
    .await
    .map_err(failed_to("forget consumed messages"))?;
    Ok(result.rows_affected())
}
