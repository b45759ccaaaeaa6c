//! Good files, and what the environment does to them.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;
use crate::loader::policy::OnFailure;
use crate::mapping::Pointer;
use crate::mapping::message::MissingId;
use crate::sources::amqp::{Binding, QueueType};
use crate::sources::command::Mode;
use crate::sources::http::{Auth, Credentials};
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
        other => panic!("not an http source: {other:?}"),
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
        let read = Config::parse(path, &text, None, &environment(&[]), Purpose::Load);
        let (config, _) = read.unwrap();
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
    assert_eq!(config.admin.listen, AdminConfig::default().listen);
    assert!(config.admin.is_usual_address() && config.admin.token.is_none());
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
fn the_request_log_is_pruned_by_nobody_unless_it_is_said() {
    let log = parse("", &[]).unwrap().request_log;
    assert_eq!(log, RequestLogConfig::default());
    assert_eq!(
        (log.prune_every, log.succeeded_days, log.failed_days, log.archive),
        (None, 7, 30, false)
    );
    let text = "[request_log]\nprune_every = \"30d\"\nsucceeded_days = 0\nfailed_days = 36500\narchive = true\n\
                months_ahead = 12";
    let want = RequestLogConfig {
        prune_every: Some(Duration::from_hours(30 * 24)),
        succeeded_days: 0,
        failed_days: 36_500,
        archive: true,
        months_ahead: 12,
    };
    assert_eq!(parse(text, &[]).unwrap().request_log, want);
    let given = [("EVENTLOADER_REQUEST_LOG__ARCHIVE", "false"), ("YES", "true")];
    let text = "[request_log]\narchive = \"${YES}\"";
    assert!(!parse(text, &given).unwrap().request_log.archive);
    assert!(parse(text, &given[1..]).unwrap().request_log.archive);
}

#[test]
fn a_window_is_put_where_the_api_wants_it() {
    let config = parse(&format!("{SHOP}after_param = \"since\"\nlimit_param = \"\""), &[]).unwrap();
    let names = http(&config).asking.query.clone().unwrap();
    assert_eq!((names.after_id.as_str(), names.limit), ("since", None));
    let body = "'{\"token\":\"${SHOP_TOKEN}\",\"query\":\"{ list(after: {after_id}) {id} }\"}'";
    let text = format!("{SHOP}method = \"POST\"\nbody = {body}");
    let config = parse(&text, &[]).unwrap();
    let asking = &http(&config).asking;
    let want = r#"{"token":"s3cr3t-token","query":"{ list(after: 7) {id} }"}"#;
    assert_eq!(asking.body.as_ref().unwrap().fill(7, 1), want);
    assert_eq!(asking.query, None);
    assert!(!format!("{config:?}").contains("s3cr3t"));
    let text = format!("{SHOP}after_param = \"a\"").replace("https://x/", "https://x/?after_id=1");
    assert!(parse(&text, &[]).is_ok(), "a parameter of another name is the url's own");
}

#[test]
fn who_asks_and_how_is_read() {
    let text = format!(
        "[loader]\nallow_hosts = [\"x\", \"127.0.0.0/8\"]\n{SHOP}auth = {{ type = \"oauth2\", token_url = \
         \"https://x/token\", client_id = \"me\", client_secret = \"${{SHOP_TOKEN}}\", credentials = \"body\" }}\n\
         ca_file = \"ca.pem\"\nclient_cert_file = \"c\"\nclient_key_file = \"/k\"\nproxy = \
         \"http://u:${{SHOP_TOKEN}}@proxy:3128\"\ntip_lag = \"10s\"\noccurred_at = \"/at\""
    );
    let read = |variables: &[(&str, &str)]| {
        let path = Path::new("/etc/eventloader/x.toml");
        let read = Config::parse(path, &text, None, &environment(variables), Purpose::Load);
        read.unwrap().0
    };
    let config = read(&[]);
    let Some(Auth::OAuth2(oauth2)) = &http(&config).auth else { panic!("{config:?}") };
    assert_eq!((oauth2.client_id.as_str(), oauth2.credentials), ("me", Credentials::Body));
    assert_eq!(oauth2.client_secret.expose_secret(), "s3cr3t-token");
    assert_eq!(http(&config).tls.ca_file.as_deref(), Some(Path::new("/etc/eventloader/ca.pem")));
    assert_eq!(http(&config).tls.client.as_ref().unwrap().key_file, Path::new("/k"));
    assert_eq!(http(&config).tip_lag, Some(Duration::from_secs(10)));
    assert_eq!(http(&config).allow_hosts, config.loader.allow_hosts);
    assert!(!format!("{config:?}").contains("s3cr3t"), "{config:?}");
    let config = read(&[("EVENTLOADER_SOURCES__USER_EVENTS__ALLOW_HOSTS", "*, 10.0.0.0/8")]);
    assert_ne!(http(&config).allow_hosts, config.loader.allow_hosts);
    let insecure =
        "http://shop/\"\nallow_insecure = true\nauth = { type = \"bearer\", token = \"t\" }";
    let text = SHOP.replace("https://x/\"", insecure);
    assert!(matches!(http(&parse(&text, &[]).unwrap()).auth, Some(Auth::Bearer { .. })));
    for url in ["http://u:p@localhost:1/", "http://u:p@127.0.0.2/", "http://u:p@[::1]/"] {
        assert!(parse(&SHOP.replace("https://x/", url), &[]).is_ok(), "{url} is this machine");
    }
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
        let environment = environment(&variables);
        let read = Config::parse(Path::new("x"), text, flag, &environment, Purpose::Load);
        let (config, _) = read.unwrap();
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
        ("EVENTLOADER_SOURCES__USER_EVENTS__TYPE", "htpp", "no type of source", "http"),
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
    // `DATABASE_URL` itself would come before the file, and hide what is wrong there.
    let variables = [("PG", "postgres://u:p@h/d")];
    let example = EXAMPLE.replace("${SHOP_TOKEN}", "hunter2").replace("${DATABASE_URL}", "${PG}");
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

#[test]
fn a_command_is_read_and_gets_only_a_few_of_our_variables() {
    let text = "[sources.a]\ntype = \"command\"\ncommand = [\"awk\", \"{print} {} {after_id}\", \"-t${N}\"]\n\
                directory = \"jobs\"\nenvironment = { B = \"hunter2\" }\nevent_type = \"/t\"\n";
    let more = [
        ("PATH", "/bin"),
        ("TZ", "UTC"),
        ("DATABASE_URL", "postgres://u:p@h/d"),
        ("EVENTLOADER_SOURCES__A__ENVIRONMENT__MORE_OF_IT", "hunter2"),
    ];
    let environment = environment(&more);
    let path = Path::new("/etc/el/eventloader.toml");
    let config =
        Config::parse(path, text, None, &environment, Purpose::Load).map(|(config, _)| config);
    let config = config.unwrap();
    let SourceKind::Command(command) = &config.sources[0].kind else { panic!("not a command") };
    assert_eq!(command.mode, Mode::Lines);
    assert_eq!(command.command, ["awk", "{print} {} {after_id}", "-t7"]);
    assert_eq!(command.directory, Path::new("/etc/el/jobs"));
    let inherited: Vec<&str> = command.inherited.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(inherited, ["PATH", "TZ"]);
    let names: Vec<&str> = command.environment.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["B", "MORE_OF_IT"]);
    assert_eq!(command.mapping.event_type, Some(pointer("/t")));
    assert_eq!((command.timeout, command.max_page_bytes), (Duration::from_secs(30), 64 << 20));
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn a_command_can_be_given_by_a_variable_and_runs_beside_the_file() {
    let text =
        "[sources.a]\ntype = \"command\"\nmode = \"singer\"\ncommand = [\"x\", \"{state}\"]\n";
    let given = [("EVENTLOADER_SOURCES__A__COMMAND", "[\"tap\", \"--state={state}\"]")];
    let config = parse(text, &given).unwrap();
    let SourceKind::Command(command) = &config.sources[0].kind else { panic!("not a command") };
    assert_eq!(command.mode, Mode::Singer);
    assert_eq!(command.command, ["tap", "--state={state}"]);
    assert_eq!(command.directory, Path::new("."));
    let found = findings(text, &[("EVENTLOADER_SOURCES__A__COMMAND", "tap --state {state}")]);
    assert!(found[0].problem.contains("not an array of strings"), "{}", found[0]);
}

#[test]
fn a_stream_of_redis_is_read() {
    let text = "[sources.a]\ntype = \"redis_stream\"\nurl = \"rediss://u:hunter2@r.example.com:6380/3\"\n\
        stream = \"orders\"\ngroup = \"g\"\nread_from = \"group_created\"\nretry_after = \"5s\"\nca_file = \"ca.pem\"\n\
        [sources.b]\ntype = \"redis_stream\"\nurl = \"redis://r\"\nstream = \"s\"\n";
    let config = parse(text, &[]).unwrap();
    let SourceKind::RedisStream(a) = &config.sources[0].kind else { panic!("{config:?}") };
    assert_eq!((a.options.stream.as_str(), a.options.group.as_str()), ("orders", "g"));
    assert_eq!(a.options.retry_after, Duration::from_secs(5));
    assert_eq!(config.sources[0].kind.host().as_deref(), Some("r.example.com"));
    assert!(config.sources[0].kind.is_queue());
    assert!(!format!("{config:?}").contains("hunter2"));
    let SourceKind::RedisStream(b) = &config.sources[1].kind else { panic!("{config:?}") };
    assert_eq!(b.options.group, "eventloader");
    assert_eq!(b.options.retry_after, Duration::from_mins(1));
    let wrong = "[sources.a]\ntype = \"redis_stream\"\nurl = \"redis://u:hun/ter2@h\"\nstream = \"\"\n\
        retry_after = \"10ms\"\nread_from = \"$\"\nstart_after = 1\n[sources.b]\ngroup = \"g\"\n\
        [sources.c]\ntype = \"redis_stream\"\nurl = \"redis://h?protocol=resp3\"\nstream = \"s\"\n\
        [sources.d]\ntype = \"redis_stream\"\nurl = \"redis://h\"\nstream = \"s\"\nca_file = \"x\"\n";
    let found: Vec<String> = findings(wrong, &[]).iter().map(ToString::to_string).collect();
    let all = found.join("\n");
    for wanted in [
        "sources.a.url",
        "not the key of a stream",
        "the shortest is \"1s\"",
        "not one of",
        "start_after: unknown key",
        "add type = \"redis_stream\"",
        "a URL with options",
        "beside a URL without TLS",
    ] {
        assert!(all.contains(wanted), "{wanted}: {all}");
    }
    assert!(!all.contains("ter2"), "{all}");
}

#[test]
fn a_queue_of_rabbitmq_is_read() {
    let text = "[sources.a]\ntype = \"amqp\"\nurl = \"amqps://u:hunter2@mq.example.com/%2f\"\nqueue = \"q\"\n\
        prefetch = 7\nmissing_id = \"hash\"\ndedup_retention = \"2d\"\ndeclare = true\nqueue_type = \"quorum\"\n\
        bindings = { orders = \"order.#\" }\nca_file = \"ca.pem\"\n[sources.b]\ntype = \"amqp\"\n\
        url = \"amqp://mq\"\nqueue = \"q\"\n";
    let config = parse(text, &[]).unwrap();
    let SourceKind::Amqp(a) = &config.sources[0].kind else { panic!("{config:?}") };
    assert_eq!((a.options.prefetch, &*a.options.queue), (7, "q"));
    assert_eq!(config.sources[0].kind.host().as_deref(), Some("mq.example.com"));
    assert!(matches!(a.settings.mapping.missing_id, MissingId::From(_)));
    assert_eq!(a.settings.dedup_retention, Duration::from_hours(48));
    let topology = a.options.topology.as_ref().unwrap();
    assert_eq!(topology.queue_type, Some(QueueType::Quorum));
    let binding = Binding { exchange: "orders".to_owned(), routing_key: "order.#".to_owned() };
    assert_eq!(topology.bindings, [binding]);
    assert!(!format!("{config:?}").contains("hunter2"));
    let SourceKind::Amqp(b) = &config.sources[1].kind else { panic!("{config:?}") };
    assert_eq!((b.options.prefetch, &b.options.topology), (1000, &None));
    assert!(matches!(b.settings.mapping.missing_id, MissingId::Refused));

    let wrong = "[sources.a]\ntype = \"amqp\"\nurl = \"http://hunter2\"\nqueue = \"\"\nprefetch = 0\n\
        queue_type = \"stream\"\nbindings = { x = \"y\" }\n[sources.b]\nqueue = \"q\"\n[sources.c]\n\
        type = \"amqp\"\nurl = \"amqp://mq\"\nqueue = \"q\"\nca_file = \"x\"\n";
    let found: Vec<String> = findings(wrong, &[]).iter().map(ToString::to_string).collect();
    let all = found.join("\n");
    for wanted in [
        "not the URL of an AMQP broker",
        "not the name of a queue",
        "prefetch",
        "\"stream\", not one of the choices",
        "without declare = true",
        "add type = \"amqp\"",
        "beside a URL without TLS",
    ] {
        assert!(all.contains(wanted), "{wanted}: {all}");
    }
    assert!(!all.contains("hunter2"), "{all}");
}
