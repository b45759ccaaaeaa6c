//! Wrong configurations, and what the program says of each: the files `NN_name.toml` of the folder of this name, each
//! with its snapshot beside it.
//!
//! Lines `#? env NAME=value` set variables; `#? schema cannot know …` says why the schema accepts the file. What is
//! called `hunter2` is a secret and must not be said. After a change that is meant:
//! `INSTA_UPDATE=always cargo test --locked wrong_configurations`, then read the difference.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::program::{BINARY, Finished, Program, finish};

const SECRET: &str = "hunter2";
/// Cases that are no text of a file.
const OTHERS: &[&str] = &["90_missing_file", "91_directory", "92_no_permission", "93_wrong_flag"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong_configurations")
}

/// The names of the files with an ending, without it.
fn names(ending: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|found| found == ending))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect()
}

fn assert_snapshot(name: &str, said: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(folder());
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, said));
}

/// Refused with 78, before anything else was done.
fn assert_refused(name: &str, finished: &Finished) {
    assert_eq!(finished.code, Some(78), "{name}: {finished:?}");
    assert_eq!(finished.stdout, "", "{name}");
    assert!(finished.stderr.starts_with("error: "), "{name}: {finished:?}");
    for part in [SECRET, "unter2", "hunter"] {
        assert!(!finished.stderr.contains(part), "{name} shows a secret: {}", finished.stderr);
    }
}

/// Whether the schema refuses a file; `None` where it is no TOML.
fn refused_by_schema(bytes: &[u8], schema: &jsonschema::Validator) -> Option<bool> {
    let file: toml::Table = toml::from_slice(bytes).ok()?;
    Some(!schema.is_valid(&serde_json::to_value(file).unwrap()))
}

#[tokio::test]
async fn every_one_is_refused_with_place_reason_and_remedy() {
    let program = Program::without_database("");
    let schema = program.run(&["config", "schema"]).await.json();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let files = names("toml");
    assert!(files.len() >= 40, "the files were not found");
    let mut secrets = 0;
    for name in files {
        let path = format!("{name}.toml");
        let bytes = fs::read(folder().join(&path)).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        secrets += usize::from(text.contains(SECRET));
        let directives: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("#? ")).collect();
        let variables = directives.iter().filter_map(|line| line.strip_prefix("env "));
        let variables: Vec<_> = variables.map(|pair| pair.split_once('=').unwrap()).collect();

        let mut command = program.command(&["config", "show", "--config", &path]);
        command.current_dir(folder()).envs(variables);
        let finished = finish(command).await;
        assert_refused(&name, &finished);
        let place = format!("{path}:");
        let has_place = finished.stderr.contains(&place) || finished.stderr.contains("variable ");
        assert!(has_place, "{name} says no place: {}", finished.stderr);
        let remedy = ["  help: ", "  expected: "].iter().any(|line| finished.stderr.contains(line));
        assert!(remedy, "{name} says no remedy: {}", finished.stderr);
        assert_snapshot(&name, &finished.stderr);

        let schema_cannot_know =
            directives.iter().any(|line| line.starts_with("schema cannot know"));
        if let Some(refused) = refused_by_schema(&bytes, &schema) {
            assert_eq!(refused, !schema_cannot_know, "{name}: whether the schema refuses it");
        }
    }
    assert!(secrets >= 20, "{secrets} files have a secret");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_named() {
    let program = Program::without_database("");
    let missing = program.run(&["run", "--config", "orders.toml"]).await;
    assert_refused("missing", &missing);
    assert_snapshot("90_missing_file", &missing.stderr);

    fs::create_dir(program.path("conf.d")).unwrap();
    let directory = program.run_with(&[("EVENTLOADER_CONFIG", "conf.d")], &["status"]).await;
    assert_refused("directory", &directory);
    assert_snapshot("91_directory", &directory.stderr);

    let flag = program.run(&["status", "--database-url", "app:hunter2@db/app"]).await;
    assert_refused("flag", &flag);
    assert_snapshot("93_wrong_flag", &flag.stderr);
}

#[tokio::test]
async fn a_file_that_belongs_to_somebody_else_is_named() {
    let program = Program::without_database("[database]\nurl = \"hunter2\"\n");
    let file = program.path("eventloader.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = program.command(&["status"]);
    if rustix::process::geteuid().is_root() {
        // Nothing is forbidden to root: somebody else runs a copy, in a directory that is open to all.
        let (directory, copy) = (file.parent().unwrap(), program.path("eventloader"));
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(BINARY, &copy).unwrap();
        let mut as_nobody = tokio::process::Command::new(copy);
        as_nobody.arg("status").current_dir(directory).env_clear().uid(65534).gid(65534);
        command = as_nobody;
    }
    let refused = finish(command).await;
    assert_refused("no permission", &refused);
    assert_snapshot("92_no_permission", &refused.stderr);
}

#[test]
fn every_snapshot_belongs_to_a_case() {
    let cases: BTreeSet<String> =
        names("toml").into_iter().chain(OTHERS.iter().map(|&name| name.to_owned())).collect();
    assert_eq!(names("snap"), cases, "a snapshot without its case, or a case without its snapshot");
}
