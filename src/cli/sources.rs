//! `eventloader sources …`.

use clap::Subcommand;
use serde_json::json;
use sqlx::PgPool;

use super::{Context, Failure, actor};
use crate::store::{failed_to, source};

#[derive(Debug, Subcommand)]
pub(super) enum Sources {
    /// List the sources with their cursors
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop asking a source, on all instances, until it is resumed
    Pause {
        /// The source
        source: String,
        /// Why, for the others
        #[arg(long)]
        reason: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask a paused source again, and end any back-off
    Resume {
        /// The source
        source: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Move a source's cursor: events after this id are asked for next
    Seek {
        /// The source
        source: String,
        /// The id before the next event
        #[arg(long, allow_negative_numbers = true)]
        to: i64,
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

impl Sources {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        context.with_pool(async |pool| self.act(context, pool).await).await
    }

    async fn act(self, context: &Context, pool: &PgPool) -> Result<(), Failure> {
        match self {
            Self::List { json } => list(context, pool, json).await,
            Self::Pause { source, reason, json } => {
                let found =
                    source::pause(pool, &source, &actor(context), reason.as_deref()).await?;
                done(context, found, &source, "paused", json)
            }
            Self::Resume { source, json } => {
                let found = source::resume(pool, &source, &actor(context)).await?;
                done(context, found, &source, "resumed", json)
            }
            Self::Seek { source, to, yes, dry_run, json } => {
                seek(context, pool, &Seek { source, to, yes, dry_run, json }).await
            }
        }
    }
}

fn unknown(source_name: &str) -> Failure {
    Failure::new(format!("there is no source {source_name:?}"))
        .with_hint("see `eventloader sources list`")
}

/// A misspelt name should not look like a source without anything to show.
pub(super) async fn check_known(pool: &PgPool, source_name: &str) -> Result<(), Failure> {
    let known = source::status(pool, Some(source_name)).await?;
    if known.is_empty() { Err(unknown(source_name)) } else { Ok(()) }
}

fn done(
    context: &Context,
    found: bool,
    source_name: &str,
    what: &str,
    json: bool,
) -> Result<(), Failure> {
    if !found {
        return Err(unknown(source_name));
    }
    if json {
        return context.output.json(&json!({ "source_name": source_name, "done": what }));
    }
    context.output.line(&format!("{source_name} is {what}"))
}

async fn list(context: &Context, pool: &PgPool, json: bool) -> Result<(), Failure> {
    let sources = source::status(pool, None).await?;
    if json {
        return context.output.json(&sources);
    }
    let rows: Vec<_> = sources
        .iter()
        .map(|s| {
            vec![
                s.source_name.clone(),
                s.source_type.clone(),
                s.state.clone(),
                s.last_requested_id.to_string(),
                s.last_stored_id.to_string(),
            ]
        })
        .collect();
    context.output.table(
        &["source", "type", "state", "requested", "stored"],
        &rows,
        "no sources: `eventloader run` makes those of the configuration known",
    )
}

struct Seek {
    source: String,
    to: i64,
    yes: bool,
    dry_run: bool,
    json: bool,
}

async fn seek(context: &Context, pool: &PgPool, seek: &Seek) -> Result<(), Failure> {
    let (name, to) = (seek.source.as_str(), seek.to);
    let known = source::status(pool, Some(name)).await?;
    let before = known.first().ok_or_else(|| unknown(name))?.last_requested_id;
    let effect = if to < before {
        "events after it are asked for again; those in the event log are recognised by their id"
    } else {
        "events up to it are never asked for"
    };
    if !seek.dry_run {
        let question = format!("Move the cursor of {name} from {before} to {to} ({effect})?");
        context.output.confirm(&question, seek.yes)?;
    }
    let mut transaction = pool.begin().await.map_err(failed_to("begin a seek"))?;
    let cursor = source::lock_cursor(&mut transaction, name).await?.ok_or_else(|| unknown(name))?;
    if cursor.inbox_count > 0 || cursor.last_stored_id < cursor.last_requested_id {
        return Err(Failure::new(format!(
            "{name} still has {} events in the inbox; its cursor can be moved when they are in the event log",
            cursor.inbox_count
        ))
        .with_hint(format!("`eventloader sources pause {name}`, `eventloader retry-worker --once`, and again")));
    }
    if !seek.dry_run {
        source::seek(&mut transaction, name, to, &actor(context)).await?;
        transaction.commit().await.map_err(failed_to("commit a seek"))?;
    }
    if seek.json {
        return context.output.json(&json!({
            "source_name": name, "from": cursor.last_requested_id, "to": to, "dry_run": seek.dry_run,
        }));
    }
    let verb = if seek.dry_run { "would go" } else { "went" };
    context.output.line(&format!(
        "the cursor of {name} {verb} from {} to {to}: {effect}",
        cursor.last_requested_id
    ))
}
