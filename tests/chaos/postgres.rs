//! The campaign's own PostgreSQL, which is killed, stopped, filled up and started again.
//!
//! It does not sync: what is done to it ends processes, and what they have written stays with the kernel.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, Executor};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::support::disk::Disk;
use crate::support::program::signal;

/// How long a server may take to come back. A dead one leaves children that hold its directory for a while.
const START_PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct Postgres {
    directory: TempDir,
    disk: Option<Disk>,
    pub(crate) port: u16,
    server: Mutex<Option<Child>>,
}

impl Postgres {
    /// Starts one with an empty database `chaos`, on a disk of this size where one is given. `None`: this machine lets
    /// us mount none.
    pub(crate) async fn start(disk_size: Option<&str>) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        open_to_all(place);
        std::fs::create_dir(place.join("disk")).unwrap();
        open_to_all(&place.join("disk"));
        let disk = match disk_size {
            Some(size) => {
                let options = format!("size={size},mode=777");
                Some(Disk::mount(&place.join("disk"), &options).await?)
            }
            None => None,
        };
        let port = free_port();
        let server = Mutex::new(None);
        let postgres = Self { directory, disk, port, server };
        let data = postgres.data();
        let arguments =
            ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", "-D"];
        let mut initdb = postgres.command("initdb");
        initdb.args(arguments).arg(&data);
        let made = postgres.entered(&initdb).stdout(Stdio::null()).status().await.unwrap();
        assert!(made.success(), "initdb failed");
        postgres.restart().await;
        let admin = postgres.options().database("postgres");
        let mut connection = admin.connect().await.unwrap();
        connection.execute("create database chaos").await.unwrap();
        connection.close().await.unwrap();
        Some(postgres)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("disk/data")
    }

    /// For the campaign's own connections: they write even while everybody else may only read.
    pub(crate) fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new()
            .host("127.0.0.1")
            .port(self.port)
            .username("postgres")
            .database("chaos")
            .ssl_mode(PgSslMode::Disable)
            .options([("default_transaction_read_only", "off")])
    }

    /// One of PostgreSQL's programs, run by somebody who is not root, and ended with this process.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        if rustix::process::geteuid().is_root() {
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
        }
        command.args(["--pdeathsig", "KILL"]).arg(programs().join(program));
        command.current_dir(self.directory.path());
        command
    }

    fn entered(&self, command: &Command) -> Command {
        if let Some(disk) = &self.disk {
            return disk.command(command);
        }
        let command = command.as_std();
        let mut same = Command::new(command.get_program());
        same.args(command.get_args()).current_dir(self.directory.path());
        same
    }

    /// Starts it, and waits until it lets connections in.
    pub(crate) async fn restart(&self) {
        let deadline = Instant::now() + START_PATIENCE;
        let mut server = self.server.lock().await;
        loop {
            let is_running =
                server.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none());
            if !is_running {
                *server = Some(self.spawn());
            }
            if let Ok(connection) = self.options().database("postgres").connect().await {
                drop(connection.close().await);
                return;
            }
            assert!(Instant::now() < deadline, "PostgreSQL does not start: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn spawn(&self) -> Child {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data());
        for setting in [
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            "max_connections=200".to_owned(),
            "shared_buffers=64MB".to_owned(),
            "max_wal_size=128MB".to_owned(),
            "fsync=off".to_owned(),
            "full_page_writes=off".to_owned(),
            "log_min_messages=fatal".to_owned(),
        ] {
            command.arg("-c").arg(setting);
        }
        let log = std::fs::File::options().create(true).append(true).open(self.log_file()).unwrap();
        let mut entered = self.entered(&command);
        entered.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        entered.spawn().unwrap()
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Ends it: KILL, QUIT (at once) or INT (fast).
    pub(crate) async fn end(&self, how: Signal) {
        let mut server = self.server.lock().await;
        if let Some(child) = server.as_mut().filter(|child| child.id().is_some()) {
            signal(child, how);
            child.wait().await.unwrap();
        }
    }

    /// Takes all the room on its disk. Answers whether there is one.
    pub(crate) fn fill(&self) -> bool {
        let Some(disk) = &self.disk else { return false };
        let mut file = std::fs::File::create(disk.seen(&self.ballast())).unwrap();
        std::io::copy(&mut std::io::repeat(0), &mut file).unwrap_err();
        true
    }

    /// Gives the room back.
    pub(crate) fn make_room(&self) {
        if let Some(disk) = &self.disk {
            std::fs::remove_file(disk.seen(&self.ballast())).unwrap();
        }
    }

    fn ballast(&self) -> PathBuf {
        self.directory.path().join("disk/ballast")
    }
}

fn open_to_all(directory: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o777)).unwrap();
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Where PostgreSQL's programs are.
fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = std::env::split_paths(&path).find(|directory| directory.join("initdb").exists());
    named.unwrap_or_else(|| {
        let versions = std::fs::read_dir("/usr/lib/postgresql").unwrap();
        let mut bins: Vec<PathBuf> = versions.map(|v| v.unwrap().path().join("bin")).collect();
        bins.retain(|bin| bin.join("initdb").exists());
        bins.sort();
        bins.pop().expect("scripts/setup.sh installs PostgreSQL")
    })
}
