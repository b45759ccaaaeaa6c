//! The configuration: one value, read once at start from flags, environment and file.
//!
//! Start reading at [`Config::load`]. Strongest first: flag, `EVENTLOADER_<SECTION>__<KEY>` (and,
//! after it, `DATABASE_URL`), file, default. The file is TOML; `${NAME}` and `${NAME:-default}` are
//! filled in its string values after parsing. Everything that is wrong is reported at once, each
//! with line, column, key and what to do; values that may be secret are never shown.
//!
//! This is the only module that looks at the process environment, in
//! [`Environment::from_process`].

mod difference;
mod document;
mod duration;
mod environment;
mod error;
mod fingerprint;
mod hosts;
mod interpolate;
mod loading;
mod masking;
mod overrides;
mod pointer;
mod reader;
mod recording;
pub(crate) mod reference;
mod request_log;
mod sections;
mod setting;
mod shape;
pub(crate) mod shown;
mod size;
mod snippet;
mod source;
mod suggest;
mod syntax;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use toml::de::DeTable;

use document::{Chosen, Document};
use overrides::Overrides;
use reader::{Reading, TableReader};
use recording::{Purpose, Record, Recording};

pub use difference::Difference;
pub use environment::{Environment, ProcessConfig};
pub use error::{ConfigError, Finding, Place};
pub use fingerprint::Fingerprints;
pub use loading::{LoaderConfig, Loading};
pub use request_log::RequestLogConfig;
pub use sections::{AdminConfig, DatabaseConfig, RetryWorkerConfig, StorageConfig};
#[cfg(feature = "kafka")]
pub use source::KafkaConfig;
pub use source::{
    AmqpConfig, CommandConfig, FileConfig, HttpConfig, RabbitMqStreamConfig, RedisStreamConfig,
    SourceConfig, SourceKind, SourceName, SourceNameError, SqlConfig, is_queue_type,
};

/// The whole configuration. Complete and checked: nothing in it needs a second look.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The file it came from; none where no file was found.
    pub path: Option<PathBuf>,
    /// `[database]`: the Postgres that coordinates.
    pub database: DatabaseConfig,
    /// `[loader]`: the loader, and the defaults of sources.
    pub loader: LoaderConfig,
    /// `[retry_worker]`: moving events from the inbox to the event log.
    pub retry_worker: RetryWorkerConfig,
    /// `[request_log]`: upkeep of the request log.
    pub request_log: RequestLogConfig,
    /// `[storage]`: another Postgres for the events.
    pub storage: StorageConfig,
    /// `[admin]`: health, metrics, status.
    pub admin: AdminConfig,
    /// `[sources.NAME]`, in the order of the file. May be empty: some commands need no source.
    pub sources: Vec<SourceConfig>,
    /// Tells what changed between two readings.
    pub fingerprints: Fingerprints,
}

/// What the command line says about the configuration.
#[derive(Debug, Clone, Default)]
pub struct LoadRequest {
    /// `--config FILE`.
    pub config_flag: Option<PathBuf>,
    /// `--database-url URL`.
    pub database_url_flag: Option<SecretString>,
}

impl Config {
    /// Finds, reads and checks the configuration.
    ///
    /// The file is `--config`, else `EVENTLOADER_CONFIG`, else `./eventloader.toml`, else
    /// `/etc/eventloader/eventloader.toml`. Where none was named and none exists, the result has
    /// no sources and no `path`.
    ///
    /// # Errors
    /// A named file cannot be read, or anything in the file or the environment is wrong; the error
    /// holds all that was found.
    pub fn load(request: &LoadRequest, environment: &Environment) -> Result<Self, ConfigError> {
        Self::load_recording(request, environment, Purpose::Load).map(|(config, _)| config)
    }

    fn load_recording(
        request: &LoadRequest,
        environment: &Environment,
        purpose: Purpose,
    ) -> Result<(Self, Vec<Record>), ConfigError> {
        let flag = request.database_url_flag.as_ref();
        let chosen = document::read_chosen(choose_file(request, environment))?;
        let (path, text) = match &chosen {
            Some((path, text)) => (path.as_path(), text.as_str()),
            None => (Path::new(""), ""),
        };
        let (mut config, records) = Self::parse(path, text, flag, environment, purpose)?;
        config.path = chosen.map(|(path, _)| path);
        Ok((config, records))
    }

    /// Checks a text as that of a file: what `fuzz/` calls.
    #[cfg(fuzzing)]
    pub fn of_text(text: &str) -> Result<Self, ConfigError> {
        let environment = Environment::default();
        Self::parse(Path::new("file.toml"), text, None, &environment, Purpose::Load)
            .map(|(config, _)| config)
    }

    /// Checks the text of a file. `path` is what messages call it and where relative paths begin.
    fn parse(
        path: &Path,
        text: &str,
        database_url_flag: Option<&SecretString>,
        environment: &Environment,
        purpose: Purpose,
    ) -> Result<(Self, Vec<Record>), ConfigError> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let masks = masking::masks(root.get_ref(), text);
        let document = Document::new(path, text, masks);
        let syntax = syntax::findings(&document, &errors);
        if !syntax::tree_is_sound(&errors)
            && let Some(error) = ConfigError::from_findings(syntax.clone())
        {
            return Err(error);
        }
        let reading = Reading {
            document,
            environment,
            overrides: Overrides::new(environment, database_url_flag),
            findings: RefCell::new(syntax),
            recording: Recording::new(purpose),
        };
        let mut config = Self::read(TableReader::root(&reading, root.get_ref()));
        config.fingerprints =
            Fingerprints::of(root.get_ref(), path.parent().unwrap_or(Path::new("")), environment);
        let mut findings = reading.findings.into_inner();
        findings.extend(reading.overrides.into_findings());
        let records = reading.recording.into_records();
        ConfigError::from_findings(findings).map_or(Ok((config, records)), Err)
    }

    /// Every key that is read, with what it takes; those of a source once for each type, below `sources.TYPE`.
    fn describe() -> Vec<Record> {
        let environment = Environment::default();
        let reading = Reading {
            document: Document::new(Path::new(""), "", Vec::new()),
            environment: &environment,
            overrides: Overrides::new(&environment, None),
            findings: RefCell::default(),
            recording: Recording::new(Purpose::Describe),
        };
        let nothing = DeTable::new();
        drop(Self::read(TableReader::root(&reading, &nothing)));
        source::read_types(&TableReader::root(&reading, &nothing).absent("sources"));
        reading.recording.into_records()
    }

    fn read(mut root: TableReader<'_>) -> Self {
        let database = DatabaseConfig::read(root.table("database"));
        let loader = LoaderConfig::read(root.table("loader"));
        let retry_worker = RetryWorkerConfig::read(root.table("retry_worker"));
        let storage = StorageConfig::read(root.table("storage"));
        let request_log = RequestLogConfig::read(root.table("request_log"));
        let admin = AdminConfig::read(root.table("admin"));
        let sources = source::read_all(&root.table("sources"), &loader);
        root.finish();
        Self {
            path: None,
            database,
            loader,
            retry_worker,
            request_log,
            storage,
            admin,
            sources,
            fingerprints: Fingerprints::default(),
        }
    }
}

fn choose_file(request: &LoadRequest, environment: &Environment) -> Chosen {
    if let Some(path) = request.config_flag.clone() {
        return Chosen::Named { path, by: Place::Flag("--config") };
    }
    match environment.path(environment::CONFIG_VARIABLE) {
        Some(path) => {
            Chosen::Named { path, by: Place::Variable(environment::CONFIG_VARIABLE.to_owned()) }
        }
        None => Chosen::Searched,
    }
}
