//! `eventloader config` and `eventloader init`.

use rustix::process::Signal;

use super::assert_fails;
use crate::support::database::Database;
use crate::support::program::{Program, signal};
use crate::support::wait_for;

const BROKEN: &str = "[loader]\nbatch_size = \n";

#[tokio::test]
async fn the_schema_is_printed_whatever_is_wrong_with_the_configuration() {
    let program = Program::with_database_url("nonsense", BROKEN);
    let variables = [("EVENTLOADER_NO_EMBEDDED", "maybe")];
    let printed = program.run_with(&variables, &["config", "schema"]).await;
    assert_eq!((printed.code, printed.stderr.as_str()), (Some(0), ""));
    let schema = printed.json();
    let batch_size = &schema["properties"]["loader"]["properties"]["batch_size"]["anyOf"][0];
    assert_eq!((&batch_size["minimum"], &batch_size["maximum"]), (&1.into(), &1000.into()));
    let reference = program.run(&["config", "schema", "--markdown"]).await;
    assert!(reference.stdout.contains("| `batch_size` | 1 to 1000 | `1000` |"), "{reference:?}");
}

#[tokio::test]
async fn show_prints_values_with_their_origins_and_no_secrets() {
    let program = Program::with_database_url(
        "postgres://u:hunter2@127.0.0.1:1/none",
        "[loader]\nbatch_size = 500\n[sources.orders]\ntype = \"http\"\nurl = \"https://u:hunter2@x/\"\n\
         headers = { Authorization = \"Bearer ${TOKEN}\" }\n",
    );
    let variables = [("TOKEN", "hunter2"), ("EVENTLOADER_SOURCES__ORDERS__TIMEOUT", "3s")];
    let shown = program.run_with(&variables, &["config", "show"]).await;
    assert_eq!((shown.code, shown.stderr.as_str()), (Some(0), ""));
    for (line, origin) in [
        ("url = \"***\"", "# DATABASE_URL"),
        ("batch_size = 500", "# eventloader.toml:2"),
        ("batch_size = 500", "# [loader], eventloader.toml:2"),
        ("concurrency = 64", "# default"),
        ("timeout = \"3s\"", "# EVENTLOADER_SOURCES__ORDERS__TIMEOUT"),
        ("url = \"***\"", "# eventloader.toml:5"),
        ("Authorization = \"***${TOKEN}\"", "# eventloader.toml:6"),
    ] {
        let is_it = |shown: &str| shown.starts_with(line) && shown.ends_with(origin);
        assert!(shown.stdout.lines().any(is_it), "{line} {origin} in {}", shown.stdout);
    }
    assert!(!shown.stdout.contains("hunter2"), "{shown:?}");

    let flag = ["config", "show", "--json", "--database-url", "postgres://u:hunter2@h/d"];
    let json = program.run_with(&variables, &flag).await;
    assert!(!json.stdout.contains("hunter2"), "{json:?}");
    let values = json.json();
    let find = |key: &str| values.as_array().unwrap().iter().find(|v| v["key"] == key).unwrap();
    let size = find("sources.orders.batch_size");
    assert_eq!(
        (&size["value"], &size["origin"]),
        (&500.into(), &"[loader], eventloader.toml:2".into())
    );
    assert_eq!(find("database.url")["origin"], "--database-url");
    assert!(find("storage.url")["value"].is_null());

    // A printed file whose secrets were not filled in is refused, instead of being used with asterisks.
    std::fs::write(program.path("eventloader.toml"), &shown.stdout).unwrap();
    let refused = program.run_with(&variables, &["status"]).await;
    assert_fails(
        &refused,
        78,
        &["sources.orders.url: found ***", "headers.Authorization: found ***"],
    );
}

#[tokio::test]
async fn show_says_what_is_wrong_like_every_command() {
    let program = Program::with_database_url("postgres://127.0.0.1:1/none", BROKEN);
    let refused = program.run(&["config", "show"]).await;
    assert_fails(&refused, 78, &["eventloader.toml:2:", "give the key a value"]);
    std::fs::remove_file(program.path("eventloader.toml")).unwrap();
    let defaults = program.run(&["config", "show"]).await;
    assert_eq!(defaults.code, Some(0), "{defaults:?}");
    assert!(defaults.stdout.contains("[loader]\nconcurrency = 64"), "{defaults:?}");
}

#[tokio::test]
async fn init_never_overwrites_and_can_print() {
    let program = Program::with_database_url("nonsense", BROKEN);
    let refused = program.run(&["init"]).await;
    assert_fails(&refused, 1, &["eventloader.toml exists, and is left as it is", "hint: name"]);
    assert_eq!(program.read("eventloader.toml"), BROKEN);
    let missing = program.run(&["init", "none/x.toml"]).await;
    assert_fails(&missing, 1, &["failed to write none/x.toml: no such directory"]);
    let written = program.run(&["init", "other.toml"]).await;
    assert_eq!(written.code, Some(0), "{written:?}");
    assert!(written.stdout.contains("eventloader --config other.toml run"), "{written:?}");
    for arguments in [["init", "-"], ["init", "--stdout"]] {
        let printed = program.run(&arguments).await;
        assert_eq!((printed.code, &printed.stdout), (Some(0), &program.read("other.toml")));
    }
}

#[tokio::test]
async fn run_works_at_once_with_the_file_of_init() {
    let database = Database::migrated().await;
    let program = Program::new(&database, "");
    std::fs::remove_file(program.path("eventloader.toml")).unwrap();
    let lost = program.run(&["run"]).await;
    assert_fails(&lost, 78, &["no configuration file was found", "`eventloader init`"]);
    assert_eq!(program.run(&["init"]).await.code, Some(0));

    // The line that the file itself tells to write.
    let file = program.read("eventloader.toml");
    let told = file.lines().find_map(|line| line.split_once("echo '")?.1.split_once("' >> "));
    let (line, events) = told.unwrap();
    std::fs::write(program.path(events), format!("{line}\n")).unwrap();
    let mut child = program.start(&["run"], "log");
    let count =
        "select count(*) from eventloader.events where stream = 'example' and event_type = 'hello'";
    wait_for("the event", || async { (database.value::<i64>(count).await == 1).then_some(()) })
        .await;
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", program.read("log"));
}
