//! `eventloader check`.

use clap::Args;

use super::output::Output;
use super::{CONFIGURATION, Context, Failure, UNAVAILABLE, actor};
use crate::check::{self, Report, message};
use crate::config::ConfigError;

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Look at the configuration and this machine only: no network, no database
    #[arg(long)]
    offline: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print every finding there is, what it means and what to do, and look at nothing
    #[arg(long, conflicts_with_all = ["offline", "json"])]
    explain: bool,
}

impl Check {
    /// Prints the table of findings, where that is asked for.
    pub(super) fn explain(&self, output: &Output) -> Option<Result<(), Failure>> {
        self.explain.then(|| output.bytes(message::markdown().as_bytes()))
    }

    /// A configuration that cannot be read: its problems, and nothing else.
    pub(super) fn wrong(&self, error: &ConfigError, output: &Output) -> Result<(), Failure> {
        if self.json {
            output.json(&check::wrong(error))?;
        }
        Err(error.clone().into())
    }

    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let (config, process) = (&context.config, &context.process);
        let report = if self.offline {
            Report { findings: check::offline(config), is_unavailable: false }
        } else {
            check::run(config, process, &actor(context)).await?
        };
        if self.json {
            context.output.json(&report.findings)?;
        } else {
            for finding in &report.findings {
                context.output.line(&finding.to_string())?;
            }
        }
        verdict(&report)
    }
}

fn verdict(report: &Report) -> Result<(), Failure> {
    let errors = report.error_count();
    if errors == 0 {
        return Ok(());
    }
    let failure = Failure::new(format!("{errors} of the findings keep `run` from doing its work"))
        .with_hint("`eventloader check --explain` says more about each, by the word in brackets");
    let not_configured =
        |finding: &check::Finding| finding.message == &message::DATABASE_NOT_CONFIGURED;
    Err(if report.findings.iter().any(not_configured) {
        Failure { code: CONFIGURATION, ..failure }
    } else if report.is_unavailable {
        Failure { code: UNAVAILABLE, ..failure }
    } else {
        failure
    })
}
