//! A disk without room: before there is a cluster, and under `run`.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use super::FILE_SOURCE;
use crate::support::disk::Disk;
use crate::support::program::{Finished, Program, finish, signal};
use crate::support::troubleshooting::assert_told;
use crate::support::wait_for;

/// Each event has so many bytes that do not compress.
const EVENT_BYTES: usize = 4000;

/// A program whose data directory is on a disk of its own.
struct Bundle {
    program: Program,
    disk: Disk,
}

impl Bundle {
    async fn new(size: &str) -> Option<Self> {
        let program = Program::without_database(FILE_SOURCE);
        std::fs::set_permissions(program.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(program.path("disk")).unwrap();
        let options = format!("size={size},mode=755");
        let disk = Disk::mount(&program.path("disk"), &options).await?;
        Some(Self { program, disk })
    }

    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = self.program.command(arguments);
        command.env("EVENTLOADER_DATA_DIR", self.program.path("disk/data"));
        self.disk.command(&command)
    }

    async fn run(&self, arguments: &[&str]) -> Finished {
        finish(self.command(arguments)).await
    }

    fn start_run(&self) -> Child {
        let log = std::fs::File::create(self.program.path("log")).unwrap();
        self.command(&["run"]).stdout(std::process::Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn write_events(&self, ids: std::ops::RangeInclusive<u64>) {
        let lines: String = ids
            .map(|id| {
                let noise: String = (0..EVENT_BYTES / 16)
                    .map(|_| format!("{:016x}", rand::random::<u64>()))
                    .collect();
                format!("{{\"id\":{id},\"noise\":\"{noise}\"}}\n")
            })
            .collect();
        let path = self.program.path("audit.ndjson");
        let mut file = std::fs::File::options().append(true).create(true).open(path).unwrap();
        file.write_all(lines.as_bytes()).unwrap();
    }

    /// A path of the data directory, as the test reaches it.
    fn data(&self, name: &str) -> std::path::PathBuf {
        self.disk.seen(&self.program.path("disk/data")).join(name)
    }

    async fn wait_for_log(&self, text: &str) {
        wait_for(text, || async { self.program.read("log").contains(text).then_some(()) }).await;
    }

    async fn wait_for_stored(&self, id: i64) {
        wait_for("the events", || async {
            let status = self.run(&["status", "--json"]).await;
            assert_eq!(status.code, Some(0), "{status:?}");
            (status.json()["sources"][0]["last_stored_id"].as_i64() == Some(id)).then_some(())
        })
        .await;
    }
}

/// Takes all the room there is.
fn fill(ballast: &Path) {
    let mut file = std::fs::File::create(ballast).unwrap();
    let error = std::io::copy(&mut std::io::repeat(0), &mut file).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
}

#[tokio::test]
async fn without_room_for_a_cluster_it_is_told_and_nothing_half_made_stays() {
    let Some(bundle) = Bundle::new("8m").await else { return };
    for (command, code) in [("run", 69), ("check", 69)] {
        let refused = bundle.run(&[command]).await;
        assert_eq!(refused.code, Some(code), "{refused:?}");
        assert_told("disk full at the start", &(refused.stdout + &refused.stderr));
    }
    let left = std::fs::read_dir(bundle.data("")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("init-")), "{left:?}");

    fill(&bundle.data("../ballast"));
    let file = bundle.program.path("disk/eventloader.toml");
    let refused = bundle.run(&["init", file.to_str().unwrap()]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("hint: the disk is full: make room"), "{refused:?}");
    assert!(
        !bundle.data("../eventloader.toml").exists(),
        "half a file is in the way of the next try"
    );
}

#[tokio::test]
async fn a_disk_that_fills_under_run_loses_nothing_and_everything_goes_on_with_room() {
    let Some(bundle) = Bundle::new("250m").await else { return };
    bundle.write_events(1..=500);
    let mut child = bundle.start_run();
    bundle.wait_for_log("eventloader is running").await;
    bundle.wait_for_stored(500).await;

    let ballast = bundle.data("../ballast");
    fill(&ballast);
    // More than the pages that the tables have free already.
    bundle.write_events(501..=3000);
    bundle.wait_for_log("everything goes on by itself").await;
    assert_told("disk of the database full", &bundle.program.read("log"));
    // A server that finds no room for its log ends; what matters is that it is gone.
    if let Ok(file) = std::fs::read_to_string(bundle.data("cluster/postmaster.pid")) {
        let pid = file.lines().next().and_then(|line| Pid::from_raw(line.parse().ok()?)).unwrap();
        // It may just have ended by itself.
        kill_process(pid, Signal::QUIT).unwrap_or_default();
    }
    bundle.wait_for_log("the private PostgreSQL is gone and does not start").await;
    assert_told("server gone", &bundle.program.read("log"));
    assert_told("disk full at the start", &bundle.program.read("log"));

    std::fs::remove_file(ballast).unwrap();
    bundle.wait_for_log("the private PostgreSQL was gone, and is running again").await;
    bundle.wait_for_stored(3000).await;
    let status = bundle.run(&["status", "--json"]).await.json();
    assert_eq!((&status["dead_letter_count"], &status["inbox_count"]), (&0.into(), &0.into()));
    for state in ["failed", "orphaned"] {
        let held = bundle.run(&["requests", "list", "--status", state, "--json"]).await;
        assert_eq!(held.json(), serde_json::json!([]), "a window waits for somebody");
    }
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{}", bundle.program.read("log"));
}
