//! What a campaign says at its end.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::checks::Verdict;
use super::history::History;

/// The table: what was done, what was looked at, what was found.
pub(crate) fn table(seed: u64, history: &History, verdict: &Verdict) -> String {
    let mut text = format!("chaos: seed {seed}\n");
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for fault in &history.faults {
        *kinds.entry(&fault.kind).or_default() += 1;
    }
    for (kind, count) in &kinds {
        writeln!(text, "  {kind:24} {count}").unwrap();
    }
    for kind in ["database", "lost reply"] {
        let mut details: BTreeMap<&str, usize> = BTreeMap::new();
        for fault in history.faults.iter().filter(|fault| fault.kind == kind) {
            *details.entry(&fault.detail).or_default() += 1;
        }
        writeln!(text, "  {kind}: {details:?}").unwrap();
    }
    let places = places(history);
    writeln!(text, "  places killed at         {}", places.len()).unwrap();
    let events: i64 = history.stored.iter().map(|stored| stored.event_count).sum();
    let queue: i64 = history.queues.iter().map(|queue| queue.stored_count).sum();
    let skewed = history.lives.iter().filter(|life| life.skew_hours != 0).count();
    writeln!(text, "  requests                 {}", history.requests.len()).unwrap();
    writeln!(text, "  events                   {events} and {queue} messages").unwrap();
    writeln!(
        text,
        "  processes                {}, {skewed} of them an hour off",
        history.lives.len()
    )
    .unwrap();
    let freed = history.reservations.iter().filter(|change| {
        change.status.as_deref() == Some("retried") && change.was.as_deref() != Some("retried")
    });
    writeln!(text, "  windows held and freed   {}", freed.count()).unwrap();
    for (check, count) in &verdict.looked_at {
        let broken = verdict.violations.iter().filter(|v| v.check == *check).count();
        writeln!(text, "  {check:8} looked at {count:8}, broken {broken}").unwrap();
    }
    for residual in &verdict.residual {
        writeln!(text, "  residual window: {residual}").unwrap();
    }
    for violation in verdict.violations.iter().take(50) {
        writeln!(text, "  BROKEN {}: {}", violation.check, violation.what).unwrap();
    }
    text
}

/// The places that a process was killed at.
pub(crate) fn places(history: &History) -> Vec<&str> {
    let kills = history.faults.iter().filter(|fault| fault.kind == "kill at");
    let mut places: Vec<&str> = kills.map(|fault| fault.detail.as_str()).collect();
    places.sort_unstable();
    places.dedup();
    places
}
