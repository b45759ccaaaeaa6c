//! The three group roles: what each may do, and above all what it may not.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use sqlx::error::DatabaseError;
use sqlx::{Connection, Executor, PgConnection};

use crate::support::database::Database;
use crate::support::http::{Reply, Server, page};
use crate::support::program::{Program, signal};
use crate::support::troubleshooting::assert_told;
use crate::support::wait_for;

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

/// Every one of these statements is refused for want of rights.
async fn assert_denied(connection: &mut PgConnection, statements: &[&'static str]) {
    for statement in statements {
        let error = connection.execute(*statement).await.expect_err(statement);
        let code = error.as_database_error().and_then(DatabaseError::code).map(Cow::into_owned);
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {error}");
    }
}

#[tokio::test]
async fn the_roles_outlive_a_database_and_serve_several() {
    let (first, second) = (Database::migrated().await, Database::empty().await);
    let migrated = Program::new(&second, "").run(&["migrate"]).await;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    for database in [&first, &second] {
        let roles: Vec<String> = database
            .column(
                "select rolname::text from pg_roles where rolname like 'eventloader\\_%' and not rolcanlogin order by 1",
            )
            .await;
        assert_eq!(roles, ["eventloader_owner", "eventloader_readonly", "eventloader_runtime"]);
        let granted: bool = database
            .value("select has_table_privilege('eventloader_runtime', 'eventloader.event_inbox', 'insert')")
            .await;
        assert!(granted);
    }
}

#[tokio::test]
async fn a_member_of_runtime_runs_everything() {
    let database = Database::migrated().await;
    let (_, url) = database.login(Some("eventloader_runtime")).await;
    let broken = AtomicBool::new(true);
    let server = Server::start(move |asked| match asked.after_id {
        0 => Reply::Json(r#"[{"id":1},{"id":2,"text":"\u0000"},{"id":3}]"#.to_owned()),
        3 if broken.swap(false, Ordering::Relaxed) => Reply::Status(500, vec![], vec![]),
        _ => Reply::Json(page(asked, 10)),
    })
    .await;
    let program = Program::with_database_url(
        &url,
        &format!("[sources.api]\ntype = \"http\"\nurl = \"{}\"\n", server.url()),
    );
    let mut child = program.start(&["run"], "log");
    let held = wait_for("the held window", || async {
        let listed = program.run(&["requests", "list", "--status", "failed", "--json"]).await;
        assert_eq!(listed.code, Some(0), "{listed:?}");
        listed.json()[0]["id"].as_i64()
    })
    .await;
    for arguments in [
        &["sources", "pause", "api", "--reason", "a test"][..],
        &["requests", "retry", &held.to_string()],
        &["sources", "resume", "api"],
    ] {
        let done = program.run(arguments).await;
        assert_eq!(done.code, Some(0), "{done:?}");
    }
    wait_for("all events but the bad one", || async {
        let count: i64 = database.value("select count(*) from eventloader.events").await;
        (count == 9).then_some(())
    })
    .await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));

    let letters = program.run(&["dead-letters", "list", "--json"]).await;
    let letter = letters.json()[0]["id"].to_string();
    for arguments in [
        &["status"][..],
        &["migrate"],
        &["retry-worker", "--once"],
        &["sources", "seek", "api", "--to", "5", "--yes"],
        &["dead-letters", "discard", &letter, "--yes"],
    ] {
        let done = program.run(arguments).await;
        assert_eq!(done.code, Some(0), "{done:?}");
    }
}

#[tokio::test]
async fn a_member_of_runtime_cannot_change_history_or_the_schema() {
    let database = Database::migrated().await;
    let (login, url) = database.login(Some("eventloader_runtime")).await;
    let program = Program::with_database_url(&url, "");
    let mut connection = connect(&url).await;
    assert_denied(
        &mut connection,
        &[
            "update eventloader.events set payload = '{}'",
            "delete from eventloader.events",
            "truncate eventloader.events",
            "set eventloader.allow_rewrite = 'on'; delete from eventloader.events",
            "update eventloader.audit_log set actor = 'nobody'",
            "delete from eventloader.audit_log",
            "delete from eventloader._sqlx_migrations",
            "create table eventloader.mine (id int)",
            "alter table eventloader.events disable trigger events_append_only",
            "drop table eventloader.event_inbox",
        ],
    )
    .await;

    database
        .execute(
            "delete from eventloader._sqlx_migrations
             where version = (select max(version) from eventloader._sqlx_migrations)",
        )
        .await;
    let refused = program.run(&["migrate"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for part in [login.as_str(), "eventloader_owner", "older than this binary"] {
        assert!(refused.stderr.contains(part), "{part}: {refused:?}");
    }
    assert_told("schema too old", &refused.stderr);
}

#[tokio::test]
async fn a_member_of_readonly_sees_everything_and_writes_nothing() {
    let database = Database::migrated().await;
    database
        .execute("select eventloader.register_sources(array['a'], array['http'], array[0])")
        .await;
    let (_, url) = database.login(Some("eventloader_readonly")).await;
    let mut connection = connect(&url).await;
    let relations: Vec<String> = database
        .column(
            "select oid::regclass::text from pg_class
             where relnamespace = 'eventloader'::regnamespace and relkind in ('r', 'p', 'v', 'S')",
        )
        .await;
    assert!(relations.contains(&"eventloader.source_status".to_owned()), "{relations:?}");
    for relation in relations {
        let select = sqlx::AssertSqlSafe(format!("select * from {relation}"));
        connection.execute(select).await.unwrap_or_else(|error| panic!("{relation}: {error}"));
    }
    assert_denied(
        &mut connection,
        &[
            "insert into eventloader.source (source_name, type) values ('b', 'http')",
            "update eventloader.source_cursor set last_requested_id = 9",
            "delete from eventloader.dead_letter",
            "truncate eventloader.event_inbox",
            "select eventloader.register_sources(array['b'], array['http'], array[0])",
            "select eventloader.move_batch('a', 10)",
            "create table eventloader.mine (id int)",
        ],
    )
    .await;

    let program = Program::with_database_url(&url, "");
    for arguments in [
        &["status"][..],
        &["sources", "list"],
        &["requests", "list"],
        &["dead-letters", "list"],
        &["migrate"],
    ] {
        let shown = program.run(arguments).await;
        assert_eq!(shown.code, Some(0), "{shown:?}");
    }
    let refused = program.run(&["sources", "pause", "a"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("hint: grant the role"), "{refused:?}");
}

#[tokio::test]
async fn a_member_of_owner_applies_the_next_migration() {
    let database = Database::empty().await;
    // All migrations but the last, as the test's superuser.
    let mut before = sqlx::migrate!();
    before.migrations.to_mut().pop();
    before.create_schema("eventloader");
    before.dangerous_set_table_name("eventloader._sqlx_migrations");
    before.run(&database.pool).await.unwrap();
    let (_, url) = database.login(Some("eventloader_owner")).await;
    let migrated = Program::with_database_url(&url, "").run(&["migrate", "--json"]).await;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    assert_eq!(migrated.json()["applied_count"], 1);
    // Not even the owner rewrites history by accident.
    let mut connection = connect(&url).await;
    assert_denied(&mut connection, &["delete from eventloader.events"]).await;
    connection.execute("alter table eventloader.dead_letter add column note text").await.unwrap();
}

#[tokio::test]
async fn a_user_without_a_role_is_told_which_to_grant() {
    let database = Database::migrated().await;
    let (login, url) = database.login(None).await;
    let refused = Program::with_database_url(&url, "").run(&["status"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains(&format!("`grant eventloader_readonly to {login}`")),
        "{refused:?}"
    );
    assert_told("no rights on the schema", &refused.stderr);
}
