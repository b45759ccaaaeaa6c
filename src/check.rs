//! What `eventloader check` looks at: the configuration, the machine, the database and every source, without changing or
//! consuming anything.
//!
//! Every finding is a row of the table in `message.rs` and what was met in this case; docs/check.md is that table. Start
//! reading at [`run`].

mod database;
mod guarantee;
mod machine;
pub mod message;
mod probe;

use serde::Serialize;

use crate::app::AppError;
use crate::config::{self, Config, ConfigError, ProcessConfig};
pub use message::{Level, Message};

/// Something that was looked at, and what there is to say about it.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What kind of finding.
    pub message: &'static Message,
    /// What it is about: `configuration`, `database`, `source orders`.
    pub subject: String,
    /// What was met; one line.
    pub what: String,
    /// What to do in this case; else the message's own advice stands.
    pub fix: Option<String>,
}

impl Finding {
    fn new(message: &'static Message, subject: impl Into<String>, what: impl Into<String>) -> Self {
        // Reasons come from other programs, too: one line each, whatever they wrote.
        let what = what.into().split_whitespace().collect::<Vec<_>>().join(" ");
        Self { message, subject: subject.into(), what, fix: None }
    }

    fn with_fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    fn with_hint(self, hint: Option<&'static str>) -> Self {
        match hint {
            Some(hint) => self.with_fix(hint),
            None => self,
        }
    }

    /// What to do about it; none where nothing has to be done.
    pub fn fix(&self) -> Option<&str> {
        self.fix.as_deref().or(self.message.fix)
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { message, subject, what, .. } = self;
        write!(f, "{:<8} {subject}: {what}", message.level.as_str())?;
        match (message.level, self.fix()) {
            (Level::Warning | Level::Error, Some(fix)) => write!(f, "; {fix} [{}]", message.code),
            (Level::Warning | Level::Error, None) => write!(f, " [{}]", message.code),
            (Level::Ok | Level::Promise, _) => Ok(()),
        }
    }
}

impl Serialize for Finding {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            level: &'a str,
            code: &'a str,
            subject: &'a str,
            what: &'a str,
            fix: Option<&'a str>,
        }
        Shown {
            level: self.message.level.as_str(),
            code: self.message.code,
            subject: &self.subject,
            what: &self.what,
            fix: self.fix(),
        }
        .serialize(serializer)
    }
}

/// Everything that was found, and what a program should make of it.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order they were looked at.
    pub findings: Vec<Finding>,
    /// The database could not be reached.
    pub is_unavailable: bool,
}

impl Report {
    /// How many findings keep `run` from doing its work.
    pub fn error_count(&self) -> usize {
        self.count(Level::Error)
    }

    /// How many findings deserve a look.
    pub fn warning_count(&self) -> usize {
        self.count(Level::Warning)
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.message.level == level).count()
    }
}

/// The problems of a configuration that cannot be used.
pub fn wrong(error: &ConfigError) -> Vec<Finding> {
    let finding = |problem: &config::Finding| {
        let key = problem.key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default();
        let what = format!("{}: {key}{}", problem.place, problem.problem);
        let found = Finding::new(&message::CONFIGURATION_WRONG, "configuration", what);
        match (&problem.help, &problem.expected) {
            (Some(help), _) => found.with_fix(help),
            (None, Some(expected)) => found.with_fix(format!("expected {expected}")),
            (None, None) => found,
        }
    };
    error.findings().map(finding).collect()
}

/// Looks at what needs neither network nor database: for `--offline`, and first of all otherwise.
pub fn offline(config: &Config) -> Vec<Finding> {
    let mut findings = of_the_whole(config);
    for source in &config.sources {
        findings.extend(machine::source(source));
        findings.push(guarantee::finding(source));
    }
    findings
}

fn of_the_whole(config: &Config) -> Vec<Finding> {
    let mut findings = vec![machine::configuration(config)];
    findings.extend(machine::limits(config));
    findings
}

/// Looks at everything. The database is asked once, not waited for; sources are asked for one event each, in their turn:
/// with the lease and the spacing, so that instances that run are not disturbed.
///
/// # Errors
///
/// The embedded server does not stop.
pub async fn run(
    config: &Config,
    process: &ProcessConfig,
    actor: &crate::store::Actor,
) -> Result<Report, AppError> {
    let mut report = Report { findings: of_the_whole(config), is_unavailable: false };
    let opened = database::open(config, process, &mut report).await;
    let mut probed = probe::all(config, process, opened.as_ref(), actor).await;
    for source in &config.sources {
        report.findings.extend(machine::source(source));
        report.findings.extend(probed.remove(source.name.as_str()).unwrap_or_default());
        report.findings.push(guarantee::finding(source));
    }
    if let Some(opened) = opened {
        opened.database.close().await?;
    }
    Ok(report)
}

fn subject_of(source_name: &str) -> String {
    format!("source {source_name}")
}
