//! What a request costs the database: counted on the wire, by a proxy that looks for the server's "ready for query".

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eventloader::heartbeat::Pulse;
use eventloader::loader::policy::OnFailure;
use eventloader::loader::{LoadedSource, Loader, SourceSettings, Stop};
use eventloader::metrics::Metrics;
use eventloader::postgres::connections::Connections;
use eventloader::sources::memory::MemorySource;
use eventloader::store::source::{self, Registration};
use sqlx::postgres::PgSslMode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::support::database::Database;
use crate::support::wait_for;

const SOURCES: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_costs_two_round_trips() {
    let database = Database::migrated().await;
    let ready_count = Arc::new(AtomicUsize::new(0));
    let directory = tempfile::tempdir().unwrap();
    proxy(&database, directory.path(), Arc::clone(&ready_count));
    let options = database.options.clone().socket(directory.path()).ssl_mode(PgSslMode::Disable);
    let connections = Connections::new(options, 1);

    let memory: Vec<_> = (0..SOURCES).map(|_| Arc::new(MemorySource::new())).collect();
    let names: Vec<_> = (0..SOURCES).map(|n| format!("s{n}")).collect();
    for source in &memory {
        (1..=40).for_each(|id| source.push(&serde_json::json!({ "id": id })));
    }
    let registrations: Vec<_> = names
        .iter()
        .map(|name| Registration {
            source_name: name.clone(),
            source_type: "memory".to_owned(),
            start_after: 0,
        })
        .collect();
    source::register(&database.pool, &registrations).await.unwrap();
    let asked = || memory.iter().map(|source| source.asked().len()).sum::<usize>();

    let stop = Stop::default();
    let loader = Loader {
        connections,
        owner: "test".to_owned(),
        sources: names
            .iter()
            .zip(&memory)
            .map(|(name, source)| LoadedSource {
                source_name: name.clone(),
                source: Arc::clone(source) as _,
                settings: settings(),
            })
            .collect(),
        changes: tokio::sync::mpsc::channel(1).1,
        concurrency: 8,
        deposited: tokio::sync::mpsc::channel(1).0,
        metrics: Arc::new(Metrics::default()),
        pulse: Pulse::new("loader"),
    };
    let running = tokio::spawn(loader.run(stop.clone()));
    wait_for("a few requests of each source", || async { (asked() >= 5 * SOURCES).then_some(()) })
        .await;
    stop.intake.cancel();
    running.await.unwrap();

    let requests = asked();
    let round_trips = ready_count.load(Ordering::Relaxed);
    // A tenth more for connecting, preparing the two statements, and claims that came a moment too early.
    assert!(round_trips >= 2 * requests, "{round_trips} for {requests}: the count is wrong");
    assert!(round_trips <= 2 * requests + requests / 5, "{round_trips} for {requests}");
}

fn settings() -> SourceSettings {
    SourceSettings {
        batch_size: 10,
        min_interval: Duration::from_millis(200),
        lease_ttl: Duration::from_secs(2),
        max_idle: Duration::from_millis(200),
        on_failure: OnFailure::Hold,
        deadline: Duration::from_secs(10),
    }
}

/// Forwards a socket in `directory` to the server's and counts the ends of its answers.
pub(crate) fn proxy(database: &Database, directory: &Path, ready_count: Arc<AtomicUsize>) {
    let name = format!(".s.PGSQL.{}", database.options.get_port());
    let listener = UnixListener::bind(directory.join(&name)).unwrap();
    let socket = database.options.get_socket().unwrap().join(name);
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = UnixStream::connect(&socket).await.unwrap();
            let ready_count = Arc::clone(&ready_count);
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(
                    async move { tokio::io::copy(&mut from_client, &mut to_server).await },
                );
                // Every message is a letter and its length, the length's own four bytes included.
                let mut head = [0; 5];
                while from_server.read_exact(&mut head).await.is_ok() {
                    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
                    let mut body = vec![0; length as usize - 4];
                    from_server.read_exact(&mut body).await.unwrap();
                    ready_count.fetch_add(usize::from(head[0] == b'Z'), Ordering::Relaxed);
                    let answer = [&head[..], &body].concat();
                    if to_client.write_all(&answer).await.is_err() {
                        // The client has ended.
                        return;
                    }
                }
            });
        }
    });
}
