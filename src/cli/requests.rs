//! `eventloader requests …`: the request log, and the manual reprocessing it promises.

use clap::Subcommand;
use serde_json::json;
use sqlx::PgPool;

use super::output::time;
use super::{Context, Failure, actor};
use crate::operate::{self, Mode};
use crate::store::request_log::{self, Filter, Request};

#[derive(Debug, Subcommand)]
pub(super) enum Requests {
    /// List requests, newest first
    List {
        /// Only of this source
        #[arg(long)]
        source: Option<String>,
        /// Only in this status
        #[arg(long, value_parser = ["reserved", "inbox_only", "succeeded", "failed", "orphaned", "retried", "skipped"])]
        status: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one request
    Show {
        /// Its number
        id: i64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask the window of a failed or orphaned request again
    Retry {
        /// Its number
        #[arg(required = true)]
        ids: Vec<i64>,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give the window of a failed or orphaned request up and go on behind it
    Skip {
        /// Its number
        id: i64,
        /// Go on after this id [default: the greatest id of its page, where that is known]
        #[arg(long)]
        to: Option<i64>,
        /// Do it without asking
        #[arg(long)]
        yes: bool,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Requests {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        context.with_pool(async |pool| self.act(context, pool).await).await
    }

    async fn act(self, context: &Context, pool: &PgPool) -> Result<(), Failure> {
        match self {
            Self::List { source, status, limit, json } => {
                let filter = Filter { source_name: source, status, limit };
                let requests = request_log::list(pool, &filter).await?;
                if let (true, Some(name)) = (requests.is_empty(), &filter.source_name) {
                    operate::known_source(pool, name).await?;
                }
                list(context, &requests, json)
            }
            Self::Show { id, json } => {
                let request = request_log::show(pool, id)
                    .await?
                    .ok_or_else(|| operate::unknown_request(id))?;
                show(context, &request, json)
            }
            Self::Retry { ids, dry_run, json } => retry(context, pool, ids, dry_run, json).await,
            Self::Skip { id, to, yes, dry_run, json } => {
                skip(context, pool, &Skip { id, to, yes, dry_run, json }).await
            }
        }
    }
}

fn list(context: &Context, requests: &[Request], json: bool) -> Result<(), Failure> {
    if json {
        return context.output.json(&requests);
    }
    let rows: Vec<_> = requests
        .iter()
        .map(|r| {
            vec![
                r.id.to_string(),
                r.source_name.clone(),
                r.after_id.to_string(),
                r.attempt.to_string(),
                r.status.clone(),
                r.event_count.map(|n| n.to_string()).unwrap_or_default(),
                time(Some(r.created_at)),
                r.error.clone().unwrap_or_default(),
            ]
        })
        .collect();
    context.output.table(
        &["id", "source", "after id", "attempt", "status", "events", "created", "error"],
        &rows,
        "no requests",
    )
}

fn show(context: &Context, request: &Request, json: bool) -> Result<(), Failure> {
    if json {
        return context.output.json(request);
    }
    let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    context.output.fields(&[
        ("request", request.id.to_string()),
        ("source", request.source_name.clone()),
        ("window", format!("after {}, at most {}", request.after_id, request.limit_count)),
        ("attempt", request.attempt.to_string()),
        ("status", request.status.clone()),
        ("events", text(request.event_count.map(|n| n.to_string()))),
        ("greatest id", text(request.max_id.map(|n| n.to_string()))),
        ("error", text(request.error.clone())),
        ("owner", request.owner.clone()),
        ("asked again at", text(request.retry_at.map(|at| time(Some(at))))),
        ("closed by", text(request.closed_by.clone())),
        ("created", time(Some(request.created_at))),
        ("updated", time(Some(request.updated_at))),
    ])?;
    if operate::is_held(request) {
        context
            .output
            .line(&format!("\nfree it with `eventloader requests retry {}`", request.id))?;
    }
    Ok(())
}

async fn retry(
    context: &Context,
    pool: &PgPool,
    ids: Vec<i64>,
    dry_run: bool,
    json: bool,
) -> Result<(), Failure> {
    let requests = operate::retry(pool, ids, &actor(context), mode(dry_run)).await?;
    if json {
        let rows: Vec<_> = requests
            .iter()
            .map(|request| {
                json!({
                    "request_id": request.id, "source_name": request.source_name, "after_id": request.after_id,
                    "dry_run": dry_run,
                })
            })
            .collect();
        return context.output.json(&rows);
    }
    let verb = if dry_run { "would be" } else { "will be" };
    for request in requests {
        context.output.line(&format!(
            "the window of request {} ({} after {}) {verb} asked again",
            request.id, request.source_name, request.after_id
        ))?;
    }
    Ok(())
}

fn mode(dry_run: bool) -> Mode {
    if dry_run { Mode::DryRun } else { Mode::Do }
}

struct Skip {
    id: i64,
    to: Option<i64>,
    yes: bool,
    dry_run: bool,
    json: bool,
}

async fn skip(context: &Context, pool: &PgPool, asked: &Skip) -> Result<(), Failure> {
    let plan = operate::Skip::plan(pool, asked.id, asked.to).await?;
    let (name, after_id, to) = (&plan.request.source_name, plan.request.after_id, plan.to);
    if !asked.dry_run {
        let question = format!("Never ask {name} for the events after {after_id} up to {to}?");
        context.output.confirm(&question, asked.yes)?;
    }
    plan.carry_out(pool, &actor(context), mode(asked.dry_run)).await?;
    if asked.json {
        return context.output.json(&json!({
            "request_id": asked.id, "source_name": name, "after_id": after_id, "to": to,
            "dry_run": asked.dry_run,
        }));
    }
    let verb = if asked.dry_run { "would go" } else { "goes" };
    context.output.line(&format!("{name} {verb} on after {to}"))
}
