//! Who runs `PostgreSQL`: this user, or, as it refuses root, an unprivileged one.

use std::{io, os::unix, path::Path, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use super::EmbeddedError;

/// `nobody` and `nogroup` on every system we know.
const NOBODY: u32 = 65534;

/// The user the server programs run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Account {
    /// The user of this process, not root.
    Ours,
    /// Another user; this process is root.
    Other { uid: u32, gid: u32 },
}

/// Why no account can run an existing cluster.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// We are not root, and it belongs to someone else.
    ForeignOwner { owner: u32 },
    /// It belongs to root.
    RootOwned,
}

impl Account {
    /// Chooses the account. `cluster_owner` is (uid, gid) of an existing cluster, which decides;
    /// `passwd` is the text of `/etc/passwd`.
    pub(super) fn choose(
        euid: u32,
        cluster_owner: Option<(u32, u32)>,
        passwd: &str,
    ) -> Result<Self, Refusal> {
        match (euid, cluster_owner) {
            (0, Some((0, _))) => Err(Refusal::RootOwned),
            (0, Some((uid, gid))) => Ok(Self::Other { uid, gid }),
            (0, None) => {
                let (uid, gid) = find_user(passwd, "postgres").unwrap_or((NOBODY, NOBODY));
                Ok(Self::Other { uid, gid })
            }
            (_, Some((owner, _))) if owner != euid => Err(Refusal::ForeignOwner { owner }),
            _ => Ok(Self::Ours),
        }
    }

    /// Prepares a program to run as this account in `directory`, out of reach of the terminal.
    ///
    /// The environment is emptied: the server outlives us and may belong to another user, who
    /// could read our secrets in it; and `PG*` or a broken `LC_ALL` must not change what it does.
    pub(super) fn command(self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C");
        command.current_dir(directory).process_group(0).stdin(Stdio::null());
        if let Self::Other { uid, gid } = self {
            command.gid(gid).uid(uid);
        }
        command
    }

    /// Gives a file or directory that we made to the account. Does not follow symbolic links.
    pub(super) fn take(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Ours => Ok(()),
            Self::Other { uid, gid } => unix::fs::lchown(path, Some(uid), Some(gid)),
        }
    }

    /// Whether the account can enter `directory`: tried, because access lists, mount options and
    /// user namespaces make computing it wrong.
    pub(super) async fn can_enter(self, directory: &Path) -> Result<bool, EmbeddedError> {
        if self == Self::Ours {
            return Ok(true);
        }
        let shell = Path::new("/bin/sh");
        // The shell itself is reachable for everyone, so a refusal is about the directory.
        match self.command(shell, directory).args(["-c", ":"]).status().await {
            Ok(status) => Ok(status.success()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                // Without the right to become another user nothing works; say that instead.
                let anywhere = self.command(shell, Path::new("/")).args(["-c", ":"]).status().await;
                anywhere.map(|_| false).map_err(|source| spawn_error(shell, source))
            }
            Err(source) => Err(spawn_error(shell, source)),
        }
    }
}

/// What a program that came to its end said.
pub(super) struct Finished {
    pub(super) success: bool,
    /// Standard output, then standard error.
    pub(super) text: String,
}

/// Runs a command to its end.
///
/// # Errors
/// `Spawn`, or `Timeout` after `limit`; what happens to the program then is the command's
/// `kill_on_drop`.
pub(super) async fn run(
    command: &mut Command,
    limit: Duration,
    log: &Path,
) -> Result<Finished, EmbeddedError> {
    let program = Path::new(command.as_std().get_program()).to_owned();
    let output = match timeout(limit, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(source)) => return Err(spawn_error(&program, source)),
        Err(_elapsed) => {
            let what = program.display().to_string();
            return Err(EmbeddedError::Timeout { what, limit, log: log.to_owned() });
        }
    };
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(Finished { success: output.status.success(), text })
}

fn spawn_error(program: &Path, source: io::Error) -> EmbeddedError {
    EmbeddedError::Spawn { program: program.to_owned(), source }
}

/// Finds (uid, gid) of a user in the text of `/etc/passwd`.
fn find_user(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next() == Some(name);
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (found && uid != 0).then_some((uid, gid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n+::::\npostgres:x:101:104:,,,:/var/lib/postgresql:/bin/sh\n";

    #[test]
    fn the_owner_of_the_cluster_decides_else_root_drops_to_postgres_or_nobody() {
        let other = |uid, gid| Ok(Account::Other { uid, gid });
        let foreign = |owner| Err(Refusal::ForeignOwner { owner });
        for (name, euid, owner, passwd, want) in [
            ("user, new", 7, None, PASSWD, Ok(Account::Ours)),
            ("user, own", 7, Some((7, 9)), PASSWD, Ok(Account::Ours)),
            ("user, foreign", 7, Some((8, 8)), PASSWD, foreign(8)),
            ("user, of root", 7, Some((0, 0)), PASSWD, foreign(0)),
            ("root, new", 0, None, PASSWD, other(101, 104)),
            ("root, no postgres", 0, None, "", other(NOBODY, NOBODY)),
            ("root, postgres is root", 0, None, "postgres:x:0:0:::", other(NOBODY, NOBODY)),
            ("root, existing", 0, Some((8, 9)), PASSWD, other(8, 9)),
            ("root, of root", 0, Some((0, 0)), PASSWD, Err(Refusal::RootOwned)),
        ] {
            assert_eq!(Account::choose(euid, owner, passwd), want, "{name}");
        }
    }
}
