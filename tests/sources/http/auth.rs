//! Credentials that stay the same.

use eventloader::sources::http::{Auth, HttpOptions};

use super::{fetch, options, source};
use crate::support::http::Server;

#[tokio::test]
async fn every_request_says_who_asks() {
    let server = Server::with_events(3).await;
    for (auth, name, want) in [
        (Auth::Bearer { token: "t0ken".into() }, "authorization", "Bearer t0ken"),
        (
            Auth::Basic { username: "me".to_owned(), password: "p@ß:".into() },
            "authorization",
            "Basic bWU6cEDDnzo=",
        ),
        (Auth::Header { name: "X-Api-Key".to_owned(), value: "k3y".into() }, "x-api-key", "k3y"),
    ] {
        let options = HttpOptions { auth: Some(auth), ..options(&server.url()) };
        let shown = format!("{options:?}");
        let api = source(options);
        fetch(&api).await.unwrap();
        fetch(&api).await.unwrap();
        for asked in &server.log()[server.log().len() - 2..] {
            assert_eq!(asked.headers.get(name).map(String::as_str), Some(want));
        }
        assert!(!["t0ken", "p@ß", "k3y"].iter().any(|secret| shown.contains(secret)), "{shown}");
    }
}
