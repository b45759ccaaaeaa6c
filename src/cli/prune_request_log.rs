//! `eventloader prune-request-log`. It asks no questions: what goes has served its purpose and is of the age that was
//! named, and it has to run from cron.

use clap::Args;
use serde::Serialize;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::output::time;
use super::{Context, Failure};
use crate::shutdown::Signals;
use crate::upkeep::prune::{Pruning, Retention};

/// A hundred years: longer than anybody keeps a log.
const DAYS_MAX: i64 = 36_500;

#[derive(Debug, Args)]
pub(super) struct PruneRequestLog {
    /// Prune succeeded requests made more than so many days ago; 0: all [default: `succeeded_days` of
    /// `[request_log]`, else 7]
    #[arg(long, value_name = "DAYS", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(0..=DAYS_MAX))]
    succeeded_days: Option<u32>,
    /// Prune requests that failed and were retried or skipped, made more than so many days ago [default:
    /// `failed_days` of `[request_log]`, else 30]
    #[arg(long, value_name = "DAYS", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(0..=DAYS_MAX))]
    failed_days: Option<u32>,
    /// Move them to `event_request_log_archive` instead of deleting them [default: `archive` of `[request_log]`]
    #[arg(long)]
    archive: bool,
    /// Only count what would go
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    dry_run: bool,
    /// Whether nothing is left that goes: no signal and no error came before the end.
    complete: bool,
    #[serde(flatten)]
    pruning: &'a Pruning,
}

impl PruneRequestLog {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let defaults = &context.config.request_log;
        let retention = Retention {
            succeeded_days: self.succeeded_days.unwrap_or(defaults.succeeded_days),
            failed_days: self.failed_days.unwrap_or(defaults.failed_days),
            archive: self.archive || defaults.archive,
        };
        context.with_pool(async |pool| self.act(context, pool, &retention).await).await
    }

    async fn act(
        &self,
        context: &Context,
        pool: &PgPool,
        retention: &Retention,
    ) -> Result<(), Failure> {
        let mut pruning = Pruning::begin(pool, retention).await?;
        let outcome = if self.dry_run {
            pruning.count(pool).await.map_err(Failure::from)
        } else {
            prune(pool, &mut pruning).await
        };
        // What was done is said also where the rest failed.
        let report = Report { dry_run: self.dry_run, complete: outcome.is_ok(), pruning: &pruning };
        if self.json {
            context.output.json(&report)?;
        } else {
            say(context, &report)?;
        }
        outcome
    }
}

/// Prunes until the end, or to the end of the batch in which the first signal comes. The second does not wait for it.
async fn prune(pool: &PgPool, pruning: &mut Pruning) -> Result<(), Failure> {
    let mut signals = Signals::new()
        .map_err(|error| Failure::new(format!("failed to wait for signals: {error}")))?;
    let stop = CancellationToken::new();
    let signalled = async {
        let name = signals.next().await;
        stop.cancel();
        signals.next().await;
        name
    };
    let stopped = |when| {
        Failure::new(format!("stopped by a signal {when}"))
            .with_hint("what was pruned stays pruned; run it again for the rest")
    };
    tokio::select! {
        biased;
        _ = signalled => Err(stopped("in a batch, of which it is unknown whether it was done")),
        outcome = pruning.run(pool, &stop) => {
            outcome?;
            if stop.is_cancelled() { Err(stopped("between two batches")) } else { Ok(()) }
        }
    }
}

fn say(context: &Context, report: &Report<'_>) -> Result<(), Failure> {
    let pruning = report.pruning;
    for partition in &pruning.partitions_created {
        context.output.line(&format!("made partition {partition}"))?;
    }
    let verb = match (report.dry_run, pruning.archive) {
        (true, true) => "would be archived",
        (true, false) => "would be deleted",
        (false, true) => "archived",
        (false, false) => "deleted",
    };
    for tally in pruning.statuses.iter().filter(|tally| tally.count > 0) {
        context.output.line(&format!(
            "{} {} requests {verb}, made from {} to {}",
            tally.count,
            tally.status.as_str(),
            time(tally.oldest),
            time(tally.newest)
        ))?;
    }
    if pruning.pruned_count == 0 && report.complete {
        context.output.line(&format!(
            "nothing to prune: no request succeeded that was made before {}, and none was retried or skipped that was \
             made before {}",
            time(Some(pruning.succeeded_before)),
            time(Some(pruning.failed_before))
        ))?;
    }
    Ok(())
}
