//! What every key means: the words of `reference/keys.rs`, joined with what the readers accept.
//!
//! The schema, `docs/configuration.md` and the file of `eventloader init` are written from [`sections`].

mod keys;
mod markdown;
mod schema;
mod starting_file;
#[cfg(test)]
pub(super) mod tests;

use std::collections::HashSet;
use std::sync::LazyLock;

pub(crate) use markdown::markdown;
pub(crate) use schema::schema;
pub(crate) use starting_file::starting_file;

use super::Config;
use super::recording::Record;
use super::shape::Shape;
use keys::{KEYS, SECTIONS};

/// The words for a key.
#[derive(Debug)]
pub(super) struct Key {
    /// The table it stands in: `loader`; `sources.http`, or `sources` for all types.
    place: &'static str,
    /// Its name; `*` for the keys of a table whose keys are free.
    name: &'static str,
    default: Default,
    /// What it means, as one or two sentences.
    words: &'static str,
    /// A value, as it would stand in the file.
    example: Option<&'static str>,
    /// Whether its value is kept out of messages.
    is_secret: bool,
}

/// What a key comes to where it is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Default {
    /// This value, as it would stand in the file.
    Is(&'static str),
    /// What the same key of another section comes to.
    Of(&'static str),
    /// Nothing: it is required, or its words say what follows.
    None,
}

/// A table of the file, with all keys that are read from it.
struct Section {
    /// `loader`, `sources.http`, `sources.http.headers`.
    place: String,
    words: &'static str,
    keys: Vec<Described>,
}

/// A key, with its words and what it takes.
struct Described {
    name: String,
    key: &'static Key,
    shape: Shape,
    required: bool,
}

/// What stands for words that are missing, until a test finds it.
const UNDESCRIBED: Key =
    Key { place: "", name: "", default: Default::None, words: "", example: None, is_secret: true };

/// All sections and the types of sources, in the order in which they are read.
fn sections() -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for Record { path, shape, required, .. } in Config::describe() {
        let Some((name, above)) = path.split_last() else { continue };
        let shape = shape.unwrap_or(Shape::Table);
        let is_top = above.is_empty();
        let place = if is_top { name.clone() } else { above.join(".") };
        let at = sections.iter().position(|section| section.place == place);
        let at = at.unwrap_or_else(|| {
            let words = SECTIONS.iter().find(|(section, _)| *section == place);
            let words = words.map_or("", |(_, words)| *words);
            sections.push(Section { place: place.clone(), words, keys: Vec::new() });
            sections.len() - 1
        });
        let is_new = !sections[at].keys.iter().any(|key| key.name == *name);
        if !is_top && is_new {
            let key = Key::find(&place, name).unwrap_or(&UNDESCRIBED);
            sections[at].keys.push(Described { name: name.clone(), key, shape, required });
        }
    }
    sections
}

impl Section {
    /// The kind of table it is, where its table can be of several: `http` of `sources.http`.
    fn kind<'s>(&'s self, sections: &[Self]) -> Option<&'s str> {
        let (above, name) = self.place.rsplit_once('.')?;
        let above = sections.iter().find(|section| section.place == above);
        let is_key = above.is_some_and(|above| above.keys.iter().any(|key| key.name == name));
        (!is_key).then_some(name)
    }
}

impl Key {
    /// The row for a key, that of its own table before that of all kinds of this table.
    pub(super) fn find(place: &str, name: &str) -> Option<&'static Self> {
        let row = |place: &str| KEYS.iter().find(|key| key.place == place && key.name == name);
        row(place).or_else(|| row(place.rsplit_once('.')?.0))
    }

    /// The row for a key of a table or, where its kind is not known, of one of its kinds.
    pub(super) fn find_below(place: &str, name: &str) -> Option<&'static Self> {
        Self::find(place, name).or_else(|| {
            let is_below = |key: &&Self| key.place.starts_with(&format!("{place}."));
            KEYS.iter().find(|key| key.name == name && is_below(key))
        })
    }

    /// What a key comes to where it is left out.
    pub(super) fn default(&self) -> Default {
        self.default
    }
}

/// Where a key belongs, for those who write it elsewhere.
pub(super) fn home(name: &str) -> Option<String> {
    let places = KEYS.iter().filter(|key| key.name == name).map(|key| key.place);
    let of_sources = |place: &&str| place.starts_with("sources");
    let mut homes: Vec<String> = places
        .clone()
        .filter(|place| !of_sources(place))
        .map(|place| format!("[{place}]"))
        .collect();
    let kinds: Vec<String> = places
        .clone()
        .filter_map(|place| place.strip_prefix("sources.").filter(|kind| !kind.contains('.')))
        .map(|kind| format!("`{kind}`"))
        .collect();
    if places.clone().any(|place| place == "sources") {
        homes.push("[sources.NAME]".to_owned());
    } else if !kinds.is_empty() {
        homes.push(format!("[sources.NAME] of type {}", kinds.join(" or ")));
    }
    let last = homes.pop()?;
    Some(if homes.is_empty() { last } else { format!("{} or {last}", homes.join(", ")) })
}

/// Whether a section exists.
pub(super) fn has_section(name: &str) -> bool {
    SECTIONS.iter().any(|(section, _)| *section == name)
}

/// Whether the values of a key may be shown, in every section and every type of source that has it.
pub(super) fn is_harmless(name: &str) -> bool {
    is_harmless_in("", name)
}

/// Whether the values of a key may be shown that stands in an inner table of a source, such as `headers`.
pub(super) fn is_harmless_in(table: &str, name: &str) -> bool {
    static HARMLESS: LazyLock<HashSet<(&str, &str)>> = LazyLock::new(|| {
        let row = |key: &'static Key| (key.place.split('.').nth(2).unwrap_or(""), key.name);
        let secret: HashSet<_> = KEYS.iter().filter(|key| key.is_secret).map(row).collect();
        KEYS.iter().map(row).filter(|row| !secret.contains(row)).collect()
    });
    HARMLESS.contains(&(table, name))
}
