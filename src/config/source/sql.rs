//! `type = "sql"`.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use url::Url;

use super::item::{read_max_event_bytes, read_max_page_bytes};
use crate::config::error::Problem;
use crate::config::reader::TableReader;
use crate::config::setting::Setting;
use crate::mapping::{Mapping, Pointer};
use crate::sources::sql::{Dialect, Identifier, Location, Query, Relation, TableName};

const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_mins(10);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const TIP_LAGS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);
/// Where the writers cannot be seen: longer than a usual transaction, shorter than anybody's patience.
const DEFAULT_TIP_LAG_OF_MYSQL: Duration = Duration::from_secs(2);
const URLS: &str = "a postgres://, mysql://, mariadb:// or sqlite:// URL";
const NAMES: &str = "the name of a column";

/// A table or a query of a database.
#[derive(Debug, Clone)]
pub struct SqlConfig {
    /// `url`: the database: `postgres://`, `postgresql://`, `mysql://`, `mariadb://`, or `sqlite://` and the path of a file, of
    /// which a relative one begins at the configuration file's directory. Required; never shown.
    pub location: Location,
    /// `table`, perhaps with its schema, or `query`, with `{after_id}` and `{limit}` in it. One of them is required.
    pub relation: Relation,
    /// `id`: the column of the id. Default `id`.
    pub id: Identifier,
    /// The columns `event_type`, `occurred_at`, `message_id` (default none) and `payload` (default the whole row); and
    /// `max_event_bytes`, above which an event becomes a dead letter (default 1MiB, 1KiB to 64MiB).
    pub mapping: Mapping,
    /// `timeout`: the longest a statement may take. Default 30s, 1ms to 10m.
    pub timeout: Duration,
    /// `tip_lag`: how long ago an id at or above an event's has to have been seen. Default 2s for MariaDB and MySQL, else
    /// 0s; 0s to 1h.
    pub tip_lag: Duration,
    /// `max_page_bytes`: a page ends before it is larger. Bytes, default 64MiB, `max_event_bytes` to 256MiB.
    pub max_page_bytes: usize,
}

impl SqlConfig {
    pub(super) fn read(table: &mut TableReader<'_>) -> Option<Self> {
        let base = table.document().path.parent().unwrap_or(Path::new(""));
        let url = table.require("url", "add url = \"postgres://…\"", |s| location(s, base));
        // Without a URL the query can still be checked, as most of them are the same everywhere.
        let dialect = url.as_ref().map_or(Dialect::Postgres, |url| url.value.dialect());
        let relation = read_relation(table, dialect);
        let id = table.read("id", column).map(|read| read.value);
        let mut pointer = |key| table.read_or(key, None, |s| column_pointer(s).map(Some));
        let mapping = Mapping {
            event_type: pointer("event_type"),
            occurred_at: pointer("occurred_at"),
            message_id: pointer("message_id"),
            payload: pointer("payload").unwrap_or_else(Pointer::whole),
            max_event_bytes: read_max_event_bytes(table),
            ..Mapping::default()
        };
        let timeout = table.read_or("timeout", DEFAULT_TIMEOUT, |s| s.duration(TIMEOUTS));
        let default_lag =
            if dialect == Dialect::MySql { DEFAULT_TIP_LAG_OF_MYSQL } else { Duration::ZERO };
        let tip_lag = table.read_or("tip_lag", default_lag, |s| s.duration(TIP_LAGS));
        let max_page_bytes = read_max_page_bytes(table, mapping.max_event_bytes);
        let id = id.or_else(|| Identifier::parse("id").ok())?;
        let (location, relation) = (url?.value, relation?);
        Some(Self { location, relation, id, mapping, timeout, tip_lag, max_page_bytes })
    }
}

/// Exactly one of `table` and `query`.
fn read_relation(table: &mut TableReader<'_>, dialect: Dialect) -> Option<Relation> {
    let name = table.read("table", table_name);
    let query = table.read("query", |s| query_text(s, dialect));
    // One from the environment is not in the table.
    match (name.is_some() || table.has("table"), query.is_some() || table.has("query")) {
        (false, false) => {
            let problem = Problem::new("missing").expected("`table` or `query`");
            table.report("table", problem.help("add table = \"events\""));
        }
        (true, true) => {
            let problem = Problem::new("given beside `table`").expected("one of the two");
            let help = "take `table` out, or write what the query does as a view";
            match &query {
                Some(read) => table.report_at(&read.origin, "query", problem.help(help)),
                None => table.report("query", problem.help(help)),
            }
            return None;
        }
        _ => {}
    }
    let name = name.map(|read| Relation::Table(read.value));
    name.or(query.map(|read| Relation::Query(read.value)))
}

fn location(setting: &Setting<'_>, base: &Path) -> Result<Location, Problem> {
    let text = setting.text()?;
    let value = text.value.trim();
    let refuse = |reason: &str| text.refuse(Problem::new(reason).expected(URLS));
    let Some((scheme, rest)) = value.split_once("://") else {
        let help = "begin it with postgres://, mysql:// or sqlite://";
        return Err(refuse("not a URL").help(help));
    };
    let secret = || SecretString::from(value);
    let location = match scheme.to_ascii_lowercase().as_str() {
        "postgres" | "postgresql" => Location::Postgres(secret()),
        "mysql" | "mariadb" => Location::MySql(secret()),
        "sqlite" => {
            return sqlite_file(rest, base).map(Location::Sqlite).map_err(|e| text.refuse(e));
        }
        _ => return Err(refuse("not the URL of a database that can be read")),
    };
    match Url::parse(value) {
        Ok(url) if url.path().len() > 1 => Ok(location),
        Ok(_) => {
            Err(refuse("a URL without the name of a database").help("add /name after the host"))
        }
        Err(error) => Err(refuse(&format!("not a URL ({error})")).help(
            "percent-encode special characters of the password: @ as %40, / as %2F, # as %23",
        )),
    }
}

fn sqlite_file(rest: &str, base: &Path) -> Result<PathBuf, Problem> {
    let problem = |found| Problem::new(found).expected("sqlite:// and the path of a file");
    if rest.contains('?') {
        return Err(problem("with options").help("remove them: the file is opened for reading"));
    }
    let path = percent_decode_str(rest).decode_utf8().map_err(|_| problem("not UTF-8"))?;
    if path.is_empty() || path.contains('\0') || path == ":memory:" {
        return Err(problem("not the path of a file"));
    }
    Ok(base.join(path.as_ref()))
}

fn column(setting: &Setting<'_>) -> Result<Identifier, Problem> {
    let text = setting.text_expected(NAMES)?;
    Identifier::parse(&text.value).map_err(|error| {
        let problem = text.refuse(Problem::new(error.to_string()).expected(NAMES));
        if let Some(name) = text.value.strip_prefix('/') {
            return problem.help(format!("columns are no JSON pointers; write \"{name}\""));
        }
        if text.value.contains(',') {
            return problem.help("an id of several columns cannot be counted on; name one column that is unique by itself");
        }
        problem.help("read a column of another name through `query`, renamed with `as`")
    })
}

fn column_pointer(setting: &Setting<'_>) -> Result<Pointer, Problem> {
    column(setting).map(|column| Pointer::to_key(column.as_str()))
}

fn table_name(setting: &Setting<'_>) -> Result<TableName, Problem> {
    let text = setting.text_expected("the name of a table")?;
    TableName::parse(&text.value).map_err(|error| {
        let expected = "the name of a table, perhaps with its schema before a dot";
        let problem = text.refuse(Problem::new(error.to_string()).expected(expected));
        if text.value.to_ascii_lowercase().trim_start().starts_with("select") {
            return problem.help("write a select as `query`");
        }
        problem.help("read a table of another name through `query`")
    })
}

fn query_text(setting: &Setting<'_>, dialect: Dialect) -> Result<Query, Problem> {
    let text = setting.text_expected("a select")?;
    Query::parse(&text.value, dialect).map_err(|fault| {
        let expected = "one select with {after_id} and {limit} in it";
        text.refuse(Problem::new(fault.problem)).expected(expected).help(fault.help)
    })
}
