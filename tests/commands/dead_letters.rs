//! `eventloader dead-letters …`.

use serde_json::json;

use super::{assert_fails, audited, json, keys, seeded};

const KEYS: [&str; 10] = [
    "attempts",
    "body_bytes",
    "detail",
    "failed_at",
    "id",
    "kind",
    "origin",
    "reason",
    "reference",
    "replayed_at",
];

#[tokio::test]
async fn list_filters_and_show_gives_the_body_verbatim() {
    let (_database, program) = seeded().await;
    let all = json(&program.run(&["dead-letters", "list", "--json"]).await);
    assert_eq!(all.as_array().unwrap().len(), 3);
    assert_eq!(keys(&all[0]), KEYS);
    let filter = ["dead-letters", "list", "--kind", "conflict", "--origin", "orders", "--json"];
    assert_eq!(json(&program.run(&filter).await), json!([all[1]]));
    assert_eq!(
        json(&program.run(&["dead-letters", "list", "--limit", "1", "--json"]).await),
        json!([all[0]])
    );
    assert!(program.run(&["dead-letters", "list"]).await.stdout.contains("REFERENCE"));

    let shown = json(&program.run(&["dead-letters", "show", "1", "--json"]).await);
    let mut want: Vec<&str> = KEYS.into();
    want.insert(1, "body");
    assert_eq!(keys(&shown), want);
    assert_eq!(shown["body"], r#"{"id":7,"n":"seven"}"#);
    let body = program.run(&["dead-letters", "show", "1", "--body"]).await;
    assert_eq!(body.stdout, r#"{"id":7,"n":"seven"}"#);
    let text = program.run(&["dead-letters", "show", "1"]).await;
    assert!(text.stdout.contains("too large") && text.stdout.contains("--body"), "{text:?}");
    let unknown = program.run(&["dead-letters", "show", "99"]).await;
    assert_fails(
        &unknown,
        1,
        &["there is no dead letter 99", "hint: see `eventloader dead-letters list`"],
    );
}

#[tokio::test]
async fn a_replayed_event_takes_its_own_place() {
    let (database, program) = seeded().await;
    let dry = program.run(&["dead-letters", "replay", "1", "--dry-run", "--json"]).await;
    assert_eq!(json(&dry), json!([{ "id": 1, "outcome": "would be replayed" }]));
    assert_eq!(database.value::<i64>("select count(*) from eventloader.event_inbox").await, 0);

    let done = program.run(&["dead-letters", "replay", "1", "--json"]).await;
    assert_eq!(json(&done), json!([{ "id": 1, "outcome": "replayed" }]));
    let moved = json(&program.run(&["retry-worker", "--once", "--json"]).await);
    assert_eq!(moved["moved_count"], 1);
    let (version, payload): (i64, serde_json::Value) =
        sqlx::query_as("select version, payload from eventloader.events where stream = 'orders'")
            .fetch_one(&database.pool)
            .await
            .unwrap();
    assert_eq!((version, payload), (7, json!({ "id": 7, "n": "seven" })));
    let stored: i64 = database
        .value("select last_stored_id from eventloader.source_cursor where source_name = 'orders'")
        .await;
    assert_eq!(stored, 10);
    let (_, action, origin, detail) = audited(&database).await.pop().unwrap();
    assert_eq!((action.as_str(), origin.as_str()), ("replay dead letter", "orders"));
    assert_eq!(detail, json!({ "dead_letter_id": 1, "event_id": 7 }));

    let again = program.run(&["dead-letters", "replay", "1"]).await;
    assert_fails(&again, 1, &["no dead letter 1 that is not replayed", "hint"]);
    let listed = json(&program.run(&["dead-letters", "list", "--replayed", "--json"]).await);
    assert_eq!(listed.as_array().unwrap().len(), 3);
    assert!(listed[2]["replayed_at"].is_string());
}

#[tokio::test]
async fn what_cannot_be_replayed_says_why() {
    let (_database, program) = seeded().await;
    let unasked = program.run(&["dead-letters", "replay", "--all"]).await;
    assert_fails(&unasked, 2, &["Replay 3 dead letters?", "--yes"]);
    let some = program.run(&["dead-letters", "replay", "--all", "--yes"]).await;
    assert_eq!(some.code, Some(1), "{some:?}");
    for part in
        ["dead letter 1: replayed", "dead letter 2: not replayed", "dead letter 3: not replayed"]
    {
        assert!(some.stdout.contains(part), "{some:?}");
    }
    assert!(some.stderr.contains("2 of 3 could not be replayed"), "{some:?}");
}

#[tokio::test]
async fn discard_asks_and_the_audit_log_keeps_what_it_was() {
    let (database, program) = seeded().await;
    let count = "select count(*) from eventloader.dead_letter";
    let unasked = program.run(&["dead-letters", "discard", "2", "3"]).await;
    assert_fails(&unasked, 2, &["Delete 2 dead letters for good?", "--yes", "--dry-run"]);
    let unknown = program.run(&["dead-letters", "discard", "2", "99", "--yes"]).await;
    assert_fails(&unknown, 1, &["no dead letter 99"]);
    let dry = program.run(&["dead-letters", "discard", "2", "--dry-run"]).await;
    assert_eq!(dry.stdout, "dead letter 2: would be discarded\n");
    assert_eq!(database.value::<i64>(count).await, 3);

    let done = program.run(&["dead-letters", "discard", "2", "--yes", "--json"]).await;
    assert_eq!(json(&done), json!([{ "id": 2, "outcome": "discarded" }]));
    assert_eq!(database.value::<i64>(count).await, 2);
    let (_, action, origin, detail) = audited(&database).await.pop().unwrap();
    assert_eq!((action.as_str(), origin.as_str()), ("discard dead letter", "orders"));
    assert_eq!(detail["reference"], "8");

    let filtered = program.run(&["dead-letters", "discard", "--all", "--kind", "conflict"]).await;
    assert_eq!((filtered.code, filtered.stdout.as_str()), (Some(0), "no dead letters\n"));
}

#[tokio::test]
async fn more_can_be_named_than_are_listed() {
    let (database, program) = seeded().await;
    database
        .execute(
            "insert into eventloader.dead_letter (kind, origin, reference, body, reason)
             select 'event', 'orders', n::text, '{}', 'too large' from generate_series(100, 299) n",
        )
        .await;
    let ids: Vec<String> = (1..=203).map(|id| id.to_string()).collect();
    let mut arguments = vec!["dead-letters", "discard", "--yes"];
    arguments.extend(ids.iter().map(String::as_str));
    let done = program.run(&arguments).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(database.value::<i64>("select count(*) from eventloader.dead_letter").await, 0);
}
