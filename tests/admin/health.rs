//! `/healthz`, `/readyz` and `eventloader healthcheck`.

use reqwest::StatusCode;
use serde_json::Value;

use crate::support::admin::{Administered, http_sources};
use crate::support::database::Database;
use crate::support::http::{Reply, Server, page};
use crate::support::program::Program;
use crate::support::wait_for;

fn told(ready: &Value, source_name: &str) -> Option<Value> {
    let sources = ready["sources_not_ready"].as_array()?;
    sources.iter().find(|source| source["source_name"] == source_name).cloned()
}

#[tokio::test]
async fn a_source_that_stalls_is_told_with_its_state_and_since_when() {
    let database = Database::migrated().await;
    let server = Server::start(|asked| match asked.path.as_str() {
        "/good" => Reply::Json(page(asked, 5)),
        "/rejects" => Reply::Status(401, vec![], vec![]),
        _ => Reply::Drop,
    })
    .await;
    let sources =
        ["good", "rejects", "breaks"].map(|name| (name, server.url_of(&format!("/{name}")), ""));
    let running = Administered::start(&database, &http_sources(&sources)).await;

    let ready = wait_for("two sources that are told", || async {
        let (status, ready) = running.json("/readyz").await;
        assert_eq!(status, StatusCode::OK, "nothing has stalled yet: {ready}");
        (told(&ready, "breaks").is_some() && told(&ready, "rejects").is_some()).then_some(ready)
    })
    .await;
    assert_eq!(told(&ready, "breaks").unwrap()["state"], "held");
    assert_eq!(told(&ready, "rejects").unwrap()["state"], "rejected");
    assert_eq!(told(&ready, "good"), None);

    // What a minute would do.
    database
        .execute("update eventloader.event_request_log set updated_at = updated_at - interval '61 s' where status = 'failed'")
        .await;
    let ready = wait_for("a source that has stalled", || async {
        let (status, ready) = running.json("/readyz").await;
        (status == StatusCode::SERVICE_UNAVAILABLE).then_some(ready)
    })
    .await;
    assert_eq!(ready["why"], serde_json::json!(["breaks has stalled"]), "{ready}");
    assert_eq!(told(&ready, "breaks").unwrap()["is_stalled"], true);
    let (status, health) = running.json("/healthz").await;
    assert_eq!((status, &health["healthy"]), (StatusCode::OK, &Value::Bool(true)), "{health}");
    assert_eq!(running.metric("eventloader_source_stalled{source=\"breaks\"}").await, Some(1.0));
    assert_eq!(running.metric("eventloader_source_stalled{source=\"good\"}").await, Some(0.0));

    // A paused source is not expected to get on.
    let (status, _) = running.post("/api/v1/sources/breaks/pause", &serde_json::json!({})).await;
    assert_eq!(status, StatusCode::OK);
    wait_for("readiness", || async {
        let (status, ready) = running.json("/readyz").await;
        assert_ne!(ready["why"], "");
        (status == StatusCode::OK && told(&ready, "breaks")?["state"] == "paused").then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn without_its_database_it_is_alive_and_not_ready() {
    let database = Database::migrated().await;
    let server = Server::with_events(5).await;
    let sources = http_sources(&[("api", server.url(), "")]);
    let running = Administered::start(&database, &sources).await;
    database
        .while_away(async {
            let ready = wait_for("the outage to be told", || async {
                let (status, ready) = running.json("/readyz").await;
                (status == StatusCode::SERVICE_UNAVAILABLE).then_some(ready)
            })
            .await;
            assert_eq!(ready["database"]["ready"], false, "{ready}");
            assert_eq!(running.json("/healthz").await.0, StatusCode::OK);
            assert_eq!(running.metric("eventloader_database_up").await, Some(0.0));
            assert!(running.text("/").await.contains("away for"), "the page says so, too");
            let (status, said) = running.json("/api/v1/status").await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{said}");
            wait_for("errors to be counted", || async {
                running
                    .metric("eventloader_database_errors_total")
                    .await
                    .filter(|count| *count > 0.0)
            })
            .await;
        })
        .await;
    wait_for("readiness", || async {
        (running.json("/readyz").await.0 == StatusCode::OK).then_some(())
    })
    .await;
    assert_eq!(running.metric("eventloader_database_up").await, Some(1.0));
    running.stop().await;
}

#[tokio::test]
async fn a_program_that_waits_for_its_database_says_so() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let program = Program::with_database_url(
        &format!("postgres://nobody@{nobody}/nothing"),
        "[admin]\nlisten = \"127.0.0.1:0\"\n[sources.a]\ntype = \"file\"\npath = \"a\"\n",
    );
    let mut running = Administered::start_program(program).await;
    let (status, ready) = running.json("/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready["why"], "starting: waiting for the database");
    assert_eq!(running.json("/healthz").await.0, StatusCode::OK);
    assert_eq!(running.metric("eventloader_database_up").await, Some(0.0));
    let (status, said) = running.json("/api/v1/status").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{said}");
    running.child.kill().await.unwrap();
}

#[tokio::test]
async fn the_health_check_asks_the_configured_address() {
    let database = Database::migrated().await;
    let server = Server::with_events(5).await;
    let sources = http_sources(&[("api", server.url(), "")]);
    let running = Administered::start(&database, &sources).await;
    let listen = running.url.trim_start_matches("http://");
    let asking = Program::new(&database, &format!("[admin]\nlisten = \"{listen}\"\n"));
    let healthy = asking.run(&["healthcheck"]).await;
    assert_eq!(
        (healthy.code, &healthy.json()["healthy"]),
        (Some(0), &Value::Bool(true)),
        "{healthy:?}"
    );
    assert_eq!(asking.run(&["healthcheck", "--ready"]).await.code, Some(0));
    running.stop().await;
    let gone = asking.run(&["healthcheck"]).await;
    assert_eq!(gone.code, Some(1), "{gone:?}");
    assert!(gone.stderr.contains("does not answer"), "{gone:?}");
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_where_somebody_chose_it() {
    let database = Database::migrated().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let source = "[sources.a]\ntype = \"file\"\npath = \"a\"\n";
    let program = Program::new(&database, &format!("[admin]\nlisten = \"{address}\"\n{source}"));
    let refused = program.run(&["run"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains(&format!("cannot listen on {address}")), "{refused:?}");
    assert!(refused.stderr.contains("set [admin] listen to a free port"), "{refused:?}");
}

#[tokio::test]
async fn the_usual_address_may_belong_to_another_instance() {
    let database = Database::migrated().await;
    // Held by this test, as soon as no instance of another test has it; or all the time by another program of this machine.
    let mut taken = None;
    for _ in 0..100 {
        taken = std::net::TcpListener::bind("127.0.0.1:8080").ok();
        if taken.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let server = Server::with_events(5).await;
    let program = Program::new(&database, &http_sources(&[("api", server.url(), "")]));
    let log = std::fs::File::create(program.path("log")).unwrap();
    let mut child = program.command(&["run"]).stderr(log).spawn().unwrap();
    wait_for("events", || async {
        (database.value::<i64>("select count(*) from eventloader.events").await == 5).then_some(())
    })
    .await;
    assert!(program.read("log").contains("health, metrics and status are not served"));
    child.kill().await.unwrap();
    drop(taken);
}
