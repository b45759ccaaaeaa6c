//! `eventloader completions` and `eventloader man`.

use crate::support::program::Program;

#[tokio::test]
async fn shells_and_man_know_every_command() {
    let program = Program::without_database("not a configuration");
    for shell in ["bash", "zsh", "fish"] {
        let script = program.run(&["completions", shell]).await;
        assert_eq!(script.code, Some(0), "{script:?}");
        for command in ["retry-worker", "dead-letters", "check", "demo"] {
            assert!(script.stdout.contains(command), "{shell}: {command}");
        }
    }
    let page = program.run(&["man"]).await;
    assert_eq!(page.code, Some(0), "{page:?}");
    assert!(page.stdout.contains(".TH eventloader 1"), "{page:?}");
    let written = program.run(&["man", "--directory", "."]).await;
    assert_eq!(written.code, Some(0), "{written:?}");
    for name in ["eventloader.1", "eventloader-run.1", "eventloader-requests-retry.1"] {
        assert!(program.path(name).exists(), "{name}");
    }
    let refused = program.run(&["man", "--directory", "missing"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("failed to write to missing"), "{refused:?}");
}
