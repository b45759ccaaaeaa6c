//! Changes through the API do what the command line does, and are in the audit log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::StatusCode;
use serde_json::json;

use crate::support::admin::{Administered, http_sources};
use crate::support::database::Database;
use crate::support::http::{Reply, Server, page};
use crate::support::wait_for;

#[tokio::test]
async fn a_held_window_is_retried_and_another_skipped() {
    let database = Database::migrated().await;
    let works = Arc::new(AtomicBool::new(false));
    let is_working = Arc::clone(&works);
    let server = Server::start(move |asked| {
        if asked.path == "/retried" && is_working.load(Ordering::Relaxed) || asked.after_id >= 50 {
            return Reply::Json(page(asked, 60));
        }
        Reply::Drop
    })
    .await;
    let sources = ["retried", "skipped"].map(|name| (name, server.url_of(&format!("/{name}")), ""));
    let running = Administered::start(&database, &http_sources(&sources)).await;
    let held = async |name: &str| {
        wait_for("a held window", || async {
            let (_, status) = running.json("/api/v1/status").await;
            let sources = status["sources"].as_array()?.clone();
            let source = sources.into_iter().find(|source| source["source_name"] == name)?;
            (source["state"] == "held").then(|| source["held_request_id"].as_i64().unwrap())
        })
        .await
    };
    let (retried, skipped) = (held("retried").await, held("skipped").await);
    assert_eq!(server.asked("/retried", 0), 1, "it is not asked again by itself");

    works.store(true, Ordering::Relaxed);
    let (status, said) =
        running.post(&format!("/api/v1/requests/{retried}/retry"), &json!({})).await;
    assert_eq!((status, &said["source_name"]), (StatusCode::OK, &json!("retried")), "{said}");
    let (status, said) =
        running.post(&format!("/api/v1/requests/{skipped}/skip"), &json!({})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "nobody knows where it ends: {said}");
    let (status, said) =
        running.post(&format!("/api/v1/requests/{skipped}/skip"), &json!({ "to": 50 })).await;
    assert_eq!((status, &said["to"]), (StatusCode::OK, &json!(50)), "{said}");
    wait_for("both to get on", || async {
        let count: i64 = database.value("select count(*) from eventloader.events").await;
        (count == 60 + 10).then_some(())
    })
    .await;
    assert_eq!(server.asked("/retried", 0), 2, "once, and once more by hand");
    let (status, said) =
        running.post(&format!("/api/v1/requests/{retried}/retry"), &json!({})).await;
    assert_eq!(status, StatusCode::CONFLICT, "{said}");
    let (status, said) = running.post("/api/v1/requests/999999/retry", &json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{said}");
    let actions: Vec<String> = database
        .column("select distinct actor || ': ' || action from eventloader.audit_log order by 1")
        .await;
    assert_eq!(
        actions,
        ["operator (admin server): retry request", "operator (admin server): skip request"]
    );
    let (_, request) = running.json(&format!("/api/v1/requests/{retried}")).await;
    assert_eq!(request["status"], "retried");
    running.stop().await;
}

#[tokio::test]
async fn a_source_is_paused_and_resumed() {
    let database = Database::migrated().await;
    let server = Server::with_events(5).await;
    let sources = http_sources(&[("api", server.url(), "")]);
    let running = Administered::start(&database, &sources).await;
    let (status, _) =
        running.post("/api/v1/sources/api/pause", &json!({ "reason": "the shop moves" })).await;
    assert_eq!(status, StatusCode::OK);
    wait_for("the pause", || async {
        let (_, status) = running.json("/api/v1/status").await;
        let source = &status["sources"][0];
        (source["state"] == "paused" && source["reason"] == "the shop moves").then_some(())
    })
    .await;
    let (status, said) = running.post("/api/v1/sources/none/resume", &json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{said}");
    let (status, said) = running.post("/api/v1/sources/api/pause", &json!([1])).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{said}");
    let (status, _) = running.post("/api/v1/sources/api/resume", &json!({})).await;
    assert_eq!(status, StatusCode::OK);
    wait_for("the end of the pause", || async {
        let (_, status) = running.json("/api/v1/status").await;
        (status["sources"][0]["state"] == "ok").then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn dead_letters_are_shown_replayed_and_discarded() {
    let database = Database::migrated().await;
    // Too large for the limit that the source has now; the second stays so.
    let body =
        |id: i64, size: usize| format!(r#"{{"id":{id},"text":"<script>{}"}}"#, "x".repeat(size));
    let lines = [body(1, 2000), body(2, 2000), body(3, 9)].join("\n") + "\n";
    let source = |limit: &str| {
        format!(
            "[sources.log]\ntype = \"file\"\npath = \"log.ndjson\"\nmax_event_bytes = \"{limit}\"\n"
        )
    };
    let running = Administered::start(&database, &source("1KiB")).await;
    std::fs::write(running.program.path("log.ndjson"), lines).unwrap();
    let letters = wait_for("two dead letters", || async {
        let (_, letters) = running.json("/api/v1/dead-letters?origin=log&kind=event").await;
        (letters.as_array()?.len() == 2).then_some(letters)
    })
    .await;
    let id = letters[1]["id"].as_i64().unwrap();
    let (_, letter) = running.json(&format!("/api/v1/dead-letters/{id}")).await;
    assert!(
        letter["body"].as_str().unwrap().starts_with(r#"{"id":1,"text":"<script>"#),
        "{letter}"
    );
    let page = running.text(&format!("/?letter={id}")).await;
    assert!(page.contains("&lt;script&gt;xxx") && !page.contains("<script>xxx"));

    let (status, said) = running.post("/api/v1/dead-letters/replay", &json!({})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "which? {said}");
    let (_, said) = running.post("/api/v1/dead-letters/replay", &json!({ "ids": [id] })).await;
    assert!(said[0]["outcome"].as_str().unwrap().contains("still cannot be stored"), "{said}");
    // The limit is raised, and the file read again.
    let configuration = running.program.read("eventloader.toml").replace("1KiB", "1MiB");
    std::fs::write(running.program.path("eventloader.toml"), configuration).unwrap();
    crate::support::program::signal(&running.child, rustix::process::Signal::HUP);
    wait_for("the reload", || async {
        running.program.read("log").contains("was reloaded").then_some(())
    })
    .await;
    let (status, said) = running
        .post("/api/v1/dead-letters/replay", &json!({ "all": true, "origin": "log", "limit": 1 }))
        .await;
    assert_eq!((status, said.as_array().unwrap().len()), (StatusCode::OK, 1), "{said}");
    let (_, said) = running.post("/api/v1/dead-letters/discard", &json!({ "ids": [id] })).await;
    assert_eq!(said[0]["outcome"], "discarded", "{said}");
    let (status, said) =
        running.post("/api/v1/dead-letters/discard", &json!({ "ids": [id] })).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{said}");
    wait_for("the replayed event", || async {
        let ids: Vec<i64> =
            database.column("select version from eventloader.events order by 1").await;
        (ids == [2, 3]).then_some(())
    })
    .await;
    running.stop().await;
}
