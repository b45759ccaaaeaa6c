//! The one writer of standard output and standard error. A reader that went away is no error.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};
use serde::Serialize;

use super::Failure;

/// The last column of a table is not made narrower than this to fit a terminal.
const LAST_COLUMN_WIDTH_MIN: u16 = 30;

/// Standard output.
#[derive(Debug, Default)]
pub(super) struct Output {
    closed: AtomicBool,
}

impl Output {
    /// Prints a line.
    pub(super) fn line(&self, text: &str) -> Result<(), Failure> {
        self.note_closed(writeln!(io::stdout(), "{text}"))
    }

    /// Whether the reader went away: there is nobody to go on for.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Prints a value as JSON.
    pub(super) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::new(format!("failed to write JSON: {error}")))?;
        self.line(&text)
    }

    /// Prints the fields of one thing, a line each, their names to the right.
    pub(super) fn fields(&self, fields: &[(&str, String)]) -> Result<(), Failure> {
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        for (name, value) in fields {
            self.line(&format!("{name:>width$}  {}", printable(value)))?;
        }
        Ok(())
    }

    /// Prints bytes as they are.
    pub(super) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.note_closed(io::stdout().write_all(bytes))
    }

    fn note_closed(&self, outcome: io::Result<()>) -> Result<(), Failure> {
        match outcome {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.closed.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(Failure::new(format!("failed to write to standard output: {error}"))),
        }
    }

    /// Prints a table; `nothing` where it has no rows. On a terminal the last column, the one with the long texts, is
    /// wrapped to what is left of the line.
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
        wrap_last_column(&mut table);
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

fn wrap_last_column(table: &mut Table) {
    if !io::stdout().is_terminal() {
        return;
    }
    let Ok(size) = rustix::termios::tcgetwinsize(io::stdout()) else { return };
    let widths = table.column_max_content_widths();
    let Some((last, others)) = widths.split_last() else { return };
    let line_width = table.lines().next().map_or(0, |line| line.chars().count());
    let taken = u16::try_from(line_width).unwrap_or(u16::MAX).saturating_sub(*last);
    let left = size.ws_col.saturating_sub(taken).max(LAST_COLUMN_WIDTH_MIN);
    if size.ws_col > 0
        && left < *last
        && let Some(column) = table.column_mut(others.len())
    {
        let padding = 2;
        column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(left + padding)));
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(u16::MAX);
    }
}

/// Text of others on our terminal: no control characters, so no escape sequences.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Says what went wrong.
pub(super) fn complain(message: &str, hint: Option<&str>) {
    let mut stderr = io::stderr();
    let message: Vec<String> = message.lines().map(printable).collect();
    let message = message.join("\n");
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
