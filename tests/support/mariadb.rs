//! One private MariaDB for the whole run, one database per test.

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use sqlx::mysql::MySqlPoolOptions;
use sqlx::{AssertSqlSafe, Executor, MySqlPool};
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// Sets up a data directory in $1, serves it on port $2, and ends and removes it at the end of its input, which is the
/// end of the test process, however it comes. MariaDB refuses root; then it runs as its own user.
const SERVE: &str = r#"
trap '' HUP INT TERM
PATH="$PATH:/usr/sbin:/usr/local/sbin"
set -- "$1" "$2" --no-defaults --datadir="$1/data"
if [ "$(id -u)" = 0 ]; then
    chown mysql "$1" || exit 1
    set -- "$@" --user=mysql
fi
dir=$1 port=$2
shift 2
mariadb-install-db "$@" --auth-root-authentication-method=normal --skip-test-db --skip-name-resolve \
    >"$dir/log" 2>&1 || { cat "$dir/log" >&2; exit 1; }
mariadbd "$@" --socket="$dir/socket" --pid-file="$dir/pid" --bind-address=127.0.0.1 --port="$port" \
    --init-file="$dir/init.sql" --innodb-buffer-pool-size=32M --innodb-log-file-size=8M \
    --innodb-flush-log-at-trx-commit=0 --skip-log-bin --skip-name-resolve >>"$dir/log" 2>&1 &
server=$!
while read -r _; do :; done
kill -KILL "$server"
wait "$server" 2>/dev/null
rm -rf -- "$dir"
"#;

const PASSWORD: &str = "s3cret-of-mariadb";

static PORT: OnceCell<u16> = OnceCell::const_new();

async fn start() -> u16 {
    let dir =
        std::env::temp_dir().join(format!("eventloader-mariadb-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir(&dir).unwrap();
    let grants = format!(
        "create user tester@'%' identified by '{PASSWORD}';\ngrant all on *.* to tester@'%' with grant option;\n"
    );
    std::fs::write(dir.join("init.sql"), grants).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Command::new("/bin/sh")
        .args(["-c", SERVE, "sh"])
        .arg(&dir)
        .arg(port.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if server.try_wait().unwrap().is_some() {
            let mut said = String::new();
            server.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("MariaDB does not start; scripts/setup.sh installs it: {said}");
        }
        assert!(Instant::now() < deadline, "MariaDB did not start in 60 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The shell waits for the end of its input, which the kernel closes with this process.
    std::mem::forget(server);
    port
}

/// A database for one test.
pub(crate) struct MariaDb {
    pub(crate) pool: MySqlPool,
    pub(crate) url: String,
}

impl MariaDb {
    pub(crate) async fn create() -> Self {
        let port = PORT.get_or_init(start).await;
        let server = format!("mariadb://tester:{PASSWORD}@127.0.0.1:{port}");
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        let admin = MySqlPoolOptions::new().max_connections(1);
        let admin = admin.connect(&format!("{server}/mysql")).await.unwrap();
        admin
            .execute(AssertSqlSafe(format!("create database {name} character set utf8mb4")))
            .await
            .unwrap();
        admin.close().await;
        let url = format!("{server}/{name}");
        let pool = MySqlPoolOptions::new().max_connections(12).connect(&url).await.unwrap();
        Self { pool, url }
    }

    /// The URL for another user.
    pub(crate) fn url_as(&self, user: &str, password: &str) -> String {
        self.url.replace(&format!("tester:{PASSWORD}"), &format!("{user}:{password}"))
    }
}
