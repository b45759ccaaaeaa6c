//! `eventloader sources …`.

use clap::Subcommand;
use serde_json::json;
use sqlx::PgPool;

use super::{Context, Failure, actor};
use crate::config::SourceKind;
use crate::operate;
use crate::sources::command::{Mode, stored_state};
use crate::store::source::SeekTo;
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
        #[arg(long, allow_negative_numbers = true, required_unless_present = "state")]
        to: Option<i64>,
        /// Of a Singer tap, which is not asked by ids: the state it begins at, as JSON; null begins anew
        #[arg(long, value_name = "JSON", conflicts_with = "to")]
        state: Option<String>,
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
                operate::pause(pool, &source, &actor(context), reason.as_deref()).await?;
                done(context, &source, "paused", json)
            }
            Self::Resume { source, json } => {
                operate::resume(pool, &source, &actor(context)).await?;
                done(context, &source, "resumed", json)
            }
            Self::Seek { source, to, state, yes, dry_run, json } => {
                operate::seekable_source(pool, &source).await?;
                let seek = Seek { source, yes, dry_run, json };
                match (to, state) {
                    (Some(to), _) => seek_id(context, pool, &seek, to).await,
                    (None, state) => {
                        seek_state(context, pool, &seek, state.as_deref().unwrap_or("null")).await
                    }
                }
            }
        }
    }
}

fn done(context: &Context, source_name: &str, what: &str, json: bool) -> Result<(), Failure> {
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
    yes: bool,
    dry_run: bool,
    json: bool,
}

async fn seek_id(context: &Context, pool: &PgPool, seek: &Seek, to: i64) -> Result<(), Failure> {
    let name = seek.source.as_str();
    let before = operate::known_source(pool, name).await?.last_requested_id;
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
    let cursor = source::lock_cursor(&mut transaction, name)
        .await?
        .ok_or_else(|| operate::unknown_source(name))?;
    if goes_by_state(context, name, cursor.has_state) {
        return Err(Failure::new(format!(
            "{name} goes on from its own state, not from an id: moving the cursor would change nothing it sends"
        ))
        .with_hint(format!("`eventloader sources seek {name} --state JSON`; null begins anew")));
    }
    if cursor.inbox_count > 0 || cursor.last_stored_id < cursor.last_requested_id {
        return Err(Failure::new(format!(
            "{name} still has {} events in the inbox; its cursor can be moved when they are in the event log",
            cursor.inbox_count
        ))
        .with_hint(format!("`eventloader sources pause {name}`, `eventloader retry-worker --once`, and again")));
    }
    if !seek.dry_run {
        source::seek(&mut transaction, name, SeekTo::Id(to), &actor(context)).await?;
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

/// Whether a source goes on from a state. The configuration says so where it names the source: a Singer tap that never ran
/// has no state yet, and what was a tap once keeps the last one.
fn goes_by_state(context: &Context, source_name: &str, has_state: bool) -> bool {
    let mut sources = context.config.sources.iter();
    sources.find(|source| source.name.as_str() == source_name).map_or(has_state, |source| {
        matches!(&source.kind, SourceKind::Command(command) if command.mode == Mode::Singer)
    })
}

async fn seek_state(
    context: &Context,
    pool: &PgPool,
    seek: &Seek,
    value: &str,
) -> Result<(), Failure> {
    let name = seek.source.as_str();
    let state = stored_state(value)
        .map_err(|error| Failure::usage(format!("--state is not JSON: {error}")))?;
    operate::known_source(pool, name).await?;
    let effect = "its tap is started anew; records it sends again are stored under new ids";
    if !seek.dry_run {
        context.output.confirm(&format!("Change the state of {name} ({effect})?"), seek.yes)?;
    }
    let mut transaction = pool.begin().await.map_err(failed_to("begin a seek"))?;
    let cursor = source::lock_cursor(&mut transaction, name)
        .await?
        .ok_or_else(|| operate::unknown_source(name))?;
    if !goes_by_state(context, name, cursor.has_state) {
        return Err(Failure::new(format!("{name} keeps no state; it is asked by ids"))
            .with_hint(format!("`eventloader sources seek {name} --to ID`")));
    }
    if !seek.dry_run {
        let to = SeekTo::State(state.as_deref());
        source::seek(&mut transaction, name, to, &actor(context)).await?;
        transaction.commit().await.map_err(failed_to("commit a seek"))?;
    }
    if seek.json {
        return context.output.json(&json!({ "source_name": name, "dry_run": seek.dry_run }));
    }
    let verb = if seek.dry_run { "would be" } else { "is" };
    context.output.line(&format!("the state of {name} {verb} changed: {effect}"))
}
