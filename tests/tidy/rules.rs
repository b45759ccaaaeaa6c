//! The rules.

use std::path::Path;

use crate::tidy::Breach;
use crate::tidy::reading::{File, has_ending};

pub(crate) struct Rule {
    pub(crate) name: &'static str,
    /// What holds, for the message.
    pub(crate) says: &'static str,
    pub(crate) check: fn(&[File]) -> Vec<Breach>,
}

pub(crate) const RULES: &[Rule] = &[
    Rule {
        name: "sql",
        says: "SQL is in src/store/ and src/postgres/ only; elsewhere sqlx is at most a pool, an executor or an error",
        check: sql,
    },
    Rule {
        name: "sources",
        says: "sources and publishers know neither the store nor each other, only the traits and the words of events",
        check: sources,
    },
    Rule {
        name: "decisions",
        says: "the decisions in src/loader/ are pure: no async, no I/O, no clock, no randomness",
        check: decisions,
    },
    Rule {
        name: "environment",
        says: "the process environment is read in src/config/ only",
        check: environment,
    },
    Rule {
        name: "wall clock",
        says: "the database's clock decides; the local one is read only to judge the dates of a source that shows none, and \
               to be compared",
        check: wall_clock,
    },
    Rule {
        name: "spawn",
        says: "detached tasks are started in src/app.rs and src/shutdown.rs only; elsewhere use a JoinSet or a JoinMap",
        check: spawn,
    },
    Rule {
        name: "mod.rs",
        says: "a module with parts is foo.rs and foo/, not foo/mod.rs",
        check: mod_rs,
    },
    Rule {
        name: "machine paths",
        says: "no file names a directory of somebody's machine",
        check: machine_paths,
    },
    Rule {
        name: "registries",
        says: "packages come from crates.io, and no file names another registry or mirror",
        check: registries,
    },
    Rule {
        name: "migrations",
        says: "a migration is <14 digits>_<what>.sql, opens with a comment, and names the schema of all it makes",
        check: migrations,
    },
    Rule {
        name: "tables",
        says: "the tables and columns that users rely on exist under their names",
        check: tables,
    },
    Rule { name: "named files", says: "a file that is spoken of exists", check: named_files },
];

fn sources_of<'a>(files: &'a [File], folder: &str) -> impl Iterator<Item = &'a File> {
    files.iter().filter(move |file| file.path.starts_with(folder) && has_ending(&file.path, "rs"))
}

/// `src/sources/sql.rs` and its parts read other people's tables, which is their purpose.
const SQL_PLACES: &[&str] = &[
    "src/store.rs",
    "src/store/",
    "src/postgres.rs",
    "src/postgres/",
    "src/sources/sql.rs",
    "src/sources/sql/",
];

/// What may be named of sqlx elsewhere.
const SQLX_TYPES: &[&str] = &[
    "sqlx::PgPool",
    "sqlx::PgConnection",
    "sqlx::PgExecutor",
    "sqlx::Error",
    "sqlx::Connection",
    "sqlx::ConnectOptions",
    "sqlx::postgres::PgConnectOptions",
    "sqlx::postgres::PgSslMode",
];

fn sql(files: &[File]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in sources_of(files, "src/").filter(|file| !file.is_in(SQL_PLACES)) {
        for (line, path) in file.paths("sqlx") {
            let is_type = |t: &&str| path == **t || path.starts_with(&format!("{t}::"));
            if !SQLX_TYPES.iter().any(is_type) {
                breaches.push(file.breach(line, path));
            }
        }
        for (line, text) in file.strings.iter().filter(|(_, text)| is_statement(text)) {
            breaches.push(file.breach(*line, text.trim()));
        }
    }
    breaches
}

/// Whether a string begins like a statement and goes on like one.
fn is_statement(text: &str) -> bool {
    let text = text.trim_start().to_ascii_lowercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    let has = |word: &str| words.contains(&word);
    match words.as_slice() {
        ["select", ..] => has("from") || text.contains("eventloader."),
        ["insert", "into", ..] | ["delete", "from", ..] => true,
        ["update", ..] => has("set"),
        ["with", _, "as", ..] => text.contains('('),
        ["create" | "alter" | "drop", what, ..] => {
            ["table", "schema", "index", "function", "view", "role"].contains(what)
        }
        ["truncate" | "call" | "notify" | "listen", ..] => text.contains("eventloader."),
        _ => false,
    }
}

/// What a source or a publisher may know of the rest.
const WORDS_OF_EVENTS: &[&str] =
    &["clock", "dead_letter", "event", "failpoint", "mapping", "publisher", "source", "telemetry"];

/// What several sources use, each a file of its own that knows no source.
const SHARED: &[&str] = &["amqp_value", "tls"];

fn sources(files: &[File]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for folder in ["src/sources/", "src/publishers/"] {
        let module = folder.trim_end_matches('/').trim_start_matches("src/");
        for file in sources_of(files, folder) {
            let own = file.path.trim_start_matches(folder).trim_end_matches(".rs");
            let own = own.split('/').next().unwrap_or_default();
            let is_top = !file.path.trim_start_matches(folder).contains('/');
            for (line, path) in file.paths("crate") {
                let known = path.split("::").nth(1).unwrap_or_default();
                let is_of = |noun: &&str| path.starts_with(&format!("crate::{module}::{noun}"));
                let is_open = is_of(&own) || SHARED.iter().any(is_of);
                if !WORDS_OF_EVENTS.contains(&known) && !is_open {
                    breaches.push(file.breach(line, path));
                }
            }
            for (line, path) in file.paths("super") {
                let next = path.split("::").nth(1).unwrap_or_default();
                let is_sibling = NEIGHBOURS.contains(&next) && next != own;
                if is_top && is_sibling {
                    breaches.push(file.breach(line, path));
                }
            }
            if own != "sql" {
                let sqlx = file.paths("sqlx").into_iter();
                breaches.extend(sqlx.map(|(line, path)| file.breach(line, path)));
            }
        }
    }
    breaches
}

const NEIGHBOURS: &[&str] = &[
    "amqp",
    "command",
    "file",
    "http",
    "kafka",
    "memory",
    "rabbitmq_stream",
    "redis_stream",
    "sql",
    "webhook",
];

/// The files of `src/loader/` that perform instead of deciding.
const PERFORMERS: &[&str] = &[
    "src/loader/calls.rs",
    "src/loader/cycle_driver.rs",
    "src/loader/pace.rs",
    "src/loader/schedule.rs",
];

#[rustfmt::skip]
const IMPURE: &[&str] = &[
    "async", "await", "tokio", "sqlx", "reqwest", "rand", "chrono", "fs", "net", "env", "io", "thread", "process",
    "Instant", "SystemTime", "now_v7", "new_v4", "println", "eprintln", "tracing",
];

fn decisions(files: &[File]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in sources_of(files, "src/loader/").filter(|file| !file.is_in(PERFORMERS)) {
        for word in IMPURE {
            let lines = file.lines_with_word(word).into_iter();
            breaches.extend(lines.map(|line| file.breach(line, *word)));
        }
    }
    breaches
}

fn environment(files: &[File]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let places = &["src/config.rs", "src/config/"];
    for file in sources_of(files, "src/").filter(|file| !file.is_in(places)) {
        let paths = file.paths("std").into_iter().chain(file.paths("env"));
        let bad = paths.filter(|(_, p)| p.starts_with("std::env") || p.starts_with("env::"));
        breaches.extend(bad.map(|(line, path)| file.breach(line, path)));
    }
    breaches
}

fn wall_clock(files: &[File]) -> Vec<Breach> {
    const CLOCKS: &[&str] = &["SystemTime", "Utc::now", "Local::now"];
    let mut breaches = Vec::new();
    let places = &["src/clock.rs", "src/sources/http/date.rs", "src/postgres/inspect.rs"];
    for file in sources_of(files, "src/").filter(|file| !file.is_in(places)) {
        for (number, line) in file.code.lines().enumerate() {
            let clocks = CLOCKS.iter().filter(|clock| line.contains(*clock));
            breaches.extend(clocks.map(|clock| file.breach(number + 1, *clock)));
        }
    }
    breaches
}

fn spawn(files: &[File]) -> Vec<Breach> {
    const SPAWNS: &[&str] = &[
        "tokio::spawn",
        "tokio::task::spawn",
        "tokio::task::spawn_local",
        "task::spawn",
        "task::spawn_local",
        "std::thread::spawn",
        "thread::spawn",
    ];
    let mut breaches = Vec::new();
    let places = &["src/app.rs", "src/shutdown.rs"];
    for file in sources_of(files, "src/").filter(|file| !file.is_in(places)) {
        for root in ["tokio", "task", "std", "thread"] {
            let bad = file.paths(root).into_iter().filter(|(_, p)| SPAWNS.contains(&p.as_str()));
            breaches.extend(bad.map(|(line, path)| file.breach(line, path)));
        }
    }
    breaches
}

fn mod_rs(files: &[File]) -> Vec<Breach> {
    let bad = files.iter().filter(|file| file.path.ends_with("/mod.rs"));
    bad.map(|file| file.breach(0, "mod.rs")).collect()
}

fn machine_paths(files: &[File]) -> Vec<Breach> {
    // Homebrew's fixed place on Linux, and a path that a test only compares.
    const KNOWN: &[(&str, &str)] = &[
        ("src/postgres/embedded/binaries.rs", "linuxbrew/.linuxbrew/opt"),
        ("src/postgres/embedded/directory.rs", "assert_ne!(fallback("),
    ];
    let roots = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let names_root = |line: &str| {
        roots.iter().any(|root| {
            let before = line.find(root).and_then(|at| line[..at].chars().next_back());
            line.contains(root) && !before.is_some_and(|c| c.is_alphanumeric() || ".})".contains(c))
        })
    };
    let mut breaches = Vec::new();
    for file in files {
        let known = |l: &str| KNOWN.iter().any(|(p, part)| file.path == *p && l.contains(part));
        breaches.extend(file.bad_lines(|line| names_root(line) && !known(line)));
    }
    breaches
}

fn registries(files: &[File]) -> Vec<Breach> {
    const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";
    let marks = [
        concat!("index", "-url"),
        concat!("sparse", "+http"),
        concat!("replace", "-with"),
        concat!("GO", "PROXY"),
        concat!("NPM_CONFIG_", "REGISTRY"),
    ];
    let mut breaches = Vec::new();
    for file in files {
        let path = file.path.as_str();
        if path.ends_with(".cargo/config.toml") || path.ends_with(".cargo/config") {
            breaches.push(file.breach(0, "a cargo configuration"));
        }
        breaches.extend(file.bad_lines(|line| {
            marks.iter().any(|mark| line.contains(mark))
                || path == "Cargo.lock" && line.starts_with("source") && !line.contains(CRATES_IO)
                || path == "Cargo.toml" && (line.contains("git =") || line.contains("registry ="))
        }));
    }
    breaches
}

fn migrations(files: &[File]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in files.iter().filter(|file| file.path.starts_with("migrations/")) {
        let name = file.path.trim_start_matches("migrations/").split_once('_');
        let is_named = name.is_some_and(|(number, what)| {
            number.len() == 14
                && number.bytes().all(|b| b.is_ascii_digit())
                && what.strip_suffix(".sql").is_some_and(|w| !w.is_empty() && !w.contains('/'))
        });
        if !is_named {
            breaches.push(file.breach(0, "the name"));
        }
        if !file.text.starts_with("-- ") {
            breaches.push(file.breach(1, "no opening comment"));
        }
        breaches.extend(file.bad_lines(makes_unqualified));
    }
    breaches
}

/// Whether a line makes or changes something that is not `eventloader.…`.
fn makes_unqualified(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let name = match words.as_slice() {
        ["create", "or", "replace", rest @ ..] | ["create", "unlogged" | "unique", rest @ ..] => {
            rest.get(1)
        }
        ["create" | "alter" | "drop", "table" | "view" | "function" | "procedure", ..] => {
            words.get(2)
        }
        _ => return false,
    };
    // The name of an index has no schema; that of its table is on the next line.
    let is_index = words.contains(&"index");
    name.is_some_and(|name| !name.starts_with("eventloader.") && *name != "if" && !is_index)
}

/// Tables and the columns that users rely on.
#[rustfmt::skip]
const TABLES: &[(&str, &str)] = &[
    ("source_lease", "source_name owner epoch expires_at"),
    ("source_rate_limit", "source_name last_request_at not_before"),
    ("source_cursor", "source_name last_requested_id last_stored_id updated_at"),
    ("event_request_log", "id source_name after_id limit_count attempt status max_id event_count error owner created_at updated_at"),
    ("event_request_log_archive", "id source_name after_id limit_count attempt status max_id event_count error owner created_at updated_at"),
    ("outbox", "id name payload headers key created_at available_at attempts last_error published_at"),
    ("event_inbox", "source_name event_id event_type payload message_id request_id attempts next_attempt_at last_error received_at"),
    ("events", "position stream version event_type schema_version payload metadata tags message_id occurred_at recorded_at"),
    ("stream", "stream version owner"),
    ("consumed_message", "consumer message_id body_hash consumed_at"),
    ("source_gap", "id source_name first_id last_id reason found_at"),
    ("dead_letter", "id kind origin reference body reason attempts failed_at replayed_at"),
];

fn tables(files: &[File]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let migrations = || files.iter().filter(|file| file.path.starts_with("migrations/"));
    let place = |table: &str| {
        let opening = format!("create table eventloader.{table} (");
        migrations().find_map(|file| Some((file, file.text.find(&opening)?)))
    };
    for (table, columns) in TABLES {
        let Some((file, at)) = place(table) else {
            let breach = format!("no table eventloader.{table}");
            breaches.push(Breach { path: "migrations/".to_owned(), line: 0, found: breach });
            continue;
        };
        let body = file.text[at..].split("\n)").next().unwrap_or_default();
        let has = |column: &str| body.lines().any(|l| l.split_whitespace().next() == Some(column));
        let line = 1 + file.text[..at].matches('\n').count();
        let missing = columns.split(' ').filter(|column| !has(column));
        breaches.extend(missing.map(|c| file.breach(line, format!("{table} has no column {c}"))));
    }
    breaches
}

/// Migrations are left out: they never change once applied, not even where they speak of a file that moved.
fn named_files(files: &[File]) -> Vec<Breach> {
    const FOLDERS: &[&str] =
        &["src/", "tests/", "examples/", "migrations/", "scripts/", "docs/", "deploy/", "benches/"];
    const ENDINGS: &[&str] =
        &["rs", "sql", "md", "toml", "sh", "ndjson", "yml", "service", "timer"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut breaches = Vec::new();
    let speaks = |file: &&File| {
        let path = file.path.as_str();
        (has_ending(path, "md") || has_ending(path, "rs") || path == "Makefile")
            && !path.starts_with("tests/tidy")
    };
    for file in files.iter().filter(speaks) {
        for (number, line) in file.text.lines().enumerate() {
            let names = line.split(|c: char| !c.is_alphanumeric() && !"/_.-".contains(c));
            for name in names.map(|name| name.trim_end_matches('.')) {
                let is_file = FOLDERS.iter().any(|f| name.starts_with(f))
                    && ENDINGS.iter().any(|ending| has_ending(name, ending));
                if is_file && !root.join(name).exists() {
                    breaches.push(file.breach(number + 1, name));
                }
            }
        }
    }
    breaches
}
