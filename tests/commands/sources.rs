//! `eventloader sources pause · resume · seek`.

use rustix::process::Signal;
use serde_json::json;

use super::{assert_fails, audited, json, seeded};
use crate::support::database::Database;
use crate::support::http::Server;
use crate::support::program::{Program, signal};
use crate::support::wait_for;

#[tokio::test]
async fn a_pause_holds_all_instances_and_outlasts_restarts() {
    let database = Database::migrated().await;
    let (paused, other) = (Server::with_events(5).await, Server::with_events(5).await);
    let program = Program::new(
        &database,
        &format!(
            "[loader]\nmax_idle = \"200ms\"\n\
             [sources.paused]\ntype = \"http\"\nurl = \"{}\"\n[sources.other]\ntype = \"http\"\nurl = \"{}\"\n",
            paused.url(),
            other.url()
        ),
    );
    database
        .execute("select eventloader.register_sources(array['paused'], array['http'], array[0])")
        .await;
    let done =
        program.run(&["sources", "pause", "paused", "--reason", "moving house", "--json"]).await;
    assert_eq!(json(&done), json!({ "source_name": "paused", "done": "paused" }));

    for round in ["first", "restarted"] {
        let mut children = [
            program.start(&["run"], &format!("{round}-a")),
            program.start(&["run"], &format!("{round}-b")),
        ];
        // Meanwhile the other source is asked again and again.
        let enough = other.log().len() + 5;
        wait_for("traffic", || async { (other.log().len() >= enough).then_some(()) }).await;
        for child in &mut children {
            signal(child, Signal::TERM);
            assert_eq!(child.wait().await.unwrap().code(), Some(0));
        }
        assert_eq!(paused.log().len(), 0, "{round}");
    }
    let status = json(&program.run(&["status", "--json"]).await);
    let source = &status["sources"][1];
    assert_eq!(
        (&source["state"], &source["reason"], &source["remedy"]),
        (&json!("paused"), &json!("moving house"), &json!("eventloader sources resume paused"))
    );

    let mut child = program.start(&["run"], "resumed");
    wait_for("traffic", || async { (other.log().len() > 10).then_some(()) }).await;
    let done = program.run(&["sources", "resume", "paused", "--json"]).await;
    assert_eq!(json(&done), json!({ "source_name": "paused", "done": "resumed" }));
    wait_for("a request", || async { (!paused.log().is_empty()).then_some(()) }).await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    let actions: Vec<String> = audited(&database).await.into_iter().map(|a| a.1).collect();
    assert_eq!(actions, ["pause source", "resume source"]);
}

#[tokio::test]
async fn a_seek_back_reads_again_and_stores_nothing_twice() {
    let database = Database::migrated().await;
    let server = Server::with_events(20).await;
    let configuration = format!("[sources.api]\ntype = \"http\"\nurl = \"{}\"\n", server.url());
    let program = Program::new(&database, &configuration);
    let stored = || async {
        let id: i64 = database
            .value("select coalesce(max(last_stored_id), 0) from eventloader.source_cursor")
            .await;
        (id == 20).then_some(())
    };
    let mut child = program.start(&["run"], "log");
    wait_for("the events", stored).await;

    let dry = program.run(&["sources", "seek", "api", "--to", "5", "--dry-run", "--json"]).await;
    let want =
        |dry_run: bool| json!({ "source_name": "api", "from": 20, "to": 5, "dry_run": dry_run });
    assert_eq!(json(&dry), want(true));
    let unasked = program.run(&["sources", "seek", "api", "--to", "5"]).await;
    assert_fails(&unasked, 2, &["Move the cursor of api from 20 to 5", "asked for again", "--yes"]);
    assert!(audited(&database).await.is_empty());
    assert!(!server.windows().contains(&5));

    let done = program.run(&["sources", "seek", "api", "--to", "5", "--yes", "--json"]).await;
    assert_eq!(json(&done), want(false));
    wait_for("the window", || async { server.windows().contains(&5).then_some(()) }).await;
    wait_for("the cursor", stored).await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));

    let versions: Vec<i64> =
        database.column("select version from eventloader.events order by position").await;
    assert_eq!(versions, (1..=20).collect::<Vec<i64>>());
    for table in ["event_inbox", "dead_letter"] {
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "select count(*) from eventloader.{table}"
        )))
        .fetch_one(&database.pool)
        .await
        .unwrap();
        assert_eq!(count, 0, "{table}");
    }
    let (actor, action, origin, detail) = audited(&database).await.pop().unwrap();
    assert_eq!(
        (actor.as_str(), action.as_str(), origin.as_str()),
        ("operator tester", "seek source", "api")
    );
    assert_eq!((&detail["from"], &detail["to"]), (&json!(20), &json!(5)));
}

#[tokio::test]
async fn a_seek_forward_leaves_out_and_closes_what_is_held() {
    let (database, program) = seeded().await;
    let done = program.run(&["sources", "seek", "bills", "--to", "50", "--yes"]).await;
    assert_eq!(
        done.stdout,
        "the cursor of bills went from 20 to 50: events up to it are never asked for\n"
    );
    let status: String =
        database.value("select status from eventloader.event_request_log where id = 2").await;
    assert_eq!(status, "skipped");
    let (_, _, _, detail) = audited(&database).await.pop().unwrap();
    assert_eq!(detail, json!({ "from": 20, "to": 50, "closed_requests": [2] }));
    let before_the_first = program.run(&["sources", "seek", "bills", "--to", "-1", "--yes"]).await;
    assert_eq!(before_the_first.code, Some(0), "{before_the_first:?}");
}

#[tokio::test]
async fn a_seek_waits_for_the_inbox() {
    let (database, program) = seeded().await;
    database
        .execute(
            "insert into eventloader.event_inbox (source_name, event_id, event_type, payload)
             values ('orders', 11, 'order', '{}');
             update eventloader.source_cursor set last_requested_id = 11 where source_name = 'orders'",
        )
        .await;
    let refused = program.run(&["sources", "seek", "orders", "--to", "0", "--yes"]).await;
    assert_fails(&refused, 1, &["still has 1 events in the inbox", "hint:", "retry-worker --once"]);
    assert!(audited(&database).await.is_empty());
}

#[tokio::test]
async fn an_unknown_source_is_an_error_with_a_hint() {
    let (_database, program) = seeded().await;
    for arguments in [
        &["sources", "pause", "ordres"][..],
        &["sources", "resume", "ordres"],
        &["sources", "seek", "ordres", "--to", "5", "--yes"],
    ] {
        let unknown = program.run(arguments).await;
        assert_fails(
            &unknown,
            1,
            &["there is no source \"ordres\"", "hint: see `eventloader sources list`"],
        );
    }
}

/// A source that goes on from its own state cannot be moved by an id; its state can be changed.
#[tokio::test]
async fn a_source_with_a_state_is_moved_by_its_state() {
    let (database, program) = seeded().await;
    database
        .execute(
            "update eventloader.source_cursor set state = '{\"value\":{\"n\": 7.0}}' where source_name = 'bills'",
        )
        .await;
    let refused = program.run(&["sources", "seek", "bills", "--to", "0", "--yes"]).await;
    assert_fails(&refused, 1, &["from its own state", "hint:", "sources seek bills --state JSON"]);
    let refused = program.run(&["requests", "skip", "2", "--to", "30", "--yes"]).await;
    assert_fails(&refused, 1, &["nothing to skip to", "hint:", "requests retry 2"]);
    let refused = program.run(&["sources", "seek", "orders", "--state", "{}", "--yes"]).await;
    assert_fails(&refused, 1, &["orders keeps no state", "sources seek orders --to ID"]);
    for (state, code, part) in [("{n:1}", 2, "--state is not JSON"), ("{}", 2, "--yes")] {
        let refused = program.run(&["sources", "seek", "bills", "--state", state]).await;
        assert_fails(&refused, code, &[part]);
    }
    let both = program.run(&["sources", "seek", "bills", "--to", "1", "--state", "{}"]).await;
    assert_fails(&both, 2, &["--state"]);
    assert!(audited(&database).await.is_empty());

    let done = program.run(&["sources", "seek", "bills", "--state", "{\"n\": 1.0}", "--yes"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let stored = "select state::text from eventloader.source_cursor where source_name = 'bills'";
    assert_eq!(database.value::<String>(stored).await, "{\"value\":{\"n\": 1.0}}");
    let status = "select status from eventloader.event_request_log where id = 2";
    assert_eq!(database.value::<String>(status).await, "skipped", "the tap is asked anew");
    let (_, action, _, detail) = audited(&database).await.pop().unwrap();
    assert_eq!(action, "seek source");
    let want = json!({
        "from_state": "{\"value\":{\"n\": 7.0}}", "to_state": "{\"value\":{\"n\": 1.0}}", "closed_requests": [2],
    });
    assert_eq!(detail, want);

    let done = program.run(&["sources", "seek", "bills", "--state", "null", "--yes"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(database.value::<Option<String>>(stored).await, None);
    let cursor =
        "select last_requested_id from eventloader.source_cursor where source_name = 'bills'";
    assert_eq!(database.value::<i64>(cursor).await, 20, "ids go on from where they are");
}

#[tokio::test]
async fn what_a_source_is_now_decides_how_it_is_moved() {
    let (database, _) = seeded().await;
    database
        .execute("update eventloader.source_cursor set state = '{\"value\":1}' where source_name = 'bills'")
        .await;
    let program = Program::new(
        &database,
        "[sources.bills]\ntype = \"http\"\nurl = \"http://127.0.0.1:1/\"\n",
    );
    let refused = program.run(&["sources", "seek", "bills", "--state", "null", "--yes"]).await;
    assert_fails(&refused, 1, &["bills keeps no state", "sources seek bills --to ID"]);
    let done = program.run(&["sources", "seek", "bills", "--to", "5", "--yes"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let cursor =
        "select last_requested_id from eventloader.source_cursor where source_name = 'bills'";
    assert_eq!(database.value::<i64>(cursor).await, 5);
}
