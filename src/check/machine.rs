//! What can be seen without network and database.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;

use super::{Finding, message, subject_of};
use crate::config::{CommandConfig, Config, SourceConfig, SourceKind};

/// Files and sockets besides connections and requests: the log, the configuration, pipes.
const OTHER_FILES: u64 = 64;

pub(super) fn configuration(config: &Config) -> Finding {
    let subject = "configuration";
    let Some(path) = &config.path else {
        return Finding::new(&message::CONFIGURATION_MISSING, subject, "no file was found");
    };
    let path = path.display();
    match config.sources.len() {
        0 => Finding::new(&message::NO_SOURCES, subject, format!("{path} has no sources")),
        1 => {
            Finding::new(&message::CONFIGURATION_OK, subject, format!("{path} is right, 1 source"))
        }
        count => Finding::new(
            &message::CONFIGURATION_OK,
            subject,
            format!("{path} is right, {count} sources"),
        ),
    }
}

pub(super) fn limits(config: &Config) -> Option<Finding> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current?;
    let requests = config.loader.concurrency.min(config.sources.len()) as u64;
    let needed = requests + u64::from(config.database.max_connections) + OTHER_FILES;
    (limit < needed).then(|| {
        let what = format!("{limit} files and sockets may be open, {needed} can be needed");
        Finding::new(&message::OPEN_FILES_SCARCE, "machine", what)
    })
}

pub(super) fn source(source: &SourceConfig) -> Option<Finding> {
    let subject = subject_of(source.name.as_str());
    match &source.kind {
        SourceKind::Http(_)
        | SourceKind::Sql(_)
        | SourceKind::RabbitMqStream(_)
        | SourceKind::Amqp(_)
        | SourceKind::RedisStream(_) => None,
        #[cfg(feature = "kafka")]
        SourceKind::Kafka(_) => None,
        SourceKind::Command(command) => {
            let program = command.command.first()?;
            let is_there = places(program, command).any(|place| is_executable(&place));
            (!is_there).then(|| {
                let what = format!("{program} is not there, or may not be run");
                Finding::new(&message::PROGRAM_MISSING, subject, what)
            })
        }
        SourceKind::File(file) => match File::open(&file.path) {
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Some(Finding::new(&message::FILE_MISSING, subject, missing(&file.path)))
            }
            Err(error) => {
                let what = format!("{}: {error}", file.path.display());
                Some(Finding::new(&message::FILE_UNREADABLE, subject, what))
            }
        },
    }
}

/// Where a program is looked for: a name without a slash on the `PATH`.
fn places(program: &str, command: &CommandConfig) -> impl Iterator<Item = PathBuf> {
    let of_program = command.environment.iter().find(|(name, _)| name == "PATH");
    let inherited = command.inherited.iter().find(|(name, _)| name == "PATH");
    let path = of_program.map(|(_, path)| path.expose_secret().to_owned());
    let path = path.or_else(|| Some(inherited?.1.to_string_lossy().into_owned()));
    let path = path.unwrap_or_default();
    let directories = if program.contains('/') { String::new() } else { path };
    let places: Vec<PathBuf> =
        directories.split(':').map(|place| command.directory.join(place).join(program)).collect();
    places.into_iter()
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Whether the source is a file that is not there yet: there is nothing to ask.
pub(super) fn is_missing(source: &SourceConfig) -> bool {
    matches!(&source.kind, SourceKind::File(file) if !file.path.exists())
}

fn missing(path: &Path) -> String {
    format!("{} is not there yet", path.display())
}
