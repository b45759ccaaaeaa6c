//! `eventloader dead-letters …`.

use clap::{Args, Subcommand};
use serde_json::json;
use sqlx::PgPool;

use super::output::time;
use super::{Context, Failure, actor};
use crate::dead_letter::{self, Judge, Replay};
use crate::store::dead_letter::{self as table, DeadLetter, Filter};

#[derive(Debug, Subcommand)]
pub(super) enum DeadLetters {
    /// List dead letters, newest first
    List {
        #[command(flatten)]
        choice: Choice,
        /// Those that were replayed, too
        #[arg(long)]
        replayed: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one, or print its body verbatim
    Show {
        /// Its number
        id: i64,
        /// Print only the body, byte by byte
        #[arg(long, conflicts_with = "json")]
        body: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give events and messages back to the inbox, or to the handler that refused them
    Replay(Bulk),
    /// Delete dead letters for good
    Discard(Bulk),
}

#[derive(Debug, Args)]
pub(super) struct Choice {
    /// Only of this kind
    #[arg(long, value_parser = table::KINDS)]
    kind: Option<String>,
    /// Only of this source, lane or projection
    #[arg(long, value_name = "NAME")]
    origin: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    limit: i64,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct Bulk {
    /// Their numbers
    #[arg(required_unless_present = "all")]
    ids: Vec<i64>,
    /// All that match the filters, up to the limit
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten)]
    choice: Choice,
    /// Do it without asking
    #[arg(long)]
    yes: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl DeadLetters {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        context.with_pool(async |pool| self.act(context, pool).await).await
    }

    async fn act(self, context: &Context, pool: &PgPool) -> Result<(), Failure> {
        match self {
            Self::List { choice, replayed, json } => {
                let letters = table::list(pool, &choice.filter(Vec::new(), replayed)).await?;
                list(context, &letters, json)
            }
            Self::Show { id, body, json } => show(context, pool, id, body, json).await,
            Self::Replay(bulk) => replay(context, pool, &bulk).await,
            Self::Discard(bulk) => discard(context, pool, &bulk).await,
        }
    }
}

impl Choice {
    fn filter(&self, ids: Vec<i64>, replayed: bool) -> Filter {
        Filter {
            ids,
            kind: self.kind.clone(),
            origin: self.origin.clone(),
            replayed,
            limit: self.limit,
        }
    }
}

impl Bulk {
    async fn chosen(&self, pool: &PgPool) -> Result<Vec<DeadLetter>, Failure> {
        let mut filter = self.choice.filter(self.ids.clone(), false);
        // Named ones are all meant, however many.
        filter.limit = filter.limit.max(i64::try_from(self.ids.len()).unwrap_or(i64::MAX));
        let letters = table::list(pool, &filter).await?;
        let missing = self.ids.iter().find(|id| !letters.iter().any(|letter| letter.id == **id));
        match missing {
            Some(id) => {
                Err(Failure::new(format!("there is no dead letter {id} that is not replayed"))
                    .with_hint("see `eventloader dead-letters list`"))
            }
            None => Ok(letters),
        }
    }
}

fn list(context: &Context, letters: &[DeadLetter], json: bool) -> Result<(), Failure> {
    if json {
        return context.output.json(&letters);
    }
    let rows: Vec<_> = letters
        .iter()
        .map(|l| {
            vec![
                l.id.to_string(),
                l.kind.clone(),
                l.origin.clone(),
                l.reference.clone(),
                l.body_bytes.to_string(),
                l.attempts.to_string(),
                time(Some(l.failed_at)),
                time(l.replayed_at),
                l.reason.clone(),
            ]
        })
        .collect();
    context.output.table(
        &["id", "kind", "origin", "reference", "bytes", "attempts", "failed", "replayed", "reason"],
        &rows,
        "no dead letters",
    )
}

async fn show(
    context: &Context,
    pool: &PgPool,
    id: i64,
    body_only: bool,
    json: bool,
) -> Result<(), Failure> {
    let filter = Filter { ids: vec![id], replayed: true, limit: 1, ..Filter::default() };
    let letters = table::list(pool, &filter).await?;
    let letter = letters.first().ok_or_else(|| {
        Failure::new(format!("there is no dead letter {id}"))
            .with_hint("see `eventloader dead-letters list`")
    })?;
    let body = table::body(pool, id).await?.unwrap_or_default();
    if body_only {
        return context.output.bytes(&body);
    }
    if json {
        let mut value = json!(letter);
        value["body"] = json!(String::from_utf8_lossy(&body));
        return context.output.json(&value);
    }
    context.output.fields(&[
        ("dead letter", letter.id.to_string()),
        ("kind", letter.kind.clone()),
        ("origin", letter.origin.clone()),
        ("reference", letter.reference.clone()),
        ("reason", letter.reason.clone()),
        ("attempts", letter.attempts.to_string()),
        ("failed", time(Some(letter.failed_at))),
        ("replayed", time(letter.replayed_at)),
        ("detail", letter.detail.to_string()),
        (
            "body",
            format!(
                "{} bytes; print it with `eventloader dead-letters show {id} --body`",
                body.len()
            ),
        ),
    ])
}

async fn replay(context: &Context, pool: &PgPool, bulk: &Bulk) -> Result<(), Failure> {
    let letters = bulk.chosen(pool).await?;
    let many = letters.len() > usize::from(!bulk.all);
    if !bulk.dry_run && many {
        context.output.confirm(&format!("Replay {} dead letters?", letters.len()), bulk.yes)?;
    }
    let mut outcomes = Vec::new();
    let mut refused_count = 0;
    for letter in &letters {
        let said = if bulk.dry_run {
            "would be replayed".to_owned()
        } else {
            let judge = Judge::of(&context.config.sources, letter);
            match dead_letter::replay(pool, letter.id, &actor(context), &judge).await? {
                Replay::Replayed => "replayed".to_owned(),
                Replay::Gone => "already gone".to_owned(),
                Replay::Refused(reason) => {
                    refused_count += 1;
                    format!("not replayed: {reason}")
                }
            }
        };
        outcomes.push((letter.id, said));
    }
    report(context, &outcomes, bulk.json)?;
    match refused_count {
        0 => Ok(()),
        count => Err(Failure::new(format!("{count} of {} could not be replayed", letters.len()))),
    }
}

async fn discard(context: &Context, pool: &PgPool, bulk: &Bulk) -> Result<(), Failure> {
    let letters = bulk.chosen(pool).await?;
    let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
    let verb = if bulk.dry_run || ids.is_empty() {
        "would be discarded"
    } else {
        context
            .output
            .confirm(&format!("Delete {} dead letters for good?", ids.len()), bulk.yes)?;
        table::discard(pool, &ids, &actor(context)).await?;
        "discarded"
    };
    let outcomes: Vec<_> = ids.iter().map(|id| (*id, verb.to_owned())).collect();
    report(context, &outcomes, bulk.json)
}

fn report(context: &Context, outcomes: &[(i64, String)], json: bool) -> Result<(), Failure> {
    if json {
        let rows: Vec<_> =
            outcomes.iter().map(|(id, said)| json!({ "id": id, "outcome": said })).collect();
        return context.output.json(&rows);
    }
    if outcomes.is_empty() {
        return context.output.line("no dead letters");
    }
    for (id, said) in outcomes {
        context.output.line(&format!("dead letter {id}: {said}"))?;
    }
    Ok(())
}
