//! Private Redis servers: one for the whole run, with streams of their own for each test, and one for each test that ends
//! or freezes it.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Value};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::tls::Authority;

/// Serves Redis in the directory $1 with the ports $2 and, for TLS, $3. Does what it reads, and ends and removes everything
/// at the end of its input, which is the end of the test process, however it comes.
const SERVE: &str = r#"
trap '' HUP INT TERM
start() {
    redis-server --port "$2" --tls-port "$3" --bind 127.0.0.1 --dir "$1" --requirepass "$4" --loglevel warning \
        --tls-cert-file "$1/cert.pem" --tls-key-file "$1/key.pem" --tls-auth-clients no --protected-mode no \
        --save '' --appendonly yes --appendfsync no >>"$1/log" 2>&1 &
    server=$!
}
start "$@"
while read -r what; do
    case $what in
        kill) kill -KILL "$server"; wait "$server" 2>/dev/null ;;
        start) start "$@" ;;
        freeze) kill -STOP "$server" ;;
        thaw) kill -CONT "$server" ;;
    esac
done
kill -KILL "$server"
wait "$server" 2>/dev/null
rm -rf -- "$1"
"#;

pub(crate) const PASSWORD: &str = "s3cret-of-redis";

static SHARED: OnceCell<Redis> = OnceCell::const_new();

/// A server. It ends with the value, or with the process.
pub(crate) struct Redis {
    pub(crate) port: u16,
    pub(crate) tls_port: u16,
    /// Whom its certificate, which is for `localhost`, is signed by.
    pub(crate) authority: Authority,
    input: Mutex<Option<ChildStdin>>,
    shell: Child,
    /// What it says if it does not start.
    log: PathBuf,
}

impl Redis {
    /// The one for the whole run.
    pub(crate) async fn shared() -> &'static Self {
        SHARED.get_or_init(Self::start).await
    }

    pub(crate) async fn start() -> Self {
        let name = format!("eventloader-redis-{}", uuid::Uuid::new_v4().simple());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        let authority = Authority::new();
        let leaf = authority.leaf("localhost", 2100);
        std::fs::copy(&leaf.cert_file, dir.join("cert.pem")).unwrap();
        std::fs::copy(&leaf.key_file, dir.join("key.pem")).unwrap();
        let (port, tls_port) = (free_port(), free_port());
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SERVE, "sh"])
            .arg(&dir)
            .args([port.to_string(), tls_port.to_string(), PASSWORD.to_owned()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = Mutex::new(shell.stdin.take());
        let redis = Self { port, tls_port, authority, input, shell, log: dir.join("log") };
        redis.wait_until_it_serves(None).await;
        redis
    }

    pub(crate) async fn restart(&self) {
        let before = self.run_id().await;
        self.tell(b"kill\nstart\n");
        // The one that is to be killed may answer until it is.
        self.wait_until_it_serves(before.as_deref()).await;
    }

    /// From now on it answers nothing, and keeps its connections.
    pub(crate) fn freeze(&self) {
        self.tell(b"freeze\n");
    }

    pub(crate) async fn thaw(&self) {
        self.tell(b"thaw\n");
        self.wait_until_it_serves(None).await;
    }

    fn tell(&self, what: &[u8]) {
        self.input.lock().unwrap().as_mut().unwrap().write_all(what).unwrap();
    }

    /// What the server calls this run of itself, if it serves.
    async fn run_id(&self) -> Option<String> {
        let mut connection = self.try_connect().await.ok()?;
        // One that still loads its data answers everything else.
        redis::cmd("PING").query_async::<()>(&mut connection).await.ok()?;
        let ask = redis::cmd("INFO").arg("server").to_owned();
        let told: String = ask.query_async(&mut connection).await.ok()?;
        told.lines().find_map(|line| line.strip_prefix("run_id:").map(str::to_owned))
    }

    /// Waits for a server that is not this earlier run.
    async fn wait_until_it_serves(&self, earlier: Option<&str>) {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            if let Some(run_id) = self.run_id().await
                && earlier != Some(run_id.as_str())
            {
                return;
            }
            if Instant::now() > deadline {
                let mut said = String::new();
                std::fs::File::open(&self.log).unwrap().read_to_string(&mut said).unwrap();
                panic!("Redis does not start; scripts/setup.sh installs it: {said}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://:{PASSWORD}@127.0.0.1:{}", self.port)
    }

    async fn try_connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        let config =
            AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
        redis::Client::open(self.url())?.get_multiplexed_async_connection_with_config(&config).await
    }

    /// A connection that has patience with a busy machine.
    pub(crate) async fn connect(&self) -> MultiplexedConnection {
        self.try_connect().await.unwrap()
    }

    /// Sends words as a command.
    pub(crate) async fn command(&self, words: &[&str]) -> Value {
        let mut connection = self.connect().await;
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.query_async(&mut connection).await.unwrap()
    }

    /// A key that no other test has.
    pub(crate) fn new_stream() -> String {
        format!("stream-{}", uuid::Uuid::new_v4().simple())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // The shell ends with its input.
        drop(self.input.get_mut().unwrap().take());
        drop(self.shell.wait());
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
