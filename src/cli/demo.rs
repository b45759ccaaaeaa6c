//! `eventloader demo`: a tour that needs nothing but PostgreSQL's programs. All of it lives in a directory that goes with
//! the demo: a private PostgreSQL, an event API with moods, and `eventloader run` as a process of its own.

use std::fs::{File, Permissions};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use secrecy::ExposeSecret;
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use super::status;
use super::{Context, Failure};
use crate::config::ProcessConfig;
use crate::database::DatabaseError;
use crate::demo;
use crate::postgres::embedded::{Durability, Embedded, EmbeddedOptions};
use crate::postgres::pool;
use crate::shutdown::Signals;
use crate::status::Report;

/// How long it runs where nobody watches.
const SECONDS_UNWATCHED: u64 = 20;
/// Between two looks at the sources.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for `run` to drain.
const DRAIN_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// How long it runs [default: until Ctrl-C on a terminal, else 20]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,
}

/// What the tour has set up.
struct Stage {
    directory: TempDir,
    embedded: Embedded,
    pool: PgPool,
}

impl Demo {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut signals = Signals::new().map_err(io("wait for signals"))?;
        let stage = Stage::set_up(context).await?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(io("listen"))?;
        let api = listener.local_addr().map_err(io("listen"))?;
        write(&stage.directory.path().join("eventloader.toml"), &demo::configuration(api))?;
        let mut child = stage.start_run(&context.process)?;
        stage.introduce(context, api)?;
        let watched = async {
            tokio::select! {
                outcome = self.watch(context, &stage, &mut child) => outcome?,
                _ = signals.next() => {}
            }
            drain(&mut child).await
        };
        let outcome = tokio::select! {
            outcome = watched => outcome,
            served = axum::serve(listener, demo::api()) => served.map_err(io("serve the event API")),
        };
        let outcome = match outcome {
            Ok(()) => stage.say_what_next(context).await,
            Err(failure) => Err(failure),
        };
        stage.pool.close().await;
        stage.embedded.stop().await.map_err(DatabaseError::from)?;
        outcome
    }

    /// Shows the sources until the time is over, the reader is gone, or `run` ends.
    async fn watch(
        &self,
        context: &Context,
        stage: &Stage,
        child: &mut Child,
    ) -> Result<(), Failure> {
        let is_watched = std::io::stdout().is_terminal();
        let seconds = self.seconds.or((!is_watched).then_some(SECONDS_UNWATCHED));
        let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let mut audit = File::options()
            .append(true)
            .create(true)
            .open(stage.directory.path().join("audit.ndjson"))
            .map_err(io("write the file that grows"))?;
        for look in 1.. {
            let line = demo::audit_line(look);
            audit.write_all(line.as_bytes()).map_err(io("write the file that grows"))?;
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                ended = child.wait() => {
                    let log = std::fs::read_to_string(stage.log()).unwrap_or_default();
                    let last = log.lines().last().unwrap_or_default();
                    let ended = ended.map_or_else(|e| e.to_string(), |status| status.to_string());
                    return Err(Failure::new(format!("`eventloader run` ended ({ended}): {last}")));
                }
            }
            // Until `run` has made the schema there is nothing to show.
            if let Ok(report) = Report::read(&stage.pool).await {
                if is_watched {
                    context.output.bytes(b"\x1b[H\x1b[2J")?;
                    stage.explain(context)?;
                }
                if is_watched || look % 5 == 0 {
                    status::print(&context.output, &report)?;
                    context.output.line("")?;
                }
            }
            if until.is_some_and(|until| Instant::now() >= until) || context.output.is_closed() {
                break;
            }
        }
        Ok(())
    }
}

impl Stage {
    async fn set_up(context: &Context) -> Result<Self, Failure> {
        let directory = tempfile::Builder::new()
            .prefix("eventloader-demo-")
            // PostgreSQL refuses root, and runs as somebody else then, who has to get in.
            .permissions(Permissions::from_mode(0o755))
            .tempdir()
            .map_err(io("make a directory for the demo"))?;
        let place = directory.path().display();
        context.output.line(&format!("starting a private PostgreSQL in {place} …"))?;
        let process = &context.process;
        let mut embedded = Embedded::start(EmbeddedOptions {
            data_dir: directory.path().join("postgres"),
            data_dir_explicit: true,
            bin_dir: process.pg_bin.clone(),
            path: process.search_path.clone(),
            durability: Durability::Disposable,
        })
        .await
        .map_err(DatabaseError::from)?;
        embedded.reap_with_process().map_err(DatabaseError::from)?;
        let pool = pool::lazy(embedded.connect_options(), 2);
        Ok(Self { directory, embedded, pool })
    }

    fn log(&self) -> std::path::PathBuf {
        self.directory.path().join("run.log")
    }

    fn start_run(&self, process: &ProcessConfig) -> Result<Child, Failure> {
        let log = File::create(self.log()).map_err(io("write the log of `run`"))?;
        Command::new(&process.program)
            .args(["run", "--config", "eventloader.toml", "--log-format", "text"])
            .current_dir(self.directory.path())
            .env("DATABASE_URL", self.embedded.url().expose_secret())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(io("start `eventloader run`"))
    }

    fn introduce(&self, context: &Context, api: std::net::SocketAddr) -> Result<(), Failure> {
        let place = self.directory.path().display();
        context.output.line(&format!(
            "event API      http://{api}/orders?after_id=0&limit=3\n\
             configuration  {place}/eventloader.toml\n\
             log of `run`   {place}/run.log\n\
             other shells   export EVENTLOADER_DATA_DIR={place}/postgres; eventloader status\n\
             SQL            {}\n",
            self.embedded.psql_command()
        ))
    }

    fn explain(&self, context: &Context) -> Result<(), Failure> {
        let place = self.directory.path().display();
        context.output.line(&format!(
            "eventloader demo (Ctrl-C ends it and removes everything)\n\n\
             orders answers well · reviews says 429 now and then · payments fails now and then and is asked again\n\
             clicks has an event that PostgreSQL cannot hold · refunds failed once and waits for you · audit is a file\n\n\
             in another shell: export EVENTLOADER_DATA_DIR={place}/postgres; eventloader dead-letters list\n"
        ))
    }

    async fn say_what_next(&self, context: &Context) -> Result<(), Failure> {
        let report = Report::read(&self.pool).await?;
        status::print(&context.output, &report)?;
        context.output.line(
            "\nEvery event above is in the table eventloader.events once, in the order of its source. All of this is gone now.\n\n\
             Next:\n  \
             eventloader init     write a configuration of your own\n  \
             eventloader check    whether everything in it is right\n  \
             eventloader run      load, until Ctrl-C\n  \
             eventloader status   the state of every source, from another shell",
        )
    }
}

/// Lets `run` finish what it has begun. On a terminal it heard Ctrl-C, too.
async fn drain(child: &mut Child) -> Result<(), Failure> {
    if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()))
    {
        // One that ended by itself meanwhile needs no signal.
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap_or_default();
    }
    match timeout(DRAIN_MAX, child.wait()).await {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::new("`eventloader run` did not end in time, and was killed")),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(io("write the configuration of the demo"))
}

fn io(what: &'static str) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::new(format!("failed to {what}: {error}"))
}
