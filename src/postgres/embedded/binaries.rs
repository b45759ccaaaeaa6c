//! The machine's own `PostgreSQL` programs: where they are and which version they have.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    EmbeddedError, EmbeddedOptions,
    account::{Account, run},
};

/// Oldest major version the schema supports.
const MAJOR_MIN: u32 = 15;
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
/// Directories with one installation per major version: parent, name before the number, the rest.
const VERSIONED: [(&str, &str, &str); 7] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// A directory with `initdb`, `pg_ctl` and `postgres` that the account can run.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    directory: PathBuf,
}

impl Binaries {
    /// Finds the programs for `cluster` (its path and major version), or the first good ones for
    /// a new cluster: `bin_dir` alone if given, else `PATH`, `pg_config`, then the usual places,
    /// newest first.
    ///
    /// # Errors
    /// `NoBinaries` or `WrongMajor`, both naming what was found.
    pub(super) async fn find(
        options: &EmbeddedOptions,
        account: Account,
        cluster: Option<(&Path, u32)>,
    ) -> Result<Self, EmbeddedError> {
        let mut rejected = Vec::new();
        for directory in candidates(options, account).await {
            match probe(&directory, account).await {
                Ok(major) if suits(major, cluster.map(|(_, major)| major)) => {
                    return Ok(Self { directory });
                }
                Ok(major) => rejected.push(format!("{}: version {major}", directory.display())),
                Err(reason) => rejected.push(format!("{}: {reason}", directory.display())),
            }
        }
        let rejected = match rejected.as_slice() {
            [] => String::new(),
            found => format!(" (found {})", found.join("; ")),
        };
        Err(match cluster {
            Some((path, major)) => {
                EmbeddedError::WrongMajor { cluster: path.to_owned(), major, rejected }
            }
            None => EmbeddedError::NoBinaries { minimum: MAJOR_MIN, rejected },
        })
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Directories worth a look, in order of preference, each once.
async fn candidates(options: &EmbeddedOptions, account: Account) -> Vec<PathBuf> {
    if let Some(directory) = &options.bin_dir {
        return vec![directory.clone()];
    }
    let on_path = options.path.as_deref().map(split_path).unwrap_or_default();
    let mut found = on_path.clone();
    if let Some(pg_config) = on_path.iter().map(|dir| dir.join("pg_config")).find(|p| p.is_file()) {
        let mut command = account.command(&pg_config, Path::new("/"));
        if let Ok(answer) = run(command.arg("--bindir"), PROBE_TIMEOUT, &pg_config).await {
            found.push(PathBuf::from(OsString::from(answer.text.trim())));
        }
    }
    for (parent, prefix, rest) in VERSIONED {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let names = newest_first(names, prefix).into_iter();
        found.extend(names.map(|name| Path::new(parent).join(name).join(rest)));
    }
    found.push(PathBuf::from("/usr/local/pgsql/bin"));
    let mut directories: Vec<PathBuf> = Vec::new();
    for directory in found {
        if directory.join("initdb").is_file() && !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    directories
}

/// Asks the programs in `directory` for their major version, as the account that will run them:
/// programs below `/root` work for root alone.
async fn probe(directory: &Path, account: Account) -> Result<u32, String> {
    for name in ["initdb", "pg_ctl", "postgres"] {
        if !directory.join(name).is_file() {
            return Err(format!("no {name}"));
        }
    }
    let program = directory.join("postgres");
    let mut command = account.command(&program, Path::new("/"));
    match run(command.arg("--version"), PROBE_TIMEOUT, &program).await {
        Ok(answer) => parse_major(&answer.text).ok_or_else(|| "unknown version".to_owned()),
        Err(EmbeddedError::Spawn { source, .. }) => Err(source.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn suits(major: u32, wanted: Option<u32>) -> bool {
    wanted.map_or(major >= MAJOR_MIN, |wanted| major == wanted)
}

/// Splits a `PATH`. Relative entries are left out: as root they would run what lies around.
fn split_path(path: &OsStr) -> Vec<PathBuf> {
    let entries = path.as_bytes().split(|byte| *byte == b':');
    entries
        .map(|entry| PathBuf::from(OsStr::from_bytes(entry)))
        .filter(|p| p.is_absolute())
        .collect()
}

/// Names that are `prefix` and a number, highest number first.
fn newest_first(names: impl Iterator<Item = String>, prefix: &str) -> Vec<String> {
    let number = |name: &str| name.strip_prefix(prefix)?.parse::<u32>().ok();
    let mut numbered: Vec<(u32, String)> =
        names.filter_map(|name| Some((number(&name)?, name))).collect();
    numbered.sort_by(|a, b| b.cmp(a));
    numbered.into_iter().map(|(_, name)| name).collect()
}

/// Reads the major version from the answer to `--version`.
fn parse_major(answer: &str) -> Option<u32> {
    let version = answer.split_once("(PostgreSQL) ")?.1;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_is_read_from_releases_and_previews() {
        for (answer, want) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres (PostgreSQL) devel", None),
            ("sh: not found", None),
        ] {
            assert_eq!(parse_major(answer), want, "{answer}");
        }
    }

    #[test]
    fn installations_are_ordered_by_number_not_by_text() {
        let names = ["9", "15", "9.6", "pgsql-17", "100", "x"].map(str::to_owned);
        assert_eq!(newest_first(names.into_iter(), ""), ["100", "15", "9"]);
        let names = ["pgsql-15", "pgsql-17", "lib", "pgsql-x"].map(str::to_owned);
        let want = ["pgsql-17", "pgsql-15"];
        assert_eq!(newest_first(names.into_iter(), "pgsql-"), want);
    }

    #[test]
    fn an_existing_cluster_wants_its_own_major() {
        assert!(suits(15, None) && suits(18, None) && !suits(14, None));
        assert!(suits(15, Some(15)) && !suits(16, Some(15)));
    }

    #[test]
    fn relative_path_entries_are_ignored() {
        let want = vec![PathBuf::from("/usr/bin"), PathBuf::from("/bin")];
        assert_eq!(split_path(OsStr::new("/usr/bin::.:bin:/bin")), want);
    }
}
