//! Reads the repository and keeps the rules that no compiler checks; ARCHITECTURE.md says what each is for.
//!
//! A rule is a function from files to breaches. Every rule is run twice: on the repository, where it has to find
//! nothing, and on a few lines that break it, where it has to find them (`every_rule_can_fail`).

mod reading;
mod rules;

use std::fmt;

use reading::File;
use rules::RULES;

/// One place that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Breach {
    pub(crate) path: String,
    /// From 1; 0: the file as a whole.
    pub(crate) line: usize,
    pub(crate) found: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.found)
    }
}

#[test]
fn the_repository_keeps_its_rules() {
    let files = reading::repository();
    assert!(files.iter().any(|file| file.path == "src/lib.rs"), "the walk found no sources");
    let mut report = Vec::new();
    for rule in RULES {
        for breach in (rule.check)(&files) {
            report.push(format!("{breach}\n    rule: {}", rule.says));
        }
    }
    assert!(report.is_empty(), "\n{}\n", report.join("\n"));
}

/// Path, text, the line at fault and the rule's name.
type Sample = (&'static str, &'static str, usize, &'static str);

#[rustfmt::skip]
const SAMPLES: &[Sample] = &[
    ("src/loader.rs", "fn f() {\n    sqlx::query(\"x\");\n}", 2, "sql"),
    ("src/loader.rs", "use sqlx::{\n    PgPool,\n    Row,\n};", 3, "sql"),
    ("src/app.rs", "const S: &str = \"\n  select 1 from t\";", 1, "sql"),
    ("src/cli/status.rs", "const S: &str = r#\"update eventloader.source set type = 'x'\"#;", 1, "sql"),
    ("src/sources/http.rs", "use crate::store::inbox;", 1, "sources"),
    ("src/sources/http.rs", "use super::file::FileSource;", 1, "sources"),
    ("src/sources/http.rs", "use crate::{event::Item,\n sources::file::FileSource};", 2, "sources"),
    ("src/sources/file.rs", "use sqlx::PgPool;", 1, "sources"),
    ("src/sources/tls.rs", "use crate::sources::http::X;", 1, "sources"),
    ("src/publishers/amqp.rs", "use crate::sources::http;", 1, "sources"),
    ("src/publishers/amqp.rs", "use crate::store::outbox;", 1, "sources"),
    ("src/loader/cycle.rs", "async fn f() {}", 1, "decisions"),
    ("src/loader/policy.rs", "use std::time::{Duration, Instant};", 1, "decisions"),
    ("src/loader/ledger.rs", "\nuse tokio::time::sleep;", 2, "decisions"),
    ("src/loader/cycle.rs", "let x = rand::random();", 1, "decisions"),
    ("src/loader/cycle.rs", "let t = Uuid::now_v7();", 1, "decisions"),
    ("src/cli.rs", "let h = std::env::var(\"HOME\");", 1, "environment"),
    ("src/database.rs", "use std::{env, fs};", 1, "environment"),
    ("src/retry_worker.rs", "let n = chrono::Utc::now();", 1, "wall clock"),
    ("src/loader.rs", "use std::time::SystemTime;", 1, "wall clock"),
    ("src/loader.rs", "tokio::spawn(async {});", 1, "spawn"),
    ("src/loader.rs", "use tokio::task::{JoinSet, spawn};", 1, "spawn"),
    ("src/retry_worker.rs", "std::thread::spawn(|| ());", 1, "spawn"),
    ("src/store/mod.rs", "", 0, "mod.rs"),
    ("docs/x.md", concat!("see /wo", "rk/notes"), 1, "machine paths"),
    ("scripts/x.sh", concat!("\ncd /ho", "me/me"), 2, "machine paths"),
    (".cargo/config.toml", "", 0, "registries"),
    ("Cargo.toml", "[dependencies]\nx = { git = \"https://example.com/x\" }", 2, "registries"),
    ("Cargo.lock", "source = \"registry+https://mirror.example.com/index\"", 1, "registries"),
    ("Dockerfile", concat!("RUN pip install --index", "-url http://mirror"), 1, "registries"),
    ("migrations/20270101000001_x.sql", "create table eventloader.x ();", 1, "migrations"),
    ("migrations/1_x.sql", "-- Adds x.\ncreate table eventloader.x ();", 0, "migrations"),
    ("migrations/20270101000001_x.sql", "-- Adds x.\ncreate table x ();", 2, "migrations"),
    ("migrations/20270101000001_x.sql", "-- A.\ncreate table eventloader.source_lease (\n source_name text\n);", 2, "tables"),
    ("migrations/20270101000001_x.sql", "-- Adds it.\ncreate table eventloader.outbox (\n id uuid\n);", 2, "tables"),
    ("README.md", "see\n`src/nowhere.rs`", 2, "named files"),
    ("src/lib.rs", "//! see `examples/nothing.rs`", 1, "named files"),
];

#[test]
fn every_rule_can_fail() {
    for (path, text, line, name) in SAMPLES {
        let rule = RULES.iter().find(|rule| rule.name == *name).unwrap();
        let breaches = (rule.check)(&[File::new(path, text)]);
        let hit = breaches.iter().any(|b| b.path == *path && b.line == *line);
        assert!(hit, "rule {name:?} passed over {path}:{line} of {text:?}; it found {breaches:?}");
    }
    for rule in RULES {
        assert!(SAMPLES.iter().any(|s| s.3 == rule.name), "no sample breaks rule {:?}", rule.name);
    }
}

#[rustfmt::skip]
const HARMLESS: &[(&str, &str)] = &[
    ("src/store/lease.rs", "sqlx::query(\"select 1\");"),
    ("src/postgres/migrate.rs", "sqlx::query_scalar(\"select 1\");"),
    ("src/sources/sql/sqlite.rs", "sqlx::query(\"select a from b\");"),
    ("src/loader.rs", "use sqlx::PgPool;\n// sqlx::query(\"select 1 from t\")"),
    ("src/loader.rs", "fn f(e: sqlx::Error) { g(\"select a source\") }"),
    ("src/sources/http.rs", "use crate::source::Page;\nmod tests { use super::*; }"),
    ("src/sources/http/page.rs", "use super::HttpSource;\nuse crate::sources::http::X;"),
    ("src/sources/amqp/tls.rs", "use crate::sources::tls::TlsFiles;"),
    ("src/loader/cycle.rs", "//! async, tokio and rand are only spoken of.\nuse std::time::Duration;"),
    ("src/loader/pace.rs", "use tokio::time::Instant;"),
    ("src/config/environment.rs", "std::env::vars_os();"),
    ("src/cli.rs", "const V: &str = env!(\"CARGO_PKG_VERSION\");"),
    ("src/app.rs", "tokio::spawn(part)"),
    ("src/loader.rs", "state.running.spawn(index, f);\nlet c = '\"'; // tokio::spawn"),
    ("docs/x.md", "https://example.com/work/1 and src/backend/x.c"),
];

#[test]
fn harmless_lines_pass() {
    for (path, text) in HARMLESS {
        for rule in RULES.iter().filter(|rule| rule.name != "tables") {
            let breaches = (rule.check)(&[File::new(path, text)]);
            assert!(breaches.is_empty(), "rule {:?} on {text:?}: {breaches:?}", rule.name);
        }
    }
}
