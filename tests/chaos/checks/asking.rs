//! What the sources saw.

use std::collections::HashMap;

use super::Verdict;
use crate::chaos::history::{History, Micros, Request};

const SPACING: Micros = 200_000;

/// Life, source and `after_id`: what one process asks a window with.
type Asking<'a> = (u32, &'a str, i64);

/// When each process reserved each window, in order.
fn reserved(history: &History) -> HashMap<Asking<'_>, Vec<Micros>> {
    let mut reserved: HashMap<Asking<'_>, Vec<Micros>> = HashMap::new();
    let new = history.reservations.iter().filter(|change| change.was.is_none());
    for change in new {
        reserved.entry((change.life, &change.source, change.after_id)).or_default().push(change.at);
    }
    for times in reserved.values_mut() {
        times.sort_unstable();
    }
    reserved
}

fn by_source(history: &History) -> HashMap<&str, Vec<&Request>> {
    let mut by_source: HashMap<&str, Vec<&Request>> = HashMap::new();
    for request in &history.requests {
        by_source.entry(&request.source).or_default().push(request);
    }
    for requests in by_source.values_mut() {
        requests.sort_by_key(|request| request.at);
    }
    by_source
}

/// The n-th request of a process for a window came after its n-th reservation of it.
pub(super) fn reserved_before(history: &History, verdict: &mut Verdict) {
    let reserved = reserved(history);
    let mut asked: HashMap<Asking<'_>, Vec<Micros>> = HashMap::new();
    for request in &history.requests {
        let key = (request.life, request.source.as_str(), request.after_id);
        asked.entry(key).or_default().push(request.at);
    }
    verdict.looked_at("I1", history.requests.len());
    verdict.looked_at("I2", history.requests.len());
    for (key, mut times) in asked {
        times.sort_unstable();
        let rights = reserved.get(&key).map_or(&[][..], Vec::as_slice);
        if times.len() > rights.len() {
            verdict.broken(
                "I1",
                format!("{key:?}: {} requests, {} rights", times.len(), rights.len()),
            );
        }
        for (asked, right) in times.iter().zip(rights) {
            if asked < right {
                verdict.broken(
                    "I2",
                    format!("{key:?}: asked {} us before it was reserved", right - asked),
                );
            }
        }
    }
}

/// A window that may have been answered with events is asked again only after somebody closed its request.
pub(super) fn asked_again(history: &History, verdict: &mut Verdict) {
    let mut words: HashMap<(&str, i64), usize> = HashMap::new();
    for change in &history.reservations {
        if change.status.as_deref() == Some("retried") && change.was.as_deref() != Some("retried") {
            *words.entry((&change.source, change.after_id)).or_default() += 1;
        }
    }
    let mut windows: HashMap<(&str, i64), Vec<&Request>> = HashMap::new();
    for request in &history.requests {
        windows.entry((&request.source, request.after_id)).or_default().push(request);
    }
    verdict.looked_at("I3", windows.len());
    for ((source, after_id), requests) in windows {
        let seeks =
            history.seeks.iter().filter(|seek| seek.source == source && seek.to <= after_id);
        let words = words.get(&(source, after_id)).copied().unwrap_or(0) + seeks.count();
        let bound = requests.iter().filter(|request| request.binds()).count();
        if bound > 1 + words {
            let what =
                format!("{source} after {after_id}: asked {bound} times, {words} words for it");
            verdict.broken("I3", what);
        }
    }
}

/// Request starts of a source, over all instances, at the source.
pub(super) fn spacing(history: &History, verdict: &mut Verdict) {
    let rights = reserved(history);
    let settled = settled(history);
    verdict.looked_at("I11", history.requests.len());
    for (source, requests) in by_source(history) {
        for pair in requests.windows(2) {
            let gap = pair[1].at - pair[0].at;
            if gap >= SPACING {
                continue;
            }
            let right = |request: &Request| {
                let times = rights.get(&(request.life, source, request.after_id))?;
                times.iter().rev().find(|right| **right <= request.at).copied()
            };
            let late =
                [(pair[0], pair[1]), (pair[1], pair[0])].into_iter().find_map(|(late, other)| {
                    let (late_right, other_right) = (right(late)?, right(other)?);
                    let ends = settled.get(&(late.life, source, late.after_id));
                    let known = late_right..other_right;
                    // What was written down before the other was granted had to be reckoned with.
                    let was_known =
                        ends.is_some_and(|ends| ends.iter().any(|end| known.contains(end)));
                    let pause = stopped_between(history, late, late_right)?;
                    (!was_known && other_right > late_right).then_some((late, late_right, pause))
                });
            let what = format!(
                "{source}: {gap} us between after {} (life {}) and after {} (life {})",
                pair[0].after_id, pair[0].life, pair[1].after_id, pair[1].life
            );
            match late {
                Some((late, right, pause)) => verdict.residual.push(format!(
                    "{what}; life {} was stopped ({pause}) and sent {} ms after its grant",
                    late.life,
                    (late.at - right) / 1000
                )),
                None => verdict.broken("I11", what),
            }
        }
    }
}

/// When each process wrote down what became of its requests.
fn settled(history: &History) -> HashMap<Asking<'_>, Vec<Micros>> {
    let mut settled: HashMap<Asking<'_>, Vec<Micros>> = HashMap::new();
    for change in &history.reservations {
        let is_open = matches!(change.was.as_deref(), Some("reserved" | "orphaned"));
        let is_end = matches!(change.status.as_deref(), None | Some("inbox_only" | "failed"));
        if is_open && is_end {
            settled
                .entry((change.life, &change.source, change.after_id))
                .or_default()
                .push(change.at);
        }
    }
    settled
}

/// How the process was stopped between its reservation and the arrival of this request.
fn stopped_between(history: &History, request: &Request, right: Micros) -> Option<String> {
    let pauses = history.faults.iter().filter(|fault| fault.kind.starts_with("pause"));
    let mut of_it = pauses.filter(|fault| fault.life == request.life);
    let pause = of_it.find(|fault| fault.at <= request.at && fault.until >= right)?;
    Some(pause.detail.clone())
}

/// After a Retry-After that was written down, nobody asks before its time.
pub(super) fn patience(history: &History, verdict: &mut Verdict) {
    let mut gone: HashMap<Asking<'_>, Vec<Micros>> = HashMap::new();
    let mut freed: HashMap<&str, Vec<Micros>> = HashMap::new();
    for change in &history.reservations {
        match (change.was.as_deref(), change.status.as_deref()) {
            (Some("reserved" | "orphaned"), None) => {
                gone.entry((change.life, &change.source, change.after_id))
                    .or_default()
                    .push(change.at);
            }
            // An operator who frees a window lifts what the source had asked for.
            (_, Some("retried")) => freed.entry(&change.source).or_default().push(change.at),
            _ => {}
        }
    }
    let mut count = 0;
    for (source, requests) in by_source(history) {
        for pair in requests.windows(2) {
            let (Some(ms), true) = (pair[0].retry_after_ms, pair[0].answered_at > 0) else {
                continue;
            };
            let key = (pair[0].life, source, pair[0].after_id);
            let between = |at: &Micros| (pair[0].at..pair[1].at).contains(at);
            let written = gone.get(&key).is_some_and(|times| times.iter().any(between));
            let lifted = freed.get(source).is_some_and(|times| times.iter().any(between));
            if !written || lifted {
                continue;
            }
            count += 1;
            let early = pair[0].answered_at + ms * 1000 - pair[1].at;
            if early > 0 {
                let what =
                    format!("{source} after {}: asked {early} us too early", pair[1].after_id);
                verdict.broken("I12", what);
            }
        }
    }
    verdict.looked_at("I12", count);
}
