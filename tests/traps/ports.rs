//! Ports that somebody else has, and the files that name ports and hosts.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokio::net::TcpListener;
use tokio::process::Command;

use crate::support::program::{Program, finish};

/// What the files of the repository must not insist on.
const USUAL: [u16; 6] = [5432, 8080, 8099, 9090, 5672, 15672];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test]
async fn the_demo_minds_no_port() {
    let mut taken = Vec::new();
    for port in USUAL {
        // Who cannot take it meets somebody who has it, which is just as well.
        taken.extend(TcpListener::bind(("127.0.0.1", port)).await.ok());
    }
    let program = Program::without_database("");
    let toured = program.run(&["demo", "--seconds", "5"]).await;
    assert_eq!(toured.code, Some(0), "{toured:?}");
    assert!(toured.stdout.contains("event API      http://127.0.0.1:"), "{toured:?}");
}

#[tokio::test]
async fn the_quickstart_takes_the_next_free_port() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    // Programs that say which port they were given stand in for what `make run` builds.
    let target = tempfile::tempdir().unwrap();
    let say = |name: &str, line: &str| {
        let path = target.path().join("debug").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("#!/bin/sh\n{line}\n")).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    say("examples/event_server", "echo \"$1\" >\"$CARGO_TARGET_DIR/server\"");
    say(
        "eventloader",
        "while [ ! -s \"$CARGO_TARGET_DIR/server\" ]; do sleep 0.1; done; echo \"$ORDERS_PORT\"",
    );
    let mut command = Command::new("bash");
    command
        .arg(repository().join("scripts/quickstart.sh"))
        .env("CARGO_TARGET_DIR", target.path())
        .env("ORDERS_PORT", port.to_string());
    let done = finish(command).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let served = std::fs::read_to_string(target.path().join("server")).unwrap();
    assert_eq!(served, done.stdout, "both are given the same port");
    assert!(served.trim().parse::<u16>().unwrap() > port, "{served}");
}

#[test]
fn the_compose_file_leaves_usual_ports_alone_and_names_services() {
    let text = std::fs::read_to_string(repository().join("docker-compose.yml")).unwrap();
    let published: Vec<&str> =
        text.lines().filter_map(|line| line.trim().strip_prefix("- \"127.0.0.1:")).collect();
    assert!(!published.is_empty());
    for port in published {
        let variable = port.strip_prefix("${").unwrap_or_else(|| panic!("fixed: {port}"));
        let default = variable.split_once(":-").unwrap().1.split('}').next().unwrap();
        assert!(!USUAL.contains(&default.parse().unwrap()), "{port}");
    }
    let url = text.lines().find(|line| line.trim().starts_with("DATABASE_URL:")).unwrap();
    let host = url.rsplit('@').next().unwrap().split(':').next().unwrap();
    assert!(text.contains(&format!("\n  {host}:\n")), "{host} is no service");
    assert!(text.contains("condition: service_healthy"), "it waits for the database");
}
