//! Wrong usage, and help.

use super::assert_fails;
use crate::support::program::Program;

#[tokio::test]
async fn wrong_usage_exits_with_2_before_anything_is_opened() {
    let program = Program::with_database_url("postgres://127.0.0.1:1/none", "");
    for (arguments, said) in [
        (&["requets"][..], "requests"),
        (&[], "Usage:"),
        (&["run", "--only", "loader,nonsense"], "retry-worker"),
        (&["requests", "retry"], "<IDS>..."),
        (&["requests", "retry", "two"], "invalid digit"),
        (&["requests", "list", "--status", "done"], "inbox_only"),
        (&["requests", "list", "--limit", "0"], "1..=100000"),
        (&["sources", "seek", "orders"], "--to <TO>"),
        (&["sources", "pause"], "<SOURCE>"),
        (&["dead-letters", "discard"], "<IDS>"),
        (&["dead-letters", "list", "--kind", "letter"], "projection"),
        (&["dead-letters", "show", "1", "--body", "--json"], "cannot be used with"),
        (&["config", "show", "all"], "unexpected argument"),
        (&["init", "a.toml", "--stdout"], "cannot be used with"),
        (&["status", "--log-level", "loud=very"], "use error, warn, info, debug or trace"),
    ] {
        assert_fails(&program.run(arguments).await, 2, &[said]);
    }
}

#[rustfmt::skip]
const COMMANDS: &[&str] = &[
    "run", "retry-worker", "migrate", "status", "sources", "requests", "dead-letters", "init", "config",
];

#[tokio::test]
async fn every_command_explains_itself() {
    let program = Program::without_database("");
    let help = program.run(&["--help"]).await;
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("Exit codes: 0 done; 1 failed; 2 wrong usage; 69"), "{help:?}");
    for command in COMMANDS {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command}: {help:?}");
        let help = program.run(&[command, "--help"]).await;
        assert_eq!(help.code, Some(0), "{command}");
        assert!(help.stdout.contains("--database-url <URL>"), "{command}");
    }
}
