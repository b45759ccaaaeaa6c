//! Giving dead letters back: an event returns to the inbox, under its own id, and takes the usual way from there. A message
//! is judged again, as its source is configured now, and deposited as if it had just been delivered. An event that is in the
//! log already returns to the handler that refused it.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::config::{SourceConfig, SourceKind};
use crate::consumer::{self, StreamBatch};
use crate::event::Item;
use crate::mapping::message::MessageMapping;
use crate::mapping::{Mapping, Pointer};
use crate::store::dead_letter::{self, DeadLetter, ReplayedEvent};
use crate::store::message::{self, Deposited};
use crate::store::{Actor, Remedy, StoreError, failed_to, subscription_replay};
use crate::telemetry::chain;

/// What is written beside the body of an event.
#[derive(Debug, Deserialize)]
struct Detail {
    event_id: Option<i64>,
    event_type: Option<String>,
    message_id: Option<Uuid>,
    occurred_at: Option<DateTime<Utc>>,
    request_id: Option<i64>,
    /// From the body to the payload. None: the body is the payload, as the inbox held it.
    payload_at: Option<String>,
}

/// What came of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The event is in the inbox again, or waits for its handler.
    Replayed,
    /// It was replayed or discarded before, or somebody is at it.
    Gone,
    /// It cannot be replayed as it is.
    Refused(String),
}

/// How the source of a dead letter is configured.
#[derive(Clone, Debug)]
pub enum Judge {
    /// A source of events that are JSON; the size an event may have, in bytes.
    Events(usize),
    /// A queue source.
    Messages(Box<MessageMapping>),
}

/// The size of an event where no source of the name is configured.
const DEFAULT_MAX_EVENT_BYTES: usize = 1 << 20;

impl Judge {
    /// How the source of a dead letter is configured now; the letter of a partition names its source.
    pub fn of(sources: &[SourceConfig], letter: &DeadLetter) -> Self {
        let named = letter.detail.get("source_name").and_then(|name| name.as_str());
        let source_name = named.unwrap_or(&letter.origin);
        let source = sources.iter().find(|source| source.name.as_str() == source_name);
        source.map_or(Self::Events(DEFAULT_MAX_EVENT_BYTES), |source| match &source.kind {
            SourceKind::Http(http) => Self::Events(http.mapping.max_event_bytes),
            SourceKind::File(file) => Self::Events(file.mapping.max_event_bytes),
            SourceKind::Command(command) => Self::Events(command.mapping.max_event_bytes),
            SourceKind::Sql(sql) => Self::Events(sql.mapping.max_event_bytes),
            SourceKind::RabbitMqStream(stream) => Self::Events(stream.mapping.max_event_bytes),
            #[cfg(feature = "kafka")]
            SourceKind::Kafka(kafka) => Self::Messages(Box::new(kafka.settings.mapping.clone())),
            SourceKind::RedisStream(stream) => {
                Self::Messages(Box::new(stream.settings.mapping.clone()))
            }
            SourceKind::Amqp(amqp) => Self::Messages(Box::new(amqp.settings.mapping.clone())),
        })
    }
}

/// Replays one dead letter.
///
/// # Errors
///
/// The database does not answer.
pub async fn replay(
    pool: &PgPool,
    id: i64,
    actor: &Actor,
    judge: &Judge,
) -> Result<Replay, StoreError> {
    let mut transaction = pool.begin().await.map_err(failed_to("begin a replay"))?;
    let outcome = replay_locked(&mut transaction, id, actor, judge).await?;
    if outcome == Replay::Replayed {
        transaction.commit().await.map_err(failed_to("commit a replay"))?;
    } else {
        // Waited for: a retry worker that meets the locks would take the source for one that is in work.
        transaction.rollback().await.map_err(failed_to("give up a replay"))?;
    }
    Ok(outcome)
}

async fn replay_locked(
    connection: &mut PgConnection,
    id: i64,
    actor: &Actor,
    judge: &Judge,
) -> Result<Replay, StoreError> {
    let Some(letter) = dead_letter::lock(connection, id).await? else {
        return Ok(Replay::Gone);
    };
    if let Some(handled) = handled_event(&letter) {
        return replay_to_handler(connection, id, &handled, actor).await;
    }
    let body = dead_letter::body(&mut *connection, id).await?.unwrap_or_default();
    let max_event_bytes = match (letter.kind.as_str(), judge) {
        ("message", Judge::Messages(mapping)) => {
            return replay_message(connection, &letter, body, mapping, actor).await;
        }
        ("message", Judge::Events(_)) => {
            let reason =
                "its source is not in the configuration, which says how its messages are read";
            return Ok(Replay::Refused(reason.to_owned()));
        }
        (_, Judge::Events(bytes)) => *bytes,
        // It was read already, and within the limit, when it failed to move.
        (_, Judge::Messages(_)) => usize::MAX,
    };
    let (detail, payload) = match prepare(&letter, &Bytes::from(body), max_event_bytes) {
        Ok(prepared) => prepared,
        Err(reason) => return Ok(Replay::Refused(reason)),
    };
    let event = ReplayedEvent {
        source_name: &letter.origin,
        event_id: detail.event_id.unwrap_or_default(),
        event_type: detail.event_type.as_deref().unwrap_or(&letter.origin),
        payload: &payload,
        message_id: detail.message_id,
        occurred_at: detail.occurred_at,
        request_id: detail.request_id,
    };
    match dead_letter::replay_event(connection, id, &event, actor).await {
        Ok(()) => Ok(Replay::Replayed),
        Err(error) if error.remedy() == Remedy::SetRowAside => Ok(Replay::Refused(chain(&error))),
        Err(error) => Err(error),
    }
}

/// What is written beside an event of the log that its handler refused.
#[derive(Debug, Deserialize)]
struct HandledEvent {
    subscription: String,
    position: i64,
}

/// The event of a dead letter that is in the log already, and comes back to its handler.
fn handled_event(letter: &DeadLetter) -> Option<HandledEvent> {
    (letter.kind == "message").then(|| serde_json::from_value(letter.detail.clone()).ok()).flatten()
}

/// The program with the handler takes it up at its next look; no handler runs here.
async fn replay_to_handler(
    connection: &mut PgConnection,
    id: i64,
    event: &HandledEvent,
    actor: &Actor,
) -> Result<Replay, StoreError> {
    let HandledEvent { subscription, position } = event;
    let is_known =
        subscription_replay::request(connection, id, subscription, *position, actor).await?;
    Ok(if is_known {
        Replay::Replayed
    } else {
        Replay::Refused(format!(
            "there is no subscription {subscription}, or position {position} is no longer in the event log"
        ))
    })
}

/// Judges a message again and deposits it.
async fn replay_message(
    connection: &mut PgConnection,
    letter: &DeadLetter,
    body: Vec<u8>,
    mapping: &MessageMapping,
    actor: &Actor,
) -> Result<Replay, StoreError> {
    let read = consumer::message_of(&letter.origin, &letter.reference, &letter.detail, body);
    let (source_name, message) = match read {
        Ok(read) => read,
        Err(reason) => return Ok(Replay::Refused(reason)),
    };
    let mut batch = StreamBatch { stream: letter.origin.clone(), ..StreamBatch::default() };
    batch.add(&source_name, mapping, message);
    if let Some(refused) = batch.refused.first() {
        return Ok(Replay::Refused(format!("it still cannot be stored: {}", refused.reason)));
    }
    let answer = match message::deposit(&mut *connection, &batch.rows(&source_name)).await {
        Ok(answer) => answer,
        Err(error) if error.remedy() == Remedy::SetRowAside => {
            return Ok(Replay::Refused(chain(&error)));
        }
        Err(error) => return Err(error),
    };
    let refusal = match answer {
        Deposited::Stored { conflicts, .. } => conflicts.into_iter().next().map(|(_, why)| why),
        Deposited::StreamTaken => Some("its stream belongs to another source now".to_owned()),
        Deposited::Missing => Some("its source is not registered".to_owned()),
    };
    if let Some(reason) = refusal {
        return Ok(Replay::Refused(reason));
    }
    dead_letter::mark_replayed(connection, letter.id, &letter.origin, actor).await?;
    Ok(Replay::Replayed)
}

/// Judges a dead letter again, without the database.
fn prepare(
    letter: &DeadLetter,
    body: &Bytes,
    max_event_bytes: usize,
) -> Result<(Detail, String), String> {
    match letter.kind.as_str() {
        "event" => {}
        "conflict" => {
            return Err("the event log holds another body under this id and is append-only: discard this one, or \
                        append a correcting event"
                .to_owned());
        }
        "page" => {
            return Err("a page is not replayed: ask its window again with `eventloader requests retry`, or skip it"
                .to_owned());
        }
        other => {
            return Err(format!("dead letters of kind {other} cannot be replayed by this version"));
        }
    }
    let detail: Detail = serde_json::from_value(letter.detail.clone())
        .map_err(|error| format!("its detail cannot be read: {error}"))?;
    let Some(event_id) = detail.event_id else {
        return Err("it has no id, so it has no place in its stream".to_owned());
    };
    let mapping = match &detail.payload_at {
        Some(pointer) => {
            let payload: Pointer = pointer
                .parse()
                .map_err(|error| format!("its payload pointer is wrong: {error}"))?;
            Mapping { payload, max_event_bytes, ..Mapping::default() }
        }
        // It was within the limit when it arrived; printed by PostgreSQL it may be longer.
        None => Mapping { max_event_bytes: usize::MAX, ..Mapping::default() },
    };
    match mapping.item_with_id(body, event_id) {
        Item::Good(event) => Ok((detail, event.payload.as_str().to_owned())),
        Item::Bad(bad) => Err(format!("it still cannot be stored: {}", bad.reason)),
    }
}
