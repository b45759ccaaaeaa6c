//! Values that come before the file: flags, `EVENTLOADER_<SECTION>__<KEY>`, `DATABASE_URL`.

use std::cell::RefCell;
use std::collections::BTreeSet;

use secrecy::{ExposeSecret, SecretString};

use super::environment::{Environment, Variable};
use super::error::{Finding, Place};
use super::suggest;

const PREFIX: &str = "EVENTLOADER_";
/// Between the parts of a path in a variable's name.
const SEPARATOR: &str = "__";
/// Variables of other programs' convention that set a key, weaker than our own form.
const ALIASES: &[(&str, &str)] = &[("database.url", "DATABASE_URL")];

/// All values that may come before the file, and which of them were asked for.
pub(super) struct Overrides<'e> {
    environment: &'e Environment,
    database_url_flag: Option<&'e SecretString>,
    entries: Vec<Entry>,
    /// Every name of a key that exists, for "did you mean".
    known: RefCell<BTreeSet<String>>,
    findings: RefCell<Vec<Finding>>,
}

/// A variable that begins with `EVENTLOADER_`.
struct Entry {
    variable: String,
    canonical: String,
    used_for: RefCell<Option<String>>,
}

/// A value given outside the file.
pub(super) struct Given {
    pub(super) place: Place,
    pub(super) text: String,
}

impl<'e> Overrides<'e> {
    /// Collects the variables of an environment.
    pub(super) fn new(
        environment: &'e Environment,
        database_url_flag: Option<&'e SecretString>,
    ) -> Self {
        let entries = environment
            .names()
            .map(|name| (name.to_owned(), name.to_ascii_uppercase()))
            .filter(|(_, canonical)| canonical.starts_with(PREFIX))
            .map(|(variable, canonical)| Entry {
                variable,
                canonical,
                used_for: RefCell::default(),
            })
            .collect();
        Self {
            environment,
            database_url_flag,
            entries,
            known: RefCell::default(),
            findings: RefCell::default(),
        }
    }

    /// The strongest value given for a key, if any. An empty variable counts as not set.
    pub(super) fn find(&self, path: &[String], dotted: &str) -> Option<Given> {
        let of_entry = self.find_variable(path, dotted);
        let flag = self.database_url_flag.filter(|_| dotted == "database.url");
        if let Some(url) = flag {
            return self.value_of_flag(url.expose_secret(), dotted);
        }
        of_entry.or_else(|| {
            let (_, variable) = ALIASES.iter().find(|(key, _)| *key == dotted)?;
            self.value_of(variable)
        })
    }

    /// The flag's value. Unlike a variable it is not there by accident: empty is a mistake.
    fn value_of_flag(&self, text: &str, dotted: &str) -> Option<Given> {
        let place = Place::Flag("--database-url");
        if text.trim().is_empty() {
            let mut finding =
                Finding::new(place, "empty").with_help("give a URL, or leave the flag out");
            finding.key = Some(dotted.to_owned());
            self.findings.borrow_mut().push(finding);
            return None;
        }
        Some(Given { place, text: text.to_owned() })
    }

    fn find_variable(&self, path: &[String], dotted: &str) -> Option<Given> {
        if self.entries.is_empty() {
            return None;
        }
        let canonical = variable_name(path);
        self.known.borrow_mut().insert(canonical.clone());
        let entry = self.entries.iter().find(|entry| entry.canonical == canonical)?;
        let earlier = entry.used_for.replace(Some(dotted.to_owned()));
        if let Some(earlier) = earlier.filter(|earlier| earlier != dotted) {
            let place = Place::Variable(entry.variable.clone());
            self.findings.borrow_mut().push(
                Finding::new(place, format!("stands for both {earlier} and {dotted}"))
                    .with_help("rename one of them, or set the values in the file"),
            );
        }
        self.value_of(&entry.variable)
    }

    fn value_of(&self, variable: &str) -> Option<Given> {
        let place = Place::Variable(variable.to_owned());
        match self.environment.text(variable) {
            Variable::Missing => None,
            Variable::Text(text) if text.is_empty() => None,
            Variable::Text(text) => Some(Given { place, text: text.into_owned() }),
            Variable::Unreadable { path, why } => {
                let found = format!("its file {} cannot be read: {why}", path.display());
                let help = format!("correct {variable}_FILE, or the rights of the file");
                self.findings.borrow_mut().push(Finding::new(place, found).with_help(help));
                None
            }
            Variable::NotUnicode => {
                self.findings.borrow_mut().push(Finding::new(place, "is not valid UTF-8"));
                None
            }
        }
    }

    /// The last parts of variables below a table whose keys are free, such as headers.
    pub(super) fn free_keys(&self, path: &[String]) -> Vec<String> {
        let prefix = variable_name(path) + SEPARATOR;
        self.entries
            .iter()
            .filter(|entry| entry.used_for.borrow().is_none())
            .filter_map(|entry| entry.canonical.strip_prefix(&prefix).map(str::to_owned))
            .filter(|key| !key.is_empty())
            .collect()
    }

    /// Takes everything below a path as used: what is there is already known to be wrong.
    pub(super) fn ignore_below(&self, path: &[String]) {
        let prefix = variable_name(path) + SEPARATOR;
        for entry in self.entries.iter().filter(|entry| entry.canonical.starts_with(&prefix)) {
            entry.used_for.borrow_mut().get_or_insert_with(String::new);
        }
    }

    /// What is wrong with the variables, after the whole configuration was read.
    pub(super) fn into_findings(self) -> Vec<Finding> {
        let known = self.known.into_inner();
        let unused = self.entries.iter().filter(|entry| entry.used_for.borrow().is_none());
        let mut findings = self.findings.into_inner();
        findings.extend(unused.filter_map(|entry| unused_finding(entry, &known)));
        findings
    }
}

fn unused_finding(entry: &Entry, known: &BTreeSet<String>) -> Option<Finding> {
    let place = Place::Variable(entry.variable.clone());
    let finding = Finding::new(place, "matches no setting");
    let single = |name: &str| name.replace(SEPARATOR, "_");
    if !entry.canonical[PREFIX.len()..].contains(SEPARATOR) {
        // Others set such names too (Kubernetes: EVENTLOADER_PORT), so only a sure miss counts.
        let meant = known.iter().find(|name| single(name) == entry.canonical)?;
        return Some(finding.with_help(format!("did you mean {meant}, with two underscores?")));
    }
    let names = known.iter().filter_map(|name| name.strip_prefix(PREFIX));
    if let Some(meant) = suggest::nearest(&entry.canonical[PREFIX.len()..], names) {
        return Some(finding.with_help(format!("did you mean {PREFIX}{meant}?")));
    }
    let help = if entry.canonical.starts_with("EVENTLOADER_SOURCES__") {
        "it can set keys of a source that is in the file, but not add a source"
    } else {
        "the form is EVENTLOADER_<SECTION>__<KEY>; unset it if it is not meant for eventloader"
    };
    Some(finding.with_help(help))
}

/// The variable that sets a key: `sources.user-events.timeout` is
/// `EVENTLOADER_SOURCES__USER_EVENTS__TIMEOUT`.
pub(super) fn variable_name(path: &[String]) -> String {
    let parts: Vec<String> = path.iter().map(|part| variable_part(part)).collect();
    format!("{PREFIX}{}", parts.join(SEPARATOR))
}

/// A key as it stands in a variable's name.
fn variable_part(key: &str) -> String {
    key.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}
