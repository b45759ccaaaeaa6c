//! The keys of the objects that are open, and how a repeated one is found.

use std::cmp::Ordering;

use crate::event::walk::code_points;

/// An array or object that is open.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) is_object: bool,
    /// Commas seen so far: the index of the element at hand.
    pub(super) index: u32,
    /// Where the keys of this object begin in the list of all open keys.
    pub(super) keys_from: usize,
    /// Where its latest key stands in that list.
    pub(super) key_at: usize,
}

impl Frame {
    pub(super) fn array() -> Self {
        Self { is_object: false, index: 0, keys_from: 0, key_at: 0 }
    }

    pub(super) fn object(keys_from: usize) -> Self {
        Self { is_object: true, index: 0, keys_from, key_at: keys_from }
    }
}

/// A key, as a place in the text and a fingerprint.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyMark {
    /// Equal for equal decoded keys; different for most different ones.
    print: u64,
    start: u32,
    length: u32,
    escaped: bool,
}

impl KeyMark {
    /// `inside` begins at `start` of a text of less than 4 GiB.
    pub(super) fn new(inside: &str, start: usize, escaped: bool) -> Self {
        let print = if escaped {
            let decoded: String = code_points(inside).filter_map(char::from_u32).collect();
            fingerprint(decoded.as_bytes())
        } else {
            fingerprint(inside.as_bytes())
        };
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { print, start: offset(start), length: offset(inside.len()), escaped }
    }

    /// The key as it is written.
    pub(super) fn inside<'t>(&self, text: &'t str) -> &'t str {
        let start = self.start as usize;
        text.get(start..start + self.length as usize).unwrap_or_default()
    }

    fn compare(&self, other: &Self, text: &str) -> Ordering {
        let (one, two) = (self.inside(text), other.inside(text));
        if self.escaped || other.escaped {
            code_points(one).cmp(code_points(two))
        } else {
            // UTF-8 sorts as the code points do.
            one.cmp(two)
        }
    }
}

/// Mixes the length with the first and last eight bytes. Keys that agree in those are compared
/// in full, so a poor mix costs time, never a wrong answer.
fn fingerprint(key: &[u8]) -> u64 {
    let (first, last) = match (key.first_chunk::<8>(), key.last_chunk::<8>()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => (key.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte)), 0),
    };
    (first ^ last.rotate_left(29)).wrapping_add((key.len() as u64) << 56)
}

/// Up to this many keys are compared pair by pair; more are sorted first.
const PAIRWISE_MAX: usize = 24;

/// Finds a key that an earlier one equals. May reorder `marks`.
pub(super) fn find_duplicate(text: &str, marks: &mut [KeyMark]) -> Option<KeyMark> {
    if marks.len() <= PAIRWISE_MAX {
        return find_duplicate_pairwise(text, marks);
    }
    // Sorting by fingerprint and then by key bounds the work even for keys made to collide.
    marks.sort_unstable_by(|a, b| a.print.cmp(&b.print).then_with(|| a.compare(b, text)));
    marks.windows(2).find_map(|pair| match pair {
        [a, b] if a.print == b.print && a.compare(b, text).is_eq() => Some(*b),
        _ => None,
    })
}

fn find_duplicate_pairwise(text: &str, marks: &[KeyMark]) -> Option<KeyMark> {
    marks.iter().enumerate().find_map(|(count, mark)| {
        let earlier = marks.get(..count).unwrap_or_default();
        let repeats =
            |other: &KeyMark| other.print == mark.print && other.compare(mark, text).is_eq();
        earlier.iter().any(repeats).then_some(*mark)
    })
}
