//! A small disk that only the programs started on it see: a tmpfs in a mount namespace of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

/// It goes with the value, unless a program still runs on it.
pub(crate) struct Disk {
    pid: u32,
    _keeper: Child,
    /// The keeper lives as long as this is open.
    _open: ChildStdin,
}

impl Disk {
    #[expect(clippy::print_stderr, reason = "a test that looked at nothing has to say so")]
    /// Mounts a disk at a directory with these options of `mount`; `None`: this machine does not let us.
    pub(crate) async fn mount(at: &Path, options: &str) -> Option<Self> {
        let mut command = Command::new("unshare");
        if !is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let script = "mount -t tmpfs -o \"$1\" tmpfs \"$0\" && echo mounted && exec cat";
        command.args(["--mount", "sh", "-c", script]).arg(at).arg(options);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut keeper = command.spawn().ok()?;
        let open = keeper.stdin.take()?;
        let mut lines = BufReader::new(keeper.stdout.take()?).lines();
        let mounted = lines.next_line().await.ok()?;
        if mounted.as_deref() != Some("mounted") {
            eprintln!("skipped: no disk can be mounted here");
            return None;
        }
        Some(Self { pid: keeper.id()?, _keeper: keeper, _open: open })
    }

    /// The command, run by this user where the disk is seen.
    pub(crate) fn command(&self, command: &Command) -> Command {
        let command = command.as_std();
        let mut entered = Command::new("nsenter");
        entered.args(["--target", &self.pid.to_string(), "--mount"]);
        if !is_root() {
            entered.args(["--user", "--preserve-credentials"]);
        }
        entered.args(["sh", "-c", "cd \"$0\" && exec \"$@\""]);
        entered.arg(command.get_current_dir().unwrap());
        if !is_root() {
            // Root of the namespace may mount; the program is to be run by who we are.
            entered.args(["unshare", "--user"]);
            entered.arg(format!("--map-user={}", rustix::process::geteuid().as_raw()));
            entered.arg(format!("--map-group={}", rustix::process::getegid().as_raw()));
        }
        entered.arg(command.get_program()).args(command.get_args());
        entered.env_clear();
        entered.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        entered.stdin(Stdio::null()).kill_on_drop(true);
        entered
    }

    /// A path on the disk, as this process reaches it.
    pub(crate) fn seen(&self, path: &Path) -> PathBuf {
        Path::new("/proc")
            .join(self.pid.to_string())
            .join("root")
            .join(path.strip_prefix("/").unwrap())
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
