//! Traces of the real binary, as a collector sees them.

mod otlp;

use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Child;
use tokio::time::Instant;

use crate::support::database::Database;
use crate::support::http::{Reply, Server, page};
use crate::support::program::{Program, signal};
use crate::support::redis::Redis;
use crate::support::wait_for;
use otlp::{Collector, Span};

/// Prints one event, whose payload has the trace that the program was told.
const COMMAND: &str =
    r#"test "$EVENTLOADER_AFTER_ID" != 0 || echo "{\"id\":1,\"told\":\"$TRACEPARENT\"}""#;

/// Starts `run` that exports only when it ends: what arrives was flushed.
fn start(program: &Program, endpoint: &str) -> Child {
    let log = std::fs::File::create(program.path("log")).unwrap();
    let mut command = program.command(&["run"]);
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_BSP_SCHEDULE_DELAY", "600000")
        .stderr(log);
    command.spawn().unwrap()
}

async fn stop(program: &Program, mut child: Child) {
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));
}

async fn wait_for_events(database: &Database, count: i64) {
    wait_for("the events", || async {
        let found: i64 = database.value("select count(*) from eventloader.events").await;
        (found >= count).then_some(())
    })
    .await;
}

/// The spans of this name that a source has, or whose parent it has.
fn of_source(spans: &[Span], source_name: &str, name: &str) -> Vec<Span> {
    let has = |span: &Span| span.attribute("source_name") == source_name;
    let is_below =
        |span: &Span| spans.iter().any(|parent| parent.id == span.parent_id && has(parent));
    spans.iter().filter(|s| s.name == name && (has(s) || is_below(s))).cloned().collect()
}

fn the_one(spans: Vec<Span>) -> Span {
    let [span] = <[Span; 1]>::try_from(spans).unwrap();
    span
}

#[tokio::test]
async fn a_request_is_one_trace_from_its_claim_to_the_row() {
    let (database, collector) = (Database::migrated().await, Collector::start().await);
    let server = Server::with_events(3).await;
    let flaky =
        Server::start(|_| Reply::Status(503, vec![("retry-after", "60".to_owned())], vec![])).await;
    let program = Program::new(
        &database,
        &format!(
            "[sources.api]\ntype = \"http\"\nurl = \"{}\"\n\
             [sources.flaky]\ntype = \"http\"\nurl = \"{}\"\n\
             [sources.script]\ntype = \"command\"\ncommand = [\"sh\", \"-c\", '''{COMMAND}''']\n",
            server.url(),
            flaky.url()
        ),
    );
    let child = start(&program, collector.url());
    wait_for_events(&database, 4).await;
    wait_for("the refusal", || async {
        let refused = "select count(*) from eventloader.source where health = 'backing_off'";
        (database.value::<i64>(refused).await == 1).then_some(())
    })
    .await;
    stop(&program, child).await;
    let spans = collector.spans();
    let log = program.read("log");
    assert!(!log.contains("\"span\"") && !log.contains("exported"), "{log}");

    let requests = of_source(&spans, "api", "request");
    // On a slow machine a grant may have been given back before it.
    let request = requests.iter().find(|span| span.attribute("outcome") == "page").unwrap();
    assert_eq!(request.attribute("after_id"), 0);
    assert_eq!((request.service.as_str(), request.parent_id.as_str()), ("eventloader", ""));
    let id = "select request_id from eventloader.events where stream = 'api' limit 1";
    assert_eq!(*request.attribute("request_id"), database.value::<i64>(id).await);
    assert_eq!(request.attribute("event_count"), 3);
    assert_eq!(request.status, 0);

    let below = |name: &str| {
        let is_child = |s: &&Span| s.name == name && s.parent_id == request.id;
        the_one(spans.iter().filter(is_child).cloned().collect())
    };
    let (claim, fetch, deposit) = (below("claim"), below("fetch"), below("deposit"));
    for child in [&claim, &fetch, &deposit] {
        assert_eq!(child.trace_id, request.trace_id);
        assert!(request.started_at <= child.started_at && child.ended_at <= request.ended_at);
    }
    assert!(claim.ended_at <= fetch.started_at && fetch.ended_at <= deposit.started_at);
    assert_eq!((fetch.kind, fetch.attribute("outcome").as_str()), (3, Some("page")));
    assert_eq!(deposit.attribute("outcome"), "stored");

    // What the source was told, and what the rows tell.
    let asked = server.log();
    assert_eq!(asked[0].headers["traceparent"], fetch.traceparent());
    let noted =
        "select distinct metadata ->> 'traceparent' from eventloader.events where stream = 'api'";
    assert_eq!(database.column::<String>(noted).await, [request.traceparent()]);
    let told = "select payload ->> 'told' from eventloader.events where stream = 'script'";
    let told: String = database.value(told).await;
    let fetches = of_source(&spans, "script", "fetch");
    assert!(fetches.iter().any(|fetch| fetch.traceparent() == told), "{told}: {fetches:?}");

    let moved = of_source(&spans, "api", "move_batch");
    let count = moved.iter().map(|span| span.attribute("event_count").as_i64().unwrap());
    assert_eq!(count.sum::<i64>(), 3);

    // A failure is one, and tells why.
    let requests = of_source(&spans, "flaky", "request");
    let refused = requests.iter().find(|span| span.attribute("outcome") == "refused").unwrap();
    assert_eq!(refused.status, 2);
    assert!(refused.events.iter().any(|event| event == "request failed"), "{refused:?}");
    assert_eq!(the_one(of_source(&spans, "flaky", "fetch")).status, 2);
    assert!(!of_source(&spans, "flaky", "close").is_empty());
    // Looks that were denied are no requests.
    assert!(spans.iter().all(|span| span.attribute("unexported").is_null()));
}

#[tokio::test]
async fn a_delivery_of_a_queue_is_one_span() {
    let (database, collector) = (Database::migrated().await, Collector::start().await);
    let redis = Redis::shared().await;
    let stream = format!("traced-{}", uuid::Uuid::new_v4().simple());
    let program = Program::new(
        &database,
        &format!(
            "[sources.orders]\ntype = \"redis_stream\"\nurl = \"{}\"\nstream = \"{stream}\"\n\
             group = \"eventloader\"\n",
            redis.url()
        ),
    );
    redis.command(&["XADD", &stream, "*", "message", r#"{"n":1}"#]).await;
    redis.command(&["XADD", &stream, "*", "message", r#"{"n":2}"#]).await;
    let child = start(&program, collector.url());
    wait_for_events(&database, 2).await;
    stop(&program, child).await;

    let spans = collector.spans();
    let deliveries = of_source(&spans, "orders", "delivery");
    let count = deliveries.iter().map(|span| span.attribute("event_count").as_i64().unwrap());
    assert_eq!(count.sum::<i64>(), 2, "{deliveries:?}");
    let delivery = &deliveries[0];
    assert_eq!((delivery.kind, delivery.attribute("outcome").as_str()), (5, Some("stored")));
    let noted = "select metadata ->> 'traceparent' from eventloader.events order by version";
    assert_eq!(database.column::<String>(noted).await[0], delivery.traceparent());
}

#[tokio::test]
async fn a_collector_that_hangs_holds_up_neither_the_loading_nor_the_end() {
    let database = Database::migrated().await;
    let server = Server::with_events(3).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let program = Program::new(
        &database,
        &format!("[sources.api]\ntype = \"http\"\nurl = \"{}\"\n", server.url()),
    );
    let child = start(&program, &endpoint);
    wait_for_events(&database, 3).await;
    let began = Instant::now();
    stop(&program, child).await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn without_an_endpoint_nothing_is_told() {
    let database = Database::migrated().await;
    let server = Server::start(|asked| Reply::Json(page(asked, 3))).await;
    let program = Program::new(
        &database,
        &format!("[sources.api]\ntype = \"http\"\nurl = \"{}\"\n", server.url()),
    );
    let child = program.start(&["run"], "log");
    wait_for_events(&database, 3).await;
    stop(&program, child).await;
    assert!(server.log().iter().all(|asked| !asked.headers.contains_key("traceparent")));
    let noted = "select count(*) from eventloader.events where metadata <> '{}'";
    assert_eq!(database.value::<i64>(noted).await, 0);
}

#[tokio::test]
async fn an_endpoint_that_makes_no_sense_is_a_configuration_error() {
    let program = Program::without_database("[sources.api]\ntype = \"file\"\npath = \"log\"\n");
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "not a url");
    let finished = program.run_with(&[endpoint], &["run"]).await;
    assert_eq!(finished.code, Some(78), "{finished:?}");
    assert!(finished.stderr.contains("docs/tracing.md"), "{finished:?}");
}
