//! What sources may send, end to end: each event is stored with the value that was sent, judged by the source's own bytes
//! and a parser of the tests' own, or is a dead letter verbatim, with its reason; its neighbours go on.

mod corpus;
mod exact;
mod fuzzed;
mod numbers;
mod pages;
mod structure;
mod text;
mod times;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use eventloader::consumer::{ConsumedSource, ConsumerSettings};
use eventloader::mapping::Mapping;
use eventloader::mapping::message::MessageMapping;
use eventloader::source::queue::Message;
use eventloader::sources::memory_queue::MemoryQueue;

use crate::support::consuming::Consuming;
use crate::support::database::Database;
use crate::support::http::{Reply, Server};
use crate::support::loading::{Given, Loading, http};
use crate::support::wait_for;
use corpus::{Fate, Row, corpus};
use exact::parse;
use pages::PAGES;
use times::TIMES;

/// The first id; every event of the corpus has an ordinary one after it.
const FIRST_ID: i64 = 1000;

/// Each row with its event.
fn events(rows: &[Row]) -> Vec<(i64, &Row, Vec<u8>)> {
    let ids = (FIRST_ID..).step_by(2);
    ids.zip(rows).map(|(id, row)| (id, row, row.event(id))).collect()
}

fn neighbour(id: i64) -> Vec<u8> {
    format!(r#"{{"id":{id},"n":"neighbour"}}"#).into_bytes()
}

/// Stored or set aside, as the database shows it.
struct Outcome {
    /// The payload and the time in microseconds, by version.
    stored: BTreeMap<i64, (String, Option<String>)>,
    /// Body and reason.
    letters: Vec<(Vec<u8>, String)>,
}

impl Outcome {
    async fn read(database: &Database, stream: &str) -> Self {
        let stored: Vec<(i64, String, Option<String>)> = sqlx::query_as(
            "select version, payload::text, (extract(epoch from occurred_at) * 1000000)::bigint::text
             from eventloader.events where stream = $1",
        )
        .bind(stream)
        .fetch_all(&database.pool)
        .await
        .unwrap();
        let letters =
            sqlx::query_as("select body, reason from eventloader.dead_letter where origin = $1")
                .bind(stream)
                .fetch_all(&database.pool)
                .await
                .unwrap();
        let stored = stored.into_iter().map(|(id, payload, at)| (id, (payload, at))).collect();
        Self { stored, letters }
    }

    /// What is wrong with what became of a row; `None`: nothing.
    fn fault(&self, id: i64, row: &Row, sent: &[u8]) -> Option<String> {
        let letters: Vec<_> = self.letters.iter().filter(|(body, _)| body == sent).collect();
        let found = (self.stored.get(&id), letters.as_slice());
        match (row.fate, found) {
            (Fate::Stored, (Some((payload, at)), [])) => {
                let want = parse(std::str::from_utf8(sent).unwrap()).unwrap().value;
                let time = TIMES.iter().find(|(name, ..)| row.name == format!("time: {name}"));
                if parse(payload).unwrap().value != want {
                    return Some("is stored with another value".to_owned());
                }
                let want = time.map(|(_, _, microseconds)| *microseconds);
                (at.as_deref() != want).then(|| format!("occurred at {at:?}, expected {want:?}"))
            }
            (Fate::Aside(want), (None, [(_, reason)])) => (!reason.contains(want))
                .then(|| format!("has the reason {reason:?}, expected {want:?}")),
            (Fate::NoJson, (None, [(_, reason)])) => {
                let is_said = reason.contains("is not JSON") || reason.contains("is not UTF-8");
                (!is_said).then(|| format!("has the reason {reason:?}"))
            }
            (fate, (stored, letters)) => {
                let reasons: Vec<_> = letters.iter().map(|(_, reason)| reason).collect();
                Some(format!(
                    "is stored: {}, dead letters: {reasons:?}, expected {fate:?}",
                    stored.is_some()
                ))
            }
        }
    }

    /// Checks all rows and tells all that is wrong.
    fn check(self, rows: Vec<Row>) {
        with_stack(move || {
            let faults: Vec<String> = events(&rows)
                .iter()
                .filter_map(|(id, row, sent)| {
                    Some(format!("{} {}", row.name, self.fault(*id, row, sent)?))
                })
                .collect();
            assert!(faults.is_empty(), "{}", faults.join("\n"));
        });
    }
}

async fn stored_up_to(database: &Database, source_name: &str, id: i64) {
    wait_for(&format!("{source_name} to be stored up to {id}"), || async {
        (database.last_stored_id(source_name).await >= id).then_some(())
    })
    .await;
}

#[test]
fn the_corpus_is_as_large_and_as_mixed_as_it_says() {
    let rows = corpus();
    let count = |fate: fn(&Fate) -> bool| rows.iter().filter(|row| fate(&row.fate)).count();
    assert!(rows.len() >= 200, "{} rows", rows.len());
    assert!(count(|fate| *fate == Fate::Stored) >= 100);
    assert!(count(|fate| matches!(fate, Fate::Aside(_))) >= 60);
    assert!(count(|fate| *fate == Fate::NoJson) >= 60);
    with_stack(move || rows.iter().for_each(agrees));
}

/// Checks that the parser that judges sees in a row what the table says of it.
fn agrees(row: &Row) {
    const PRINTED_DIGITS_MAX: u64 = 16 << 20;
    let event = row.event(FIRST_ID);
    let parsed = std::str::from_utf8(&event).ok().and_then(parse);
    let is_storable = parsed
        .as_ref()
        .map(|parsed| parsed.flaws.is_empty() && parsed.printed_digits < PRINTED_DIGITS_MAX);
    let is_about_more = row.name.starts_with("time: ") || event.len() > 1 << 20;
    match (row.fate, is_storable) {
        (Fate::Stored, Some(true)) | (Fate::Aside(_), Some(false)) | (Fate::NoJson, None) => {}
        (Fate::Aside(_), Some(true)) if is_about_more => {}
        (fate, _) => panic!("{} is expected {fate:?}, the parser says {is_storable:?}", row.name),
    }
}

/// Deep values want a deep stack.
fn with_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(256 << 20).spawn(work).unwrap().join().unwrap();
}

#[tokio::test]
async fn over_http_each_event_is_stored_with_its_value_or_set_aside_verbatim() {
    const PAGE_LENGTH: usize = 20;
    let mut rows = corpus();
    rows.retain(|row| row.fate != Fate::NoJson);
    let mut served: Vec<(i64, Vec<u8>)> = Vec::new();
    for (id, _, event) in events(&rows) {
        served.extend([(id, event), (id + 1, neighbour(id + 1))]);
    }
    let (last_id, event_count) = (served.last().unwrap().0, served.len());
    let server = Server::start(move |asked| {
        let later = served.iter().filter(|(id, _)| *id > asked.after_id);
        let page: Vec<&[u8]> = later.take(PAGE_LENGTH).map(|(_, event)| event.as_slice()).collect();
        Reply::Status(200, Vec::new(), [b"[", page.join(&b',').as_slice(), b"]"].concat())
    })
    .await;
    let database = Database::migrated().await;
    let mut given = http("api", &server.url());
    given.settings.min_interval = Duration::from_millis(10);
    given.options().mapping.occurred_at = Some("/at".parse().unwrap());
    let loading = Loading::start(&database, &[given]).await;
    stored_up_to(&database, "api", last_id).await;
    loading.stop().await;
    let outcome = Outcome::read(&database, "api").await;
    assert_eq!(outcome.stored.len() + outcome.letters.len(), event_count);
    for id in (FIRST_ID + 1..=last_id).step_by(2) {
        let (payload, _) = &outcome.stored[&id];
        assert_eq!(
            parse(payload).unwrap().value,
            parse(std::str::from_utf8(&neighbour(id)).unwrap()).unwrap().value
        );
    }
    outcome.check(rows);
    // Nothing was asked twice but the tip.
    let windows = server.windows();
    let before_tip: Vec<_> = windows.iter().filter(|after_id| **after_id < last_id).collect();
    assert_eq!(before_tip.len(), event_count.div_ceil(PAGE_LENGTH));
}

#[tokio::test]
async fn over_http_a_page_that_is_none_is_kept_verbatim_and_other_sources_go_on() {
    let broken = corpus().into_iter().filter(|row| row.fate == Fate::NoJson).map(|row| {
        let page = [b"[{\"id\":1001},", row.event(1002).as_slice(), b",{\"id\":1003}]"].concat();
        (row.name, page, "the body is not ")
    });
    let pages = PAGES
        .iter()
        .map(|(name, page, reason)| (format!("page: {name}"), page.as_bytes().to_vec(), *reason));
    let all: Vec<(String, Vec<u8>, &str)> = broken.chain(pages).collect();
    let served: Vec<Vec<u8>> = all.iter().map(|(_, page, _)| page.clone()).collect();
    let server = Server::start(move |asked| {
        let page =
            asked.path.trim_start_matches('/').parse().ok().and_then(|n: usize| served.get(n));
        page.map_or(Reply::Drop, |page| Reply::Status(200, Vec::new(), page.clone()))
    })
    .await;
    let healthy = Server::with_events(50).await;
    let database = Database::migrated().await;
    let mut given: Vec<Given> = (0..all.len())
        .map(|n| Given {
            start_after: FIRST_ID,
            ..http(&format!("s{n}"), &server.url_of(&format!("/{n}")))
        })
        .collect();
    given.push(http("healthy", &healthy.url()));
    let loading = Loading::start(&database, &given).await;
    let count = i64::try_from(all.len()).unwrap();
    wait_for("all pages to be held", || async {
        let held: i64 = database
            .value("select count(*) from eventloader.source_status where state = 'held' and last_requested_id = 1000")
            .await;
        (held == count).then_some(())
    })
    .await;
    stored_up_to(&database, "healthy", 50).await;
    loading.stop().await;
    for (n, (name, page, reason)) in all.iter().enumerate() {
        let outcome = Outcome::read(&database, &format!("s{n}")).await;
        let [(body, said)] = outcome.letters.as_slice() else {
            panic!("{name}: {:?}", outcome.letters)
        };
        assert_eq!(body, page, "{name} is not kept verbatim");
        assert!(said.contains(reason), "{name}: {said}");
        assert!(outcome.stored.is_empty(), "{name}");
        assert_eq!(server.asked(&format!("/{n}"), FIRST_ID), 1, "{name} was asked again");
    }
}

#[tokio::test]
async fn as_messages_each_event_is_stored_with_its_value_or_set_aside_verbatim() {
    let rows = corpus();
    let queue = MemoryQueue::new();
    let push = |id: i64, body: Vec<u8>| {
        queue.push(Message {
            version: Some(id),
            reference: id.to_string(),
            body: body.into(),
            routed_as: "q".into(),
            ..Message::default()
        });
    };
    for (id, _, event) in events(&rows) {
        push(id, event);
        push(id + 1, neighbour(id + 1));
    }
    let last_id = FIRST_ID + 2 * i64::try_from(rows.len()).unwrap() - 1;
    let database = Database::migrated().await;
    let occurred_at = Some("/at".parse().unwrap());
    let mapping = MessageMapping { occurred_at, ..MessageMapping::default() };
    let settings = ConsumerSettings { mapping, ..ConsumerSettings::default() };
    let source = ConsumedSource::new("q", Arc::new(queue.clone())).with_settings(settings);
    let consuming = Consuming::start(&database, vec![source]).await;
    wait_for("an empty queue", || async { (queue.left() == 0).then_some(()) }).await;
    stored_up_to(&database, "q", last_id).await;
    consuming.stop().await;
    let outcome = Outcome::read(&database, "q").await;
    assert_eq!(outcome.stored.len() + outcome.letters.len(), 2 * rows.len());
    let neighbours = (FIRST_ID + 1..=last_id).step_by(2);
    assert!(neighbours.clone().all(|id| outcome.stored.contains_key(&id)));
    outcome.check(rows);
}
