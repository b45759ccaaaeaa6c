//! What a campaign stands on: the database, the sources, and the log of what is done to them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use eventloader::postgres::migrate;
use sqlx::PgPool;
use tokio::time::Instant;

use super::checks::TRAFFIC_MIN;
use super::clock;
use super::fault::LEASE;
use super::history::{Fault, Life, Micros, Seek};
use super::mutant::Mutant;
use super::origin::Origin;
use super::postgres::Postgres;
use super::queue::Queue;
use super::witness;
use crate::support::program::{Finished, Program};

/// A cluster through which nothing comes for so long is broken.
const TRAFFIC_PATIENCE: Duration = Duration::from_mins(2);

pub(crate) struct World {
    pub(crate) postgres: Postgres,
    pub(crate) origin: Origin,
    pub(crate) queue: Queue,
    pub(crate) admin: PgPool,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) source_count: usize,
    pub(crate) lives: Mutex<Vec<Life>>,
    pub(crate) faults: Mutex<Vec<Fault>>,
    pub(crate) seeks: Mutex<Vec<Seek>>,
    /// Rows of the inbox that were locked by somebody else.
    pub(crate) locked: Mutex<Vec<(String, i64)>>,
    next_life: AtomicU32,
    /// Counts the faults of the database, when they begin and when they end.
    pub(crate) disturbances: AtomicU64,
    operator: Program,
}

impl World {
    /// `None`: it needs a disk of its own, and this machine lets us mount none.
    pub(crate) async fn new(
        seed: u64,
        source_count: usize,
        disk_size: Option<&str>,
        mutant: Option<Mutant>,
    ) -> Option<Self> {
        let postgres = Postgres::start(disk_size).await?;
        migrate::run(&postgres.options()).await.unwrap();
        let admin = sqlx::postgres::PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy_with(postgres.options());
        witness::install(&admin).await;
        if let Some(mutant) = mutant {
            mutant.change(&admin).await;
        }
        let url = database_url(postgres.port, "chaos");
        Some(Self {
            postgres,
            origin: Origin::start(seed),
            queue: Queue::start().await,
            admin,
            mutant,
            source_count,
            lives: Mutex::default(),
            faults: Mutex::default(),
            seeks: Mutex::default(),
            locked: Mutex::default(),
            next_life: AtomicU32::new(1),
            disturbances: AtomicU64::new(0),
            operator: Program::with_database_url(&url, ""),
        })
    }

    /// The configuration of every instance.
    pub(crate) fn configuration(&self) -> String {
        let lease = LEASE.as_millis();
        let sources: String = (0..self.source_count)
            .map(|n| {
                let address = self.origin.address;
                format!(
                    "[sources.s{n}]\ntype = \"http\"\nurl = \"http://{address}/s{n}\"\ntimeout = \"1500ms\"\n\
                     headers = {{ X-Life = \"${{CHAOS_LIFE}}\" }}\n"
                )
            })
            .collect();
        format!(
            "[database]\nmax_connections = 8\n[loader]\nlease_ttl = \"{lease}ms\"\nmax_idle = \"500ms\"\n\
             batch_size = 100\n{sources}{}",
            self.queue.configuration()
        )
    }

    /// Does something by hand, as an operator does.
    pub(crate) async fn operate(&self, arguments: &[&str]) -> Finished {
        self.operator.run(arguments).await
    }

    pub(crate) fn new_life(&self) -> u32 {
        self.next_life.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn born(&self, life: Life) {
        self.lives.lock().unwrap().push(life);
    }

    pub(crate) fn died(&self, life: u32, terminated_with: Option<i32>) {
        let mut lives = self.lives.lock().unwrap();
        let known = lives.iter_mut().rev().find(|known| known.life == life).unwrap();
        known.ended = clock::now();
        known.terminated_with = terminated_with;
    }

    /// The processes that live.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let lives = self.lives.lock().unwrap();
        lives.iter().filter(|life| life.ended == 0).map(|life| life.pid).collect()
    }

    /// Writes a fault down that began at `at` and ends now.
    pub(crate) fn note(&self, at: Micros, kind: &str, detail: impl Into<String>, life: u32) {
        let requests_before = self.origin.count();
        let (kind, detail, until) = (kind.to_owned(), detail.into(), clock::now());
        let fault = Fault { at, until, kind, detail, life, requests_before };
        self.faults.lock().unwrap().push(fault);
    }

    /// Waits until the sources have been asked a few times more than `since`.
    pub(crate) async fn wait_for_traffic(&self, since: u64) {
        let deadline = Instant::now() + TRAFFIC_PATIENCE;
        while self.origin.count() < since + TRAFFIC_MIN {
            assert!(Instant::now() < deadline, "no source was asked for {TRAFFIC_PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Frees every window that is held, as the runbook says.
    pub(crate) async fn free_windows(&self) {
        let held: sqlx::Result<Vec<i64>> = sqlx::query_scalar(
            "select id from eventloader.event_request_log where status in ('failed', 'orphaned') limit 200",
        )
        .fetch_all(&self.admin)
        .await;
        let ids: Vec<String> = held.unwrap_or_default().iter().map(ToString::to_string).collect();
        if !ids.is_empty() {
            let mut arguments = vec!["requests", "retry"];
            arguments.extend(ids.iter().map(String::as_str));
            // One that was deposited meanwhile cannot be freed; it is looked again.
            drop(self.operate(&arguments).await);
        }
    }
}

pub(crate) fn database_url(port: u16, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/{database}?sslmode=disable")
}
