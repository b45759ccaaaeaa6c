//! The floor: what `psql` does with plain SQL. COPY of the same events into a table like the inbox, then `delete …
//! returning` → `insert` into a table like `events`, in the batches that the retry worker takes.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;
use tokio::time::Instant;

use super::pages::{self, BATCH};
use crate::support::database::Database;

/// What `psql` works on: the same sources and pages that we are given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) sources: usize,
    /// Pages of each source.
    pub(crate) pages: usize,
    /// Sessions at once, each with its share of the sources.
    pub(crate) sessions: usize,
}

impl Work {
    pub(crate) fn event_count(self) -> usize {
        self.sources * self.pages * BATCH
    }

    fn share(self, session: usize) -> impl Iterator<Item = usize> {
        (session..self.sources).step_by(self.sessions)
    }

    /// Writes what COPY reads: a file a session.
    pub(crate) fn write_files(self, directory: &Path) {
        for session in 0..self.sessions {
            let mut text = String::new();
            for source in self.share(session) {
                for id in 1..=self.pages * BATCH {
                    writeln!(text, "s{source}\t{id}\ts{source}\t{}", pages::event(id)).unwrap();
                }
            }
            std::fs::write(directory.join(format!("{session}.copy")), text).unwrap();
        }
    }

    /// Copies the files into an inbox; seconds.
    pub(crate) async fn copy(self, database: &Database, directory: &Path, inbox: &str) -> f64 {
        let script = |session: usize| {
            let path = directory.join(format!("{session}.copy"));
            let columns = "source_name, event_id, event_type, payload";
            format!("\\copy {inbox} ({columns}) from '{}'\n", path.display())
        };
        self.run(database, directory, script).await
    }

    /// Moves everything in the floor's inbox; seconds.
    pub(crate) async fn move_all(self, database: &Database, directory: &Path) -> f64 {
        let script = |session: usize| {
            let mut text = String::new();
            for source in self.share(session) {
                for page in 0..self.pages {
                    let (above, to) = (page * BATCH, (page + 1) * BATCH);
                    writeln!(
                        text,
                        "with taken as (delete from floor.inbox where source_name = 's{source}' and event_id > {above} \
                         and event_id <= {to} returning *) insert into floor.events (stream, version, event_type, \
                         payload, message_id, request_id, occurred_at) select source_name, event_id, event_type, \
                         payload, message_id, request_id, occurred_at from taken order by event_id;"
                    )
                    .unwrap();
                }
            }
            text
        };
        self.run(database, directory, script).await
    }

    /// Runs a script in each session, all at once; seconds.
    async fn run(
        self,
        database: &Database,
        directory: &Path,
        script: impl Fn(usize) -> String,
    ) -> f64 {
        let paths: Vec<_> = (0..self.sessions)
            .map(|session| {
                let path = directory.join(format!("{session}.sql"));
                std::fs::write(&path, script(session)).unwrap();
                path
            })
            .collect();
        let began = Instant::now();
        let running: Vec<_> = paths
            .iter()
            .map(|path| {
                let mut command = Command::new("psql");
                command
                    .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"])
                    .arg(path)
                    .arg(&database.url);
                command.stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap()
            })
            .collect();
        for mut psql in running {
            assert!(psql.wait().await.unwrap().success(), "psql failed");
        }
        began.elapsed().as_secs_f64()
    }
}

/// As many sessions as the machine has cores: the fastest that `psql` can be here.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Makes the tables of the floor in a database that has ours.
pub(crate) async fn set_up(database: &Database) {
    database
        .run_sql(
            "create schema floor;
             create table floor.inbox (like eventloader.event_inbox including all);
             create table floor.events (like eventloader.events including all);
             alter table floor.inbox set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
                 autovacuum_analyze_scale_factor = 0.05)"
                .to_owned(),
        )
        .await;
}
