//! `eventloader init`.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use super::output::Output;
use crate::config::reference;

#[derive(Debug, Args)]
pub(super) struct Init {
    /// The file to write; `-` prints it instead
    #[arg(default_value = "eventloader.toml", value_name = "FILE")]
    file: PathBuf,
    /// Print the file instead of writing it
    #[arg(long, conflicts_with = "file")]
    stdout: bool,
}

impl Init {
    /// Writes the file unless it exists; needs neither a configuration nor a database.
    pub(super) fn run(&self, output: &Output) -> Result<(), Failure> {
        let text = reference::starting_file();
        if self.stdout || self.file == Path::new("-") {
            return output.bytes(text.as_bytes());
        }
        write_new(&self.file, &text)?;
        let file = self.file.display();
        let option = match self.file.to_str() {
            Some("eventloader.toml" | "./eventloader.toml") => String::new(),
            _ => format!(" --config {file}"),
        };
        output.line(&format!(
            "wrote {file}\n\n\
             Next:\n  \
             edit {file}: one of its sources runs as it is\n  \
             eventloader{option} check     whether everything is right\n  \
             eventloader{option} run       load, until Ctrl-C\n  \
             eventloader{option} status    the state of every source, from another shell"
        ))
    }
}

fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let shown = path.display();
    let failed = |error: std::io::Error| {
        let failure = Failure::new(format!("failed to write {shown}: {error}"));
        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => failure
                .with_hint("go to a directory that you may write to; `eventloader init -` prints"),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                failure.with_hint("the disk is full: make room; `eventloader init -` prints")
            }
            _ => failure,
        }
    };
    let mut file = File::create_new(path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::new(format!("{shown} exists, and is left as it is"))
            .with_hint("name another file, or move this one away; `eventloader init -` prints"),
        ErrorKind::NotFound => Failure::new(format!("failed to write {shown}: no such directory"))
            .with_hint("make the directory first"),
        _ => failed(error),
    })?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| {
        // Half a file would be in the way of the next try; who cannot remove it is told of it by then.
        drop(std::fs::remove_file(path));
        failed(error)
    })
}
