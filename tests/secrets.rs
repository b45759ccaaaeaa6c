//! Secrets stay secret: markers in every place that may hold one, everything made to fail, and not one of them in what
//! is printed, logged or stored.

use std::time::Duration;

use rustix::process::Signal;
use tokio::net::TcpListener;

use crate::support::admin::form;
use crate::support::database::Database;
use crate::support::http::{Reply, Server};
use crate::support::program::{Program, signal};
use crate::support::wait_for;

const MARKERS: [&str; 9] = [
    "marker-database-password",
    "marker-database-parameter",
    "marker-source-password",
    // The same as the header that carries it: base64 of `marker-source-user:marker-source-password`.
    "bWFya2VyLXNvdXJjZS11c2VyOm1hcmtlci1zb3VyY2UtcGFzc3dvcmQ",
    "marker-query-token",
    "marker-header",
    "marker-redirect-token",
    "marker-from-environment",
    "marker-admin-token",
];

fn assert_clean(what: &str, text: &str) {
    for marker in MARKERS {
        let at = text.find(marker);
        let around = at.map(|at| {
            String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(200)..at + marker.len()])
        });
        assert_eq!(around, None, "{marker} in {what}");
    }
}

async fn assert_tables_are_clean(database: &Database) {
    for (what, sql) in [
        ("requests", "select r::text from eventloader.event_request_log r"),
        ("sources", "select s::text from eventloader.source s"),
        ("status", "select s::text from eventloader.source_status s"),
        (
            "dead letters",
            "select d::text || convert_from(body, 'UTF8') from eventloader.dead_letter d",
        ),
        ("events", "select e::text from eventloader.events e"),
        ("audit log", "select a::text from eventloader.audit_log a"),
    ] {
        for row in database.column::<String>(sql).await {
            assert_clean(what, &row);
        }
    }
}

/// One source for each way a request can fail.
async fn failing_servers() -> Vec<(&'static str, Server)> {
    let redirect = || {
        let location = "https://u:marker-redirect-token@elsewhere/x?token=marker-redirect-token";
        Reply::Status(302, vec![("location", location.to_owned())], vec![])
    };
    vec![
        ("unauthorized", Server::start(|_| Reply::Status(401, vec![], b"no".to_vec())).await),
        ("broken", Server::start(|_| Reply::Status(500, vec![], b"oops".to_vec())).await),
        (
            "busy",
            Server::start(|_| Reply::Status(429, vec![("retry-after", "60".to_owned())], vec![]))
                .await,
        ),
        ("moved", Server::start(move |_| redirect()).await),
        ("silent", Server::start(|_| Reply::Drop).await),
        ("garbage", Server::start(|_| Reply::Json("<html>".to_owned())).await),
        ("not-http", Server::start(|_| Reply::Raw(b"SSH-2.0-OpenSSH\r\n".to_vec())).await),
        (
            "hanging",
            Server::start(|_| Reply::After(Duration::from_mins(1), Box::new(Reply::Drop))).await,
        ),
        ("good", Server::with_events(3).await),
    ]
}

/// These, and a port where nobody listens.
async fn configuration(servers: &[(&'static str, Server)]) -> String {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = ("refusing", free.local_addr().unwrap());
    drop(free);
    let addresses = servers.iter().map(|(name, server)| (*name, server.address));
    let tables: Vec<String> = addresses
        .chain([refusing])
        .map(|(name, address)| {
            format!(
                "[sources.{name}]\ntype = \"http\"\ntimeout = \"2s\"\n\
                 url = \"http://marker-source-user:marker-source-password@{address}/events?token=marker-query-token\"\n\
                 headers = {{ X-Api-Key = \"marker-header\", X-Other = \"${{OTHER}}\" }}\n"
            )
        })
        .collect();
    let admin = "[admin]\nlisten = \"127.0.0.1:0\"\ntoken = \"marker-admin-token\"\n";
    admin.to_owned() + &tables.concat()
}

/// All that the admin server of a program shows, and says to those it refuses.
async fn assert_admin_is_clean(log: &str) {
    let at = log.find("\"address\":\"").unwrap() + "\"address\":\"".len();
    let url = format!("http://{}", log[at..].split('"').next().unwrap());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let letter = "/?letter=1".to_owned();
    let paths =
        ["/", "/login", "/metrics", "/healthz", "/readyz", "/api/v1/status", "/api/v1/requests"];
    let more = ["/api/v1/requests/1", "/api/v1/dead-letters", "/api/v1/dead-letters/1"];
    for path in paths.into_iter().chain(more).map(str::to_owned).chain([letter]) {
        for token in ["marker-admin-token", "another-token-that-is-wrong"] {
            let answer =
                client.get(format!("{url}{path}")).bearer_auth(token).send().await.unwrap();
            let shown = format!("{:?}", answer.headers()) + &answer.text().await.unwrap();
            assert!(!shown.is_empty());
            assert_clean(&path, &shown);
        }
    }
    let signing_in = client.post(format!("{url}/login"));
    let answer = form(signing_in, "token=marker-admin-token").send().await.unwrap();
    assert_clean("a sign-in", &format!("{:?}", answer.headers()));
}

#[tokio::test]
async fn no_secret_is_printed_logged_or_stored_whatever_fails() {
    let database = Database::migrated().await;
    let (name, _) = database.login(Some("eventloader_runtime")).await;
    database.run_sql(format!("alter role {name} password 'marker-database-password'")).await;
    let url =
        database.url_as(&name, "marker-database-password") + "&passfile=marker-database-parameter";

    let servers = failing_servers().await;
    let configuration = configuration(&servers).await;
    let program = Program::with_database_url(&url, &configuration);
    let run = |format: &'static str| {
        let output = std::fs::File::create(program.path(format)).unwrap();
        let mut command = program.command(&["run", "--log-level", "trace", "--log-format", format]);
        command
            .env("OTHER", "marker-from-environment")
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        command.spawn().unwrap()
    };
    let mut children = [run("text"), run("json")];
    wait_for("a failure of each source", || async {
        let failed: i64 = database
            .value(
                "select count(*) from eventloader.source s
                 where s.health <> 'ok' or exists
                     (select from eventloader.event_request_log r where r.source_name = s.source_name and r.status = 'failed')",
            )
            .await;
        (failed == 9).then_some(())
    })
    .await;
    let good = servers.last().unwrap().1.log();
    assert_eq!(good[0].headers["x-other"], "marker-from-environment");
    assert!(good[0].headers["authorization"].contains(MARKERS[3]), "{:?}", good[0]);
    assert_admin_is_clean(&program.read("json")).await;
    for child in &mut children {
        signal(child, Signal::TERM);
        assert_eq!(child.wait().await.unwrap().code(), Some(0));
    }
    for format in ["text", "json"] {
        assert_clean(format, &program.read(format));
    }
    // The two share the sources: either may have met all of the failures.
    let logs = program.read("text") + &program.read("json");
    assert!(logs.contains("TRACE") && logs.contains("request failed"), "{logs}");

    let held: i64 = database
        .value("select id from eventloader.event_request_log where status = 'failed' limit 1")
        .await;
    let held = held.to_string();
    for arguments in [
        &["status"][..],
        &["status", "--json", "--log-level", "trace"],
        &["sources", "list", "--json"],
        &["requests", "list", "--json"],
        &["requests", "list"],
        &["requests", "show", &held],
        &["dead-letters", "list", "--json"],
    ] {
        let shown = program.run_with(&[("OTHER", "marker-from-environment")], arguments).await;
        assert_eq!(shown.code, Some(0), "{shown:?}");
        assert_clean("a command", &(shown.stdout + &shown.stderr));
    }
    assert_tables_are_clean(&database).await;
}

#[tokio::test]
async fn no_secret_is_in_what_a_failed_start_says() {
    let database = Database::empty().await;
    let (login, _) = database.login(None).await;
    let password = "marker-database-password";
    let reachable = database.url_as(&login, password);
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let unused = free.local_addr().unwrap();
    drop(free);
    for (url, code) in [
        (reachable.clone() + "&token=marker-database-parameter", 69),
        (format!("postgres://u:{password}@{unused}/x?sslmode={password}"), 78),
        (format!("postgres://u:12?{password}@{unused}/x"), 69),
        (format!("postgres://u:{password}@:5432:1/x"), 78),
        (format!("mysql://u:{password}@localhost/x"), 78),
        (format!("u:{password}"), 78),
    ] {
        let program = Program::without_database("");
        for arguments in [
            &["status", "--log-level", "trace", "--database-url", &url][..],
            &["status", "--database-url", &url],
        ] {
            let mut child = program.start(arguments, "said");
            // Where nobody listens the program waits: what it says meanwhile is enough.
            match tokio::time::timeout(Duration::from_secs(2), child.wait()).await {
                Ok(status) => assert_eq!(status.unwrap().code(), Some(code), "{url}"),
                Err(_) => assert!(program.read("said").contains("not up yet"), "{url}"),
            }
            let said = program.read("said");
            assert!(said.contains("not up yet") || said.contains("error: "), "{url}: {said}");
            assert_clean("a failed start", &said);
        }
    }

    let program = Program::without_database(
        "[database]\nurl = \"postgres://u:marker-database-password@h/x\"\nport = 5432\n\
         [sources.a]\ntype = \"http\"\nurl = \"http://u:marker-source-password@h/?token=marker-query-token\"\n\
         headers = { Authorisation = \"marker-header\" }\ntoken = \"marker-query-token\"\ntimeout = \"2\"\n",
    );
    let refused = program.run(&["run", "--log-level", "trace"]).await;
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.stderr.contains("sources.a.token"), "{refused:?}");
    assert_clean("configuration errors", &(refused.stdout + &refused.stderr));
}
