//! What is wrong with a configuration: findings, and the error that carries all of them.

use std::fmt;
use std::path::PathBuf;

use super::snippet::Snippet;

/// More than this many are counted but not printed.
const MAX_SHOWN: usize = 50;

/// A configuration that cannot be used. Holds every problem that one pass found, at least one.
///
/// `Display` prints the first 50 with source snippets; values of secret keys are never in it.
/// The process that ends with it exits with code 78.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", render(.first, .rest))]
pub struct ConfigError {
    first: Box<Finding>,
    rest: Vec<Finding>,
}

impl ConfigError {
    /// Gathers findings into an error; `None` where there are none. Sorted by place in the file.
    pub(super) fn from_findings(mut findings: Vec<Finding>) -> Option<Self> {
        findings.sort_by_key(|finding| finding.place.sort_key());
        let mut findings = findings.into_iter();
        let first = Box::new(findings.next()?);
        Some(Self { first, rest: findings.collect() })
    }

    /// Every problem, in the order of the file, those of the environment last.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        std::iter::once(self.first.as_ref()).chain(&self.rest)
    }
}

impl From<Finding> for ConfigError {
    fn from(finding: Finding) -> Self {
        Self { first: Box::new(finding), rest: Vec::new() }
    }
}

fn render(first: &Finding, rest: &[Finding]) -> String {
    let mut parts: Vec<String> =
        std::iter::once(first).chain(rest).take(MAX_SHOWN).map(Finding::to_string).collect();
    let count = rest.len() + 1;
    if count > MAX_SHOWN {
        parts.push(format!("{count} problems in the configuration, {MAX_SHOWN} shown"));
    } else if count > 1 {
        parts.push(format!("{count} problems in the configuration"));
    }
    parts.join("\n\n")
}

/// Where a finding was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file as a whole: missing, unreadable, a directory.
    File(PathBuf),
    /// A position in a file. Line and column count from 1; the column counts characters.
    Position {
        /// The file as it was named.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl Place {
    fn sort_key(&self) -> (u8, usize, usize) {
        match self {
            Self::File(_) => (0, 0, 0),
            Self::Position { line, column, .. } => (1, *line, *column),
            Self::Variable(_) => (2, 0, 0),
            Self::Flag(_) => (3, 0, 0),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Position { path, line, column } => {
                write!(f, "{}:{line}:{column}", path.display())
            }
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "{name}"),
        }
    }
}

/// One problem: where, which key, what was found, what is expected, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where it was found.
    pub place: Place,
    /// The dotted key, such as `sources.orders.timeout`; none for a file or its syntax.
    pub key: Option<String>,
    /// What was found, as a fragment. Never holds the value of a secret key.
    pub problem: String,
    /// What would be right.
    pub expected: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
    pub(super) snippet: Option<Snippet>,
}

impl Finding {
    pub(super) fn new(place: Place, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self { place, key: None, problem, expected: None, help: None, snippet: None }
    }

    pub(super) fn with_expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    pub(super) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        write!(f, "{}", self.problem)?;
        if let Some(snippet) = &self.snippet {
            write!(f, "\n{snippet}")?;
        }
        if let Some(expected) = &self.expected {
            write!(f, "\n  expected: {expected}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// What is wrong with one value; the reader adds where and which key to make it a [`Finding`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) found: String,
    pub(super) expected: Option<String>,
    pub(super) help: Option<String>,
    /// Part of the value's raw text to point at, instead of the whole value.
    pub(super) pointing_at: Option<String>,
}

impl Problem {
    pub(super) fn new(found: impl Into<String>) -> Self {
        Self { found: found.into(), expected: None, help: None, pointing_at: None }
    }

    pub(super) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn pointing_at(mut self, part: impl Into<String>) -> Self {
        self.pointing_at = Some(part.into());
        self
    }
}
