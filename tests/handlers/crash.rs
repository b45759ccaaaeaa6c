//! A process that is killed between its handler and the commit.

use std::process::Stdio;
use std::time::Duration;

use eventloader::handler::{HandlerRegistry, HandlerWorker, LoggedEvent, Pass};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::{append_many, effects, marks, note, noting_all, stage, worker};
use crate::support::database::Database;
use crate::support::wait_for;

const URL: &str = "EVENTLOADER_TEST_KILLED_HANDLER_URL";

/// The process that is killed: it handles events until the third, over whose work it sleeps.
#[tokio::test]
#[ignore = "a part of another test, which runs it in a process of its own and kills that"]
async fn the_process_that_is_killed() {
    let Ok(url) = std::env::var(URL) else { return };
    let mut registry = HandlerRegistry::new();
    let outside = url.clone();
    let call = async move |_: Value, event: LoggedEvent, transaction: &mut PgConnection| {
        note(&event, transaction).await?;
        if event.version == 3 {
            let mut outside = PgConnection::connect(&outside).await?;
            sqlx::query("insert into public.reached values (true)").execute(&mut outside).await?;
            std::future::pending::<()>().await;
        }
        Ok(())
    };
    registry.on("*", call).unwrap();
    let pool = eventloader::postgres::pool::lazy(url.parse().unwrap(), 4);
    let mut worker = HandlerWorker::new("w", pool, registry);
    worker.lease_ttl = Duration::from_millis(600);
    worker.run(CancellationToken::new()).await;
}

fn start_process(database: &Database) -> tokio::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "handlers::crash::the_process_that_is_killed"])
        .env(URL, &database.url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_process_killed_before_the_commit_leaves_nothing_half_done_and_repeats_nothing() {
    let database = stage().await;
    database.execute("create table public.reached (yes boolean)").await;
    append_many(&database, "orders", 5).await;
    let mut process = start_process(&database);
    wait_for("the handler of the third event", || async {
        let reached: bool = database.value("select exists (select from public.reached)").await;
        reached.then_some(())
    })
    .await;
    process.kill().await.unwrap();
    assert_eq!(effects(&database).await, ["orders/1", "orders/2"]);

    let next = worker(&database, "w", noting_all());
    let report = wait_for("the lease of the killed process to expire", || async {
        match next.run_once().await.unwrap() {
            Pass::Done(report) => Some(report),
            Pass::StandBy(_) => None,
        }
    })
    .await;
    // How far the checkpoint was written is chance; the marks are not.
    assert_eq!((report.handled_count, report.failed_count), (3, 0));
    assert_eq!(
        effects(&database).await,
        ["orders/1", "orders/2", "orders/3", "orders/4", "orders/5"]
    );
    assert_eq!(marks(&database).await, 5);
}

/// Dropping the worker is the same as killing it.
#[tokio::test]
async fn a_worker_that_is_dropped_commits_nothing_of_what_was_in_work() {
    let database = stage().await;
    append_many(&database, "orders", 1).await;
    let mut registry = HandlerRegistry::new();
    let call = async |_: Value, event: LoggedEvent, transaction: &mut PgConnection| {
        note(&event, transaction).await?;
        std::future::pending::<()>().await;
        Ok(())
    };
    registry.on("*", call).unwrap();
    let mut dropped = worker(&database, "w", registry);
    dropped.lease_ttl = Duration::from_millis(500);
    let running = tokio::time::timeout(Duration::from_millis(400), dropped.run_once());
    assert!(running.await.is_err());
    let next = worker(&database, "w", noting_all());
    let handled_count = wait_for("the lease to expire", || async {
        match next.run_once().await.unwrap() {
            Pass::Done(report) => Some(report.handled_count),
            Pass::StandBy(_) => None,
        }
    })
    .await;
    assert_eq!((handled_count, effects(&database).await.len()), (1, 1));
}
