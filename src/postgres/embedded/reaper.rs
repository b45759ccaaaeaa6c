//! Ends a disposable cluster with the process that uses it, however that process dies.

use std::{io, path::Path, process::Stdio};

use tokio::process::{Child, ChildStdin, Command};

use super::{account::Account, directory::Directory};

/// Both shells wait for the end of their input, out of reach of signals from the terminal.
const STOPPER: &str = r#"trap '' HUP INT TERM; while read -r _; do :; done
"$1" stop -D "$2" -m immediate -w -t 60 >/dev/null 2>&1; :"#;
const REMOVER: &str = r#"trap '' HUP INT TERM; while read -r _; do :; done; rm -rf -- "$1""#;

/// Two shells in a chain: the first, as the account that runs `PostgreSQL`, waits for the end of
/// this process and stops the server; the second, as this user, waits for the end of the first
/// and removes the data directory, which the first may not be allowed to.
#[derive(Debug)]
pub(super) struct Reaper {
    /// Closed by the kernel when this process ends; no child inherits it.
    alive: Option<ChildStdin>,
    remover: Child,
}

impl Reaper {
    pub(super) fn spawn(directory: &Directory, pg_ctl: &Path) -> io::Result<Self> {
        let mut stopper = shell(directory.account, STOPPER);
        stopper.arg(pg_ctl).arg(directory.cluster()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut stopper = stopper.spawn()?;
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let chain: Stdio = stopper.stdout.take().ok_or_else(broken)?.try_into()?;
        let mut remover = shell(Account::Ours, REMOVER);
        let remover = remover.arg(directory.root()).stdin(chain).stdout(Stdio::null()).spawn()?;
        Ok(Self { alive: stopper.stdin.take(), remover })
    }

    /// Lets the shells do their work and waits for it.
    pub(super) async fn finish(mut self) -> io::Result<()> {
        drop(self.alive.take());
        self.remover.wait().await.map(drop)
    }
}

fn shell(account: Account, script: &str) -> Command {
    let mut command = account.command(Path::new("/bin/sh"), Path::new("/"));
    // A test runner takes an inherited standard error for a leaked test.
    command.args(["-c", script, "sh"]).stderr(Stdio::null());
    command
}
