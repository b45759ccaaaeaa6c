//! The embedded PostgreSQL, through the binary, for root and for everybody else.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;
use tokio::process::{Child, Command};

use crate::support::program::{BINARY, Finished, Program, finish, signal};
use crate::support::wait_for;

const CONFIGURATION: &str =
    "[loader]\nmax_idle = \"200ms\"\n[sources.audit]\ntype = \"file\"\npath = \"audit.ndjson\"\n";
const NOBODY: u32 = 65534;

/// A program without a database, run as this user or as nobody, that leaves no server behind.
struct Bundle {
    program: Program,
    binary: PathBuf,
    as_nobody: bool,
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if let Some(pid) = self.postmaster() {
            // A failed test may leave one; immediate shutdown, its data are not needed any more.
            let _gone_already = rustix::process::kill_process(pid, Signal::QUIT);
        }
    }
}

impl Bundle {
    fn new(as_nobody: bool) -> Self {
        let program = Program::without_database(CONFIGURATION);
        let directory = program.path("");
        // The user who runs PostgreSQL has to get in.
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut binary = PathBuf::from(BINARY);
        if as_nobody {
            // The build may lie where nobody else gets in.
            binary = program.path("eventloader");
            std::fs::copy(BINARY, &binary).unwrap();
            std::os::unix::fs::chown(&directory, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        Self { program, binary, as_nobody }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let plain = self.program.command(arguments);
        let mut command = Command::new(&self.binary);
        command.args(plain.as_std().get_args()).env_clear();
        command.current_dir(plain.as_std().get_current_dir().unwrap());
        command.envs(plain.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))));
        if self.as_nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Finished {
        finish(self.command(arguments)).await
    }

    fn start(&self, log: &str) -> Child {
        let log = std::fs::File::create(self.program.path(log)).unwrap();
        self.command(&["run"]).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn write_events(&self, count: i64) {
        let lines: Vec<String> = (1..=count).map(|id| format!("{{\"id\":{id}}}\n")).collect();
        std::fs::write(self.program.path("audit.ndjson"), lines.concat()).unwrap();
    }

    fn data_dir(&self) -> PathBuf {
        self.program.path(".eventloader")
    }

    /// The server, as its pid file names it.
    fn postmaster(&self) -> Option<rustix::process::Pid> {
        let pid = std::fs::read_to_string(self.data_dir().join("cluster/postmaster.pid")).ok()?;
        rustix::process::Pid::from_raw(pid.lines().next()?.parse().ok()?)
    }

    /// How far the source is stored, as `status` tells.
    async fn stored(&self) -> Option<i64> {
        let status = self.run(&["status", "--json"]).await;
        assert_eq!(status.code, Some(0), "{status:?}");
        status.json()["sources"][0]["last_stored_id"].as_i64()
    }

    /// Waits for so many events, asking beside the running `run`.
    async fn wait_for_events(&self, count: i64) {
        wait_for("the events", || async { (self.stored().await == Some(count)).then_some(()) })
            .await;
    }
}

fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The life of a cluster: made, killed, taken over, kept, looked at.
async fn live(bundle: Bundle) {
    bundle.write_events(3);
    let mut first = bundle.start("first");
    wait_for("the server", || async {
        bundle.program.read("first").contains("eventloader is running").then_some(())
    })
    .await;
    bundle.wait_for_events(3).await;
    let log = bundle.program.read("first");
    for part in ["making a PostgreSQL cluster", "private PostgreSQL is running", "data_dir", "psql"]
    {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert_eq!(mode_of(&bundle.data_dir().join("pgpass")), 0o600);
    assert_eq!(mode_of(&bundle.data_dir().join("cluster")), 0o700);
    let password = std::fs::read_to_string(bundle.data_dir().join("pgpass")).unwrap();
    let password = password.trim().rsplit(':').next().unwrap();
    assert!(password.len() > 30 && !log.contains(password));

    signal(&first, Signal::KILL);
    first.wait().await.unwrap();
    bundle.write_events(5);
    let mut second = bundle.start("second");
    bundle.wait_for_events(5).await;

    // Now the server, too: its children hold the directory for a while.
    signal(&second, Signal::KILL);
    second.wait().await.unwrap();
    rustix::process::kill_process(bundle.postmaster().unwrap(), Signal::KILL).unwrap();
    bundle.write_events(8);
    let mut third = bundle.start("third");
    bundle.wait_for_events(8).await;
    signal(&third, Signal::TERM);
    assert_eq!(third.wait().await.unwrap().code(), Some(0), "{}", bundle.program.read("third"));
    for log in ["second", "third"] {
        assert!(!bundle.program.read(log).contains("making a PostgreSQL cluster"));
    }
    assert_eq!(bundle.postmaster(), None, "stopped with the process that used it last");

    assert_eq!(bundle.stored().await, Some(8), "kept, and shown without a `run`");
    assert_eq!(bundle.postmaster(), None);
}

#[tokio::test]
async fn as_this_user_the_cluster_is_made_survives_a_kill_and_is_kept() {
    live(Bundle::new(false)).await;
}

#[tokio::test]
async fn a_server_that_dies_under_run_is_started_again_and_events_go_on() {
    let bundle = Bundle::new(false);
    bundle.write_events(3);
    let mut child = bundle.start("log");
    bundle.wait_for_events(3).await;
    for (round, count) in [(1, 5), (2, 9)] {
        let before = bundle.postmaster().unwrap();
        rustix::process::kill_process(before, Signal::KILL).unwrap();
        bundle.write_events(count);
        wait_for("another server", || async {
            let said = bundle.program.read("log").matches("running again").count();
            (said == round && bundle.postmaster().is_some_and(|pid| pid != before)).then_some(())
        })
        .await;
        bundle.wait_for_events(count).await;
    }
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", bundle.program.read("log"));
    assert_eq!(bundle.postmaster(), None, "stopped with the process that started it again");
}

#[tokio::test]
async fn as_an_unprivileged_user_it_is_the_same() {
    // Nobody but root can become somebody else; the other test is the unprivileged one then.
    if rustix::process::geteuid().is_root() {
        live(Bundle::new(true)).await;
    }
}

#[tokio::test]
async fn a_server_that_dies_under_run_is_started_again() {
    let bundle = Bundle::new(false);
    bundle.write_events(3);
    let mut child = bundle.start("log");
    wait_for("the server", || async {
        bundle.program.read("log").contains("eventloader is running").then_some(())
    })
    .await;
    for count in [5, 8] {
        let before = bundle.postmaster().unwrap();
        rustix::process::kill_process(before, Signal::KILL).unwrap();
        bundle.write_events(count);
        wait_for("another server", || async { bundle.postmaster().filter(|now| *now != before) })
            .await;
        bundle.wait_for_events(count).await;
    }
    assert!(bundle.program.read("log").contains("was gone, and is running again"));
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", bundle.program.read("log"));
    assert_eq!(bundle.postmaster(), None);
}

#[tokio::test]
async fn where_it_is_not_wanted_a_missing_url_is_an_error() {
    let program = Program::without_database(CONFIGURATION);
    let flag = program.run(&["run", "--no-embedded"]).await;
    let variable = program.run_with(&[("EVENTLOADER_NO_EMBEDDED", "1")], &["status"]).await;
    for refused in [flag, variable] {
        assert_eq!(refused.code, Some(78), "{refused:?}");
        for part in ["DATABASE_URL", "[database] url", "--no-embedded"] {
            assert!(refused.stderr.contains(part), "{part}: {refused:?}");
        }
    }
    assert!(!program.path(".eventloader").exists());
}

#[tokio::test]
async fn without_programs_it_says_what_to_install() {
    let program = Program::without_database(CONFIGURATION);
    let empty = program.path("empty");
    std::fs::create_dir(&empty).unwrap();
    std::fs::set_permissions(program.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    let variables = [("EVENTLOADER_PG_BIN", empty.to_str().unwrap())];
    let refused = program.run_with(&variables, &["status"]).await;
    assert_eq!(refused.code, Some(69), "{refused:?}");
    for part in ["apt-get install postgresql", "EVENTLOADER_PG_BIN", "DATABASE_URL"] {
        assert!(refused.stderr.contains(part), "{part}: {refused:?}");
    }
}
