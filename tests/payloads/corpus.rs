//! The corpus: what a source may send in one event, and what has to become of it.

use super::numbers::numbers;
use super::structure::{keys, sizes, structure};
use super::text::text;
use super::times::times;

/// What has to become of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// In `events`, with the value that was sent.
    Stored,
    /// In `dead_letter`, verbatim; this stands in the reason.
    Aside(&'static str),
    /// As [`Fate::Aside`] where events come one by one. A page that holds it is no JSON and is kept as a whole.
    NoJson,
}

/// A row of the corpus.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// The value of the member `n`; or the whole event, where it holds `$ID`.
    raw: Vec<u8>,
    pub(crate) fate: Fate,
}

pub(super) fn row(name: &str, raw: impl Into<Vec<u8>>, fate: Fate) -> Row {
    Row { name: name.to_owned(), raw: raw.into(), fate }
}

pub(super) fn stored(name: &str, raw: impl Into<Vec<u8>>) -> Row {
    row(name, raw, Fate::Stored)
}

pub(super) fn aside(name: &str, raw: impl Into<Vec<u8>>, reason: &'static str) -> Row {
    row(name, raw, Fate::Aside(reason))
}

pub(super) fn no_json(name: &str, raw: impl Into<Vec<u8>>) -> Row {
    row(name, raw, Fate::NoJson)
}

/// The id of every event until it is given its own: so that an event's length does not depend on it.
pub(super) const ID_LENGTH: usize = 4;

impl Row {
    /// The event, under an id of [`ID_LENGTH`] digits.
    pub(crate) fn event(&self, id: i64) -> Vec<u8> {
        let id = id.to_string();
        assert_eq!(id.len(), ID_LENGTH);
        let place = self.raw.windows(3).position(|bytes| bytes == b"$ID");
        match place {
            Some(place) => [&self.raw[..place], id.as_bytes(), &self.raw[place + 3..]].concat(),
            None => [b"{\"id\":", id.as_bytes(), b",\"n\":", &self.raw, b"}"].concat(),
        }
    }
}

/// All of it. Names are unique.
pub(crate) fn corpus() -> Vec<Row> {
    let groups = [
        ("number", numbers()),
        ("text", text()),
        ("key", keys()),
        ("size", sizes()),
        ("structure", structure()),
        ("time", times()),
    ];
    let rows: Vec<Row> = groups
        .into_iter()
        .flat_map(|(group, rows)| {
            rows.into_iter().map(move |row| Row { name: format!("{group}: {}", row.name), ..row })
        })
        .collect();
    let mut names: Vec<_> = rows.iter().map(|row| &row.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), rows.len(), "two rows have one name");
    rows
}
