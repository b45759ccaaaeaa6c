//! Which entries were removed before the group had read them.
//!
//! Redis keeps no list of what was trimmed or deleted. It counts the entries that were ever added, and for a group how many
//! of them lie up to the last one that was delivered, and it keeps the largest id that `XDEL` has taken. That is enough:
//! what was added after the group's place and is no longer there was never read.
//!
//! The counter of a group is not always known: `XDEL` in what is still to be read makes Redis forget it until the group has
//! read everything. Redis 7.0 to 7.2.5 also count wrong after a loss, which would be a second gap where there is none;
//! therefore the counter is set right when the group passes a loss ([`Loss::read`]).
//!
//! A loss is known only as long as the group has not passed it. So where one may be, the group stays where it was although
//! entries were read; it passes when the loss is stored. Until then whoever reads finds it, and the same entries, again.

use super::entry::EntryId;
use super::reply::{GroupState, StreamState};
use crate::source::queue::Gap;

/// What a session has seen of losses.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    /// The largest deleted id that is known, and told if it was a loss; `None`: nothing was looked at yet.
    deleted: Option<EntryId>,
    /// Up to where losses have been told.
    told: EntryId,
}

/// Entries that are gone and were not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    /// The first id that may be one of them.
    pub(super) first: EntryId,
    /// The last one.
    pub(super) last: EntryId,
    /// How many; `None`: not known.
    pub(super) count: Option<u64>,
    /// How many entries were ever added up to `last`, to set the group's counter to; `None`: not known.
    pub(super) read: Option<u64>,
}

impl Watch {
    /// The largest deleted id that is known.
    pub(super) fn deleted(&self) -> Option<EntryId> {
        self.deleted
    }

    /// Judges stream and group as they were at one moment, before anything was read.
    pub(super) fn look(&mut self, stream: &StreamState, group: &GroupState) -> Option<Loss> {
        let known = self.deleted.replace(stream.deleted);
        if group.delivered >= stream.last {
            return None;
        }
        let is_before = stream.first.is_none_or(|first| group.delivered < first);
        let loss = match group.read {
            // Everything that is there is still to be read, so all that is missing was not.
            Some(read) if is_before => trimmed(stream, group.delivered, read)?,
            // A counter that is known says that nothing was deleted after the group's place when it last read. Without one,
            // what was deleted before we came may have been deleted before the group was made.
            read => {
                let known =
                    known.unwrap_or(if read.is_some() { EntryId::ZERO } else { stream.deleted });
                let is_new = stream.deleted > group.delivered && stream.deleted > known;
                is_new.then_some(Loss {
                    first: group.delivered.next(),
                    last: stream.deleted,
                    count: None,
                    read: None,
                })?
            }
        };
        let first = loss.first.max(self.told.next());
        self.told = self.told.max(loss.last);
        (first <= loss.last).then_some(Loss { first, ..loss })
    }
}

fn trimmed(stream: &StreamState, delivered: EntryId, read: u64) -> Option<Loss> {
    let gone = stream.added.checked_sub(stream.length)?;
    let count = gone.checked_sub(read).filter(|count| *count > 0)?;
    let last = stream.first.map_or(stream.last, EntryId::previous);
    let is_sparse = stream.deleted > last;
    Some(Loss {
        first: delivered.next(),
        last: last.max(stream.deleted),
        count: Some(count),
        // Some are missing among those that are there: nobody knows where.
        read: (!is_sparse).then_some(gone),
    })
}

impl Loss {
    pub(super) fn into_gap(self) -> Gap {
        let Self { first, last, count, .. } = self;
        let what = match count {
            Some(1) => "1 entry was".to_owned(),
            Some(count) => format!("{count} entries were"),
            None => "entries were".to_owned(),
        };
        Gap {
            stream: None,
            first_id: first.version_floor(),
            last_id: last.version_floor(),
            reason: format!(
                "{what} trimmed or deleted between {first} and {last} before the consumer group had read them"
            ),
        }
    }
}

/// One entry that was deleted after it was delivered to a consumer, and before it was acknowledged.
pub(super) fn deleted_while_pending(id: EntryId) -> Gap {
    Gap {
        stream: None,
        first_id: id.version_floor(),
        last_id: id.version_floor(),
        reason: format!(
            "the entry {id} was trimmed or deleted after a consumer had received it and before it was acknowledged"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(ms: u64) -> EntryId {
        EntryId { ms, seq: 0 }
    }

    /// A stream of the ids 1 to `added`, of which the first `trimmed` are gone.
    fn stream(added: u64, trimmed: u64, deleted: u64) -> StreamState {
        StreamState {
            length: added - trimmed,
            first: (trimmed < added).then(|| id(trimmed + 1)),
            last: id(added),
            deleted: id(deleted),
            added,
        }
    }

    fn group(delivered: u64, read: Option<u64>) -> GroupState {
        GroupState { delivered: id(delivered), read, ..GroupState::default() }
    }

    fn told(
        watch: &mut Watch,
        stream: &StreamState,
        group: &GroupState,
    ) -> Option<(EntryId, EntryId)> {
        watch.look(stream, group).map(|loss| (loss.first, loss.last))
    }

    #[test]
    fn nothing_is_lost_where_only_what_was_read_is_gone() {
        let cases = [
            ("nothing was ever added", stream(0, 0, 0), group(0, Some(0))),
            ("nothing is gone", stream(10, 0, 0), group(4, Some(4))),
            ("what was read is trimmed", stream(10, 4, 0), group(4, Some(4))),
            ("less than was read is trimmed", stream(10, 3, 0), group(4, Some(4))),
            ("everything is read and gone", stream(10, 10, 0), group(10, Some(10))),
            (
                "a read one is deleted",
                StreamState { length: 9, ..stream(10, 0, 2) },
                group(4, None),
            ),
            (
                "the last read one is deleted",
                StreamState { length: 9, ..stream(10, 0, 4) },
                group(4, None),
            ),
            ("a new group on a trimmed stream", stream(10, 6, 0), group(0, Some(6))),
            (
                "a new group on one with holes",
                StreamState { length: 2, ..stream(10, 6, 8) },
                group(0, Some(8)),
            ),
            ("somebody's new group on a trimmed stream", stream(10, 6, 0), group(0, None)),
            (
                "somebody's new group on one with holes",
                StreamState { length: 2, ..stream(10, 6, 8) },
                group(0, None),
            ),
            ("the counter is above the truth", stream(10, 6, 0), group(4, Some(9))),
            (
                "all is read, and the counter is below the truth",
                stream(10, 10, 0),
                group(10, Some(3)),
            ),
        ];
        for (name, stream, group) in cases {
            assert_eq!(Watch::default().look(&stream, &group), None, "{name}");
        }
    }

    #[test]
    fn what_was_trimmed_before_it_was_read_is_one_gap() {
        let mut watch = Watch::default();
        let loss = watch.look(&stream(10, 6, 0), &group(4, Some(4))).unwrap();
        let first = id(4).next();
        assert_eq!(loss, Loss { first, last: id(7).previous(), count: Some(2), read: Some(6) });
        assert_eq!(watch.look(&stream(10, 6, 0), &group(4, Some(4))), None);
        let more = told(&mut watch, &stream(12, 8, 0), &group(4, Some(4)));
        assert_eq!(more, Some((id(7), id(9).previous())));
    }

    #[test]
    fn a_stream_that_was_emptied_is_a_gap_up_to_its_last_id() {
        let loss = Watch::default().look(&stream(10, 10, 0), &group(4, Some(4))).unwrap();
        assert_eq!((loss.last, loss.count, loss.read), (id(10), Some(6), Some(10)));
    }

    #[test]
    fn what_was_deleted_before_it_was_read_is_one_gap() {
        let mut watch = Watch::default();
        let with_hole = StreamState { length: 9, ..stream(10, 0, 7) };
        assert_eq!(told(&mut watch, &with_hole, &group(4, Some(4))), Some((id(4).next(), id(7))));
        assert_eq!(told(&mut watch, &with_hole, &group(5, None)), None);
        let with_two = StreamState { length: 8, ..stream(10, 0, 9) };
        assert_eq!(told(&mut watch, &with_two, &group(5, None)), Some((id(7).next(), id(9))));
        assert_eq!(told(&mut watch, &with_two, &group(10, Some(10))), None);
    }

    #[test]
    fn a_hole_among_what_is_there_leaves_the_counter_alone() {
        let both = StreamState { length: 3, ..stream(10, 6, 8) };
        let loss = Watch::default().look(&both, &group(4, Some(4))).unwrap();
        assert_eq!((loss.last, loss.count, loss.read), (id(8), Some(3), None));
    }
}
