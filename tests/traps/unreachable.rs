//! A database that cannot be reached, or does not let us in.

use std::time::Duration;

use eventloader::postgres::embedded::{Durability, Embedded, EmbeddedOptions};
use secrecy::ExposeSecret;
use serde_json::Value;
use sqlx::{ConnectOptions, Connection, Executor};

use super::FILE_SOURCE;
use crate::support::database::Database;
use crate::support::program::Program;
use crate::support::troubleshooting::assert_told;

/// Longer than the minute that `run` waits.
const PATIENCE: Duration = Duration::from_secs(100);

/// Runs until `run` gives the database up: its exit code, the seconds it still had at each try, and what it said.
async fn run_out_of_patience(url: &str) -> (Option<i32>, Vec<u64>, String) {
    let program = Program::with_database_url(url, FILE_SOURCE);
    let mut child = program.start(&["run"], "log");
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it gives up");
    let log = program.read("log");
    let warnings = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let left = warnings.filter_map(|warning| warning["seconds_left"].as_u64()).collect();
    (ended.unwrap().code(), left, log)
}

#[tokio::test]
async fn a_database_that_never_comes_up_is_waited_for_with_a_countdown() {
    let (nobody, nowhere) = tokio::join!(
        run_out_of_patience("postgres://app:secret@127.0.0.1:1/app"),
        run_out_of_patience("postgres://app:secret@no-such-host.invalid/app"),
    );
    for (code, left, log) in [&nobody, &nowhere] {
        assert_eq!(*code, Some(69), "{log}");
        assert!(left.is_sorted_by(|before, after| before > after), "{left:?}");
        assert!(left[0] >= 50 && left.len() >= 10 && left[left.len() - 1] <= 10, "{left:?}");
        let last = log.lines().rev().take(2).collect::<Vec<_>>();
        assert!(last[1].starts_with("error: cannot connect to the database at "), "{log}");
        assert!(last[0].starts_with("hint: "), "{log}");
        assert!(!log.contains("secret"), "{log}");
    }
    assert_told("not up yet", &nobody.2);
    assert_told("unknown host", &nowhere.2);
}

#[tokio::test]
async fn check_does_not_wait_and_tells_the_same() {
    let database = Database::migrated().await;
    let (login, _) = database.login(None).await;
    let wrong_password = database.url_as(&login, "not-the-password");
    let missing = database.url.replace("/test_", "/missing_");
    let check = async |url: &str| {
        let checked = Program::with_database_url(url, FILE_SOURCE).run(&["check"]).await;
        assert_eq!(checked.code, Some(69), "{checked:?}");
        assert!(!checked.stdout.contains("not-the-password"), "{checked:?}");
        checked.stdout
    };
    assert_told("wrong password", &check(&wrong_password).await);
    assert_told("no such database", &check(&missing).await);
    assert_told("unknown host", &check("postgres://app@no-such-host.invalid/app").await);
}

#[tokio::test]
async fn a_server_and_a_url_that_differ_about_tls_are_told_apart() {
    let directory = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    // Too long for the path of a socket, so this one listens on the loopback address.
    let data_dir = directory.path().join("d".repeat(100));
    let mut embedded = Embedded::start(EmbeddedOptions {
        data_dir,
        data_dir_explicit: true,
        bin_dir: None,
        path: std::env::var_os("PATH"),
        durability: Durability::Disposable,
    })
    .await
    .unwrap();
    embedded.reap_with_process().unwrap();
    let url = embedded.url().expose_secret().to_owned();
    let plain = url.strip_suffix("?sslmode=disable").unwrap();
    let refused = Program::with_database_url(&format!("{plain}?sslmode=require"), FILE_SOURCE)
        .run(&["run"])
        .await;
    assert_eq!(refused.code, Some(69), "{refused:?}");
    assert_told("TLS not offered", &refused.stderr);

    let rules = embedded.data_dir().join("cluster/pg_hba.conf");
    let before = std::fs::read_to_string(&rules).unwrap();
    let mut connection = embedded.connect_options().connect().await.unwrap();
    std::fs::write(&rules, format!("hostnossl all all all reject\n{before}")).unwrap();
    connection.execute("select pg_reload_conf()").await.unwrap();
    crate::support::wait_for("the new rules", || async {
        embedded.connect_options().connect().await.is_err().then_some(())
    })
    .await;
    for command in ["run", "check"] {
        let refused = Program::with_database_url(plain, FILE_SOURCE).run(&[command]).await;
        assert_eq!(refused.code, Some(69), "{refused:?}");
        assert_told("TLS wanted", &(refused.stdout + &refused.stderr));
    }
    connection.close().await.unwrap();
    embedded.stop().await.unwrap();
}
