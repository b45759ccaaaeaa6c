//! `type = "command"`: what programs do while they are asked.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use eventloader::event::Item;
use eventloader::mapping::Mapping;
use eventloader::source::{EventSource, FailureClass, Page, SourceError};
use eventloader::sources::command::{CommandOptions, CommandSource, Mode};
use rustix::process::{Pid, Signal, kill_process};
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::database::Database;
use crate::support::loading::{Given, Loading};
use crate::support::program::{Program, signal};
use crate::support::wait_for;

/// A directory with a shell script, and the source that runs it.
pub(super) struct Script {
    pub(super) directory: TempDir,
    pub(super) options: CommandOptions,
}

impl Script {
    /// Asked as `script.sh AFTER_ID LIMIT`.
    pub(super) fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("script.sh"), text).unwrap();
        let words = ["sh", "script.sh", "{after_id}", "{limit}"];
        let path = std::env::var_os("PATH").unwrap_or_default();
        let options = CommandOptions {
            source_name: "script".to_owned(),
            mode: Mode::Lines,
            command: words.map(str::to_owned).to_vec(),
            secrets: Vec::new(),
            directory: directory.path().to_owned(),
            inherited: vec![("PATH".to_owned(), path)],
            environment: Vec::new(),
            mapping: Mapping::default(),
            timeout: Duration::from_secs(20),
            max_page_bytes: 1 << 20,
        };
        Self { directory, options }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn source(&self) -> CommandSource {
        CommandSource::new(self.options.clone())
    }

    async fn page(&self) -> Page {
        self.source().fetch_events(0, 10).await.unwrap()
    }

    async fn error(&self) -> SourceError {
        self.source().fetch_events(0, 10).await.unwrap_err()
    }

    /// The process ids that the script wrote to `pids`, once there are so many.
    pub(super) async fn processes(&self, count: usize) -> Vec<i32> {
        wait_for("the process ids", || async {
            let text = std::fs::read_to_string(self.path("pids")).unwrap_or_default();
            let ids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
            (ids.len() == count).then_some(ids)
        })
        .await
    }
}

/// Waits until a process is dead; whoever has to bury it may take longer.
pub(super) async fn assert_dies(process: i32) {
    wait_for("a process to die", || async move {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next());
        matches!(state, None | Some('Z' | 'X')).then_some(())
    })
    .await;
}

fn payloads(page: &Page) -> Vec<&str> {
    page.items
        .iter()
        .map(|item| match item {
            Item::Good(event) => event.payload.as_str(),
            Item::Bad(bad) => panic!("{bad:?}"),
        })
        .collect()
}

/// With two processes of its own, whose ids it writes down.
const HANGING: &str = "sleep 1000 & echo $! >> pids; echo $$ >> pids; echo '{\"id\":1}'; wait";

#[tokio::test]
async fn the_window_is_in_arguments_and_variables() {
    let script = Script::new(
        "printf '{\"id\":%s,\"limit\":%s,\"variables\":\"%s %s\"}\\n' $(($1 + 1)) $2 \
         $EVENTLOADER_AFTER_ID $EVENTLOADER_LIMIT",
    );
    let page = script.source().fetch_events(41, 7).await.unwrap();
    assert_eq!(payloads(&page), [r#"{"id":42,"limit":7,"variables":"41 7"}"#]);
    assert!(page.answered_at.is_some() && page.state.is_none());
}

#[tokio::test]
async fn nothing_printed_is_an_empty_page_and_the_last_line_needs_no_newline() {
    assert!(Script::new("exit 0").page().await.items.is_empty());
    assert!(Script::new("echo; echo '  '").page().await.items.is_empty());
    let page = Script::new("printf '{\"id\":1}\\r\\n\\n{\"id\":2}'").page().await;
    assert_eq!(payloads(&page), [r#"{"id":1}"#, r#"{"id":2}"#]);
}

#[tokio::test]
async fn output_that_is_no_page_is_invalid_and_kept() {
    for (script, reason) in [
        (
            "for i in 1 2 3 4 5 6 7 8 9 10 11; do echo \"{\\\"id\\\":$i}\"; done",
            "more than limit = 10",
        ),
        ("echo '{\"id\":2}'; echo '{\"id\":1}'", "ids must increase strictly"),
        ("echo '{\"id\":0}'", "expected one above after_id = 0"),
        ("echo '{\"id\":1}'; echo 'Done.'", "not JSON: expected value at line 2"),
        ("echo '{\"id\":1}'; echo '{\"di\":2}'", "item 1 has no id"),
        ("echo '[1]'", "item 0 is an array, expected an object"),
        ("printf '{\"id\":1}\\n\\377'", "not UTF-8"),
    ] {
        let error = Script::new(script).error().await;
        assert_eq!(error.class, FailureClass::InvalidPage, "{script}: {error}");
        assert!(error.reason.contains(reason), "{script}: {error}");
        assert!(!error.page.unwrap().is_empty(), "{script}");
    }
}

#[tokio::test]
async fn an_event_that_cannot_be_stored_does_not_hold_its_neighbours() {
    let script =
        "echo '{\"id\":1}'; printf '%s\\n' '{\"id\":2,\"x\":\"\\u0000\"}'; echo '{\"id\":3}'";
    let page = Script::new(script).page().await;
    let kinds: Vec<_> = page.items.iter().map(|i| (i.id(), matches!(i, Item::Good(_)))).collect();
    assert_eq!(kinds, [(Some(1), true), (Some(2), false), (Some(3), true)]);
}

#[tokio::test]
async fn a_program_that_does_not_stop_printing_is_killed() {
    let script = Script::new("echo $$ > pids; while :; do echo '{\"id\":1}'; done");
    let error = script.error().await;
    assert_eq!(error.class, FailureClass::InvalidPage);
    assert!(error.reason.contains("max_page_bytes = 1048576"), "{error}");
    assert_eq!(error.page.unwrap().len(), 1 << 20);
    assert_dies(script.processes(1).await[0]).await;
}

#[tokio::test]
async fn the_timeout_kills_the_program_and_its_children() {
    let mut script = Script::new(HANGING);
    script.options.timeout = Duration::from_millis(500);
    let error = script.error().await;
    assert_eq!(error.class, FailureClass::Unknown);
    assert!(error.reason.contains("within timeout = 0.5 s"), "{error}");
    for process in script.processes(2).await {
        assert_dies(process).await;
    }
}

#[tokio::test]
async fn a_request_that_is_given_up_kills_the_program_and_its_children() {
    let script = Script::new(HANGING);
    let source = script.source();
    let processes = tokio::select! {
        outcome = source.fetch_events(0, 10) => panic!("{outcome:?}"),
        processes = script.processes(2) => processes,
    };
    for process in processes {
        assert_dies(process).await;
    }
}

#[tokio::test]
async fn what_a_program_leaves_behind_is_killed_and_does_not_delay_its_page() {
    let script = Script::new("sleep 1000 & echo $! > pids; echo '{\"id\":1}'");
    assert_eq!(payloads(&script.page().await), [r#"{"id":1}"#]);
    assert_dies(script.processes(1).await[0]).await;
}

#[tokio::test]
async fn who_left_the_process_group_does_not_hold_up_a_page() {
    for (outliver, ending) in [
        ("exec sleep 60", "exit 0"),
        // Prints all the time, but nothing that belongs to a line.
        ("until [ -e printed ]; do :; done; while printf ' '; do :; done", "exit 0"),
        ("exec sleep 60", "exit 69"),
    ] {
        // More than a pipe holds. The program does not end before the other has left its group.
        let mut script = Script::new(&format!(
            "setsid sh -c \"echo \\$\\$ > pids; {outliver}\" 2>/dev/null & while [ ! -s pids ]; do :; done\n\
             printf '{{\"id\":1,\"text\":\"%0100000d\"}}\\n' 0; touch printed; {ending}"
        ));
        script.options.max_page_bytes = 32 << 20;
        let asked_at = Instant::now();
        let outcome = script.source().fetch_events(0, 10).await;
        let took = asked_at.elapsed();
        let process = Pid::from_raw(script.processes(1).await[0]).unwrap();
        // Who prints has lost its pipe by now.
        kill_process(process, Signal::KILL).ok();
        assert!(took < script.options.timeout, "{outliver}: {took:?}");
        match outcome {
            Ok(page) => assert_eq!((ending, payloads(&page)[0].len()), ("exit 0", 100_018)),
            Err(error) => assert_eq!(error.class, FailureClass::NotSent, "{ending}: {error}"),
        }
    }
}

#[tokio::test]
async fn the_exit_code_decides_what_a_failure_means() {
    for (ending, class) in [
        ("exit 1", FailureClass::Unknown),
        ("exit 64", FailureClass::Rejected),
        ("exit 69", FailureClass::NotSent),
        ("exit 75", FailureClass::Refused),
        ("exit 77", FailureClass::Rejected),
        ("exit 78", FailureClass::Rejected),
        ("kill -KILL $$", FailureClass::Unknown),
        ("kill -TERM $$", FailureClass::Unknown),
    ] {
        let text = format!("echo '{{\"id\":1}}'; echo one >&2; printf 'two\\033[2J' >&2; {ending}");
        let error = Script::new(&text).error().await;
        assert_eq!(error.class, class, "{ending}: {error}");
        assert!(error.reason.ends_with("it said: one | two\\u001b[2J"), "{ending}: {error}");
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_rejected_with_a_hint() {
    let mut script = Script::new("");
    for (command, directory, hint) in [
        ("no-such-program", ".", "in no directory of PATH"),
        ("./missing.sh", ".", "begins at `directory`"),
        ("./script.sh", ".", "chmod +x"),
        ("sh", "missing", "the directory does not exist"),
    ] {
        script.options.command = vec![command.to_owned()];
        script.options.directory = script.path(directory);
        let error = script.error().await;
        assert_eq!(error.class, FailureClass::Rejected, "{command}: {error}");
        assert!(error.reason.contains(hint), "{command}: {error}");
    }
}

#[tokio::test]
async fn a_program_sees_no_variable_that_it_was_not_given() {
    let mut script = Script::new(
        "printf '{\"id\":1,\"names\":\"%s\",\"token\":\"%s\"}\\n' \"$(env | cut -d= -f1 | tr '\\n' ' ')\" \"$TOKEN\"",
    );
    script.options.environment = vec![("TOKEN".to_owned(), SecretString::from("t0p"))];
    let page = script.page().await;
    let seen: serde_json::Value = serde_json::from_str(payloads(&page)[0]).unwrap();
    assert_eq!(seen["token"], "t0p");
    // The last ones are the shell's own.
    let known = "PATH TOKEN EVENTLOADER_AFTER_ID EVENTLOADER_LIMIT PWD OLDPWD SHLVL _";
    for name in seen["names"].as_str().unwrap().split_whitespace() {
        assert!(known.split(' ').any(|known| known == name), "{name}");
    }
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "there was something to leak");
}

#[tokio::test]
async fn much_on_standard_error_does_not_block_and_no_secret_is_repeated() {
    let mut script = Script::new(
        "i=0; while [ $i -lt 3000 ]; do echo \"line $i of a program that says a lot, more than a pipe holds\" >&2; \
         i=$((i + 1)); done; [ $1 = 1 ] && { echo \"with $TOKEN\" >&2; exit 1; }; echo '{\"id\":1}'",
    );
    script.options.environment = vec![("TOKEN".to_owned(), SecretString::from("hunter2"))];
    assert_eq!(payloads(&script.page().await), [r#"{"id":1}"#]);
    let error = script.source().fetch_events(1, 1).await.unwrap_err();
    assert!(error.reason.ends_with("| with ***"), "{error}");
}

#[tokio::test]
async fn every_line_of_a_secret_is_masked_and_a_part_of_another_does_not_uncover_it() {
    let mut script = Script::new(
        "printf '%s\\n' \"$KEY\" >&2; echo \"$3 is not known\" >&2; echo abc >&2; exit 64",
    );
    let secret = SecretString::from;
    script.options.command.push("--token=hunter2-and-more".to_owned());
    script.options.secrets = vec![secret("hunter2"), secret("hunter2-and-more"), secret("abc")];
    script.options.environment = vec![("KEY".to_owned(), secret("BEGIN KEY\r\n  MIIE1234\nend"))];
    let error = script.error().await;
    assert!(error.reason.ends_with("it said: end | --token=*** is not known | abc"), "{error}");
    script.options.environment = vec![("KEY".to_owned(), secret("BEGIN KEY\r\n  MIIE1234"))];
    let error = script.error().await;
    assert!(error.reason.ends_with("it said: *** | --token=*** is not known | abc"), "{error}");
}

#[tokio::test]
async fn what_came_before_a_failure_is_not_stored() {
    let database = Database::migrated().await;
    let script = Script::new("echo '{\"id\":1}'; [ -e mended ] || exit 3");
    let loading =
        Loading::start(&database, &[Given::new("script", Arc::new(script.source()))]).await;
    let error: String = wait_for("a failed request", || async {
        let errors = database
            .column("select error from eventloader.event_request_log where status = 'failed'")
            .await;
        errors.into_iter().next()
    })
    .await;
    assert_eq!(error, "the program ended with exit code 3");
    let count = "select (select count(*) from eventloader.event_inbox) + (select count(*) from eventloader.events)";
    assert_eq!(database.value::<i64>(count).await, 0);
    loading.stop().await;
}

/// The binary: paths begin at the configuration file, what the program says is in the log, and nothing leaks.
#[tokio::test]
async fn a_configured_program_is_loaded() {
    let database = Database::migrated().await;
    let program = Program::new(
        &database,
        "[sources.numbers]\ntype = \"command\"\ncommand = [\"sh\", \"fetch.sh\", \"{after_id}\", \
         \"--from=${DATABASE_URL}\"]\ndirectory = \"jobs\"\nevent_type = \"/kind\"\nenvironment = { TOKEN = \"hunter2-${USER}\" }\n",
    );
    std::fs::create_dir(program.path("jobs")).unwrap();
    std::fs::write(
        program.path("jobs/fetch.sh"),
        "echo \"after $1 as $TOKEN $2\" >&2; [ $1 -ge 3 ] && exit 0\n\
         printf '{\"id\":%s,\"kind\":\"number\",\"url\":\"%s\",\"token\":\"%s\"}\\n' $(($1 + 1)) \"$DATABASE_URL\" \"$TOKEN\"",
    )
    .unwrap();
    let mut child = program.start(&["run"], "log");
    wait_for("the events", || async {
        let count: i64 = database.value("select count(*) from eventloader.events").await;
        (count == 3).then_some(())
    })
    .await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));
    let stored: Vec<String> = database
        .column("select format('%s %s %s|%s|%s', version, event_type, payload->>'id', payload->>'url', payload->>'token') from eventloader.events order by position")
        .await;
    assert_eq!(stored[0], "1 number 1||hunter2-tester");
    assert_eq!(stored.len(), 3);
    let log = program.read("log");
    let said = log.lines().find(|line| line.contains("the program says")).unwrap();
    assert!(said.contains("numbers") && said.contains("after 0 as *** --from=***"), "{said}");
    assert!(!log.contains("hunter2"), "{log}");
}
