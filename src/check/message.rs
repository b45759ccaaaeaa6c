//! Everything `eventloader check` can say, and what to do about it. docs/check.md is made from this table.

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Looked at, and well.
    Ok,
    /// What holds for a source, and what does not.
    Promise,
    /// Works, and deserves a look.
    Warning,
    /// Keeps `run` from doing its work.
    Error,
}

impl Level {
    /// The word in the output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Promise => "promise",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One kind of finding.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Its stable name.
    pub code: &'static str,
    /// How much it matters.
    pub level: Level,
    /// What it means.
    pub meaning: &'static str,
    /// What to do, where that is always the same.
    pub fix: Option<&'static str>,
}

macro_rules! messages {
    ($($name:ident = $level:ident $code:literal, $meaning:literal $(, $fix:literal)?;)*) => {
        $(
            #[doc = concat!("`", $code, "`")]
            pub static $name: Message =
                Message { code: $code, level: Level::$level, meaning: $meaning, fix: fix!($($fix)?) };
        )*
        /// All of them.
        pub static ALL: &[&Message] = &[$(&$name),*];
    };
}

macro_rules! fix {
    () => {
        None
    };
    ($fix:literal) => {
        Some($fix)
    };
}

messages! {
    CONFIGURATION_OK = Ok "configuration-ok",
        "The configuration was found and everything in it is right.";
    CONFIGURATION_WRONG = Error "configuration-wrong",
        "Something in the configuration is wrong; nothing else is looked at before it is right.";
    CONFIGURATION_MISSING = Warning "configuration-missing",
        "No configuration file was named, and none is in the usual places.",
        "write one with `eventloader init`, or name it with --config";
    NO_SOURCES = Warning "no-sources",
        "The configuration has no source, so `run` has nothing to load.",
        "add a [sources.NAME]";
    OPEN_FILES_SCARCE = Warning "open-files-scarce",
        "The process may open fewer files and sockets than the configuration can need at once.",
        "raise the limit (`ulimit -n`, LimitNOFILE= in the systemd unit) or lower [loader] concurrency";
    LOCALHOST_IN_CONTAINER = Error "localhost-in-container",
        "Nothing answers at a URL that says localhost, and this is a container: there localhost is the container itself, not \
         the machine around it.",
        "use the name of the service (in compose the key under services:), or host.docker.internal for the machine itself";
    FILE_MISSING = Warning "file-missing",
        "The file of a `file` source is not there. It is waited for, and read from its beginning once it appears.",
        "check the path if the file should be there already";
    FILE_UNREADABLE = Error "file-unreadable",
        "The file of a `file` source is there and cannot be read.",
        "let the user that runs eventloader read it (under systemd: SupplementaryGroups=)";
    PROGRAM_MISSING = Error "program-missing",
        "The program of a `command` source was not found or may not be run.",
        "check the first entry of `command`, install the program, or make it executable";
    DATABASE_OK = Ok "database-ok",
        "The database answers, and may be used as it is configured.";
    DATABASE_UNREACHABLE = Error "database-unreachable",
        "The database does not answer, or refuses this user.";
    DATABASE_NOT_CONFIGURED = Error "database-not-configured",
        "No database is named, and the embedded one is switched off.";
    EMBEDDED_UNUSABLE = Error "embedded-unusable",
        "No database is named, and the embedded PostgreSQL cannot be started.";
    DATABASE_TOO_OLD = Error "database-too-old",
        "The server is older than PostgreSQL 15.",
        "use PostgreSQL 15 to 18";
    DATABASE_TOO_NEW = Warning "database-too-new",
        "The server is newer than the versions this eventloader was made for.",
        "look for a newer eventloader; this one was made for PostgreSQL 15 to 18";
    DATABASE_READ_ONLY = Error "database-read-only",
        "The server is a standby, or the user's transactions are read-only by default: nothing can be stored.",
        "connect to the primary";
    DATABASE_UNENCRYPTED = Warning "database-unencrypted",
        "The connection to a database on another machine is not encrypted, or its certificate is not verified.",
        "add ?sslmode=verify-full to the URL (and sslrootcert=FILE for a private CA)";
    POOLER_IN_THE_WAY = Error "pooler-in-the-way",
        "Two connections share one server session: a pooler in transaction mode stands between. Prepared statements and \
         session settings get mixed up there.",
        "connect to PostgreSQL directly, or set pool_mode = session for eventloader (its database in the pooler may have a pool \
         of its own)";
    SESSION_SETTINGS_LOST = Warning "session-settings-lost",
        "The settings that eventloader gives each connection do not reach the server: a pooler leaves them out. What it does \
         is right without them, but a statement that hangs is not ended.",
        "connect to PostgreSQL directly, or give the user the limits: `alter role NAME set statement_timeout = '30s'`, and \
         lock_timeout = '10s'";
    CONNECTIONS_SCARCE = Warning "connections-scarce",
        "The server has fewer connections left than this instance may open.",
        "lower [database] max_connections, or raise max_connections of the server";
    CLOCK_SKEWED = Warning "clock-skewed",
        "This machine's clock and the database's differ. Nothing is decided by this machine's clock; its log lines carry it.",
        "set the clock (NTP) if log lines are to be compared";
    SCHEMA_OK = Ok "schema-ok",
        "The schema is the one this binary needs.";
    SCHEMA_PENDING = Ok "schema-pending",
        "The schema is missing or older than this binary, and the next start of `run` (or `eventloader migrate`) brings it \
         up to date.";
    SCHEMA_WRONG = Error "schema-wrong",
        "The schema is newer than this binary, or not one that it made, or may not be migrated by this user.";
    RIGHTS_MISSING = Error "rights-missing",
        "The user lacks rights on tables or functions of schema eventloader.";
    STORAGE_OK = Ok "storage-ok",
        "The other database, named in `[storage]`, answers.";
    STORAGE_UNREACHABLE = Error "storage-unreachable",
        "The other database, named in `[storage]`, does not answer, or refuses this user.";
    SOURCE_OK = Ok "source-ok",
        "The source was asked for an event and answered well. The answer was thrown away; cursors stay where they are.";
    SOURCE_IN_USE = Ok "source-in-use",
        "An instance is loading the source at this moment; what it last met is what is shown.";
    SOURCE_NOT_ASKED = Warning "source-not-asked",
        "The source was not asked: without the database, or with a schema that cannot be read as it is, nobody knows \
         whether an instance asks it at the same moment.",
        "mend what is said of the database and the schema first";
    SOURCE_FAILED = Error "source-failed",
        "The source was asked and did not answer with a valid page.";
    SOURCE_WEAKER = Warning "source-weaker",
        "Something about the source weakens its promise, or makes reading it slow.";
    SOURCE_PAUSED = Warning "source-paused",
        "An operator paused the source.";
    SOURCE_HELD = Error "source-held",
        "The outcome of a request is unknown, and its window waits for a decision.";
    SOURCE_BACKING_OFF = Warning "source-backing-off",
        "The source may not be asked yet: it refused or failed, or asked for a pause.";
    SOURCE_NAME_TAKEN = Error "source-name-taken",
        "The stream of this name belongs to an application.",
        "give the source another name";
    PROMISE = Promise "promise",
        "What holds for the events of this source.";
}

/// The table as a page of documentation.
pub fn markdown() -> String {
    let mut page = String::from(
        "# What `eventloader check` says\n\n\
         `eventloader check` looks at the configuration, the machine, the database and every source, and changes nothing: \
         one line for each finding, with what was met and what to do. `--offline` looks at the configuration and the machine \
         alone, `--json` prints the findings as an array of `{level, code, subject, what, fix}`.\n\n\
         It exits with 0 when nothing keeps `run` from doing its work, with 78 when the configuration is wrong, with 69 \
         when the database cannot be reached, and with 1 when something else is an error.\n\n\
         A source is asked for one event, in its turn: with its lease, and at least `min_interval` after the last request \
         of any instance. The request stands in the request log as `retried`, closed by who ran the check; its answer is \
         thrown away.\n\n\
         This page is made from the program (`make docs`).\n",
    );
    for message in ALL {
        let fix = match message.fix {
            Some(fix) => format!(" What to do: {fix}."),
            None if message.level >= Level::Warning => {
                " The line itself says what to do.".to_owned()
            }
            None => String::new(),
        };
        let level = message.level.as_str();
        let (code, meaning) = (message.code, message.meaning);
        page.push_str(&["\n## ", code, " (", level, ")\n\n", meaning, &fix, "\n"].concat());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique() {
        let mut codes: Vec<_> = ALL.iter().map(|message| message.code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ALL.len());
    }
}
