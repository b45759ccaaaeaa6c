//! Logs: to standard error, as text for people or JSON for machines. Never payloads, never secrets.

use std::error::Error;
use std::fmt::Write as _;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object per line.
    Json,
}

/// Starts logging. Without a format: text on a terminal, else JSON.
///
/// # Errors
///
/// `level` is neither a level nor a filter such as `info,sqlx=warn`.
pub fn start(format: Option<LogFormat>, level: &str, colour: bool) -> Result<(), String> {
    let filter = EnvFilter::builder().parse(level).map_err(|error| {
        format!("--log-level {level}: {error}; use error, warn, info, debug or trace")
    })?;
    let is_terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE)
        .with_target(false);
    let format = format.unwrap_or(if is_terminal { LogFormat::Text } else { LogFormat::Json });
    match format {
        LogFormat::Text => builder.with_ansi(colour && is_terminal).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// An error with its causes in one line: `failed to claim a window: connection refused`.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        // Some libraries print their cause as part of their own message.
        if !text.ends_with(&said) {
            // Writing to a String cannot fail.
            let _infallible = write!(text, ": {said}");
        }
        cause = next.source();
    }
    text
}
