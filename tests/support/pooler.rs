//! A `PgBouncer` before the private PostgreSQL, on a free port of the loopback address.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use url::Url;

use super::database::Database;
use super::wait_for;

/// It ends with the value.
pub(crate) struct Pooler {
    /// The database, through it.
    pub(crate) url: String,
    _process: Child,
    _directory: TempDir,
}

impl Pooler {
    /// Starts it with these lines in its section `[pgbouncer]`.
    pub(crate) async fn start(database: &Database, settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let program = Path::new("/usr/sbin/pgbouncer");
        let program = if program.exists() { program } else { Path::new("pgbouncer") };
        let mut settings = settings.to_owned();
        if version_of(program).await >= (1, 21) {
            // Later ones keep prepared statements apart by themselves, unless they are told not to.
            settings.push_str("\nmax_prepared_statements = 0");
        }
        let mut url: Url = database.url.parse().unwrap();
        let socket = database.options.get_socket().unwrap();
        let file = directory.path().join("pgbouncer.ini");
        std::fs::write(&file, configuration(&url, socket, port, &settings)).unwrap();
        let mut command = Command::new(program);
        command.arg("-q").arg(&file).stdin(Stdio::null()).kill_on_drop(true);
        if rustix::process::geteuid().is_root() {
            // It refuses root, like PostgreSQL, whose user alone gets at the socket.
            let owner = std::fs::metadata(socket).unwrap();
            std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))
                .unwrap();
            chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
            command.uid(owner.uid()).gid(owner.gid());
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().unwrap();
        wait_for("pgbouncer", || async { TcpStream::connect(("127.0.0.1", port)).await.ok() })
            .await;

        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(port)).unwrap();
        Self { url: url.into(), _process: process, _directory: directory }
    }
}

/// Major and minor.
async fn version_of(program: &Path) -> (u32, u32) {
    let said = Command::new(program).arg("--version").output().await;
    let said = said.unwrap_or_else(|error| panic!("pgbouncer ({error}): run scripts/setup.sh"));
    let said = String::from_utf8(said.stdout).unwrap();
    let numbers: Vec<u32> = said
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    (numbers[0], numbers[1])
}

fn configuration(url: &Url, socket: &Path, port: u16, settings: &str) -> String {
    let (database, user) = (url.path().trim_start_matches('/'), url.username());
    let password = url.password().unwrap();
    format!(
        "[databases]\n\
         {database} = host={} port={} user={user} password={password}\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = any\n\
         {settings}\n",
        socket.display(),
        url.port().unwrap(),
    )
}
