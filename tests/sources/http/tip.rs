//! Staying behind the tip of an API whose ids become visible out of order.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use eventloader::mapping::Mapping;
use eventloader::sources::http::HttpOptions;

use super::{fetch, ids, options, source};
use crate::support::http::{Reply, Server};

/// Events 1, 2, … of these ages in seconds, by the server's clock; the one but last is dated years ahead, the last has no
/// time.
async fn aged(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static, shows: bool) -> Server {
    Server::start(move |_| {
        let now = now();
        let item = |(id, age): (i64, i64)| {
            let at = (now - TimeDelta::seconds(age)).to_rfc3339();
            format!(r#"{{"id":{id},"at":"{at}"}}"#)
        };
        let items: Vec<String> = (1..).zip([900, 500, 20, 900, -99_000_000]).map(item).collect();
        let date = now.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let headers = if shows { vec![("date", date)] } else { Vec::new() };
        let body = format!(r#"[{},{{"id":6}}]"#, items.join(","));
        Reply::Status(200, headers, body.into_bytes())
    })
    .await
}

async fn loaded(server: &Server, tip_lag: u64) -> Vec<i64> {
    let occurred_at = Some("/at".parse().unwrap());
    let mapping = Mapping { occurred_at, ..Mapping::default() };
    let tip_lag = Some(Duration::from_secs(tip_lag));
    let options = HttpOptions { mapping, tip_lag, ..options(&server.url()) };
    assert!(options.guarantee().contains("tip_lag"), "{}", options.guarantee());
    ids(&fetch(&source(options)).await.unwrap())
}

#[tokio::test]
async fn a_page_ends_before_what_is_too_young_by_the_clock_of_the_source() {
    let hour = TimeDelta::hours(1);
    for server in [
        aged(Utc::now, true).await,
        aged(Utc::now, false).await,
        aged(move || Utc::now() + hour, true).await,
        aged(move || Utc::now() - hour, true).await,
    ] {
        assert_eq!(
            loaded(&server, 5).await,
            [1, 2, 3, 4, 5, 6],
            "no time, or no possible one, is old"
        );
        assert_eq!(loaded(&server, 60).await, [1, 2]);
        assert_eq!(loaded(&server, 3600).await, [0; 0], "a page that is cut to nothing is empty");
    }
}
