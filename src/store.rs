//! The only SQL of the product: one file per table, verbs as names.
//!
//! Every function takes its executor first, so the caller chooses pool, connection or transaction. What has to be one
//! round trip and one transaction is a function in the database (`migrations/`); the rest is plain statements.

#![expect(
    clippy::missing_errors_doc,
    reason = "every function fails as `StoreError` says, and not otherwise"
)]

pub mod consumed_message;
pub mod dead_letter;
pub mod event;
pub mod event_log;
pub mod inbox;
pub mod lease;
pub mod message;
pub mod request_log;
pub mod request_log_archive;
pub mod source;
pub mod subscription;
pub mod subscription_replay;
pub mod subscription_retry;
pub mod upkeep;

use std::borrow::Cow;
use std::time::Duration;

use sqlx::postgres::types::PgInterval;

/// A statement that did not give an answer.
#[derive(Debug, thiserror::Error)]
#[error("failed to {operation}")]
pub struct StoreError {
    /// What was tried, completing "failed to …".
    pub operation: &'static str,
    /// What the driver or the server said.
    #[source]
    pub cause: sqlx::Error,
}

/// What can be done about a [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The database is away, busy or starting, or rolled us back: the same call again, later. Whether this one was
    /// carried out is unknown; calls that change something are told apart by token, so repeating them is safe.
    TryAgain,
    /// A value broke a rule of the data: the same call fails the same way, other rows may pass.
    SetRowAside,
    /// The database refuses us as we are (rights, schema, password): somebody has to act.
    NeedsOperator,
}

impl StoreError {
    /// The one place that maps what PostgreSQL says to what we do.
    pub fn remedy(&self) -> Remedy {
        let sqlx::Error::Database(error) = &self.cause else {
            return Remedy::TryAgain;
        };
        let code = error.code().unwrap_or_default();
        match code.get(..2).unwrap_or_default() {
            // Data exceptions, broken constraints, program limits (jsonb depth and size), `raise exception`.
            "22" | "23" | "54" | "P0" => Remedy::SetRowAside,
            // Authorisation, catalogue, syntax and access rules, object not in the state needed; our own: a stream that
            // belongs to an application.
            "28" | "3D" | "3F" | "42" | "0A" | "EL" => Remedy::NeedsOperator,
            _ => Remedy::TryAgain,
        }
    }

    /// Whether the whole database is away, full or going down, and not only this statement in trouble.
    pub fn is_outage(&self) -> bool {
        let sqlx::Error::Database(error) = &self.cause else { return true };
        let code = error.code().unwrap_or_default();
        // Connection exceptions, resources used up, shutting down or starting.
        matches!(code.get(..2), Some("08" | "53")) || matches!(code.get(..4), Some("57P0"))
    }

    /// The SQLSTATE, where the server answered.
    pub fn code(&self) -> Option<String> {
        let sqlx::Error::Database(error) = &self.cause else { return None };
        error.code().map(Cow::into_owned)
    }

    /// A hint for the commonest traps.
    pub fn hint(&self) -> Option<&'static str> {
        hint(&self.cause)
    }
}

/// What to do about an answer of the server that is a common trap.
pub fn hint(error: &sqlx::Error) -> Option<&'static str> {
    let error = error.as_database_error()?;
    match error.code().as_deref()? {
        "42501" => Some(
            "grant the role: `grant eventloader_runtime to <user>` (as the owner of the schema)",
        ),
        "42P01" | "42883" | "3F000" => Some("run `eventloader migrate` first"),
        "28000" if error.message().contains("pg_hba.conf") => {
            Some(if error.message().contains("no encryption") {
                "if the server wants TLS, write ?sslmode=require at the end of the database URL; else let its pg_hba.conf \
                 allow this user and this database from here"
            } else {
                "let pg_hba.conf of the server allow this user and this database from here, and reload it"
            })
        }
        "28P01" | "28000" => Some("check user and password of the database URL"),
        "3D000" => Some("create the database first: `createdb <name>`"),
        "53100" => {
            Some("the disk of the database is full: make room, and everything goes on by itself")
        }
        "53300" => Some("lower [database] max_connections, or raise the server's"),
        "42P05" | "26000" | "08P01" => Some(
            "a pooler such as PgBouncer is in the way, which does not keep prepared statements and session settings \
             apart; connect to PostgreSQL directly, or set pool_mode = session, ignore_startup_parameters = \
             extra_float_digits,options and a pool_size above [database] max_connections",
        ),
        _ => None,
    }
}

/// Names the operation of a failed statement.
pub(crate) fn failed_to(operation: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |cause| StoreError { operation, cause }
}

/// A duration as PostgreSQL's interval, in whole microseconds, rounded down.
pub(crate) fn interval(duration: Duration) -> PgInterval {
    let microseconds = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    PgInterval { months: 0, days: 0, microseconds }
}

/// Who acts by hand, for the audit log.
#[derive(Clone, Debug)]
pub struct Actor(pub String);
