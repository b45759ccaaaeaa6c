//! Sources that refuse, reject, or cannot be reached: nothing was served, so asking again is safe.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tokio::net::TcpListener;

use super::{Case, Hostile, Scene, case};
use crate::support::http::{Asked, Reply, Server, page};
use crate::support::loading::{Loading, http};
use crate::support::wait_for;

/// A time as `Retry-After` and `Date` give it.
fn http_date(from_now: TimeDelta) -> String {
    (Utc::now() + from_now).format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn refuse(
    status: u16,
    headers: impl Fn() -> Vec<(&'static str, String)> + Send + Sync + 'static,
) -> impl Fn(&Asked) -> Reply + Send + Sync {
    move |_| Reply::Status(status, headers(), b"later".to_vec())
}

fn retry_after(value: &'static str) -> impl Fn() -> Vec<(&'static str, String)> + Send + Sync {
    move || vec![("retry-after", value.to_owned())]
}

/// Of GitHub's kind.
fn limit(
    remaining: &'static str,
    reset: &'static str,
) -> impl Fn() -> Vec<(&'static str, String)> + Send + Sync {
    move || {
        let (remaining, reset) = (remaining.to_owned(), reset.to_owned());
        vec![("x-ratelimit-remaining", remaining), ("x-ratelimit-reset", reset)]
    }
}

/// A refusal and how long nobody asks after it, in seconds. The first back-off is 1 s ± 10 %.
fn refusals() -> Vec<(Case, [f64; 2])> {
    const BACKOFF: [f64; 2] = [0.0, 1.1];
    let (minute, hour) = (TimeDelta::minutes(1), TimeDelta::hours(1));
    let date = move |from_now: TimeDelta| move || vec![("retry-after", http_date(from_now))];
    // A source whose clock is an hour ahead of ours.
    let ahead = move || vec![("date", http_date(hour)), ("retry-after", http_date(hour + minute))];
    let old = move || {
        let at = (Utc::now() + minute).format("%A, %d-%b-%y %H:%M:%S GMT").to_string();
        vec![("retry-after", at)]
    };
    let asctime = move || {
        let at = (Utc::now() + minute).format("%a %b %e %H:%M:%S %Y").to_string();
        vec![("retry-after", at)]
    };
    vec![
        (case("429", "429 Too Many Requests", refuse(429, Vec::new)), BACKOFF),
        (case("503", "503 Service Unavailable", refuse(503, Vec::new)), BACKOFF),
        (case("zero", "429", refuse(429, retry_after("0"))), BACKOFF),
        (case("negative", "429", refuse(429, retry_after("-5"))), BACKOFF),
        (case("words", "503", refuse(503, retry_after("soon"))), BACKOFF),
        (case("past", "503", refuse(503, date(-hour))), BACKOFF),
        (case("seconds", "429", refuse(429, retry_after("600"))), [570.0, 600.0]),
        (case("date", "503", refuse(503, date(minute))), [30.0, 60.0]),
        (case("ahead", "503", refuse(503, ahead)), [30.0, 60.0]),
        (case("rfc850", "503", refuse(503, old)), [30.0, 60.0]),
        (case("asctime", "503", refuse(503, asctime)), [30.0, 60.0]),
        (case("year", "503", refuse(503, date(hour * 24 * 365))), [3570.0, 3600.0]),
        (case("absurd", "429", refuse(429, retry_after("99999999999999999999"))), [3570.0, 3600.0]),
        (case("reset", "429", refuse(429, limit("0", "60"))), [30.0, 60.0]),
        (
            case("forbidden", "403 Forbidden; its rate limit", refuse(403, limit("0", "60"))),
            [30.0, 60.0],
        ),
        (case("open", "429", refuse(429, limit("5", "60"))), BACKOFF),
        (case("huge", "429", refuse(429, retry_after("18446744073709551615"))), [3570.0, 3600.0]),
    ]
}

#[tokio::test]
async fn a_refusal_releases_the_window_and_retry_after_is_honoured() {
    let (cases, waits): (Vec<_>, Vec<_>) = refusals().into_iter().unzip();
    let hostile = Hostile::start(cases, 3).await;
    let scene = Scene::with(hostile.given()).await;
    for ((name, reason), [least, most]) in hostile.cases.iter().zip(&waits) {
        let seen = scene.settled(name, "backing_off").await;
        assert!(seen.reason().contains("the source answered"), "{name}: {seen:?}");
        assert!(seen.reason().contains(reason), "{name}: {seen:?}");
        assert!(seen.held_request_id.is_none_or(|_| *least == 0.0), "{name}: {seen:?}");
        let wait = seen.waits.unwrap_or_default();
        assert!((*least..=*most).contains(&wait) || *least == 0.0, "{name} waits {wait} s");
    }
    hostile.cure();
    for ((name, _), [least, _]) in hostile.cases.iter().zip(&waits) {
        if *least == 0.0 {
            scene.stored_up_to(name, 3).await;
            assert_eq!(scene.settled(name, "ok").await.reason, None, "{name}");
        } else {
            assert_eq!(hostile.asked(name, 0), 1, "{name} may not be asked yet");
            assert!(scene.logged(name).await.is_empty(), "{name}: the window is free");
        }
    }
    scene.finish(&[&hostile.server]).await;
}

/// `not_before` is in the database: instances that were not refused themselves wait as well.
#[tokio::test]
async fn every_instance_waits_for_a_retry_after() {
    let refused = AtomicBool::new(false);
    let server = Server::start(move |asked| {
        if refused.swap(true, Ordering::Relaxed) {
            return Reply::Json(page(asked, 3));
        }
        Reply::Status(429, vec![("retry-after", "2".to_owned())], Vec::new())
    })
    .await;
    let given = http("api", &server.url());
    let scene = Scene::with(vec![given.clone()]).await;
    scene.settled("api", "backing_off").await;
    let other = Loading::start(&scene.database, &[given]).await;
    // The instance that was refused is gone; two that know nothing of it go on.
    let scene = scene.restart().await;
    scene.stored_up_to("api", 3).await;
    other.stop().await;
    let log = server.log();
    let gap = log[1].at - log[0].at;
    assert!(gap >= Duration::from_secs(2), "{gap:?}");
    assert_eq!(server.asked("/events", 0), 2);
    scene.finish(&[&server]).await;
}

/// A limit that is used up on a good answer: the page is stored, and nobody asks before the reset, by the source's own
/// clock, which is an hour ahead of ours.
#[tokio::test]
async fn every_instance_waits_for_the_reset_of_a_rate_limit() {
    let server = Server::start(move |asked| {
        let ahead = TimeDelta::hours(1);
        let reset = (Utc::now() + ahead).timestamp() + 3;
        let remaining = if asked.after_id == 3 { "0" } else { "9" };
        let headers = vec![
            ("date", http_date(ahead)),
            ("x-ratelimit-remaining", remaining.to_owned()),
            ("x-ratelimit-reset", reset.to_string()),
        ];
        Reply::Status(200, headers, page(asked, 6).into_bytes())
    })
    .await;
    let mut given = http("api", &server.url());
    given.settings.batch_size = 3;
    let scene = Scene::with(vec![given.clone()]).await;
    let other = Loading::start(&scene.database, &[given]).await;
    scene.stored_up_to("api", 6).await;
    let log = wait_for("the tip to be asked", || async {
        Some(server.log()).filter(|log| log.len() >= 3)
    })
    .await;
    assert_eq!(server.windows()[..3], [0, 3, 6]);
    let [open, used_up] = [log[1].at - log[0].at, log[2].at - log[1].at];
    assert!(open < Duration::from_secs(2), "nothing to wait for after {open:?}");
    assert!(used_up >= Duration::from_secs(2), "asked again {used_up:?} after a used up limit");
    other.stop().await;
    scene.finish(&[&server]).await;
}

fn rejections(trap: &str) -> Vec<Case> {
    let redirect = |status: u16| {
        let target = format!("{trap}?token=s3cret&after_id=0&limit=10#s3cret");
        move |_: &Asked| Reply::Status(status, vec![("location", target.clone())], Vec::new())
    };
    let status = |status: u16| move |_: &Asked| Reply::Status(status, Vec::new(), b"no".to_vec());
    let moved = "redirects are not followed, set the url to where it points (http://127.0.0.1:";
    let token = "check the headers (token) of the source";
    vec![
        case("301", moved, redirect(301)),
        case("302", moved, redirect(302)),
        case("303", moved, redirect(303)),
        case("307", moved, redirect(307)),
        case("308", moved, redirect(308)),
        case("no-location", "redirects are not followed", status(302)),
        case("304", "304 Not Modified; nothing conditional was asked", status(304)),
        case("400", "400 Bad Request; the source does not accept this request", status(400)),
        case("401", token, status(401)),
        case("403", token, status(403)),
        case("404", "404 Not Found; check the url of the source", status(404)),
        case("410", "410 Gone; check the url of the source", status(410)),
        case("418", "the source does not accept this request", status(418)),
    ]
}

#[tokio::test]
async fn a_rejection_shows_until_the_source_answers_well() {
    let trap = Server::with_events(100).await;
    let hostile = Hostile::start(rejections(&trap.url()), 3).await;
    let scene = Scene::with(hostile.given()).await;
    for (name, reason) in &hostile.cases {
        let seen = scene.settled(name, "rejected").await;
        assert!(seen.reason().contains(reason), "{name}: {seen:?}");
        assert!(!seen.reason().contains("s3cret"), "{name}: {seen:?}");
        let remedy = format!("eventloader sources resume {name}");
        assert_eq!(seen.remedy.as_deref(), Some(remedy.as_str()), "{name}");
        let wait = seen.waits.unwrap_or_default();
        assert!((30.0..=66.0).contains(&wait), "{name} waits {wait} s");
        assert!(scene.logged(name).await.is_empty(), "{name}: the window is free");
        assert_eq!(hostile.asked(name, 0), 1, "{name}");
    }
    assert_eq!(trap.windows(), [0_i64; 0], "a redirect was followed");
    hostile.cure();
    for (name, _) in &hostile.cases {
        scene.command(&["sources", "resume", name]).await;
    }
    // Instances that run notice within half a minute, a new one at once.
    let scene = scene.restart().await;
    for (name, _) in &hostile.cases {
        scene.stored_up_to(name, 3).await;
        let seen = scene.settled(name, "ok").await;
        assert_eq!((seen.reason, seen.remedy), (None, None), "{name}");
        assert_eq!(hostile.asked(name, 0), 2, "{name}");
    }
    scene.finish(&[&hostile.server, &trap]).await;
}

/// Nothing of these became a request, so they are tried again by themselves.
#[tokio::test]
async fn what_was_never_sent_is_tried_again() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    // Takes connections and says nothing: TLS never comes about.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = Server::with_events(3).await;
    let mut given = vec![
        http("refused", &format!("http://{address}/events?token=s3cret")),
        http("unknown-host", "http://user:s3cret@no-such-host.invalid/events"),
        http("no-tls", &format!("https://{}/events", plain.address)),
        http("mute", &format!("https://{}/events", mute.local_addr().unwrap())),
    ];
    given[3].options().timeout = Duration::from_millis(500);
    let scene = Scene::with(given).await;
    let port = format!("cannot connect to 127.0.0.1:{}: ", address.port());
    for (name, reason) in [
        ("refused", port.as_str()),
        ("unknown-host", "cannot connect to no-such-host.invalid:80: dns error"),
        ("no-tls", "cannot connect to 127.0.0.1:"),
        ("mute", "cannot connect to 127.0.0.1:"),
    ] {
        let seen = scene.settled(name, "backing_off").await;
        assert!(seen.reason().contains(reason), "{name}: {seen:?}");
        assert!(!seen.reason().contains("s3cret"), "{name}: {seen:?}");
        assert_eq!(seen.last_requested_id, 0, "{name}");
        let logged = scene.logged(name).await;
        assert!(logged.iter().all(|request| request.status == "reserved"), "{name}: {logged:?}");
    }
    assert!(plain.log().is_empty());
    let server = Server::start_on(address, |asked| Reply::Json(page(asked, 3))).await;
    scene.stored_up_to("refused", 3).await;
    scene.settled("refused", "ok").await;
    assert_eq!(server.asked("/events", 0), 1);
    wait_for("the other sources to be tried again", || async {
        let tried: i32 = scene
            .database
            .value("select min(failure_streak) from eventloader.source_rate_limit where source_name in ('no-tls', 'mute')")
            .await;
        (tried >= 2).then_some(())
    })
    .await;
    scene.finish(&[&server]).await;
}
