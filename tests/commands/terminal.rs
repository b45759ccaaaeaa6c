//! What depends on who reads: a terminal, or a pipe that closes early.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::seeded;
use crate::support::program::{BINARY, Finished, Program, finish};

/// Runs a shell line in which `$BINARY` is the program.
fn shell(program: &Program, line: &str) -> Command {
    let plain = program.command(&[]);
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]).current_dir(plain.as_std().get_current_dir().unwrap());
    command.envs(plain.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("BINARY", BINARY).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs a shell line on a terminal of 120 columns and types `typed`.
async fn on_terminal(program: &Program, line: &str, typed: &str) -> Finished {
    let line = format!("script -qec 'stty cols 120 -echo; {line}' /dev/null");
    let mut command = shell(program, &line);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(typed.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    drop(stdin);
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let (database, program) = seeded().await;
    database
        .execute(
            "insert into eventloader.dead_letter (kind, origin, reference, body, reason)
             select 'event', 'orders', n::text, '{}', repeat('long ', 20) from generate_series(100, 5000) n",
        )
        .await;
    for arguments in [
        "dead-letters list --limit 100000",
        "dead-letters list --limit 100000 --json",
        "status --watch",
        "status --watch --json",
        "--help",
    ] {
        let line = format!("{{ $BINARY {arguments}; echo $? >code; }} | head -n 1");
        let finished = finish(shell(&program, &line)).await;
        assert_eq!(finished.stderr, "", "{arguments}");
        assert_eq!(finished.stdout.lines().count(), 1, "{arguments}: {finished:?}");
        assert_eq!(program.read("code"), "0\n", "{arguments}");
    }
}

#[tokio::test]
async fn on_a_terminal_destructive_commands_ask() {
    let (database, program) = seeded().await;
    let cursor =
        "select last_requested_id from eventloader.source_cursor where source_name = 'orders'";
    let line = "$BINARY sources seek orders --to 3";
    let refused = on_terminal(&program, line, "n\n").await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stdout.contains("[y/N]") && refused.stdout.contains("nothing was done"),
        "{refused:?}"
    );
    assert_eq!(database.value::<i64>(cursor).await, 10);
    let done = on_terminal(&program, line, "y\n").await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(database.value::<i64>(cursor).await, 3);
}

#[tokio::test]
async fn on_a_terminal_long_reasons_are_wrapped_in_their_column() {
    let (database, program) = seeded().await;
    database
        .execute(
            "update eventloader.event_request_log set error = repeat('many words ', 40) || 'at the end' where id = 2",
        )
        .await;
    let shown = on_terminal(&program, "$BINARY requests list", "").await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    for line in shown.stdout.lines() {
        assert!(line.chars().count() <= 120, "{line:?}");
    }
    let words: Vec<&str> = shown.stdout.split_whitespace().collect();
    assert!(words.join(" ").contains("words at the end"), "{words:?}");
    // Others parse lines: one row, one line.
    let piped = program.run(&["requests", "list"]).await;
    assert_eq!(piped.stdout.lines().count(), 3, "{}", piped.stdout);
}

#[tokio::test]
async fn text_of_others_cannot_steer_the_terminal() {
    let (database, program) = seeded().await;
    database
        .execute("update eventloader.event_request_log set error = E'\\x1b[2Jgone\\nnew line' where id = 2")
        .await;
    for arguments in [&["requests", "list"][..], &["requests", "show", "2"], &["status"]] {
        let shown = program.run(arguments).await;
        assert!(shown.stdout.contains("gone new line"), "{shown:?}");
        assert!(!shown.stdout.contains('\x1b'), "{shown:?}");
    }
}
