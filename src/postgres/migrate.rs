//! Brings the schema up to what this binary needs, once, whichever instance starts first.

use std::collections::HashMap;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::pool;
use crate::failpoint::{self, Place};
use crate::store;

/// Why the schema is not what this binary needs.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The schema is of a later version than this binary knows.
    #[error(
        "the database schema is newer than this binary (it has migration {newest}, this binary knows up to {known}): \
         upgrade eventloader, or use the version that migrated it"
    )]
    Newer {
        /// The newest migration in the database.
        newest: i64,
        /// The newest migration in the binary.
        known: i64,
    },
    /// A migration in the database is not the one this binary has under the same number.
    #[error(
        "migration {0} in the database differs from this binary's: it was made by a different build; use that build, or \
         another database"
    )]
    Different(i64),
    /// The user may not create the schema.
    #[error(
        "the database user may not migrate the schema: as the owner of the database, run \
         `grant create on database {database} to {user}` or run `eventloader migrate` with a user that may"
    )]
    NotAllowed {
        /// The database, quoted where SQL needs it.
        database: String,
        /// The user, quoted where SQL needs it.
        user: String,
    },
    /// The schema is there, and the user may not use it.
    #[error(
        "the database user may not use schema eventloader: as its owner, run `grant eventloader_runtime to {user}` \
         (for `run`) or `grant eventloader_readonly to {user}` (for looking)"
    )]
    NoAccess {
        /// The user, quoted where SQL needs it.
        user: String,
    },
    /// The schema is older than this binary, and the user may not change it.
    #[error(
        "the database schema is older than this binary, and {user} may not migrate it: run `eventloader migrate` with \
         its owner, or a member of eventloader_owner"
    )]
    NotOwner {
        /// The user, quoted where SQL needs it.
        user: String,
    },
    /// Anything else.
    #[error("failed to migrate the schema")]
    Failed(#[source] Box<MigrateError>),
    /// The database did not answer.
    #[error("failed to read the schema version")]
    Unreadable(#[source] sqlx::Error),
}

impl SchemaError {
    /// What to do about it, where the message itself does not say so.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unreadable(cause) => store::hint(cause),
            Self::Failed(error) => match error.as_ref() {
                MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => {
                    store::hint(cause)
                }
                _ => None,
            },
            Self::Newer { .. }
            | Self::Different(_)
            | Self::NotAllowed { .. }
            | Self::NoAccess { .. }
            | Self::NotOwner { .. } => None,
        }
    }
}

/// What [`run`] found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Migrations applied now.
    pub applied_count: usize,
    /// The version the schema is at.
    pub version: i64,
}

/// What the schema lacks for this binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Nothing.
    None {
        /// The version the schema is at.
        version: i64,
    },
    /// There is no schema yet.
    All,
    /// So many migrations.
    Some {
        /// How many.
        count: usize,
    },
}

/// Looks at what [`run`] would do, and whether this user may do it. Changes nothing.
///
/// # Errors
///
/// See [`SchemaError`].
pub async fn pending(options: &PgConnectOptions) -> Result<Pending, SchemaError> {
    let migrator = sqlx::migrate!();
    let version = migrator.iter().map(|m| m.version).max().unwrap_or_default();
    let options = pool::with_session_settings(options.clone());
    let mut connection = options.connect().await.map_err(SchemaError::Unreadable)?;
    let missing_count = count_missing(&migrator, &mut connection).await?;
    let pending = match missing_count {
        0 => Pending::None { version },
        count if count == migrator.iter().count() => Pending::All,
        count => Pending::Some { count },
    };
    if pending != (Pending::None { version }) {
        may_migrate(pending == Pending::All, &mut connection).await?;
    }
    connection.close().await.map_err(SchemaError::Unreadable)?;
    Ok(pending)
}

async fn may_migrate(is_new: bool, connection: &mut PgConnection) -> Result<(), SchemaError> {
    let may: bool = sqlx::query_scalar(
        "select coalesce(
             has_schema_privilege(to_regnamespace('eventloader')::oid, 'create'),
             has_database_privilege(current_database(), 'create'))",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(SchemaError::Unreadable)?;
    if may {
        return Ok(());
    }
    let (database, user) = names(connection).await?;
    Err(if is_new {
        SchemaError::NotAllowed { database, user }
    } else {
        SchemaError::NotOwner { user }
    })
}

/// Held by whoever migrates. In the key space of two integers, so that it meets no announced append.
const LOCK: &str = "select pg_advisory_lock(17740, 1)";

/// Applies what is missing, one instance at a time; with nothing missing it only reads, so that a user without the
/// right to migrate can run an up-to-date schema.
///
/// # Errors
///
/// See [`SchemaError`]; a failed migration is rolled back as a whole.
pub async fn run(options: &PgConnectOptions) -> Result<Migrated, SchemaError> {
    failpoint::hit(Place::MigrationBegun);
    let migrator = sqlx::migrate!();
    let version = migrator.iter().map(|m| m.version).max().unwrap_or_default();
    // A connection of its own without limits: a migration, and waiting for another instance's, may take long.
    let options = pool::with_session_settings(options.clone())
        .options([("statement_timeout", "0"), ("lock_timeout", "0")])
        // That a statement takes long is nothing to be warned of here.
        .disable_statement_logging();
    let mut connection = options.connect().await.map_err(SchemaError::Unreadable)?;
    let mut missing_count = count_missing(&migrator, &mut connection).await?;
    if missing_count > 0 {
        sqlx::query(LOCK).execute(&mut connection).await.map_err(SchemaError::Unreadable)?;
        missing_count = count_missing(&migrator, &mut connection).await?;
    }
    if missing_count > 0 {
        failpoint::hit(Place::MigrationUnsent);
        apply(migrator, &mut connection).await?;
    }
    failpoint::hit(Place::MigrationDone);
    connection.close().await.map_err(SchemaError::Unreadable)?;
    Ok(Migrated { applied_count: missing_count, version })
}

async fn apply(mut migrator: Migrator, connection: &mut PgConnection) -> Result<(), SchemaError> {
    // Even `if not exists` needs the right to create one.
    let exists: bool = sqlx::query_scalar("select to_regnamespace('eventloader') is not null")
        .fetch_one(&mut *connection)
        .await
        .map_err(SchemaError::Unreadable)?;
    if !exists {
        migrator.create_schema("eventloader");
    }
    migrator.dangerous_set_table_name("eventloader._sqlx_migrations");
    match migrator.run(&mut *connection).await {
        Ok(()) => Ok(()),
        Err(error) => Err(explain(error, exists, connection).await),
    }
}

/// How many of this binary's migrations the database lacks.
async fn count_missing(
    migrator: &Migrator,
    connection: &mut PgConnection,
) -> Result<usize, SchemaError> {
    let mut applied = match read_applied(connection).await {
        Ok(applied) => applied,
        Err(error) if is_denied(&error) => {
            let (_, user) = names(connection).await?;
            return Err(SchemaError::NoAccess { user });
        }
        Err(error) => return Err(SchemaError::Unreadable(error)),
    };
    let mut missing_count = 0;
    let mut known = 0;
    for migration in migrator.iter() {
        known = known.max(migration.version);
        match applied.remove(&migration.version) {
            None => missing_count += 1,
            Some(checksum) if checksum != *migration.checksum => {
                return Err(SchemaError::Different(migration.version));
            }
            Some(_) => {}
        }
    }
    match applied.into_keys().max() {
        None => Ok(missing_count),
        Some(newest) if newest > known => Err(SchemaError::Newer { newest, known }),
        Some(other) => Err(SchemaError::Different(other)),
    }
}

/// The checksums of the applied migrations, by version.
async fn read_applied(connection: &mut PgConnection) -> Result<HashMap<i64, Vec<u8>>, sqlx::Error> {
    let exists: bool =
        sqlx::query_scalar("select to_regclass('eventloader._sqlx_migrations') is not null")
            .fetch_one(&mut *connection)
            .await?;
    if !exists {
        return Ok(HashMap::new());
    }
    let rows: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("select version, checksum from eventloader._sqlx_migrations where success")
            .fetch_all(connection)
            .await?;
    Ok(rows.into_iter().collect())
}

fn is_denied(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() == Some("42501")
}

/// Database and user, as they are written in SQL.
async fn names(connection: &mut PgConnection) -> Result<(String, String), SchemaError> {
    sqlx::query_as("select quote_ident(current_database()), quote_ident(current_user)")
        .fetch_one(connection)
        .await
        .map_err(SchemaError::Unreadable)
}

async fn explain(
    error: MigrateError,
    schema_existed: bool,
    connection: &mut PgConnection,
) -> SchemaError {
    match error {
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)
            if is_denied(&cause) =>
        {
            match names(connection).await {
                Ok((_, user)) if schema_existed => SchemaError::NotOwner { user },
                Ok((database, user)) => SchemaError::NotAllowed { database, user },
                Err(error) => error,
            }
        }
        other => SchemaError::Failed(Box::new(other)),
    }
}
