//! Where the reading of a partition begins.

use std::sync::Arc;

use crate::source::queue::Gap;

/// What the broker says of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The offset that the group has committed, or the one behind what is stored: that of the next message it wants.
    pub(super) committed: Option<i64>,
    /// The first offset that is still there; `None`: the broker did not say.
    pub(super) low: Option<i64>,
    /// The offset after the last one; `None`: the broker did not say.
    pub(super) high: Option<i64>,
}

/// Where a partition begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// With the first message that is there: the group has committed nothing, and nothing is stored.
    First,
    /// Where the group stands.
    Committed(i64),
    /// With the first message that is there: what the group wants is gone.
    Lost { wanted: i64, low: i64 },
    /// With the first message that is there: the offsets begin anew, because the topic was made again, or because its
    /// brokers lost the end of the log.
    Anew { wanted: i64, low: i64, high: i64 },
}

impl Found {
    /// Brokers forget the offsets of a group that was away for long; what is stored is not forgotten.
    pub(super) fn or_behind(self, stored: Option<i64>) -> Self {
        Self { committed: self.committed.or(stored), ..self }
    }

    /// A compacted topic, or one with transactions, has holes that are no losses. So only what lies below the first
    /// offset that the broker still has counts as lost.
    pub(super) fn begin(self) -> Begin {
        let Some(wanted) = self.committed else { return Begin::First };
        match (self.low, self.high) {
            (Some(low), Some(high)) if high < wanted => Begin::Anew { wanted, low, high },
            (Some(low), _) if low > wanted => Begin::Lost { wanted, low },
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
        let found = |committed, low, high| Found { committed, low, high }.begin();
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
        let forgotten = |stored| {
            let found = Found { committed: None, low: Some(7), high: Some(9) };
            found.or_behind(stored).begin()
        };
        assert_eq!(forgotten(None), Begin::First);
        assert_eq!(forgotten(Some(8)), Begin::Committed(8));
        assert_eq!(forgotten(Some(3)), Begin::Lost { wanted: 3, low: 7 });
        let remembered = Found { committed: Some(7), low: Some(7), high: Some(9) };
        assert_eq!(remembered.or_behind(Some(8)).begin(), Begin::Committed(7));
        let gap = found(Some(3), Some(7), Some(9)).gap(&Arc::from("t/0")).unwrap();
        assert_eq!((gap.first_id, gap.last_id), (3, 6));
    }
}
