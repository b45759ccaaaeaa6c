//! Walking the parsed file by hand, so that every value keeps its place.
//!
//! A [`TableReader`] hands out the values of one table, strongest first (flag, environment, file),
//! remembers which keys exist, and reports what is left over. Problems are collected, never
//! returned: reading goes on with the default, and the caller gets all of them at the end.

use std::cell::RefCell;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::Document;
use super::environment::Environment;
use super::error::{Finding, Place, Problem};
use super::overrides::Overrides;
use super::setting::{self, Raw, Setting};
use super::{masking, suggest};

/// Keys that people write in the wrong table, and where they belong.
const HOMES: &[(&str, &str)] = &[
    ("concurrency", "[loader] (it counts requests of the whole instance)"),
    ("max_connections", "[database]"),
    ("max_attempts", "[retry_worker]"),
    ("listen", "[admin]"),
    ("batch_size", "[loader], [retry_worker] or [sources.NAME]"),
    ("min_interval", "[loader] or [sources.NAME]"),
    ("lease_ttl", "[loader] or [sources.NAME]"),
    ("max_idle", "[loader] or [sources.NAME]"),
    ("on_failure", "[sources.NAME]"),
    ("start_after", "[sources.NAME]"),
    ("timeout", "[sources.NAME]"),
    ("tip_lag", "[sources.NAME] of type \"sql\""),
    ("max_event_bytes", "[sources.NAME]"),
    ("max_page_bytes", "[sources.NAME]"),
];

/// Sections of the design that this version does not read yet.
const LATER_SECTIONS: &[&str] =
    &["publishers", "outbox", "subscriptions", "event_store", "projections"];

/// All that one reading of a configuration needs and collects.
pub(super) struct Reading<'a> {
    pub(super) document: Document<'a>,
    pub(super) environment: &'a Environment,
    pub(super) overrides: Overrides<'a>,
    pub(super) findings: RefCell<Vec<Finding>>,
}

impl Reading<'_> {
    fn report(&self, origin: &Origin, key: &str, problem: Problem) {
        let (place, snippet) = match origin {
            Origin::File(span) => {
                let span = self.narrow(span, problem.pointing_at.as_deref());
                (self.document.place(span.start), Some(self.document.snippet(&span)))
            }
            Origin::Given(place) => (place.clone(), None),
        };
        let Problem { found, expected, help, .. } = problem;
        let key = Some(key.to_owned());
        let finding = Finding { place, key, problem: found, expected, help, snippet };
        self.findings.borrow_mut().push(finding);
    }

    /// The part of a value's raw text to point at.
    fn narrow(&self, span: &Range<usize>, part: Option<&str>) -> Range<usize> {
        part.and_then(|part| {
            let at = span.start + self.document.text.get(span.clone())?.find(part)?;
            Some(at..at + part.len())
        })
        .unwrap_or_else(|| span.clone())
    }
}

/// Where a value came from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// A range of bytes of the file.
    File(Range<usize>),
    /// Outside the file.
    Given(Place),
}

/// A converted value and where it came from, for checks that concern two values.
pub(super) struct Read<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

/// Reads one table.
pub(super) struct TableReader<'a> {
    reading: &'a Reading<'a>,
    path: Vec<String>,
    span: Range<usize>,
    table: Option<&'a DeTable<'a>>,
    taken: Vec<&'static str>,
}

impl<'a> TableReader<'a> {
    /// Reads the whole document.
    pub(super) fn root(reading: &'a Reading<'a>, table: &'a DeTable<'a>) -> Self {
        Self { reading, path: Vec::new(), span: 0..0, table: Some(table), taken: Vec::new() }
    }

    pub(super) fn document(&self) -> &'a Document<'a> {
        &self.reading.document
    }

    /// Reads an inner table; an empty one where it is absent or no table.
    pub(super) fn table(&mut self, key: &'static str) -> Self {
        self.taken.push(key);
        match self.entry(key) {
            Some((span, value)) => self.inner(key, span, value),
            None => self.child(key, self.span.clone(), None),
        }
    }

    /// Reads one of the tables that [`Self::entries`] named.
    pub(super) fn inner(
        &self,
        key: &str,
        key_span: Range<usize>,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Self {
        if let DeValue::Table(table) = value.get_ref() {
            return self.child(key, key_span, Some(table));
        }
        let child = self.child(key, key_span, None);
        let dotted = child.dotted();
        let name = dotted.replacen("sources", "sources.NAME", usize::from(dotted == "sources"));
        let problem = setting::wrong_type(value.get_ref(), false)
            .expected("a table")
            .help(format!("write [{name}] on a line of its own"));
        child.reading.report(&Origin::File(value.span()), &dotted, problem);
        child
    }

    fn child(&self, key: &str, span: Range<usize>, table: Option<&'a DeTable<'a>>) -> Self {
        let path = self.path.iter().cloned().chain([key.to_owned()]).collect();
        Self { reading: self.reading, path, span, table, taken: Vec::new() }
    }

    /// Whether the file has this table. What only the environment sets does not count.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// The keys and values of the table, in the order of the file.
    pub(super) fn entries(&self) -> Vec<(&'a str, Range<usize>, &'a Spanned<DeValue<'a>>)> {
        let mut entries: Vec<_> = self
            .table
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.get_ref().as_ref(), key.span(), value))
            .collect();
        entries.sort_by_key(|(_, span, _)| span.start);
        entries
    }

    fn entry(&self, key: &str) -> Option<(Range<usize>, &'a Spanned<DeValue<'a>>)> {
        let (name, value) = self.table?.get_key_value(key)?;
        Some((name.span(), value))
    }

    /// Reads a value; `None` where it is absent or (then reported) wrong.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        convert: impl FnOnce(&Setting<'_>) -> Result<T, Problem>,
    ) -> Option<Read<T>> {
        self.taken.push(key);
        let value = self.entry(key).map(|(_, value)| value);
        self.convert(key, value, convert)
    }

    /// Reads a value, or takes the default.
    pub(super) fn read_or<T>(
        &mut self,
        key: &'static str,
        default: T,
        convert: impl FnOnce(&Setting<'_>) -> Result<T, Problem>,
    ) -> T {
        self.read(key, convert).map_or(default, |read| read.value)
    }

    /// Reads a value that must be there.
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        help: &str,
        convert: impl FnOnce(&Setting<'_>) -> Result<T, Problem>,
    ) -> Option<Read<T>> {
        let findings_before = self.reading.findings.borrow().len();
        let read = self.read(key, convert);
        if read.is_none() && self.reading.findings.borrow().len() == findings_before {
            self.report(key, Problem::new("missing").help(help));
        }
        read
    }

    /// Converts the strongest value of a key of any name, the file's being the weakest.
    pub(super) fn convert<T>(
        &self,
        key: &str,
        in_file: Option<&'a Spanned<DeValue<'a>>>,
        convert: impl FnOnce(&Setting<'_>) -> Result<T, Problem>,
    ) -> Option<Read<T>> {
        let path: Vec<String> = self.path.iter().cloned().chain([key.to_owned()]).collect();
        let dotted = dotted(&path);
        let given = self.reading.overrides.find(&path, &dotted);
        let (origin, raw) = given
            .map(|given| (Origin::Given(given.place), Raw::Given(given.text)))
            .or_else(|| in_file.map(|v| (Origin::File(v.span()), Raw::File(v.get_ref()))))?;
        let harmless = masking::is_harmless(&path);
        let setting = Setting { environment: self.reading.environment, harmless, raw };
        match convert(&setting) {
            Ok(value) => Some(Read { value, origin }),
            Err(problem) => {
                self.reading.report(&origin, &dotted, problem);
                None
            }
        }
    }

    /// Keys of this table that only the environment gives, as they stand in the variables.
    pub(super) fn keys_from_environment(&self) -> Vec<String> {
        self.reading.overrides.free_keys(&self.path)
    }

    /// Reports a problem of a key at the head of the table.
    pub(super) fn report(&self, key: &str, problem: Problem) {
        self.report_at(&Origin::File(self.span.clone()), key, problem);
    }

    /// Reports a problem of a key where its value stands.
    pub(super) fn report_at(&self, origin: &Origin, key: &str, problem: Problem) {
        let path: Vec<String> = self.path.iter().cloned().chain([key.to_owned()]).collect();
        self.reading.report(origin, &dotted(&path), problem);
    }

    /// Reports a problem of a key at the key itself.
    pub(super) fn report_key(&self, key: &str, span: Range<usize>, problem: Problem) {
        self.report_at(&Origin::File(span), key, problem);
    }

    /// Reports a problem of the table itself.
    pub(super) fn report_table(&self, problem: Problem) {
        self.reading.report(&Origin::File(self.span.clone()), &self.dotted(), problem);
    }

    /// Gives the rest of the table up: without its type nobody knows which keys are right.
    pub(super) fn abandon(self) {
        self.reading.overrides.ignore_below(&self.path);
    }

    /// Reports the keys nobody asked for.
    pub(super) fn finish(self) {
        for (key, span, value) in self.entries() {
            if !self.taken.contains(&key) {
                let problem = self.unknown(key, matches!(value.get_ref(), DeValue::Table(_)));
                self.report_at(&Origin::File(span), key, problem);
            }
        }
    }

    fn unknown(&self, key: &str, is_table: bool) -> Problem {
        let top = self.path.is_empty();
        let (kind, all) = match (top, is_table) {
            (true, true) => ("section", "the sections are"),
            _ => ("key", "the keys here are"),
        };
        if top && LATER_SECTIONS.contains(&key) {
            return Problem::new("a section that this version does not support yet")
                .help("take it out of the file");
        }
        let problem = Problem::new(format!("unknown {kind}"));
        let home = HOMES.iter().find(|(name, _)| *name == key);
        if let Some(meant) = suggest::nearest(key, self.taken.iter().copied()) {
            return problem.help(format!("did you mean `{meant}`?"));
        }
        match home {
            Some((_, home)) => problem.help(format!("it belongs in {home}")),
            None if top && !is_table => problem.help(format!(
                "keys stand in a section; the sections are {}",
                suggest::list(self.taken.iter().copied())
            )),
            None => problem.help(format!("{all} {}", suggest::list(self.taken.iter().copied()))),
        }
    }

    fn dotted(&self) -> String {
        dotted(&self.path)
    }
}

/// A path as TOML writes it: `sources."my shop".timeout`.
fn dotted(path: &[String]) -> String {
    let bare = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
    };
    let parts: Vec<String> = path
        .iter()
        .map(|part| if bare(part) { part.clone() } else { format!("{part:?}") })
        .collect();
    parts.join(".")
}
