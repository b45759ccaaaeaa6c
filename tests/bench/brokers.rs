//! From each broker into `events`.

#[cfg(feature = "kafka")]
mod kafka;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use eventloader::consumer::{ConsumedSource, ConsumerSettings};
use eventloader::mapping::Pointer;
use eventloader::mapping::message::{MessageMapping, Payload, Place};
use eventloader::sources::amqp::{self, AmqpOptions, Broker};
use eventloader::sources::redis_stream::{RedisStreamOptions, RedisStreamSource};
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicQosOptions};
use lapin::{BasicProperties, Channel, Connection};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamReadOptions, StreamReadReply};
use tokio::time::{Instant, MissedTickBehavior};

use super::table::{Row, Table};
use super::{COUNT, RUNS, loader, median, message, rate, wait_for_stored};
use crate::queues::conformance::Sent;
use crate::support::consuming::Consuming;
use crate::support::database::Database;
use crate::support::rabbitmq::RabbitMq;
use crate::support::redis::Redis;

/// Messages a second while latency is measured, and for how long.
const STEADY_PER_SECOND: usize = 1000;
const STEADY: Duration = Duration::from_secs(10);

/// A broker that is measured.
trait Bench: Sized + Send + Sync + 'static {
    const BROKER: &'static str;

    /// A new queue, which is empty.
    async fn create() -> Self;

    /// As the configuration makes it of a source that sets nothing.
    fn consumed(&self) -> ConsumedSource;

    async fn publish(&self, messages: &[Sent]);

    /// Reads and acknowledges so many messages with the broker's plain client, as its documentation does it fast.
    async fn drain_plainly(&self, count: usize);
}

async fn measure<B: Bench>(loader_per_second: f64) -> Row {
    let messages: Vec<Sent> = (0..COUNT).map(message).collect();
    let (mut plain, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let fixture = B::create().await;
        progress(B::BROKER, "publishing");
        fixture.publish(&messages).await;
        progress(B::BROKER, "the plain client");
        let began = Instant::now();
        fixture.drain_plainly(COUNT).await;
        plain.push(rate(COUNT, began.elapsed()));
        drop(fixture);

        let (fixture, database) = (B::create().await, Database::migrated().await);
        fixture.publish(&messages).await;
        progress(B::BROKER, "eventloader");
        let began = Instant::now();
        let consuming = Consuming::start(&database, vec![fixture.consumed()]).await;
        wait_for_stored(&database, COUNT).await;
        ours.push(rate(COUNT, began.elapsed()));
        consuming.stop().await;
    }
    progress(B::BROKER, "latency");
    let (p50_ms, p99_ms) = latency::<B>().await;
    Row {
        broker: B::BROKER,
        plain_per_second: median(plain),
        loader_per_second,
        ours_per_second: median(ours),
        p50_ms,
        p99_ms,
    }
}

/// Publishes at a steady rate, and looks when each message can be read in `events`.
async fn latency<B: Bench>() -> (f64, f64) {
    let (fixture, database) = (Arc::new(B::create().await), Database::migrated().await);
    let consuming = Consuming::start(&database, vec![fixture.consumed()]).await;
    // Not the start: the groups of some brokers take seconds to form.
    fixture.publish(&[message(0)]).await;
    wait_for_stored(&database, 1).await;
    let count = STEADY_PER_SECOND * usize::try_from(STEADY.as_secs()).unwrap();
    let began = Instant::now();
    let seen = tokio::spawn(watch(database.pool.clone(), count));
    let mut sent_at = Vec::with_capacity(count);
    let mut tick =
        tokio::time::interval(Duration::from_secs(1) / u32::try_from(STEADY_PER_SECOND).unwrap());
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut n = 0;
    while n < count {
        tick.tick().await;
        // As many as are due by now, in one call.
        let due =
            (began.elapsed().as_micros() as usize * STEADY_PER_SECOND / 1_000_000 + 1).min(count);
        let messages: Vec<Sent> = (n..due).map(message).collect();
        sent_at.resize(due.max(n), Instant::now());
        fixture.publish(&messages).await;
        n = due.max(n);
    }
    let seen = seen.await.unwrap();
    consuming.stop().await;
    let mut waits: Vec<f64> = seen
        .into_iter()
        .map(|(n, at)| at.saturating_duration_since(sent_at[n]).as_secs_f64() * 1000.0)
        .collect();
    waits.sort_by(f64::total_cmp);
    (waits[waits.len() / 2], waits[waits.len() * 99 / 100])
}

/// Reads `events` as it grows, as a subscriber does, and answers when each message could be read.
async fn watch(pool: sqlx::PgPool, count: usize) -> Vec<(usize, Instant)> {
    let mut seen = Vec::with_capacity(count);
    // Behind the first message.
    let mut position = 1_i64;
    let deadline = Instant::now() + STEADY * 3;
    while seen.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} messages were seen", seen.len());
        let watermark: i64 = sqlx::query_scalar("select eventloader.log_watermark()")
            .fetch_one(&pool)
            .await
            .unwrap();
        let rows: Vec<(i64,)> = sqlx::query_as(
            "select (payload->>'n')::bigint from eventloader.events where position > $1 and position <= $2",
        )
        .bind(position)
        .bind(watermark)
        .fetch_all(&pool)
        .await
        .unwrap();
        let now = Instant::now();
        seen.extend(rows.into_iter().map(|(n,)| (usize::try_from(n).unwrap(), now)));
        position = watermark;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    seen
}

#[expect(clippy::print_stderr, reason = "a bench that takes minutes says where it is")]
fn progress(broker: &str, what: &str) {
    eprintln!("{broker}: {what}");
}

fn settings(event_type: &str, payload: Payload) -> ConsumerSettings {
    let usual = |key| Place::Usual(Pointer::to_key(key));
    let (event_type, message_id) = (usual(event_type), usual("message_id"));
    let mapping = MessageMapping { event_type, message_id, payload, ..MessageMapping::default() };
    ConsumerSettings { mapping, ..ConsumerSettings::default() }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; `make bench` runs it"]
async fn bench() {
    if !super::is_wanted("brokers") {
        return;
    }
    let loader_per_second = median(vec![loader().await, loader().await, loader().await]);
    let mut table = Table::begin();
    let is_wanted = |broker: &str| match std::env::var("BROKERS") {
        Ok(wanted) if !wanted.is_empty() => wanted.split(',').any(|name| name == broker),
        _ => true,
    };
    if is_wanted(Amqp::BROKER) {
        table.add(measure::<Amqp>(loader_per_second).await);
    }
    if is_wanted(RedisStream::BROKER) {
        table.add(measure::<RedisStream>(loader_per_second).await);
    }
    #[cfg(feature = "kafka")]
    if is_wanted(kafka::Kafka::BROKER) {
        table.add(measure::<kafka::Kafka>(loader_per_second).await);
    }
    if is_wanted(stream::BROKER) {
        table.add(stream::measure(loader_per_second).await);
    }
    table.print_json();
}

struct Amqp {
    rabbit: &'static RabbitMq,
    queue: String,
    publisher: (Connection, Channel),
}

impl Bench for Amqp {
    const BROKER: &'static str = "amqp";

    async fn create() -> Self {
        let rabbit = RabbitMq::shared().await;
        Self {
            rabbit,
            queue: rabbit.declare("bench", &[]).await,
            publisher: rabbit.channel().await,
        }
    }

    fn consumed(&self) -> ConsumedSource {
        let broker = Broker::parse(&self.rabbit.amqp_url()).unwrap();
        let source = amqp::Amqp::new(AmqpOptions::new(broker, &self.queue)).unwrap();
        let settings = settings("message_name", Payload::Unwrapped);
        ConsumedSource::new("bench", Arc::new(source)).with_settings(settings)
    }

    async fn publish(&self, messages: &[Sent]) {
        let published = messages.iter().map(|Sent { message_id, body }| {
            let id = message_id.unwrap_or_default().to_string();
            (body, BasicProperties::default().with_message_id(id.into()))
        });
        RabbitMq::publish_by(&self.publisher.1, &self.queue, published).await;
    }

    async fn drain_plainly(&self, count: usize) {
        let (_connection, channel) = self.rabbit.channel().await;
        channel.basic_qos(1000, BasicQosOptions::default()).await.unwrap();
        let queue = self.queue.as_str().into();
        let consume = channel.basic_consume(queue, "plain".into(), <_>::default(), <_>::default());
        let mut consumer = consume.await.unwrap();
        let multiple = BasicAckOptions { multiple: true };
        for n in 1..=count {
            let delivery = consumer.next().await.unwrap().unwrap();
            if n % 500 == 0 {
                delivery.ack(multiple).await.unwrap();
            }
        }
    }
}

struct RedisStream {
    redis: &'static Redis,
    publisher: MultiplexedConnection,
    options: RedisStreamOptions,
}

impl Bench for RedisStream {
    const BROKER: &'static str = "redis_stream";

    async fn create() -> Self {
        let redis = Redis::shared().await;
        let options = crate::queues::redis_stream::options(redis.url());
        Self { redis, publisher: redis.connect().await, options }
    }

    fn consumed(&self) -> ConsumedSource {
        let source = Arc::new(RedisStreamSource::new(self.options.clone()));
        let settings = settings("type", Payload::At(Pointer::whole()));
        ConsumedSource::new("bench", source).with_settings(settings)
    }

    async fn publish(&self, messages: &[Sent]) {
        let mut connection = self.publisher.clone();
        for some in messages.chunks(5000) {
            let mut adding = redis::pipe();
            for Sent { body, .. } in some {
                let add = adding.cmd("XADD").arg(&self.options.stream).arg("*");
                add.arg("message").arg(body.as_slice()).ignore();
            }
            adding.query_async::<()>(&mut connection).await.unwrap();
        }
    }

    async fn drain_plainly(&self, count: usize) {
        let mut connection = self.redis.connect().await;
        let (stream, group) = (self.options.stream.as_str(), "plain");
        let make = redis::cmd("XGROUP").arg(&["CREATE", stream, group, "0"]).to_owned();
        make.query_async::<()>(&mut connection).await.unwrap();
        let mut left = count;
        while left > 0 {
            let options = StreamReadOptions::default().group(group, "plain").count(1000);
            let reply: Option<StreamReadReply> =
                connection.xread_options(&[stream], &[">"], &options).await.unwrap();
            let entries = &reply.unwrap().keys[0].ids;
            let ids: Vec<&str> = entries.iter().map(|entry| entry.id.as_str()).collect();
            let _: usize = connection.xack(stream, group, &ids).await.unwrap();
            left -= ids.len();
        }
    }
}
