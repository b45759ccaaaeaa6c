//! Brings the schema up to what this binary needs, once, whichever instance starts first.

use std::collections::HashSet;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

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
        "migration {0} in the database differs from this binary's: it was made by a different build"
    )]
    Different(i64),
    /// The user may not create the schema.
    #[error(
        "the database user may not migrate the schema: as the owner of the database, run \
         `grant create on database {database} to {user}` or run `eventloader migrate` with a user that may"
    )]
    NotAllowed {
        /// The database.
        database: String,
        /// The user.
        user: String,
    },
    /// Anything else.
    #[error("failed to migrate the schema")]
    Failed(#[source] Box<MigrateError>),
    /// The database did not answer.
    #[error("failed to read the schema version")]
    Unreadable(#[source] sqlx::Error),
}

/// What [`run`] found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Migrations applied now.
    pub applied_count: usize,
    /// The version the schema is at.
    pub version: i64,
}

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    migrator.create_schema("eventloader");
    migrator.dangerous_set_table_name("eventloader._sqlx_migrations");
    migrator
}

/// Applies what is missing, under an advisory lock; with nothing missing it only reads, so that a user without the
/// right to migrate can run an up-to-date schema.
///
/// # Errors
///
/// See [`SchemaError`]; a failed migration is rolled back as a whole.
pub async fn run(options: &PgConnectOptions) -> Result<Migrated, SchemaError> {
    let migrator = migrator();
    let known: Vec<i64> = migrator.iter().map(|m| m.version).collect();
    let newest_known = known.last().copied().unwrap_or_default();
    // A connection of its own, without the pool's timeouts: waiting for another instance's migration may take long.
    let mut connection = options.connect().await.map_err(SchemaError::Unreadable)?;
    let before = applied(&mut connection).await.map_err(SchemaError::Unreadable)?;
    if let Some(newest) = before.iter().copied().filter(|v| *v > newest_known).max() {
        return Err(SchemaError::Newer { newest, known: newest_known });
    }
    let missing = known.iter().filter(|v| !before.contains(v)).count();
    if missing > 0 {
        let outcome = migrator.run(&mut connection).await;
        if let Err(error) = outcome {
            return Err(explain(error, &mut connection).await);
        }
    }
    connection.close().await.map_err(SchemaError::Unreadable)?;
    Ok(Migrated { applied_count: missing, version: newest_known })
}

async fn applied(connection: &mut PgConnection) -> Result<HashSet<i64>, sqlx::Error> {
    let exists: bool =
        sqlx::query_scalar("select to_regclass('eventloader._sqlx_migrations') is not null")
            .fetch_one(&mut *connection)
            .await?;
    if !exists {
        return Ok(HashSet::new());
    }
    let versions: Vec<i64> =
        sqlx::query_scalar("select version from eventloader._sqlx_migrations where success")
            .fetch_all(connection)
            .await?;
    Ok(versions.into_iter().collect())
}

async fn explain(error: MigrateError, connection: &mut PgConnection) -> SchemaError {
    let denied = |error: &sqlx::Error| {
        error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref()
            == Some("42501")
    };
    match error {
        MigrateError::VersionMismatch(version) => SchemaError::Different(version),
        MigrateError::VersionMissing(newest) => SchemaError::Newer { newest, known: 0 },
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)
            if denied(&cause) =>
        {
            let names: Result<(String, String), _> =
                sqlx::query_as("select current_database()::text, current_user::text")
                    .fetch_one(connection)
                    .await;
            match names {
                Ok((database, user)) => SchemaError::NotAllowed { database, user },
                Err(cause) => SchemaError::Unreadable(cause),
            }
        }
        other => SchemaError::Failed(Box::new(other)),
    }
}
