//! `mode = "singer"`: taps, and their state.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use eventloader::event::{Event, Item};
use eventloader::source::{EventSource, FailureClass, Page, SourceError};
use eventloader::sources::command::{CommandSource, Mode};
use rustix::process::Signal;

use super::command::{Script, assert_dies};
use crate::support::database::Database;
use crate::support::loading::{Given, Loading};
use crate::support::program::{Program, signal};
use crate::support::wait_for;

/// Counts up to the number in the file `total`, from its state on, with a STATE after every seventh number and at the
/// end. Writes down each of its starts.
const COUNTING: &str = r#"
i=0
[ "$1" = --state ] && i=$(sed 's/[^0-9]//g' "$2")
echo "$# $i" >> starts
echo '{"type":"SCHEMA","stream":"numbers","schema":{},"key_properties":["n"]}'
total=$(cat total)
while [ $i -lt $total ]; do
  i=$((i + 1))
  echo '{"type":"RECORD","stream":"numbers","record":{"n":'$i'},"time_extracted":"2020-01-02T03:04:05Z"}'
  [ $((i % 7)) = 0 ] && echo '{"type":"STATE","value":{"n": '$i'}}'
done
echo '{"type":"STATE","value":{"n": '$i'}}'
"#;

/// No events.
const NONE: [&str; 0] = [];

fn tap(text: &str) -> Script {
    let mut script = Script::new(text);
    script.options.mode = Mode::Singer;
    script.options.command = ["sh", "script.sh", "--state", "{state}"].map(str::to_owned).to_vec();
    script
}

fn counting(total: u32) -> Script {
    let script = tap(COUNTING);
    std::fs::write(script.path("total"), total.to_string()).unwrap();
    script
}

fn events(page: &Page) -> Vec<&Event> {
    page.items
        .iter()
        .map(|item| match item {
            Item::Good(event) => event,
            Item::Bad(bad) => panic!("{bad:?}"),
        })
        .collect()
}

/// A loader that stores every page at once.
struct Reader {
    source: CommandSource,
    after_id: i64,
    state: Option<String>,
}

impl Reader {
    fn of(script: &Script) -> Self {
        Self { source: script.source(), after_id: 0, state: None }
    }

    async fn try_read(&mut self, limit: u32) -> Result<Vec<String>, SourceError> {
        let page =
            self.source.fetch_with_state(self.after_id, limit, self.state.as_deref()).await?;
        let events = events(&page);
        let ids: Vec<i64> = events.iter().map(|event| event.id).collect();
        let first = self.after_id + 1;
        assert_eq!(ids, (first..).take(ids.len()).collect::<Vec<_>>(), "numbered in order");
        self.after_id += i64::try_from(ids.len()).unwrap();
        let texts = events.iter().map(|event| event.payload.to_string()).collect();
        assert!(ids.is_empty() || page.state.is_some(), "records come with a state");
        self.state = page.state.or(self.state.take());
        Ok(texts)
    }

    async fn read(&mut self, limit: u32) -> Vec<String> {
        self.try_read(limit).await.unwrap()
    }
}

fn numbers(range: std::ops::RangeInclusive<u32>) -> Vec<String> {
    range.map(|n| format!("{{\"n\":{n}}}")).collect()
}

#[tokio::test]
async fn pages_end_at_a_state_and_the_tap_runs_on() {
    let script = counting(30);
    let mut reader = Reader::of(&script);
    assert_eq!(reader.read(5).await, numbers(1..=7));
    assert_eq!(reader.state.as_deref(), Some(r#"{"value":{"n": 7}}"#));
    // A page that takes a second ends early.
    let page = reader.read(8).await;
    assert!(page == numbers(8..=21) || page == numbers(8..=14), "{page:?}");
    let mut rest = reader.read(1000).await;
    while reader.state.as_deref() != Some(r#"{"value":{"n": 30}}"#) {
        rest.extend(reader.read(1000).await);
    }
    assert_eq!([page, rest].concat(), numbers(8..=30));
    let starts = || std::fs::read_to_string(script.path("starts")).unwrap();
    assert_eq!(starts(), "0 0\n", "without a state there is no option for it");
    assert_eq!(reader.read(5).await, NONE);
    assert_eq!(reader.state.as_deref(), Some(r#"{"value":{"n": 30}}"#));
    std::fs::write(script.path("total"), "32").unwrap();
    assert_eq!(reader.read(5).await, numbers(31..=32));
    assert_eq!(starts(), "0 0\n2 30\n2 30\n");
}

#[tokio::test]
async fn a_record_is_an_event_of_its_stream() {
    let script = counting(1);
    let page = script.source().fetch_events(0, 10).await.unwrap();
    let event = events(&page)[0];
    assert_eq!(event.event_type.as_deref(), Some("numbers"));
    assert_eq!(event.occurred_at, Some("2020-01-02T03:04:05Z".parse().unwrap()));
    let mut script = tap(
        "echo '{\"type\":\"RECORD\",\"stream\":\"s\",\"record\":{\"kind\":\"k\",\"at\":7,\"of\":{\"a\":1.10}}}'",
    );
    script.options.mapping.event_type = Some("/kind".parse().unwrap());
    script.options.mapping.occurred_at = Some("/at".parse().unwrap());
    script.options.mapping.payload = "/of".parse().unwrap();
    let page = script.source().fetch_events(0, 10).await.unwrap();
    let event = events(&page)[0];
    assert_eq!(event.event_type.as_deref(), Some("k"));
    assert_eq!(event.occurred_at, Some("1970-01-01T00:00:07Z".parse().unwrap()));
    assert_eq!(event.payload.as_str(), r#"{"a":1.10}"#);
}

#[tokio::test]
async fn a_request_from_elsewhere_starts_the_tap_anew_from_its_state() {
    let script = counting(30);
    let source = script.source();
    for state in [7, 14, 7] {
        let stored = format!(r#"{{"value":{{"n": {state}}}}}"#);
        let page = source.fetch_with_state(100, 1, Some(&stored)).await.unwrap();
        let first = events(&page)[0];
        assert_eq!(
            (first.id, first.payload.as_str()),
            (101, format!("{{\"n\":{}}}", state + 1).as_str())
        );
    }
    let starts = std::fs::read_to_string(script.path("starts")).unwrap();
    assert_eq!(starts, "2 7\n2 14\n2 7\n");
}

#[tokio::test]
async fn the_state_is_in_a_private_file_that_does_not_stay() {
    let mut script = tap("echo '{\"type\":\"STATE\",\"value\":\"'$(stat -c %a \"$2\")'\"}'");
    let directory = script.directory.path().to_owned();
    script.options.inherited.push(("TMPDIR".to_owned(), directory.clone().into()));
    let page = script.source().fetch_with_state(0, 1, Some(r#"{"value":{}}"#)).await.unwrap();
    assert_eq!(page.state.as_deref(), Some(r#"{"value":"600"}"#));
    let names: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["script.sh"]);
}

/// A tap that writes no STATE brings everything with every run; it is stored once, as long as it brings the same.
#[tokio::test]
async fn records_without_a_state_are_stored_once() {
    let script = tap(
        "cat state 2>/dev/null; for n in $(cat list); do echo '{\"type\":\"RECORD\",\"stream\":\"l\",\"record\":{\"n\":'$n'}}'; done",
    );
    let list = |text: &str| std::fs::write(script.path("list"), text).unwrap();
    let mut reader = Reader::of(&script);
    list("1 2");
    assert_eq!(reader.read(1).await, numbers(1..=2));
    assert_eq!(reader.read(1).await, NONE);
    list("1 2 3");
    assert_eq!(reader.read(1).await, numbers(3..=3));
    assert_eq!(reader.read(1).await, NONE);
    list("");
    assert_eq!(reader.read(1).await, NONE);
    list("1 2 3 4");
    assert_eq!(reader.read(1).await, numbers(4..=4));
    // Another beginning: nobody can tell what is new.
    list("2 3");
    assert_eq!(reader.read(1).await, numbers(2..=3));
    // The same after a state.
    std::fs::write(script.path("state"), "{\"type\":\"STATE\",\"value\":{\"s\":1}}\n").unwrap();
    assert_eq!(reader.read(1000).await, numbers(2..=3));
    assert!(reader.state.as_ref().unwrap().starts_with(r#"{"value":{"s":1},"tail":{"count":2"#));
}

#[tokio::test]
async fn a_state_alone_is_stored() {
    let script = tap("echo '{\"type\":\"STATE\",\"value\":{\"day\":3}}'");
    let mut reader = Reader::of(&script);
    assert_eq!(reader.read(1).await, NONE);
    assert_eq!(reader.state.as_deref(), Some(r#"{"value":{"day":3}}"#));
}

#[tokio::test]
async fn what_is_no_page_of_a_tap_is_refused() {
    let record = "echo '{\"type\":\"RECORD\",\"stream\":\"s\",\"record\":{}}'; ";
    for (rest, class, reason) in [
        (
            "echo '{\"type\":\"BATCH\",\"stream\":\"s\",\"manifest\":[]}'",
            FailureClass::InvalidPage,
            "batch_config",
        ),
        ("echo 'INFO: hello'", FailureClass::InvalidPage, "a line of the tap is not JSON"),
        ("printf '{\"type\":'", FailureClass::InvalidPage, "is not JSON (EOF"),
        ("echo '{\"type\":\"STATE\",\"value\":1}'; exit 1", FailureClass::Unknown, "exit code 1"),
        ("exit 75", FailureClass::Refused, "exit code 75"),
        ("sleep 1000", FailureClass::Unknown, "within timeout = 5 s"),
        (
            "yes '{\"type\":\"RECORD\",\"stream\":\"s\",\"record\":{}}'",
            FailureClass::InvalidPage,
            "STATE more often",
        ),
        ("tr '\\0' x < /dev/zero", FailureClass::InvalidPage, "max_page_bytes = 1048576"),
    ] {
        let mut script = tap(&format!("{record}{rest}"));
        script.options.timeout = Duration::from_secs(5);
        let error = Reader::of(&script).try_read(10).await.unwrap_err();
        assert_eq!(error.class, class, "{rest}: {error}");
        assert!(error.reason.contains(reason), "{rest}: {error}");
    }
    let script = tap("");
    let error = script.source().fetch_with_state(0, 1, Some("[]")).await.unwrap_err();
    assert_eq!(error.class, FailureClass::Rejected);
    assert!(error.reason.contains("sources seek"), "{error}");
}

/// A page does not wait for a full one: it ends at the last STATE there was, and what came after it is in the next.
#[tokio::test]
async fn a_slow_tap_is_read_up_to_its_last_state() {
    let mut script = tap(
        "echo '{\"type\":\"RECORD\",\"stream\":\"s\",\"record\":{\"n\":1}}'; echo '{\"type\":\"STATE\",\"value\":1}'
         echo '{\"type\":\"RECORD\",\"stream\":\"s\",\"record\":{\"n\":2}}'
         until [ -e go ]; do sleep 0.05; done
         echo '{\"type\":\"STATE\",\"value\":2}'; echo '{\"type\":\"RECORD\",\"stream\":\"s\",\"record\":{\"n\":3}}'",
    );
    script.options.timeout = Duration::from_secs(2);
    let mut reader = Reader::of(&script);
    assert_eq!(reader.read(1000).await, numbers(1..=1));
    assert_eq!(reader.state.as_deref(), Some(r#"{"value":1}"#));
    std::fs::write(script.path("go"), "").unwrap();
    assert_eq!(reader.read(1000).await, numbers(2..=3));
    assert!(reader.state.as_ref().unwrap().starts_with(r#"{"value":2,"tail":{"count":1"#));
}

#[tokio::test]
async fn the_loader_takes_more_than_the_limit_where_a_state_comes_with_it() {
    let database = Database::migrated().await;
    let script = counting(50);
    let mut given = Given::new("tap", Arc::new(script.source()));
    given.settings.batch_size = 1;
    let loading = Loading::start(&database, &[given]).await;
    wait_for("the events", || async {
        let count: i64 = database.value("select count(*) from eventloader.events").await;
        (count == 50).then_some(())
    })
    .await;
    loading.stop().await;
    let most: i32 =
        database.value("select max(event_count) from eventloader.event_request_log").await;
    assert_eq!(most, 7);
    let state: String =
        database.value("select state->>'value' from eventloader.source_cursor").await;
    assert_eq!(state, "{\"n\": 50}");
}

/// Two instances take turns, each with a tap of its own, which is started anew whenever the other one was before it.
#[tokio::test]
async fn two_instances_store_every_record_once() {
    let database = Database::migrated().await;
    let script = counting(100);
    let given = || {
        let mut given = Given::new("tap", Arc::new(script.source()));
        given.settings.batch_size = 1;
        given
    };
    let instances =
        [Loading::start(&database, &[given()]).await, Loading::start(&database, &[given()]).await];
    wait_for("the events", || async {
        let count: i64 = database.value("select count(*) from eventloader.events").await;
        (count >= 100).then_some(())
    })
    .await;
    for instance in instances {
        instance.stop().await;
    }
    let stored: Vec<i32> = database
        .column("select (payload->>'n')::int from eventloader.events order by position")
        .await;
    assert_eq!(stored, (1..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_tap_that_waits_for_the_next_request_ends_with_its_source() {
    let script =
        tap("echo $$ > pids; echo '{\"type\":\"RECORD\",\"stream\":\"s\",\"record\":{\"n\":1}}'
         echo '{\"type\":\"STATE\",\"value\":1}'; sleep 1000 & echo $! >> pids; wait");
    let mut reader = Reader::of(&script);
    assert_eq!(reader.read(1).await, numbers(1..=1));
    let processes = script.processes(2).await;
    assert!(std::path::Path::new(&format!("/proc/{}", processes[0])).exists());
    drop(reader);
    for process in processes {
        assert_dies(process).await;
    }
}

#[tokio::test]
async fn a_tap_that_never_ran_begins_at_the_state_it_is_given() {
    let database = Database::migrated().await;
    let program = Program::new(
        &database,
        "[sources.numbers]\ntype = \"command\"\nmode = \"singer\"\n\
         command = [\"sh\", \"tap.sh\", \"--state\", \"{state}\"]\n",
    );
    std::fs::write(program.path("tap.sh"), COUNTING).unwrap();
    std::fs::write(program.path("total"), "5").unwrap();
    database
        .execute(
            "select eventloader.register_sources(array['numbers'], array['command'], array[0])",
        )
        .await;
    let done = program
        .run(&["sources", "seek", "numbers", "--state", "{\"n\":3}", "--yes", "--json"])
        .await;
    assert_eq!(done.json()["source_name"], "numbers");
    let mut child = program.start(&["run"], "log");
    wait_for("the events", || async {
        let count: i64 = database.value("select count(*) from eventloader.events").await;
        (count == 2).then_some(())
    })
    .await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));
    let stored: Vec<String> = database
        .column("select format('%s %s', version, payload->>'n') from eventloader.events order by position")
        .await;
    assert_eq!(stored, ["1 4", "2 5"]);
}

/// Killed in the middle again and again, with the tap: every record is stored once, in order.
#[tokio::test]
async fn kills_lose_nothing_and_store_nothing_twice() {
    let database = Database::migrated().await;
    let program = Program::new(
        &database,
        "[loader]\nlease_ttl = \"500ms\"\nbatch_size = 10\nmax_idle = \"300ms\"\n\
         [sources.numbers]\ntype = \"command\"\nmode = \"singer\"\non_failure = \"retry\"\n\
         command = [\"sh\", \"tap.sh\", \"--state\", \"{state}\"]\n",
    );
    std::fs::write(program.path("tap.sh"), COUNTING).unwrap();
    std::fs::write(program.path("total"), "250").unwrap();
    for (run, wanted) in [40, 90, 150].into_iter().enumerate() {
        // What a killed program leaves behind is removed with the directory.
        let mut command = program.command(&["run"]);
        command.env("TMPDIR", program.path("")).stdout(Stdio::null());
        let log = std::fs::File::create(program.path(&format!("log-{run}"))).unwrap();
        let mut child = command.stderr(log).spawn().unwrap();
        wait_for("some events", || async {
            let count: i64 =
                database.value("select last_requested_id from eventloader.source_cursor union all select 0 limit 1").await;
            (count >= wanted).then_some(())
        })
        .await;
        signal(&child, Signal::KILL);
        child.wait().await.unwrap();
    }
    let mut child = program.start(&["run"], "log");
    wait_for("all events", || async {
        let stored: i64 =
            database.value("select last_stored_id from eventloader.source_cursor").await;
        (stored >= 250).then_some(())
    })
    .await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));
    let stored: Vec<i32> = database
        .column("select (payload->>'n')::int from eventloader.events order by position")
        .await;
    assert_eq!(stored, (1..=250).collect::<Vec<_>>());
    let state: String = database.value("select state::text from eventloader.source_cursor").await;
    assert_eq!(state, r#"{"value":{"n": 250}}"#);
    let starts = std::fs::read_to_string(program.path("starts")).unwrap();
    assert!(starts.lines().count() >= 4 && starts.starts_with("0 0\n"), "{starts}");
}
