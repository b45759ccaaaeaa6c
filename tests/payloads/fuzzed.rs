//! Pages that fuzzing found, one a line: what the screen passes of them, PostgreSQL holds unchanged.

use bytes::Bytes;
use eventloader::event::Item;

use super::exact::{Exact, parse};
use super::{Database, Mapping};

const PAGES: &str = include_str!("fuzzed.txt");

#[tokio::test]
async fn what_passes_the_screen_is_held_by_postgres() {
    let mapping = Mapping::default();
    let mut payloads = Vec::new();
    for line in PAGES.lines() {
        let items = mapping.items_of_page(&Bytes::from(line)).unwrap();
        for item in items {
            if let Item::Good(event) = item {
                let id = parse(event.payload.as_str())
                    .unwrap()
                    .value
                    .step("id")
                    .and_then(Exact::integer);
                assert_eq!(id, Some(event.id), "{line}");
                payloads.push(event.payload.as_str().to_owned());
            }
        }
    }
    assert!(payloads.len() > 200, "only {} payloads", payloads.len());
    let database = Database::empty().await;
    let held: Vec<String> = sqlx::query_scalar(
        "select p::jsonb::text from unnest($1::text[]) with ordinality u (p, n) order by n",
    )
    .bind(&payloads)
    .fetch_all(&database.pool)
    .await
    .unwrap();
    for (sent, held) in payloads.iter().zip(&held) {
        assert_eq!(parse(sent).unwrap().value, parse(held).unwrap().value, "{sent}");
    }
}
