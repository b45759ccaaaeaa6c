//! Names of query parameters, and windows in bodies.

use eventloader::source::EventSource;
use eventloader::sources::http::{Asking, BodyTemplate, HttpOptions, QueryNames};
use reqwest::Method;

use super::{ids, options, source};
use crate::support::http::Server;

fn query(after_id: &str, limit: Option<&str>) -> Asking {
    let limit = limit.map(str::to_owned);
    let names = QueryNames { after_id: after_id.to_owned(), limit };
    Asking { query: Some(names), ..Asking::default() }
}

#[tokio::test]
async fn the_query_has_the_configured_names() {
    let server = Server::with_events(3).await;
    for (asking, want) in [
        (Asking::default(), "after_id=41&limit=10&shop=7"),
        (query("since", Some("size")), "shop=7&since=41&size=10"),
        (query("since", None), "shop=7&since=41"),
    ] {
        let options = HttpOptions { asking, ..options(&server.url_of("/events?shop=7")) };
        source(options).fetch_events(41, 10).await.unwrap();
        let asked = server.log().pop().unwrap();
        let mut pairs: Vec<_> =
            asked.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.sort();
        assert_eq!(pairs.join("&"), want);
        assert_eq!((asked.method.as_str(), asked.body.as_str()), ("GET", ""));
    }
}

#[tokio::test]
async fn a_post_carries_the_window_in_its_body_and_nothing_in_the_query() {
    let server = Server::with_events(3).await;
    let text = r#"{"after_id": "{after_id}", "limit":"{limit}", "q": "id > {after_id}"}"#;
    let body = BodyTemplate::parse(text, |_| None).unwrap();
    let asking = Asking { method: Method::POST, query: None, body: Some(body) };
    let api = source(HttpOptions { asking, ..options(&server.url()) });
    let page = api.fetch_events(1, 10).await.unwrap();
    assert_eq!(ids(&page), [2, 3]);
    let asked = server.log().pop().unwrap();
    assert_eq!(asked.body, r#"{"after_id": 1, "limit":10, "q": "id > 1"}"#);
    assert!(asked.method == "POST" && asked.query.is_empty(), "{asked:?}");
    assert_eq!(asked.headers["content-type"], "application/json");
}

#[tokio::test]
async fn a_post_without_a_place_in_its_body_has_the_window_in_the_query() {
    let server = Server::with_events(3).await;
    let body = BodyTemplate::parse(r#"{"kind":"all"}"#, |_| None).unwrap();
    let asking = Asking { method: Method::POST, body: Some(body), ..Asking::default() };
    let headers = vec![("Content-Type".to_owned(), "application/x+json".to_owned().into())];
    let api = source(HttpOptions { asking, headers, ..options(&server.url()) });
    assert_eq!(ids(&api.fetch_events(2, 10).await.unwrap()), [3]);
    let asked = server.log().pop().unwrap();
    assert_eq!((asked.body.as_str(), asked.query["after_id"].as_str()), (r#"{"kind":"all"}"#, "2"));
    assert_eq!(asked.headers["content-type"], "application/x+json", "the source's own header wins");
}
