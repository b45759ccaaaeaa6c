//! Others on the same work, where `benches/rivals/setup.sh` has installed them.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use tempfile::tempdir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};
use tokio::process::Command;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use url::Url;

use super::figure::Figure;
use super::floor::{self, Work};
use super::pages;
use super::throughput::{load, move_preloaded};
use super::{RUNS, events_per, fresh, retire};
use crate::support::database::Database;
use crate::support::http::Server;

const SOURCES: usize = 32;
const PAGES: usize = 3;

/// Name in `run.py`, whether it reads tables in place of pages.
const RIVALS: [(&str, bool); 5] = [
    ("dlt-merge", false),
    ("dlt-append", false),
    ("target-postgres", false),
    ("ingestr", true),
    ("sling", true),
];

/// What `run.py` prints.
#[derive(Deserialize)]
struct Taken {
    seconds: f64,
    cpu_seconds: f64,
    memory_mb: f64,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[expect(clippy::print_stderr, reason = "a row that is not measured has to say so")]
pub(super) async fn rivals() {
    if !root().join("target/rivals/bin/python").exists() {
        eprintln!("rivals: none is installed; run benches/rivals/setup.sh");
        return;
    }
    let server = pages::serve(PAGES).await;
    let count = SOURCES * PAGES * pages::BATCH;
    let (mut ours, mut our_cpu, mut memory) = (Vec::new(), Vec::new(), 0.0_f64);
    for _ in 0..RUNS {
        let database = fresh().await;
        let cost = load(&database, &server, (SOURCES, PAGES), 1).await;
        ours.push(events_per(count, cost.seconds));
        our_cpu.push(events_per(count, cost.cpu));
        memory = memory.max(cost.memory_peak);
        retire(database).await;
    }
    for (rival, reads_table) in RIVALS {
        let (mut theirs, mut their_cpu, mut their_memory) = (Vec::new(), Vec::new(), 0.0_f64);
        for _ in 0..RUNS {
            let database = fresh().await;
            match run(rival, reads_table, &database, &server).await {
                Ok(taken) => {
                    theirs.push(events_per(count, taken.seconds));
                    their_cpu.push(events_per(count, taken.cpu_seconds));
                    their_memory = their_memory.max(taken.memory_mb);
                }
                Err(error) => eprintln!("rivals: {rival} failed: {error}"),
            }
            retire(database).await;
        }
        if theirs.is_empty() {
            continue;
        }
        let work = if reads_table { "table → table" } else { "http → table" };
        for (what, ours, floor, note) in [
            (
                "events/s",
                &ours,
                theirs,
                format!("{count} events; {rival}: {work}; ours: http → inbox → events"),
            ),
            (
                "events per CPU-second of the client",
                &our_cpu,
                their_cpu,
                format!("memory {memory:.0} MB, theirs {their_memory:.0} MB"),
            ),
        ] {
            let what = format!("{rival}: {what}");
            Figure { row: "rivals", what, ours: ours.clone(), floor, goal: None, note }.publish();
        }
    }
    pgmq().await;
}

async fn run(
    rival: &str,
    reads_table: bool,
    database: &Database,
    server: &Server,
) -> Result<Taken, String> {
    let scratch = tempdir().unwrap();
    database.execute("create schema rival").await;
    if reads_table {
        fill_table(database, scratch.path()).await;
    }
    database.execute("checkpoint").await;
    let bridge = Bridge::start(database).await;
    let mut command = Command::new(root().join("target/rivals/bin/python"));
    command.arg(root().join("benches/rivals/run.py")).arg(rival);
    command.args(["--database", &bridge.url, "--pages", &format!("http://{}", server.address)]);
    command.args(["--sources", &SOURCES.to_string(), "--scratch"]).arg(scratch.path());
    let output = command.stderr(Stdio::piped()).kill_on_drop(true).output().await.unwrap();
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(text.lines().rev().take(12).collect::<Vec<_>>().join(" | "));
    }
    let arrived: i64 =
        database.value("select count(distinct (source, id)) from rival.events").await;
    if usize::try_from(arrived).unwrap() != SOURCES * PAGES * pages::BATCH {
        return Err(format!("{arrived} events arrived"));
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

/// The same events as a table with the members as columns.
async fn fill_table(database: &Database, directory: &Path) {
    let work = Work { sources: SOURCES, pages: PAGES, sessions: 1 };
    floor::set_up(database).await;
    work.write_files(directory);
    work.copy(database, directory, "floor.inbox").await;
    database
        .execute(
            "create table public.pages as
             select source_name as source, event_id as id, payload ->> 'type' as type,
                 (payload ->> 'customer')::bigint as customer, (payload ->> 'amount')::float8 as amount,
                 (payload ->> 'paid')::boolean as paid, payload ->> 'note' as note
             from floor.inbox;
             alter table public.pages add primary key (source, id);
             drop schema floor cascade;
             vacuum analyze public.pages",
        )
        .await;
}

/// The move alone, with PGMQ as the inbox.
async fn pgmq() {
    let sql = root().join("target/rivals/lib/python3.11/site-packages/pgmq/sql/pgmq.sql");
    let work = Work { sources: 1, pages: 200, sessions: 1 };
    let count = work.event_count();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        ours.push(events_per(count, move_preloaded(work, true).await));
        let (database, directory) = (fresh().await, tempdir().unwrap());
        floor::set_up(&database).await;
        work.write_files(directory.path());
        work.copy(&database, directory.path(), "floor.inbox").await;
        let send = "select pgmq.create('q');\n\
                    select pgmq.send_batch('q', array_agg(payload order by event_id)) from floor.inbox\n\
                    group by (event_id - 1) / 1000;\ntruncate floor.inbox;\ncheckpoint;\n";
        psql(&database, &sql).await;
        psql_text(&database, directory.path(), send).await;
        let one = "with taken as materialized (select msg_id, message from pgmq.read('q', 60, 1000)), stored as (\
                   insert into floor.events (stream, version, event_type, payload) \
                   select 's0', (message ->> 'id')::bigint, 's0', message from taken order by msg_id) \
                   select count(*) from pgmq.delete('q', array(select msg_id from taken));\n";
        let began = Instant::now();
        psql_text(&database, directory.path(), &one.repeat(work.pages)).await;
        theirs.push(events_per(count, began.elapsed().as_secs_f64()));
        let moved: i64 = database.value("select count(*) from floor.events").await;
        assert_eq!(usize::try_from(moved).unwrap(), count, "PGMQ moved all");
        retire(database).await;
    }
    Figure {
        row: "rivals",
        what: "pgmq: move, events/s".to_owned(),
        ours,
        floor: theirs,
        goal: None,
        note: format!("{count} events, one session, batches of 1,000"),
    }
    .publish();
}

async fn psql_text(database: &Database, directory: &Path, text: &str) {
    let path = directory.join("script.sql");
    std::fs::write(&path, text).unwrap();
    psql(database, &path).await;
}

async fn psql(database: &Database, file: &Path) {
    let mut command = Command::new("psql");
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(file).arg(&database.url);
    let status = command.stdout(Stdio::null()).status().await.unwrap();
    assert!(status.success(), "{} failed", file.display());
}

/// The server's socket on a port: some of them know no other way.
struct Bridge {
    url: String,
    task: AbortHandle,
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bridge {
    async fn start(database: &Database) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let name = format!(".s.PGSQL.{}", database.options.get_port());
        let socket = database.options.get_socket().unwrap().join(name);
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let socket = socket.clone();
                tokio::spawn(async move {
                    let mut server = UnixStream::connect(socket).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        let mut url: Url = database.url.parse().unwrap();
        url.set_query(Some("sslmode=disable"));
        let credentials = url.as_str().split_once("://").unwrap().1.split_once('@');
        let user = credentials.map_or("eventloader", |(user, _)| user);
        let database = database.options.get_database().unwrap();
        let url = format!("postgresql://{user}@{address}/{database}?sslmode=disable");
        Self { url, task: task.abort_handle() }
    }
}
