//! Tokens of an authorization server, which keeps its own log.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eventloader::source::FailureClass;
use eventloader::sources::http::{Auth, Credentials, HttpOptions, HttpSource, OAuth2};

use super::{fetch, ids, options, refused, source};
use crate::support::database::Database;
use crate::support::http::{Asked, Reply, Server, page};
use crate::support::loading::{Loading, http};
use crate::support::wait_for;

const SECRET: &str = "s3cr&t+";

/// An API that takes the tokens `t1`, `t2`, … from number `least` on.
async fn api(least: usize) -> (Server, Arc<AtomicUsize>) {
    let least = Arc::new(AtomicUsize::new(least));
    let taken_from = Arc::clone(&least);
    let server = Server::start(move |asked| {
        let token = asked.headers.get("authorization").and_then(|v| v.strip_prefix("Bearer t"));
        match token.and_then(|number| number.parse::<usize>().ok()) {
            Some(number) if number >= taken_from.load(Ordering::Relaxed) => {
                Reply::Json(page(asked, 3))
            }
            _ => Reply::Status(401, Vec::new(), Vec::new()),
        }
    })
    .await;
    (server, least)
}

/// A token endpoint that answers `t1`, `t2`, … with a life.
async fn authority(expires_in: &'static str) -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |_| {
        Reply::Json(token(count.fetch_add(1, Ordering::Relaxed) + 1, expires_in))
    })
    .await
}

fn token(number: usize, expires_in: &str) -> String {
    format!(r#"{{"access_token":"t{number}","token_type":"bearer","expires_in":{expires_in}}}"#)
}

fn oauth2(authority: &Server) -> OAuth2 {
    OAuth2 {
        token_url: authority.url_of("/token").parse().unwrap(),
        client_id: "me:too".to_owned(),
        client_secret: SECRET.into(),
        scope: None,
        audience: None,
        credentials: Credentials::Header,
    }
}

fn with(api: &Server, oauth2: OAuth2) -> HttpOptions {
    let auth = Some(Auth::OAuth2(oauth2));
    let lease_ttl = Duration::from_secs(10);
    HttpOptions { auth, lease_ttl, ..options(&api.url()) }
}

fn plain(api: &Server, authority: &Server) -> HttpSource {
    source(with(api, oauth2(authority)))
}

fn form(asked: &Asked) -> HashMap<String, String> {
    url::form_urlencoded::parse(asked.body.as_bytes()).into_owned().collect()
}

#[tokio::test]
async fn one_token_serves_many_requests_also_at_the_same_time() {
    let ((server, _), authority) = (api(1).await, authority("3600").await);
    let api = plain(&server, &authority);
    let (a, b, c) = tokio::join!(fetch(&api), fetch(&api), fetch(&api));
    for page in [a, b, c, fetch(&api).await] {
        assert_eq!(ids(&page.unwrap()), [1, 2, 3]);
    }
    assert_eq!((authority.log().len(), server.log().len()), (1, 4));
    let asked = &authority.log()[0];
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/token"));
    // Both parts are encoded like a form, then joined: `me%3Atoo:s3cr%26t%2B`.
    assert_eq!(asked.headers["authorization"], "Basic bWUlM0F0b286czNjciUyNnQlMkI=");
    assert_eq!(asked.headers["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(
        form(asked),
        HashMap::from([("grant_type".to_owned(), "client_credentials".to_owned())])
    );
}

#[tokio::test]
async fn credentials_scope_and_audience_can_be_in_the_body() {
    let ((server, _), authority) = (api(1).await, authority("3600").await);
    let (scope, audience) = (Some("read:events x".to_owned()), Some("https://api/".to_owned()));
    let credentials = Credentials::Body;
    let oauth2 = OAuth2 { scope, audience, credentials, ..oauth2(&authority) };
    assert!(!format!("{oauth2:?}").contains(SECRET));
    fetch(&source(with(&server, oauth2))).await.unwrap();
    let asked = &authority.log()[0];
    assert!(!asked.headers.contains_key("authorization"));
    let form = form(asked);
    for (name, want) in [
        ("client_id", "me:too"),
        ("client_secret", SECRET),
        ("scope", "read:events x"),
        ("audience", "https://api/"),
    ] {
        assert_eq!(form[name], want);
    }
}

#[tokio::test]
async fn a_token_is_renewed_before_it_runs_out() {
    let ((server, least), authority) = (api(1).await, authority("1").await);
    let api = plain(&server, &authority);
    fetch(&api).await.unwrap();
    assert_eq!(authority.log().len(), 1);
    tokio::time::sleep(Duration::from_millis(950)).await;
    least.store(2, Ordering::Relaxed);
    fetch(&api).await.unwrap();
    assert_eq!(authority.log().len(), 2, "a tenth of its life before its end");
}

#[tokio::test]
async fn a_refused_token_is_replaced_by_the_next_request() {
    let ((server, least), authority) = (api(1).await, authority("3600").await);
    let api = plain(&server, &authority);
    fetch(&api).await.unwrap();
    least.store(2, Ordering::Relaxed);
    let error = refused(&api).await;
    assert_eq!(error.class, FailureClass::Refused, "{error}");
    assert!(error.reason.contains("the next request fetches a new one"), "{error}");
    assert_eq!((authority.log().len(), server.log().len()), (1, 2), "no hidden second request");
    fetch(&api).await.unwrap();
    // A new token that is refused is somebody's mistake.
    least.store(9, Ordering::Relaxed);
    assert_eq!(refused(&api).await.class, FailureClass::Refused);
    let error = refused(&api).await;
    assert_eq!(error.class, FailureClass::Rejected, "{error}");
    assert!(error.reason.contains("401"), "{error}");
}

#[tokio::test]
async fn without_a_token_the_source_is_not_asked() {
    let (server, _) = api(1).await;
    let body = |text: &str| Reply::Status(200, Vec::new(), text.as_bytes().to_vec());
    let error = |status: u16, text: &str| {
        Reply::Status(status, vec![("retry-after", "9".to_owned())], text.as_bytes().to_vec())
    };
    let echo = format!(r#"{{"error":"invalid_client","error_description":"no {SECRET}\u001b"}}"#);
    for (reply, class, reason) in [
        (
            error(401, &echo),
            FailureClass::Rejected,
            r"401 Unauthorized (invalid_client: no ***\u001b)",
        ),
        (error(400, r#"{"error":"invalid_scope"}"#), FailureClass::Rejected, "(invalid_scope)"),
        (error(404, "nothing"), FailureClass::Rejected, "404 Not Found; check token_url"),
        (
            Reply::Status(302, vec![("location", server.url())], Vec::new()),
            FailureClass::Rejected,
            "redirects are not followed",
        ),
        (error(500, "oh"), FailureClass::NotSent, "answered 500"),
        (error(429, ""), FailureClass::NotSent, "answered 429"),
        (body("{"), FailureClass::NotSent, "without an access_token"),
        (body(r#"{"access_token":5}"#), FailureClass::NotSent, "without an access_token"),
        (body(r#"{"access_token":"a\nb"}"#), FailureClass::NotSent, "no header can hold"),
        (
            body(r#"{"access_token":"a","token_type":"mac"}"#),
            FailureClass::Rejected,
            "type \"mac\", not Bearer",
        ),
        (body(&" ".repeat(100_000)), FailureClass::NotSent, "more than 65536 bytes"),
        (Reply::Drop, FailureClass::NotSent, "gave no token: the connection broke"),
        (Reply::Drip(Duration::from_millis(50)), FailureClass::NotSent, "not answer in time"),
        (
            Reply::After(Duration::from_secs(5), Box::new(Reply::Drop)),
            FailureClass::NotSent,
            "not answer in time",
        ),
    ] {
        let reply = std::sync::Mutex::new(Some(reply));
        let authority = Server::start(move |_| reply.lock().unwrap().take().unwrap()).await;
        let timeout = Duration::from_secs(1);
        let api = source(HttpOptions { timeout, ..with(&server, oauth2(&authority)) });
        let error = refused(&api).await;
        assert_eq!(error.class, class, "{error}");
        assert!(error.reason.contains(reason), "{error} should say {reason}");
        assert!(error.reason.starts_with("no request was sent: the token endpoint at 127.0.0.1"));
        assert!(!error.reason.contains(SECRET) && !error.reason.contains('\u{1b}'), "{error}");
        let asks_to_wait =
            error.reason.contains("answered 4") || error.reason.contains("answered 5");
        assert_eq!(error.retry_after, asks_to_wait.then_some(Duration::from_secs(9)), "{error}");
        assert_eq!(authority.log().len(), 1, "{error}");
    }
    assert!(server.log().is_empty(), "the source was asked");
}

/// The grant may be too old by then, so the request is not sent; but the token is kept.
#[tokio::test]
async fn a_token_that_comes_late_is_used_by_the_next_request() {
    let (server, _) = api(1).await;
    let authority = Server::start(|_| {
        Reply::After(Duration::from_millis(400), Box::new(Reply::Json(token(1, "3600"))))
    })
    .await;
    let lease_ttl = Duration::from_millis(500);
    let api = source(HttpOptions { lease_ttl, ..with(&server, oauth2(&authority)) });
    let error = refused(&api).await;
    assert_eq!(error.class, FailureClass::NotSent, "{error}");
    assert!(error.reason.contains("longer than half of lease_ttl = 500ms"), "{error}");
    assert!(server.log().is_empty());
    fetch(&api).await.unwrap();
    assert_eq!((authority.log().len(), server.log().len()), (1, 1));
}

/// Two instances, leases of half a second, and a token endpoint that is slow for every other request: the source never
/// sees two requests closer than the spacing, and no window twice.
#[tokio::test]
async fn slow_tokens_keep_the_spacing_and_ask_no_window_twice() {
    let (server, _) = api(1).await;
    let count = AtomicUsize::new(0);
    let authority = Server::start(move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        let delay = Duration::from_millis(if number.is_multiple_of(2) { 150 } else { 350 });
        // The late ones live long enough to be used by the next request, the others serve one.
        let life = if number.is_multiple_of(2) { "0" } else { "2" };
        Reply::After(delay, Box::new(Reply::Json(token(number, life))))
    })
    .await;
    let mut given = http("api", &server.url());
    given.settings.lease_ttl = Duration::from_millis(500);
    given.settings.batch_size = 1;
    let lease_ttl = given.settings.lease_ttl;
    *given.options() = HttpOptions { lease_ttl, ..with(&server, oauth2(&authority)) };
    let database = Database::migrated().await;
    let one = Loading::start(&database, std::slice::from_ref(&given)).await;
    let two = Loading::start(&database, &[given]).await;
    wait_for("all events", || async {
        let stored: i64 = database.value("select count(*) from eventloader.events").await;
        (stored == 3).then_some(())
    })
    .await;
    one.stop().await;
    two.stop().await;
    for after_id in 0..3 {
        assert_eq!(server.asked("/events", after_id), 1, "window after {after_id}");
    }
    for pair in server.log().windows(2) {
        let gap = pair[1].at - pair[0].at;
        assert!(gap >= Duration::from_millis(200), "{gap:?} between two requests");
    }
    assert!(!authority.log().is_empty());
}
