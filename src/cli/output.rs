//! The one writer of standard output and standard error. A reader that went away is no error.

use std::io::{self, ErrorKind, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::Failure;

/// Standard output.
#[derive(Debug, Default)]
pub(super) struct Output {}

impl Output {
    /// Prints a line.
    pub(super) fn line(&self, text: &str) -> Result<(), Failure> {
        let _ = self;
        ignore_closed_pipe(writeln!(io::stdout(), "{text}"))
    }

    /// Prints a value as JSON.
    pub(super) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::new(format!("failed to write JSON: {error}")))?;
        self.line(&text)
    }

    /// Prints bytes as they are.
    pub(super) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let _ = self;
        ignore_closed_pipe(io::stdout().write_all(bytes))
    }

    /// Prints a table; `nothing` where it has no rows.
    pub(super) fn table(
        &self,
        header: &[&str],
        rows: &[Vec<String>],
        nothing: &str,
    ) -> Result<(), Failure> {
        if rows.is_empty() {
            return self.line(nothing);
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(header.iter().map(|name| name.to_uppercase()));
        table.add_rows(rows.iter().map(|row| row.iter().map(|cell| printable(cell))));
        let text: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        self.line(&text.join("\n"))
    }

    /// Asks on a terminal whether to go on; elsewhere `--yes` is needed.
    pub(super) fn confirm(&self, question: &str, yes: bool) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            return Err(Failure::usage(format!(
                "{question} Give --yes to do it, or --dry-run to look"
            )));
        }
        self.line(&format!("{question} [y/N]"))?;
        let mut answer = String::new();
        io::stdin()
            .read_line(&mut answer)
            .map_err(|error| Failure::new(format!("failed to read the answer: {error}")))?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(Failure::new("nothing was done")),
        }
    }
}

fn ignore_closed_pipe(outcome: io::Result<()>) -> Result<(), Failure> {
    match outcome {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(format!("failed to write to standard output: {error}"))),
    }
}

/// Text of others on our terminal: no control characters, so no escape sequences.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Says what went wrong.
pub(super) fn complain(message: &str, hint: Option<&str>) {
    let mut stderr = io::stderr();
    // There is nowhere left to report that standard error is closed.
    drop(writeln!(stderr, "error: {message}"));
    if let Some(hint) = hint {
        drop(writeln!(stderr, "hint: {hint}"));
    }
}

/// A time for people; empty for none.
pub(super) fn time(at: Option<chrono::DateTime<chrono::Utc>>) -> String {
    at.map(|at| at.format("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}
