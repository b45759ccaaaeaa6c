//! The fault campaign: several processes of the real binary, a private PostgreSQL, many sources with a log of their own;
//! they are killed, stopped, cut off and lied to about the time, and then judged by what the sources saw and what is in the
//! database. `make test` runs the short form, `make chaos SEED=… FAULTS=…` the long one.
//!
//! Start reading at `campaign.rs`; `fault.rs` says what is done, `checks.rs` what has to hold, `mutant.rs` which broken
//! protocols have to be caught.

mod campaign;
mod checks;
mod clock;
mod fault;
mod history;
mod instance;
mod long;
mod mutant;
mod origin;
mod postgres;
mod queue;
mod report;
mod starters;
mod wire;
mod witness;
mod world;

use std::time::Duration;

use eventloader::failpoint::Place;
use tokio::sync::Mutex;

use campaign::Campaign;
use fault::{Amount, DatabaseFault, Plan};
use history::History;
use mutant::Mutant;

const SEED: u64 = 1;

/// Campaigns take turns: each keeps the machine busy.
static TURN: Mutex<()> = Mutex::const_new(());

fn short(plan: Plan) -> Campaign {
    Campaign {
        seed: SEED,
        instances: 4,
        sources: 20,
        plan,
        disk_size: None,
        mutant: None,
        time_max: Duration::from_mins(5),
        requests_min: 0,
        patience: Duration::from_mins(2),
        is_loud: false,
    }
}

/// Judges, prints the table, and fails for what is broken.
#[expect(clippy::print_stderr, reason = "the table is what a campaign is for")]
fn conclude(seed: u64, history: &History) {
    let verdict = checks::judge(history);
    let table = report::table(seed, history, &verdict);
    eprintln!("{table}");
    assert!(verdict.violations.is_empty(), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_asked_again_whatever_is_done_to_it() {
    let _turn = TURN.lock().await;
    let amount = Amount { faults: 140, database_faults: 12, has_disk: false };
    let history = short(Plan::new(SEED, amount)).run().await.unwrap();
    conclude(SEED, &history);
    let places = report::places(&history);
    let missed: Vec<_> =
        Place::ALL.iter().map(|place| place.name()).filter(|name| !places.contains(name)).collect();
    assert!(missed.is_empty(), "M3: nothing was killed at {missed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_loses_nothing() {
    let _turn = TURN.lock().await;
    let faults = Plan::only(
        SEED,
        4,
        |_| fault::Fault::Kill(Duration::from_millis(200)),
        vec![DatabaseFault::DiskFull; 2],
    );
    let campaign = Campaign { disk_size: Some("400m"), ..short(faults) };
    let Some(history) = campaign.run().await else { return };
    conclude(SEED, &history);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_that_start_at_once_migrate_once_and_none_complains() {
    let _turn = TURN.lock().await;
    starters::start_together(3).await;
    starters::refuse_a_newer_schema().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_asked_again_and_pages_stored_twice_are_noticed() {
    let _turn = TURN.lock().await;
    for mutant in [Mutant::RefetchOfOrphans, Mutant::HiddenConflict] {
        long::catch(mutant, SEED).await;
    }
}
