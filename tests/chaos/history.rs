//! What happened in a campaign, as the source, the database and the faults' own log have it. It is kept as JSON lines,
//! so that it can be judged again.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Microseconds since 1970, by the one clock of this machine.
pub(crate) type Micros = i64;

/// One request, as the source saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// When its first byte was there.
    pub(crate) at: Micros,
    /// When its answer was written; 0: never.
    pub(crate) answered_at: Micros,
    pub(crate) source: String,
    pub(crate) life: u32,
    pub(crate) connection: u64,
    pub(crate) after_id: i64,
    pub(crate) limit: i64,
    /// 0: the connection was closed without an answer.
    pub(crate) status: u16,
    pub(crate) first_id: i64,
    pub(crate) event_count: i64,
    /// The whole body was sent.
    pub(crate) complete: bool,
    /// What its `Retry-After` asks for.
    pub(crate) retry_after_ms: Option<i64>,
}

impl Request {
    /// Whether events may have been handed over: after that the window is not asked again without a word of somebody.
    pub(crate) fn binds(&self) -> bool {
        match self.status {
            200 => self.event_count > 0 || !self.complete,
            429 | 503 => false,
            _ => true,
        }
    }
}

/// A change of a row of the request log, in the order of the source's commits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reservation {
    pub(crate) at: Micros,
    pub(crate) source: String,
    pub(crate) id: i64,
    pub(crate) after_id: i64,
    /// Of the row's owner.
    pub(crate) life: u32,
    pub(crate) epoch: i64,
    /// `None`: the row is new.
    pub(crate) was: Option<String>,
    /// `None`: the row is gone.
    pub(crate) status: Option<String>,
    /// The epoch of the source's lease in the same transaction.
    pub(crate) lease_epoch: i64,
}

/// A change of a lease.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) at: Micros,
    pub(crate) source: String,
    pub(crate) owner: Option<String>,
    pub(crate) epoch: i64,
    pub(crate) expires_at: Option<Micros>,
}

/// A change of a cursor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    pub(crate) at: Micros,
    pub(crate) source: String,
    pub(crate) requested: i64,
    pub(crate) stored: i64,
}

/// One process of an instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names of its lines in the file")]
pub(crate) struct Life {
    pub(crate) life: u32,
    pub(crate) pid: u32,
    pub(crate) began: Micros,
    pub(crate) ended: Micros,
    /// How many hours its clock is off.
    pub(crate) skew_hours: i32,
    /// Exit code after a SIGTERM that met a database in order.
    pub(crate) terminated_with: Option<i32>,
}

/// Something that was done to the system.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) at: Micros,
    pub(crate) until: Micros,
    /// `kill`, `kill at`, `pause`, `database`, `lost reply`, …
    pub(crate) kind: String,
    pub(crate) detail: String,
    pub(crate) life: u32,
    /// Requests that the sources had seen by then, of all instances.
    pub(crate) requests_before: u64,
}

/// An operator moved a cursor back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seek {
    pub(crate) source: String,
    pub(crate) to: i64,
}

/// What a source's events look like at the end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names of its lines in the file")]
pub(crate) struct Stored {
    pub(crate) source: String,
    /// The greatest id that the source has.
    pub(crate) tip: i64,
    pub(crate) requested: i64,
    pub(crate) stored: i64,
    pub(crate) event_count: i64,
    pub(crate) min_id: i64,
    pub(crate) max_id: i64,
    /// Events whose value is not the one that was sent.
    pub(crate) wrong_count: i64,
    /// Ids that got a smaller position than one before them.
    pub(crate) inverted_ids: Vec<i64>,
    pub(crate) inbox_count: i64,
    pub(crate) in_two_places_count: i64,
    /// Windows that are still held.
    pub(crate) held_count: i64,
    /// Ids for which a conflict was set aside.
    pub(crate) conflict_ids: Vec<i64>,
    /// Ids whose body the source changed.
    pub(crate) revised_ids: Vec<i64>,
    pub(crate) dead_letter_count: i64,
}

/// The queue source at the end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names of its lines in the file")]
pub(crate) struct Queue {
    pub(crate) published_count: i64,
    pub(crate) stored_count: i64,
    pub(crate) lost_count: i64,
    pub(crate) doubled_count: i64,
}

/// What looked at the database while it went on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Watch {
    pub(crate) look_count: u64,
    /// Events at or below a reader's position that it had not been shown.
    pub(crate) appeared_below: i64,
    /// Looks that met rows of the inbox which the watermark had passed.
    pub(crate) passed_rows: i64,
    /// The most resident memory of an instance, in KiB.
    pub(crate) memory_max_kib: i64,
    pub(crate) files_max: i64,
    pub(crate) connections_max: i64,
    /// Held windows in the database, and by `eventloader status`, before the heal.
    pub(crate) held: i64,
    pub(crate) held_shown: i64,
    /// Rows of the inbox that somebody else had locked.
    pub(crate) locked: Vec<(String, i64)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Request(Request),
    Reservation(Reservation),
    Lease(Lease),
    Cursor(Cursor),
    Life(Life),
    Fault(Fault),
    Seek(Seek),
    Stored(Stored),
    Queue(Queue),
    Watch(Watch),
}

/// Everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) requests: Vec<Request>,
    pub(crate) reservations: Vec<Reservation>,
    pub(crate) leases: Vec<Lease>,
    pub(crate) cursors: Vec<Cursor>,
    pub(crate) lives: Vec<Life>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) seeks: Vec<Seek>,
    pub(crate) stored: Vec<Stored>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) watches: Vec<Watch>,
}

impl History {
    /// Writes one line a record.
    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut file = BufWriter::new(std::fs::File::create(path)?);
        let mut put = |record: &Record| -> std::io::Result<()> {
            serde_json::to_writer(&mut file, record)?;
            file.write_all(b"\n")
        };
        macro_rules! put_all {
            ($($field:ident $kind:ident)*) => {
                $(for record in &self.$field {
                    put(&Record::$kind(record.clone()))?;
                })*
            };
        }
        put_all!(requests Request reservations Reservation leases Lease cursors Cursor lives Life
            faults Fault seeks Seek stored Stored queues Queue watches Watch);
        file.flush()
    }

    /// Reads what [`Self::write`] wrote.
    pub(crate) fn read(path: &Path) -> std::io::Result<Self> {
        let mut history = Self::default();
        for line in BufReader::new(std::fs::File::open(path)?).lines() {
            match serde_json::from_str(&line?)? {
                Record::Request(record) => history.requests.push(record),
                Record::Reservation(record) => history.reservations.push(record),
                Record::Lease(record) => history.leases.push(record),
                Record::Cursor(record) => history.cursors.push(record),
                Record::Life(record) => history.lives.push(record),
                Record::Fault(record) => history.faults.push(record),
                Record::Seek(record) => history.seeks.push(record),
                Record::Stored(record) => history.stored.push(record),
                Record::Queue(record) => history.queues.push(record),
                Record::Watch(record) => history.watches.push(record),
            }
        }
        Ok(history)
    }
}
