//! `eventloader retry-worker`.

use clap::Args;

use super::run::Run;
use super::{Context, Failure};
use crate::app::{self, Role};
use crate::database::Database;
use crate::retry_worker::PassReport;

#[derive(Debug, Args)]
pub(super) struct RetryWorker {
    /// Make passes until nothing movable is left, say what was done, and end
    #[arg(long)]
    once: bool,
    /// Print JSON (with --once)
    #[arg(long, requires = "once")]
    json: bool,
}

impl RetryWorker {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        if !self.once {
            let run = Run { only: vec![Role::RetryWorker] };
            return run.run(context).await;
        }
        let database = context.open().await?;
        let outcome = pass(&database, context).await;
        database.close().await?;
        context.traces.flush();
        let report = outcome?;
        if self.json {
            context.output.json(&report)?;
        } else if report == PassReport::default() {
            context.output.line("no work: nothing in the inbox can be moved now")?;
        } else {
            context.output.line(&format!(
                "moved {} events to the event log; {} were there already, {} conflict with what is there, {} failed and \
                 wait for another attempt, {} failed for the last time and are dead letters",
                report.moved_count,
                report.duplicate_count,
                report.conflict_count,
                report.failed_count,
                report.exhausted_count
            ))?;
        }
        if report.is_clean() {
            return Ok(());
        }
        Err(Failure::new("some events could not be moved").with_hint(
            "`eventloader status` and `eventloader dead-letters list` say which and why",
        ))
    }
}

async fn pass(database: &Database, context: &Context) -> Result<PassReport, Failure> {
    let worker = app::retry_worker(&database.pool, &context.config).await?;
    Ok(worker.run_once().await?)
}
