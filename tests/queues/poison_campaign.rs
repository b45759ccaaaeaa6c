//! 10,000 poison messages among 100,000 good ones, from each broker: by hand, because it takes minutes.
//!
//! `cargo test --locked poison_campaign -- --ignored --nocapture --test-threads 1`

use std::sync::Arc;
use std::time::Duration;

use eventloader::consumer::{ConsumedSource, ConsumerSettings};
use eventloader::mapping::message::MessageMapping;
use eventloader::sources::rabbitmq_stream::{Address, RabbitMqStream, StreamSettings};
use lapin::BasicProperties;
use tokio::time::Instant;

use super::amqp::Queue;
use super::conformance::{Fixture, Sent, numbered, poison};
use super::redis_stream::Stream;
use crate::support::consuming::Consuming;
use crate::support::database::Database;
use crate::support::loading::{Given, Loading};
use crate::support::rabbitmq::RabbitMq;

const GOOD: u32 = 100_000;
/// Every so many messages, one is poison.
const POISON_EVERY: u32 = 11;
const PATIENCE: Duration = Duration::from_mins(10);

fn is_poison(place: u32) -> bool {
    place % POISON_EVERY == POISON_EVERY - 1
}

/// Ten good ones, then one that no event can be made of, and so on. None of the bodies is like another.
fn messages() -> Vec<Sent> {
    let count = GOOD / (POISON_EVERY - 1) * POISON_EVERY;
    let each = (0..count).map(|place| {
        if !is_poison(place) {
            return numbered(place);
        }
        let body = match place % 3 {
            0 => format!("{{\"n\": {place}, "),
            1 => format!(r#"{{"n": {place}, "a": "\u0000"}}"#),
            _ => format!(r#"{{"n": {place}, "a": 1e999999}}"#),
        };
        poison(body.as_bytes())
    });
    each.collect()
}

/// Waits until nothing more can come, and compares what is stored with what was sent.
#[expect(clippy::print_stderr, reason = "run by hand, for its figures")]
async fn finished(broker: &str, database: &Database, sent: &[Sent], began: Instant) {
    let counts = "select array[(select count(*) from eventloader.events), (select count(*) from eventloader.dead_letter)]";
    let (mut wanted_numbers, mut wanted_letters) = (Vec::new(), Vec::new());
    for (place, message) in (0..).zip(sent) {
        if is_poison(place) {
            wanted_letters.push(message.body.clone());
        } else {
            wanted_numbers.push(i64::from(place));
        }
    }
    let wanted = [wanted_numbers.len(), wanted_letters.len()].map(|n| i64::try_from(n).unwrap());
    assert_eq!(wanted, [i64::from(GOOD), i64::from(GOOD / (POISON_EVERY - 1))]);
    while database.value::<Vec<i64>>(counts).await != wanted {
        assert!(began.elapsed() < PATIENCE, "{:?}", database.value::<Vec<i64>>(counts).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let took = began.elapsed();
    let numbers: Vec<i64> =
        database.column("select (payload->>'n')::bigint from eventloader.events order by 1").await;
    assert!(numbers == wanted_numbers, "other events than were sent");
    let mut letters: Vec<Vec<u8>> =
        database.column("select body from eventloader.dead_letter").await;
    letters.sort_unstable();
    wanted_letters.sort_unstable();
    assert!(letters == wanted_letters, "other dead letters than were sent");
    let unexplained: i64 =
        database.value("select count(*) from eventloader.dead_letter where reason = ''").await;
    let left: i64 = database.value("select count(*) from eventloader.event_inbox").await;
    assert_eq!((unexplained, left), (0, 0));
    let [events, letters] = wanted;
    eprintln!("{broker}: {events} events, {letters} dead letters, {took:.1?}");
}

async fn consumed<F: Fixture>(broker: &str) {
    let (database, fixture, sent) = (Database::migrated().await, F::create().await, messages());
    fixture.publish(&sent).await;
    let settings = ConsumerSettings { mapping: fixture.mapping(), ..ConsumerSettings::default() };
    let source = ConsumedSource::new("q", fixture.source()).with_settings(settings);
    let began = Instant::now();
    let consuming = Consuming::start(&database, vec![source]).await;
    finished(broker, &database, &sent, began).await;
    consuming.stop().await;
    assert_eq!(fixture.unacknowledged().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by hand"]
async fn amqp() {
    consumed::<Queue>("amqp").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by hand"]
async fn redis_stream() {
    consumed::<Stream>("redis_stream").await;
}

#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by hand"]
async fn kafka() {
    consumed::<super::kafka::Partitions>("kafka").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by hand"]
async fn rabbitmq_stream() {
    let (rabbit, sent) = (RabbitMq::shared().await, messages());
    let stream = rabbit.declare_stream(&[]).await;
    let published = sent.iter().map(|sent| (&sent.body, BasicProperties::default()));
    rabbit.publish(&stream, published).await;
    for url in [rabbit.stream_url(), rabbit.amqp_url()] {
        let database = Database::migrated().await;
        let settings = StreamSettings {
            source_name: "q".to_owned(),
            address: Address::parse(&url).unwrap(),
            stream: stream.clone(),
            mapping: MessageMapping::default(),
            timeout: Duration::from_secs(10),
            poll: Duration::from_millis(500),
            ca_file: None,
        };
        let mut given = Given::new("q", Arc::new(RabbitMqStream::new(settings).unwrap()));
        given.settings.min_interval = Duration::ZERO;
        given.start_after = -1;
        let began = Instant::now();
        let loading = Loading::start(&database, &[given]).await;
        let scheme = url.split(':').next().unwrap();
        finished(&format!("rabbitmq_stream, {scheme}"), &database, &sent, began).await;
        loading.stop().await;
    }
}
