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
    ("[sources.¦a]\n", "sources.a.type", "missing", "one of `http` and `file`"),
    (
        "[sources.a]\ntype = ¦\"kafka\"\nbrokers = [\"x\"]",
        "sources.a.type",
        "does not support yet",
        "one of `http` and `file`",
    ),
    ("[sources.a]\ntype = ¦\"htpp\"", "sources.a.type", "no type of source", "mean `http`?"),
    ("[sources.a]\ntype = ¦\"ftp\"", "sources.a.type", "no type", "`http` and `file`"),
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
    ("after_param = ¦\"\"", "after_param", "found \"\", not the name", "such as \"after_id\""),
    ("after_param = ¦\"a b\"", "after_param", "not the name of a query", "such as"),
    ("method = ¦\"PUT\"", "method", "found \"PUT\", not one of", "`GET` and `POST`"),
    ("body = ¦'[\"{after_id}\"]'", "body", "a body, which a GET has not", "method = \"POST\""),
    ("method = \"POST\"\nbody = ¦'{}'", "body", "without {after_id}", "set after_param"),
    ("method = \"POST\"\nbody = ¦'{'", "body", "not JSON (line 1, column 1 of", "single quotes"),
    ("method = \"POST\"\nbody = ¦'[\"{afterid}\"]'", "body", "{afterid}", "mean {after_id}?"),
    ("method = \"POST\"\nbody = ¦'[\"{cursor}\"]'", "body", "{cursor}", "{after_id} or {limit}"),
    (
        "method = \"POST\"\nbody = '[\"{after_id}\"]'\nlimit_param = ¦\"n\"",
        "limit_param",
        "without effect",
        "take it out",
    ),
    ("¦auth = { token = \"t\" }", "auth.type", "missing", "add type = \"bearer\""),
    ("auth = { type = ¦\"baerer\" }", "auth.type", "found \"baerer\"", "did you mean `bearer`?"),
    ("¦auth = { type = \"bearer\" }", "auth.token", "missing", "add token = "),
    ("auth = { type = \"bearer\", token = ¦\"\" }", "auth.token", "empty", "variable"),
    ("auth = { type = \"bearer\", token = \"t\", ¦tokn = 1 }", "auth.tokn", "unknown", "`token`?"),
    ("auth = { type = \"header\", name = ¦\"a b\", value = \"x\" }", "auth.name", "not the", "-"),
    (
        "auth = { type = \"basic\", username = ¦\"a:b\", password = \"x\" }",
        "auth.username",
        "a user name with \":\"",
        "password",
    ),
    (
        "auth = { type = \"oauth2\", token_url = ¦\"x\", client_id = \"a\", client_secret = \"b\" }",
        "auth.token_url",
        "not an http or https URL",
        "begin it with https://",
    ),
    (
        "auth = ¦{ type = \"bearer\", token = \"t\" }\nheaders = { authorization = \"x\" }",
        "auth",
        "sets the header Authorization, which `headers` sets too",
        "take authorization out of headers",
    ),
    (
        "auth = ¦{ type = \"oauth2\", token_url = \"http://a/\", client_id = \"a\", client_secret = \"b\" }",
        "auth",
        "in the clear: token_url is http",
        "allow_insecure = true",
    ),
    ("client_key_file = ¦\"k\"", "client_key_file", "without client_cert_file", "add client_cert"),
    ("client_cert_file = ¦\"c\"", "client_cert_file", "without client_key_file", "add client_key"),
    ("ca_file = ¦\"\"", "ca_file", "not a path", "the path of a file"),
    ("proxy = ¦\"socks5://p\"", "proxy", "not an http or https proxy", "http://user:password@"),
    ("proxy = ¦\"http://p/x\"", "proxy", "a proxy with a path", "end it after the port"),
    ("tip_lag = ¦\"5s\"", "tip_lag", "without occurred_at", "add occurred_at = "),
    ("allow_insecure = ¦\"yes\"", "allow_insecure", "found \"yes\", neither", "true or false"),
    ("allow_hosts = ¦[]", "allow_hosts", "an empty list, which allows nothing", "leave it out"),
    ("allow_hosts = ¦\"x\"", "allow_hosts", "found a string", "names, patterns and"),
    ("allow_hosts = [\"x\", \"¦https://x\"]", "allow_hosts", "not the name of a", "without scheme"),
];

/// The url of line 3, and what may not be asked there.
const REFUSED: &[(&str, &str, &str, &str)] = &[
    ("http://u:p@x/", "", "url is http", "allow_insecure = true"),
    ("http://x/", "headers = { X-Api-Key = \"k\" }", "in the clear", "use https://"),
    ("http://10.0.0.1/", "auth = { type = \"bearer\", token = \"t\" }", "in the clear", ""),
    (
        "https://x/",
        "allow_hosts = [\"y\", \"*.x\"]",
        "the host x is not in allow_hosts; add it",
        "",
    ),
    ("https://169.254.169.254/", "", "a metadata service of a cloud; add \"169", ""),
    ("https://127.0.0.1/", "allow_hosts = [\"10.0.0.0/8\"]", "a loopback address", ""),
    ("https://x/", "[loader]\nallow_hosts = [\"y\"]", "the host x is not in allow_hosts", ""),
];

const URLS: &[(&str, &str, &str)] = &[
    ("shop.example.com/api", "not an http or https URL", "begin it with https://"),
    ("ftp://x/y", "not an http or https URL", "begin it with https://"),
    ("http://", "not a URL (empty host)", "an http:// or https:// URL"),
    ("http://x:99999/", "not a URL (invalid port number)", "an http:// or https:// URL"),
    ("http://x/#top", "a URL with a fragment", "remove it"),
    ("http://x/?after_id=1", "after_id or limit, which every request", "remove it (after_param"),
    ("http://x/?limit=1", "after_id or limit, which every request", "remove it (limit_param"),
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
fn a_url_that_may_not_be_asked_is_named() {
    for (url, more, problem, hint) in REFUSED {
        let text = format!("[sources.a]\ntype = \"http\"\nurl = ¦\"{url}\"\n{more}");
        check(&text, "sources.a.url", problem, hint);
    }
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
                url = \"${A}${B}\"\ntimeout = 5\n[sources.a]\ntype = \"sql\"\nanything = 1\n[x]\n";
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
        "[sources.a]\ntype=\"http\"\nurl=\"https://x\"\nproxy=\"socks://u:hunter2@p\"",
        "[sources.a]\ntype=\"http\"\nurl=\"https://x\"\nauth={type=\"bearer\",token=\"hunter2\",x=1}",
        "[sources.a]\ntype=\"http\"\nurl=\"https://x\"\nauth={type=\"baerer\",token=\"hunter2\"}",
        "[sources.a]\ntype=\"http\"\nurl=\"https://x\"\nmethod=\"POST\"\nbody='{\"k\":\"hunter2\"'",
        "[sources.a]\ntype=\"http\"\nurl=\"http://x\"\nauth={type=\"basic\",username=\"u\",password=\"hunter2\"}",
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
