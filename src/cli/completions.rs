//! `eventloader completions` and `eventloader man`: what shells and man(1) know of the command line.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::output::Output;
use super::{Cli, Failure};

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self, output: &Output) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "eventloader", &mut script);
        output.bytes(&script)
    }
}

#[derive(Debug, Args)]
pub(super) struct Man {
    /// Write a page for every command into this directory, instead of printing the first one
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(&self, output: &Output) -> Result<(), Failure> {
        let command = Cli::command();
        if let Some(directory) = &self.directory {
            let failed = |error| {
                Failure::new(format!("failed to write to {}: {error}", directory.display()))
            };
            return clap_mangen::generate_to(command, directory).map_err(failed);
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .render(&mut page)
            .map_err(|error| Failure::new(format!("failed to make the page: {error}")))?;
        output.bytes(&page)
    }
}
