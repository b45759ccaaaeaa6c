//! The configuration, through the binary: what is wrong is said with its place, and databases that are away are waited
//! for or named.

use std::process::Stdio;

use rustix::process::Signal;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};

use crate::support::database::Database;
use crate::support::http::Server;
use crate::support::program::{Finished, Program, signal};
use crate::support::troubleshooting::assert_told;
use crate::support::wait_for;

/// The configuration is refused, with these words.
fn assert_refused(finished: &Finished, said: &[&str]) {
    assert_eq!(finished.code, Some(78), "{finished:?}");
    assert_eq!(finished.stdout, "");
    for part in said {
        assert!(finished.stderr.contains(part), "{part:?} in {}", finished.stderr);
    }
}

#[tokio::test]
async fn everything_wrong_is_said_at_once_with_its_place_and_a_hint() {
    let program = Program::with_database_url(
        "postgres://127.0.0.1:1/none",
        "[loader]\nbatchsize = 10\nmin_interval = \"20ms\"\n\n[sources.orders]\ntype = \"http\"\nurl = \"${ORDERS_URL}\"\n",
    );
    let refused = program.run(&["run"]).await;
    assert_refused(
        &refused,
        &[
            "eventloader.toml:2:1: loader.batchsize",
            "did you mean `batch_size`?",
            "eventloader.toml:3:16: loader.min_interval",
            "200ms",
            "eventloader.toml:7:",
            "ORDERS_URL",
            "3 problems in the configuration",
        ],
    );
    assert_told("unknown key", &refused.stderr);
    assert_told("missing variable", &refused.stderr);
}

#[tokio::test]
async fn a_file_that_was_named_has_to_be_there() {
    let program = Program::with_database_url("postgres://127.0.0.1:1/none", "");
    assert_refused(
        &program.run(&["status", "--config", "other.toml"]).await,
        &["other.toml", "--config"],
    );
    let variable = [("EVENTLOADER_CONFIG", "third.toml")];
    let refused = program.run_with(&variable, &["status"]).await;
    assert_refused(&refused, &["third.toml", "EVENTLOADER_CONFIG"]);
}

#[tokio::test]
async fn without_a_file_commands_work_and_run_says_what_is_missing() {
    let database = Database::migrated().await;
    let program = Program::new(&database, "");
    std::fs::remove_file(program.path("eventloader.toml")).unwrap();
    let status = program.run(&["status"]).await;
    assert_eq!(status.code, Some(0), "{status:?}");
    let refused = program.run(&["run"]).await;
    assert_refused(
        &refused,
        &[
            "no sources to load: no configuration file was found",
            "hint: name a file with --config; `eventloader init`",
        ],
    );
    assert_told("no sources", &refused.stderr);
    // Moving needs no source.
    assert_eq!(program.run(&["retry-worker", "--once"]).await.code, Some(0));
    std::fs::write(program.path("other.toml"), "[loader]\n").unwrap();
    assert_refused(
        &program.run(&["run", "--config", "other.toml"]).await,
        &["other.toml has no [sources.NAME]"],
    );
}

#[tokio::test]
async fn variables_come_before_the_file_and_reach_the_source() {
    let database = Database::migrated().await;
    let server = Server::with_events(50).await;
    let program = Program::new(
        &database,
        "[loader]\nbatch_size = 20\n[sources.shop-api]\ntype = \"http\"\nurl = \"${SHOP}\"\n",
    );
    let mut command = program.command(&["run"]);
    command
        .env("SHOP", server.url())
        .env("EVENTLOADER_LOADER__BATCH_SIZE", "7")
        .env("EVENTLOADER_SOURCES__SHOP_API__HEADERS__X_API_KEY", "k");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("a request", || async { (!server.log().is_empty()).then_some(()) }).await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    let asked = &server.log()[0];
    assert_eq!((asked.limit, asked.headers.get("x-api-key").map(String::as_str)), (7, Some("k")));

    let misspelt = [("SHOP", "http://a"), ("EVENTLOADER_LOADER__BATCHSIZE", "7")];
    assert_refused(
        &program.run_with(&misspelt, &["status"]).await,
        &["EVENTLOADER_LOADER__BATCHSIZE", "did you mean EVENTLOADER_LOADER__BATCH_SIZE?"],
    );
}

#[tokio::test]
async fn a_database_that_refuses_us_is_named_at_once_with_a_hint() {
    let database = Database::empty().await;
    let (login, _) = database.login(None).await;
    let wrong_password = database.url_as(&login, "not-the-password");
    let missing = database.url.replace("/test_", "/missing_");
    for (url, said) in [
        (&wrong_password, "hint: check user and password of the database URL"),
        (&missing, "hint: create the database first"),
    ] {
        for command in ["run", "status", "migrate"] {
            let program = Program::with_database_url(
                url,
                "[sources.a]\ntype = \"file\"\npath = \"events.ndjson\"\n",
            );
            let refused = program.run(&[command]).await;
            assert_eq!(refused.code, Some(69), "{refused:?}");
            assert!(refused.stderr.contains("cannot connect to the database at "), "{refused:?}");
            assert!(refused.stderr.contains(said), "{refused:?}");
            assert!(!refused.stderr.contains("not-the-password"), "{refused:?}");
        }
    }
    let no_url = Program::with_database_url("localhost/mine", "").run(&["status"]).await;
    assert_refused(&no_url, &["DATABASE_URL", "postgres://"]);
}

/// Passes bytes between a TCP port and the server's socket.
async fn forward(listener: TcpListener, socket: std::path::PathBuf) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { return };
        let socket = socket.clone();
        tokio::spawn(async move {
            let mut server = UnixStream::connect(socket).await.unwrap();
            // Ends with either side.
            drop(copy_bidirectional(&mut stream, &mut server).await);
        });
    }
}

/// A TCP URL of the database on a port where nobody listens yet.
async fn url_on_free_port(database: &Database) -> (String, u16) {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut url: url::Url = database.url.parse().unwrap();
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(port)).unwrap();
    (url.into(), port)
}

#[tokio::test]
async fn a_database_that_comes_up_late_is_waited_for() {
    let database = Database::empty().await;
    let (url, port) = url_on_free_port(&database).await;
    let server = Server::with_events(3).await;
    let configuration = format!("[sources.api]\ntype = \"http\"\nurl = \"{}\"\n", server.url());
    let program = Program::with_database_url(&url, &configuration);
    let mut child = program.start(&["run"], "log");
    wait_for("the warning", || async {
        program.read("log").contains("the database is not up yet").then_some(())
    })
    .await;
    let listener = TcpListener::bind(("127.0.0.1", port)).await;
    // Meanwhile somebody else may have the port.
    let Ok(listener) = listener else { return };
    let socket = database
        .options
        .get_socket()
        .unwrap()
        .join(format!(".s.PGSQL.{}", database.options.get_port()));
    let forwarding = tokio::spawn(forward(listener, socket));
    wait_for("a request", || async { (!server.log().is_empty()).then_some(()) }).await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));
    forwarding.abort();
}

#[tokio::test]
async fn a_signal_ends_the_wait_for_a_database() {
    let database = Database::empty().await;
    let (url, _) = url_on_free_port(&database).await;
    let program = Program::with_database_url(&url, "");
    let mut child = program.start(&["retry-worker"], "log");
    wait_for("the warning", || async {
        program.read("log").contains("the database is not up yet").then_some(())
    })
    .await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));
    assert!(program.read("log").contains("stopped before the database was up"));
}
