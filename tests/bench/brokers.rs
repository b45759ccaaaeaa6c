//! From each broker into `events`.

use std::sync::Arc;
use std::time::Duration;

use eventloader::consumer::{ConsumedSource, ConsumerSettings};
use tokio::time::{Instant, MissedTickBehavior};

use super::table::{Row, print};
use super::{COUNT, RUNS, loader, median, message, rate, wait_for_stored};
use crate::queues::conformance::{Fixture, Sent};
use crate::support::consuming::Consuming;
use crate::support::database::Database;

/// Messages a second while latency is measured, and for how long.
const STEADY_PER_SECOND: usize = 1000;
const STEADY: Duration = Duration::from_secs(10);

/// A broker that is measured.
pub(crate) trait Bench: Fixture {
    const BROKER: &'static str;

    /// Reads and acknowledges so many messages with the broker's plain client, as its documentation does it fast.
    async fn drain_plainly(&self, count: usize);
}

async fn measure<B: Bench>(loader_per_second: f64) -> Row {
    let messages: Vec<Sent> = (0..COUNT).map(message).collect();
    let (mut plain, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let fixture = B::create().await;
        fixture.publish(&messages).await;
        let began = Instant::now();
        fixture.drain_plainly(COUNT).await;
        plain.push(rate(COUNT, began.elapsed()));
        drop(fixture);

        let (fixture, database) = (B::create().await, Database::migrated().await);
        fixture.publish(&messages).await;
        let began = Instant::now();
        let consuming = Consuming::start(&database, vec![consumed(&fixture)]).await;
        wait_for_stored(&database, COUNT).await;
        ours.push(rate(COUNT, began.elapsed()));
        consuming.stop().await;
    }
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

/// As the configuration makes it of a source that sets nothing.
fn consumed<B: Bench>(fixture: &B) -> ConsumedSource {
    let settings = ConsumerSettings { mapping: fixture.mapping(), ..ConsumerSettings::default() };
    ConsumedSource::new("bench", fixture.source()).with_settings(settings)
}

/// Publishes at a steady rate, and looks when each message can be read in `events`.
async fn latency<B: Bench>() -> (f64, f64) {
    let (fixture, database) = (Arc::new(B::create().await), Database::migrated().await);
    let consuming = Consuming::start(&database, vec![consumed(&*fixture)]).await;
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
    // The first second has the start of everything in it.
    (waits[waits.len() / 2], waits[waits.len() * 99 / 100])
}

/// Reads `events` as it grows, and answers when each message was there.
async fn watch(pool: sqlx::PgPool, count: usize) -> Vec<(usize, Instant)> {
    let mut seen = Vec::with_capacity(count);
    let mut position = 0_i64;
    while seen.len() < count {
        let rows: Vec<(i64, i64)> = sqlx::query_as(
            "select position, (payload->>'n')::bigint from eventloader.events where position > $1 order by position",
        )
        .bind(position)
        .fetch_all(&pool)
        .await
        .unwrap();
        let now = Instant::now();
        for (at, n) in rows {
            position = at;
            seen.push((usize::try_from(n).unwrap(), now));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; `make bench` runs it"]
async fn bench() {
    let loader_per_second = median(vec![loader().await, loader().await, loader().await]);
    let rows = [measure::<crate::queues::memory::Memory>(loader_per_second).await];
    print(&rows);
}

impl Bench for crate::queues::memory::Memory {
    const BROKER: &'static str = "memory";

    async fn drain_plainly(&self, count: usize) {
        use eventloader::source::queue::{BatchLimits, QueueSession, QueueSource};
        let session = self.source().connect("plain").await.unwrap();
        let limits = BatchLimits { count: 1000, bytes: 1 << 25, linger: Duration::ZERO };
        let mut left = count;
        while left > 0 {
            let delivery = session.deliver(limits).await.unwrap();
            left -= delivery.messages.len();
            session.acknowledge(delivery.receipt).await.unwrap();
        }
    }
}
