//! Wrong files, beside those of `tests/wrong_configurations`, whose messages are kept as a whole. A `¦` marks the place
//! that the finding has to name; it is not part of the file.

use super::*;

/// Marked text, dotted key ("" for syntax), part of the problem, part of the expectation or help.
type Case = (&'static str, &'static str, &'static str, &'static str);

const SYNTAX: &[Case] = &[
    ("[loader]\nmax_idle ¦\"5s\"", "", "bad TOML syntax", ""),
    ("[admin]\nlisten = \"¦", "", "bad TOML syntax", ""),
];

const UNKNOWN: &[Case] = &[
    ("[loader]\n¦colour = 1", "loader.colour", "unknown key", "`concurrency`, `batch_size`"),
    ("[¦orders]\ntype = \"http\"", "orders", "unknown section", "`retry_worker`, `storage`"),
    ("¦colour = 5", "colour", "unknown key", "keys stand in a section"),
    ("[loader]\n¦on_failure = \"hold\"", "loader.on_failure", "unknown key", "[sources.NAME]"),
    (
        "[sources.a]\ntype = \"http\"\nurl = \"http://x\"\n¦timeuot = \"1s\"",
        "sources.a.timeuot",
        "unknown key",
        "`timeout`?",
    ),
    ("[database]\n¦uri = \"postgres://u:p@h/d\"", "database.uri", "unknown key", "`url`?"),
];

const TYPES: &[Case] = &[
    ("[loader]\nbatch_size = ¦true", "loader.batch_size", "a boolean, true", "from 1 to 1000"),
    ("[loader]\nbatch_size = ¦[1]", "loader.batch_size", "found an array", "from 1 to 1000"),
    ("[loader]\nmax_idle = ¦false", "loader.max_idle", "found a boolean", "a duration from"),
    ("¦[[loader]]\nbatch_size = 1", "loader", "found an array", "write [loader]"),
];

const VALUES: &[Case] = &[
    ("[loader]\nbatch_size = ¦-5", "loader.batch_size", "found -5", "the smallest is 1"),
    ("[loader]\nbatch_size = ¦1001", "loader.batch_size", "found 1001", "the largest is 1000"),
    ("[loader]\nconcurrency = ¦10001", "loader.concurrency", "found 10001", "is 10000"),
    ("[loader]\nlease_ttl = ¦\"499ms\"", "loader.lease_ttl", "out of range", "is \"500ms\""),
    ("[loader]\nlease_ttl = ¦\"61m\"", "loader.lease_ttl", "out of range", "longest is \"1h\""),
    (
        "[retry_worker]\nmax_attempts = ¦101",
        "retry_worker.max_attempts",
        "found 101",
        "the largest is 100",
    ),
    (
        "[request_log]\nprune_every = ¦\"59s\"",
        "request_log.prune_every",
        "out of range",
        "shortest is \"1m\"",
    ),
    ("[request_log]\nprune_every = ¦\"31d\"", "request_log.prune_every", "range", "is \"30d\""),
    (
        "[request_log]\nsucceeded_days = ¦-1",
        "request_log.succeeded_days",
        "found -1",
        "smallest is 0",
    ),
    ("[request_log]\nfailed_days = ¦36501", "request_log.failed_days", "36501", "is 36500"),
    ("[request_log]\nfailed_days = ¦\"30d\"", "request_log.failed_days", "a string", "a whole"),
    ("[request_log]\narchive = ¦\"yes\"", "request_log.archive", "neither true", "true or false"),
    ("[request_log]\narchive = ¦\"true\"", "request_log.archive", "a string", "without quotes"),
    ("[request_log]\narchive = ¦1", "request_log.archive", "an integer, 1", "true or false"),
    (
        "[request_log]\narchive = true\nmonths_ahead = ¦0",
        "request_log.months_ahead",
        "found 0",
        "smallest is 1",
    ),
    (
        "[request_log]\nmonths_ahead = ¦3",
        "request_log.months_ahead",
        "without an archive",
        "add archive = true",
    ),
    ("[request_log]\n¦archived = true", "request_log.archived", "unknown key", "`archive`?"),
    ("[request_log]\n¦days = 7", "request_log.days", "unknown key", "`succeeded_days`"),
    (
        "[retry_worker]\n¦prune_every = \"1h\"",
        "retry_worker.prune_every",
        "unknown",
        "[request_log]",
    ),
    ("[database]\nmax_connections = ¦0", "database.max_connections", "found 0", "is 1"),
    ("[admin]\nlisten = ¦\":8080\"", "admin.listen", "not an address", "\"0.0.0.0:8080\""),
    ("[admin]\nlisten = ¦\"0.0.0.0:80\"", "admin.listen", "there is no token", "openssl rand"),
    ("[admin]\nlisten = ¦\"[::]:80\"", "admin.listen", "there is no token", "127.0.0.1"),
    ("[admin]\ntoken = ¦\"short\"", "admin.token", "found a value, not a token", "at least 16"),
    ("[admin]\ntoken = ¦\"a b c d e f g h i j\"", "admin.token", "not a token", "without spaces"),
    ("[admin]\nhosts = ¦[\"https://x\"]", "admin.hosts", "not a host name", "host alone"),
    ("[admin]\nlisten = ¦8080", "admin.listen", "found an integer", "quotes"),
    ("[sources.¦\"\"]\ntype = \"file\"\npath = \"x\"", "sources.\"\"", "an empty", "rename"),
    ("[sources.¦a]\npath = \"x\"", "sources.a.type", "missing", "add type = \"file\""),
    (
        "[sources.a]\ntype = ¦\"ftp\"",
        "sources.a.type",
        "no type",
        "`http`, `file`, `command`, `sql`, `rabbitmq_stream`, `amqp`, `redis_stream`",
    ),
];

/// Keys of an HTTP source; the text follows `[sources.a]`, its type and its URL, in line 4.
const HTTP: &[Case] = &[
    ("items = ¦1", "items", "found an integer, 1", "a JSON pointer"),
    ("timeout = ¦\"11m\"", "timeout", "out of range", "the longest is \"10m\""),
    ("timeout = ¦\"0s\"", "timeout", "out of range", "the shortest is \"1ms\""),
    ("on_failure = ¦\"hodl\"", "on_failure", "found \"hodl\"", "did you mean `hold`?"),
    ("on_failure = ¦\"stop\"", "on_failure", "not one of", "one of `hold` and `retry`"),
    ("start_after = ¦\"a\"", "start_after", "found a string", "a whole number"),
    ("max_event_bytes = ¦\"1XB\"", "max_event_bytes", "not a unit of size", "the units are"),
    ("max_event_bytes = ¦100", "max_event_bytes", "found 100, out of range", "is \"1KiB\""),
    ("max_event_bytes = ¦\"65MiB\"", "max_event_bytes", "out of range", "is \"64MiB\""),
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

/// Of a command source; the text follows `[sources.a]` and its type, in line 3.
const COMMAND: &[Case] = &[
    ("command = ¦\"sh fetch.sh\"", "command", "found a string", "no shell splits it"),
    ("command = ¦[]", "command", "an empty array", "write [\"python3\""),
    ("command = ¦[\"\", \"x\"]", "command", "without a name", "write [\"python3\""),
    ("command = ¦[\"sh\", 5]", "command", "found an integer", "put it in quotes"),
    ("command = ¦{ sh = 1 }", "command", "found a table", "an array of strings"),
    ("command = [\"sh\", \"¦{after}\"]", "command", "not known", "`{after_id}`?"),
    ("command = [\"sh\", \"--n=¦{Limit}\"]", "command", "not known", "`{limit}`?"),
    ("command = [\"sh\", \"¦{state}\"]", "command", "mode = \"singer\" only", "`{after_id}`"),
    ("command = [\"sh\", \"¦${NOPE}\"]", "command", "NOPE is not set", "${NOPE:-value}"),
    (
        "mode = \"singer\"\ncommand = [\"tap\", \"{state}\", \"¦{after_id}\"]",
        "command",
        "mode = \"lines\" only",
        "`{state}` here",
    ),
    (
        "mode = \"singer\"\ncommand = ¦[\"tap\", \"--config\", \"c.json\"]",
        "command",
        "no argument with {state}",
        "add \"--state\"",
    ),
    ("mode = ¦\"singr\"\ncommand = [\"sh\"]", "mode", "not one of", "mean `singer`?"),
    ("mode = ¦\"airbyte\"\ncommand = [\"sh\"]", "mode", "not one of", "`lines` and `singer`"),
    (
        "mode = \"singer\"\ncommand = [\"tap\", \"{state}\"]\nid = ¦\"/n\"",
        "id",
        "records have no id",
        "numbered",
    ),
    ("command = [\"sh\"]\ntimeout = ¦\"2h\"", "timeout", "out of range", "is \"1h\""),
    ("command = [\"sh\"]\ndirectory = ¦\"~/x\"", "directory", "\"~\" is not", "${HOME}/x"),
    ("command = [\"sh\"]\nenvironment = ¦\"A=b\"", "environment", "a string", "a table"),
    (
        "command = [\"sh\"]\nenvironment = { ¦\"A=b\" = \"c\" }",
        "environment.\"A=b\"",
        "not the name of a variable",
        "without \"=\"",
    ),
    (
        "command = [\"sh\"]\nenvironment = { ¦EVENTLOADER_LIMIT = \"1\" }",
        "environment.EVENTLOADER_LIMIT",
        "every request sets",
        "take it out",
    ),
    ("command = [\"sh\"]\nenvironment = { A = ¦5 }", "environment.A", "an integer", "quotes"),
    ("command = [\"sh\"]\n¦url = \"x\"", "url", "unknown key", "of type `http`"),
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
    ("table = \"t\"\n¦items = \"/x\"", "items", "unknown key", "of type `http`"),
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

/// Found by fuzzing.
#[test]
fn keys_reach_no_terminal_with_control_characters() {
    let found = findings("[loader]\n\"a\u{9b}\" = 1\n\"a\u{9b}\" = 1", &[]);
    let shown = found.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n");
    assert!(shown.contains("duplicate key `\"a\\u009b\"`"), "{shown}");
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
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
fn an_empty_path_is_named() {
    let text = "[sources.a]\ntype = \"file\"\npath = ¦\"\"\n";
    check(text, "sources.a.path", "not a path", "the path of a file");
}

#[test]
fn every_mistake_in_a_command_source_is_named() {
    for (marked, key, problem, hint) in COMMAND {
        let text = format!("[sources.a]\ntype = \"command\"\n{marked}");
        check(&text, &format!("sources.a.{key}"), problem, hint);
    }
    let missing = "[sources.¦a]\ntype = \"command\"";
    check(missing, "sources.a.command", "missing", "add command = [");
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
        "[sources.a]\ntype=\"command\"\ncommand=[\"x\", \"--token=hunter2\", \"{after}\"]",
        "[sources.a]\ntype=\"command\"\ncommand=\"x --token=hunter2\"",
        "[sources.a]\ntype=\"command\"\ncommand=[\"x\"]\nenvironment={ A=\"hunter2\", B=5 }",
        "[sources.a]\ntype=\"command\"\ncommand=[\"x\"]\nenvironment={ A=\"hunter2\\u0000\" }",
        "[sources.a]\ntype=\"http\"\nurl=\"https://x\"\nproxy=\"socks://u:hunter2@p\"",
        "[sources.a]\ntype=\"http\"\nurl=\"https://x\"\nauth={type=\"bearer\",token=\"hunter2\",x=1}",
        "[sources.a]\ntype=\"http\"\nurl=\"https://x\"\nauth={type=\"baerer\",token=\"hunter2\"}",
        "[sources.a]\ntype=\"http\"\nurl=\"https://x\"\nmethod=\"POST\"\nbody='{\"k\":\"hunter2\"'",
        "[sources.a]\ntype=\"http\"\nurl=\"http://x\"\nauth={type=\"basic\",username=\"u\",password=\"hunter2\"}",
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
