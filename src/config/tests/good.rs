//! Good files, and what the environment does to them.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;
use crate::loader::policy::OnFailure;
use crate::mapping::Pointer;
use crate::sources::sql::{Location, Relation};

/// The example of the design, with the types that are supported.
const EXAMPLE: &str = r#"
[database]                     # or DATABASE_URL; ${NOT_READ_IN_COMMENTS}
url = "${DATABASE_URL}"
max_connections = 10

[loader]
batch_size = 1000              # 1..=1000
min_interval = "200ms"         # >= 200ms for http, sql, file, command
lease_ttl = "2s"               # >= 500ms
concurrency = 64               # requests in flight per instance
max_idle = "5s"

[retry_worker]
batch_size = 1000
max_attempts = 5

[admin]
listen = "127.0.0.1:8080"

[sources.orders]               # the key is the source_name
type = "http"
url = "https://shop.example.com/api/events"     # asked as ?after_id=41&limit=1000
headers = { Authorization = "Bearer ${SHOP_TOKEN}" }
items = "/events"              # JSON pointer to the array; default: the body is the array
id = "/id"                     # pointers inside one item
event_type = "/type"
occurred_at = "/created_at"
payload = ""                   # default: the whole item
timeout = "30s"
start_after = 0                # where a source without a cursor begins (-1 for streams)
on_failure = "hold"            # or "retry"
max_event_bytes = "1MiB"

[sources.audit]
type = "file"                  # newline-delimited JSON, followed as it grows
path = "/var/log/audit.ndjson"
"#;

const SHOP: &str = "[sources.user-events]\ntype = \"http\"\nurl = \"https://x/\"\n";

fn http(config: &Config) -> &HttpConfig {
    match &config.sources[0].kind {
        SourceKind::Http(http) => http,
        SourceKind::File(_) | SourceKind::Sql(_) => panic!("not an http source"),
    }
}

fn sql(keys: &str) -> SqlConfig {
    let config = parse(&format!("[sources.a]\ntype = \"sql\"\n{keys}"), &[]).unwrap();
    match &config.sources[0].kind {
        SourceKind::Sql(sql) => sql.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sql_source_has_columns_where_others_have_pointers() {
    let source = sql("url = \"postgres://u:p@h/d\"\ntable = \"shop.events\"\n");
    assert!(matches!(source.location, Location::Postgres(_)));
    assert!(matches!(&source.relation, Relation::Table(name) if name.to_string() == "shop.events"));
    assert_eq!((source.id.as_str(), &source.mapping), ("id", &crate::mapping::Mapping::default()));
    let (timeout, none) = (Duration::from_secs(30), Duration::ZERO);
    assert_eq!((source.timeout, source.tip_lag, source.max_page_bytes), (timeout, none, 64 << 20));
    let source = sql(
        "url = \"mariadb://u@h/d\"\nquery = \"\"\"\nselect seq, a/b as kind from t -- all of them\nwhere seq > {after_id} \
         order by seq limit {limit}\n\"\"\"\nid = \"seq\"\nevent_type = \"kind\"\npayload = \"body\"\n",
    );
    assert!(matches!(
        (&source.location, &source.relation),
        (Location::MySql(_), Relation::Query(_))
    ));
    assert_eq!(source.mapping.event_type, Some(pointer("/kind")));
    assert_eq!(source.mapping.payload, pointer("/body"));
    assert_eq!(source.tip_lag, Duration::from_secs(2), "MariaDB has no horizon");
}

#[test]
fn a_file_of_sqlite_begins_at_the_configuration_file() {
    for (url, want) in [
        ("sqlite://data/a%20b.db", "conf/data/a b.db"),
        ("sqlite:///var/lib/a.db", "/var/lib/a.db"),
    ] {
        let text = format!("[sources.a]\ntype = \"sql\"\nurl = \"{url}\"\ntable = \"t\"\n");
        let path = Path::new("conf/eventloader.toml");
        let config = Config::parse(path, &text, None, &environment(&[])).unwrap();
        let SourceKind::Sql(sql) = &config.sources[0].kind else { panic!("{config:?}") };
        assert!(matches!(&sql.location, Location::Sqlite(path) if path == Path::new(want)));
    }
}

#[test]
fn the_type_of_a_source_with_a_table_is_guessed() {
    let found = findings("[sources.a]\nurl = \"postgres://h/d\"\ntable = \"t\"", &[]);
    assert_eq!(found[0].help.as_deref(), Some("add type = \"sql\""));
}

fn pointer(text: &str) -> Pointer {
    text.parse().unwrap()
}

#[test]
fn the_example_of_the_design_is_read() {
    let config = parse(EXAMPLE, &[("DATABASE_URL", "postgres://u:p@h/d")]).unwrap();
    assert_eq!(config.database.url.as_ref().unwrap().expose_secret(), "postgres://u:p@h/d");
    assert_eq!(config.loader, LoaderConfig::default());
    assert_eq!(config.retry_worker, RetryWorkerConfig::default());
    assert_eq!(config.admin, AdminConfig::default());
    let names: Vec<_> = config.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["orders", "audit"], "the order of the file");
    let http = http(&config);
    assert_eq!(http.url.as_str(), "https://shop.example.com/api/events");
    assert_eq!(http.headers[0].0, "Authorization");
    assert_eq!(http.headers[0].1.expose_secret(), "Bearer s3cr3t-token");
    assert_eq!(http.mapping.items, pointer("/events"));
    assert_eq!(http.mapping.event_type, Some(pointer("/type")));
    assert_eq!(http.mapping.message_id, None);
    assert_eq!(http.timeout, Duration::from_secs(30));
    assert_eq!((http.mapping.max_event_bytes, http.max_page_bytes), (1 << 20, 64 << 20));
    let SourceKind::File(file) = &config.sources[1].kind else { panic!("not a file") };
    assert_eq!(file.path, Path::new("/var/log/audit.ndjson"));
    assert_eq!(file.mapping.id, pointer("/id"));
}

#[test]
fn debug_shows_no_secrets() {
    let text = "[database]\nurl = \"postgres://u:hunter2@h/d\"\n[storage]\nurl = \
                \"postgres://u:hunter2@h/d\"\n[sources.a]\ntype = \"http\"\nurl = \
                \"https://me:hunter2@x:8443/y?key=hunter2\"\nheaders = { A = \"hunter2\" }";
    let config = parse(text, &[]).unwrap();
    let shown = format!("{config:?} {:?}", environment(&[("X", "hunter2")]));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert_eq!(http(&config).shown_url(), "https://***@x:8443/y?***");
}

#[test]
fn an_empty_file_has_all_defaults() {
    for text in ["", "# nothing\n", "[loader]\n[sources]\n", "\r\n[loader]\r\n"] {
        let config = parse(text, &[]).unwrap();
        assert!(config.sources.is_empty() && config.database.url.is_none());
        assert_eq!(config.loader, LoaderConfig::default());
    }
}

#[test]
fn loader_values_are_defaults_that_each_source_can_replace() {
    let text = format!("[loader]\nbatch_size = 50\nlease_ttl = \"3s\"\n{SHOP}batch_size = 7\n");
    let loading = parse(&text, &[]).unwrap().sources[0].loading.clone();
    assert_eq!((loading.batch_size, loading.lease_ttl), (7, Duration::from_secs(3)));
    assert_eq!((loading.on_failure, loading.start_after), (OnFailure::Hold, 0));
    let text = format!("{SHOP}on_failure = \"retry\"\nstart_after = -1\n");
    let loading = parse(&text, &[]).unwrap().sources[0].loading.clone();
    assert_eq!((loading.on_failure, loading.start_after), (OnFailure::Retry, -1));
}

#[test]
fn an_inherited_max_idle_gives_way_to_min_interval() {
    let text = format!("{SHOP}min_interval = \"1m\"\n");
    let loading = parse(&text, &[]).unwrap().sources[0].loading.clone();
    assert_eq!(loading.max_idle, Duration::from_mins(1));
}

#[test]
fn numbers_and_sizes_can_be_filled_from_the_environment() {
    let text = format!(
        "[loader]\nbatch_size = \"${{N}}\"\n{SHOP}max_event_bytes = 2048\ntimeout = \"1.5s\""
    );
    let config = parse(&text, &[]).unwrap();
    assert_eq!(config.loader.batch_size, 7);
    assert_eq!(http(&config).mapping.max_event_bytes, 2048);
    assert_eq!(http(&config).timeout, Duration::from_millis(1500));
}

#[test]
fn interpolation_cannot_change_the_structure() {
    let text = format!("{SHOP}headers = {{ \"${{WORD}}\" = \"$x ${{INJECT}}\" }}");
    let inject = "\" }\n[loader]\nbatch_size = 1 # ${WORD}";
    let found = findings(&text, &[("INJECT", inject)]);
    assert_eq!(found.len(), 2, "a key is not filled, and a value with a newline is refused");
    let text = format!("{SHOP}headers = {{ A = \"$x ${{Q}}\" }}");
    let config = parse(&text, &[("Q", "\"${WORD}")]).unwrap();
    assert_eq!(http(&config).headers[0].1.expose_secret(), "$x \"${WORD}");
}

#[test]
fn environment_comes_before_the_file() {
    let text = format!(
        "[database]\nurl = \"${{MISSING}}\"\n{SHOP}timeout = \"1s\"\n\
         headers = {{ Authorization = \"Bearer ${{MISSING}}\" }}"
    );
    let config = parse(
        &text,
        &[
            ("EVENTLOADER_LOADER__BATCH_SIZE", "3"),
            ("EVENTLOADER_SOURCES__USER_EVENTS__TIMEOUT", "9s"),
            ("EVENTLOADER_SOURCES__user_events__headers__x_api_key", "k"),
            ("EVENTLOADER_SOURCES__USER_EVENTS__HEADERS__AUTHORIZATION", "Bearer new"),
            ("EVENTLOADER_RETRY_WORKER__MAX_ATTEMPTS", ""),
            ("DATABASE_URL", "postgres://alias/d"),
            ("EVENTLOADER_CONFIG", "x"),
            ("EVENTLOADER_SERVICE_PORT", "80"),
        ],
    )
    .unwrap();
    assert_eq!(config.loader.batch_size, 3);
    assert_eq!(config.sources[0].loading.batch_size, 3);
    assert_eq!(http(&config).timeout, Duration::from_secs(9));
    let headers: Vec<_> = http(&config)
        .headers
        .iter()
        .map(|(name, value)| (&**name, value.expose_secret()))
        .collect();
    assert_eq!(headers, [("Authorization", "Bearer new"), ("x-api-key", "k")]);
    assert_eq!(config.retry_worker.max_attempts, 5, "an empty variable counts as not set");
    assert_eq!(config.database.url.unwrap().expose_secret(), "postgres://alias/d");
}

#[test]
fn flag_comes_before_environment_before_alias_before_file() {
    let text = "[database]\nurl = \"postgres://file/d\"";
    let own = ("EVENTLOADER_DATABASE__URL", "postgres://own/d");
    let alias = ("DATABASE_URL", "postgres://alias/d");
    let flag = SecretString::from("postgres://flag/d");
    for (flag, variables, want) in [
        (Some(&flag), vec![own, alias], "postgres://flag/d"),
        (None, vec![own, alias], "postgres://own/d"),
        (None, vec![alias], "postgres://alias/d"),
        (None, vec![("DATABASE_URL", "")], "postgres://file/d"),
    ] {
        let config = Config::parse(Path::new("x"), text, flag, &environment(&variables)).unwrap();
        assert_eq!(config.database.url.unwrap().expose_secret(), want);
    }
    assert!(parse("[database]\nurl = \"${X:-}\"", &[]).unwrap().database.url.is_none());
}

#[test]
fn variables_that_match_nothing_or_hold_nonsense_are_named() {
    for (name, value, problem, help) in [
        ("EVENTLOADER_LOADER__BATCHSIZE", "3", "matches no", "EVENTLOADER_LOADER__BATCH_SIZE?"),
        ("EVENTLOADER_LOADER_BATCH_SIZE", "3", "matches no", "with two underscores"),
        ("EVENTLOADER_SOURCES__USER_EVENT__TIMEOUT", "3s", "matches no", "USER_EVENTS__TIMEOUT?"),
        ("EVENTLOADER_SOURCES__NEWONE__TYPE", "http", "matches no", "not add a source"),
        ("EVENTLOADER_NONSENSE__X", "1", "matches no", "the form is"),
        ("EVENTLOADER_LOADER__BATCH_SIZE", "0", "found 0", "the smallest is 1"),
        ("EVENTLOADER_LOADER__MAX_IDLE", "5", "without a unit", "write \"5s\""),
        ("EVENTLOADER_SOURCES__USER_EVENTS__TYPE", "kafka", "not support yet", ""),
        ("DATABASE_URL", "mysql://u:hunter2@h/d", "not a PostgreSQL URL", "postgres://"),
    ] {
        let found = findings(SHOP, &[(name, value)]);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        assert_eq!(found[0].place, Place::Variable(name.to_owned()));
        assert!(found[0].problem.contains(problem), "{}", found[0]);
        assert!(found[0].help.as_deref().unwrap_or_default().contains(help), "{}", found[0]);
        assert!(!found[0].to_string().contains("hunter2"));
    }
}

#[test]
fn a_variable_that_stands_for_two_sources_is_refused() {
    let text = format!("{SHOP}[sources.user_events]\ntype = \"file\"\npath = \"x\"\n");
    assert_eq!(parse(&text, &[]).unwrap().sources.len(), 2);
    let found = findings(&text, &[("EVENTLOADER_SOURCES__USER_EVENTS__BATCH_SIZE", "3")]);
    assert!(found[0].problem.contains("both sources.user-events.batch_size and"), "{}", found[0]);
}

#[test]
fn process_settings_come_from_the_environment_alone() {
    let none = ProcessConfig::from_environment(&Environment::default()).unwrap();
    assert_eq!(none.data_dir, Path::new("./.eventloader"));
    assert!(!none.data_dir_is_explicit && !none.no_color && !none.no_embedded);
    let some = ProcessConfig::from_environment(&environment(&[
        ("EVENTLOADER_DATA_DIR", "/data"),
        ("EVENTLOADER_PG_BIN", "/pg/bin"),
        ("EVENTLOADER_NO_EMBEDDED", "True"),
        ("NO_COLOR", "1"),
        ("PATH", "/bin"),
    ]))
    .unwrap();
    assert_eq!((some.data_dir.as_path(), some.data_dir_is_explicit), (Path::new("/data"), true));
    assert_eq!(some.pg_bin.as_deref(), Some(Path::new("/pg/bin")));
    assert!(some.no_embedded && some.no_color && some.search_path.is_some());
    let wrong = environment(&[("EVENTLOADER_NO_EMBEDDED", "maybe")]);
    let message = ProcessConfig::from_environment(&wrong).unwrap_err().to_string();
    assert!(message.contains("EVENTLOADER_NO_EMBEDDED: found \"maybe\""), "{message}");
}

const INSERTED: [&str; 9] = ["\"", "{", "[", "=", "\n", "\\", "ä", "${", "\"\"\""];

#[test]
fn no_damage_to_a_file_panics_or_shows_a_secret() {
    let variables = [("DATABASE_URL", "postgres://u:p@h/d")];
    let example = EXAMPLE.replace("${SHOP_TOKEN}", "hunter2");
    for at in 0..example.len() {
        let (before, after) = example.split_at(at);
        let mut damaged = vec![before.to_owned(), format!("{before}{}", &after[1..])];
        // Deletions everywhere, insertions at every fourth byte: enough, and quick.
        let insertions = if at % 4 == 0 { &INSERTED[..] } else { &[] };
        for inserted in insertions {
            damaged.push(format!("{before}{inserted}{after}"));
        }
        for text in &damaged {
            if let Err(error) = parse(text, &variables) {
                assert!(!error.to_string().contains("hunter2"), "{text}\n{error}");
            }
        }
    }
}
