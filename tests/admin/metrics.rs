//! `/metrics`: what is counted is what happened, and what the dashboard and the alerts ask for is there.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::admin::{Administered, http_sources};
use crate::support::database::Database;
use crate::support::http::{Reply, Server, page};
use crate::support::wait_for;

#[tokio::test]
async fn what_is_counted_is_what_the_source_saw() {
    let database = Database::migrated().await;
    let server = Server::start(|asked| match asked.path.as_str() {
        "/good" => Reply::Json(page(asked, 2500)),
        "/busy" => Reply::Status(503, vec![("retry-after", "3600".to_owned())], vec![]),
        "/wrong" => Reply::Json("no JSON".to_owned()),
        _ => Reply::Drop,
    })
    .await;
    let names = ["good", "busy", "wrong", "breaks"];
    let sources: Vec<_> = names
        .iter()
        .map(|name| (*name, server.url_of(&format!("/{name}")), "max_idle = \"10m\""))
        .collect();
    let running = Administered::start(&database, &http_sources(&sources)).await;
    wait_for("all events and failures", || async {
        let moved = running.metric("eventloader_events_moved_total{source=\"good\"}").await?;
        let held = running.metric("eventloader_source_held_windows{source=\"wrong\"}").await?;
        let broken = running.metric("eventloader_source_held_windows{source=\"breaks\"}").await?;
        let busy = running
            .metric("eventloader_source_state{source=\"busy\",state=\"backing_off\"}")
            .await?;
        // What the database says may be a second old.
        let stored = running.metric("eventloader_source_last_stored_id{source=\"good\"}").await?;
        (moved.min(stored) >= 2500.0 && held + broken + busy >= 3.0).then_some(())
    })
    .await;
    let good = server.log().iter().filter(|asked| asked.path == "/good").count();
    let mut counted = 0.0;
    for outcome in ["page", "empty"] {
        let series = format!("eventloader_requests_total{{source=\"good\",outcome=\"{outcome}\"}}");
        counted += running.metric(&series).await.unwrap_or_default();
    }
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let good = good as f64;
    assert!((counted - good).abs() < 0.5, "{counted} counted, {good} seen");
    for (series, want) in [
        ("eventloader_requests_total{source=\"good\",outcome=\"page\"}", 3.0),
        ("eventloader_requests_total{source=\"busy\",outcome=\"refused\"}", 1.0),
        ("eventloader_requests_total{source=\"wrong\",outcome=\"invalid_page\"}", 1.0),
        ("eventloader_requests_total{source=\"breaks\",outcome=\"unknown\"}", 1.0),
        ("eventloader_events_fetched_total{source=\"good\"}", 2500.0),
        ("eventloader_source_last_stored_id{source=\"good\"}", 2500.0),
        ("eventloader_source_lag_events{source=\"good\"}", 0.0),
        ("eventloader_dead_letters{kind=\"page\"}", 1.0),
        ("eventloader_source_dead_letters{source=\"wrong\"}", 1.0),
        ("eventloader_source_gaps{source=\"good\"}", 0.0),
        ("eventloader_inbox_events", 0.0),
        ("eventloader_last_prune_timestamp_seconds", 0.0),
    ] {
        assert_eq!(running.metric(series).await, Some(want), "{series}");
    }
    assert!(
        running.metric("eventloader_source_move_seconds_total{source=\"good\"}").await > Some(0.0)
    );
    assert!(running.metric("eventloader_deposit_duration_seconds_count").await >= Some(3.0));

    // Ids that a broker dropped, and a pruning.
    database
        .execute(
            "insert into eventloader.source_gap (source_name, first_id, last_id, reason)
             values ('good', 7, 9, 'retention')",
        )
        .await;
    assert_eq!(running.program.run(&["prune-request-log"]).await.code, Some(0));
    wait_for("the gap", || async {
        running.metric("eventloader_source_gaps{source=\"good\"}").await.filter(|gaps| *gaps > 0.5)
    })
    .await;
    assert!(running.metric("eventloader_last_prune_timestamp_seconds").await > Some(1.7e9));
    running.stop().await;
}

/// Every name of a metric in a text.
fn names_in(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("eventloader_") {
        // `label_values(…)` and the like aside, a metric is not part of a longer word.
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_ascii_alphanumeric() || "_-./".contains(c)) {
            continue;
        }
        let name = text[at..].split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
        names.insert(name.unwrap_or_default().to_owned());
    }
    names
}

#[tokio::test]
async fn the_dashboard_and_the_alerts_ask_only_for_what_is_there() {
    let database = Database::migrated().await;
    let server = Server::start(|asked| match asked.path.as_str() {
        "/good" => Reply::Json(page(asked, 5)),
        _ => Reply::Drop,
    })
    .await;
    let sources = ["good", "breaks"].map(|name| (name, server.url_of(&format!("/{name}")), ""));
    let running = Administered::start(&database, &http_sources(&sources)).await;
    wait_for("a move", || async {
        running.metric("eventloader_events_moved_total{source=\"good\"}").await.filter(|n| *n > 0.0)
    })
    .await;
    let text = running.text("/metrics").await;
    let there: BTreeSet<String> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next().map(str::to_owned))
        .collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["deploy/prometheus/alerts.yml", "deploy/grafana/eventloader.json"] {
        let asked = names_in(&std::fs::read_to_string(root.join(file)).unwrap());
        assert!(asked.len() > 10, "{file}: {asked:?}");
        let missing: Vec<_> = asked.difference(&there).collect();
        assert!(missing.is_empty(), "{file} asks for {missing:?}; there are {there:?}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_thousand_sources_have_series_of_their_own_and_the_rest_share_one() {
    let database = Database::migrated().await;
    let server = Server::with_events(5).await;
    let running = Administered::start(&database, &http_sources(&[("a", server.url(), "")])).await;
    database
        .execute(
            "select eventloader.register_sources(
                 (select array_agg('s' || to_char(n, 'FM0000')) from generate_series(1, 1100) n),
                 array_fill('http'::text, array[1100]), array_fill(7::bigint, array[1100]))",
        )
        .await;
    let text = wait_for("all sources", || async {
        let text = running.text("/metrics").await;
        text.contains("source=\"_other\"").then_some(text)
    })
    .await;
    let series = |metric: &str| {
        let prefix = format!("{metric}{{");
        text.lines().filter(|line| line.starts_with(&prefix)).count()
    };
    assert_eq!(series("eventloader_source_last_stored_id"), 1001);
    // `a` and the first 999 have their own: 101 are left.
    let other = running.metric("eventloader_source_last_stored_id{source=\"_other\"}").await;
    assert_eq!(other, Some(707.0));
    let page = running.text("/").await;
    assert!(page.contains("1101 sources") && page.contains("Page 1 of 12"));
    assert!(running.text("/?q=s1099").await.contains("1 of 1101 sources"));
    running.stop().await;
}
