//! How far each assigned partition has been taken, acknowledged and committed. Decides; asks nobody.
//!
//! A partition has a *term*: from its assignment or its last rewind to its revocation or its next rewind. What was taken
//! in another term is not committed: somebody else may have the partition, or it is read again.

use std::collections::{BTreeMap, BTreeSet};

/// The assigned partitions, by their number.
#[derive(Debug, Default)]
pub(super) struct Positions {
    partitions: BTreeMap<i32, Partition>,
    /// Those that are to be read again, and are not yet.
    rewinding: BTreeSet<i32>,
    terms: u64,
}

#[derive(Debug)]
struct Partition {
    term: u64,
    /// What comes next; `None` until the first message, where the group has no committed offset.
    next: Option<i64>,
    /// All offsets below are acknowledged; begins with the first message that was taken.
    settled: i64,
    /// All offsets below are committed, or were never given to the group.
    committed: i64,
    /// Spans that were acknowledged before the one in front of them: begin and end.
    early: BTreeMap<i64, i64>,
}

/// Offsets of a partition that were taken together: `from..to`, with the holes that compaction and transactions leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) partition: i32,
    pub(super) from: i64,
    pub(super) to: i64,
    term: u64,
}

impl Span {
    /// Both as one, where the other follows this one without a break.
    pub(super) fn joined(self, other: Self) -> Option<Self> {
        let place = (self.partition, self.term, self.to);
        (place == (other.partition, other.term, other.from))
            .then_some(Self { to: other.to, ..self })
    }
}

impl Positions {
    /// A partition is ours from now on; `begin`: the offset that the group has committed.
    pub(super) fn assign(&mut self, partition: i32, begin: Option<i64>) {
        self.terms += 1;
        let first = begin.unwrap_or_default();
        let assigned = Partition {
            term: self.terms,
            next: begin,
            settled: first,
            committed: first,
            early: BTreeMap::new(),
        };
        self.rewinding.remove(&partition);
        self.partitions.insert(partition, assigned);
    }

    /// A partition is no longer ours.
    pub(super) fn revoke(&mut self, partition: i32) {
        self.partitions.remove(&partition);
        self.rewinding.remove(&partition);
    }

    /// Takes all that was not taken yet up to this message. `None`: not ours, or about to be read again.
    pub(super) fn take(&mut self, number: i32, offset: i64) -> Option<Span> {
        if self.rewinding.contains(&number) {
            return None;
        }
        let partition = self.partitions.get_mut(&number)?;
        if partition.next.is_none() {
            (partition.settled, partition.committed) = (offset, offset);
        }
        let from = partition.next.map_or(offset, |next| next.min(offset));
        partition.next = Some(offset + 1);
        Some(Span { partition: number, from, to: offset + 1, term: partition.term })
    }

    /// Takes what is lost, up to `to`.
    pub(super) fn pass(&mut self, number: i32, to: i64) -> Option<Span> {
        self.take(number, to.checked_sub(1)?)
    }

    /// What was taken is stored. Spans of another term are passed over.
    pub(super) fn acknowledge(&mut self, spans: &[Span]) {
        for span in spans {
            let Some(partition) = self.of_term(span) else { continue };
            partition.early.insert(span.from, span.to);
            while let Some((&from, &to)) = partition.early.first_key_value()
                && from <= partition.settled
            {
                partition.settled = partition.settled.max(to);
                partition.early.remove(&from);
            }
        }
    }

    /// What has to be committed: partitions, and the offsets after the last acknowledged ones.
    pub(super) fn due(&self) -> Vec<(i32, i64)> {
        let ahead = self.partitions.iter().filter(|(_, found)| found.settled > found.committed);
        ahead.map(|(number, found)| (*number, found.settled)).collect()
    }

    /// These offsets are committed.
    pub(super) fn committed(&mut self, offsets: &[(i32, i64)]) {
        for (number, offset) in offsets {
            if let Some(partition) = self.partitions.get_mut(number) {
                partition.committed = *offset;
            }
        }
    }

    /// The partitions of these spans will be read again from where they are acknowledged. What else was taken of them is
    /// not committed: it comes again, too.
    pub(super) fn rewind(&mut self, spans: &[Span]) {
        for span in spans {
            self.terms += 1;
            let term = self.terms;
            let Some(partition) = self.of_term(span) else { continue };
            partition.term = term;
            partition.next = Some(partition.settled);
            partition.early.clear();
            self.rewinding.insert(span.partition);
        }
    }

    /// The partitions to be read again, and from where.
    pub(super) fn rewinds(&self) -> Vec<(i32, i64)> {
        let settled = |number: &i32| Some((*number, self.partitions.get(number)?.settled));
        self.rewinding.iter().filter_map(settled).collect()
    }

    /// Reading has begun again.
    pub(super) fn rewound(&mut self, number: i32) {
        self.rewinding.remove(&number);
    }

    /// Whether what was taken as this span still counts.
    pub(super) fn holds(&self, span: &Span) -> bool {
        self.partitions.get(&span.partition).is_some_and(|found| found.term == span.term)
    }

    fn of_term(&mut self, span: &Span) -> Option<&mut Partition> {
        self.partitions.get_mut(&span.partition).filter(|found| found.term == span.term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(positions: &mut Positions, partition: i32, offsets: &[i64]) -> Span {
        let mut spans = offsets.iter().map(|offset| positions.take(partition, *offset).unwrap());
        let first = spans.next().unwrap();
        spans.fold(first, |all, span| all.joined(span).unwrap())
    }

    #[test]
    fn offsets_are_committed_up_to_the_first_that_is_not_acknowledged() {
        let mut positions = Positions::default();
        positions.assign(0, Some(5));
        positions.assign(1, None);
        let (first, second) =
            (taken(&mut positions, 0, &[5, 6]), taken(&mut positions, 0, &[7, 9]));
        let other = taken(&mut positions, 1, &[40]);
        assert_eq!(positions.due(), []);
        positions.acknowledge(&[second]);
        assert_eq!(positions.due(), [], "5 and 6 are not stored");
        positions.acknowledge(&[first, other]);
        assert_eq!(positions.due(), [(0, 10), (1, 41)]);
        positions.committed(&[(0, 10), (1, 41)]);
        assert_eq!(positions.due(), []);
    }

    #[test]
    fn holes_belong_to_the_message_that_follows_them() {
        let mut positions = Positions::default();
        positions.assign(0, Some(5));
        let span = positions.take(0, 8).unwrap();
        assert_eq!((span.from, span.to), (5, 9));
        positions.acknowledge(&[span]);
        assert_eq!(positions.due(), [(0, 9)]);
    }

    #[test]
    fn what_is_lost_is_committed_when_it_is_acknowledged() {
        let mut positions = Positions::default();
        positions.assign(0, Some(5));
        let gap = positions.pass(0, 20).unwrap();
        assert_eq!((gap.from, gap.to), (5, 20));
        positions.acknowledge(&[gap]);
        assert_eq!(positions.due(), [(0, 20)]);
    }

    #[test]
    fn a_revoked_partition_is_not_committed_even_when_it_comes_back() {
        let mut positions = Positions::default();
        positions.assign(0, Some(0));
        let span = taken(&mut positions, 0, &[0, 1]);
        positions.revoke(0);
        assert_eq!(positions.take(0, 2), None, "not ours");
        assert!(!positions.holds(&span));
        positions.assign(0, Some(0));
        positions.acknowledge(&[span]);
        assert_eq!(positions.due(), []);
    }

    #[test]
    fn a_rewind_begins_at_what_is_acknowledged_and_voids_the_rest() {
        let mut positions = Positions::default();
        positions.assign(0, Some(0));
        let spans = [0, 1, 2].map(|offset| positions.take(0, offset).unwrap());
        positions.acknowledge(&spans[..1]);
        positions.rewind(&spans[1..2]);
        assert_eq!(positions.rewinds(), [(0, 1)]);
        assert_eq!(positions.take(0, 3), None, "still from before the rewind");
        positions.acknowledge(&spans[2..]);
        positions.rewound(0);
        assert_eq!(positions.due(), [(0, 1)]);
        let again = taken(&mut positions, 0, &[1, 2]);
        positions.acknowledge(&[again]);
        assert_eq!(positions.due(), [(0, 3)]);
    }
}
