//! One instance: process after process, to each of which something is done.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use eventloader::failpoint::Place;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use super::clock;
use super::fault::Fault;
use super::history::{Life, Micros};
use super::mutant::Mutant;
use super::wire::{At, Call, Order, Phase, Then, Wire};
use super::world::{World, database_url};
use crate::support::program::{Program, signal};

/// How long a process may take to come to a place; one that does not is no failure, and tried again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Above what a stop may take.
const STOP_PATIENCE: Duration = Duration::from_mins(1);

/// Places that are come to only while stopping.
const STOP_PLACES: &[Place] = &[
    Place::StopAsked,
    Place::LoaderEnded,
    Place::ConsumersEnded,
    Place::ConnectionsClosed,
    Place::WorkerEnded,
    Place::DatabaseClosed,
];
/// Places of `eventloader prune-request-log`.
const PRUNE_PLACES: &[Place] =
    &[Place::PruneUnsent, Place::PruneDone, Place::PartitionUnsent, Place::PartitionDone];

struct Process {
    life: u32,
    child: Child,
}

pub(crate) struct Instance {
    world: Arc<World>,
    program: Program,
    wire: Wire,
    rng: StdRng,
    process: Option<Process>,
    /// Requests at the last fault.
    requests_before: u64,
    databases: u32,
}

/// Whether a fault came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    Yes,
    /// The process did not come to that place.
    No,
}

impl Instance {
    pub(crate) async fn new(world: Arc<World>, number: u64, seed: u64) -> Self {
        let wire = Wire::to(world.postgres.port).await;
        let url = database_url(wire.port, "chaos");
        let program = Program::with_database_url(&url, &world.configuration());
        let rng = StdRng::seed_from_u64(seed ^ (number << 32));
        Self { world, program, wire, rng, process: None, requests_before: 0, databases: 0 }
    }

    /// Starts a process, unless one runs.
    pub(crate) fn start(&mut self, failpoint: Option<&str>) {
        if let Some(process) = &mut self.process {
            if process.child.try_wait().unwrap().is_none() {
                return;
            }
            self.world.died(process.life, None);
        }
        let life = self.world.new_life();
        let skew_hours = match self.rng.random_range(0..20) {
            0 => 1,
            1 => -1,
            _ => 0,
        };
        let mut command = self.command(&["run", "--log-level", "warn"], failpoint);
        command.env("CHAOS_LIFE", life.to_string());
        command.env("EVENTLOADER_ADMIN__LISTEN", "127.0.0.1:0");
        if let Some(mutant) = self.world.mutant.and_then(Mutant::variable) {
            command.env("EVENTLOADER_MUTANT", mutant);
        }
        if skew_hours != 0 {
            command.env("LD_PRELOAD", faketime()).env("FAKETIME", format!("{skew_hours:+}h"));
        }
        let log = std::fs::File::create(self.program.path("log")).unwrap();
        let began = clock::now();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let pid = child.id().unwrap();
        self.wire.attach(pid);
        self.world.born(Life { life, pid, began, skew_hours, ..Life::default() });
        self.process = Some(Process { life, child });
    }

    fn command(&self, arguments: &[&str], failpoint: Option<&str>) -> Command {
        let mut command = self.program.command(arguments);
        command.env("CHAOS_LIFE", "0");
        if let Some(failpoint) = failpoint {
            command.env("EVENTLOADER_FAILPOINT", failpoint);
        }
        command
    }

    /// Does it, when there was traffic since the last time.
    pub(crate) async fn suffer(&mut self, fault: &Fault) -> Met {
        self.start(None);
        self.world.wait_for_traffic(self.requests_before).await;
        let met = match fault {
            Fault::Kill(after) => {
                self.start(None);
                tokio::time::sleep(*after).await;
                self.kill("").await;
                Met::Yes
            }
            Fault::KillAt(place, visit) => self.kill_at(*place, *visit).await,
            Fault::KillAtStatement(at, phase) => self.kill_at_statement(*at, *phase).await,
            Fault::Pause(after, time) => {
                self.start(None);
                tokio::time::sleep(*after).await;
                self.pause("pause", &format!("{time:?} anywhere"), *time).await
            }
            Fault::PauseAt(place, time) => self.pause_at(*place, *time).await,
            Fault::LoseReply(call) => self.lose_reply(*call).await,
            Fault::Cut => {
                let at = clock::now();
                self.wire.cut();
                self.note(at, "cut", "all connections to the database");
                Met::Yes
            }
            Fault::Stall(time) => {
                let at = clock::now();
                self.wire.stall(*time);
                tokio::time::sleep(*time).await;
                self.note(at, "stall", format!("{time:?}"));
                Met::Yes
            }
            Fault::Terminate(after) => {
                self.start(None);
                tokio::time::sleep(*after).await;
                let at = clock::now();
                let life = self.life();
                self.terminate().await;
                self.world.note(at, "terminate", "", life);
                Met::Yes
            }
        };
        self.requests_before = self.world.origin.count();
        met
    }

    fn life(&self) -> u32 {
        self.process.as_ref().map_or(0, |process| process.life)
    }

    fn note(&self, at: Micros, kind: &str, detail: impl Into<String>) {
        self.world.note(at, kind, detail, self.life());
    }

    /// SIGKILL, if it still runs.
    async fn kill(&mut self, why: &str) {
        let Some(process) = &mut self.process else { return };
        let at = clock::now();
        let was_running = process.child.try_wait().unwrap().is_none();
        if was_running {
            signal(&process.child, Signal::KILL);
            process.child.wait().await.unwrap();
        }
        self.world.died(process.life, None);
        if was_running {
            self.note(at, "kill", why);
        }
        self.process = None;
    }

    /// Waits for the process to be killed by itself or by the wire.
    async fn is_killed(&mut self) -> bool {
        let process = self.process.as_mut().unwrap();
        let Ok(ended) = timeout(PATIENCE, process.child.wait()).await else { return false };
        self.world.died(process.life, None);
        ended.unwrap().signal() == Some(Signal::KILL.as_raw())
    }

    async fn kill_at(&mut self, place: Place, visit: u64) -> Met {
        let failpoint = format!("{}:{visit}:kill", place.name());
        if PRUNE_PLACES.contains(&place) {
            let command = ["prune-request-log", "--archive", "--succeeded-days", "0"];
            return self.kill_command(place, &command, &failpoint).await;
        }
        if place == Place::MigrationUnsent {
            return self.kill_migration(place, &failpoint).await;
        }
        self.kill("to begin anew").await;
        self.provoke(place);
        self.start(Some(&failpoint));
        let at = clock::now();
        if STOP_PLACES.contains(&place) {
            let asked = self.is_ready_to_stop(PATIENCE).await;
            if asked && let Some(process) = &self.process {
                signal(&process.child, Signal::TERM);
            }
        }
        let was_killed = self.is_killed().await;
        self.wire.give(None);
        if !was_killed {
            self.kill("to begin anew").await;
            return Met::No;
        }
        self.note(at, "kill at", place.name());
        self.process = None;
        Met::Yes
    }

    /// Some places are come to only when something goes wrong.
    fn provoke(&self, place: Place) {
        let call = match place {
            Place::ClaimLost => Call::Claim,
            Place::ResultKept => Call::Deposit,
            _ => return,
        };
        self.wire.give(Some(Order { at: At::Call(call), phase: Phase::Answered, then: Then::Cut }));
    }

    /// Waits until the process runs and could answer a signal: until it has a handler for SIGTERM.
    async fn is_ready_to_stop(&self, patience: Duration) -> bool {
        let Some(pid) = self.process.as_ref().and_then(|process| process.child.id()) else {
            return false;
        };
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if is_caught(pid, Signal::TERM) {
                // It may still be starting; that, too, is a moment to be stopped in.
                tokio::time::sleep(Duration::from_millis(300)).await;
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    /// A command that is killed is repeated, and then does what it should.
    async fn kill_command(&mut self, place: Place, arguments: &[&str], failpoint: &str) -> Met {
        let at = clock::now();
        let mut command = self.command(arguments, Some(failpoint));
        let ended = command.stdout(Stdio::null()).stderr(Stdio::null()).status().await.unwrap();
        if ended.signal() != Some(Signal::KILL.as_raw()) {
            return Met::No;
        }
        self.world.note(at, "kill at", place.name(), 0);
        Met::Yes
    }

    /// A migration of an empty database that is killed is made by the next.
    async fn kill_migration(&mut self, place: Place, failpoint: &str) -> Met {
        self.databases += 1;
        let name = format!("fresh_{}_{}", self.wire.port, self.databases);
        let admin = self.world.postgres.options().database("postgres");
        let Ok(mut connection) = admin.connect().await else { return Met::No };
        let create = sqlx::AssertSqlSafe(format!("create database {name}"));
        if connection.execute(create).await.is_err() {
            return Met::No;
        }
        drop(connection.close().await);
        let url = database_url(self.wire.port, &name);
        let at = clock::now();
        let mut command = self.command(&["migrate", "--database-url", &url], Some(failpoint));
        let ended = command.stdout(Stdio::null()).stderr(Stdio::null()).status().await.unwrap();
        if ended.signal() != Some(Signal::KILL.as_raw()) {
            return Met::No;
        }
        self.world.note(at, "kill at", place.name(), 0);
        let before = self.world.disturbances.load(Ordering::SeqCst);
        let again = self.command(&["migrate", "--database-url", &url], None);
        let again = crate::support::program::finish(again).await;
        let is_calm =
            before.is_multiple_of(2) && before == self.world.disturbances.load(Ordering::SeqCst);
        assert!(
            !is_calm || again.code == Some(0),
            "I13: a killed migration is not made again: {again:?}"
        );
        Met::Yes
    }

    async fn kill_at_statement(&mut self, at_statement: At, phase: Phase) -> Met {
        self.kill("to begin anew").await;
        self.wire.give(Some(Order { at: at_statement, phase, then: Then::Kill }));
        self.start(None);
        let at = clock::now();
        let was_killed = self.is_killed().await;
        self.wire.give(None);
        if !was_killed {
            return Met::No;
        }
        self.note(at, "kill at statement", format!("{at_statement:?} {phase:?}"));
        self.process = None;
        Met::Yes
    }

    /// SIGSTOP, a while, SIGCONT.
    async fn pause(&mut self, kind: &str, what: &str, time: Duration) -> Met {
        let Some(process) = &mut self.process else { return Met::No };
        if process.child.try_wait().unwrap().is_some() {
            return Met::No;
        }
        let at = clock::now();
        signal(&process.child, Signal::STOP);
        tokio::time::sleep(time).await;
        let was_alive = process.child.try_wait().unwrap().is_none();
        if was_alive {
            signal(&process.child, Signal::CONT);
        }
        self.note(at, kind, what);
        Met::Yes
    }

    async fn pause_at(&mut self, place: Place, time: Duration) -> Met {
        self.kill("to begin anew").await;
        let visit = self.rng.random_range(1..=10);
        self.start(Some(&format!("{}:{visit}:stop", place.name())));
        let pid = self.process.as_ref().and_then(|process| process.child.id()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !is_stopped(pid) {
            if Instant::now() > deadline {
                // It must not stop later, when nobody looks.
                self.kill("to begin anew").await;
                return Met::No;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.pause("pause at", &format!("{} for {time:?}", place.name()), time).await
    }

    async fn lose_reply(&mut self, call: Call) -> Met {
        self.start(None);
        let at = clock::now();
        self.wire.give(Some(Order { at: At::Call(call), phase: Phase::Answered, then: Then::Cut }));
        if !self.wire.is_carried(PATIENCE).await {
            return Met::No;
        }
        self.note(at, "lost reply", format!("{call:?}"));
        Met::Yes
    }

    /// SIGTERM, and the end of it.
    pub(crate) async fn terminate(&mut self) {
        let Some(process) = &mut self.process else { return };
        if process.child.try_wait().unwrap().is_some() {
            self.world.died(process.life, None);
            self.process = None;
            return;
        }
        // Before its handler is there, a signal ends a process as it ends every other.
        let is_ready = is_caught(process.child.id().unwrap(), Signal::TERM);
        let before = self.world.disturbances.load(Ordering::SeqCst);
        signal(&process.child, Signal::TERM);
        let ended = timeout(STOP_PATIENCE, process.child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("I18: SIGTERM was not obeyed")).unwrap();
        let is_calm =
            before.is_multiple_of(2) && before == self.world.disturbances.load(Ordering::SeqCst);
        let code = (is_calm && is_ready).then(|| ended.code().unwrap_or(-1));
        if code.is_some_and(|code| code != 0) {
            tracing_of(&self.program.read("log"));
        }
        self.world.died(process.life, code);
        self.process = None;
    }
}

#[expect(clippy::print_stderr, reason = "what a process said before it failed")]
fn tracing_of(log: &str) {
    eprintln!("{log}");
}

/// Whether a process is stopped by a signal.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
}

/// Whether a process has a handler for a signal.
fn is_caught(pid: u32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    caught & (1 << (signal.as_raw() - 1)) != 0
}

/// The library that shifts the clock of a program.
fn faketime() -> std::path::PathBuf {
    let libraries = std::fs::read_dir("/usr/lib").unwrap();
    let paths = libraries.map(|entry| entry.unwrap().path().join("faketime/libfaketimeMT.so.1"));
    let mut found = paths.filter(|path| path.exists());
    found.next().expect("scripts/setup.sh tests installs libfaketime")
}
