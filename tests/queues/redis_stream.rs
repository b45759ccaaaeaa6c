//! `redis_stream` on a real Redis.

mod claim;
mod conformance;
mod fault;
mod gap;
mod read;
mod refusal;

use std::time::Duration;

use eventloader::source::queue::{BatchLimits, Delivery, QueueError, QueueSession, QueueSource};
use eventloader::sources::redis_stream::{
    ReadFrom, RedisStreamOptions, RedisStreamReceipt, RedisStreamSession, RedisStreamSource,
};
use redis::Value;
use secrecy::SecretString;

use crate::support::redis::Redis;

const LIMITS: BatchLimits =
    BatchLimits { count: 100, bytes: 32 << 20, linger: Duration::from_millis(5) };

/// A stream of one test, on the shared server.
pub(crate) struct Stream {
    redis: &'static Redis,
    options: RedisStreamOptions,
}

impl Stream {
    async fn new() -> Self {
        let redis = Redis::shared().await;
        Self { redis, options: options(redis.url()) }
    }

    fn source(&self) -> RedisStreamSource {
        RedisStreamSource::new(self.options.clone())
    }

    async fn connect(&self, consumer: &str) -> RedisStreamSession {
        self.source().connect(consumer).await.unwrap()
    }

    /// Sends a command; `{}` stands for the stream, `@` for the group.
    async fn command(&self, command: &str) -> Value {
        let (stream, group) = (self.options.stream.as_str(), self.options.group.as_str());
        let words = command.split(' ').map(|word| match word {
            "{}" => stream,
            "@" => group,
            word => word,
        });
        self.redis.command(&words.collect::<Vec<_>>()).await
    }

    /// Adds an entry of its number.
    async fn add(&self, n: u64) {
        self.add_all(n..=n).await;
    }

    async fn add_all(&self, numbers: std::ops::RangeInclusive<u64>) {
        for n in numbers {
            let body = format!("{{\"n\":{n}}}");
            self.command(&format!("XADD {{}} {n}-0 message {body}")).await;
        }
    }

    /// Entries that were delivered and not acknowledged.
    async fn pending(&self) -> i64 {
        let Value::Array(summary) = self.command("XPENDING {} @").await else { panic!() };
        let Value::Int(count) = summary[0] else { panic!() };
        count
    }

    /// The consumers of the group, by name.
    async fn consumers(&self) -> Vec<String> {
        let Value::Array(found) = self.command("XINFO CONSUMERS {} @").await else { panic!() };
        let name = |consumer| match consumer {
            Value::Array(members) => match &members[1] {
                Value::BulkString(name) => String::from_utf8(name.clone()).unwrap(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        found.into_iter().map(name).collect()
    }
}

pub(crate) fn options(url: String) -> RedisStreamOptions {
    RedisStreamOptions {
        url: SecretString::from(url),
        stream: Redis::new_stream(),
        group: "eventloader".to_owned(),
        read_from: ReadFrom::Beginning,
        retry_after: Duration::from_mins(1),
        ca_file: None,
    }
}

async fn deliver(session: &RedisStreamSession) -> Delivery<RedisStreamReceipt> {
    try_deliver(session, LIMITS).await.unwrap()
}

async fn try_deliver(
    session: &RedisStreamSession,
    limits: BatchLimits,
) -> Result<Delivery<RedisStreamReceipt>, QueueError> {
    let delivered = tokio::time::timeout(Duration::from_secs(40), session.deliver(limits)).await;
    delivered.expect("a delivery in 40 s")
}

/// Milliseconds of the entries' ids.
fn numbers(delivery: &Delivery<RedisStreamReceipt>) -> Vec<u64> {
    let number = |reference: &str| reference.split('-').next().unwrap().parse().unwrap();
    delivery.messages.iter().map(|message| number(&message.reference)).collect()
}

/// The ids of its gaps.
fn gaps(delivery: &Delivery<RedisStreamReceipt>) -> Vec<(i64, i64)> {
    delivery.gaps.iter().map(|gap| (gap.first_id, gap.last_id)).collect()
}

/// The version of the entry `ms-0`.
fn version(ms: i64) -> i64 {
    ms << 21
}

async fn acknowledge_all(
    session: &RedisStreamSession,
    delivery: Delivery<RedisStreamReceipt>,
) -> Vec<u64> {
    let numbers = numbers(&delivery);
    session.acknowledge(delivery.receipt).await.unwrap();
    numbers
}
