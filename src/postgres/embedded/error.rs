//! Why the private `PostgreSQL` could not be started, stopped or reached.

use std::{io, path::PathBuf, time::Duration};

/// A failure of the embedded `PostgreSQL`. Every message says what, where and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// No usable server programs on this machine.
    #[error(
        "no PostgreSQL server programs (initdb, pg_ctl, postgres) of version {minimum} or later{rejected}; \
         install them, name their directory (EVENTLOADER_PG_BIN) or give a database (DATABASE_URL):\n  \
         Debian, Ubuntu: apt-get install postgresql\n  \
         macOS: brew install postgresql@17\n  \
         Docker: docker run -d -e POSTGRES_PASSWORD=secret -p 127.0.0.1:55432:5432 postgres:17\n          \
         DATABASE_URL=postgres://postgres:secret@127.0.0.1:55432/postgres"
    )]
    NoBinaries {
        /// Oldest major version accepted.
        minimum: u32,
        /// What was found and why it does not do; empty or starting with ` (`.
        rejected: String,
    },
    /// The cluster needs the programs of its own major version.
    #[error(
        "the cluster {} was made by PostgreSQL {major}, whose programs were not found{rejected}; \
         install that version (apt-get install postgresql-{major}, brew install postgresql@{major}), \
         or move the directory away to start empty",
        cluster.display()
    )]
    WrongMajor {
        /// The cluster.
        cluster: PathBuf,
        /// Its major version.
        major: u32,
        /// What was found instead; empty or starting with ` (`.
        rejected: String,
    },
    /// The data directory cannot be created, read or written.
    #[error("cannot use {}; make it writable or choose another data directory (EVENTLOADER_DATA_DIR)", path.display())]
    Unwritable {
        /// The file or directory.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// The cluster belongs to a user this process can neither be nor become.
    #[error(
        "the cluster {} belongs to uid {owner}, but this process runs as uid {uid}; \
         run it as that user or choose another data directory (EVENTLOADER_DATA_DIR)",
        cluster.display()
    )]
    ForeignOwner {
        /// The cluster.
        cluster: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who we are.
        uid: u32,
    },
    /// `PostgreSQL` refuses a cluster owned by root.
    #[error(
        "the cluster {0} belongs to root, which PostgreSQL refuses; \
         give it to another user: chown -R postgres {0}",
        cluster.display()
    )]
    RootOwned {
        /// The cluster.
        cluster: PathBuf,
    },
    /// We are root, and the user `PostgreSQL` would run as cannot reach the directory.
    #[error(
        "uid {uid}, which PostgreSQL would run as because it refuses root, cannot enter {}; \
         choose a data directory outside of it (EVENTLOADER_DATA_DIR) or chmod a+x its parents",
        path.display()
    )]
    Unreachable {
        /// The directory.
        path: PathBuf,
        /// The user.
        uid: u32,
    },
    /// Part of what a cluster needs is missing.
    #[error("the cluster {} is unusable: {reason}; restore it, or move it away to start empty", cluster.display())]
    Damaged {
        /// The cluster.
        cluster: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// Only a cluster that was made disposable may be run without fsync or removed.
    #[error("{} is not a disposable cluster of this process; choose an empty data directory", path.display())]
    NotDisposable {
        /// The data directory.
        path: PathBuf,
    },
    /// A program could not be run at all.
    #[error("cannot run {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// `initdb` failed and said why.
    #[error("initdb could not make a cluster in {}:\n{tail}", path.display())]
    Init {
        /// The data directory.
        path: PathBuf,
        /// End of its output.
        tail: String,
    },
    /// The server did not start.
    #[error("PostgreSQL did not start; see {}:\n{tail}", log.display())]
    Start {
        /// The server log.
        log: PathBuf,
        /// End of what this start wrote.
        tail: String,
    },
    /// The server did not stop.
    #[error("PostgreSQL in {} did not stop:\n{tail}", cluster.display())]
    Stop {
        /// The cluster.
        cluster: PathBuf,
        /// End of the output of `pg_ctl`.
        tail: String,
    },
    /// No space left.
    #[error("the disk holding {} is full; free some space", path.display())]
    DiskFull {
        /// The data directory.
        path: PathBuf,
    },
    /// Something took longer than it may.
    #[error("{what} took longer than {} s; see {}", limit.as_secs(), log.display())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long it may take.
        limit: Duration,
        /// Where to look.
        log: PathBuf,
    },
    /// The server runs but refuses us.
    #[error("the PostgreSQL in {} refuses us (the password is in {})", cluster.display(), password_file.display())]
    Refused {
        /// The cluster.
        cluster: PathBuf,
        /// Where the password was read.
        password_file: PathBuf,
        /// What the server said.
        source: sqlx::Error,
    },
}

impl EmbeddedError {
    /// The exit code for a failed start: 78 where only a changed setting helps, else 69.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unwritable { .. }
            | Self::ForeignOwner { .. }
            | Self::RootOwned { .. }
            | Self::Unreachable { .. }
            | Self::NotDisposable { .. } => 78,
            Self::NoBinaries { .. }
            | Self::WrongMajor { .. }
            | Self::Damaged { .. }
            | Self::Spawn { .. }
            | Self::Init { .. }
            | Self::Start { .. }
            | Self::Stop { .. }
            | Self::DiskFull { .. }
            | Self::Timeout { .. }
            | Self::Refused { .. } => 69,
        }
    }
}
