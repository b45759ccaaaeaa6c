//! One campaign: instances under faults; then everything is healed, and what came of it is collected.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventloader::failpoint::Place;
use rustix::process::Signal;
use sqlx::Executor;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::clock;
use super::fault::{DatabaseFault, Fault, Plan};
use super::history::{History, Seek, Watch};
use super::instance::{Instance, Met};
use super::mutant::Mutant;
use super::witness::{self, Watcher};
use super::world::World;

/// How often a fault that did not come about is tried again.
const TRIES: u8 = 3;
/// Between two looks of the operator, who frees what is held.
const OPERATOR_EVERY: Duration = Duration::from_millis(500);

pub(crate) struct Campaign {
    pub(crate) seed: u64,
    pub(crate) instances: u64,
    pub(crate) sources: usize,
    pub(crate) plan: Plan,
    pub(crate) disk_size: Option<&'static str>,
    pub(crate) mutant: Option<Mutant>,
    /// Faults end then, whatever is left of the plan.
    pub(crate) time_max: Duration,
    /// After the faults, it goes on until there were so many requests.
    pub(crate) requests_min: u64,
    /// How long the healed system may take to finish.
    pub(crate) patience: Duration,
    /// Says how far it is.
    pub(crate) is_loud: bool,
}

/// What is left of the plan; faults come back that did not come about.
struct Left {
    faults: Mutex<VecDeque<(Fault, u8)>>,
    missed: AtomicU64,
    /// The database has had its faults.
    is_database_done: AtomicBool,
    end: Instant,
}

impl Left {
    fn next(&self) -> Option<(Fault, u8)> {
        if Instant::now() > self.end {
            return None;
        }
        self.faults.lock().unwrap().pop_front()
    }
}

impl Campaign {
    /// Runs it. `None`: it needs a disk that this machine does not give.
    pub(crate) async fn run(self) -> Option<History> {
        let world = World::new(self.seed, self.sources, self.disk_size, self.mutant).await?;
        let world = Arc::new(world);
        let end = Instant::now() + self.time_max;
        let faults = self.plan.faults.iter().cloned().map(|fault| (fault, 0)).collect();
        let left = Arc::new(Left {
            faults: Mutex::new(faults),
            missed: AtomicU64::new(0),
            is_database_done: AtomicBool::new(false),
            end,
        });

        let publisher =
            spawn(Arc::clone(&world), |world| async move { world.queue.publish().await });
        let operator = spawn(Arc::clone(&world), |world| async move {
            loop {
                world.free_windows().await;
                tokio::time::sleep(OPERATOR_EVERY).await;
            }
        });
        let watching = CancellationToken::new();
        let watcher = tokio::spawn(watch(Arc::clone(&world), watching.clone()));

        let mut running = JoinSet::new();
        for number in 0..self.instances {
            let instance = Instance::new(Arc::clone(&world), number, self.seed).await;
            running.spawn(suffer_all(instance, Arc::clone(&left)));
        }
        let nemesis = AbortOnDropHandle::new(tokio::spawn(break_database(
            Arc::clone(&world),
            self.plan.database_faults.clone(),
            Arc::clone(&left),
        )));
        let mut instances = Vec::new();
        while !running.is_empty() {
            tokio::select! {
                Some(ended) = running.join_next() => instances.push(ended.unwrap()),
                () = tokio::time::sleep(Duration::from_secs(10)) => self.say(&world, &left),
            }
        }
        nemesis.await.unwrap();
        start_all(&mut instances);
        world.wait_for_traffic(world.origin.count()).await;
        while world.origin.count() < self.requests_min && Instant::now() < end {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }

        drop(operator);
        orphan_one(&world, &mut instances).await;
        let (held, held_shown) = compare_held(&world).await;
        drop(publisher);
        self.heal(&world, &mut instances).await;
        if self.mutant.is_none_or(|mutant| mutant == Mutant::HiddenConflict) {
            self.revise(&world).await;
        }
        for instance in &mut instances {
            instance.terminate().await;
        }
        watching.cancel();
        let watch = Watch { held, held_shown, ..watcher.await.unwrap() };
        Some(collect(&world, watch).await)
    }

    /// No more faults: within the patience, everything arrives.
    async fn heal(&self, world: &World, instances: &mut [Instance]) {
        world.origin.freeze();
        let deadline = Instant::now() + self.patience;
        while Instant::now() < deadline && !is_drained(world).await {
            start_all(instances);
            world.free_windows().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// A source gives other bodies for ids it gave before, and an operator has them asked again.
    async fn revise(&self, world: &World) {
        const IDS: i64 = 10;
        let tip = world.origin.tips().get("s0").copied().unwrap_or(0);
        let to = (tip - 3 * IDS).max(0);
        let ids: Vec<i64> = (to + 1..=tip.min(to + IDS)).collect();
        let deadline = Instant::now() + self.patience;
        // A seek waits for an empty inbox, and that is what it finds as soon as it is drained.
        loop {
            let seek = ["sources", "seek", "s0", "--to", &to.to_string(), "--yes"];
            if world.operate(&seek).await.code == Some(0) {
                break;
            }
            if Instant::now() > deadline {
                return;
            }
        }
        world.origin.revise("s0", &ids);
        world.seeks.lock().unwrap().push(Seek { source: "s0".to_owned(), to });
        while Instant::now() < deadline && !is_drained(world).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    #[expect(clippy::print_stderr, reason = "a long campaign says how far it is")]
    fn say(&self, world: &World, left: &Left) {
        if self.is_loud {
            let faults = world.faults.lock().unwrap().len();
            eprintln!(
                "chaos: {faults} faults, {} to come, {} missed, {} requests, {} lives",
                left.faults.lock().unwrap().len(),
                left.missed.load(Ordering::Relaxed),
                world.origin.count(),
                world.lives.lock().unwrap().len(),
            );
        }
    }
}

fn start_all(instances: &mut [Instance]) {
    for instance in instances {
        instance.start(None);
    }
}

fn spawn<F: Future<Output = ()> + Send + 'static>(
    world: Arc<World>,
    work: impl FnOnce(Arc<World>) -> F,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(work(world)))
}

/// One instance, until nothing is left to suffer. It lives on: others still wait for traffic.
async fn suffer_all(mut instance: Instance, left: Arc<Left>) -> Instance {
    loop {
        if let Some((fault, tries)) = left.next() {
            if instance.suffer(&fault).await == Met::No {
                left.missed.fetch_add(1, Ordering::Relaxed);
                if tries + 1 < TRIES {
                    left.faults.lock().unwrap().push_back((fault, tries + 1));
                }
            }
            continue;
        }
        instance.start(None);
        if left.is_database_done.load(Ordering::Relaxed) {
            return instance;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn watch(world: Arc<World>, end: CancellationToken) -> Watch {
    let mut watcher = Watcher::new(&world.postgres.options());
    while !end.is_cancelled() {
        watcher.look(&world.pids()).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    watcher.end().await
}

/// The faults of the database, one after the other, each when there was traffic.
async fn break_database(world: Arc<World>, faults: VecDeque<DatabaseFault>, left: Arc<Left>) {
    for fault in faults {
        world.wait_for_traffic(world.origin.count()).await;
        if Instant::now() > left.end {
            break;
        }
        let at = clock::now();
        world.disturbances.fetch_add(1, Ordering::SeqCst);
        let came_about = break_it(&world, fault).await;
        // What was left without a connection needs a moment until it has one again.
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.disturbances.fetch_add(1, Ordering::SeqCst);
        if came_about {
            world.note(at, "database", format!("{fault:?}"), 0);
        }
    }
    left.is_database_done.store(true, Ordering::Relaxed);
}

/// Answers whether it came about.
async fn break_it(world: &World, fault: DatabaseFault) -> bool {
    let postgres = &world.postgres;
    let signal = match fault {
        DatabaseFault::Kill => Signal::KILL,
        DatabaseFault::StopAtOnce => Signal::QUIT,
        DatabaseFault::StopFast => Signal::INT,
        DatabaseFault::TerminateBackends => return terminate_backends(world).await,
        DatabaseFault::ReadOnly => return allow_only_reading(world).await,
        DatabaseFault::LockRows => return lock_rows(world).await,
        DatabaseFault::DiskFull => {
            if !postgres.fill() {
                return false;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            postgres.make_room();
            postgres.restart().await;
            return true;
        }
    };
    postgres.end(signal).await;
    postgres.restart().await;
    true
}

async fn terminate_backends(world: &World) -> bool {
    let statement = "select pg_terminate_backend(pid) from pg_stat_activity
        where application_name = 'eventloader' and random() < 0.5";
    for _ in 0..3 {
        if world.admin.execute(statement).await.is_err() {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

async fn allow_only_reading(world: &World) -> bool {
    for (value, time) in [("on", 400), ("off", 0)] {
        let set = format!("alter system set default_transaction_read_only = {value}");
        world.admin.execute(sqlx::AssertSqlSafe(set)).await.unwrap();
        world.admin.execute("select pg_reload_conf()").await.unwrap();
        tokio::time::sleep(Duration::from_millis(time)).await;
    }
    true
}

/// Holds rows of the inbox for a while, as somebody does who looks at them with a transaction open.
async fn lock_rows(world: &World) -> bool {
    for _ in 0..200 {
        let Ok(mut transaction) = world.admin.begin().await else { return false };
        let rows: sqlx::Result<Vec<(String, i64)>> = sqlx::query_as(
            "select source_name, event_id from eventloader.event_inbox where source_name <> 'queue'
             limit 10 for update skip locked",
        )
        .fetch_all(&mut *transaction)
        .await;
        let Ok(rows) = rows else { return false };
        if rows.is_empty() {
            drop(transaction.rollback().await);
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
        drop(transaction.rollback().await);
        world.locked.lock().unwrap().extend(rows);
        return true;
    }
    false
}

/// Leaves a window behind whose outcome nobody knows, now that no operator frees it.
async fn orphan_one(world: &World, instances: &mut [Instance]) {
    let fault = Fault::KillAt(Place::DepositUnsent, 1);
    if instances[0].suffer(&fault).await == Met::No {
        return;
    }
    instances[0].start(None);
    let deadline = Instant::now() + Duration::from_secs(20);
    while held(world).await.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The requests whose windows are held, by the request log.
async fn held(world: &World) -> BTreeSet<i64> {
    let ids: Vec<i64> = sqlx::query_scalar(
        "select id from eventloader.event_request_log where status in ('failed', 'orphaned')",
    )
    .fetch_all(&world.admin)
    .await
    .unwrap();
    ids.into_iter().collect()
}

/// How many are held by the request log all the time that `status` takes, and how many of them it shows. Others come and
/// go meanwhile.
async fn compare_held(world: &World) -> (i64, i64) {
    let before = held(world).await;
    let status = world.operate(&["status", "--json"]).await.json();
    let after = held(world).await;
    let sources = status["sources"].as_array().unwrap().iter();
    let shown: BTreeSet<i64> = sources
        .filter(|source| matches!(source["held_status"].as_str(), Some("failed" | "orphaned")))
        .filter_map(|source| source["held_request_id"].as_i64())
        .collect();
    let held: BTreeSet<i64> = before.intersection(&after).copied().collect();
    let count = |ids: usize| i64::try_from(ids).unwrap();
    (count(held.len()), count(held.intersection(&shown).count()))
}

/// Whether every cursor is at its tip, and nothing is on its way.
async fn is_drained(world: &World) -> bool {
    let rows: sqlx::Result<Vec<(String, i64, i64)>> = sqlx::query_as(
        "select source_name, last_requested_id, last_stored_id from eventloader.source_cursor
         where source_name <> 'queue'",
    )
    .fetch_all(&world.admin)
    .await;
    let tips = world.origin.tips();
    let at_tip = rows.is_ok_and(|rows| {
        rows.iter().all(|(name, requested, stored)| {
            let tip = tips.get(name).copied().unwrap_or(0);
            *requested == tip && *stored == tip
        })
    });
    if !at_tip {
        return false;
    }
    let inbox: i64 = sqlx::query_scalar("select count(*) from eventloader.event_inbox")
        .fetch_one(&world.admin)
        .await
        .unwrap_or(1);
    inbox == 0 && world.queue.count(&world.admin).await.lost_count == 0
}

async fn collect(world: &World, watch: Watch) -> History {
    let stored = witness::stored(&world.admin, &world.origin).await;
    let queues = vec![world.queue.count(&world.admin).await];
    let mut history = History {
        requests: world.origin.log(),
        lives: world.lives.lock().unwrap().clone(),
        faults: world.faults.lock().unwrap().clone(),
        seeks: world.seeks.lock().unwrap().clone(),
        stored,
        queues,
        watches: vec![Watch { locked: world.locked.lock().unwrap().clone(), ..watch }],
        ..History::default()
    };
    witness::collect(&world.admin, &mut history).await;
    history
}
