//! Logs: to standard error, as text for people or JSON for machines. Never payloads, never secrets.

use std::error::Error;
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
    // What lapin has to say comes with its errors; its traces show what goes over the wire, passwords too.
    let filter = EnvFilter::builder().parse(format!("lapin=off,{level}")).map_err(|error| {
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
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        let said = match error.downcast_ref::<sqlx::Error>() {
            // What the server said; the driver would add a line number of the server's own source.
            Some(sqlx::Error::Database(refusal)) => {
                next = None;
                let code = refusal.code().unwrap_or_default();
                format!("{} (SQLSTATE {code})", refusal.message())
            }
            _ => error.to_string(),
        };
        // Some libraries print their cause as part of their own message.
        if text.is_empty() {
            text = said;
        } else if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
    }
    text
}
