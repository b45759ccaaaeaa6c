//! SIGHUP: sources come, change and go while the others are loaded.

use rustix::process::Signal;

use crate::support::database::Database;
use crate::support::http::{Asked, Reply, Server, page};
use crate::support::program::{Program, signal};
use crate::support::wait_for;

/// Events of each source; enough that none has come to its end when the reload is over.
const EVENTS: i64 = 1_000_000;

fn section(server: &Server, name: &str, further: &str) -> String {
    let url = server.url_of(&format!("/{name}"));
    format!("[sources.{name}]\ntype = \"http\"\nurl = \"{url}\"\nbatch_size = 10\n{further}\n")
}

fn rewrite(program: &Program, configuration: &str) {
    std::fs::write(program.path("eventloader.toml"), configuration).unwrap();
}

async fn wait_for_log(program: &Program, text: &str) {
    wait_for(text, || async { program.read("log").contains(text).then_some(()) }).await;
}

fn of<'a>(log: &'a [Asked], path: &str) -> Vec<&'a Asked> {
    log.iter().filter(|asked| asked.path == path).collect()
}

/// Waits until a source was asked this often since `since` requests of the server's log.
async fn wait_until_asked(server: &Server, path: &str, since: usize, count: usize) {
    let what = format!("{count} requests to {path}");
    wait_for(&what, || async { (of(&server.log()[since..], path).len() >= count).then_some(()) })
        .await;
}

#[tokio::test]
async fn sources_come_change_and_go_under_load_and_the_others_go_on() {
    let database = Database::migrated().await;
    let server = Server::with_events(EVENTS).await;
    let [gone, kept, changed, new] = ["gone", "kept", "changed", "new"];
    let before = [gone, kept, changed].map(|name| section(&server, name, "")).concat();
    let program = Program::new(&database, &before);
    let mut child = program.start(&["run"], "log");
    for name in [gone, kept, changed] {
        wait_until_asked(&server, &format!("/{name}"), 0, 3).await;
    }

    let after = [
        section(&server, new, ""),
        section(&server, changed, "headers = { X-Changed = \"yes\" }"),
        section(&server, kept, "# the same as before, on another line"),
    ];
    rewrite(&program, &after.concat());
    signal(&child, Signal::HUP);
    wait_for_log(&program, "the configuration was reloaded").await;
    let reloaded_at = server.log().len();
    for name in [kept, changed, new] {
        wait_until_asked(&server, &format!("/{name}"), reloaded_at, 4).await;
    }
    let log = server.log();
    // One request may have been on its way to it.
    assert!(of(&log[reloaded_at..], "/gone").len() <= 1, "the removed source is still asked");
    let of_changed = of(&log[reloaded_at..], "/changed");
    let with_header = of_changed.iter().filter(|asked| asked.headers.contains_key("x-changed"));
    assert!(with_header.count() + 1 >= of_changed.len(), "the change does not count");
    assert!(
        program.read("log").contains("unchanged_count=1")
            || program.read("log").contains("\"unchanged_count\":1")
    );

    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));
    assert_nothing_lost_or_asked_twice(&database, &server).await;
}

/// Every page that was answered is in the database once, and each window was asked for once.
async fn assert_nothing_lost_or_asked_twice(database: &Database, server: &Server) {
    let log = server.log();
    let stored: Vec<i64> = database
        .column(
            "select count(*) from (
                 select stream from eventloader.events
                 union all
                 select source_name from eventloader.event_inbox
             ) arrived
             group by stream order by stream",
        )
        .await;
    for (name, stored) in ["changed", "gone", "kept", "new"].into_iter().zip(stored) {
        let mut windows: Vec<i64> =
            of(&log, &format!("/{name}")).iter().map(|asked| asked.after_id).collect();
        let count = windows.len();
        windows.dedup();
        assert_eq!(windows.len(), count, "{name} was asked twice");
        assert_eq!(stored, 10 * i64::try_from(count).unwrap(), "{name}");
    }
}

#[tokio::test]
async fn a_source_that_is_removed_in_flight_keeps_its_page_and_goes_on_when_it_is_back() {
    let database = Database::migrated().await;
    let server = Server::start(|asked| {
        let answer = Reply::Json(page(asked, 20));
        let slow = asked.path == "/slow" && asked.after_id == 10;
        if slow {
            Reply::After(std::time::Duration::from_secs(2), Box::new(answer))
        } else {
            answer
        }
    })
    .await;
    let (slow, other) = (section(&server, "slow", ""), section(&server, "other", ""));
    let program = Program::new(&database, &format!("{slow}{other}"));
    let mut child = program.start(&["run"], "log");
    wait_for("the slow request", || async { (server.asked("/slow", 10) == 1).then_some(()) }).await;
    rewrite(&program, &other);
    signal(&child, Signal::HUP);
    wait_for_log(&program, "the configuration was reloaded").await;
    let stored = "select count(*) from eventloader.events where stream = 'slow'";
    wait_for("its page", || async { (database.value::<i64>(stored).await == 20).then_some(()) })
        .await;

    rewrite(&program, &format!("{slow}{other}"));
    signal(&child, Signal::HUP);
    wait_for("the tip", || async { (server.asked("/slow", 20) > 0).then_some(()) }).await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));
    assert_eq!((server.asked("/slow", 0), server.asked("/slow", 10)), (1, 1));
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_why() {
    let database = Database::migrated().await;
    database
        .execute("insert into eventloader.stream (stream, version, owner) values ('app', 1, 'application')")
        .await;
    let server = Server::with_events(EVENTS).await;
    let good = section(&server, "kept", "");
    let program = Program::new(&database, &good);
    let mut child = program.start(&["run"], "log");
    wait_until_asked(&server, "/kept", 0, 1).await;

    let new = section(&server, "new", "");
    for (bad, reason) in [
        (format!("{new}timout = \"1s\"\n"), "did you mean `timeout`?"),
        (format!("{good}{new}[sources.new]\n"), "duplicate key"),
        (String::new(), "it has no sources"),
        (format!("{new}{}", section(&server, "app", "")), "rename the source"),
    ] {
        rewrite(&program, &bad);
        signal(&child, Signal::HUP);
        wait_for_log(&program, reason).await;
        let refused_at = server.log().len();
        wait_until_asked(&server, "/kept", refused_at, 2).await;
    }
    assert!(of(&server.log(), "/new").is_empty());
    let known: Vec<String> =
        database.column("select source_name from eventloader.source order by 1").await;
    assert_eq!(known, ["kept"]);
    assert!(!program.read("log").contains("was reloaded"));

    rewrite(&program, &format!("{good}{new}"));
    signal(&child, Signal::HUP);
    wait_until_asked(&server, "/new", 0, 1).await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));
}

#[tokio::test]
async fn a_rejected_source_is_asked_at_once_when_its_configuration_was_mended() {
    let database = Database::migrated().await;
    let server = Server::start(|asked| match asked.headers.get("authorization") {
        Some(token) if token == "Bearer right" => Reply::Json(page(asked, 5)),
        _ => Reply::Status(401, Vec::new(), Vec::new()),
    })
    .await;
    let with_token = |token: &str| {
        section(&server, "api", &format!("headers = {{ Authorization = \"Bearer {token}\" }}"))
    };
    let program = Program::new(&database, &with_token("wrong"));
    let mut child = program.start(&["run"], "log");
    let health = "select coalesce(max(health), '') from eventloader.source";
    wait_for("the rejection", || async {
        (database.value::<String>(health).await == "rejected").then_some(())
    })
    .await;
    rewrite(&program, &with_token("right"));
    signal(&child, Signal::HUP);
    let stored = "select count(*) from eventloader.events";
    wait_for("its events", || async { (database.value::<i64>(stored).await == 5).then_some(()) })
        .await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));
}

#[tokio::test]
async fn a_section_that_cannot_change_while_running_is_named() {
    let database = Database::migrated().await;
    let server = Server::with_events(10).await;
    let good = section(&server, "api", "");
    let program = Program::new(&database, &good);
    let mut child = program.start(&["run"], "log");
    wait_until_asked(&server, "/api", 0, 1).await;
    rewrite(&program, &format!("{good}[retry_worker]\nmax_attempts = 7\n"));
    signal(&child, Signal::HUP);
    wait_for_log(&program, "counts from the next start on").await;
    assert!(program.read("log").contains("retry_worker"));
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}
