//! `type = "command"`.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use toml::de::DeValue;

use super::file::path;
use super::item::{read_mapping, read_max_page_bytes};
use crate::config::error::Problem;
use crate::config::interpolate;
use crate::config::reader::TableReader;
use crate::config::setting::{Raw, Setting};
use crate::config::shape::Shape;
use crate::config::suggest;
use crate::mapping::Mapping;
use crate::sources::command::{AFTER_ID, AFTER_ID_VARIABLE, LIMIT, LIMIT_VARIABLE, Mode, STATE};

const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(1);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Variables of this process that a program needs to run at all. The others may hold secrets.
const INHERITED: &[&str] = &["PATH", "HOME", "LANG", "TZ", "TMPDIR"];
const EXAMPLE: &str = "[\"python3\", \"fetch.py\", \"{after_id}\", \"{limit}\"]";

/// Any program that prints newline-delimited JSON, or a Singer tap.
///
/// `Debug` shows neither the arguments nor the values of variables.
#[derive(Clone)]
pub struct CommandConfig {
    /// `mode`: `lines` (the default), where the program prints events with ids, or `singer`, where it is a Singer tap.
    pub mode: Mode,
    /// `command`: the program and its arguments, run without a shell. Required. `{after_id}` and `{limit}` are filled in
    /// (also given as `EVENTLOADER_AFTER_ID` and `EVENTLOADER_LIMIT`); in singer mode `{state}`, the path of a file.
    pub command: Vec<String>,
    /// What `${…}` filled into `command` and may be secret: all but short values of variables with a harmless name.
    pub secrets: Vec<SecretString>,
    /// `directory`: where it runs. A relative one begins at the configuration file's directory, which is the default.
    pub directory: PathBuf,
    /// `PATH`, `HOME`, `LANG`, `TZ` and `TMPDIR` of this process; the program gets no other of its variables.
    pub inherited: Vec<(String, OsString)>,
    /// `environment`: a table of further variables for the program. Default none.
    pub environment: Vec<(String, SecretString)>,
    /// Where the parts of an event are, in a line or a record: `id` (default `/id`; not in singer mode), `event_type`
    /// (default none, the type is the source's name; in singer mode the stream's), `occurred_at`, `message_id` (default
    /// none), `payload` (default `""`, the whole); and `max_event_bytes`, above which it becomes a dead letter (default
    /// 1MiB, 1KiB to 64MiB).
    pub mapping: Mapping,
    /// `timeout`: the longest one request may take. Default 30s, 1ms to 1h.
    pub timeout: Duration,
    /// `max_page_bytes`: the most output for one page. Bytes, default 64MiB, `max_event_bytes` to 256MiB.
    pub max_page_bytes: usize,
}

impl CommandConfig {
    pub(super) fn read(table: &mut TableReader<'_>) -> Option<Self> {
        let mode = table.read_or("mode", Mode::default(), |s| {
            s.one_of(&[("lines", Mode::Lines), ("singer", Mode::Singer)])
        });
        let help = format!("add command = {EXAMPLE}");
        let command = table.require("command", &help, |s| Ok((command(s, mode)?, secrets(s))));
        let base = table.document().path.parent().unwrap_or(Path::new(""));
        // An empty path is no directory to run in.
        let base = if base.as_os_str().is_empty() { Path::new(".") } else { base };
        let directory =
            table.read_or("directory", base.to_owned(), |s| path(s, base, "a directory"));
        let inherited = INHERITED
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), table.environment().get_os(name)?.into())))
            .collect();
        let environment = read_environment(&table.table("environment"));
        let timeout = table.read_or("timeout", DEFAULT_TIMEOUT, |s| s.duration(TIMEOUTS));
        if mode == Mode::Singer {
            refuse_id(table);
        }
        let mapping = read_mapping(table);
        let max_page_bytes = read_max_page_bytes(table, mapping.max_event_bytes);
        let (command, secrets) = command?.value;
        Some(Self {
            mode,
            command,
            secrets,
            directory,
            inherited,
            environment,
            mapping,
            timeout,
            max_page_bytes,
        })
    }
}

impl fmt::Debug for CommandConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables: Vec<&str> = self.environment.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("CommandConfig")
            .field("mode", &self.mode)
            .field("program", &self.command.first())
            .field("directory", &self.directory)
            .field("environment", &variables)
            .field("mapping", &self.mapping)
            .field("timeout", &self.timeout)
            .field("max_page_bytes", &self.max_page_bytes)
            .finish_non_exhaustive()
    }
}

fn refuse_id(table: &TableReader<'_>) {
    let in_file = table.entries().into_iter().find(|(key, ..)| *key == "id");
    if let Some(id) = table.convert("id", in_file.map(|(.., value)| value), |_| Ok(())) {
        let problem = Problem::new("set in singer mode, where records have no id")
            .help("take it out: records are numbered in the order they come");
        table.report_at(&id.origin, "id", problem);
    }
}

fn command(setting: &Setting<'_>, mode: Mode) -> Result<Vec<String>, Problem> {
    let arguments = read_arguments(setting)?;
    match arguments.first().map(String::as_str) {
        None => {
            return Err(Problem::new("an empty array")
                .expected("a program and its arguments")
                .help(format!("write {EXAMPLE}")));
        }
        Some("") => {
            return Err(Problem::new("a program without a name")
                .expected("a program and its arguments")
                .help(format!("write {EXAMPLE}")));
        }
        Some(_) => {}
    }
    if arguments.iter().any(|argument| argument.contains('\0')) {
        return Err(Problem::new(
            "an argument with a NUL character, which no program can be given",
        ));
    }
    for argument in &arguments {
        for place in places(argument) {
            check_place(place, mode)?;
        }
    }
    if mode == Mode::Singer && !arguments.iter().skip(1).any(|argument| argument.contains(STATE)) {
        return Err(Problem::new(format!(
            "no argument with {STATE}, so the tap would begin anew every time"
        ))
        .help(format!(
            "add \"--state\", \"{STATE}\": both are left out as long as there is no state"
        )));
    }
    Ok(arguments)
}

fn read_arguments(setting: &Setting<'_>) -> Result<Vec<String>, Problem> {
    let expected = "an array of strings: the program and its arguments";
    setting.note(|| Shape::List);
    match &setting.raw {
        Raw::File(DeValue::Array(items)) => items
            .iter()
            .map(|item| {
                let (environment, harmless) = (setting.environment, setting.harmless);
                let raw = Raw::File(item.get_ref());
                let item = Setting { environment, harmless, raw, shape: OnceCell::new() };
                item.text_expected(expected).map(|text| text.value)
            })
            .collect(),
        Raw::Given(text) => serde_json::from_str(text).map_err(|_| {
            Problem::new("not an array of strings")
                .expected("an array of strings as JSON")
                .help(format!("write {EXAMPLE}"))
        }),
        Raw::File(DeValue::String(_)) => Err(Problem::new("found a string")
            .expected(expected)
            .help(format!(
                "no shell splits it; write {EXAMPLE}, or [\"sh\", \"-c\", \"…\"] where a shell is meant"
            ))),
        Raw::File(_) | Raw::Probe => setting.text_expected(expected).map(|_| Vec::new()),
    }
}

/// What was filled into arguments that were read before. Outside the file nothing is.
fn secrets(setting: &Setting<'_>) -> Vec<SecretString> {
    let Raw::File(DeValue::Array(items)) = &setting.raw else { return Vec::new() };
    items
        .iter()
        .filter_map(|item| item.get_ref().as_str())
        .filter_map(|text| interpolate::fill(text, setting.environment).ok())
        .flat_map(|filled| filled.secrets.into_iter().map(SecretString::from))
        .collect()
}

/// What stands in braces and could be a place: letters and underscores only.
fn places(argument: &str) -> impl Iterator<Item = &str> {
    argument.match_indices('{').filter_map(|(at, _)| {
        let inside = &argument[at + 1..];
        let name = &inside[..inside.find('}')?];
        let is_word = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic() || c == '_');
        is_word.then(|| &argument[at..at + name.len() + 2])
    })
}

/// Refuses a place of the other mode, and what is nearly a place. Other braces belong to the program.
fn check_place(place: &str, mode: Mode) -> Result<(), Problem> {
    let (own, other, owner) = match mode {
        Mode::Lines => (&[AFTER_ID, LIMIT][..], &[STATE][..], "singer"),
        Mode::Singer => (&[STATE][..], &[AFTER_ID, LIMIT][..], "lines"),
    };
    if own.contains(&place) {
        return Ok(());
    }
    if other.contains(&place) {
        let problem =
            Problem::new(format!("{place}, which is filled in with mode = \"{owner}\" only"));
        return Err(problem
            .expected(format!("{} here", suggest::list(own.iter().copied())))
            .pointing_at(place));
    }
    let name = &place[1..place.len() - 1];
    let names = || own.iter().map(|own| &own[1..own.len() - 1]);
    let begins = names().find(|own| name.len() > 2 && own.starts_with(&name.to_ascii_lowercase()));
    match suggest::nearest(name, names()).or(begins) {
        // The text is not shown: it may be part of something secret.
        Some(meant) => Err(Problem::new("a place in braces that is not known")
            .expected(suggest::list(own.iter().copied()))
            .help(format!("did you mean `{{{meant}}}`?"))
            .pointing_at(place)),
        None => Ok(()),
    }
}

fn read_environment(table: &TableReader<'_>) -> Vec<(String, SecretString)> {
    let mut variables: Vec<(String, SecretString)> = Vec::new();
    for (name, span, value) in table.entries() {
        if let Err(problem) = check_variable(name) {
            table.report_key(name, span, problem);
        } else if let Some(read) = table.convert(name, Some(value), variable_value) {
            variables.push((name.to_owned(), read.value));
        }
    }
    for key in table.keys_from_environment() {
        let Some(read) = table.convert(&key, None, variable_value) else { continue };
        match check_variable(&key) {
            Ok(()) => variables.push((key, read.value)),
            Err(problem) => table.report_at(&read.origin, &key, problem),
        }
    }
    variables
}

fn check_variable(name: &str) -> Result<(), Problem> {
    if name.is_empty() || name.contains(['=', '\0']) {
        let problem = Problem::new("not the name of a variable");
        return Err(problem.expected("a name without \"=\", such as API_TOKEN"));
    }
    if [AFTER_ID_VARIABLE, LIMIT_VARIABLE].contains(&name) {
        return Err(Problem::new("a variable that every request sets itself").help("take it out"));
    }
    Ok(())
}

fn variable_value(setting: &Setting<'_>) -> Result<SecretString, Problem> {
    let text = setting.text()?;
    if text.value.contains('\0') {
        return Err(text.refuse(Problem::new("with a NUL character in it")).expected("text"));
    }
    Ok(SecretString::from(text.value))
}
