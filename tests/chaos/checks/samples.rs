//! Every check can fail: a small history in which everything is as it should be, and what breaks each invariant in it.

use super::judge;
use crate::chaos::history::{
    Cursor, Fault, History, Lease, Life, Micros, Queue, Request, Reservation, Stored, Watch,
};

const SECOND: Micros = 1_000_000;

fn reservation(at: Micros, life: u32, was: Option<&str>, status: Option<&str>) -> Reservation {
    Reservation {
        at,
        source: "s0".to_owned(),
        id: 1,
        after_id: 0,
        life,
        epoch: 1,
        was: was.map(str::to_owned),
        status: status.map(str::to_owned),
        lease_epoch: 1,
    }
}

fn request(at: Micros, life: u32) -> Request {
    Request {
        at,
        answered_at: at + 1000,
        source: "s0".to_owned(),
        life,
        after_id: 0,
        limit: 100,
        status: 200,
        first_id: 1,
        event_count: 10,
        complete: true,
        ..Request::default()
    }
}

fn lease(at: Micros, owner: Option<&str>, epoch: i64) -> Lease {
    let expires_at = owner.map(|_| at + SECOND);
    Lease { at, source: "s0".to_owned(), owner: owner.map(str::to_owned), epoch, expires_at }
}

/// One window, asked, stored and moved.
fn good() -> History {
    let mut history = History {
        requests: vec![request(SECOND, 1)],
        reservations: vec![
            reservation(SECOND - 1000, 1, None, Some("reserved")),
            reservation(SECOND + 5000, 1, Some("reserved"), Some("inbox_only")),
            reservation(SECOND + 9000, 1, Some("inbox_only"), Some("succeeded")),
        ],
        leases: vec![lease(SECOND - 1000, Some("a"), 1), lease(SECOND + 5000, None, 1)],
        cursors: vec![
            Cursor { source: "s0".to_owned(), requested: 10, ..Cursor::default() },
            Cursor { source: "s0".to_owned(), requested: 10, stored: 10, ..Cursor::default() },
        ],
        lives: vec![Life {
            life: 1,
            terminated_with: Some(0),
            ended: 9 * SECOND,
            ..Life::default()
        }],
        stored: vec![Stored {
            source: "s0".to_owned(),
            tip: 10,
            requested: 10,
            stored: 10,
            event_count: 10,
            min_id: 1,
            max_id: 10,
            ..Stored::default()
        }],
        queues: vec![Queue { published_count: 1, stored_count: 1, ..Queue::default() }],
        watches: vec![Watch::default()],
        ..History::default()
    };
    for n in 2..20 {
        let source = format!("other{n}");
        let at = SECOND + n * 10;
        let right = reservation(at - 5, 1, None, Some("reserved"));
        history.reservations.push(Reservation { source: source.clone(), ..right });
        history.requests.push(Request { source, ..request(at, 1) });
    }
    let fault = Fault { at: SECOND, until: SECOND, requests_before: 9, ..Fault::default() };
    history.faults.push(fault);
    history
}

#[test]
fn what_is_as_it_should_be_passes() {
    let verdict = judge(&good());
    assert_eq!(verdict.violations, []);
    assert_eq!(verdict.residual, [""; 0]);
}

type Breaking = (&'static str, fn(&mut History));

const BREAKING: &[Breaking] = &[
    ("I1", |h| h.requests.push(request(2 * SECOND, 1))),
    ("I2", |h| h.requests[0].at -= 5000),
    ("I3", |h| {
        h.reservations.push(reservation(2 * SECOND, 2, None, Some("reserved")));
        h.requests.push(request(2 * SECOND + 1, 2));
    }),
    ("I4", |h| h.stored[0].event_count = 9),
    ("I4", |h| h.queues[0].lost_count = 1),
    ("I5", |h| h.stored[0].in_two_places_count = 1),
    ("I5", |h| h.queues[0].doubled_count = 1),
    ("I6", |h| h.stored[0].inverted_ids = vec![3]),
    ("I6", |h| h.watches[0].appeared_below = 1),
    ("I7", |h| h.stored[0].wrong_count = 1),
    ("I7", |h| h.stored[0].revised_ids = vec![3]),
    ("I8", |h| h.cursors[1].requested = 9),
    ("I8", |h| h.cursors[1].stored = 11),
    ("I8", |h| h.watches[0].passed_rows = 1),
    ("I9", |h| h.leases[1] = lease(SECOND, Some("b"), 2)),
    ("I9", |h| h.leases.push(lease(9 * SECOND, Some("b"), 1))),
    ("I9", |h| h.leases.push(lease(9 * SECOND, None, 0))),
    ("I10", |h| h.reservations[0].lease_epoch = 2),
    ("I10", |h| h.reservations[1].was = Some("retried".to_owned())),
    ("I10", |h| h.reservations[2].status = Some("reserved".to_owned())),
    ("I11", |h| {
        h.reservations
            .push(Reservation { after_id: 10, ..reservation(SECOND, 1, None, Some("reserved")) });
        h.requests.push(Request { after_id: 10, ..request(SECOND + 100_000, 1) });
    }),
    ("I12", |h| {
        h.requests[0] = Request { status: 429, retry_after_ms: Some(1000), ..request(SECOND, 1) };
        h.reservations[1].status = None;
        h.reservations.push(reservation(SECOND + 400_000, 1, None, Some("reserved")));
        h.requests.push(request(SECOND + 500_000, 1));
    }),
    ("I14", |h| h.stored[0].dead_letter_count = 1),
    ("I18", |h| h.lives[0].terminated_with = Some(1)),
    ("I18", |h| {
        h.reservations.push(reservation(20 * SECOND, 1, Some("reserved"), Some("orphaned")));
    }),
    ("I20", |h| h.watches[0].files_max = 100_000),
    ("L1", |h| h.stored[0].requested = 5),
    ("L2", |h| {
        h.reservations.push(reservation(900 * SECOND, 1, Some("reserved"), Some("orphaned")));
    }),
    ("L3", |h| h.stored[0].inbox_count = 1),
    ("L5", |h| h.watches[0].held = 1),
    ("M2", |h| h.faults[0].requests_before = 0),
];

#[test]
fn every_check_can_fail() {
    for (check, break_it) in BREAKING {
        let mut history = good();
        break_it(&mut history);
        let broken = judge(&history).checks();
        assert!(broken.contains(check), "{check} passes; broken: {broken:?}");
    }
}

#[test]
fn a_request_that_was_late_because_its_process_was_stopped_is_listed_and_no_more() {
    let mut history = good();
    // Life 1 slept between its grant and the write; its window was freed, and life 2 asked it.
    history.reservations.truncate(1);
    let changes = [
        reservation(3 * SECOND, 1, Some("reserved"), Some("orphaned")),
        reservation(4 * SECOND, 1, Some("orphaned"), Some("retried")),
        Reservation { id: 2, ..reservation(5 * SECOND, 2, None, Some("reserved")) },
    ];
    history.reservations.extend(changes);
    history.requests = vec![request(5 * SECOND + 1000, 2), request(5 * SECOND + 2000, 1)];
    let slept = Fault {
        at: SECOND,
        until: 5 * SECOND,
        kind: "pause at".to_owned(),
        life: 1,
        ..Fault::default()
    };
    history.faults = vec![slept];
    let verdict = judge(&history);
    assert!(!verdict.checks().contains(&"I11"), "{:?}", verdict.violations);
    assert_eq!(verdict.residual.len(), 1);
    // Without the sleep it is a fault of the protocol.
    history.faults.clear();
    assert!(judge(&history).checks().contains(&"I11"));
}

#[test]
fn a_history_that_was_kept_is_read_as_it_was() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut history = good();
    history.requests[0].at -= 5000;
    history.write(file.path()).unwrap();
    assert_eq!(judge(&History::read(file.path()).unwrap()).checks(), judge(&history).checks());
}
