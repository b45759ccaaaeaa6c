//! The real binary, run as a process.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::database::Database;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_eventloader");

/// A command that takes longer hangs.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(1);

/// A directory with a configuration file, from which the binary is run.
pub(crate) struct Program {
    directory: TempDir,
    database_url: Option<String>,
}

/// What a finished command said.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

impl Program {
    /// With this text as `eventloader.toml`.
    pub(crate) fn new(database: &Database, configuration: &str) -> Self {
        Self { database_url: Some(database.url.clone()), ..Self::without_database(configuration) }
    }

    /// With this database URL.
    pub(crate) fn with_database_url(url: &str, configuration: &str) -> Self {
        Self { database_url: Some(url.to_owned()), ..Self::without_database(configuration) }
    }

    /// Without a database URL: the binary finds its own.
    pub(crate) fn without_database(configuration: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("eventloader.toml"), configuration).unwrap();
        Self { directory, database_url: None }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The binary with arguments and nothing of the test's own environment but `PATH`.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("USER", "tester")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some(url) = &self.database_url {
            command.env("DATABASE_URL", url);
        }
        command
    }

    /// Runs to the end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Finished {
        finish(self.command(arguments)).await
    }

    /// Runs to the end with further environment variables.
    pub(crate) async fn run_with(
        &self,
        environment: &[(&str, &str)],
        arguments: &[&str],
    ) -> Finished {
        let mut command = self.command(arguments);
        command.envs(environment.iter().copied());
        finish(command).await
    }

    /// What a started program has logged so far.
    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Starts and leaves running; log lines go to `log` in the directory.
    pub(crate) fn start(&self, arguments: &[&str], log: &str) -> Child {
        let log = std::fs::File::create(self.path(log)).unwrap();
        let mut command = self.command(arguments);
        if !self.read("eventloader.toml").contains("[admin]") {
            // Many run at once.
            command.env("EVENTLOADER_ADMIN__LISTEN", "127.0.0.1:0");
        }
        command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }
}

/// Runs a command to its end.
pub(crate) async fn finish(mut command: Command) -> Finished {
    let output = tokio::time::timeout(COMMAND_TIMEOUT, command.output())
        .await
        .unwrap_or_else(|_| panic!("{command:?} hangs"))
        .unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Sends a signal by its number.
pub(crate) fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}
