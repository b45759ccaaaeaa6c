//! A queue of your own: a directory used as a spool. Whoever has a message writes a file and renames it to `NAME.json`;
//! what is in the event log is removed from the spool.
//!
//! The driver implements [`QueueSource`] and [`QueueSession`]; decoding, deduplication, dead letters and acknowledging
//! after the commit are eventloader's. Several processes may empty one spool: a file in work is locked, and the lock falls
//! with the process. Runs on the embedded PostgreSQL, in a directory that is removed afterwards:
//!
//! ```text
//! cargo run --example custom_queue
//! ```

#![expect(clippy::print_stdout, reason = "it is run to be looked at")]

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use eventloader::consumer::{ConsumedSource, ConsumerSettings, Consumers};
use eventloader::loader::Stop;
use eventloader::mapping::Pointer;
use eventloader::mapping::message::{IdProvider, MessageMapping, MissingId, Place};
use eventloader::postgres::connections::Connections;
use eventloader::postgres::embedded::{Durability, Embedded, EmbeddedOptions};
use eventloader::postgres::{migrate, pool};
use eventloader::retry_worker::RetryWorker;
use eventloader::source::queue::{
    BatchLimits, Delivery, Message, QueueError, QueueInspection, QueueSession, QueueSource,
};
use eventloader::store::source::{Registration, register};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often an empty spool is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A directory whose `*.json` files are messages.
#[derive(Clone, Debug)]
pub(crate) struct Spool {
    pub(crate) directory: PathBuf,
}

/// One process, or one of several connections, that empties the spool.
#[derive(Debug)]
pub(crate) struct SpoolSession {
    directory: PathBuf,
    /// Held while files are taken. A call that is dropped meanwhile goes on in its thread for a moment: the next one waits
    /// until its files are free again, or it would take those behind them first.
    taking: Arc<Mutex<()>>,
}

/// A file in work: nobody else takes it while it is open here.
#[derive(Debug)]
pub(crate) struct Held {
    path: PathBuf,
    file: File,
}

impl Spool {
    fn check(&self) -> Result<(), QueueError> {
        if self.directory.is_dir() {
            return Ok(());
        }
        let reason = format!("there is no directory {}", self.directory.display());
        Err(QueueError::rejected(reason).with_fix("create it, or correct the path of the spool"))
    }
}

impl QueueSource for Spool {
    type Session = SpoolSession;

    async fn connect(&self, _consumer: &str) -> Result<SpoolSession, QueueError> {
        self.check()?;
        Ok(SpoolSession { directory: self.directory.clone(), taking: Arc::default() })
    }

    async fn inspect(&self) -> Result<QueueInspection, QueueError> {
        self.check()?;
        let waiting = names(&self.directory).map_err(|error| away(&self.directory, &error))?;
        let what = format!("answers: {} files are waiting", waiting.len());
        Ok(QueueInspection { what, warnings: Vec::new() })
    }
}

impl QueueSession for SpoolSession {
    type Receipt = Vec<Held>;

    /// Dropped half-way, the files are closed, and thereby free for the next call.
    async fn deliver(&self, limits: BatchLimits) -> Result<Delivery<Vec<Held>>, QueueError> {
        let (mut messages, mut receipt) = (Vec::new(), Vec::new());
        let mut full_at = None;
        loop {
            let directory = self.directory.clone();
            let left = limits.count - messages.len();
            let turn = Arc::clone(&self.taking).lock_owned().await;
            let task = move || (take(&directory, left, limits.bytes), turn);
            let (taken, _turn) = tokio::task::spawn_blocking(task)
                .await
                .map_err(|error| away(&self.directory, &io::Error::other(error)))?;
            for (held, message) in taken.map_err(|error| away(&self.directory, &error))? {
                receipt.push(held);
                messages.push(message);
            }
            let now = Instant::now();
            if !messages.is_empty() {
                let full_at = *full_at.get_or_insert(now + limits.linger);
                let bytes: usize =
                    messages.iter().map(|message: &Message| message.body.len()).sum();
                if messages.len() >= limits.count || bytes > limits.bytes || now >= full_at {
                    return Ok(Delivery { messages, gaps: Vec::new(), receipt });
                }
            }
            sleep(full_at.map_or(LOOK_EVERY, |at| (at - now).min(LOOK_EVERY))).await;
        }
    }

    async fn acknowledge(&self, receipt: Vec<Held>) -> Result<(), QueueError> {
        for held in &receipt {
            std::fs::remove_file(&held.path).map_err(|error| away(&held.path, &error))?;
        }
        Ok(())
    }

    /// The files stay, for whoever comes first.
    async fn reject(&self, receipt: Vec<Held>) -> Result<(), QueueError> {
        receipt
            .iter()
            .try_for_each(|held| held.file.unlock().map_err(|error| away(&held.path, &error)))
    }

    async fn close(self) {}
}

fn away(path: &Path, error: &io::Error) -> QueueError {
    QueueError::unavailable(format!("{} cannot be used: {error}", path.display()))
        .with_fix("look at the disk and at the rights of the directory")
}

/// The messages in the spool, in the order of their names.
fn names(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        // Files that are still written have another ending.
        if path.extension().is_some_and(|ending| ending == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Takes files that nobody has in work.
fn take(directory: &Path, count: usize, bytes: usize) -> io::Result<Vec<(Held, Message)>> {
    let mut taken = Vec::new();
    let mut byte_count = 0;
    // A directory that changes while it is read may show a file and not the one that was there before it. The second look
    // shows all that were there at the end of the first.
    let Some(last) = names(directory)?.pop() else { return Ok(taken) };
    for path in names(directory)?.into_iter().filter(|path| *path <= last) {
        if taken.len() >= count || byte_count > bytes {
            break;
        }
        let mut file = match File::open(&path) {
            // Done by somebody else since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => continue,
            locked => locked?,
        }
        if file.metadata()?.nlink() == 0 {
            continue;
        }
        let mut body = Vec::new();
        file.read_to_end(&mut body)?;
        byte_count += body.len();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let message = Message {
            reference: name,
            body: body.into(),
            routed_as: "spool".into(),
            ..Message::default()
        };
        taken.push((Held { path, file }, message));
    }
    Ok(taken)
}

/// A message without an id is known by the name of its file, which nobody uses twice here. The same file delivered again,
/// after a crash between commit and removal, is recognised by it.
#[derive(Debug)]
struct IdByName;

impl IdProvider for IdByName {
    fn message_id(&self, message: &Message) -> Option<Uuid> {
        let digest = Sha256::digest(["spool ", &message.reference].concat());
        Some(Uuid::new_v8(digest[..16].try_into().ok()?))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    run().await
}

/// The whole of it.
pub(crate) async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("custom-queue-{}", std::process::id()));
    let spool = tempfile::tempdir()?;
    let postgres = Embedded::start(EmbeddedOptions {
        data_dir: directory.clone(),
        data_dir_explicit: true,
        bin_dir: None,
        path: std::env::var_os("PATH"),
        durability: Durability::Disposable,
    })
    .await?;
    let outcome = async {
        migrate::run(&postgres.connect_options()).await?;
        let pool = pool::lazy(postgres.connect_options(), 5);
        let connections = Connections::new(postgres.connect_options(), 4);
        fill(spool.path())?;
        consume(connections, &pool, spool.path()).await?;
        let done = report(&pool).await;
        pool.close().await;
        done
    }
    .await;
    postgres.stop().await?;
    std::fs::remove_dir_all(directory)?;
    outcome
}

/// What other programs do.
fn fill(spool: &Path) -> io::Result<()> {
    let put = |name: String, body: &str| {
        let written = spool.join(format!("{name}.part"));
        std::fs::write(&written, body)?;
        std::fs::rename(written, spool.join(format!("{name}.json")))
    };
    for n in 1..=500 {
        put(format!("reading-{n:04}"), &format!(r#"{{"type": "reading", "n": {n}}}"#))?;
    }
    // The same order twice, under the id that its sender gave it; and something that is no event.
    let order = r#"{"type": "order", "message_id": "0190163d-8694-739b-aea5-966c26f8ad90"}"#;
    put("zz-order-first".to_owned(), order)?;
    put("zz-order-again".to_owned(), order)?;
    put("zz-torn".to_owned(), r#"{"type": "read"#)
}

async fn consume(
    connections: Connections,
    pool: &PgPool,
    spool: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let mapping = MessageMapping {
        event_type: Place::Usual(Pointer::to_key("type")),
        message_id: Place::Usual(Pointer::to_key("message_id")),
        missing_id: MissingId::From(Arc::new(IdByName)),
        ..MessageMapping::default()
    };
    let source = Arc::new(Spool { directory: spool.to_owned() });
    let settings = ConsumerSettings { mapping, ..ConsumerSettings::default() };
    let source = ConsumedSource::new("spool", source).with_settings(settings);
    let registration = Registration {
        source_name: source.source_name.clone(),
        source_type: "spool".to_owned(),
        start_after: 0,
    };
    register(pool, &[registration]).await?;
    let (consumers, hints) = Consumers::new(connections, vec![source]);
    let (stop, worker_stop) = (Stop::default(), CancellationToken::new());
    let consuming = tokio::spawn(consumers.run(stop.clone()));
    let moving = tokio::spawn(RetryWorker::new(pool.clone()).run(hints, worker_stop.clone()));
    while !names(spool)?.is_empty() || stored_count(pool).await? < 501 {
        sleep(LOOK_EVERY).await;
    }
    // What is in hand is stored and acknowledged; then what is in the inbox is moved.
    stop.intake.cancel();
    consuming.await?;
    worker_stop.cancel();
    moving.await?;
    Ok(())
}

async fn stored_count(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from eventloader.events").fetch_one(pool).await
}

async fn report(pool: &PgPool) -> Result<(), Box<dyn std::error::Error>> {
    let (readings, orders): (i64, i64) = sqlx::query_as(
        "select count(*) filter (where event_type = 'reading'), count(*) filter (where event_type = 'order')
         from eventloader.events where stream = 'spool'",
    )
    .fetch_one(pool)
    .await?;
    println!("{readings} readings and {orders} order of two files with one id; the spool is empty");
    let letters: Vec<(String, String)> =
        sqlx::query_as("select reference, reason from eventloader.dead_letter")
            .fetch_all(pool)
            .await?;
    for (reference, reason) in letters {
        println!("dead letter {reference}: {reason}");
    }
    Ok(())
}
