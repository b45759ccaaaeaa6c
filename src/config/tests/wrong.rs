//! Wrong files. A `¦` marks the place that the finding has to name; it is not part of the file.

use super::*;

/// Marked text, dotted key ("" for syntax), part of the problem, part of the expectation or help.
type Case = (&'static str, &'static str, &'static str, &'static str);

const SYNTAX: &[Case] = &[
    ("[loader]\nmax_idle = ¦5s", "", "bad TOML syntax", "in double quotes"),
    ("[loader]\nmax_idle ¦\"5s\"", "", "bad TOML syntax", ""),
    ("[loader]\nmax_idle¦: 5s", "", "bad TOML syntax", "not key: value"),
    ("[loader]\nmax_idle = ¦", "", "bad TOML syntax", "give the key a value"),
    ("[loader¦", "", "bad TOML syntax", ""),
    ("[admin]\nlisten = \"¦", "", "bad TOML syntax", ""),
    ("[sources.a]\ntype = \"file\"\npath = \"C:\\¦logs\"", "", "bad TOML syntax", "single quotes"),
    (
        "[loader]\nbatch_size = 1\n¦batch_size = 2",
        "",
        "duplicate key `batch_size`",
        "keep one of the two",
    ),
    (
        "[sources.a]\ntype=\"file\"\npath=\"x\"\n[sources.¦a]\ntype=\"file\"",
        "",
        "duplicate key `a`",
        "keep one of the two",
    ),
];

const UNKNOWN: &[Case] = &[
    ("[loader]\n¦batchsize = 5", "loader.batchsize", "unknown key", "did you mean `batch_size`?"),
    ("[loader]\n  ¦max-idle = \"5s\"", "loader.max-idle", "unknown key", "`max_idle`?"),
    ("[loader]\n¦colour = 1", "loader.colour", "unknown key", "`concurrency`, `batch_size`"),
    ("[¦source.orders]\ntype = \"http\"", "source", "unknown section", "`sources`?"),
    ("[¦orders]\ntype = \"http\"", "orders", "unknown section", "`retry_worker`, `storage`"),
    ("¦batch_size = 5", "batch_size", "unknown key", "[loader]"),
    ("¦colour = 5", "colour", "unknown key", "keys stand in a section"),
    ("[¦outbox]\nmax_attempts = 1", "outbox", "does not support yet", "take it out"),
    (
        "[sources.a]\ntype = \"file\"\npath = \"x\"\n¦concurrency = 1",
        "sources.a.concurrency",
        "unknown key",
        "[loader]",
    ),
    ("[loader]\n¦on_failure = \"hold\"", "loader.on_failure", "unknown key", "[sources.NAME]"),
    (
        "[sources.a]\ntype = \"http\"\nurl = \"http://x\"\n¦timeuot = \"1s\"",
        "sources.a.timeuot",
        "unknown key",
        "`timeout`?",
    ),
    (
        "[sources.a]\ntype = \"file\"\npath = \"x\"\n¦items = \"/x\"",
        "sources.a.items",
        "unknown key",
        "`path`",
    ),
    ("[database]\n¦uri = \"postgres://u:p@h/d\"", "database.uri", "unknown key", "`url`?"),
];

const TYPES: &[Case] = &[
    ("[loader]\nbatch_size = ¦\"100\"", "loader.batch_size", "a string", "write 100 without"),
    ("[loader]\nbatch_size = ¦1.5", "loader.batch_size", "with a fraction, 1.5", "whole number"),
    ("[loader]\nbatch_size = ¦true", "loader.batch_size", "a boolean, true", "from 1 to 1000"),
    ("[loader]\nbatch_size = ¦[1]", "loader.batch_size", "found an array", "from 1 to 1000"),
    ("[loader]\nbatch_size = ¦\"${WORD}\"", "loader.batch_size", "found \"abc\"", "1 to 1000"),
    ("[loader]\nmax_idle = ¦5", "loader.max_idle", "found 5, a duration without", "write \"5s\""),
    ("[loader]\nmax_idle = ¦\"5\"", "loader.max_idle", "found \"5\", a duration", "write \"5s\""),
    ("[loader]\nmax_idle = ¦\"5 sec\"", "loader.max_idle", "not a unit", "write \"5s\""),
    ("[loader]\nmax_idle = ¦false", "loader.max_idle", "found a boolean", "a duration from"),
    ("database = ¦5", "database", "found an integer", "write [database]"),
    ("¦[[loader]]\nbatch_size = 1", "loader", "found an array", "write [loader]"),
    ("¦[[sources]]\ntype = \"http\"", "sources", "found an array", "[sources.NAME]"),
    ("[sources]\norders = ¦\"http\"", "sources.orders", "found a string", "[sources.orders]"),
    ("[database]\nurl = ¦5", "database.url", "found an integer", "put it in quotes"),
    (
        "[sources.a]\ntype = \"http\"\nurl = \"http://x\"\nheaders = { A = ¦17 }",
        "sources.a.headers.A",
        "found an integer",
        "put it in quotes",
    ),
    (
        "[sources.a]\ntype = \"http\"\nurl = \"http://x\"\nheaders = ¦\"A: b\"",
        "sources.a.headers",
        "found a string",
        "a table",
    ),
];

const VALUES: &[Case] = &[
    ("[loader]\nbatch_size = ¦0", "loader.batch_size", "found 0", "the smallest is 1"),
    ("[loader]\nbatch_size = ¦-5", "loader.batch_size", "found -5", "the smallest is 1"),
    ("[loader]\nbatch_size = ¦1001", "loader.batch_size", "found 1001", "the largest is 1000"),
    ("[loader]\nconcurrency = ¦10001", "loader.concurrency", "found 10001", "is 10000"),
    (
        "[loader]\nmin_interval = ¦\"100ms\"",
        "loader.min_interval",
        "range",
        "shortest is \"200ms\"",
    ),
    ("[loader]\nlease_ttl = ¦\"499ms\"", "loader.lease_ttl", "out of range", "is \"500ms\""),
    ("[loader]\nlease_ttl = ¦\"61m\"", "loader.lease_ttl", "out of range", "longest is \"1h\""),
    (
        "[loader]\nmin_interval = \"3s\"\nmax_idle = ¦\"2s\"",
        "loader.max_idle",
        "shorter than min_interval",
        "\"3s\"",
    ),
    (
        "[retry_worker]\nmax_attempts = ¦101",
        "retry_worker.max_attempts",
        "found 101",
        "the largest is 100",
    ),
    ("[database]\nmax_connections = ¦0", "database.max_connections", "found 0", "is 1"),
    (
        "[database]\nmax_connections = ¦99999999999999999999",
        "database.max_connections",
        "9999",
        "to",
    ),
    ("[database]\nurl = ¦\"mysql://u:p@h/d\"", "database.url", "not a PostgreSQL", "postgres://"),
    ("[database]\nurl = ¦\"host=h user=u\"", "database.url", "not a URL", "write it as a URL"),
    ("[storage]\nurl = ¦\"postgres://u:p/w@h/d\"", "storage.url", "not a URL", "percent-encode"),
    ("[admin]\nlisten = ¦\"localhost:80\"", "admin.listen", "not an address", "\"127.0.0.1:80\""),
    ("[admin]\nlisten = ¦\":8080\"", "admin.listen", "not an address", "\"0.0.0.0:8080\""),
    ("[admin]\nlisten = ¦8080", "admin.listen", "found an integer", "quotes"),
    ("[sources.¦\" a\"]\ntype = \"file\"\npath = \"x\"", "sources.\" a\"", "whitespace", "rename"),
    ("[sources.¦\"\"]\ntype = \"file\"\npath = \"x\"", "sources.\"\"", "an empty", "rename"),
    ("[sources.¦a]\nurl = \"http://x\"", "sources.a.type", "missing", "add type = \"http\""),
    ("[sources.¦a]\npath = \"x\"", "sources.a.type", "missing", "add type = \"file\""),
    ("[sources.¦a]\n", "sources.a.type", "missing", "one of `http`, `file` and `sql`"),
    (
        "[sources.a]\ntype = ¦\"kafka\"\nbrokers = [\"x\"]",
        "sources.a.type",
        "does not support yet",
        "one of `http`, `file` and `sql`",
    ),
    ("[sources.a]\ntype = ¦\"htpp\"", "sources.a.type", "no type of source", "mean `http`?"),
    ("[sources.a]\ntype = ¦\"ftp\"", "sources.a.type", "no type", "`http`, `file` and `sql`"),
    ("[sources.¦a]\ntype = \"http\"", "sources.a.url", "missing", "add url = "),
    ("[sources.¦a]\ntype = \"file\"", "sources.a.path", "missing", "add path = "),
];

/// Keys of an HTTP source; the text follows `[sources.a]`, its type and its URL, in line 4.
const HTTP: &[Case] = &[
    ("id = ¦\"id\"", "id", "must begin with \"/\"", "did you mean \"/id\"?"),
    ("event_type = ¦\"$.a.b\"", "event_type", "a JSON path", "did you mean \"/a/b\"?"),
    ("payload = ¦\"/a~2\"", "payload", "not escaped", "write \"~0\""),
    ("id = ¦\"\"", "id", "the whole item", "write \"/id\""),
    ("items = ¦1", "items", "found an integer, 1", "a JSON pointer"),
    ("timeout = ¦\"11m\"", "timeout", "out of range", "the longest is \"10m\""),
    ("timeout = ¦\"0s\"", "timeout", "out of range", "the shortest is \"1ms\""),
    ("on_failure = ¦\"hodl\"", "on_failure", "found \"hodl\"", "did you mean `hold`?"),
    ("on_failure = ¦\"stop\"", "on_failure", "not one of", "one of `hold` and `retry`"),
    ("start_after = ¦\"a\"", "start_after", "found a string", "a whole number"),
    ("max_event_bytes = ¦\"1XB\"", "max_event_bytes", "not a unit of size", "the units are"),
    ("max_event_bytes = ¦\"1M\"", "max_event_bytes", "not a unit", "write \"1MiB\""),
    ("max_event_bytes = ¦100", "max_event_bytes", "found 100, out of range", "is \"1KiB\""),
    ("max_event_bytes = ¦\"65MiB\"", "max_event_bytes", "out of range", "is \"64MiB\""),
    (
        "max_event_bytes = \"2MiB\"\nmax_page_bytes = ¦\"1MiB\"",
        "max_page_bytes",
        "smaller than max_event_bytes",
        "\"2MiB\"",
    ),
    ("min_interval = \"7s\"\nmax_idle = ¦\"6s\"", "max_idle", "shorter", "\"7s\""),
    ("headers = { A = \"b\", ¦a = \"c\" }", "headers.a", "the same header as `A`", "keep one"),
    ("headers = { ¦\"A b\" = \"c\" }", "headers.\"A b\"", "not the name of a header", "letters"),
    ("headers = { A = ¦\"b\\nc\" }", "headers.A", "line break", "newline"),
    ("headers = { A = \"Bearer ¦${NOPE}\" }", "headers.A", "NOPE is not set", "${NOPE:-value}"),
    ("headers = { A = \"x ¦${NOPE\" }", "headers.A", "without its \"}\"", "close it"),
    ("event_type = \"/¦${NO-PE}\"", "event_type", "not the name of an", "letters"),
];

/// Keys of an SQL source; the text follows `[sources.a]`, its type and its URL.
const SQL: &[Case] = &[
    (
        "table = \"t\"\nquery = ¦\"select * from t where id > {after_id} limit {limit}\"",
        "query",
        "beside `table`",
        "`table` out",
    ),
    ("table = ¦\"select * from t\"", "table", "not a name", "as `query`"),
    ("table = ¦\"a.b.c\"", "table", "not a name", "schema before a dot"),
    ("table = ¦\"t; drop table t\"", "table", "not a name", "`query`"),
    ("table = \"t\"\nid = ¦\"/id\"", "id", "not a name", "write \"id\""),
    ("table = \"t\"\nid = ¦\"tenant, id\"", "id", "not a name", "one column that is unique"),
    ("table = \"t\"\nid = ¦1", "id", "found an integer", "the name of a column"),
    ("table = \"t\"\npayload = ¦\"\"", "payload", "not a name", "the name of a column"),
    ("table = \"t\"\nevent_type = ¦\"/type\"", "event_type", "not a name", "write \"type\""),
    ("table = \"t\"\ntip_lag = ¦\"2h\"", "tip_lag", "out of range", "longest is \"1h\""),
    ("table = \"t\"\n¦items = \"/x\"", "items", "unknown key", "`query`"),
    (
        "query = ¦\"delete from t where id > {after_id} limit {limit}\"",
        "query",
        "begins with `delete`",
        "select",
    ),
    (
        "query = ¦\"select * from t limit {limit}\"",
        "query",
        "without {after_id}",
        "where id > {after_id}",
    ),
    (
        "query = ¦\"select * from t where id > {after_id}\"",
        "query",
        "without {limit}",
        "limit {limit}",
    ),
    (
        "query = ¦\"select 1; select {after_id} limit {limit}\"",
        "query",
        "more than one",
        "one select",
    ),
];

const SQL_URLS: &[(&str, &str, &str)] = &[
    ("h/d", "not a URL", "postgres://"),
    ("oracle://u:p@h/d", "not the URL of a database", "sqlite://"),
    ("postgres://u:p/w@h/d", "not a URL", "percent-encode"),
    ("mysql://u:p@h", "without the name of a database", "add /name"),
    ("sqlite://", "not the path", "path of a file"),
    ("sqlite://a.db?mode=rw", "with options", "remove them"),
];

const URLS: &[(&str, &str, &str)] = &[
    ("shop.example.com/api", "not an http or https URL", "begin it with https://"),
    ("ftp://x/y", "not an http or https URL", "begin it with https://"),
    ("http://", "not a URL (empty host)", "an http:// or https:// URL"),
    ("http://x:99999/", "not a URL (invalid port number)", "an http:// or https:// URL"),
    ("http://x/#top", "a URL with a fragment", "remove it"),
    ("http://x/?after_id=1", "after_id or limit", "remove them"),
    ("", "empty", "an http:// or https:// URL"),
];

fn check(marked: &str, key: &str, problem: &str, hint: &str) {
    let at = marked.find('¦').unwrap();
    let before = &marked[..at];
    let line = before.split('\n').count();
    let column = before.split('\n').next_back().unwrap().chars().count() + 1;
    let found = findings(&marked.replace('¦', ""), &[]);
    let summary = found.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n");
    assert_eq!(found.len(), 1, "{marked}\n{summary}");
    let finding = &found[0];
    let place = Place::Position { path: "eventloader.toml".into(), line, column };
    assert_eq!(finding.place, place, "{marked}\n{summary}");
    assert_eq!(finding.key.as_deref().unwrap_or_default(), key, "{marked}\n{summary}");
    assert!(finding.problem.contains(problem), "{marked}\n{summary}");
    let hints = [finding.expected.as_deref(), finding.help.as_deref()];
    assert!(hints.iter().flatten().any(|h| h.contains(hint)) || hint.is_empty(), "{summary}");
    assert!(finding.snippet.is_some());
}

#[test]
fn every_mistake_is_named_with_place_key_and_remedy() {
    for (marked, key, problem, hint) in [SYNTAX, UNKNOWN, TYPES, VALUES].concat() {
        check(marked, key, problem, hint);
    }
}

#[test]
fn every_mistake_in_an_http_source_is_named() {
    for (marked, key, problem, hint) in HTTP {
        let text = format!("[sources.a]\ntype = \"http\"\nurl = \"https://x\"\n{marked}");
        check(&text, &format!("sources.a.{key}"), problem, hint);
    }
    for (url, problem, hint) in URLS {
        let text = format!("[sources.a]\ntype = \"http\"\nurl = ¦\"{url}\"\n");
        check(&text, "sources.a.url", problem, hint);
    }
}

#[test]
fn every_mistake_in_a_sql_source_is_named() {
    let head = "[sources.a]\ntype = \"sql\"\nurl = ";
    for (marked, key, problem, hint) in SQL {
        let text = format!("{head}\"postgres://u@h/d\"\n{marked}");
        check(&text, &format!("sources.a.{key}"), problem, hint);
    }
    for (url, problem, hint) in SQL_URLS {
        check(&format!("{head}¦\"{url}\"\ntable = \"t\""), "sources.a.url", problem, hint);
    }
    let neither = "[sources.¦a]\ntype = \"sql\"\nurl = \"postgres://u@h/d\"\n";
    check(neither, "sources.a.table", "missing", "`table` or `query`");
    check("[sources.¦a]\ntype = \"sql\"\ntable = \"t\"", "sources.a.url", "missing", "add url");
}

#[test]
fn every_mistake_in_a_file_source_is_named() {
    for (path, problem, hint) in
        [("", "not a path", "the path of a file"), ("~/x", "\"~\" is not", "write \"${HOME}/x\"")]
    {
        let text = format!("[sources.a]\ntype = \"file\"\npath = ¦\"{path}\"\n");
        check(&text, "sources.a.path", problem, hint);
    }
}

#[test]
fn all_mistakes_are_reported_in_one_pass_in_the_order_of_the_file() {
    let text = "[loader]\nbatch_size = 0\nbogus = 1\nbatch_size = 5\n[sources.b]\ntype = \"http\"\n\
                url = \"${A}${B}\"\ntimeout = 5\n[sources.a]\ntype = \"kafka\"\nanything = 1\n[x]\n";
    let found = findings(text, &[("EVENTLOADER_LOADER__MAXIDLE", "1")]);
    let keys: Vec<_> = found.iter().map(|f| f.key.as_deref().unwrap_or("-")).collect();
    let want = [
        "loader.batch_size",
        "loader.bogus",
        "-",
        "sources.b.url",
        "sources.b.timeout",
        "sources.a.type",
        "x",
        "-",
    ];
    assert_eq!(keys, want);
    assert!(found[3].problem.contains("variables A and B are not set"));
    let message = parse(text, &[]).unwrap_err().to_string();
    assert!(message.ends_with("7 problems in the configuration"), "{message}");
}

#[test]
fn a_message_shows_the_line_with_carets() {
    let found =
        findings("# ä\n[sources.orders]\ntype = \"http\"\nurl=\"http://x\"\ntimeout = 30", &[]);
    assert_eq!(
        found[0].to_string(),
        "eventloader.toml:5:11: sources.orders.timeout: found 30, a duration without a unit\n   \
         |\n 5 | timeout = 30\n   |           ^^\n  \
         expected: a duration from \"1ms\" to \"10m\"\n  \
         help: write \"30s\" for seconds or \"30ms\" for milliseconds, in quotes"
    );
}

#[test]
fn secrets_never_appear_in_messages() {
    let files = [
        "[database]\nurl = \"mysql://u:hunter2@h/d\"",
        "[database]\nurl = \"postgres://u:hun/ter2@h/d\"\nbogus = 1",
        "[database]\nulr = \"postgres://u:hunter2@h/d\"",
        "[database]\nurl = postgres://u:hunter2@h/d",
        "[database]\nurl = \"${DB_URL:-mysql://u:hunter2@h/d}\"",
        "[database]\nurl = \"${DB}\"",
        "[database]\nurl = \"mysql://hunter2${N}hunter2${N}hunter2\"",
        "[database]\nurl = { x = \"hunter2\" }",
        "[storage]\nurl = [\"hunter2\"]",
        "[sources.a]\ntype=\"http\"\nurl=\"ftp://u:hunter2@h\"\nheaders={A=\"hunter2\", B=5}",
        "[sources.a]\ntype=\"http\"\nurl=\"http://x\"\nheaders={A=\"hunter2\\n\"}",
        "[sources.a]\ntype=\"http\"\nurl=\"http://x\"\nheader={A=\"hunter2\"}",
        "[sources.a]\ntype=\"http\"\nurl=\"http://x\"\n[sources.a.headers]\nid = hunter2",
        "[sources.a]\ntype=\"http\"\nurl=\"http://x\"\n[sources.a.headers]\nid = \"\"\"hunter2\n\"\"\"",
        "[sources.a]\ntype=\"http\"\nurl=\"http://x\"\nheaders={A=\"b\"}\nheaders={B=\"hunter2\"}",
        "[[sources]]\ntype=\"http\"\nurl=\"http://u:hunter2@x\"\n",
        "[[database]]\nurl = \"hunter2\"\nurl = \"hunter2\"",
        "[sources.a]\ntype=\"kafka\"\nsasl_password=\"hunter2\"",
        "[loader]\nmax_idle = \"${SHOP_TOKEN}\"",
        "[sources.a]\ntype=\"sql\"\nurl=\"oracle://u:hunter2@h/d\"\ntable=\"t\"",
        "[sources.a]\ntype=\"sql\"\nurl=\"mysql://u:hun/ter2@h/d\"\ntable=\"t\"\nid=\"/\"",
    ];
    for text in files {
        let more = [("DB", "mysql://u:hunter2@h/d")];
        let error = parse(text, &more).unwrap_err();
        for shown in [error.to_string(), format!("{error:?}")] {
            let leaked = ["hunter2", "ter2", "s3cr3t"].iter().any(|s| shown.contains(s));
            assert!(!leaked, "{text}\n{shown}");
        }
    }
}
