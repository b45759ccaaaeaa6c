//! `eventloader requests …`.

use serde_json::json;

use super::{assert_fails, audited, json, keys, seeded};

const REQUEST_KEYS: [&str; 14] = [
    "after_id",
    "attempt",
    "closed_by",
    "created_at",
    "error",
    "event_count",
    "id",
    "limit_count",
    "max_id",
    "owner",
    "retry_at",
    "source_name",
    "status",
    "updated_at",
];

#[tokio::test]
async fn list_filters_and_show_tells_how_to_free_a_window() {
    let (_database, program) = seeded().await;
    let all = json(&program.run(&["requests", "list", "--json"]).await);
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert_eq!(keys(&all[0]), REQUEST_KEYS);
    assert_eq!(all[0]["id"], 2, "newest first");
    let filtered =
        program.run(&["requests", "list", "--source", "bills", "--status", "failed", "--json"]);
    assert_eq!(json(&filtered.await), json!([all[0]]));
    let limited = program.run(&["requests", "list", "--limit", "1", "--json"]).await;
    assert_eq!(json(&limited), json!([all[0]]));
    assert_eq!(
        json(&program.run(&["requests", "list", "--source", "orders", "--json"]).await),
        json!([])
    );
    assert!(
        program.run(&["requests", "list"]).await.stdout.contains("no answer within the timeout")
    );

    assert_eq!(json(&program.run(&["requests", "show", "2", "--json"]).await), all[0]);
    let shown = program.run(&["requests", "show", "2"]).await;
    assert!(shown.stdout.contains("free it with `eventloader requests retry 2`"), "{shown:?}");
}

#[tokio::test]
async fn retry_frees_the_window_for_another_attempt() {
    let (database, program) = seeded().await;
    let row = |dry_run: bool| json!([{ "request_id": 2, "source_name": "bills", "after_id": 20, "dry_run": dry_run }]);
    let dry = program.run(&["requests", "retry", "2", "--dry-run", "--json"]).await;
    assert_eq!(json(&dry), row(true));
    let status = "select status from eventloader.event_request_log where id = 2";
    assert_eq!(database.value::<String>(status).await, "failed");

    let both = program.run(&["requests", "retry", "2", "99"]).await;
    assert_fails(&both, 1, &["there is no request 99", "hint: see `eventloader requests list`"]);
    assert_eq!(database.value::<String>(status).await, "failed", "all or none");
    let done = program.run(&["requests", "retry", "1"]).await;
    assert_fails(&done, 1, &["request 1 is succeeded", "sources seek"]);

    assert_eq!(json(&program.run(&["requests", "retry", "2", "--json"]).await), row(false));
    assert_eq!(database.value::<String>(status).await, "retried");
    let next: i32 = database
        .value("select next_attempt from eventloader.source_cursor where source_name = 'bills'")
        .await;
    assert_eq!(next, 3);
    let (actor, action, origin, detail) = audited(&database).await.pop().unwrap();
    assert_eq!(
        (actor.as_str(), action.as_str(), origin.as_str()),
        ("operator tester", "retry request", "bills")
    );
    assert_eq!(detail, json!({ "request_id": 2, "after_id": 20 }));
    assert_fails(
        &program.run(&["requests", "retry", "2"]).await,
        1,
        &["is retried", "closed already"],
    );
}

#[tokio::test]
async fn skip_gives_a_window_up_and_goes_on_behind_it() {
    let (database, program) = seeded().await;
    let unknown_end = program.run(&["requests", "skip", "2", "--yes"]).await;
    assert_fails(&unknown_end, 2, &["nobody knows where", "--to ID"]);
    let unasked = program.run(&["requests", "skip", "2", "--to", "30"]).await;
    assert_fails(&unasked, 2, &["Never ask bills for the events after 20 up to 30?", "--yes"]);
    let backwards = program.run(&["requests", "skip", "2", "--to", "20", "--yes"]).await;
    assert_fails(&backwards, 2, &["20 is not after 20, where the window of request 2 begins"]);
    let unknown = program.run(&["requests", "skip", "99", "--to", "30", "--yes"]).await;
    assert_fails(&unknown, 1, &["there is no request 99", "hint"]);
    let dry = program.run(&["requests", "skip", "2", "--to", "30", "--dry-run"]).await;
    assert_eq!(dry.stdout, "bills would go on after 30\n", "{dry:?}");
    let cursor =
        "select last_requested_id from eventloader.source_cursor where source_name = 'bills'";
    assert_eq!(database.value::<i64>(cursor).await, 20);

    let done = program.run(&["requests", "skip", "2", "--to", "30", "--yes", "--json"]).await;
    let want = json!({
        "request_id": 2, "source_name": "bills", "after_id": 20, "to": 30, "dry_run": false,
    });
    assert_eq!(json(&done), want);
    assert_eq!(database.value::<i64>(cursor).await, 30);
    let (_, action, _, detail) = audited(&database).await.pop().unwrap();
    assert_eq!(action, "skip request");
    assert_eq!(detail, json!({ "request_id": 2, "after_id": 20, "up_to": 30 }));
}

#[tokio::test]
async fn a_misspelt_source_is_not_an_empty_list() {
    let (_database, program) = seeded().await;
    let misspelt = program.run(&["requests", "list", "--source", "bils"]).await;
    assert_fails(
        &misspelt,
        1,
        &["there is no source \"bils\"", "hint: see `eventloader sources list`"],
    );
    let unknown = program.run(&["requests", "show", "99"]).await;
    assert_fails(&unknown, 1, &["there is no request 99", "hint: see `eventloader requests list`"]);
}
