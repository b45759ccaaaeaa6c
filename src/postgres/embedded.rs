//! The private `PostgreSQL` that runs where no database was given.
//!
//! A cluster in a data directory, started with the machine's own programs, kept between runs.
//! Two file locks say who may do what. One process *owns* the server and holds `lock` for life;
//! others *attach*. All hold `users` shared, so that the last one out stops the server and a
//! short command cannot take it away from a daemon that attached to it.
//!
//! Whatever is killed, the next start copes: a half-made cluster is made anew, an orphaned
//! postmaster adopted, a stale `postmaster.pid` left for the server to judge.
//!
//! File calls here block, but are few and short. Start reading at `Embedded::start`.

mod account;
mod binaries;
mod cluster;
mod directory;
mod endpoint;
mod error;
mod reaper;
mod upkeep;

use std::{
    ffi::OsString,
    fmt,
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::SecretString;
use sqlx::postgres::PgConnectOptions;
use tokio::time::{Instant, sleep};

use self::{
    account::Account,
    binaries::Binaries,
    cluster::Cluster,
    directory::Directory,
    endpoint::{Answer, NAME, Server},
    reaper::Reaper,
};

pub use self::error::EmbeddedError;

/// Between two looks at something that another process is doing.
const POLL: Duration = Duration::from_millis(100);
/// How long an owner may take to make and start the cluster before we give up attaching.
const ATTACH_TIMEOUT: Duration = Duration::from_mins(1);

/// How to run the private `PostgreSQL`. `config.rs` fills it; this module reads no environment.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// Where everything lives, such as `./.eventloader`; created if missing.
    pub data_dir: PathBuf,
    /// Whether the user chose `data_dir`. A default that another user cannot reach, such as one
    /// below `/root`, is moved to `/var/lib/eventloader/<hash>`; a chosen one is an error.
    pub data_dir_explicit: bool,
    /// Directory of `initdb`, `pg_ctl` and `postgres` (`EVENTLOADER_PG_BIN`); then the only one.
    pub bin_dir: Option<PathBuf>,
    /// The value of `PATH`, to find the programs in.
    pub path: Option<OsString>,
    /// Whether the data matter.
    pub durability: Durability,
}

/// Whether the data of a cluster matter. Fixed when the cluster is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Survives a power cut.
    Durable,
    /// Without fsync, only for tests and the demo: a power cut may destroy it.
    Disposable,
}

/// A running private `PostgreSQL`, owned or attached.
///
/// Dropped without [`stop`](Self::stop) (a panic, a killed process), the server runs on, and the
/// next start adopts it.
pub struct Embedded {
    directory: Directory,
    options: EmbeddedOptions,
    server: Server,
    role: Role,
    /// Our share in the lock of the users.
    users: File,
    reaper: Option<Reaper>,
}

/// What this process is to the server.
enum Role {
    /// It started or adopted it. Holds the lock.
    Owner { lock: File, binaries: Binaries },
    /// Another process did.
    Attached,
}

impl Embedded {
    /// Starts the cluster, made if missing, or attaches to the one that another process runs.
    ///
    /// Waits up to 60 s for another process that is starting it, up to 30 s for the remains of a
    /// killed server to go, up to 10 min for recovery.
    ///
    /// # Errors
    /// [`EmbeddedError`], whose messages say what to do; `exit_code` tells 78 from 69.
    ///
    /// # Cancel safety
    /// May be dropped at any time: a half-made cluster is removed and a started server adopted by
    /// the next start.
    pub async fn start(options: EmbeddedOptions) -> Result<Self, EmbeddedError> {
        let directory = Directory::prepare(&options).await?;
        let deadline = Instant::now() + ATTACH_TIMEOUT;
        loop {
            // Both locks: while the last user stops the server, `users` is not to be had.
            if let Some(users) = directory.try_use()? {
                if let Some(lock) = directory.try_own()? {
                    return Self::own(directory, options, lock, users).await;
                }
                if let Some(server) = find_running(&directory).await? {
                    let (role, reaper) = (Role::Attached, None);
                    let attached = Self { directory, options, server, role, users, reaper };
                    attached.announce("attached to the private PostgreSQL of another process");
                    return Ok(attached);
                }
            }
            if Instant::now() >= deadline {
                let what = "waiting for the process that starts PostgreSQL here".to_owned();
                let (limit, log) = (ATTACH_TIMEOUT, directory.log());
                return Err(EmbeddedError::Timeout { what, limit, log });
            }
            sleep(POLL).await;
        }
    }

    /// Makes the cluster if there is none, and brings it up.
    async fn own(
        directory: Directory,
        options: EmbeddedOptions,
        lock: File,
        users: File,
    ) -> Result<Self, EmbeddedError> {
        directory.remove_leftovers();
        if let Account::Other { uid, .. } = directory.account {
            tracing::info!(uid, "PostgreSQL refuses root and runs as another user");
        }
        let binaries = find_binaries(&directory, &options).await?;
        let durability = options.durability;
        let cluster = Cluster { directory: &directory, binaries: &binaries, durability, port: 0 };
        let is_new = directory.cluster_major()?.is_none();
        let password = match directory.password()? {
            Some(password) => password,
            None if is_new => directory.create_password()?,
            None => return Err(directory.damaged("its password file pgpass is gone")),
        };
        // Running it without fsync, or removing it, would cost someone their data.
        if !is_new && options.durability == Durability::Disposable && !directory.is_disposable() {
            return Err(directory.not_disposable());
        }
        if is_new {
            directory.mark(options.durability)?;
            tracing::info!(data_dir = %directory.root().display(), "making a PostgreSQL cluster");
            cluster.initialise(&password).await?;
        }
        let server = cluster.bring_up(password).await?;
        let (role, reaper) = (Role::Owner { lock, binaries }, None);
        let owned = Self { directory, options, server, role, users, reaper };
        owned.announce("private PostgreSQL is running");
        Ok(owned)
    }

    /// Options to connect as superuser `eventloader` to database `eventloader`.
    ///
    /// Their `Debug` shows the password: do not log them.
    pub fn connect_options(&self) -> PgConnectOptions {
        self.server.connect_options()
    }

    /// The same as a URL, for sqlx and libpq (psql) alike, also for a unix socket.
    pub fn url(&self) -> SecretString {
        self.server.url()
    }

    /// Whether this process started or adopted the server; false if it attached.
    pub fn is_owner(&self) -> bool {
        matches!(self.role, Role::Owner { .. })
    }

    /// Where everything lives: absolute, without links, and possibly not the one asked for.
    pub fn data_dir(&self) -> &Path {
        self.directory.root()
    }

    /// Version of the server, such as `15.18`.
    pub fn version(&self) -> &str {
        &self.server.version
    }

    /// A shell command that opens psql. It names the password file, not the password.
    pub fn psql_command(&self) -> String {
        let quote = |path: &Path| shell_quote(&path.to_string_lossy());
        let psql = match &self.role {
            Role::Owner { binaries, .. } => Some(binaries.program("psql")),
            Role::Attached => None,
        };
        let endpoint = &self.server.endpoint;
        format!(
            "PGPASSFILE={} {} -h {} -p {} -U {NAME} -d {NAME}",
            quote(&self.directory.password_file()),
            quote(&psql.filter(|psql| psql.is_file()).unwrap_or_else(|| "psql".into())),
            shell_quote(&endpoint.host()),
            endpoint.port(),
        )
    }

    /// Binds the life of a disposable cluster to this process: when it ends, however it dies, the
    /// server is killed and **the data directory removed**. Call it in a tokio runtime, once.
    ///
    /// # Errors
    /// `NotDisposable` for durable or attached clusters; `Spawn` if there is no `/bin/sh`.
    pub fn reap_with_process(&mut self) -> Result<(), EmbeddedError> {
        let Role::Owner { binaries, .. } = &self.role else {
            return Err(self.directory.not_disposable());
        };
        if self.options.durability != Durability::Disposable {
            return Err(self.directory.not_disposable());
        }
        let reaper = Reaper::spawn(&self.directory, &binaries.program("pg_ctl"));
        let program = PathBuf::from("/bin/sh");
        self.reaper = Some(reaper.map_err(|source| EmbeddedError::Spawn { program, source })?);
        Ok(())
    }

    /// Leaves the server, and stops it if nobody else uses it; close your connections first.
    ///
    /// An owner leaves it running for those attached. One attached stops it only if it is the
    /// last and the owner is gone. Takes up to 90 s.
    ///
    /// # Errors
    /// `Stop` or `Timeout` if the server still runs; the next start adopts it.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        let Self { directory, options, role, users, reaper, .. } = self;
        // Our share goes first: of two that leave at once, one sees the other gone.
        drop(users);
        let (_lock, binaries) = match role {
            Role::Owner { lock, binaries } => (lock, binaries),
            Role::Attached => match directory.try_own()? {
                Some(lock) => (lock, find_binaries(&directory, &options).await?),
                None => return Ok(()),
            },
        };
        let Some(_alone) = directory.try_exclude_users()? else {
            tracing::info!("leaving the private PostgreSQL to the processes attached to it");
            return Ok(());
        };
        let durability = options.durability;
        Cluster { directory: &directory, binaries: &binaries, durability, port: 0 }.stop().await?;
        tracing::info!(data_dir = %directory.root().display(), "private PostgreSQL is stopped");
        match reaper {
            Some(reaper) => reaper.finish().await.map_err(directory::unwritable(directory.root())),
            None => Ok(()),
        }
    }

    fn announce(&self, message: &str) {
        tracing::info!(
            data_dir = %self.data_dir().display(),
            version = %self.version(),
            psql = %self.psql_command(),
            "{message}"
        );
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded")
            .field("data_dir", &self.data_dir())
            .field("endpoint", &self.server.endpoint)
            .field("version", &self.version())
            .field("is_owner", &self.is_owner())
            .finish_non_exhaustive()
    }
}

/// Looks for the server of another process; nothing while it is not ready yet.
async fn find_running(directory: &Directory) -> Result<Option<Server>, EmbeddedError> {
    let Some(password) = directory.password()? else { return Ok(None) };
    let Some(postmaster) = directory.postmaster() else { return Ok(None) };
    let endpoint = postmaster.endpoint;
    match endpoint.ask(&password).await {
        Answer::Ready { version } => Ok(Some(Server { endpoint, password, version })),
        Answer::NoDatabase | Answer::Starting | Answer::Silent => Ok(None),
        Answer::Refused(source) => Err(directory.refused(source)),
    }
}

async fn find_binaries(
    directory: &Directory,
    options: &EmbeddedOptions,
) -> Result<Binaries, EmbeddedError> {
    let path = directory.cluster();
    let cluster = directory.cluster_major()?.map(|major| (path.as_path(), major));
    Binaries::find(options, directory.account, cluster).await
}

/// Quotes a word for a POSIX shell, unless it is plain.
fn shell_quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%".contains(c);
    if word.chars().all(plain) && !word.is_empty() {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_odd_words_are_quoted() {
        for (word, want) in
            [("/a/b-1.c", "/a/b-1.c"), ("a b", "'a b'"), ("$(x)'", r"'$(x)'\'''"), ("", "''")]
        {
            assert_eq!(shell_quote(word), want);
        }
    }
}
