//! The process environment, read once. No other module calls `std::env`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Finding, Place};

/// Names the configuration file; the flag `--config` comes before it.
pub(super) const CONFIG_VARIABLE: &str = "EVENTLOADER_CONFIG";
const DATA_DIR_VARIABLE: &str = "EVENTLOADER_DATA_DIR";
const PG_BIN_VARIABLE: &str = "EVENTLOADER_PG_BIN";
const NO_EMBEDDED_VARIABLE: &str = "EVENTLOADER_NO_EMBEDDED";
/// OpenTelemetry's own variables; the others of that name are read by its SDK.
const TRACES_TO_VARIABLES: [&str; 2] =
    ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const DEFAULT_DATA_DIR: &str = "./.eventloader";

/// The variables of a process, as one value that is passed around.
///
/// `main` builds it once with [`Environment::from_process`]; tests build their own with
/// [`Environment::from_pairs`]. Its `Debug` shows names only, never values.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
}

/// The text of a variable, which may be absent or no text at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Variable<'a> {
    Missing,
    NotUnicode,
    /// It stands in a file that cannot be read.
    Unreadable {
        path: PathBuf,
        why: String,
    },
    Text(Cow<'a, str>),
}

/// systemd puts credentials into this directory (`LoadCredential=`, systemd.exec(5)).
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// A larger file is no secret.
const SECRET_FILE_MAX: u64 = 1 << 20;

impl Environment {
    /// Reads the environment of this process. Variables whose names are not UTF-8 are left out.
    pub fn from_process() -> Self {
        Self {
            variables: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
                .collect(),
        }
    }

    /// Builds an environment from (name, value) pairs; a later pair replaces an earlier one.
    pub fn from_pairs<N, V>(pairs: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<String>,
        V: Into<OsString>,
    {
        Self { variables: pairs.into_iter().map(|(n, v)| (n.into(), v.into())).collect() }
    }

    /// Returns a variable exactly as the process received it.
    pub fn get_os(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(name).map(OsString::as_os_str)
    }

    /// Returns a variable, taking an empty one as not set.
    fn non_empty(&self, name: &str) -> Option<&OsStr> {
        self.get_os(name).filter(|value| !value.is_empty())
    }

    /// Returns a non-empty variable as a path.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.non_empty(name).map(PathBuf::from)
    }

    /// A variable; else what is in the file that `NAME_FILE` names, as container engines hand secrets over; else systemd's
    /// credential of that name. A file is read anew each time: a secret may be replaced while the program runs.
    pub(super) fn text(&self, name: &str) -> Variable<'_> {
        if let Some(value) = self.get_os(name) {
            let text = value.to_str().map(Cow::Borrowed);
            return text.map_or(Variable::NotUnicode, Variable::Text);
        }
        if let Some(path) = self.path(&format!("{name}_FILE")) {
            return read_secret(path);
        }
        match self.path(CREDENTIALS_VARIABLE).map(|directory| directory.join(name)) {
            Some(path) if path.is_file() => read_secret(path),
            _ => Variable::Missing,
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }
}

/// The text of a file without the line ends that editors leave behind it.
fn read_secret(path: PathBuf) -> Variable<'static> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(&path)?.take(SECRET_FILE_MAX).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    match read().map(String::from_utf8) {
        Ok(Ok(mut text)) => {
            text.truncate(text.trim_end_matches(['\n', '\r']).len());
            Variable::Text(Cow::Owned(text))
        }
        Ok(Err(_)) => Variable::NotUnicode,
        Err(error) => Variable::Unreadable { path, why: error.to_string() },
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// What the environment alone decides: settings that are needed before, or without, a file.
///
/// An empty variable counts as not set.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessConfig {
    /// `EVENTLOADER_DATA_DIR`: the directory of the embedded Postgres. Default `./.eventloader`.
    pub data_dir: PathBuf,
    /// Whether `data_dir` was named by the user, so that it must not be replaced by a guess.
    pub data_dir_is_explicit: bool,
    /// `EVENTLOADER_PG_BIN`: the directory that holds `initdb` and `postgres`. Default: searched.
    pub pg_bin: Option<PathBuf>,
    /// `PATH`, for finding Postgres's programs. Never split or changed here.
    pub search_path: Option<OsString>,
    /// `NO_COLOR`: no colours in anything that is printed (<https://no-color.org>).
    pub no_color: bool,
    /// `EVENTLOADER_NO_EMBEDDED`: a missing database URL is an error instead of starting the
    /// embedded Postgres. `1`, `true`, `yes`, `on` or `0`, `false`, `no`, `off`. Default off.
    pub no_embedded: bool,
    /// Whether this is a container: `container` or `KUBERNETES_SERVICE_HOST` is set, as engines do, or the file is there
    /// that they leave.
    pub in_container: bool,
    /// This program, to be started once more; its bare name where the system does not tell.
    pub program: PathBuf,
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT` is set, and neither
    /// `OTEL_SDK_DISABLED=true` nor `OTEL_TRACES_EXPORTER=none`: traces are wanted.
    pub wants_traces: bool,
    /// `USER` or `LOGNAME`: who acts, for the audit log. Default `unknown`.
    pub user: String,
}

impl ProcessConfig {
    /// Picks the process settings out of the environment.
    ///
    /// # Errors
    /// `EVENTLOADER_NO_EMBEDDED` is neither a yes nor a no.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let data_dir = environment.path(DATA_DIR_VARIABLE);
        Ok(Self {
            data_dir_is_explicit: data_dir.is_some(),
            data_dir: data_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR)),
            pg_bin: environment.path(PG_BIN_VARIABLE),
            search_path: environment.get_os("PATH").map(OsStr::to_os_string),
            no_color: environment.non_empty("NO_COLOR").is_some(),
            no_embedded: read_switch(environment, NO_EMBEDDED_VARIABLE)?,
            in_container: ["container", "KUBERNETES_SERVICE_HOST"]
                .into_iter()
                .any(|name| environment.non_empty(name).is_some())
                || ["/.dockerenv", "/run/.containerenv"]
                    .iter()
                    .any(|path| Path::new(path).exists()),
            program: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("eventloader")),
            wants_traces: wants_traces(environment),
            user: ["USER", "LOGNAME"]
                .into_iter()
                .find_map(|name| environment.non_empty(name))
                .map_or_else(|| "unknown".to_owned(), |user| user.to_string_lossy().into_owned()),
        })
    }
}

fn wants_traces(environment: &Environment) -> bool {
    let is = |name: &str, value: &str| {
        environment.get_os(name).is_some_and(|found| found.eq_ignore_ascii_case(value))
    };
    TRACES_TO_VARIABLES.into_iter().any(|name| environment.non_empty(name).is_some())
        && !is("OTEL_SDK_DISABLED", "true")
        && !is("OTEL_TRACES_EXPORTER", "none")
}

fn read_switch(environment: &Environment, name: &str) -> Result<bool, ConfigError> {
    let Some(value) = environment.non_empty(name) else { return Ok(false) };
    match value.to_string_lossy().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        other => Err(ConfigError::from(
            Finding::new(Place::Variable(name.to_owned()), format!("found {other:?}"))
                .with_expected("1, true, yes, on or 0, false, no, off")
                .with_help(format!("set {name}=1, or unset it")),
        )),
    }
}
