//! `eventloader migrate`.

use clap::Args;
use serde::Serialize;

use super::{Context, Failure};
use crate::database::Database;

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    applied_count: usize,
    version: i64,
}

impl Migrate {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let database = Database::open(&context.config, &context.process).await?;
        let outcome = database.migrate().await;
        database.close().await?;
        let migrated = outcome?;
        let report = Report { applied_count: migrated.applied_count, version: migrated.version };
        if self.json {
            return context.output.json(&report);
        }
        context.output.line(&match report.applied_count {
            0 => format!("the schema is up to date (version {})", report.version),
            count => {
                format!("applied {count} migrations; the schema is at version {}", report.version)
            }
        })
    }
}
