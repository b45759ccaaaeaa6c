//! Stopped in the middle: each request is in one place.

use rustix::process::Signal;
use sqlx::{Connection, Executor, PgConnection};

use super::{PRUNE, add, archived, count, done, failed, with};
use crate::support::database::Database;
use crate::support::program::{Finished, Program, signal};
use crate::support::wait_for;

const TOTAL: i64 = 25_000;

/// A log of two and a half batches, a program that archives it, and a connection for whose lock the second batch waits.
async fn held_in_the_second_batch() -> (Database, Program, tokio::process::Child, PgConnection) {
    let database = Database::migrated().await;
    database.register("s", 0).await;
    let long_ago = "clock_timestamp() - interval '10 days'";
    add(&database, "succeeded", long_ago, u32::try_from(TOTAL).unwrap()).await;
    database
        .execute(
            "create function public.hold() returns trigger language plpgsql as $$
             begin
                 if exists (select from eventloader.event_request_log_archive) then
                     perform pg_advisory_xact_lock(42);
                 end if;
                 return null;
             end $$;
             create trigger hold before delete on eventloader.event_request_log
                 for each statement execute function public.hold()",
        )
        .await;
    let mut holder = PgConnection::connect_with(&database.options).await.unwrap();
    holder.execute("select pg_advisory_lock(42)").await.unwrap();
    let program = Program::new(&database, "");
    let child = program
        .command(&with(&PRUNE, &["--archive", "--json"]))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the second batch", || async {
        let waiting: bool = database
            .value("select exists (select from pg_locks where locktype = 'advisory' and not granted and database =
                        (select oid from pg_database where datname = current_database()))")
            .await;
        waiting.then_some(())
    })
    .await;
    (database, program, child, holder)
}

async fn end(child: tokio::process::Child) -> Finished {
    let output = child.wait_with_output().await.unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Nothing is lost and nothing is there twice; another run does the rest.
async fn assert_whole(database: &Database, program: &Program, left_want: i64) {
    assert_eq!((count(database).await, archived(database).await), (left_want, TOTAL - left_want));
    let rest = done(&program.run(&with(&PRUNE, &["--archive", "--json"])).await);
    assert_eq!(rest["pruned_count"], left_want);
    let ids: i64 = database
        .value("select count(distinct id) from eventloader.event_request_log_archive")
        .await;
    assert_eq!((count(database).await, archived(database).await, ids), (0, TOTAL, TOTAL));
}

#[tokio::test]
async fn a_lost_connection_fails_the_run_and_loses_nothing() {
    let (database, program, child, mut holder) = held_in_the_second_batch().await;
    database
        .execute("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and not granted and
                      database = (select oid from pg_database where datname = current_database())")
        .await;
    let finished = end(child).await;
    failed(&finished, 1, &["failed to archive requests"]);
    let report = finished.json();
    assert_eq!((&report["pruned_count"], &report["complete"]), (&10_000.into(), &false.into()));
    holder.execute("select pg_advisory_unlock(42)").await.unwrap();
    assert_whole(&database, &program, 15_000).await;
}

#[tokio::test]
async fn a_signal_ends_it_after_the_batch_and_it_says_how_far_it_came() {
    let (database, program, child, mut holder) = held_in_the_second_batch().await;
    signal(&child, Signal::TERM);
    wait_for("the signal to be taken", || async { taken(&child).then_some(()) }).await;
    holder.execute("select pg_advisory_unlock(42)").await.unwrap();
    let finished = end(child).await;
    failed(&finished, 1, &["stopped by a signal between two batches", "run it again for the rest"]);
    let report = finished.json();
    assert_eq!((&report["pruned_count"], &report["complete"]), (&20_000.into(), &false.into()));
    assert_whole(&database, &program, 5_000).await;
}

/// Whether no signal of the process is pending.
fn taken(child: &tokio::process::Child) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id().unwrap())).unwrap();
    let pending = |name: &str| {
        status.lines().any(|l| l.starts_with(name) && !l.ends_with("0000000000000000"))
    };
    !pending("SigPnd:") && !pending("ShdPnd:")
}

#[tokio::test]
async fn a_killed_program_leaves_whole_batches() {
    let (database, program, mut child, mut holder) = held_in_the_second_batch().await;
    child.kill().await.unwrap();
    holder.execute("select pg_advisory_unlock(42)").await.unwrap();
    // The statement was sent: its server process finishes it, and finds then that nobody listens.
    wait_for("the end of the statement", || async {
        let running: i64 = database
            .value("select count(*) from pg_stat_activity where datname = current_database() and state = 'active' and
                        pid <> pg_backend_pid()")
            .await;
        (running == 0).then_some(())
    })
    .await;
    assert_whole(&database, &program, 5_000).await;
}
