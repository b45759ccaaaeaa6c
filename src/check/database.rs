//! The database: does it answer, may it be used, is its schema the right one.

use std::collections::HashMap;

use super::{Finding, Report, message};
use crate::config::{Config, ProcessConfig};
use crate::database::{self, Database, DatabaseError, is_localhost};
use crate::postgres::inspect::{self, Inspection};
use crate::postgres::migrate::{self, Pending};
use crate::store::source::{self, SourceStatus};
use crate::store::{Remedy, StoreError};
use crate::telemetry::chain;

/// A difference of the clocks that does not matter to readers of log lines.
const CLOCK_SKEW_SECONDS: f64 = 1.0;

/// A database that answers.
pub(super) struct Opened {
    pub(super) database: Database,
    pub(super) states: States,
}

/// What the database knows of each source.
pub(super) enum States {
    /// There is no schema, so nothing is loaded yet.
    NeverLoaded,
    /// By name.
    Known(HashMap<String, SourceStatus>),
    /// They cannot be read as the schema or the rights are: instances of another version may load them.
    Unreadable,
}

/// Looks at the database and reports; `None` where it cannot be used.
pub(super) async fn open(
    config: &Config,
    process: &ProcessConfig,
    report: &mut Report,
) -> Option<Opened> {
    let database = match Database::open_now(config, process).await {
        Ok(database) => database,
        Err(error) => {
            report.is_unavailable = true;
            report.findings.push(unavailable(&error, config, process));
            return None;
        }
    };
    match inspect::inspect(&database.connect_options()).await {
        Ok(inspection) => report.findings.extend(judge(&database, &inspection, config)),
        Err(error) => {
            let what = format!("{}: {}", database.shown(), chain(&error));
            let finding = Finding::new(&message::DATABASE_UNREACHABLE, "database", what);
            report.findings.push(finding.with_hint(error.hint()));
        }
    }
    let (schema, pending) = schema(&database).await;
    report.findings.extend(schema);
    if let Some(url) = &config.storage.url {
        report.findings.push(match database::probe_storage(url).await {
            Ok(shown) => Finding::new(&message::STORAGE_OK, "storage", format!("{shown} answers")),
            Err(error) => Finding::new(&message::STORAGE_UNREACHABLE, "storage", chain(&error))
                .with_hint(error.hint()),
        });
    }
    let states = match pending {
        Some(Pending::All) => States::NeverLoaded,
        Some(Pending::None { .. }) => states(&database, report).await,
        Some(Pending::Some { .. }) | None => States::Unreadable,
    };
    Some(Opened { database, states })
}

fn unavailable(error: &DatabaseError, config: &Config, process: &ProcessConfig) -> Finding {
    let host = config.database.url.as_ref().and_then(database::host_of).unwrap_or_default();
    if let DatabaseError::Unavailable { cause: sqlx::Error::Io(_), .. } = error
        && process.in_container
        && is_localhost(&host)
    {
        return Finding::new(&message::LOCALHOST_IN_CONTAINER, "database", chain(error));
    }
    let message = match error {
        DatabaseError::NotConfigured => &message::DATABASE_NOT_CONFIGURED,
        DatabaseError::Embedded(_) => &message::EMBEDDED_UNUSABLE,
        DatabaseError::Url | DatabaseError::Unavailable { .. } | DatabaseError::Schema(_) => {
            &message::DATABASE_UNREACHABLE
        }
    };
    Finding::new(message, "database", chain(error)).with_hint(error.hint())
}

fn judge(database: &Database, found: &Inspection, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut say = |message, what: String| findings.push(Finding::new(message, "database", what));
    let (kind, shown) = if database.is_embedded() {
        ("the embedded PostgreSQL", database.shown())
    } else {
        ("PostgreSQL", database.shown())
    };
    let latency = found.round_trip.as_secs_f64() * 1000.0;
    let what = format!("{kind} {} at {shown} answers in {latency:.1} ms", found.version);
    match found.major {
        ..=14 => say(&message::DATABASE_TOO_OLD, what),
        15..=18 => say(&message::DATABASE_OK, what),
        _ => say(&message::DATABASE_TOO_NEW, what),
    }
    if let Some(why) = found.read_only {
        say(&message::DATABASE_READ_ONLY, why.to_owned());
    }
    if found.is_pooled {
        say(&message::POOLER_IN_THE_WAY, "two connections shared one session".to_owned());
    } else if found.is_unlimited {
        say(&message::SESSION_SETTINGS_LOST, "statements have no time limit".to_owned());
    }
    if !database.is_local() && !database.is_verified() {
        let how = if found.is_encrypted {
            "encrypted, and nobody checks by whom"
        } else {
            "not encrypted"
        };
        say(&message::DATABASE_UNENCRYPTED, format!("the connection is {how}"));
    }
    let wanted = i64::from(config.database.max_connections);
    if found.free_connections < wanted {
        let free = found.free_connections.max(0);
        let what = format!("{free} connections are left, [database] max_connections is {wanted}");
        say(&message::CONNECTIONS_SCARCE, what);
    }
    if found.clock_ahead_seconds.abs() > CLOCK_SKEW_SECONDS {
        let (seconds, side) = (found.clock_ahead_seconds.abs(), found.clock_ahead_seconds > 0.0);
        let side = if side { "ahead of" } else { "behind" };
        let what = format!("its clock is {seconds:.1} s {side} this machine's");
        say(&message::CLOCK_SKEWED, what);
    }
    findings
}

/// What there is to say of the schema, and what it lacks; `None`: nobody can tell.
async fn schema(database: &Database) -> (Vec<Finding>, Option<Pending>) {
    let options = database.connect_options();
    let found = match migrate::pending(&options).await {
        Ok(found) => found,
        Err(error) => {
            let finding = Finding::new(&message::SCHEMA_WRONG, "schema", chain(&error));
            return (vec![finding.with_hint(error.hint())], None);
        }
    };
    let findings = match found {
        Pending::None { version } => {
            let what = format!("version {version}, as this binary needs");
            let mut findings = vec![Finding::new(&message::SCHEMA_OK, "schema", what)];
            findings.extend(rights(database).await);
            findings
        }
        Pending::All => {
            let what = "not there yet; the next start makes it";
            vec![Finding::new(&message::SCHEMA_PENDING, "schema", what)]
        }
        Pending::Some { count } => {
            let what = format!("{count} migrations are missing; the next start applies them");
            vec![Finding::new(&message::SCHEMA_PENDING, "schema", what)]
        }
    };
    (findings, Some(found))
}

async fn rights(database: &Database) -> Option<Finding> {
    let finding = |what: String| Finding::new(&message::RIGHTS_MISSING, "schema", what);
    match inspect::missing_rights(&database.connect_options()).await {
        Ok(missing) if missing.rights.is_empty() => None,
        Ok(missing) => Some(
            finding(format!("{} may not {}", missing.user, missing.rights.join(", "))).with_fix(
                format!(
                    "as the owner of the schema: `grant eventloader_runtime to {}`",
                    missing.user
                ),
            ),
        ),
        Err(error) => Some(finding(chain(&error))),
    }
}

async fn states(database: &Database, report: &mut Report) -> States {
    match source::status(&database.pool, None).await {
        Ok(rows) => {
            States::Known(rows.into_iter().map(|row| (row.source_name.clone(), row)).collect())
        }
        Err(error) => {
            report.findings.push(refused("schema", &error));
            States::Unreadable
        }
    }
}

/// A statement that failed: for want of rights, or because the database went away.
pub(super) fn refused(subject: &str, error: &StoreError) -> Finding {
    let message = match error.remedy() {
        Remedy::NeedsOperator => &message::RIGHTS_MISSING,
        Remedy::TryAgain | Remedy::SetRowAside => &message::DATABASE_UNREACHABLE,
    };
    Finding::new(message, subject, chain(error)).with_hint(error.hint())
}
