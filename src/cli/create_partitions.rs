//! `eventloader create-partitions`.

use clap::Args;
use sqlx::PgPool;

use super::{Context, Failure};
use crate::upkeep::month::Month;
use crate::upkeep::partition;

#[derive(Debug, Args)]
pub(super) struct CreatePartitions {
    /// How many months, the first included
    #[arg(long, value_name = "MONTHS", default_value_t = 3, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=120))]
    months_ahead: u32,
    /// The first month, such as 2026-05 [default: this month, in UTC]
    #[arg(long, value_name = "YYYY-MM")]
    start: Option<Month>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl CreatePartitions {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        if let Some(start) = self.start {
            start
                .plus(self.months_ahead - 1)
                .map_err(|error| Failure::usage(format!("--months-ahead goes too far: {error}")))?;
        }
        context.with_pool(async |pool| self.act(context, pool).await).await
    }

    async fn act(&self, context: &Context, pool: &PgPool) -> Result<(), Failure> {
        let mut made = Vec::new();
        let mut outcome = Ok(());
        for month in partition::months(pool, self.start, self.months_ahead).await? {
            match partition::create(pool, month).await {
                Ok(partition) => made.push(partition),
                Err(error) => {
                    outcome = Err(error.into());
                    break;
                }
            }
        }
        if self.json {
            context.output.json(&made)?;
        } else {
            for one in &made {
                let state = if one.created { "created" } else { "is there already" };
                context.output.line(&format!("{}: {} {state}", one.month, one.partition))?;
            }
        }
        outcome
    }
}
