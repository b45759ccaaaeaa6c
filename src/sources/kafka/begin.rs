//! Where the reading of a partition begins.

use std::sync::Arc;

use super::ReadFrom;
use crate::source::queue::Gap;

/// What the broker says of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The offset that the group has committed: that of the next message it wants.
    pub(super) committed: Option<i64>,
    /// The offset behind what is stored, for a group that the brokers have forgotten.
    pub(super) behind_stored: Option<i64>,
    /// The first offset that is still there; `None`: the broker did not say.
    pub(super) low: Option<i64>,
    /// The offset after the last one; `None`: the broker did not say.
    pub(super) high: Option<i64>,
}

/// Where a partition begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// With the first message that is there: the group has committed nothing.
    First,
    /// Where the group stands, or behind what is stored.
    Committed(i64),
    /// With the first message that is there: what the group wants is gone.
    Lost { wanted: i64, low: i64 },
    /// With the first message that is there: the offsets begin anew, because the topic was made again, or because its
    /// brokers lost the end of the log.
    Anew { wanted: i64, low: i64, high: i64 },
}

impl Found {
    /// A compacted topic, or one with transactions, has holes that are no losses. So only what lies below the first
    /// offset that the broker still has counts as lost.
    ///
    /// Brokers forget the offsets of a group that was away for long, and those of a topic that is deleted; nothing tells
    /// whether the topic was made again since. To read all that is there again loses nothing in either case, and what is
    /// stored is recognised. Only who asked for nothing from before the group goes on behind what is stored.
    pub(super) fn begin(self, read_from: ReadFrom) -> Begin {
        let Some(wanted) = self.committed.or(self.behind_stored) else { return Begin::First };
        let is_forgotten = self.committed.is_none();
        match (self.low, self.high) {
            (Some(low), Some(high)) if high < wanted => Begin::Anew { wanted, low, high },
            (Some(low), _) if low > wanted => Begin::Lost { wanted, low },
            _ if is_forgotten && read_from == ReadFrom::Beginning => Begin::First,
            _ => Begin::Committed(wanted),
        }
    }
}

impl Begin {
    /// The offset to begin with; `None`: the first one.
    pub(super) fn offset(&self) -> Option<i64> {
        match self {
            Self::First => None,
            Self::Committed(offset) => Some(*offset),
            Self::Lost { low, .. } | Self::Anew { low, .. } => Some(*low),
        }
    }

    /// What is gone.
    pub(super) fn gap(&self, stream: &Arc<str>) -> Option<Gap> {
        let Self::Lost { wanted, low } = self else { return None };
        Some(Gap {
            stream: Some(Arc::clone(stream)),
            first_id: *wanted,
            last_id: low - 1,
            reason: format!(
                "the retention of the topic has removed the offsets below {low} before they were read"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_what_lies_below_the_first_offset_that_is_there() {
        let found = |committed, low, high| {
            Found { committed, low, high, behind_stored: None }.begin(ReadFrom::Beginning)
        };
        let cases = [
            ("no offset committed", found(None, Some(7), Some(9)), Begin::First),
            ("within the log", found(Some(8), Some(7), Some(9)), Begin::Committed(8)),
            ("at its begin", found(Some(7), Some(7), Some(9)), Begin::Committed(7)),
            ("at its end", found(Some(9), Some(7), Some(9)), Begin::Committed(9)),
            ("empty log", found(Some(9), Some(9), Some(9)), Begin::Committed(9)),
            ("below", found(Some(3), Some(7), Some(9)), Begin::Lost { wanted: 3, low: 7 }),
            (
                "beyond",
                found(Some(10), Some(7), Some(9)),
                Begin::Anew { wanted: 10, low: 7, high: 9 },
            ),
            ("not known", found(Some(3), None, None), Begin::Committed(3)),
        ];
        for (case, begin, wanted) in cases {
            assert_eq!(begin, wanted, "{case}");
        }
        let gap = found(Some(3), Some(7), Some(9)).gap(&Arc::from("t/0")).unwrap();
        assert_eq!((gap.first_id, gap.last_id), (3, 6));
    }

    #[test]
    fn a_group_that_was_forgotten_passes_nothing_that_may_be_new() {
        let log = Found { low: Some(7), high: Some(9), ..Found::default() };
        let lost = Begin::Lost { wanted: 3, low: 7 };
        let anew = Begin::Anew { wanted: 10, low: 7, high: 9 };
        let cases = [
            (None, Begin::First, Begin::First),
            (Some(8), Begin::First, Begin::Committed(8)),
            (Some(3), lost.clone(), lost),
            (Some(10), anew.clone(), anew),
        ];
        for (behind_stored, from_beginning, from_creation) in cases {
            let found = Found { behind_stored, ..log };
            assert_eq!(found.begin(ReadFrom::Beginning), from_beginning, "{behind_stored:?}");
            assert_eq!(found.begin(ReadFrom::GroupCreated), from_creation, "{behind_stored:?}");
            let remembered = Found { committed: Some(7), ..found };
            assert_eq!(remembered.begin(ReadFrom::Beginning), Begin::Committed(7));
        }
    }
}
