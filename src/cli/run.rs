//! `eventloader run`.

use clap::Args;

use super::{Context, Failure};
use crate::app::{self, AppError, Role};

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Run only these parts, to split them over processes
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART,…")]
    pub(super) only: Vec<Role>,
}

impl Run {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let needs_sources = self.only.is_empty() || self.only.contains(&Role::Loader);
        if needs_sources && context.config.sources.is_empty() {
            let place = match &context.config.path {
                Some(path) => format!("{} has no [sources.NAME]", path.display()),
                None => "no configuration file was found".to_owned(),
            };
            return Err(Failure {
                code: super::CONFIGURATION,
                ..Failure::new(format!("no sources to load: {place}"))
            }
            .with_hint("name a file with --config; `eventloader init` writes one to begin with"));
        }
        let needs_schedule = self.only.contains(&Role::Upkeep);
        if needs_schedule && context.config.request_log.prune_every.is_none() {
            return Err(Failure {
                code: super::CONFIGURATION,
                ..Failure::new("there is no upkeep to run: [request_log] has no prune_every")
            }
            .with_hint("add prune_every = \"1h\", or run `eventloader prune-request-log`"));
        }
        let reread = || context.reread();
        let running = app::run(&context.config, &context.process, &self.only, &reread);
        let outcome = Box::pin(running).await;
        if !matches!(outcome, Err(AppError::SecondSignal)) {
            context.traces.flush();
        }
        Ok(outcome?)
    }
}
