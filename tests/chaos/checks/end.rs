//! What is there at the end, and what was seen on the way.

use super::Verdict;
use crate::chaos::history::History;

/// Far above what an instance with a hundred sources needs.
const MEMORY_MAX_KIB: i64 = 512 * 1024;
const FILES_MAX: i64 = 1000;
const CONNECTIONS_MAX: i64 = 200;

/// `events` is 1..=N of each source, as it was sent; a changed body is set aside; nothing is anywhere else.
pub(super) fn events(history: &History, verdict: &mut Verdict) {
    let total: i64 = history.stored.iter().map(|stored| stored.event_count).sum();
    for check in ["I4", "I5", "I7", "I14"] {
        verdict.looked_at(check, usize::try_from(total).unwrap_or_default());
    }
    for stored in &history.stored {
        let name = &stored.source;
        let whole =
            stored.min_id == 1 && stored.max_id == stored.tip && stored.event_count == stored.tip;
        if !whole && stored.tip > 0 {
            let what = format!(
                "{name}: {} events, {}..={} of {}; {} windows held",
                stored.event_count, stored.min_id, stored.max_id, stored.tip, stored.held_count
            );
            verdict.broken("I4", what);
        }
        if stored.in_two_places_count > 0 {
            verdict.broken(
                "I5",
                format!("{name}: {} in inbox and events", stored.in_two_places_count),
            );
        }
        if stored.wrong_count > 0 {
            verdict.broken("I7", format!("{name}: {} events differ", stored.wrong_count));
        }
        if stored.conflict_ids != stored.revised_ids {
            let what = format!(
                "{name}: other bodies came for {:?}, set aside are {:?}",
                stored.revised_ids, stored.conflict_ids
            );
            verdict.broken("I7", what);
        }
        if stored.dead_letter_count > 0 {
            verdict.broken("I14", format!("{name}: {} dead letters", stored.dead_letter_count));
        }
    }
}

/// Positions follow ids, but for rows that somebody else held; and a reader is shown everything once.
pub(super) fn order(history: &History, verdict: &mut Verdict) {
    verdict.looked_at(
        "I6",
        history.watches.iter().map(|watch| usize::try_from(watch.look_count).unwrap()).sum(),
    );
    let locked = |source: &str, id: i64| {
        let mut watches = history.watches.iter();
        watches.any(|watch| watch.locked.iter().any(|(name, row)| name == source && *row == id))
    };
    for stored in &history.stored {
        let bad = stored.inverted_ids.iter().find(|id| !locked(&stored.source, **id));
        if let Some(id) = bad {
            verdict
                .broken("I6", format!("{}: {id} has a position above a later id", stored.source));
        }
    }
    for watch in &history.watches {
        if watch.appeared_below != 0 {
            verdict
                .broken("I6", format!("{} events appeared below a reader", watch.appeared_below));
        }
    }
}

/// Every published message is an event, once.
pub(super) fn queue(history: &History, verdict: &mut Verdict) {
    for queue in &history.queues {
        verdict.looked_at("I5 queue", usize::try_from(queue.published_count).unwrap_or_default());
        if queue.lost_count != 0 {
            verdict.broken(
                "I4",
                format!("{} of {} messages are lost", queue.lost_count, queue.published_count),
            );
        }
        if queue.doubled_count != 0 {
            verdict.broken("I5", format!("{} messages are events twice", queue.doubled_count));
        }
    }
}

/// Within the patience of the campaign, every cursor is at the tip and the inbox is empty.
pub(super) fn drained(history: &History, verdict: &mut Verdict) {
    verdict.looked_at("L1", history.stored.len());
    verdict.looked_at("L3", history.stored.len());
    for stored in &history.stored {
        if stored.requested < stored.tip {
            verdict.broken(
                "L1",
                format!("{}: at {} of {}", stored.source, stored.requested, stored.tip),
            );
        }
        if stored.inbox_count > 0 {
            verdict.broken("L3", format!("{}: {} in the inbox", stored.source, stored.inbox_count));
        }
    }
}

/// `status` shows what the request log holds.
pub(super) fn shown(history: &History, verdict: &mut Verdict) {
    for watch in &history.watches {
        verdict.looked_at("L5", usize::try_from(watch.held).unwrap_or_default());
        if watch.held_shown < watch.held {
            verdict
                .broken("L5", format!("{} windows held, {} shown", watch.held, watch.held_shown));
        }
    }
}

/// What an instance takes.
pub(super) fn bounds(history: &History, verdict: &mut Verdict) {
    for watch in &history.watches {
        verdict.looked_at("I20", usize::try_from(watch.look_count).unwrap_or_default());
        for (what, value, max) in [
            ("KiB of memory", watch.memory_max_kib, MEMORY_MAX_KIB),
            ("open files", watch.files_max, FILES_MAX),
            ("connections", watch.connections_max, CONNECTIONS_MAX),
        ] {
            if value > max {
                verdict.broken("I20", format!("{value} {what}"));
            }
        }
    }
}
