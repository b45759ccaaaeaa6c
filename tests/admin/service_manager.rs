//! What systemd is told.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::admin::http_sources;
use crate::support::database::Database;
use crate::support::http::Server;
use crate::support::program::{Program, signal};

/// Reads until a message with this line.
fn wait_for_line(socket: &UnixDatagram, wanted: &str) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let length = socket
            .recv(&mut buffer)
            .unwrap_or_else(|error| panic!("{error}; {wanted} after {seen:?}"));
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let found = text.lines().any(|line| line.starts_with(wanted));
        seen.push(text);
        if found {
            return seen;
        }
    }
}

#[tokio::test]
async fn it_is_ready_after_the_database_feeds_the_watchdog_and_says_when_it_stops() {
    let database = Database::migrated().await;
    let server = Server::with_events(5).await;
    let program = Program::new(&database, &http_sources(&[("api", server.url(), "")]));
    let path = program.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut command = program.command(&["run"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "2000000");
    command.env("EVENTLOADER_ADMIN__LISTEN", "127.0.0.1:0");
    let log = std::fs::File::create(program.path("log")).unwrap();
    let mut child = command.stderr(log).spawn().unwrap();
    let reading = move |wanted: &'static str, socket: UnixDatagram| {
        tokio::task::spawn_blocking(move || {
            let seen = wait_for_line(&socket, wanted);
            (seen, socket)
        })
    };
    let (seen, socket) = reading("READY=1", socket).await.unwrap();
    assert_eq!(seen.len(), 1, "nothing before it: {seen:?}");
    assert!(program.read("log").contains("eventloader is running"));
    let (_, socket) = reading("WATCHDOG=1", socket).await.unwrap();
    let (_, socket) = reading("WATCHDOG=1", socket).await.unwrap();
    let (_, socket) = reading("STATUS=", socket).await.unwrap();
    signal(&child, Signal::TERM);
    drop(reading("STOPPING=1", socket).await.unwrap());
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}
