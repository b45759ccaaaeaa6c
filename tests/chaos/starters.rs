//! Sixteen instances that start at once on an empty database.

use rustix::process::Signal;
use sqlx::{ConnectOptions, Connection, Executor};

use super::origin::Origin;
use super::postgres::Postgres;
use super::world::database_url;
use crate::support::program::{Program, signal};
use crate::support::wait_for;

const INSTANCES: usize = 16;

/// So often; one migrates, the others wait, and none of them says anything but that it runs and that it ends.
pub(crate) async fn start_together(rounds: usize) {
    let postgres = Postgres::start(None).await.unwrap();
    let origin = Origin::start(0);
    origin.freeze();
    let configuration = format!(
        "[database]\nmax_connections = 2\n[sources.s0]\ntype = \"http\"\nurl = \"http://{}/s0\"\n\
         headers = {{ X-Life = \"1\" }}\n",
        origin.address
    );
    let admin = postgres.options().database("postgres");
    for round in 0..rounds {
        let name = format!("round_{round}");
        let mut connection = admin.connect().await.unwrap();
        connection.execute(sqlx::AssertSqlSafe(format!("create database {name}"))).await.unwrap();
        let program =
            Program::with_database_url(&database_url(postgres.port, &name), &configuration);
        let logs: Vec<String> = (0..INSTANCES).map(|n| format!("log.{n}")).collect();
        let mut children: Vec<_> = logs.iter().map(|log| program.start(&["run"], log)).collect();
        for log in &logs {
            wait_for("the start", || async {
                program.read(log).contains("eventloader is running").then_some(())
            })
            .await;
        }
        for (child, log) in children.iter_mut().zip(&logs) {
            signal(child, Signal::TERM);
            let code = child.wait().await.unwrap().code();
            let said = program.read(log);
            assert_eq!(code, Some(0), "I19: round {round}: {said}");
            assert!(
                !said.contains("ERROR") && !said.contains("WARN"),
                "I19: round {round}: {said}"
            );
        }
        let applied =
            logs.iter().filter(|log| !program.read(log).contains(r#""applied_count":0}"#));
        assert_eq!(
            applied.count(),
            1,
            "I19: round {round}: one migrates: {}",
            program.read("log.0")
        );
        connection.execute(sqlx::AssertSqlSafe(format!("drop database {name}"))).await.unwrap();
        connection.close().await.unwrap();
    }
}

/// One instance of a later version was here: this one says so, and changes nothing.
pub(crate) async fn refuse_a_newer_schema() {
    let postgres = Postgres::start(None).await.unwrap();
    let url = database_url(postgres.port, "chaos");
    let program = Program::with_database_url(&url, "");
    assert_eq!(program.run(&["migrate"]).await.code, Some(0));
    let mut connection = postgres.options().connect().await.unwrap();
    connection
        .execute(
            "insert into eventloader._sqlx_migrations (version, description, success, checksum, execution_time)
             values (99990101000000, 'later', true, '', 0)",
        )
        .await
        .unwrap();
    let refused = program.run(&["migrate"]).await;
    assert_ne!(refused.code, Some(0), "I19: {refused:?}");
    assert!(refused.stderr.contains("newer than this binary"), "I19: {refused:?}");
}
