//! The data directory: what lies where, whose it is, its locks and its password.
//!
//! ```text
//! .eventloader/            0700; 0711 and root's, when root runs PostgreSQL as someone else
//!   lock                   held exclusively by the owner of the server, for life
//!   users                  held shared by every process that uses the server, for life
//!   pgpass                 0600, the only copy of the password
//!   disposable             marks a cluster made without care for its data
//!   postgresql.conf        our settings, written at every start
//!   postgres.log           server log; .1 is the one before
//!   socket/  cluster/      0700, of the account that runs PostgreSQL
//!   init-<uuid>/           a cluster in the making
//! ```
//!
//! As root we never write through a path that another user could have turned into a symbolic
//! link: files are made with `O_EXCL` and renamed, or left as they are.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    },
    path::{self, Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::{
    Durability, EmbeddedError, EmbeddedOptions,
    account::{Account, Refusal},
    endpoint::{NAME, Postmaster},
};

/// Where root's unreachable default directory goes.
const FALLBACK_PARENT: &str = "/var/lib/eventloader";
/// The server log starts anew at the first start beyond this size.
const LOG_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// A data directory that exists and that the account can enter.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    pub(super) account: Account,
}

impl Directory {
    /// Chooses the directory and the account, and creates the directory.
    ///
    /// # Errors
    /// `ForeignOwner`, `RootOwned`, `Unreachable`, `Unwritable`; `Spawn` if we are root without
    /// the right to become another user.
    pub(super) async fn prepare(options: &EmbeddedOptions) -> Result<Self, EmbeddedError> {
        let asked = path::absolute(&options.data_dir).map_err(unwritable(&options.data_dir))?;
        let account = choose_account(&asked)?;
        if account.can_enter(nearest_existing(&asked)).await? {
            return Self::create(&asked, account).await;
        }
        // A cluster that is there already must not be hidden by an empty one elsewhere.
        if options.data_dir_explicit || asked.join("cluster").exists() {
            return Err(unreachable(&asked, account));
        }
        let root = fallback(&asked);
        tracing::info!(
            asked = %asked.display(), data_dir = %root.display(),
            "PostgreSQL refuses root and no other user can enter the data directory; using another"
        );
        let account = choose_account(&root)?;
        Self::create(&root, account).await
    }

    async fn create(root: &Path, account: Account) -> Result<Self, EmbeddedError> {
        let mode = if account == Account::Ours { 0o700 } else { 0o711 };
        create_missing(root, mode).map_err(unwritable(root))?;
        // One name for one directory, whatever links lead to it.
        let root = fs::canonicalize(root).map_err(unwritable(root))?;
        if !account.can_enter(&root).await? {
            return Err(unreachable(&root, account));
        }
        Ok(Self { root, account })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn cluster(&self) -> PathBuf {
        self.root.join("cluster")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.root.join("socket")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.root.join("postgres.log")
    }

    pub(super) fn password_file(&self) -> PathBuf {
        self.root.join("pgpass")
    }

    /// Takes the lock of the owner; nothing if another process has it.
    pub(super) fn try_own(&self) -> Result<Option<File>, EmbeddedError> {
        self.try_lock("lock", File::try_lock)
    }

    /// Joins the users of the server; nothing while its owner is stopping it.
    pub(super) fn try_use(&self) -> Result<Option<File>, EmbeddedError> {
        self.try_lock("users", File::try_lock_shared)
    }

    /// Excludes all users; nothing if there are any.
    pub(super) fn try_exclude_users(&self) -> Result<Option<File>, EmbeddedError> {
        self.try_lock("users", File::try_lock)
    }

    /// The kernel drops the lock with the process, however it dies; children do not inherit it.
    fn try_lock(
        &self,
        name: &str,
        lock: fn(&File) -> Result<(), TryLockError>,
    ) -> Result<Option<File>, EmbeddedError> {
        let path = self.root.join(name);
        let open = || {
            drop(self.create_file(&path)?);
            OpenOptions::new().read(true).write(true).open(&path)
        };
        let file = open().map_err(unwritable(&path))?;
        match lock(&file) {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(EmbeddedError::Unwritable { path, source }),
        }
    }

    /// Reads the password; nothing if none was made yet.
    pub(super) fn password(&self) -> Result<Option<SecretString>, EmbeddedError> {
        let path = self.password_file();
        match fs::read_to_string(&path) {
            Ok(line) => Ok(line.trim().rsplit(':').next().map(SecretString::from)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(EmbeddedError::Unwritable { path, source }),
        }
    }

    /// Makes the password, 244 random bits, durable before a cluster can depend on it.
    pub(super) fn create_password(&self) -> Result<SecretString, EmbeddedError> {
        let password = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        self.replace_file(&self.password_file(), &format!("*:*:*:{NAME}:{password}\n"), 0o600)?;
        Ok(password.into())
    }

    /// Writes a password file that `initdb`, running as the account, can read.
    pub(super) fn hand_password(
        &self,
        path: &Path,
        password: &SecretString,
    ) -> Result<(), EmbeddedError> {
        self.replace_file(path, password.expose_secret(), 0o600)?;
        self.account.take(path).map_err(unwritable(path))
    }

    /// Writes a whole file or leaves the old one, also across a power cut.
    pub(super) fn replace_file(
        &self,
        path: &Path,
        text: &str,
        mode: u32,
    ) -> Result<(), EmbeddedError> {
        let temporary = path.with_extension(format!("{}.new", Uuid::new_v4().simple()));
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            self.share_ownership(&file)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            sync_directory(path.parent().unwrap_or(&self.root))
        };
        write().map_err(|error| {
            // Best effort: what stays is removed by the next owner.
            drop(fs::remove_file(&temporary));
            unwritable(path)(error)
        })
    }

    /// Creates a directory for the account alone, or leaves the one that is there.
    pub(super) fn create_private(&self, path: &Path) -> Result<(), EmbeddedError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => self.account.take(path),
        }
        .map_err(unwritable(path))
    }

    /// Starts a new server log if the old one is big. Returns the log's length in bytes.
    pub(super) fn prepare_log(&self) -> Result<u64, EmbeddedError> {
        let log = self.log();
        let prepare = || {
            if fs::symlink_metadata(&log).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
                fs::rename(&log, self.root.join("postgres.log.1"))?;
            }
            if self.create_file(&log)?.is_some() {
                self.account.take(&log)?;
            }
            Ok(fs::symlink_metadata(&log)?.len())
        };
        prepare().map_err(unwritable(&log))
    }

    /// Removes what a killed start left half made. Only for the owner.
    pub(super) fn remove_leftovers(&self) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let removed = match name.as_bytes() {
                name if name.starts_with(b"init-") => fs::remove_dir_all(&path),
                name if name.ends_with(b".new") => fs::remove_file(&path),
                _ => Ok(()),
            };
            if let Err(error) = removed {
                tracing::warn!(path = %path.display(), %error, "cannot remove what a killed start left");
            }
        }
    }

    /// Notes for good what the cluster about to be made is for.
    pub(super) fn mark(&self, durability: Durability) -> Result<(), EmbeddedError> {
        let marker = self.root.join("disposable");
        match durability {
            Durability::Disposable => self.create_file(&marker).map(drop),
            // A killed start may have left one.
            Durability::Durable if self.is_disposable() => fs::remove_file(&marker),
            Durability::Durable => Ok(()),
        }
        .map_err(unwritable(&marker))
    }

    pub(super) fn is_disposable(&self) -> bool {
        self.root.join("disposable").exists()
    }

    /// Major version of the cluster; nothing if there is no cluster yet.
    ///
    /// # Errors
    /// `Damaged` for a cluster without `PG_VERSION`.
    pub(super) fn cluster_major(&self) -> Result<Option<u32>, EmbeddedError> {
        let cluster = self.cluster();
        if !cluster.try_exists().map_err(unwritable(&cluster))? {
            return Ok(None);
        }
        let version = fs::read_to_string(cluster.join("PG_VERSION"));
        match version.ok().and_then(|version| version.trim().parse().ok()) {
            Some(major) => Ok(Some(major)),
            None => Err(self.damaged("it has no readable PG_VERSION")),
        }
    }

    pub(super) fn damaged(&self, reason: &str) -> EmbeddedError {
        EmbeddedError::Damaged { cluster: self.cluster(), reason: reason.to_owned() }
    }

    pub(super) fn not_disposable(&self) -> EmbeddedError {
        EmbeddedError::NotDisposable { path: self.root.clone() }
    }

    pub(super) fn refused(&self, source: sqlx::Error) -> EmbeddedError {
        let (cluster, password_file) = (self.cluster(), self.password_file());
        EmbeddedError::Refused { cluster, password_file, source }
    }

    /// What `postmaster.pid` says, if its process is alive. The file may be stale and the process
    /// another one: only an answer to our password proves the server to be ours.
    pub(super) fn postmaster(&self) -> Option<Postmaster> {
        let text = fs::read_to_string(self.cluster().join("postmaster.pid")).ok()?;
        let postmaster = Postmaster::parse(&text)?;
        let pid = rustix::process::Pid::from_raw(postmaster.pid)?;
        let alive = rustix::process::test_kill_process(pid);
        (alive != Err(rustix::io::Errno::SRCH)).then_some(postmaster)
    }

    /// Creates an empty file 0600; nothing if it exists.
    fn create_file(&self, path: &Path) -> io::Result<Option<File>> {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(file) => self.share_ownership(&file).map(|()| Some(file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As root in a user's directory: gives what we make to that user, who may run us next.
    fn share_ownership(&self, file: &File) -> io::Result<()> {
        if self.account == Account::Ours {
            return Ok(());
        }
        let root = fs::metadata(&self.root)?;
        fchown(file, Some(root.uid()), Some(root.gid()))
    }
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub(super) fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> EmbeddedError {
    let path = path.to_owned();
    |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            EmbeddedError::DiskFull { path }
        }
        _ => EmbeddedError::Unwritable { path, source },
    }
}

fn unreachable(path: &Path, account: Account) -> EmbeddedError {
    let uid = match account {
        Account::Ours => rustix::process::geteuid().as_raw(),
        Account::Other { uid, .. } => uid,
    };
    EmbeddedError::Unreachable { path: path.to_owned(), uid }
}

fn choose_account(root: &Path) -> Result<Account, EmbeddedError> {
    let cluster = root.join("cluster");
    let euid = rustix::process::geteuid().as_raw();
    let root_owner = fs::metadata(root).ok().map(|root| (root.uid(), root.gid()));
    let owner = match fs::metadata(&cluster) {
        Ok(metadata) => Some((metadata.uid(), metadata.gid())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        // The directory of another user: enough to say whose.
        Err(_) if root_owner.is_some_and(|owner| owner.0 != euid) => root_owner,
        Err(source) => return Err(EmbeddedError::Unwritable { path: cluster, source }),
    };
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    Account::choose(euid, owner, &passwd).map_err(|refusal| match refusal {
        Refusal::RootOwned => EmbeddedError::RootOwned { cluster },
        Refusal::ForeignOwner { owner } => {
            // Where root runs PostgreSQL as someone else, root is who to run us as.
            let owner = root_owner.map_or(owner, |root_owner| root_owner.0);
            EmbeddedError::ForeignOwner { cluster, owner, uid: euid }
        }
    })
}

fn nearest_existing(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"))
}

/// Creates `path` and its missing parents, all with `mode` whatever the umask.
fn create_missing(path: &Path, mode: u32) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
    for directory in missing.into_iter().rev() {
        match DirBuilder::new().mode(mode).create(directory) {
            Ok(()) => fs::set_permissions(directory, fs::Permissions::from_mode(mode))?,
            // Another process of ours, starting at the same time.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A reachable stand-in for `asked`, the same one every time: FNV-1a of the path, because the
/// hashers of the standard library may change between releases.
fn fallback(asked: &Path) -> PathBuf {
    let hash = asked.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    Path::new(FALLBACK_PARENT).join(format!("{hash:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fallback_is_a_fixed_function_of_the_path() {
        assert_eq!(fallback(Path::new("a")), Path::new("/var/lib/eventloader/af63dc4c8601ec8c"));
        assert_ne!(fallback(Path::new("/root/a")), fallback(Path::new("/root/b")));
    }
}
