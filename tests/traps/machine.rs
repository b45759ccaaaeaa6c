//! The machine: no PostgreSQL programs, root, directories that cannot be written.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::FILE_SOURCE;
use crate::support::disk::Disk;
use crate::support::program::{Finished, Program, finish};
use crate::support::troubleshooting::assert_told;

const NOBODY: u32 = 65534;

/// A program in a directory that every user can enter.
fn program() -> Program {
    let program = Program::without_database(FILE_SOURCE);
    std::fs::set_permissions(program.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[tokio::test]
async fn without_postgresql_every_way_to_one_is_told() {
    let program = program();
    let empty = program.path("empty");
    std::fs::create_dir(&empty).unwrap();
    // Not even programs on the PATH help where a directory is named.
    let variables = [("EVENTLOADER_PG_BIN", empty.to_str().unwrap()), ("PATH", "/nowhere")];
    for command in ["run", "check", "demo"] {
        let refused = program.run_with(&variables, &[command]).await;
        assert_eq!(refused.code, Some(69), "{refused:?}");
        assert_told("no PostgreSQL programs", &(refused.stdout + &refused.stderr));
    }
}

#[tokio::test]
async fn as_root_the_server_runs_as_another_user_and_says_so() {
    let program = program();
    let made = program.run(&["--log-level", "info", "migrate"]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    let owner = std::fs::metadata(program.path(".eventloader/cluster")).unwrap();
    let us = rustix::process::geteuid();
    let uid = std::os::unix::fs::MetadataExt::uid(&owner);
    if us.is_root() {
        assert_told("running as root", &made.stderr);
        assert_ne!(uid, 0);
    } else {
        assert!(!made.stderr.contains("refuses root"), "{made:?}");
        assert_eq!(uid, us.as_raw());
    }
}

fn assert_unwritable(refused: &[Finished]) {
    for refused in refused {
        assert_eq!(refused.code, Some(78), "{refused:?}");
        assert_told("data directory not writable", &refused.stderr);
    }
}

#[tokio::test]
async fn a_directory_of_somebody_else_is_told() {
    let program = program();
    let closed = program.path("closed");
    std::fs::create_dir(&closed).unwrap();
    // The build may lie where nobody else gets in.
    let binary = program.path("eventloader");
    std::fs::copy(crate::support::program::BINARY, &binary).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(&binary);
        command.args(arguments).env_clear().current_dir(&closed);
        command.env("EVENTLOADER_DATA_DIR", closed.join("data"));
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        finish(command)
    };
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o555)).unwrap();
    assert_unwritable(&[run(&["status"]).await]);
    let refused = run(&["init"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_told("init cannot write", &refused.stderr);
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// The arguments, run on the disk, with the data directory there.
async fn run_on(disk: &Disk, at: &Path, program: &Program, arguments: &[&str]) -> Finished {
    let mut command = program.command(arguments);
    command.current_dir(at).env("EVENTLOADER_DATA_DIR", at.join("data"));
    finish(disk.command(&command)).await
}

#[tokio::test]
async fn a_read_only_disk_is_told() {
    let program = program();
    let at = program.path("disk");
    std::fs::create_dir(&at).unwrap();
    let Some(disk) = Disk::mount(&at, "ro").await else { return };
    let configuration = program.path("eventloader.toml");
    let configuration = configuration.to_str().unwrap();
    assert_unwritable(&[
        run_on(&disk, &at, &program, &["--config", configuration, "run"]).await,
        run_on(&disk, &at, &program, &["status"]).await,
    ]);
    let checked = run_on(&disk, &at, &program, &["check"]).await;
    assert_eq!(checked.code, Some(69), "{checked:?}");
    assert_told("data directory not writable", &checked.stdout);
    let refused = run_on(&disk, &at, &program, &["init"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_told("init cannot write", &refused.stderr);
}
