//! Logs: to standard error, as text for people or JSON for machines. Never payloads, never secrets. Traces, where the
//! feature `otel` is compiled in: to an OpenTelemetry collector.

#[cfg(feature = "otel")]
mod trace;
#[cfg(not(feature = "otel"))]
#[path = "telemetry/untraced.rs"]
mod trace;

use std::error::Error;
use std::io::IsTerminal;

use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

pub(crate) use trace::{Span, Traces};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object per line.
    Json,
}

/// Starts logging, and hands spans to `traces`. Without a format: text on a terminal, else JSON.
///
/// # Errors
///
/// `level` is neither a level nor a filter such as `info,sqlx=warn`.
pub(crate) fn start(
    format: Option<LogFormat>,
    level: &str,
    colour: bool,
    traces: &Traces,
) -> Result<(), String> {
    // What lapin has to say comes with its errors; its traces show what goes over the wire, passwords too.
    let directives = format!("lapin=off,{}{level}", trace::NO_SPANS);
    let filter = EnvFilter::builder().parse(directives).map_err(|error| {
        format!("--log-level {level}: {error}; use error, warn, info, debug or trace")
    })?;
    let is_terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE)
        .with_target(false);
    let format = format.unwrap_or(if is_terminal { LogFormat::Text } else { LogFormat::Json });
    let lines = match format {
        LogFormat::Text => lines.with_ansi(colour && is_terminal).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    match traces.layer() {
        Some(spans) => {
            let lines = lines.with_filter(filter);
            tracing_subscriber::registry().with(spans.and_then(lines)).init();
        }
        None => tracing_subscriber::registry().with(lines).with(filter).init(),
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
