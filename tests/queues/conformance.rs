//! What every queue source promises together with the consumer, run by each driver.
//!
//! A driver has a [`Fixture`]: a queue of its own at a real broker, and how messages come to be in it. `queue_conformance!`
//! makes the tests. Where messages may be numbered by the broker, versions are those; the tests look at payloads, which
//! tell them apart.

use std::sync::Arc;
use std::time::Duration;

use eventloader::consumer::{ConsumedSource, ConsumerSettings};
use eventloader::dead_letter::{self, Judge, Replay};
use eventloader::mapping::message::MessageMapping;
use eventloader::source::queue::{
    BatchLimits, Delivery, QueueError, QueueInspection, QueueSession, QueueSource,
};
use eventloader::store::Actor;
use serde_json::json;
use uuid::Uuid;

use crate::support::consuming::Consuming;
use crate::support::database::Database;
use crate::support::wait_for;

/// A message as a test sends it.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// Where the broker has properties or headers, else in the body.
    pub(crate) message_id: Option<Uuid>,
    pub(crate) body: Vec<u8>,
}

/// A queue of one test.
pub(crate) trait Fixture: Sized + Send + Sync + 'static {
    type Source: QueueSource;

    /// A new queue, which is empty.
    async fn create() -> Self;

    /// The source, with `prefetch` (where there is such a thing) of 100.
    fn source(&self) -> Arc<Self::Source>;

    /// What the configuration makes of a source of this type that sets nothing but a small linger, and lets messages have
    /// no id.
    fn mapping(&self) -> MessageMapping;

    /// Publishes in this order, and returns when the broker has them.
    async fn publish(&self, messages: &[Sent]);

    /// How many messages nobody acknowledged, in a consumer's hands or not.
    async fn unacknowledged(&self) -> usize;

    /// Bodies that no event can be made of.
    const POISON: &'static [&'static [u8]] = &[
        b"",
        b"no json",
        b"\xff\xfe\x00",
        b"{\"n\": ",
        br#"{"n": "\u0000"}"#,
        br#"{"n": 1e999999}"#,
    ];

    /// How long until another consumer gets the messages of one that vanished without a goodbye.
    const TAKE_OVER: Duration = Duration::ZERO;
}

/// `{"n": n}` with an id that belongs to it.
pub(crate) fn numbered(n: u32) -> Sent {
    let id = Uuid::from_u128(0x0190_163d_8694_739b_aea5_0000_0000_0000 + u128::from(n));
    Sent {
        message_id: Some(id),
        body: json!({ "n": n, "message_id": id }).to_string().into_bytes(),
    }
}

/// `{"n": n}` under the id of another.
pub(crate) fn numbered_as(n: u32, other: u32) -> Sent {
    let id = numbered(other).message_id;
    Sent { message_id: id, body: json!({ "n": n, "message_id": id }).to_string().into_bytes() }
}

/// A body that no event can be made of.
pub(crate) fn poison(body: &[u8]) -> Sent {
    Sent { message_id: Some(Uuid::new_v4()), body: body.to_vec() }
}

/// A consumed source of this fixture, in small batches.
pub(crate) fn consumed<F: Fixture>(fixture: &F, source_name: &str) -> ConsumedSource {
    let settings = ConsumerSettings {
        batch_size: 50,
        linger: Duration::from_millis(2),
        mapping: fixture.mapping(),
        ..ConsumerSettings::default()
    };
    ConsumedSource::new(source_name, fixture.source()).with_settings(settings)
}

/// The `n` of all events, in the order of their positions.
pub(crate) async fn numbers(database: &Database) -> Vec<i64> {
    database
        .column("select (payload->>'n')::bigint from eventloader.events order by position")
        .await
}

/// Waits until so many events are stored and nothing is left unacknowledged.
pub(crate) async fn wait_for_events<F: Fixture>(database: &Database, fixture: &F, count: usize) {
    wait_for(&format!("{count} events and an empty queue"), || async {
        let stored: i64 = database.value("select count(*) from eventloader.events").await;
        let done = usize::try_from(stored).unwrap() == count && fixture.unacknowledged().await == 0;
        done.then_some(())
    })
    .await;
}

pub(crate) async fn every_message_arrives_once_and_in_order<F: Fixture>() {
    let (database, fixture) = (Database::migrated().await, F::create().await);
    let messages: Vec<_> = (1..=500).map(numbered).collect();
    fixture.publish(&messages[..300]).await;
    let consuming = Consuming::start(&database, vec![consumed(&fixture, "q")]).await;
    fixture.publish(&messages[300..]).await;
    wait_for_events(&database, &fixture, 500).await;
    consuming.stop().await;
    assert_eq!(numbers(&database).await, (1..=500).collect::<Vec<_>>());
    let ids: Vec<Uuid> =
        database.column("select message_id from eventloader.events order by position").await;
    let sent: Vec<_> = messages.iter().filter_map(|message| message.message_id).collect();
    assert_eq!(ids, sent);
}

pub(crate) async fn what_is_not_acknowledged_is_recognised_when_it_comes_again<F: Fixture>() {
    let (database, fixture) = (Database::migrated().await, F::create().await);
    fixture.publish(&(1..=120).map(numbered).collect::<Vec<_>>()).await;
    let forgetful = Arc::new(Forgetful(fixture.source()));
    let patient =
        ConsumerSettings { linger: Duration::from_mins(1), ..consumed(&fixture, "q").settings };
    let source = ConsumedSource::new("q", forgetful).with_settings(patient);
    let consuming = Consuming::start(&database, vec![source]).await;
    // The first batch is full: it does not end before, however slowly they come.
    wait_for("a batch that is not acknowledged", || async {
        let stored: i64 = database.value("select count(*) from eventloader.events").await;
        (stored >= 50).then_some(())
    })
    .await;
    assert_eq!(fixture.unacknowledged().await, 120);
    consuming.kill().await;
    tokio::time::sleep(F::TAKE_OVER).await;
    let consuming = Consuming::start(&database, vec![consumed(&fixture, "q")]).await;
    wait_for_events(&database, &fixture, 120).await;
    let duplicates = consuming.duplicates();
    consuming.stop().await;
    assert!(duplicates >= 50, "{duplicates}");
    let mut numbers = numbers(&database).await;
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=120).collect::<Vec<_>>());
    let letters: i64 = database.value("select count(*) from eventloader.dead_letter").await;
    assert_eq!(letters, 0);
}

pub(crate) async fn one_id_twice_is_one_event_or_a_conflict<F: Fixture>() {
    let (database, fixture) = (Database::migrated().await, F::create().await);
    let consuming = Consuming::start(&database, vec![consumed(&fixture, "q")]).await;
    fixture.publish(&[numbered(1), numbered(1), numbered(2)]).await;
    wait_for_events(&database, &fixture, 2).await;
    // In another batch, and beside its first in the same one.
    fixture.publish(&[numbered_as(11, 1), numbered(3), numbered_as(13, 3), numbered(3)]).await;
    wait_for_events(&database, &fixture, 3).await;
    consuming.stop().await;
    assert_eq!(numbers(&database).await, [1, 2, 3]);
    let conflicts: Vec<String> = database
        .column(
            "select convert_from(body, 'UTF8')::jsonb->>'n' || ' ' || kind || ' ' || (reason like '%came before with another body')
             from eventloader.dead_letter order by id",
        )
        .await;
    assert_eq!(conflicts, ["11 conflict true", "13 conflict true"]);
}

pub(crate) async fn poison_goes_aside_verbatim_and_its_neighbours_go_on<F: Fixture>() {
    let (database, fixture) = (Database::migrated().await, F::create().await);
    let bodies = F::POISON;
    let mut messages = Vec::new();
    for (place, body) in bodies.iter().enumerate() {
        messages.push(numbered(u32::try_from(place).unwrap()));
        messages.push(poison(body));
    }
    fixture.publish(&messages).await;
    let consuming = Consuming::start(&database, vec![consumed(&fixture, "q")]).await;
    wait_for_events(&database, &fixture, bodies.len()).await;
    consuming.stop().await;
    assert_eq!(
        numbers(&database).await,
        (0..i64::try_from(bodies.len()).unwrap()).collect::<Vec<_>>()
    );
    let letters: Vec<Vec<u8>> = database
        .column("select body from eventloader.dead_letter where kind = 'message' order by id")
        .await;
    assert_eq!(letters, bodies);
    let unexplained: i64 =
        database.value("select count(*) from eventloader.dead_letter where reason = ''").await;
    assert_eq!(unexplained, 0);
}

pub(crate) async fn nothing_is_acknowledged_before_it_is_committed<F: Fixture>() {
    let (database, fixture) = (Database::migrated().await, F::create().await);
    let consuming = Consuming::start(&database, vec![consumed(&fixture, "q")]).await;
    fixture.publish(&[numbered(1)]).await;
    wait_for_events(&database, &fixture, 1).await;
    // Whoever deposits waits for this lock, before its commit.
    let mut lock = database.pool.begin().await.unwrap();
    sqlx::query("lock table eventloader.event_inbox in exclusive mode")
        .execute(&mut *lock)
        .await
        .unwrap();
    fixture.publish(&(2..=80).map(numbered).collect::<Vec<_>>()).await;
    wait_for("a deposit that waits", || async {
        let waiting: i64 = database
            .value("select count(*) from pg_locks where not granted and relation = 'eventloader.event_inbox'::regclass")
            .await;
        (waiting > 0).then_some(())
    })
    .await;
    assert_eq!(fixture.unacknowledged().await, 79);
    lock.rollback().await.unwrap();
    wait_for_events(&database, &fixture, 80).await;
    consuming.stop().await;
    assert_eq!(numbers(&database).await, (1..=80).collect::<Vec<_>>());
}

pub(crate) async fn a_pause_leaves_the_queue_alone<F: Fixture>() {
    let (database, fixture) = (Database::migrated().await, F::create().await);
    let consuming = Consuming::start(&database, vec![consumed(&fixture, "q")]).await;
    fixture.publish(&[numbered(1)]).await;
    wait_for_events(&database, &fixture, 1).await;
    database
        .execute("update eventloader.source set paused_at = now() where source_name = 'q'")
        .await;
    // Heard within a second; what is published after that stays where it is.
    tokio::time::sleep(Duration::from_secs(3)).await;
    fixture.publish(&[numbered(2), numbered(3)]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((numbers(&database).await, fixture.unacknowledged().await), (vec![1], 2));
    database
        .execute("update eventloader.source set paused_at = null where source_name = 'q'")
        .await;
    wait_for_events(&database, &fixture, 3).await;
    consuming.stop().await;
    assert_eq!(numbers(&database).await, [1, 2, 3]);
}

pub(crate) async fn several_instances_share_the_messages<F: Fixture>() {
    let (database, fixture) = (Database::migrated().await, F::create().await);
    let mut instances = Vec::new();
    for _ in 0..3 {
        instances.push(Consuming::start(&database, vec![consumed(&fixture, "q")]).await);
    }
    for first in (1..=900).step_by(100) {
        fixture.publish(&(first..first + 100).map(numbered).collect::<Vec<_>>()).await;
    }
    wait_for_events(&database, &fixture, 900).await;
    for instance in instances {
        instance.stop().await;
    }
    let mut numbers = numbers(&database).await;
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=900).collect::<Vec<_>>());
}

pub(crate) async fn a_refused_message_can_be_replayed<F: Fixture>() {
    let (database, fixture) = (Database::migrated().await, F::create().await);
    let settings = ConsumerSettings {
        mapping: MessageMapping { max_event_bytes: 120, ..fixture.mapping() },
        ..ConsumerSettings::default()
    };
    let source = ConsumedSource::new("q", fixture.source()).with_settings(settings.clone());
    let consuming = Consuming::start(&database, vec![source]).await;
    let id = Uuid::new_v4();
    let long = json!({ "n": 2, "message_id": id, "text": "x".repeat(100) }).to_string();
    let long = Sent { message_id: Some(id), body: long.into_bytes() };
    fixture.publish(&[numbered(1), long.clone(), numbered(3)]).await;
    wait_for_events(&database, &fixture, 2).await;
    let letter: i64 = database.value("select id from eventloader.dead_letter").await;
    let replay = |mapping: MessageMapping| {
        let pool = database.pool.clone();
        async move {
            let actor = Actor("tester".to_owned());
            dead_letter::replay(&pool, letter, &actor, &Judge::Messages(Box::new(mapping)))
                .await
                .unwrap()
        }
    };
    let Replay::Refused(reason) = replay(settings.mapping).await else { panic!("it is too long") };
    assert!(reason.contains("over max_event_bytes = 120"), "{reason}");
    assert_eq!(replay(fixture.mapping()).await, Replay::Replayed);
    assert_eq!(replay(fixture.mapping()).await, Replay::Gone);
    wait_for_events(&database, &fixture, 3).await;
    consuming.stop().await;
    // It comes once more, where it is not too long any more, and is known.
    let consuming = Consuming::start(&database, vec![consumed(&fixture, "q")]).await;
    fixture.publish(&[long]).await;
    let seen = || consuming.duplicates();
    wait_for("the duplicate", || async { (seen() > 0).then_some(()) }).await;
    consuming.stop().await;
    assert_eq!(numbers(&database).await, [1, 3, 2]);
    let row: String = database
        .value("select length(payload->>'text') || ' ' || (message_id is not null) from eventloader.events where payload->>'n' = '2'")
        .await;
    assert_eq!(row, "100 true");
}

/// A source whose acknowledgements never arrive.
struct Forgetful<Q>(Arc<Q>);

struct ForgetfulSession<S>(S);

impl<Q: QueueSource> QueueSource for Forgetful<Q> {
    type Session = ForgetfulSession<Q::Session>;

    async fn connect(&self, consumer: &str) -> Result<Self::Session, QueueError> {
        self.0.connect(consumer).await.map(ForgetfulSession)
    }

    async fn inspect(&self) -> Result<QueueInspection, QueueError> {
        self.0.inspect().await
    }
}

impl<S: QueueSession> QueueSession for ForgetfulSession<S> {
    type Receipt = S::Receipt;

    async fn deliver(&self, limits: BatchLimits) -> Result<Delivery<S::Receipt>, QueueError> {
        self.0.deliver(limits).await
    }

    async fn acknowledge(&self, _: S::Receipt) -> Result<(), QueueError> {
        std::future::pending().await
    }

    async fn reject(&self, receipt: S::Receipt) -> Result<(), QueueError> {
        self.0.reject(receipt).await
    }

    async fn close(self) {
        self.0.close().await;
    }
}

/// The suite for one driver.
macro_rules! queue_conformance {
    ($fixture:ty) => {
        queue_conformance!(@ $fixture: every_message_arrives_once_and_in_order
            what_is_not_acknowledged_is_recognised_when_it_comes_again one_id_twice_is_one_event_or_a_conflict
            poison_goes_aside_verbatim_and_its_neighbours_go_on nothing_is_acknowledged_before_it_is_committed
            a_pause_leaves_the_queue_alone several_instances_share_the_messages a_refused_message_can_be_replayed);
    };
    (@ $fixture:ty: $($name:ident)*) => {
        $(#[tokio::test]
        async fn $name() {
            $crate::queues::conformance::$name::<$fixture>().await;
        })*
    };
}
pub(crate) use queue_conformance;
