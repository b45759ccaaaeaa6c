//! `PgBouncer` between us and the database.

use rustix::process::Signal;

use super::FILE_SOURCE;
use crate::support::database::Database;
use crate::support::pooler::Pooler;
use crate::support::program::{Program, signal};
use crate::support::troubleshooting::assert_told;
use crate::support::wait_for;

/// For the sessions that begin from now on.
async fn alter_database(database: &Database, setting: &str) {
    let setting = setting.replace('\'', "''");
    let statement = format!(
        "do $$ begin execute format('alter database %I set {setting}', current_database()); end $$"
    );
    database.run_sql(statement).await;
}

const IGNORE: &str = "ignore_startup_parameters = extra_float_digits, options";

#[tokio::test]
async fn as_it_comes_it_refuses_our_settings_and_we_say_what_to_write() {
    let database = Database::migrated().await;
    let pooler = Pooler::start(&database, "pool_mode = transaction").await;
    let program = Program::with_database_url(&pooler.url, FILE_SOURCE);
    for command in ["run", "check", "migrate"] {
        let refused = program.run(&[command]).await;
        assert_eq!(refused.code, Some(69), "{refused:?}");
        assert_told("PgBouncer refuses", &(refused.stdout + &refused.stderr));
    }
}

#[tokio::test]
async fn transaction_mode_is_found_by_check_and_told_by_run() {
    let database = Database::migrated().await;
    // With two sessions to hand out, the second connection meets what the first one left behind at once.
    let settings = format!("pool_mode = transaction\ndefault_pool_size = 1\n{IGNORE}");
    let pooler = Pooler::start(&database, &settings).await;
    let program = Program::with_database_url(&pooler.url, FILE_SOURCE);
    let checked = program.run(&["check"]).await;
    assert_eq!(checked.code, Some(1), "{checked:?}");
    let found = checked.stdout.lines().find(|line| line.ends_with("[pooler-in-the-way]"));
    assert!(found.is_some_and(|line| line.contains("set pool_mode = session")), "{checked:?}");
    // What meets the statements that somebody else prepared in the one session is the first connection or the second.
    let refused = program.run(&["run"]).await;
    assert!(matches!(refused.code, Some(1 | 69)), "{refused:?}");
    assert_told("PgBouncer in transaction mode", &refused.stderr);
}

#[tokio::test]
async fn session_mode_loads_whatever_the_session_settings_are() {
    let database = Database::empty().await;
    // Ours are lost on the way, so these count.
    for setting in ["search_path = nowhere", "timezone = 'Asia/Kathmandu'", "datestyle = 'German'"]
    {
        alter_database(&database, setting).await;
    }
    let pooler = Pooler::start(&database, &format!("pool_mode = session\n{IGNORE}")).await;
    let program = Program::with_database_url(&pooler.url, FILE_SOURCE);
    let lines: String = (1..=500)
        .map(|id| format!("{{\"id\":{id},\"at\":\"2026-11-20T12:00:00Z\",\"text\":\"\\u0000\"}}\n"))
        .collect();
    let lines = lines.replacen("\\u0000", "x", 499);
    std::fs::write(program.path("audit.ndjson"), lines).unwrap();
    let configuration = format!("{FILE_SOURCE}occurred_at = \"/at\"\n");
    std::fs::write(program.path("eventloader.toml"), configuration).unwrap();
    let mut child = program.start(&["run"], "log");
    let count = "select count(*) from eventloader.events
                 where occurred_at = '2026-11-20T12:00:00Z' and extract(epoch from clock_timestamp() - recorded_at) < 60";
    wait_for("the events", || async {
        let made: bool =
            database.value("select to_regclass('eventloader.events') is not null").await;
        (made && database.value::<i64>(count).await == 499).then_some(())
    })
    .await;
    let checked = program.run(&["check"]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert_told("PgBouncer in session mode", &checked.stdout);
    let letters = program.run(&["dead-letters", "list", "--json"]).await;
    assert_eq!(letters.json()[0]["reference"], "500", "{letters:?}");
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));

    alter_database(&database, "statement_timeout = '30s'").await;
    // Sessions that are open keep what they had, so another pooler opens new ones.
    let pooler = Pooler::start(&database, &format!("pool_mode = session\n{IGNORE}")).await;
    let checked = Program::with_database_url(&pooler.url, "").run(&["check"]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(!checked.stdout.contains("session-settings-lost"), "{checked:?}");
}
