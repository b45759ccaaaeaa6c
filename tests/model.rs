//! The loading protocol, explored: every order in which a few instances, one source, the database, an operator and
//! misfortune can act, checked against the invariants in `properties.rs`.
//!
//! **What is real.** The decisions of an instance are [`cycle::begin`](eventloader::loader::cycle::begin) and
//! [`cycle::step`](eventloader::loader::cycle::step) of the product. The database is `ledger.rs`, which
//! `tests/twin.rs` compares with the functions in PostgreSQL.
//!
//! **What can go wrong.** A process dies at any point and another one starts. A process is paused at any point, for any
//! time: it just takes no step while time passes, so leases run out, grants grow old, pages come late. A call is
//! carried out and its reply lost. A call is given up by its caller and carried out at any later time, after the
//! caller's death too; one such call at a time. A request does not get away, is refused, is answered empty although
//! events follow, or its outcome is lost. PostgreSQL refuses a page for its data. An operator retries, skips, or seeks
//! while requests are in flight. Each exploration bounds how many of these happen; pauses are never bounded.
//!
//! **Time** is a whole number, relative to now. In the explorations without spacing the moments of requests are
//! forgotten, so that any claim may follow any other at once, which is more than PostgreSQL allows.
//!
//! **The one exception of I11.** Between the last look at the clock and the write to the socket a process can be paused,
//! and no program can see that. The model marks such a request as late (`Action::StartAndPause`, then
//! `Action::SendLate`); two requests may be closer than the interval only if one of them is late. I1, I2 and I3 hold
//! for late requests too.
//!
//! **What is left out.** Back-off (`not_before`) and idle pauses: they only delay. The contents of pages: an event is
//! its id, and a page has one. Several sources: they share nothing. The order of positions, and other databases: those
//! are the retry worker's.
//!
//! States that differ only in names (which instance, which token, which request number) or in what nobody can refer to
//! any more are one state; see `World::normalize`.

#![expect(clippy::print_stdout, reason = "the counts are what the model is run for")]

pub(crate) mod ledger;
mod mutant;
mod properties;
mod protocol;
mod world;

use std::fmt::Write as _;

use eventloader::loader::policy::OnFailure;
use stateright::{Checker, HasDiscoveries, Model, Path};
use tokio::time::Instant;

use mutant::Mutant;
use protocol::{Action, Protocol, Situation};
use world::{Bounds, World};

/// What is explored.
#[derive(Clone, Copy)]
enum Scope {
    /// Three instances and three windows, any two faults.
    Whole,
    /// Two instances with spacing and any one fault: an interval longer than lease and grace, so that a request that
    /// nobody wrote down would show.
    Spacing,
    /// One window of one instance that fails, or whose holder dies, again and again, with `on_failure = "retry"`.
    Retry,
}

impl Scope {
    fn protocol(self, mutant: Option<Mutant>) -> Protocol {
        let whole = Bounds {
            instance_count: 3,
            window_count: 3,
            min_interval: 1,
            lease_ttl: 1,
            orphan_grace: 1,
            grant_life: 1,
            fault_count: 2,
            has_stragglers: true,
            has_spacing: false,
        };
        match self {
            Self::Whole => Protocol::new(whole, OnFailure::Hold, mutant),
            Self::Spacing => {
                let bounds = Bounds {
                    instance_count: 2,
                    window_count: 2,
                    min_interval: 4,
                    lease_ttl: 2,
                    grant_life: 2,
                    fault_count: 1,
                    has_stragglers: false,
                    has_spacing: true,
                    ..whole
                };
                Protocol::new(bounds, OnFailure::Hold, mutant)
            }
            Self::Retry => {
                let bounds = Bounds {
                    instance_count: 1,
                    window_count: 1,
                    fault_count: 5,
                    has_stragglers: false,
                    ..whole
                };
                Protocol::new(bounds, OnFailure::Retry, mutant)
            }
        }
    }
}

/// Explores everything, and fails with a way to what must not happen.
fn assert_holds(scope: Scope, expected: &[Situation]) {
    let protocol = scope.protocol(None);
    let started = Instant::now();
    let checker = protocol
        .clone()
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    println!(
        "{} unique states, {} in all, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64()
    );
    if let Some((name, path)) = broken(&checker).first() {
        panic!("{name} does not hold:\n{}", told(path));
    }
    for (situation, name) in Situation::ALL {
        let count = protocol.times_reached(situation);
        println!("{count:>9} × {name}");
        assert!(count > 0 || !expected.contains(&situation), "never reached: {name}");
    }
}

/// An invariant that does not hold, and the way there.
type Broken = (&'static str, Path<World, Action>);

/// The invariants that do not hold, each with the way there.
fn broken(checker: &impl Checker<Protocol>) -> Vec<Broken> {
    let mut broken: Vec<_> = checker
        .discoveries()
        .into_iter()
        .filter(|(name, _)| Situation::ALL.iter().all(|(_, situation)| situation != name))
        .collect();
    broken.sort_by_key(|(name, _)| *name);
    broken
}

fn told(path: &Path<World, Action>) -> String {
    let mut told = String::new();
    for action in path.clone().into_actions() {
        writeln!(told, "  {action:?}").expect("a String takes every write");
    }
    write!(told, "{:#?}", path.last_state()).expect("a String takes every write");
    told
}

#[test]
fn no_order_of_events_breaks_the_protocol() {
    assert_holds(Scope::Whole, &Situation::ALL.map(|(situation, _)| situation));
}

#[test]
fn requests_start_an_interval_apart_but_for_pauses_that_no_check_sees() {
    assert_holds(
        Scope::Spacing,
        &[Situation::StaleGrantReleased, Situation::SentAfterPause, Situation::AllStored],
    );
}

#[test]
fn a_failing_window_is_asked_five_times_and_then_held() {
    assert_holds(Scope::Retry, &[Situation::Orphaned]);
}

/// Looks ever deeper, so that the way it finds is the shortest.
fn caught(scope: Scope, mutant: Mutant) -> (impl Checker<Protocol>, Vec<Broken>) {
    let mut depth = 4;
    loop {
        let checker = scope
            .protocol(Some(mutant))
            .checker()
            .finish_when(HasDiscoveries::AnyFailures)
            .target_max_depth(depth)
            .spawn_bfs()
            .join();
        let broken = broken(&checker);
        if !broken.is_empty() || checker.max_depth() < depth {
            return (checker, broken);
        }
        depth += 1;
    }
}

#[test]
fn every_broken_protocol_is_caught() {
    println!("{:<24}{:<58}{:>6}{:>9}", "mutant", "breaks", "depth", "states");
    for mutant in Mutant::ALL {
        let scope = match mutant.breaks() {
            ["I11"] => Scope::Spacing,
            ["attempts"] => Scope::Retry,
            _ => Scope::Whole,
        };
        let (checker, broken) = caught(scope, mutant);
        let Some((name, path)) = broken.first() else { panic!("{mutant:?} is not caught") };
        println!(
            "{:<24}{name:<58}{:>6}{:>9}",
            format!("{mutant:?}"),
            path.clone().into_actions().len(),
            checker.unique_state_count()
        );
        let is_expected = |(name, _): &Broken| mutant.breaks().iter().any(|b| name.starts_with(b));
        assert!(broken.iter().any(is_expected), "{mutant:?} breaks {name}:\n{}", told(path));
    }
}
