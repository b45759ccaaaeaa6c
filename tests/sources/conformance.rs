//! What every pull source promises, run by each of them.

use std::any::Any;
use std::io::Write;
use std::sync::{Arc, Mutex};

use eventloader::event::{Event, Item};
use eventloader::mapping::{Mapping, check_order};
use eventloader::source::EventSource;
use eventloader::sources::file::{FileOptions, FileSource};
use eventloader::sources::http::{Clients, HttpOptions, HttpSource};
use eventloader::sources::memory::MemorySource;
use eventloader::sources::sql::{Dialect, SqlOptions, SqlSource};

use super::command::Script;
use crate::sources::sql::{Sql, payload};
use crate::support::http::{Reply, Server};

/// A source, and how events come to be in it.
struct Fixture {
    source: Box<dyn EventSource>,
    push: Box<dyn Fn(&str) + Send + Sync>,
    /// Whether a payload is the very text of the event.
    is_verbatim: bool,
    _keep: Box<dyn Any + Send + Sync>,
}

impl Fixture {
    async fn http() -> Self {
        let events: Arc<Mutex<Vec<(i64, String)>>> = Arc::default();
        let served = Arc::clone(&events);
        let server = Server::start(move |asked| {
            let events = served.lock().unwrap();
            let page: Vec<&str> = events
                .iter()
                .filter(|(id, _)| *id > asked.after_id)
                .take(asked.limit)
                .map(|(_, raw)| raw.as_str())
                .collect();
            Reply::Json(format!("[{}]", page.join(",")))
        })
        .await;
        let options = HttpOptions::new(server.url().parse().unwrap());
        let source = HttpSource::new(&mut Clients::default(), options);
        Self {
            source: Box::new(source.unwrap()),
            push: Box::new(move |raw| events.lock().unwrap().push((id_of(raw), raw.to_owned()))),
            is_verbatim: true,
            _keep: Box::new(server),
        }
    }

    #[expect(clippy::unused_async, reason = "all kinds are set up alike")]
    async fn file() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.ndjson");
        let file = Mutex::new(std::fs::File::create(&path).unwrap());
        let mapping = Mapping::default();
        let source = FileSource::new(FileOptions { path, mapping, max_page_bytes: 1 << 20 });
        Self {
            source: Box::new(source),
            push: Box::new(move |raw| writeln!(file.lock().unwrap(), "{raw}").unwrap()),
            is_verbatim: true,
            _keep: Box::new(directory),
        }
    }

    #[expect(clippy::unused_async, reason = "all kinds are set up alike")]
    async fn command() -> Self {
        let script = Script::new(
            "n=0; touch events; while IFS='\t' read -r id raw; do
                 [ \"$id\" -gt \"$1\" ] || continue
                 [ $n -lt $2 ] || break
                 n=$((n + 1)); printf '%s\\n' \"$raw\"
             done < events",
        );
        let mut open = std::fs::OpenOptions::new();
        let file = Mutex::new(open.append(true).create(true).open(script.path("events")).unwrap());
        Self {
            source: Box::new(script.source()),
            push: Box::new(move |raw| {
                writeln!(file.lock().unwrap(), "{}\t{raw}", id_of(raw)).unwrap();
            }),
            is_verbatim: true,
            _keep: Box::new(script),
        }
    }

    #[expect(clippy::unused_async, reason = "all kinds are set up alike")]
    async fn memory() -> Self {
        let source = Arc::new(MemorySource::new());
        let pushed = Arc::clone(&source);
        Self {
            source: Box::new(Shared(source)),
            push: Box::new(move |raw| pushed.push(&serde_json::from_str(raw).unwrap())),
            is_verbatim: false,
            _keep: Box::new(()),
        }
    }

    async fn postgres() -> Self {
        Self::sql(Sql::postgres().await, "json").await
    }

    async fn mariadb() -> Self {
        Self::sql(Sql::mariadb().await, "json").await
    }

    async fn sqlite() -> Self {
        Self::sql(Sql::sqlite().await, "json").await
    }

    /// A table whose payload is a column of its own.
    async fn sql(database: Sql, json: &str) -> Self {
        let id = if database.dialect() == Dialect::Sqlite { "integer" } else { "bigint" };
        let columns = format!("id {id} not null primary key, body {json}");
        database.run(&format!("create table t ({columns})")).await;
        let options = SqlOptions { mapping: payload("body"), ..database.table("t") };
        let database = Arc::new(database);
        let written = Arc::clone(&database);
        Self {
            source: Box::new(SqlSource::new(options)),
            push: Box::new(move |raw| {
                let insert =
                    format!("insert into t values ({}, '{}')", id_of(raw), written.escaped(raw));
                let database = Arc::clone(&written);
                // Whoever pushes does not wait for futures: a thread does.
                std::thread::scope(|scope| scope.spawn(|| database.run_blocking(&insert)).join())
                    .unwrap();
            }),
            is_verbatim: true,
            _keep: Box::new(database),
        }
    }

    fn push_ids(&self, ids: impl IntoIterator<Item = i64>) {
        for id in ids {
            (self.push)(&format!(r#"{{"id":{id}}}"#));
        }
    }

    async fn events(&self, after_id: i64, limit: u32) -> Vec<Event> {
        let page = self.source.fetch_events(after_id, limit).await.unwrap();
        let ids = page.items.iter().filter_map(Item::id);
        check_order(ids, after_id, limit as usize).unwrap();
        page.items
            .into_iter()
            .map(|item| match item {
                Item::Good(event) => event,
                Item::Bad(bad) => panic!("{bad:?}"),
            })
            .collect()
    }

    async fn ids(&self, after_id: i64, limit: u32) -> Vec<i64> {
        self.events(after_id, limit).await.iter().map(|event| event.id).collect()
    }
}

struct Shared(Arc<MemorySource>);

#[async_trait::async_trait]
impl EventSource for Shared {
    async fn fetch_events(
        &self,
        after_id: i64,
        limit: u32,
    ) -> Result<eventloader::source::Page, eventloader::source::SourceError> {
        self.0.fetch_events(after_id, limit).await
    }
}

fn id_of(raw: &str) -> i64 {
    serde_json::from_str::<serde_json::Value>(raw).unwrap()["id"].as_i64().unwrap()
}

/// Runs every case with each source.
macro_rules! source_conformance {
    ($($case:ident,)*) => {
        source_conformance! { @source http $($case)* }
        source_conformance! { @source file $($case)* }
        source_conformance! { @source command $($case)* }
        source_conformance! { @source memory $($case)* }
        source_conformance! { @source postgres $($case)* }
        source_conformance! { @source mariadb $($case)* }
        source_conformance! { @source sqlite $($case)* }
    };
    (@source $source:ident $($case:ident)*) => {
        mod $source {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Fixture::$source().await).await;
            })*
        }
    };
}

source_conformance! {
    a_source_without_events_answers_an_empty_page,
    pages_follow_each_other_in_order_within_the_limit,
    the_id_asked_after_is_not_in_the_page,
    a_window_asked_again_answers_the_same,
    gaps_are_kept,
    an_id_between_two_events_is_a_good_place_to_begin,
    ids_beyond_doubles_and_at_the_ends_of_bigint_are_exact,
    payloads_are_exact,
    the_tip_is_empty_until_the_source_grows,
}

async fn a_source_without_events_answers_an_empty_page(fixture: Fixture) {
    assert_eq!(fixture.ids(0, 10).await, [0; 0]);
    assert_eq!(fixture.ids(-1, 10).await, [0; 0]);
    assert_eq!(fixture.ids(i64::MAX, 10).await, [0; 0]);
}

async fn pages_follow_each_other_in_order_within_the_limit(fixture: Fixture) {
    fixture.push_ids(1..=25);
    let mut after_id = 0;
    let mut sizes = Vec::new();
    let mut all = Vec::new();
    loop {
        let page = fixture.ids(after_id, 10).await;
        let Some(last) = page.last() else { break };
        after_id = *last;
        sizes.push(page.len());
        all.extend(page);
    }
    assert_eq!(sizes, [10, 10, 5]);
    assert_eq!(all, (1..=25).collect::<Vec<_>>());
}

async fn the_id_asked_after_is_not_in_the_page(fixture: Fixture) {
    fixture.push_ids(1..=5);
    assert_eq!(fixture.ids(3, 10).await, [4, 5]);
    assert_eq!(fixture.ids(4, 1).await, [5]);
    assert_eq!(fixture.ids(0, 1).await, [1]);
}

async fn a_window_asked_again_answers_the_same(fixture: Fixture) {
    fixture.push_ids(1..=9);
    for after_id in [0, 4, 0, 8, 4, 9, 2] {
        let once = fixture.events(after_id, 3).await;
        assert_eq!(once, fixture.events(after_id, 3).await);
        let expected: Vec<i64> = (after_id + 1..=9).take(3).collect();
        assert_eq!(once.iter().map(|event| event.id).collect::<Vec<_>>(), expected);
    }
    // Later events change nothing about a full window.
    fixture.push_ids(10..=12);
    assert_eq!(fixture.ids(4, 3).await, [5, 6, 7]);
    assert_eq!(fixture.ids(8, 3).await, [9, 10, 11]);
}

async fn gaps_are_kept(fixture: Fixture) {
    fixture.push_ids([-7, -1, 0, 3, 1000, 1_000_000]);
    assert_eq!(fixture.ids(-10, 10).await, [-7, -1, 0, 3, 1000, 1_000_000]);
    assert_eq!(fixture.ids(-1, 2).await, [0, 3]);
}

async fn an_id_between_two_events_is_a_good_place_to_begin(fixture: Fixture) {
    fixture.push_ids([10, 20, 30]);
    assert_eq!(fixture.ids(15, 10).await, [20, 30]);
    assert_eq!(fixture.ids(29, 10).await, [30]);
    assert_eq!(fixture.ids(31, 10).await, [0; 0]);
    assert_eq!(fixture.ids(5, 1).await, [10]);
}

async fn ids_beyond_doubles_and_at_the_ends_of_bigint_are_exact(fixture: Fixture) {
    let ids = [i64::MIN + 1, 9_007_199_254_740_993, 9_007_199_254_740_994, i64::MAX - 1, i64::MAX];
    fixture.push_ids(ids);
    assert_eq!(fixture.ids(i64::MIN, 10).await, ids);
    assert_eq!(fixture.ids(9_007_199_254_740_993, 10).await, ids[2..]);
    assert_eq!(fixture.ids(i64::MAX - 1, 10).await, [i64::MAX]);
    assert_eq!(fixture.ids(i64::MAX, 10).await, [0; 0]);
}

async fn payloads_are_exact(fixture: Fixture) {
    let raw = r#"{"id":1, "z":1.10,"a":12345678901234567890.123,"e":1E2,"s":"é\u00e9\/ 😀","n":null,"d":{"b":[],"a":{}}}"#;
    (fixture.push)(raw);
    let page = fixture.events(0, 1).await;
    if fixture.is_verbatim {
        assert_eq!(page[0].payload.as_str(), raw);
    } else {
        let value: serde_json::Value = serde_json::from_str(raw).unwrap();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(page[0].payload.as_str()).unwrap(),
            value
        );
    }
}

async fn the_tip_is_empty_until_the_source_grows(fixture: Fixture) {
    fixture.push_ids(1..=3);
    assert_eq!(fixture.ids(0, 10).await, [1, 2, 3]);
    assert_eq!(fixture.ids(3, 10).await, [0; 0]);
    assert_eq!(fixture.ids(3, 10).await, [0; 0]);
    fixture.push_ids([4]);
    assert_eq!(fixture.ids(3, 10).await, [4]);
    fixture.push_ids(5..=30);
    assert_eq!(fixture.ids(4, 100).await, (5..=30).collect::<Vec<_>>());
    assert_eq!(fixture.ids(30, 100).await, [0; 0]);
}
