//! What goes over the wire, and what of it may be seen.

use std::fmt::Write as _;

use super::{HEALTHY, Hostile, Scene, case, encoded, gzip, texts};
use crate::support::database::Database;
use crate::support::http::{Reply, Server, page};
use crate::support::loading::http;
use crate::support::program::Program;
use crate::support::wait_for;

/// One GET per window, with the source's own query and headers, without a body, without cookies.
#[tokio::test]
async fn a_request_carries_the_url_and_the_headers_of_its_source() {
    let server = Server::start(|asked| {
        let cookie = ("set-cookie", "session=1".to_owned());
        Reply::Status(200, vec![cookie], page(asked, 3).into_bytes())
    })
    .await;
    let url = format!("http://me:p%40ss@{}/events?shop=7&q=a%26b", server.address);
    let mut given = http("api", &url);
    given.options().headers = vec![
        ("X-Api-Key".to_owned(), "k3y".to_owned().into()),
        ("Accept".to_owned(), "text/x".to_owned().into()),
    ];
    let scene = Scene::with(vec![given]).await;
    scene.stored_up_to("api", 3).await;
    wait_for("a second request", || async { (server.log().len() >= 2).then_some(()) }).await;
    for asked in server.log() {
        let header = |name: &str| asked.headers.get(name).map(String::as_str);
        assert_eq!(asked.path, "/events");
        assert_eq!(asked.limit, 1000);
        assert_eq!(header("x-api-key"), Some("k3y"));
        assert_eq!(header("accept"), Some("text/x"), "the source's own header wins");
        assert_eq!(header("accept-encoding"), Some("gzip"));
        assert_eq!(header("authorization"), Some("Basic bWU6cEBzcw=="));
        assert_eq!(header("user-agent"), Some(concat!("eventloader/", env!("CARGO_PKG_VERSION"))));
        for absent in ["cookie", "referer", "content-length", "x-forwarded-for"] {
            assert_eq!(header(absent), None, "{absent}");
        }
        assert_eq!(asked.query.get("shop").map(String::as_str), Some("7"));
        assert_eq!(asked.query.get("q").map(String::as_str), Some("a&b"));
    }
    scene.finish(&[&server]).await;
}

/// Odd but valid ways to send a page.
#[tokio::test]
async fn a_good_page_is_stored_however_it_is_sent() {
    let hostile = Hostile::start(
        vec![
            case("gzip", "", |asked| encoded("gzip", gzip(page(asked, 5).as_bytes()))),
            case("members", "", |asked| {
                let page = page(asked, 5).into_bytes();
                let (one, two) = page.split_at(1);
                encoded("GZIP", [gzip(one), gzip(two)].concat())
            }),
            case("identity", "", |asked| encoded("identity", page(asked, 5).into_bytes())),
            case("no-content", "", |asked| match asked.after_id {
                0 => Reply::Json(page(asked, 5)),
                _ => Reply::Status(204, Vec::new(), Vec::new()),
            }),
            case("close", "", |asked| {
                let head = "HTTP/1.0 200 OK\r\ncontent-type: text/html\r\n\r\n";
                Reply::Raw(format!("{head}{}", page(asked, 5)).into_bytes())
            }),
            case("chunks", "", |asked| {
                let page = page(asked, 5);
                let chunks: Vec<_> =
                    page.chars().map(|c| format!("{:x};x=y\r\n{c}\r\n", c.len_utf8())).collect();
                let chunks = chunks.concat();
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                Reply::Raw(format!("{head}{chunks}0\r\nx-trailer: 1\r\n\r\n").into_bytes())
            }),
            case("continue", "", |asked| {
                let page = page(asked, 5);
                let informational = "HTTP/1.1 100 Continue\r\n\r\n".repeat(3);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", page.len());
                Reply::Raw(format!("{informational}{head}{page}and more than it said").into_bytes())
            }),
        ],
        5,
    )
    .await;
    let scene = Scene::with(hostile.given()).await;
    for (name, _) in &hostile.cases {
        scene.stored_up_to(name, 5).await;
        assert_eq!(scene.ids(name).await, [1, 2, 3, 4, 5], "{name}");
        wait_for("the tip to be asked again", || async {
            (hostile.asked(name, 5) >= 2).then_some(())
        })
        .await;
        assert_eq!(scene.seen(name).await.state, "ok", "{name}");
        assert_eq!(hostile.asked(name, 0), 1, "{name}");
    }
    scene.finish(&[&hostile.server]).await;
}

/// Proxies of the environment would see the tokens, and could ask again behind our back.
#[tokio::test]
async fn proxies_of_the_environment_are_not_used() {
    let database = Database::migrated().await;
    let (server, proxy) = (Server::with_events(HEALTHY).await, Server::with_events(9).await);
    let program = Program::new(
        &database,
        &format!("[sources.api]\ntype = \"http\"\nurl = \"{}\"\n", server.url()),
    );
    let mut command = program.command(&["run"]);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    {
        command.env(name, format!("http://{}", proxy.address));
    }
    let null = std::process::Stdio::null;
    let mut child = command.stdout(null()).stderr(null()).spawn().unwrap();
    wait_for("the events", || async {
        let stored: i64 = database.value("select count(*) from eventloader.events").await;
        (stored == HEALTHY).then_some(())
    })
    .await;
    child.kill().await.unwrap();
    assert!(proxy.log().is_empty(), "{:?}", proxy.log());
}

/// Passwords, tokens and header values appear neither in the log nor in what people read, however a request ends.
#[tokio::test]
async fn secrets_are_never_shown() {
    let database = Database::migrated().await;
    let healthy = Server::with_events(HEALTHY).await;
    let server = Server::start(|asked| {
        // A source that gives back what it got.
        let echo = format!("https://u:s3cret-4@{}/x?{:?}#s3cret-5", "elsewhere", asked.headers);
        match asked.path.as_str() {
            "/moved" => {
                Reply::Status(302, vec![("location", echo.replace(['\r', '\n'], ""))], Vec::new())
            }
            "/denied" => Reply::Status(
                401,
                vec![("www-authenticate", "s3cret-6".to_owned())],
                echo.into_bytes(),
            ),
            "/error" => Reply::Status(500, Vec::new(), echo.into_bytes()),
            "/html" => Reply::Json(format!("<html>{echo}</html>")),
            "/busy" => {
                Reply::Status(429, vec![("retry-after", "60".to_owned())], echo.into_bytes())
            }
            _ => Reply::Drop,
        }
    })
    .await;
    let names = ["moved", "denied", "error", "html", "busy", "dropped"];
    let mut configuration =
        format!("[sources.healthy]\ntype = \"http\"\nurl = \"{}\"\n", healthy.url());
    for (name, host) in names.map(|name| (name, server.address.to_string())).into_iter().chain([
        ("unreachable", "127.0.0.1:1".to_owned()),
        ("nowhere", "no-such-host.invalid".to_owned()),
        ("tls", format!("{}", healthy.address)),
    ]) {
        let scheme = if name == "tls" { "https" } else { "http" };
        write!(
            configuration,
            "[sources.{name}]\ntype = \"http\"\nurl = \"{scheme}://s3cret-0:s3cret-1@{host}/{name}?token=s3cret-2\"\n\
             headers = {{ Authorization = \"Bearer s3cret-3\" }}\nallow_insecure = true\n"
        )
        .unwrap();
    }
    let program = Program::new(&database, &configuration);
    let mut child = program.start(&["run", "--log-level", "debug"], "log");
    wait_for("every source to have been asked", || async {
        let settled: i64 = database
            .value("select count(*) from eventloader.source_status where state <> 'ok'")
            .await;
        let stored: i64 = database.value("select count(*) from eventloader.events").await;
        (settled == 9 && stored == HEALTHY).then_some(())
    })
    .await;
    let status = program.run(&["status"]).await;
    let requests = program.run(&["requests", "list"]).await;
    child.kill().await.unwrap();
    let log = std::fs::read_to_string(program.path("log")).unwrap();
    let shown = [log, status.stdout, requests.stdout, texts(&database).await.join("\n")];
    for text in shown {
        assert!(!text.is_empty());
        let line = text.lines().find(|line| line.contains("s3cret"));
        assert_eq!(line, None);
        assert!(!text.contains("czNjcmV0"), "basic credentials");
    }
}
