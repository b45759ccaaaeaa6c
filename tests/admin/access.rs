//! Who is let in, and what a client cannot do to the server.

use reqwest::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::admin::{Administered, TOKEN, form, http_sources};
use crate::support::database::Database;
use crate::support::http::Server;
use crate::support::program::Program;
use crate::support::wait_for;

async fn start(database: &Database) -> (Server, Administered) {
    let server = Server::with_events(5).await;
    let sources = http_sources(&[("api", server.url(), "")]);
    let running = Administered::start(database, &sources).await;
    (server, running)
}

#[tokio::test]
async fn nothing_is_read_or_changed_without_the_token() {
    let database = Database::migrated().await;
    let (_server, running) = start(&database).await;
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status();
    let bare = |path: &str| running.client.get(format!("{}{path}", running.url));
    for path in ["/healthz", "/readyz", "/login"] {
        assert_eq!(status(bare(path)).await, StatusCode::OK, "{path}");
    }
    for path in ["/metrics", "/api/v1/status", "/api/v1/requests", "/api/v1/dead-letters", "/live"]
    {
        assert_eq!(status(bare(path)).await, StatusCode::UNAUTHORIZED, "{path}");
        if path != "/live" {
            assert_eq!(status(running.get(path)).await, StatusCode::OK, "{path}");
        }
    }
    let page = bare("/").header("accept", "text/html").send().await.unwrap();
    assert_eq!(
        (page.status(), &page.headers()["location"]),
        (StatusCode::SEE_OTHER, &"/login".parse().unwrap())
    );
    let pause = || running.client.post(format!("{}/api/v1/sources/api/pause", running.url));
    assert_eq!(status(pause()).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(pause().bearer_auth("wrong")).await, StatusCode::UNAUTHORIZED);
    let foreign = pause().bearer_auth(TOKEN).header("origin", "https://evil.example");
    assert_eq!(status(foreign).await, StatusCode::FORBIDDEN);
    let foreign = pause().bearer_auth(TOKEN).header("sec-fetch-site", "cross-site");
    assert_eq!(status(foreign).await, StatusCode::FORBIDDEN);
    assert_eq!(
        status(running.get("/api/v1/sources/api/pause")).await,
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(
        status(bare("/healthz").header("host", "evil.example")).await,
        StatusCode::MISDIRECTED_REQUEST
    );
    let paused: i64 =
        database.value("select count(*) from eventloader.source where paused_at is not null").await;
    assert_eq!(paused, 0, "none of it changed anything");
    let mut limited = false;
    for _ in 0..50 {
        limited |= status(pause().bearer_auth("wrong")).await == StatusCode::TOO_MANY_REQUESTS;
    }
    assert!(limited, "tokens cannot be guessed quickly");
    assert_eq!(status(pause().bearer_auth(TOKEN)).await, StatusCode::OK);
    running.stop().await;
}

#[tokio::test]
async fn a_browser_signs_in_and_out() {
    let database = Database::migrated().await;
    let (_server, running) = start(&database).await;
    let login = |token: &'static str| {
        let request = running.client.post(format!("{}/login", running.url));
        form(request.header("origin", running.url.clone()), &format!("token={token}")).send()
    };
    assert_eq!(
        login("a-wrong-token-of-some-length").await.unwrap().status(),
        StatusCode::UNAUTHORIZED
    );
    let signed_in = login(TOKEN).await.unwrap();
    assert_eq!(signed_in.status(), StatusCode::SEE_OTHER);
    let cookie = signed_in.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    assert!(!cookie.contains(TOKEN), "the cookie is not the token");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let page = running.client.get(&running.url).header("cookie", &cookie).send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let text = page.text().await.unwrap();
    assert!(text.contains("Pause") && !text.contains(TOKEN));
    let pause = running.client.post(format!("{}/api/v1/sources/api/pause", running.url));
    let paused =
        pause.header("cookie", &cookie).header("accept", "text/html").send().await.unwrap();
    assert!(paused.text().await.unwrap().contains("api is paused"));
    running.stop().await;
}

#[tokio::test]
async fn without_a_token_loopback_is_read_and_nothing_changed() {
    let database = Database::migrated().await;
    let server = Server::with_events(5).await;
    let configuration = format!(
        "[admin]\nlisten = \"127.0.0.1:0\"\n{}",
        http_sources(&[("api", server.url(), "")])
    );
    let running = Administered::start_program(Program::new(&database, &configuration)).await;
    wait_for("metrics", || async {
        let text = running.client.get(format!("{}/metrics", running.url)).send().await.unwrap();
        text.text().await.unwrap().contains("eventloader_inbox_events").then_some(())
    })
    .await;
    let (status, said) = running.post("/api/v1/sources/api/pause", &serde_json::json!({})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(said["error"].as_str().unwrap().contains("set [admin] token"), "{said}");
    running.stop().await;
}

#[tokio::test]
async fn an_address_that_others_reach_needs_a_token() {
    let database = Database::migrated().await;
    let source = "[sources.a]\ntype = \"file\"\npath = \"a\"\n";
    let program = Program::new(&database, &format!("[admin]\nlisten = \"0.0.0.0:0\"\n{source}"));
    let refused = program.run(&["run"]).await;
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.stderr.contains("there is no token"), "{refused:?}");
}

#[tokio::test]
async fn secrets_may_stand_in_files() {
    let database = Database::migrated().await;
    let program = Program::without_database(
        "[admin]\nlisten = \"127.0.0.1:0\"\ntoken = \"${ADMIN_TOKEN}\"\n[sources.a]\ntype = \"file\"\npath = \"a\"\n",
    );
    std::fs::write(program.path("url"), format!("{}\n", database.url)).unwrap();
    std::fs::create_dir(program.path("credentials")).unwrap();
    std::fs::write(program.path("credentials/ADMIN_TOKEN"), format!("{TOKEN}\n")).unwrap();
    let log = std::fs::File::create(program.path("log")).unwrap();
    let mut command = program.command(&["run", "--no-embedded"]);
    command.env("DATABASE_URL_FILE", program.path("url"));
    command.env("CREDENTIALS_DIRECTORY", program.path("credentials"));
    let mut child = command.stderr(log).spawn().unwrap();
    let url = wait_for("the address", || async {
        let log = program.read("log");
        let at = log.find("\"address\":\"")? + "\"address\":\"".len();
        Some(format!("http://{}/api/v1/status", log[at..].split('"').next()?))
    })
    .await;
    wait_for("the status", || async {
        let answer = reqwest::Client::new().get(&url).bearer_auth(TOKEN).send().await.unwrap();
        (answer.status() == StatusCode::OK).then_some(())
    })
    .await;
    child.kill().await.unwrap();
}

#[tokio::test]
async fn clients_that_say_nothing_do_not_keep_others_out() {
    let database = Database::migrated().await;
    let (_server, running) = start(&database).await;
    let address = running.url.trim_start_matches("http://").to_owned();
    // More than there are places.
    let mut silent = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: local").await.unwrap();
        }
        silent.push(stream);
    }
    let (status, _) = running.json("/healthz").await;
    assert_eq!(status, StatusCode::OK, "they were cut off in time");
    let mut rest = Vec::new();
    let closed = silent[0].read_to_end(&mut rest).await;
    assert!(closed.is_err() || rest.is_empty() || rest.starts_with(b"HTTP/1.1 4"), "{rest:?}");
    // A head in time, and a body that never comes.
    let mut slow = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST /login HTTP/1.1\r\nHost: {address}\r\nContent-Length: 20\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    drop(slow.read_to_end(&mut answer).await);
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    let large = running.get("/healthz").header("x-large", "x".repeat(64 << 10)).send().await;
    assert!(large.is_err() || large.unwrap().status().is_client_error());
    let body = vec![b'x'; 1 << 20];
    let post = running.client.post(format!("{}/api/v1/sources/api/pause", running.url));
    let refused = post.bearer_auth(TOKEN).body(body).send().await;
    assert!(refused.is_err() || refused.unwrap().status() == StatusCode::PAYLOAD_TOO_LARGE);
    running.stop().await;
}
