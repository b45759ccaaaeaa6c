//! `eventloader status`.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use sqlx::PgPool;

use super::output::{Output, time};
use super::{Context, Failure};
use crate::shutdown::Signals;
use crate::status::Report;
use crate::store::source::SourceStatus;

#[derive(Debug, Args)]
pub(super) struct Status {
    /// Show it anew every two seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        context.with_pool(async |pool| self.show(context, pool).await).await
    }

    async fn show(&self, context: &Context, pool: &PgPool) -> Result<(), Failure> {
        // Ended like any other command, so that an embedded server does not stay behind.
        let mut signals = Signals::new()
            .map_err(|error| Failure::new(format!("failed to wait for signals: {error}")))?;
        loop {
            let report = Report::read(pool).await?;
            if self.watch && std::io::stdout().is_terminal() {
                context.output.bytes(b"\x1b[H\x1b[2J")?;
            }
            if self.json {
                context.output.json(&report)?;
            } else {
                print(&context.output, &report)?;
            }
            if !self.watch || context.output.is_closed() {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(2)) => {}
                _ = signals.next() => return Ok(()),
            }
        }
    }
}

pub(super) fn print(output: &Output, report: &Report) -> Result<(), Failure> {
    let totals = &report.totals;
    let oldest = totals
        .inbox_oldest_seconds
        .map(|seconds| format!(" (oldest {seconds:.1} s)"))
        .unwrap_or_default();
    output.line(&format!(
        "inbox {}{oldest} · last position {} · dead letters {}\n",
        totals.inbox_count, totals.last_position, totals.dead_letter_count
    ))?;
    let rows: Vec<_> = report.sources.iter().map(row).collect();
    output.table(
        &[
            "source",
            "type",
            "state",
            "requested",
            "stored",
            "lag",
            "dead letters",
            "last request",
            "reason",
        ],
        &rows,
        "no sources: `eventloader run` makes those of the configuration known",
    )?;
    for source in report.sources.iter().filter(|source| source.gap_count > 0) {
        output.line(&format!(
            "\n{} lost {} ranges of ids that its own side dropped before they were read: see eventloader.source_gap",
            source.source_name, source.gap_count
        ))?;
    }
    for source in &report.sources {
        if let Some(remedy) = &source.remedy {
            output.line(&format!("\n{} is {}: {remedy}", source.source_name, source.state))?;
        }
    }
    Ok(())
}

fn row(source: &SourceStatus) -> Vec<String> {
    vec![
        source.source_name.clone(),
        source.source_type.clone(),
        source.state.clone(),
        source.last_requested_id.to_string(),
        source.last_stored_id.to_string(),
        (source.last_requested_id - source.last_stored_id).to_string(),
        source.dead_letter_count.to_string(),
        time(source.last_request_at),
        source.reason.clone().unwrap_or_default(),
    ]
}
