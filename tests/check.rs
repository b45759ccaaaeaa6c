//! `eventloader check`: one line for each thing that was looked at, and nothing changed by looking.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::database::Database;
use crate::support::http::{Reply, Server, page};
use crate::support::program::{Finished, Program, signal};
use crate::support::troubleshooting::assert_told;
use crate::support::wait_for;

fn source(name: &str, server: &Server) -> String {
    format!("[sources.{name}]\ntype = \"http\"\nurl = \"{}\"\n", server.url_of(&format!("/{name}")))
}

/// The findings about a subject: level, code, what.
fn about(finished: &Finished, subject: &str) -> Vec<[String; 3]> {
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let findings = finished.json();
    let findings = findings.as_array().unwrap().iter();
    findings
        .filter(|finding| finding["subject"] == subject)
        .map(|finding| [text(finding, "level"), text(finding, "code"), text(finding, "what")])
        .collect()
}

fn codes(finished: &Finished, subject: &str) -> Vec<String> {
    about(finished, subject).into_iter().map(|[_, code, _]| code).collect()
}

#[tokio::test]
async fn a_good_configuration_gets_one_line_for_each_thing_and_a_promise_for_each_source() {
    let database = Database::migrated().await;
    let server = Server::with_events(3).await;
    let program = Program::new(&database, &source("api", &server));
    let checked = program.run(&["check"]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let begins: Vec<_> = checked
        .stdout
        .lines()
        .map(|line| line.split_once(": ").map_or(line, |(begin, _)| begin))
        .collect();
    assert_eq!(
        begins,
        [
            "ok       configuration",
            "ok       database",
            "ok       schema",
            "ok       source api",
            "promise  source api",
        ],
        "{checked:?}"
    );
    assert!(checked.stdout.contains("after id 0 comes id 1, of type api"), "{checked:?}");
}

#[tokio::test]
async fn a_probe_takes_its_turn_and_moves_no_cursor() {
    let database = Database::migrated().await;
    let server = Server::with_events(1_000_000).await;
    let program = Program::new(&database, &format!("{}batch_size = 10\n", source("api", &server)));
    let mut child = program.start(&["run"], "log");
    wait_for("a request", || async { (!server.log().is_empty()).then_some(()) }).await;
    for _ in 0..3 {
        let checked = program.run(&["check", "--json"]).await;
        assert_eq!(checked.code, Some(0), "{checked:?}");
        let codes = codes(&checked, "source api");
        assert!(codes[0] == "source-ok" || codes[0] == "source-in-use", "{checked:?}");
    }
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    // Nobody loads it now, so the check is granted its turn.
    let checked = program.run(&["check", "--json"]).await;
    assert_eq!(codes(&checked, "source api")[0], "source-ok", "{checked:?}");

    let log = server.log();
    let closest = log.windows(2).map(|pair| pair[1].at - pair[0].at).min().unwrap();
    assert!(closest >= std::time::Duration::from_millis(200), "{closest:?}");
    let probes = log.iter().filter(|asked| asked.limit == 1).count();
    let recorded: i64 = database
        .value(
            "select count(*) from eventloader.event_request_log r
             join eventloader.audit_log a
                 on a.action = 'probe source' and (a.detail->>'request_id')::bigint = r.id
             where r.status = 'retried' and r.limit_count = 1",
        )
        .await;
    assert_eq!(recorded, i64::try_from(probes).unwrap());
    assert!(probes >= 1);
    let requested: i64 =
        database.value("select last_requested_id from eventloader.source_cursor").await;
    assert_eq!(requested, 10 * i64::try_from(log.len() - probes).unwrap());
}

#[tokio::test]
async fn a_check_that_is_killed_holds_nothing_up() {
    let database = Database::migrated().await;
    let hang = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let hanging = std::sync::Arc::clone(&hang);
    let server = Server::start(move |asked| {
        let answer = Reply::Json(page(asked, 5));
        if hanging.load(std::sync::atomic::Ordering::Relaxed) {
            return Reply::After(std::time::Duration::from_mins(1), Box::new(answer));
        }
        answer
    })
    .await;
    database
        .execute("select eventloader.register_sources(array['api'], array['http'], array[0])")
        .await;
    let configuration = format!("{}lease_ttl = \"500ms\"\n", source("api", &server));
    let program = Program::new(&database, &configuration);
    let mut check = program.start(&["check"], "check");
    wait_for("the probe", || async { (!server.log().is_empty()).then_some(()) }).await;
    signal(&check, Signal::KILL);
    check.wait().await.unwrap();

    hang.store(false, std::sync::atomic::Ordering::Relaxed);
    let mut child = program.start(&["run"], "log");
    let stored = "select count(*) from eventloader.events";
    wait_for("the events", || async { (database.value::<i64>(stored).await == 5).then_some(()) })
        .await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn what_keeps_run_from_working_is_an_error_with_its_fix() {
    let database = Database::migrated().await;
    let server = Server::start(|asked| match asked.path.as_str() {
        "/rejected" => Reply::Status(401, vec![], vec![]),
        "/broken" => Reply::Json("{}".to_owned()),
        _ => Reply::Json(page(asked, 5)),
    })
    .await;
    database
        .execute(
            "select eventloader.register_sources(
                 array['held', 'paused', 'rejected'], array['http', 'http', 'http'], array[0, 0, 0]);
             update eventloader.source set paused_at = now(), paused_by = 'somebody' where source_name = 'paused';
             insert into eventloader.event_request_log
                 (source_name, after_id, limit_count, attempt, status, token, epoch, owner, error)
             values ('held', 0, 100, 1, 'failed', gen_random_uuid(), 1, 'host:1:a', 'the connection broke');",
        )
        .await;
    let sources = ["held", "paused", "rejected", "broken", "fine"];
    let configuration = sources.map(|name| source(name, &server)).concat()
        + "[sources.audit]\ntype = \"file\"\npath = \"audit.ndjson\"\n";
    let program = Program::new(&database, &configuration);
    let checked = program.run(&["check", "--json"]).await;
    assert_eq!(checked.code, Some(1), "{checked:?}");
    for (name, code) in [
        ("held", "source-held"),
        ("paused", "source-paused"),
        ("rejected", "source-failed"),
        ("broken", "source-failed"),
        ("fine", "source-ok"),
    ] {
        assert_eq!(codes(&checked, &format!("source {name}"))[0], code, "{checked:?}");
    }
    assert_eq!(codes(&checked, "source audit"), ["file-missing", "promise"], "{checked:?}");
    let text = program.run(&["check"]).await;
    for expected in [
        "held: the connection broke; `eventloader requests retry 1` [source-held]",
        "`eventloader sources resume paused` [source-paused]",
        "401 Unauthorized; check the headers (token) of the source [source-failed]",
    ] {
        assert!(text.stdout.contains(expected), "{expected}: {text:?}");
    }
    let held: i64 = database
        .value("select count(*) from eventloader.event_request_log where status in ('failed', 'orphaned', 'reserved')")
        .await;
    assert_eq!(held, 1, "the check left a window held");
    let health: Vec<String> =
        database.column("select distinct health from eventloader.source").await;
    assert_eq!(health, ["ok"], "the check changed what is known of a source");
}

#[tokio::test]
async fn a_database_without_schema_is_well_and_its_sources_are_asked() {
    let database = Database::empty().await;
    let server = Server::with_events(3).await;
    let program = Program::new(&database, &source("api", &server));
    let checked = program.run(&["check", "--json"]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert_eq!(codes(&checked, "schema"), ["schema-pending"]);
    assert_eq!(codes(&checked, "source api"), ["source-ok", "promise"]);
    let exists: bool = database.value("select to_regnamespace('eventloader') is not null").await;
    assert!(!exists, "the check made the schema");
}

#[tokio::test]
async fn missing_rights_are_told_with_the_grant() {
    let database = Database::migrated().await;
    let (name, url) = database.login(None).await;
    let program = Program::with_database_url(&url, "");
    let checked = program.run(&["check"]).await;
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(
        checked.stdout.contains(&format!("grant eventloader_runtime to {name}")),
        "{checked:?}"
    );
    let (name, url) = database.login(Some("eventloader_readonly")).await;
    let checked = Program::with_database_url(&url, "").run(&["check"]).await;
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(checked.stdout.contains("[rights-missing]"), "{checked:?}");
    assert!(
        checked.stdout.contains(&format!("grant eventloader_runtime to {name}")),
        "{checked:?}"
    );
    let (_, url) = database.login(Some("eventloader_runtime")).await;
    let checked = Program::with_database_url(&url, "").run(&["check"]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

#[tokio::test]
async fn without_a_database_to_ask_the_code_is_that_of_the_configuration() {
    let program = Program::without_database("");
    let checked = program.run(&["check", "--json", "--no-embedded"]).await;
    assert_eq!(checked.code, Some(78), "{checked:?}");
    assert_eq!(codes(&checked, "database"), ["database-not-configured"]);
}

#[tokio::test]
async fn without_the_database_sources_are_not_asked_and_the_code_is_69() {
    let server = Server::with_events(3).await;
    let nobody = "postgres://app:secret-canary@127.0.0.1:1/app";
    let program = Program::with_database_url(nobody, &source("api", &server));
    let checked = program.run(&["check", "--json"]).await;
    assert_eq!(checked.code, Some(69), "{checked:?}");
    // A machine that is a container itself suspects more.
    assert!(
        ["database-unreachable", "localhost-in-container"]
            .contains(&codes(&checked, "database")[0].as_str())
    );
    assert_eq!(codes(&checked, "source api"), ["source-not-asked", "promise"]);
    assert!(server.log().is_empty());
    assert!(!format!("{checked:?}").contains("canary"));

    let offline = program.run(&["check", "--offline", "--json"]).await;
    assert_eq!(offline.code, Some(0), "{offline:?}");
    assert_eq!(codes(&offline, "source api"), ["promise"]);
}

#[tokio::test]
async fn without_any_database_the_configuration_is_wrong() {
    let checked = Program::without_database("").run(&["check", "--no-embedded"]).await;
    assert_eq!(checked.code, Some(78), "{checked:?}");
    assert!(checked.stdout.contains("[database-not-configured]"), "{checked:?}");
}

#[tokio::test]
async fn a_source_is_not_asked_while_instances_of_another_version_may_ask_it() {
    let database = Database::migrated().await;
    let server = Server::with_events(3).await;
    database
        .execute(
            "delete from eventloader._sqlx_migrations
             where version = (select max(version) from eventloader._sqlx_migrations)",
        )
        .await;
    let program = Program::new(&database, &source("api", &server));
    let checked = program.run(&["check", "--json"]).await;
    assert_eq!(codes(&checked, "schema"), ["schema-pending"], "{checked:?}");
    assert_eq!(codes(&checked, "source api"), ["source-not-asked", "promise"], "{checked:?}");
    assert!(server.log().is_empty());
}

#[tokio::test]
async fn a_pause_that_a_probe_is_asked_for_holds_for_the_instances() {
    let database = Database::migrated().await;
    let server =
        Server::start(|_| Reply::Status(429, vec![("retry-after", "300".to_owned())], vec![]))
            .await;
    database
        .execute("select eventloader.register_sources(array['api'], array['http'], array[0])")
        .await;
    let program = Program::new(&database, &source("api", &server));
    let checked = program.run(&["check", "--json"]).await;
    assert_eq!(codes(&checked, "source api")[0], "source-failed", "{checked:?}");
    let pause: f64 = database
        .value(
            "select extract(epoch from not_before - now())::float8 from eventloader.source_rate_limit",
        )
        .await;
    assert!(pause > 200.0, "{pause}");
}

#[tokio::test]
async fn what_the_catalogue_says_against_a_promise_is_a_warning() {
    let database = Database::migrated().await;
    database
        .execute(
            "create sequence public.numbers cache 50;
             create table public.cached (id bigint primary key default nextval('public.numbers'), n int);
             insert into public.cached (n) values (1)",
        )
        .await;
    let program = Program::new(
        &database,
        &format!(
            "[sources.a]\ntype = \"sql\"\nurl = \"{}\"\ntable = \"public.cached\"\n",
            database.url
        ),
    );
    let checked = program.run(&["check", "--json"]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert_eq!(
        codes(&checked, "source a"),
        ["source-ok", "source-weaker", "promise"],
        "{checked:?}"
    );
}

#[tokio::test]
async fn a_wrong_configuration_is_told_as_json_too() {
    let program = Program::without_database("[sources.api]\ntype = \"http\"\nulr = \"x\"\n");
    let checked = program.run(&["check", "--offline", "--json"]).await;
    assert_eq!(checked.code, Some(78), "{checked:?}");
    let all = about(&checked, "configuration");
    assert!(all.iter().all(|[level, code, _]| level == "error" && code == "configuration-wrong"));
    assert!(
        all.iter().any(|[.., what]| what.starts_with("eventloader.toml:3:1: sources.api.ulr: ")),
        "{checked:?}"
    );
}

#[tokio::test]
async fn localhost_inside_a_container_is_suspected_where_nothing_answers() {
    let database = Database::empty().await;
    let configuration = "[sources.api]\ntype = \"http\"\nurl = \"http://localhost:1/events\"\n";
    let program = Program::new(&database, configuration);
    let inside = [("container", "podman")];
    let checked = program.run_with(&inside, &["check", "--json"]).await;
    assert_eq!(codes(&checked, "source api"), ["localhost-in-container", "promise"], "{checked:?}");

    let program = Program::with_database_url("postgres://app@localhost:1/app", configuration);
    let checked = program.run_with(&inside, &["check"]).await;
    assert_eq!(checked.code, Some(69));
    assert_told("localhost in a container", &checked.stdout);
}

#[tokio::test]
async fn the_page_about_the_findings_is_current() {
    // Not even a file that cannot be read is in the way.
    let explained = Program::without_database("[[[").run(&["check", "--explain"]).await;
    assert_eq!(explained.code, Some(0), "{explained:?}");
    let written = include_str!("../docs/check.md");
    assert!(explained.stdout == written, "docs/check.md is stale: run `make docs`");
}
