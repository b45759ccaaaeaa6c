//! Requests whose outcome nobody knows: never asked again by themselves.

use std::time::Duration;

use super::{Case, Hostile, Scene, case};
use crate::support::database::Database;
use crate::support::http::{Reply, Server, page};
use crate::support::loading::{Loading, http};
use crate::support::wait_for;

const SHORT: Duration = Duration::from_millis(400);

fn raw(bytes: impl AsRef<[u8]>) -> Reply {
    Reply::Raw(bytes.as_ref().to_vec())
}

fn cases() -> Vec<Case> {
    let status = |status: u16| move |_: &_| Reply::Status(status, Vec::new(), b"oops".to_vec());
    let rest = "\r\n\r\n[{\"id\":1}]";
    vec![
        case("500", "500 Internal Server Error", status(500)),
        case("502", "502 Bad Gateway", status(502)),
        case("504", "504 Gateway Timeout", status(504)),
        case("599", "599", status(599)),
        case("dropped", "broke before an answer", |_| Reply::Drop),
        case("half-line", "broke before an answer", |_| raw("HTTP/1.1 20")),
        case("half-head", "broke before an answer", |_| raw("HTTP/1.1 200 OK\r\ncontent-le")),
        case("garbage", "broke before an answer", |_| raw("220 mail ESMTP\r\n\u{7}\u{1b}[2J")),
        case("tls", "broke before an answer", |_| raw(b"\x15\x03\x01\x00\x02\x02\x50")),
        case("bad-length", "broke before an answer", move |_| {
            raw(format!("HTTP/1.1 200 OK\r\ncontent-length: -5{rest}"))
        }),
        case("long-head", "broke before an answer", |_| {
            raw(format!("HTTP/1.1 200 OK\r\nx: {}\r\n", "x".repeat(1 << 20)))
        }),
        case("many-heads", "broke before an answer", |_| {
            raw(format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(50_000)))
        }),
        case("short-body", "the body is truncated", move |_| {
            raw(format!("HTTP/1.1 200 OK\r\ncontent-length: 5000{rest}"))
        }),
        case("short-chunk", "the body is truncated", |_| {
            raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffff\r\n[{\"id\":1}")
        }),
        case("no-last-chunk", "the body is truncated", |_| {
            raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\n[{\"id\":1}]\r\n")
        }),
        case("bad-chunk", "the body is truncated", |_| {
            raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnot hex\r\n[]\r\n0\r\n\r\n")
        }),
        case("silent", "no answer within timeout = 400ms", |_| {
            Reply::After(Duration::from_mins(1), Box::new(Reply::Drop))
        }),
        case("drip-head", "no answer within timeout = 400ms", |_| {
            Reply::DripHead(Duration::from_millis(50))
        }),
        case("drip-body", "the body did not arrive within timeout = 400ms", |_| {
            Reply::Drip(Duration::from_millis(50))
        }),
        case("late-body", "the body did not arrive within timeout = 400ms", |_| {
            Reply::Drip(Duration::from_mins(1))
        }),
    ]
}

/// Half of the windows are asked again by an operator, the other half given up.
#[tokio::test]
async fn an_unknown_outcome_waits_for_an_operator_who_retries_or_skips() {
    let hostile = Hostile::start(cases(), 8).await;
    let mut given = hostile.given();
    for source in &mut given {
        if ["silent", "drip-head", "drip-body", "late-body"].contains(&&*source.source_name) {
            source.options().timeout = SHORT;
        }
    }
    let scene = Scene::with(given).await;
    let mut held = Vec::new();
    for (name, reason) in &hostile.cases {
        let seen = scene.settled(name, "held").await;
        let logged = scene.logged(name).await;
        let [request] = logged.as_slice() else { panic!("{name}: {logged:?}") };
        assert_eq!(request.status, "failed", "{name}");
        assert!(seen.reason().contains(reason), "{name}: {seen:?}");
        assert_eq!(request.error, seen.reason, "{name}");
        let remedy = format!("eventloader requests retry {}", request.id);
        assert_eq!(seen.remedy, Some(remedy), "{name}");
        assert_eq!(seen.last_requested_id, 0, "{name}");
        assert!(scene.letters(name).await.is_empty(), "{name}: no page to keep");
        held.push((*name, request.id.to_string()));
    }
    // Neither time nor a new start asks them again.
    let polls = scene.healthy.log().len();
    let scene = scene.restart().await;
    wait_for("the new instance to ask the healthy source", || async {
        (scene.healthy.log().len() > polls + 2).then_some(())
    })
    .await;
    for (name, _) in &hostile.cases {
        assert_eq!(hostile.asked(name, 0), 1, "{name}");
    }
    hostile.cure();
    let (skipped, retried) = held.split_at(2);
    for (_, id) in skipped {
        scene.command(&["requests", "skip", id, "--to", "5", "--yes"]).await;
    }
    let ids = retried.iter().map(|(_, id)| id.as_str());
    scene.command(&["requests", "retry"].into_iter().chain(ids).collect::<Vec<_>>()).await;
    for (name, _) in skipped {
        scene.stored_up_to(name, 8).await;
        assert_eq!(scene.ids(name).await, [6, 7, 8], "{name}");
        assert_eq!(scene.logged(name).await[0].status, "skipped", "{name}");
        assert_eq!((hostile.asked(name, 0), hostile.asked(name, 5)), (1, 1), "{name}");
    }
    for (name, _) in retried {
        scene.stored_up_to(name, 8).await;
        assert_eq!(scene.ids(name).await, [1, 2, 3, 4, 5, 6, 7, 8], "{name}");
        assert_eq!(hostile.asked(name, 0), 2, "{name}: exactly once more");
        assert_eq!(scene.seen(name).await.state, "ok", "{name}");
    }
    scene.finish(&[&hostile.server]).await;
}

/// Sources that hang take places; the others keep theirs. A stop gives them up and says so.
#[tokio::test]
async fn hanging_sources_delay_nobody_and_are_given_up_at_a_stop() {
    let database = Database::migrated().await;
    let healthy = Server::with_events(2500).await;
    let hanging =
        Server::start(|_| Reply::After(Duration::from_mins(10), Box::new(Reply::Drop))).await;
    let mut given: Vec<_> = (0..3).map(|n| http(&format!("hanging-{n}"), &hanging.url())).collect();
    for source in &mut given {
        source.options().timeout = Duration::from_mins(2);
    }
    given.push(http("healthy", &healthy.url()));
    let loading = Loading::start_with(&database, &given, 4).await;
    wait_for("the events of the healthy source", || async {
        let stored: i64 = database.value("select count(*) from eventloader.events").await;
        (stored == 2500 && hanging.log().len() == 3).then_some(())
    })
    .await;
    loading.stop.intake.cancel();
    loading.stop.work.cancel();
    loading.stop().await;
    let errors: Vec<String> = database
        .column("select error from eventloader.event_request_log where status = 'failed'")
        .await;
    assert_eq!(errors, ["the loader was stopped while the request was running"; 3]);
    assert_eq!(hanging.log().len(), 3);
}

/// A page that is slow but comes in time is a page like any other, however short the lease is.
#[tokio::test]
async fn a_slow_page_keeps_its_lease_and_is_stored() {
    let server = Server::start(|asked| {
        Reply::After(Duration::from_millis(1800), Box::new(Reply::Json(page(asked, 3))))
    })
    .await;
    let mut given = http("slow", &server.url());
    given.settings.lease_ttl = Duration::from_millis(600);
    let scene = Scene::with(vec![given.clone()]).await;
    let other = Loading::start(&scene.database, &[given]).await;
    scene.stored_up_to("slow", 3).await;
    assert_eq!(server.asked("/events", 0), 1);
    let logged = scene.logged("slow").await;
    assert_eq!((logged[0].status.as_str(), logged[0].attempt), ("succeeded", 1), "{logged:?}");
    other.stop().await;
    scene.finish(&[&server]).await;
}
