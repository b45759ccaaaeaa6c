//! The long form, and the judgement of a history that was kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::campaign::Campaign;
use super::fault::{Amount, Plan};
use super::history::History;
use super::mutant::Mutant;
use super::{checks, conclude, report, starters};

/// Rounds in which a mutant has to be caught.
const ROUNDS: u64 = 5;

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    if text.is_empty() {
        default
    } else {
        text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number"))
    }
}

fn directory(seed: u64) -> PathBuf {
    let directory =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("target/chaos").join(seed.to_string());
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// `make chaos`. `SEED`; `FAULTS` of instances; `DATABASE_FAULTS`; `REQUESTS` at least; `SECONDS` at most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make chaos runs it"]
async fn campaign() {
    let seed = number("SEED", 1);
    let faults = usize::try_from(number("FAULTS", 3000)).unwrap();
    let database_faults = usize::try_from(number("DATABASE_FAULTS", (faults / 14) as u64)).unwrap();
    let campaign = Campaign {
        seed,
        instances: number("INSTANCES", 8),
        sources: usize::try_from(number("SOURCES", 100)).unwrap(),
        plan: Plan::new(seed, Amount { faults, database_faults, has_disk: false }),
        disk_size: None,
        mutant: None,
        time_max: Duration::from_secs(number("SECONDS", 1200)),
        requests_min: number("REQUESTS", 0),
        patience: Duration::from_mins(3),
        is_loud: true,
    };
    let history = campaign.run().await.unwrap();
    history.write(&directory(seed).join("history.jsonl")).unwrap();
    let verdict = checks::judge(&history);
    let table = report::table(seed, &history, &verdict);
    std::fs::write(directory(seed).join("table.txt"), table).unwrap();
    conclude(seed, &history);
}

/// `make chaos` runs this, too: `STARTS` times sixteen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make chaos runs it"]
async fn starts() {
    starters::start_together(usize::try_from(number("STARTS", 200)).unwrap()).await;
}

/// And this: which mutant is caught by what.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make chaos runs it"]
async fn mutants() {
    let seed = number("SEED", 1);
    let mut lines = Vec::new();
    for mutant in Mutant::ALL {
        lines.push(catch(mutant, seed).await);
    }
    std::fs::write(directory(seed).join("mutants.txt"), lines.join("\n")).unwrap();
}

/// Judges `HISTORY=…/history.jsonl` again.
#[test]
#[ignore = "it judges the file that HISTORY names"]
fn recheck() {
    let path = std::env::var("HISTORY").expect("HISTORY names the file");
    conclude(number("SEED", 0), &History::read(Path::new(&path)).unwrap());
}

/// Runs a mutant until it is caught by an invariant that it breaks; says by which, and after how many faults.
#[expect(clippy::print_stderr, reason = "the table is what a campaign is for")]
pub(crate) async fn catch(mutant: Mutant, seed: u64) -> String {
    let mut faults = 0;
    let mut other = Vec::new();
    for round in 0..ROUNDS {
        let campaign = Campaign {
            seed: seed + round,
            instances: 4,
            sources: 20,
            plan: mutant.plan(seed + round),
            disk_size: None,
            mutant: Some(mutant),
            time_max: Duration::from_mins(2),
            requests_min: 0,
            patience: Duration::from_secs(15),
            is_loud: false,
        };
        let history = campaign.run().await.unwrap();
        faults += history.faults.len();
        let verdict = checks::judge(&history);
        let broken = verdict.checks();
        let caught = broken.iter().any(|check| mutant.breaks().contains(check));
        if caught {
            let violation =
                verdict.violations.iter().find(|v| mutant.breaks().contains(&v.check)).unwrap();
            let line = format!(
                "mutant {mutant:?}: caught by {broken:?} after {faults} faults; {}",
                violation.what
            );
            eprintln!("{line}");
            return line;
        }
        other.extend(broken);
    }
    panic!("mutant {mutant:?} is not caught in {faults} faults; broken: {other:?}");
}
