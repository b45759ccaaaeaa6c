//! Every alert fires when what it speaks of is the case: a real Prometheus, with the rules of the repository, watches real
//! instances to which it happens. How long an alert waits is left out; `alerts_test.yml` has that.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::admin::{Administered, TOKEN, http_sources};
use crate::support::database::Database;
use crate::support::http::{Reply, Server, page};
use crate::support::program::Program;
use crate::support::prometheus::Prometheus;
use crate::support::wait_for;

/// Where libfaketime is, which `make setup-tests` installs.
fn faketime() -> String {
    let places = ["x86_64-linux-gnu", "aarch64-linux-gnu"];
    let library = |place: &&str| format!("/usr/lib/{place}/faketime/libfaketimeMT.so.1");
    places.iter().map(library).find(|path| std::path::Path::new(path).exists()).unwrap()
}

/// An instance whose clock is an hour ahead.
async fn with_wrong_clock(database: &Database) -> Administered {
    let program = Program::new(
        database,
        &format!("[admin]\nlisten = \"127.0.0.1:0\"\ntoken = \"{TOKEN}\"\n"),
    );
    let mut command = program.command(&["run", "--only", "retry-worker"]);
    command
        .env("LD_PRELOAD", faketime())
        .env("FAKETIME", "+1h")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    Administered::of_command(program, command).await
}

/// What is broken by statements is what would take hours, or another program's bug.
async fn break_what_takes_long(database: &Database) {
    for statement in [
        "update eventloader.event_request_log set updated_at = updated_at - interval '2 min' where status = 'failed'",
        "update eventloader.source set health_since = health_since - interval '2 min' where health <> 'ok'",
        "insert into eventloader.source_gap (source_name, first_id, last_id, reason) values ('good', 90, 99, 'retention')",
        "insert into eventloader.event_inbox
             (source_name, event_id, event_type, payload, attempts, next_attempt_at, received_at)
         values ('good', 1000, 'x', '{}', 1, clock_timestamp() + interval '1 h', clock_timestamp() - interval '1 h')",
    ] {
        database.run_sql(statement.to_owned()).await;
    }
}

#[tokio::test]
async fn the_rules_pass_their_own_tests() {
    let rules = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
        let mut command = tokio::process::Command::new("promtool");
        command.current_dir(&rules).args(arguments);
        let checked = crate::support::program::finish(command).await;
        assert_eq!(checked.code, Some(0), "{checked:?}");
    }
}

/// Those that say of what they speak.
async fn assert_told(prometheus: &Prometheus) {
    for (name, label, value) in [
        ("PruneNotRunning", "job", "eventloader"),
        ("DeadLettersPresent", "kind", "event"),
        ("SourceGaps", "source", "good"),
        ("EventsFailingToMove", "source", "good"),
        ("InboxBacklogAge", "job", "eventloader"),
        ("WindowsHeld", "source", "breaks"),
        ("SourceRejected", "source", "busy"),
        ("RateLimited", "source", "busy"),
        ("PartStuck", "part", "loader"),
    ] {
        let labels = prometheus.wait_for(name).await;
        assert_eq!(labels[label], value, "{labels}");
    }
}

#[tokio::test]
async fn every_alert_fires_when_it_should() {
    let database = Database::migrated().await;
    let server = Server::start(|asked| match asked.path.as_str() {
        "/good" => Reply::Json(page(asked, 5)),
        "/busy" => Reply::Status(503, vec![], vec![]),
        _ => Reply::Drop,
    })
    .await;
    // A loop that hangs is a bug that nobody has: what /metrics would say of it, said by a stand-in.
    let stuck = Server::start(|_| {
        let text = "eventloader_part_heartbeat_age_seconds{part=\"loader\"} 120\n";
        Reply::Status(
            200,
            vec![("content-type", "text/plain; version=0.0.4".to_owned())],
            text.into(),
        )
    })
    .await;
    let sources = http_sources(
        &["good", "busy", "breaks"].map(|name| (name, server.url_of(&format!("/{name}")), "")),
    );
    let file = "[sources.log]\ntype = \"file\"\npath = \"log.ndjson\"\n";
    let running = Administered::start(&database, &(sources + file)).await;
    // There from the beginning, so that the source does not back off.
    std::fs::write(running.program.path("log.ndjson"), "").unwrap();
    let late = with_wrong_clock(&database).await;
    let addresses = [running.url.clone(), late.url.clone(), stuck.address.to_string()];
    let prometheus = Prometheus::start(&addresses, TOKEN).await;
    wait_for("a first scrape", || async {
        let known = prometheus.has("eventloader_source_gaps%7Bsource=%22good%22%7D").await
            && prometheus.has("eventloader_dead_letters").await;
        known.then_some(())
    })
    .await;
    // Before its first scrape it knows of no instance at all.
    let early = wait_for("nobody to be down", || async {
        let firing = prometheus.firing().await;
        let name = |alert: &Value| alert["labels"]["alertname"].as_str().unwrap().to_owned();
        let names: BTreeSet<String> = firing.iter().map(name).collect();
        (!names.contains("EventloaderDown")).then_some(names)
    })
    .await;
    for quiet in ["SourceGaps", "DeadLettersPresent", "InboxBacklogAge", "DatabaseErrors"] {
        assert!(!early.contains(quiet), "{early:?}");
    }

    std::fs::write(running.program.path("log.ndjson"), "{\"id\":1,\"a\":\"\\u0000\"}\n").unwrap();
    wait_for("a held window and a refusal", || async {
        let held: i64 = database
            .value(
                "select (select count(*) from eventloader.event_request_log where status = 'failed')
                      + (select count(*) from eventloader.source where source_name = 'busy' and health <> 'ok')",
            )
            .await;
        (held == 2).then_some(())
    })
    .await;
    break_what_takes_long(&database).await;
    assert_told(&prometheus).await;
    let skewed = prometheus.wait_for("ClockSkew").await;
    assert!(late.url.ends_with(skewed["instance"].as_str().unwrap()), "{skewed}");
    prometheus.wait_for("SourceStalled").await;
    database
        .while_away(async {
            prometheus.wait_for("EventloaderDatabaseDown").await;
            prometheus.wait_for("DatabaseErrors").await;
        })
        .await;
    running.stop().await;
    late.stop().await;
    drop(stuck);
    prometheus.wait_for("EventloaderDown").await;
}
