//! `events` as a log: read by position, never past one that may still appear.
//!
//! First [`watermark`], then [`read_heads`], in two statements: the rows have to be read with a younger snapshot than the
//! watermark. Both are given a pool, since a caller's transaction could hold an older one.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use super::{StoreError, failed_to};

/// Which event it is, without its body.
#[derive(Clone, Debug, FromRow, PartialEq, Eq)]
pub struct EventHead {
    /// Its place in the log.
    pub position: i64,
    /// Its stream.
    pub stream: String,
    /// Its place in the stream.
    pub version: i64,
    /// Its type.
    pub event_type: String,
    /// What it is deduplicated by, where it has an id.
    pub message_id: Option<Uuid>,
}

/// What an event has besides its [`EventHead`].
#[derive(Clone, Debug, FromRow)]
pub struct EventBody {
    /// The version of the payload's schema.
    pub schema_version: i32,
    /// As PostgreSQL prints it.
    pub payload: String,
    /// Headers, keys, properties.
    pub metadata: serde_json::Value,
    /// Its tags.
    pub tags: Vec<String>,
    /// When it occurred.
    pub occurred_at: Option<DateTime<Utc>>,
    /// When it came into the log.
    pub recorded_at: DateTime<Utc>,
}

/// The position up to which the log can be read. It may fall between two calls; what was read stays read.
pub async fn watermark(pool: &PgPool) -> Result<i64, StoreError> {
    sqlx::query_scalar("select eventloader.log_watermark()")
        .fetch_one(pool)
        .await
        .map_err(failed_to("find out how far the event log can be read"))
}

/// The next events after a position, up to the watermark, in order. Fewer than `limit`: there are no more up to it.
pub async fn read_heads(
    pool: &PgPool,
    after: i64,
    watermark: i64,
    limit: i64,
) -> Result<Vec<EventHead>, StoreError> {
    sqlx::query_as(
        "select position, stream, version, event_type, message_id
         from eventloader.events
         where position > $1 and position <= $2
         order by position
         limit $3",
    )
    .bind(after)
    .bind(watermark)
    .bind(limit)
    .fetch_all(pool)
    .await
    .map_err(failed_to("read the event log"))
}

/// The same of one stream. By position and not by version: a source's events may be stored out of their order, when one
/// of them had to wait.
pub async fn read_stream_heads(
    pool: &PgPool,
    stream: &str,
    after: i64,
    up_to: i64,
    limit: i64,
) -> Result<Vec<EventHead>, StoreError> {
    sqlx::query_as(
        "select position, stream, version, event_type, message_id
         from eventloader.events
         where stream = $1 and position > $2 and position <= $3
         order by position
         limit $4",
    )
    .bind(stream)
    .bind(after)
    .bind(up_to)
    .bind(limit)
    .fetch_all(pool)
    .await
    .map_err(failed_to("read a stream of the event log"))
}
