//! The suite of all drivers, and the program, on a real Redis.

use std::sync::Arc;
use std::time::Duration;

use eventloader::mapping::Pointer;
use eventloader::mapping::message::{MessageMapping, Payload, Place};
use eventloader::sources::redis_stream::{RedisStreamOptions, RedisStreamSource};
use redis::Value;
use rustix::process::Signal;

use super::Stream;
use crate::queues::conformance::{
    Fixture, Sent, numbered, numbers, queue_conformance, wait_for_events,
};
use crate::support::cable::{Cable, Cut};
use crate::support::database::Database;
use crate::support::program::{Program, signal};
use crate::support::redis::{PASSWORD, Redis};
use crate::support::wait_for;

impl Fixture for Stream {
    type Source = RedisStreamSource;

    async fn create() -> Self {
        let mut stream = Self::new().await;
        stream.options.retry_after = Duration::from_secs(1);
        stream
    }

    fn source(&self) -> Arc<RedisStreamSource> {
        Arc::new(Self::source(self))
    }

    fn mapping(&self) -> MessageMapping {
        let usual = |key| Place::Usual(Pointer::to_key(key));
        MessageMapping {
            event_type: usual("type"),
            message_id: usual("message_id"),
            payload: Payload::At(Pointer::whole()),
            ..MessageMapping::default()
        }
    }

    async fn publish(&self, messages: &[Sent]) {
        let mut connection = self.redis.connect().await;
        let mut adding = redis::pipe();
        for Sent { body, .. } in messages {
            let stream = self.options.stream.as_str();
            adding.cmd("XADD").arg(stream).arg("*").arg("message").arg(body.as_slice()).ignore();
        }
        adding.query_async::<()>(&mut connection).await.unwrap();
    }

    async fn unacknowledged(&self) -> usize {
        let Value::Array(groups) = self.command("XINFO GROUPS {}").await else { panic!() };
        let Some(Value::Array(group)) = groups.first() else { return usize::MAX };
        let number = |name: &str| {
            let is_it = |pair: &&[Value]| pair[0] == Value::BulkString(name.into());
            match group.chunks_exact(2).find(is_it).map(|pair| &pair[1]) {
                Some(Value::Int(number)) => usize::try_from(*number).unwrap(),
                other => panic!("{name}: {other:?}"),
            }
        };
        number("pending") + number("lag")
    }

    /// Text that is no JSON is the value of a field, and what is not UTF-8 is kept as base64.
    const POISON: &'static [&'static [u8]] =
        &[b"{\"n\": ", br#"{"n": "\u0000"}"#, br#"{"n": 1e999999}"#, b"{1}"];

    const TAKE_OVER: Duration = Duration::from_millis(1500);
}

queue_conformance!(Stream);

/// On a server of its own.
async fn alone() -> Stream {
    let redis: &'static Redis = Box::leak(Box::new(Redis::start().await));
    let options =
        RedisStreamOptions { retry_after: Duration::from_secs(1), ..super::options(redis.url()) };
    Stream { redis, options }
}

#[tokio::test]
async fn a_server_that_freezes_and_one_that_restarts_lose_nothing() {
    let (database, stream) = (Database::migrated().await, alone().await);
    let direct = format!("127.0.0.1:{}", stream.redis.port);
    let program = Program::new(&database, &configuration(&stream, &direct));
    let mut running = program.start(&["run"], "log");
    stream.publish(&(1..=100).map(numbered).collect::<Vec<_>>()).await;
    wait_for_events(&database, &stream, 100).await;
    stream.redis.freeze();
    // Longer than it may take to answer.
    tokio::time::sleep(Duration::from_secs(32)).await;
    wait_for("the failure", async || {
        let sql = "select state from eventloader.source_status where source_name = 'clicks'";
        (database.value::<String>(sql).await == "backing_off").then_some(())
    })
    .await;
    stream.redis.thaw().await;
    stream.publish(&(101..=200).map(numbered).collect::<Vec<_>>()).await;
    wait_for_events(&database, &stream, 200).await;
    for round in 2..5 {
        let hundred = round * 100 + 1..=round * 100 + 100;
        stream.publish(&hundred.map(numbered).collect::<Vec<_>>()).await;
        stream.redis.restart().await;
    }
    // Redis 7.0 forgets the group's counter when it restarts, so that its lag says nothing.
    wait_for("all entries to be acknowledged", async || {
        (count(&database).await == 500 && stream.pending().await == 0).then_some(())
    })
    .await;
    signal(&running, Signal::TERM);
    assert!(running.wait().await.unwrap().success(), "{}", program.read("log"));
    let mut all = numbers(&database).await;
    all.sort_unstable();
    assert_eq!(all, (1..=500).collect::<Vec<_>>());
}

#[tokio::test]
async fn without_a_database_nothing_is_acknowledged_and_nothing_lost() {
    let (database, stream) = (Database::migrated().await, Stream::create().await);
    let direct = format!("127.0.0.1:{}", stream.redis.port);
    let program = Program::new(&database, &configuration(&stream, &direct));
    let mut running = program.start(&["run"], "log");
    stream.publish(&(1..=100).map(numbered).collect::<Vec<_>>()).await;
    wait_for_events(&database, &stream, 100).await;
    database
        .while_away(async {
            stream.publish(&(101..=3000).map(numbered).collect::<Vec<_>>()).await;
            // Longer than retry_after.
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_eq!(stream.unacknowledged().await, 2900);
        })
        .await;
    wait_for_events(&database, &stream, 3000).await;
    assert_eq!(numbers(&database).await, (1..=3000).collect::<Vec<_>>());
    signal(&running, Signal::TERM);
    assert!(running.wait().await.unwrap().success(), "{}", program.read("log"));
    let log = program.read("log");
    assert_eq!(log.matches("the queue is consumed").count(), 1, "it left the queue: {log}");
}

/// The configuration of a source behind this address.
fn configuration(stream: &Stream, address: &str) -> String {
    format!(
        "[sources.clicks]\ntype = \"redis_stream\"\nurl = \"redis://:{PASSWORD}@{address}\"\nstream = \"{}\"\n\
         retry_after = \"1s\"\nbatch_size = 100\n",
        stream.options.stream
    )
}

async fn count(database: &Database) -> i64 {
    database.value("select count(*) from eventloader.events").await
}

#[tokio::test]
async fn a_kill_between_deposit_and_acknowledgement_is_one_event_and_another_takes_over() {
    let (database, stream) = (Database::migrated().await, Stream::create().await);
    let cable = Cable::to(stream.redis.port).await;
    cable.cut_at(Cut::Hold("XACK"));
    stream.publish(&(1..=60).map(numbered).collect::<Vec<_>>()).await;
    let first = Program::new(&database, &configuration(&stream, &cable.address.to_string()));
    let mut killed = first.start(&["run"], "log");
    wait_for("60 events that are not acknowledged", async || {
        (count(&database).await == 60).then_some(())
    })
    .await;
    assert_eq!(stream.pending().await, 60);
    killed.kill().await.unwrap();
    let direct = format!("127.0.0.1:{}", stream.redis.port);
    let second = Program::new(&database, &configuration(&stream, &direct));
    let mut heir = second.start(&["run"], "log");
    stream.publish(&[numbered(61)]).await;
    wait_for("the heir to acknowledge all", async || {
        (count(&database).await == 61 && stream.unacknowledged().await == 0).then_some(())
    })
    .await;
    signal(&heir, Signal::TERM);
    assert!(heir.wait().await.unwrap().success(), "{}", second.read("log"));
    let letters: i64 = database.value("select count(*) from eventloader.dead_letter").await;
    assert_eq!(letters, 0);
    assert!(!second.read("log").contains(PASSWORD));
}

#[tokio::test]
async fn a_gap_is_written_down_and_entries_keep_their_place_and_name() {
    let (database, stream) = (Database::migrated().await, Stream::create().await);
    stream.add_all(1..=2).await;
    let direct = format!("127.0.0.1:{}", stream.redis.port);
    let program = Program::new(&database, &configuration(&stream, &direct));
    let told = program.run(&["check"]).await;
    assert!(
        told.stdout.contains("with 2 entries") && told.stdout.contains("acknowledged"),
        "{told:?}"
    );
    let stop = async |mut running: tokio::process::Child| {
        signal(&running, Signal::TERM);
        assert!(running.wait().await.unwrap().success(), "{}", program.read("log"));
    };
    let running = program.start(&["run"], "log");
    wait_for("two events", async || (count(&database).await == 2).then_some(())).await;
    stop(running).await;
    stream.add_all(3..=6).await;
    stream.command("XADD {} 7-0 type user.created message {\"n\":7}").await;
    stream.command("XTRIM {} MAXLEN 2").await;
    let running = program.start(&["run"], "log");
    wait_for("four events", async || (count(&database).await == 4).then_some(())).await;
    wait_for("the last acknowledgement", async || {
        (stream.unacknowledged().await == 0).then_some(())
    })
    .await;
    stop(running).await;
    let rows: Vec<String> = database
        .column(
            "select version || ' ' || event_type || ' ' || payload || ' ' || (metadata->>'entry_id')
             from eventloader.events order by position",
        )
        .await;
    let name = &stream.options.stream;
    let plain = |n: i64| format!("{} {name} {{\"n\": {n}}} {n}-0", n << 21);
    let named = format!("{} user.created {{\"n\": 7}} 7-0", 7 << 21);
    assert_eq!(rows, [plain(1), plain(2), plain(6), named]);
    let gaps: Vec<String> =
        database.column("select first_id || '-' || last_id from eventloader.source_gap").await;
    assert_eq!(gaps, [format!("{}-{}", (2 << 21) + 1, (6 << 21) - 1)]);
}
