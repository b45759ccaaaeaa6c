//! The cluster: made, started or adopted, and stopped, with the programs of `PostgreSQL`.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    net::{Ipv4Addr, TcpListener},
    path::Path,
    time::Duration,
};

use secrecy::SecretString;
use tokio::{
    process::Command,
    time::{Instant, sleep},
};
use uuid::Uuid;

use super::{
    Durability, EmbeddedError, POLL,
    account::{Finished, run},
    binaries::Binaries,
    directory::{Directory, sync_directory, unwritable},
    endpoint::{Answer, Endpoint, NAME, Server},
    shell_quote,
};

const INIT_TIMEOUT: Duration = Duration::from_mins(3);
/// Passed to `pg_ctl`, which says what it waited for in vain.
const CONTROL_SECONDS: &str = "60";
/// Ends a `pg_ctl` that does not end itself.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(90);
/// Backends of a killed postmaster may hold the directory for some seconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// Recovery replays up to `max_wal_size` and more.
const RECOVERY_TIMEOUT: Duration = Duration::from_mins(10);
/// With less room than this on its disk, a server does not start for that reason.
const ROOM_BYTES_MIN: u64 = 1024 * 1024;
/// Lines of output worth showing.
const TAIL_LINES_MAX: usize = 20;

/// The cluster in a directory whose owner's lock we hold.
pub(super) struct Cluster<'a> {
    pub(super) directory: &'a Directory,
    pub(super) binaries: &'a Binaries,
    pub(super) durability: Durability,
    /// Where the server has to listen, because others know it there; `None`: wherever it can.
    pub(super) endpoint: Option<&'a Endpoint>,
}

/// Why one attempt to start did not lead to a server.
#[derive(Debug, PartialEq, Eq)]
enum StartFailure {
    /// Something still holds the directory or took the port: try again.
    Busy,
    /// It starts, but not within `pg_ctl`'s patience: watch it.
    Slow,
    DiskFull,
    Other,
}

impl Cluster<'_> {
    /// Makes the cluster beside its place and renames it when complete.
    ///
    /// The name is new each time: an `initdb` orphaned by our death removes its own directory when
    /// it fails, and must not meet ours there.
    pub(super) async fn initialise(&self, password: &SecretString) -> Result<(), EmbeddedError> {
        let root = self.directory.root();
        let making = root.join(format!("init-{}", Uuid::new_v4().simple()));
        self.directory.create_private(&making)?;
        let password_file = making.join("password");
        self.directory.hand_password(&password_file, password)?;
        let mut finished = self.initdb(&making, &password_file, "C.UTF-8").await?;
        if !finished.success && finished.text.contains("invalid locale") {
            finished = self.initdb(&making, &password_file, "C").await?;
        }
        if !finished.success {
            self.directory.remove_leftovers();
            let path = root.to_owned();
            if is_disk_full(&finished.text) {
                return Err(EmbeddedError::DiskFull { path });
            }
            return Err(EmbeddedError::Init { path, tail: tail(&finished.text) });
        }
        let cluster = self.directory.cluster();
        fs::rename(making.join("cluster"), &cluster)
            .and_then(|()| sync_directory(root))
            .map_err(unwritable(&cluster))?;
        self.directory.remove_leftovers();
        Ok(())
    }

    async fn initdb(
        &self,
        making: &Path,
        password_file: &Path,
        locale: &str,
    ) -> Result<Finished, EmbeddedError> {
        let mut command = self.program("initdb", making);
        command.arg("-D").arg(making.join("cluster"));
        command.arg("--pwfile").arg(password_file);
        command.args(["--username", NAME, "--auth", "scram-sha-256", "--encoding", "UTF8"]);
        command.args(["--locale", locale, "--data-checksums", "--no-instructions"]);
        if self.durability == Durability::Disposable {
            command.arg("--no-sync");
        }
        run(command.kill_on_drop(true), INIT_TIMEOUT, making).await
    }

    /// Brings the server up. A running postmaster
    /// that takes our password, left by a killed process of ours, is adopted as it is.
    ///
    /// Never removes `postmaster.pid`: only the server can tell whether it is stale.
    pub(super) async fn bring_up(&self, password: SecretString) -> Result<Server, EmbeddedError> {
        let recovered_by = Instant::now() + RECOVERY_TIMEOUT;
        let mut busy_until = Instant::now() + BUSY_TIMEOUT;
        let mut started = false;
        loop {
            if let Some(endpoint) = self.directory.postmaster().map(|running| running.endpoint) {
                match endpoint.ask(&password).await {
                    Answer::Ready { version } => return Ok(Server { endpoint, password, version }),
                    Answer::NoDatabase => {
                        let created = endpoint.create_database(&password).await;
                        created.map_err(|source| self.directory.refused(source))?;
                        continue;
                    }
                    Answer::Starting if Instant::now() < recovered_by => {
                        busy_until = Instant::now() + BUSY_TIMEOUT;
                        sleep(POLL).await;
                        continue;
                    }
                    Answer::Starting => return Err(self.timeout("recovery", RECOVERY_TIMEOUT)),
                    Answer::Refused(source) => {
                        // What we started and cannot use must not stay behind.
                        if started && let Err(error) = self.stop().await {
                            tracing::warn!(%error, "cannot stop a PostgreSQL that refuses us");
                        }
                        return Err(self.directory.refused(source));
                    }
                    Answer::Silent => {}
                }
            }
            match self.try_start().await? {
                Ok(()) => started = true,
                Err((StartFailure::Busy | StartFailure::Slow, _))
                    if Instant::now() < busy_until =>
                {
                    sleep(POLL).await;
                }
                Err((StartFailure::DiskFull, _)) => {
                    return Err(EmbeddedError::DiskFull { path: self.directory.root().to_owned() });
                }
                Err(_) if self.is_out_of_room() => {
                    return Err(EmbeddedError::DiskFull { path: self.directory.root().to_owned() });
                }
                Err((_, tail)) => {
                    return Err(EmbeddedError::Start { log: self.directory.log(), tail });
                }
            }
        }
    }

    /// Runs `pg_ctl start` once. It makes the server a session of its own (`setsid`), so that
    /// Ctrl-C does not reach it. Cancelled, the server comes up all the same and is adopted next.
    async fn try_start(&self) -> Result<Result<(), (StartFailure, String)>, EmbeddedError> {
        let log_bytes_before = self.directory.prepare_log()?;
        let endpoint = self.plan_endpoint()?;
        let settings_file = self.directory.root().join("postgresql.conf");
        let settings = settings(&endpoint, self.durability);
        self.directory.replace_file(&settings_file, &settings, 0o644)?;
        let config = shell_quote(&settings_file.to_string_lossy());
        let mut command = self.control("start");
        // Relative, because pg_ctl puts it into a shell command within double quotes.
        command.args(["-l", "../postgres.log", "-o", &format!("-c config_file={config}")]);
        let finished = run(&mut command, CONTROL_TIMEOUT, &self.directory.log()).await?;
        if finished.success {
            return Ok(Ok(()));
        }
        let text = finished.text + &read_from(&self.directory.log(), log_bytes_before);
        Ok(Err((start_failure(&text), tail(&text))))
    }

    /// Stops the server within 60 s: open transactions are rolled back, nothing committed is lost.
    ///
    /// # Errors
    /// `Stop` if it still runs. A server that is gone already is no error.
    pub(super) async fn stop(&self) -> Result<(), EmbeddedError> {
        let mut command = self.control("stop");
        let finished =
            run(command.args(["-m", "fast"]), CONTROL_TIMEOUT, &self.directory.log()).await?;
        if finished.success || self.directory.postmaster().is_none() {
            return Ok(());
        }
        let cluster = self.directory.cluster();
        Err(EmbeddedError::Stop { cluster, tail: tail(&finished.text) })
    }

    fn control(&self, action: &str) -> Command {
        let cluster = self.directory.cluster();
        let mut command = self.program("pg_ctl", &cluster);
        command.args([action, "-w", "-t", CONTROL_SECONDS]);
        // pg_ctl hands -D to a shell within double quotes. It shows in `ps`, so it is preferred.
        let text = cluster.to_string_lossy();
        if text.contains(['"', '$', '`', '\\', '\n']) {
            command.env("PGDATA", &cluster);
        } else {
            command.arg("-D").arg(&cluster);
        }
        command
    }

    fn program(&self, name: &str, directory: &Path) -> Command {
        self.directory.account.command(&self.binaries.program(name), directory)
    }

    fn plan_endpoint(&self) -> Result<Endpoint, EmbeddedError> {
        let socket = self.directory.socket();
        if let Some(endpoint) = Endpoint::socket(&socket) {
            // As root we pass the 0700 of the account; no other user does.
            self.directory.create_private(&socket)?;
            return Ok(endpoint);
        }
        if let Some(known) = self.endpoint {
            return Ok(known.clone());
        }
        // Free now; if someone takes it before the server does, the next attempt takes another.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(unwritable(&socket))?;
        let port = listener.local_addr().map_err(unwritable(&socket))?.port();
        Ok(Endpoint::Loopback { port })
    }

    /// A server without room for a line of its log cannot say why it does not start.
    fn is_out_of_room(&self) -> bool {
        rustix::fs::statvfs(self.directory.root())
            .is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < ROOM_BYTES_MIN)
    }

    fn timeout(&self, what: &str, limit: Duration) -> EmbeddedError {
        EmbeddedError::Timeout { what: what.to_owned(), limit, log: self.directory.log() }
    }
}

/// Our settings. They override `cluster/postgresql.conf`; `alter system` overrides them.
fn settings(endpoint: &Endpoint, durability: Durability) -> String {
    let (addresses, sockets) = match endpoint {
        // The value is a list: its items are quoted, then the whole.
        Endpoint::Socket { .. } => ("", format!("\"{}\"", endpoint.host().replace('"', "\"\""))),
        Endpoint::Loopback { .. } => ("127.0.0.1", String::new()),
    };
    let sockets = sockets.replace('\\', "\\\\").replace('\'', "''");
    let port = endpoint.port();
    let durability = match durability {
        Durability::Durable => "",
        Durability::Disposable => "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n",
    };
    format!(
        "# Written by eventloader at every start. To change a setting, use ALTER SYSTEM.\n\
         include 'cluster/postgresql.conf'\n\
         listen_addresses = '{addresses}'\n\
         unix_socket_directories = '{sockets}'\n\
         unix_socket_permissions = 0700\n\
         port = {port}\n\
         cluster_name = '{NAME}'\n\
         max_connections = 100\n\
         shared_buffers = 128MB\n\
         checkpoint_timeout = 15min\n\
         max_wal_size = 2GB\n\
         timezone = 'UTC'\n\
         log_timezone = 'UTC'\n\
         log_destination = 'stderr'\n\
         logging_collector = off\n\
         {durability}"
    )
}

/// Reads the reason of a failed start from the output of `pg_ctl` and what the server logged.
fn start_failure(text: &str) -> StartFailure {
    let has = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    if is_disk_full(text) {
        StartFailure::DiskFull
    } else if has(&["pre-existing shared memory block", "already exists", "Address already in use"])
    {
        StartFailure::Busy
    } else if has(&["did not start in time"]) {
        StartFailure::Slow
    } else {
        StartFailure::Other
    }
}

fn is_disk_full(text: &str) -> bool {
    text.contains("No space left on device") || text.contains("Disk quota exceeded")
}

/// The last lines of a program's output.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES_MAX)..].join("\n")
}

fn read_from(path: &Path, offset: u64) -> String {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(offset))?;
        file.read_to_end(&mut bytes)
    });
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("(cannot read {}: {error})", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_start_is_retried_only_while_something_holds_the_directory_or_port() {
        use StartFailure::{Busy, DiskFull, Other, Slow};
        for (text, want) in [
            ("FATAL:  pre-existing shared memory block (key 1, ID 2) is still in use", Busy),
            ("FATAL:  lock file \"postmaster.pid\" already exists", Busy),
            ("LOG:  could not bind IPv4 address: Address already in use", Busy),
            ("pg_ctl: server did not start in time", Slow),
            ("PANIC:  could not write to file: No space left on device", DiskFull),
            ("FATAL:  unrecognized configuration parameter \"x\"", Other),
        ] {
            assert_eq!(start_failure(text), want, "{text}");
        }
    }

    #[test]
    fn settings_quote_the_socket_directory_twice() {
        let endpoint = Endpoint::Socket { directory: r#"/a, "b"'\c"#.into(), port: 5432 };
        let text = settings(&endpoint, Durability::Durable);
        assert!(text.contains(r#"unix_socket_directories = '"/a, ""b""''\\c"'"#), "{text}");
        assert!(text.contains("listen_addresses = ''\n") && !text.contains("fsync"));
    }

    #[test]
    fn loopback_opens_no_socket_and_disposable_gives_up_fsync() {
        let text = settings(&Endpoint::Loopback { port: 40001 }, Durability::Disposable);
        for line in ["listen_addresses = '127.0.0.1'", "unix_socket_directories = ''"] {
            assert!(text.contains(line), "{text}");
        }
        assert!(text.contains("port = 40001\n") && text.contains("fsync = off\n"));
    }

    #[test]
    fn tail_keeps_the_end() {
        let text = (0..50).map(|n| n.to_string()).collect::<Vec<_>>().join("\n\n");
        assert!(tail(&text).starts_with("30\n31\n") && tail(&text).ends_with("\n49"));
        assert_eq!(tail(""), "");
    }
}
