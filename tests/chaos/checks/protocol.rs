//! What the database saw: leases, cursors, request states.

use std::collections::HashMap;

use super::Verdict;
use crate::chaos::history::{Cursor, History, Lease, Life, Micros, Seek};

/// A take-over later than this is none. Far above what is promised (the lease, its grace and a second): a machine that
/// is busy with killing is no clock.
const TAKEOVER_MAX: Micros = 60_000_000;

/// Requests that have to come between two faults of one instance.
pub(crate) const TRAFFIC_MIN: u64 = 5;

/// Neither part of a cursor falls but by a seek, and what is stored was requested.
pub(super) fn cursors(history: &History, verdict: &mut Verdict) {
    verdict.looked_at("I8", history.cursors.len());
    let mut last: HashMap<&str, &Cursor> = HashMap::new();
    let mut seeks: Vec<_> = history.seeks.iter().collect();
    for cursor in &history.cursors {
        let before = last.insert(&cursor.source, cursor);
        let Some(before) = before else { continue };
        if cursor.stored > cursor.requested {
            verdict.broken("I8", format!("{cursor:?}: stored passes requested"));
        }
        if cursor.requested < before.requested || cursor.stored < before.stored {
            let is_sought =
                |seek: &&Seek| seek.source == cursor.source && seek.to == cursor.requested;
            match seeks.iter().position(is_sought) {
                Some(place) => drop(seeks.remove(place)),
                None => verdict.broken("I8", format!("{before:?} fell to {cursor:?}")),
            }
        }
    }
    for watch in &history.watches {
        if watch.passed_rows > 0 {
            verdict
                .broken("I8", format!("the watermark passed rows in {} looks", watch.passed_rows));
        }
    }
}

/// A lease passes from one owner to another only when it was given back or had expired, and always under a new epoch.
pub(super) fn leases(history: &History, verdict: &mut Verdict) {
    verdict.looked_at("I9", history.leases.len());
    verdict.looked_at("I17", history.lives.iter().filter(|life| life.skew_hours != 0).count());
    let mut last: HashMap<&str, &Lease> = HashMap::new();
    for lease in &history.leases {
        let Some(before) = last.insert(&lease.source, lease) else { continue };
        if lease.epoch < before.epoch {
            verdict.broken(
                "I9",
                format!("{}: epoch {} after {}", lease.source, lease.epoch, before.epoch),
            );
        }
        let changed_hands = lease.owner.is_some() && lease.owner != before.owner;
        if changed_hands && lease.epoch == before.epoch {
            verdict.broken("I9", format!("{}: two owners of epoch {}", lease.source, lease.epoch));
        }
        let was_free = before.owner.is_none() || before.expires_at.is_none_or(|at| at <= lease.at);
        if changed_hands && !was_free {
            verdict.broken("I9", format!("{}: {lease:?} overlaps {before:?}", lease.source));
        }
    }
}

/// The states that follow each other; a row is made as a reservation, under the epoch that the lease has.
pub(super) fn transitions(history: &History, verdict: &mut Verdict) {
    verdict.looked_at("I10", history.reservations.len());
    for change in &history.reservations {
        let ok = match (change.was.as_deref(), change.status.as_deref()) {
            (None | Some("orphaned"), Some("reserved")) => change.epoch == change.lease_epoch,
            (
                Some("reserved"),
                Some("reserved" | "inbox_only" | "failed" | "orphaned" | "skipped"),
            )
            | (Some("orphaned"), Some("inbox_only" | "failed" | "retried" | "skipped"))
            | (Some("failed"), Some("retried" | "skipped"))
            | (Some("inbox_only"), Some("succeeded"))
            | (Some("reserved" | "orphaned" | "succeeded" | "retried" | "skipped"), None) => true,
            (was, status) => was == status,
        };
        if !ok {
            verdict.broken("I10", format!("{change:?}"));
        }
    }
}

/// A process that was asked to end, with a database in order, ends with 0 and leaves no window of unknown outcome.
pub(super) fn terminations(history: &History, verdict: &mut Verdict) {
    let asked = history.lives.iter().filter_map(|life| Some((life, life.terminated_with?)));
    let asked: HashMap<u32, (&Life, i32)> =
        asked.map(|(life, code)| (life.life, (life, code))).collect();
    verdict.looked_at("I18", asked.len());
    for (life, code) in asked.values().filter(|(_, code)| *code != 0) {
        verdict.broken("I18", format!("life {} ended with {code}", life.life));
    }
    for change in &history.reservations {
        let is_orphan = change.was.as_deref() == Some("reserved")
            && change.status.as_deref() == Some("orphaned");
        if is_orphan && asked.get(&change.life).is_some_and(|(life, _)| change.at >= life.ended) {
            verdict.broken("I18", format!("life {} left {change:?}", change.life));
        }
    }
}

/// A window whose holder vanished is marked some time after its lease has run out.
pub(super) fn takeovers(history: &History, verdict: &mut Verdict) {
    let mut leases: HashMap<(&str, i64), &Lease> = HashMap::new();
    for lease in history.leases.iter().filter(|lease| lease.owner.is_some()) {
        leases.insert((&lease.source, lease.epoch), lease);
    }
    let mut count = 0;
    for change in &history.reservations {
        if change.was.as_deref() != Some("reserved") || change.status.as_deref() != Some("orphaned")
        {
            continue;
        }
        count += 1;
        let lease = leases.get(&(change.source.as_str(), change.epoch));
        let Some(expired_at) = lease.and_then(|lease| lease.expires_at) else { continue };
        if change.at - expired_at > TAKEOVER_MAX {
            verdict.broken("L2", format!("{change:?}: its lease ran out at {expired_at}"));
        }
    }
    verdict.looked_at("L2", count);
}

/// A fault that meets nothing shows nothing.
pub(super) fn traffic(history: &History, verdict: &mut Verdict) {
    verdict.looked_at("M2", history.faults.len());
    let last = history.requests.len() as u64;
    for fault in &history.faults {
        if fault.requests_before < TRAFFIC_MIN || last < fault.requests_before + TRAFFIC_MIN {
            let before = fault.requests_before;
            verdict.broken(
                "M2",
                format!("{} {}: {before} of {last} requests before it", fault.kind, fault.detail),
            );
        }
    }
}
