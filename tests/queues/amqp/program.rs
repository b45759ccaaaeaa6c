//! `eventloader run` with queues of a real RabbitMQ.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::BasicProperties;
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use uuid::Uuid;

use crate::support::database::Database;
use crate::support::program::{Program, signal};
use crate::support::rabbitmq::RabbitMq;
use crate::support::wait_for;

/// A way to the broker on which what goes there can be held up, and everything cut.
struct Gate {
    address: SocketAddr,
    held: watch::Sender<bool>,
    tasks: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Gate {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (held, hears) = watch::channel(false);
        let tasks = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&tasks);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(broker) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let hears = hears.clone();
                let task = tokio::spawn(async move {
                    let (from_client, to_client) = client.into_split();
                    let (from_broker, to_broker) = broker.into_split();
                    let never = watch::channel(false).1;
                    tokio::join!(
                        pass(from_client, to_broker, hears),
                        pass(from_broker, to_client, never)
                    );
                });
                kept.lock().unwrap().push(task.abort_handle());
            }
        });
        Self { address, held, tasks }
    }

    fn hold(&self, is_held: bool) {
        self.held.send_replace(is_held);
    }

    fn cut(&self) {
        self.tasks.lock().unwrap().drain(..).for_each(|task| task.abort());
    }

    fn url(&self, rabbit: &RabbitMq) -> String {
        rabbit.amqp_url().replace(
            &format!("127.0.0.1:{}", rabbit.ports.amqp),
            &format!("127.0.0.1:{}", self.address.port()),
        )
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut held: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        drop(held.wait_for(|is_held| !is_held).await);
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

pub(super) fn source(name: &str, url: &str, queue: &str, more: &str) -> String {
    format!("[sources.{name}]\ntype = \"amqp\"\nurl = \"{url}\"\nqueue = \"{queue}\"\n{more}\n")
}

/// `{"n": n}` with an id that belongs to it.
pub(super) fn message(n: usize) -> (String, BasicProperties) {
    let id = Uuid::from_u128(0x0190_163d_8694_739b_aea5_0000_0000_0000 + n as u128);
    let properties = BasicProperties::default().with_message_id(id.to_string().into());
    (json!({ "n": n }).to_string(), properties.with_type("counted".into()))
}

async fn count(database: &Database) -> usize {
    let count: i64 = database.value("select count(*) from eventloader.events").await;
    usize::try_from(count).unwrap()
}

pub(super) async fn wait_for_events(database: &Database, wanted: usize) {
    wait_for(&format!("{wanted} events"), || async {
        (count(database).await >= wanted).then_some(())
    })
    .await;
    assert_eq!(count(database).await, wanted);
}

pub(super) async fn started(program: &Program, log: &str) -> Child {
    let child = program.start(&["run"], log);
    wait_for("the consumer", || async {
        program.read(log).contains("the queue is consumed").then_some(())
    })
    .await;
    child
}

pub(super) async fn stopped(mut child: Child) {
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}

pub(super) async fn assert_all_once(database: &Database, numbers: usize) {
    let distinct: i64 =
        database.value("select count(distinct payload->>'n') from eventloader.events").await;
    assert_eq!((usize::try_from(distinct).unwrap(), count(database).await), (numbers, numbers));
    let letters: i64 = database.value("select count(*) from eventloader.dead_letter").await;
    assert_eq!(letters, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_deposit_and_acknowledgement_it_stores_no_event_twice() {
    let (database, rabbit) = (Database::migrated().await, RabbitMq::shared().await);
    let queue = rabbit.declare("amqp", &[]).await;
    let gate = Gate::to(rabbit.ports.amqp).await;
    let program = Program::new(&database, &source("payments", &gate.url(rabbit), &queue, ""));
    let mut child = started(&program, "log.1").await;
    // It knows how large they are and has asked for more, so that the broker waits for nothing but acknowledgements.
    rabbit.publish(&queue, (600..620).map(message)).await;
    wait_for_events(&database, 20).await;
    wait_for("an empty queue", || async { (rabbit.depth(&queue).await == 0).then_some(()) }).await;
    gate.hold(true);
    rabbit.publish(&queue, (0..500).map(message)).await;
    wait_for_events(&database, 520).await;
    child.kill().await.unwrap();
    gate.cut();
    wait_for("what was not acknowledged", || async {
        (rabbit.depth(&queue).await >= 500).then_some(())
    })
    .await;
    gate.hold(false);
    let child = started(&program, "log.2").await;
    rabbit.publish(&queue, (500..600).map(message)).await;
    wait_for_events(&database, 620).await;
    stopped(child).await;
    assert_eq!(rabbit.depth(&queue).await, 0);
    assert_all_once(&database, 620).await;
    let streams: Vec<String> = database
        .column("select distinct stream || ' ' || event_type from eventloader.events")
        .await;
    assert_eq!(streams, ["payments counted"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_before_and_after_the_acknowledgement_it_comes_back_by_itself() {
    let (database, rabbit) = (Database::migrated().await, RabbitMq::shared().await);
    let queue = rabbit.declare("amqp", &[]).await;
    let gate = Gate::to(rabbit.ports.amqp).await;
    let program = Program::new(&database, &source("payments", &gate.url(rabbit), &queue, ""));
    let child = started(&program, "log").await;
    for (round, is_before) in [(0, true), (1, false), (2, true)] {
        // It learns how large they are, and asks for more, before the way is held up.
        rabbit.publish(&queue, (round * 100..round * 100 + 20).map(message)).await;
        wait_for_events(&database, round * 100 + 20).await;
        gate.hold(is_before);
        rabbit.publish(&queue, (round * 100 + 20..round * 100 + 100).map(message)).await;
        wait_for_events(&database, round * 100 + 100).await;
        gate.cut();
        gate.hold(false);
        // Connected again, or `hold` would hold up the beginning of it.
        let sessions = round + 2;
        wait_for("another session", || async {
            (program.read("log").matches("the queue is consumed").count() >= sessions).then_some(())
        })
        .await;
    }
    rabbit.publish(&queue, (300..400).map(message)).await;
    wait_for_events(&database, 400).await;
    stopped(child).await;
    assert_eq!(rabbit.depth(&queue).await, 0);
    assert_all_once(&database, 400).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_database_nothing_is_acknowledged_and_nothing_lost() {
    let (database, rabbit) = (Database::migrated().await, RabbitMq::shared().await);
    let queue = rabbit.declare("amqp", &[]).await;
    let program = Program::new(&database, &source("payments", &rabbit.amqp_url(), &queue, ""));
    let child = started(&program, "log").await;
    rabbit.publish(&queue, (0..100).map(message)).await;
    wait_for_events(&database, 100).await;
    let mut own = database.pool.acquire().await.unwrap();
    let mut run = async |sql: &'static str| {
        sqlx::query(sql).execute(&mut *own).await.unwrap();
    };
    run("update pg_database set datallowconn = false where datname = current_database()").await;
    run("select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()")
    .await;
    rabbit.publish(&queue, (100..3000).map(message)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    run("update pg_database set datallowconn = true where datname = current_database()").await;
    let stored: i64 = sqlx::query_scalar("select count(*) from eventloader.events")
        .fetch_one(&mut *own)
        .await
        .unwrap();
    assert_eq!(stored, 100);
    drop(own);
    // The test's own connections were cut, too.
    for _ in 0..10 {
        drop(sqlx::query("select 1").execute(&database.pool).await);
    }
    wait_for_events(&database, 3000).await;
    stopped(child).await;
    assert_eq!(rabbit.depth(&queue).await, 0);
    assert_all_once(&database, 3000).await;
    assert_eq!(
        program.read("log").matches("the queue is consumed").count(),
        1,
        "it left the queue"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_keep_their_ids_apart_and_do_without_as_configured() {
    let (database, rabbit) = (Database::migrated().await, RabbitMq::shared().await);
    let (one, two) = (rabbit.declare("amqp", &[]).await, rabbit.declare("amqp", &[]).await);
    let url = rabbit.amqp_url();
    let text = source("one", &url, &one, "missing_id = \"reject\"")
        + &source("two", &url, &two, "missing_id = \"hash\"");
    let program = Program::new(&database, &text);
    let child = started(&program, "log").await;
    let plain = BasicProperties::default;
    let oddly_named = || plain().with_message_id("order 7".into());
    for queue in [&one, &two] {
        rabbit.publish(queue, (0..10).map(message)).await;
        let (_, same_id) = message(3);
        rabbit
            .publish(
                queue,
                [
                    (r#"{"n": 3, "changed": true}"#, same_id),
                    (r#"{"n": 10}"#, plain()),
                    (r#"{"n": 10}"#, plain()),
                    (r#"{"n": 11, "message_name": "eleven"}"#, oddly_named()),
                    (r#"{"n": 11, "message_name": "eleven"}"#, oddly_named()),
                ],
            )
            .await;
    }
    wait_for_events(&database, 22).await;
    // Of messages that are alike in everything, one is kept.
    let letters = wait_for("the dead letters", || async {
        let letters: Vec<String> = database
            .column(
                "select origin || ' ' || kind || ' ' || count(*) || ' ' || min(reason)
                 from eventloader.dead_letter group by origin, kind order by 1",
            )
            .await;
        (letters.len() == 3).then_some(letters)
    })
    .await;
    stopped(child).await;
    assert!(letters[0].starts_with("one conflict 1 "), "{letters:?}");
    assert!(letters[1].starts_with("one message 2 message_id is"), "{letters:?}");
    assert!(letters[2].starts_with("two conflict 1 "), "{letters:?}");
    let types: Vec<String> = database
        .column(
            "select event_type || ' ' || (message_id is not null) from eventloader.events
             where stream = 'two' order by position desc limit 2",
        )
        .await;
    assert_eq!(types, ["eleven true".to_owned(), format!("{two} true")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_among_good_messages_holds_up_none_and_can_be_replayed() {
    const MESSAGES: usize = 10_000;
    let (database, rabbit) = (Database::migrated().await, RabbitMq::shared().await);
    let queue = rabbit.declare("amqp", &[]).await;
    let poison = |n: usize| n % 10 == 7;
    let messages = (0..MESSAGES).map(|n| {
        let (body, properties) = message(n);
        let long = json!({ "n": n, "text": "x".repeat(1100) }).to_string();
        (
            if poison(n) { if n % 100 == 7 { long } else { format!("{body}]") } } else { body },
            properties,
        )
    });
    rabbit.publish(&queue, messages).await;
    let strict = source("payments", &rabbit.amqp_url(), &queue, "max_event_bytes = \"1KiB\"");
    let program = Program::new(&database, &strict);
    let child = started(&program, "log").await;
    wait_for_events(&database, MESSAGES * 9 / 10).await;
    wait_for("an empty queue", || async { (rabbit.depth(&queue).await == 0).then_some(()) }).await;
    let letters = wait_for("the dead letters", || async {
        let letters: Vec<Vec<u8>> =
            database.column("select body from eventloader.dead_letter order by id").await;
        (letters.len() == MESSAGES / 10).then_some(letters)
    })
    .await;
    stopped(child).await;
    assert_eq!(letters[1], br#"{"n":17}]"#);
    assert_eq!(letters[0].len(), json!({ "n": 7, "text": "x".repeat(1100) }).to_string().len());

    let lenient = strict.replace("1KiB", "1MiB");
    std::fs::write(program.path("eventloader.toml"), lenient).unwrap();
    let replayed = program
        .run(&["dead-letters", "replay", "--all", "--limit", "1000", "--yes", "--json"])
        .await;
    let refused = replayed.stdout.matches("still cannot be stored").count();
    assert_eq!(replayed.stdout.matches("\"replayed\"").count(), MESSAGES / 100, "{replayed:?}");
    assert_eq!(refused, MESSAGES * 9 / 100, "{replayed:?}");
    let moved = program.run(&["retry-worker", "--once"]).await;
    assert_eq!(moved.code, Some(0), "{moved:?}");
    assert_eq!(count(&database).await, MESSAGES * 9 / 10 + MESSAGES / 100);
}

#[tokio::test]
async fn check_says_what_is_there_and_what_to_do() {
    let (database, rabbit) = (Database::migrated().await, RabbitMq::shared().await);
    let queue = rabbit.declare("amqp", &[]).await;
    let stream = rabbit.declare_stream(&[]).await;
    rabbit.publish(&queue, (0..3).map(message)).await;
    let url = rabbit.amqp_url();
    let text = source("good", &url, &queue, "")
        + &source("stream", &url, &stream, "")
        + &source("missing", &url, "no-such-queue", "");
    let program = Program::new(&database, &text);
    let checked = program.run(&["check"]).await;
    let said = checked.stdout + &checked.stderr;
    for wanted in
        ["3 messages ready, 0 consumers", "is a stream", "there is no queue", "acknowledged after"]
    {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    assert_eq!(checked.code, Some(1), "{said}");
    assert!(!said.contains("s3cret"), "{said}");
    assert_eq!(rabbit.depth(&queue).await, 3);
}
