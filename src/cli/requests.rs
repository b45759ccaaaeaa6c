//! `eventloader requests …`: the request log, and the manual reprocessing it promises.

use clap::Subcommand;
use serde_json::json;
use sqlx::PgPool;

use super::output::time;
use super::{Context, Failure, actor};
use crate::store::request_log::{self, Filter, Request};
use crate::store::{failed_to, source};

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
                    super::sources::check_known(pool, name).await?;
                }
                list(context, &requests, json)
            }
            Self::Show { id, json } => {
                let request = request_log::show(pool, id).await?.ok_or_else(|| unknown(id))?;
                show(context, &request, json)
            }
            Self::Retry { ids, dry_run, json } => retry(context, pool, ids, dry_run, json).await,
            Self::Skip { id, to, yes, dry_run, json } => {
                skip(context, pool, &Skip { id, to, yes, dry_run, json }).await
            }
        }
    }
}

fn unknown(id: i64) -> Failure {
    Failure::new(format!("there is no request {id}")).with_hint("see `eventloader requests list`")
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
    if is_held(request) {
        context
            .output
            .line(&format!("\nfree it with `eventloader requests retry {}`", request.id))?;
    }
    Ok(())
}

fn is_held(request: &Request) -> bool {
    matches!(request.status.as_str(), "failed" | "orphaned")
}

/// A request can be freed when its outcome is unknown and nobody works on it.
fn check_held(request: &Request) -> Result<(), Failure> {
    if is_held(request) {
        return Ok(());
    }
    let why = match request.status.as_str() {
        "reserved" => "it is in work; if its instance is gone, it becomes orphaned after the lease",
        "inbox_only" => "its events have arrived and are on their way to the event log",
        "succeeded" => {
            "its events are in the event log; `eventloader sources seek` moves a cursor back"
        }
        _ => "it is closed already",
    };
    Err(Failure::new(format!("request {} is {}: {why}", request.id, request.status)))
}

/// All of them, or none.
async fn retry(
    context: &Context,
    pool: &PgPool,
    mut ids: Vec<i64>,
    dry_run: bool,
    json: bool,
) -> Result<(), Failure> {
    ids.sort_unstable();
    ids.dedup();
    let mut transaction = pool.begin().await.map_err(failed_to("begin a retry"))?;
    let mut requests = Vec::new();
    for id in ids {
        let request = request_log::lock(&mut transaction, id).await?.ok_or_else(|| unknown(id))?;
        check_held(&request)?;
        if !dry_run {
            request_log::retry(&mut transaction, &request, &actor(context)).await?;
        }
        requests.push(request);
    }
    transaction.commit().await.map_err(failed_to("commit a retry"))?;
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

struct Skip {
    id: i64,
    to: Option<i64>,
    yes: bool,
    dry_run: bool,
    json: bool,
}

async fn skip(context: &Context, pool: &PgPool, skip: &Skip) -> Result<(), Failure> {
    let id = skip.id;
    let known = request_log::show(pool, id).await?.ok_or_else(|| unknown(id))?;
    let to = skip.to.or(known.max_id).ok_or_else(|| {
        Failure::usage(format!("nobody knows where the window of request {id} ends")).with_hint(
            format!("name the last id to leave out: `eventloader requests skip {id} --to ID`"),
        )
    })?;
    if to <= known.after_id {
        return Err(Failure::usage(format!(
            "--to {to} is not after {}, where the window begins",
            known.after_id
        )));
    }
    if !skip.dry_run {
        let question = format!(
            "Never ask {} for the events after {} up to {to}?",
            known.source_name, known.after_id
        );
        context.output.confirm(&question, skip.yes)?;
    }
    let mut transaction = pool.begin().await.map_err(failed_to("begin a skip"))?;
    let request = request_log::lock(&mut transaction, id).await?.ok_or_else(|| unknown(id))?;
    check_held(&request)?;
    let name = &request.source_name;
    let cursor = source::lock_cursor(&mut transaction, name).await?;
    if cursor.is_some_and(|cursor| cursor.has_state) {
        return Err(Failure::new(format!(
            "{name} goes on from its own state, not from an id: there is nothing to skip to"
        ))
        .with_hint(format!(
            "mend the tap and `eventloader requests retry {id}`, or `eventloader sources seek {name} --state JSON`"
        )));
    }
    if !skip.dry_run {
        request_log::skip(&mut transaction, &request, to, &actor(context)).await?;
        transaction.commit().await.map_err(failed_to("commit a skip"))?;
    }
    if skip.json {
        return context.output.json(&json!({
            "request_id": id, "source_name": request.source_name, "after_id": request.after_id, "to": to,
            "dry_run": skip.dry_run,
        }));
    }
    let verb = if skip.dry_run { "would go" } else { "goes" };
    context.output.line(&format!("{} {verb} on after {to}", request.source_name))
}
