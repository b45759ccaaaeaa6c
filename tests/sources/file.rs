//! `type = "file"`: what files do while they are followed.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use eventloader::event::{BadEvent, Item};
use eventloader::loader::{LoadedSource, Loader, SourceSettings, Stop};
use eventloader::mapping::Mapping;
use eventloader::postgres::connections::Connections;
use eventloader::retry_worker::RetryWorker;
use eventloader::source::{EventSource, FailureClass, Page, SourceError};
use eventloader::sources::file::{FileOptions, FileSource};
use tempfile::TempDir;

use crate::support::database::Database;
use crate::support::wait_for;

const MAX_EVENT_BYTES: usize = 200;
const MAX_PAGE_BYTES: usize = 1000;

/// A log in a directory of its own, and the source that follows it.
struct Log {
    directory: TempDir,
    source: FileSource,
}

impl Log {
    fn missing() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = FileSource::new(options(directory.path().join("log")));
        Self { directory, source }
    }

    fn with(text: impl AsRef<[u8]>) -> Self {
        let log = Self::missing();
        log.append(text);
        log
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn append(&self, text: impl AsRef<[u8]>) {
        self.append_to("log", text);
    }

    fn append_to(&self, name: &str, text: impl AsRef<[u8]>) {
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(text.as_ref()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// As after a restart: nothing is remembered.
    fn restart(&mut self) {
        self.source = FileSource::new(options(self.path("log")));
    }

    async fn page(&self, after_id: i64) -> Page {
        self.source.fetch_events(after_id, 100).await.unwrap()
    }

    /// Ids of good and bad events.
    async fn ids(&self, after_id: i64) -> Vec<i64> {
        self.page(after_id).await.items.iter().filter_map(Item::id).collect()
    }

    async fn bad(&self, after_id: i64) -> Vec<BadEvent> {
        let bad = |item| match item {
            Item::Bad(bad) => Some(bad),
            Item::Good(_) => None,
        };
        self.page(after_id).await.items.into_iter().filter_map(bad).collect()
    }

    async fn error(&self, after_id: i64) -> SourceError {
        self.source.fetch_events(after_id, 100).await.unwrap_err()
    }
}

fn options(path: PathBuf) -> FileOptions {
    let mapping = Mapping { max_event_bytes: MAX_EVENT_BYTES, ..Mapping::default() };
    FileOptions { path, mapping, max_page_bytes: MAX_PAGE_BYTES }
}

fn lines(ids: impl IntoIterator<Item = i64>) -> String {
    ids.into_iter().map(|id| format!("{{\"id\":{id}}}\n")).collect()
}

#[tokio::test]
async fn appends_are_followed() {
    let log = Log::with(lines(1..=2));
    assert_eq!(log.ids(0).await, [1, 2]);
    for id in 3..=6 {
        assert_eq!(log.ids(id - 1).await, [0; 0]);
        log.append(lines([id]));
        assert_eq!(log.ids(id - 1).await, [id]);
    }
}

#[tokio::test]
async fn a_half_written_line_waits_for_its_newline() {
    let mut log = Log::with("{\"id\":1}\n{\"id\":2,");
    assert_eq!(log.ids(0).await, [1]);
    assert_eq!(log.ids(1).await, [0; 0]);
    log.append("\"n\":1}");
    assert_eq!(log.ids(1).await, [0; 0], "complete, but perhaps not to its end");
    log.restart();
    assert_eq!(log.ids(1).await, [0; 0]);
    log.append("\n");
    assert_eq!(log.ids(1).await, [2]);
}

#[tokio::test]
async fn a_half_written_line_at_the_cursor_is_passed_when_it_ends() {
    let log = Log::with("{\"id\":1}\n{\"id\":2}");
    assert_eq!(log.ids(2).await, [0; 0]);
    log.append("\n{\"id\":3}\n");
    assert_eq!(log.ids(2).await, [3]);
}

#[tokio::test]
async fn rotation_is_followed_once_and_twice_between_polls() {
    let log = Log::with(lines(1..=2));
    assert_eq!(log.ids(0).await, [1, 2]);
    // Written to the old file after the last look, then once round.
    log.append(lines([3]));
    log.rename("log", "log.1");
    log.append(lines([4, 5]));
    assert_eq!(log.ids(2).await, [3, 4, 5]);
    // Twice round between two looks, one of them empty.
    log.append(lines([6]));
    log.rename("log.1", "log.2");
    log.rename("log", "log.1");
    log.append(lines([7]));
    log.rename("log.2", "log.3");
    log.rename("log.1", "log.2");
    log.rename("log", "log.1");
    log.append("");
    log.rename("log.3", "log.4");
    log.rename("log.2", "log.3");
    log.rename("log.1", "log.2");
    log.rename("log", "log.1");
    log.append(lines([8]));
    assert_eq!(log.ids(5).await, [6, 7, 8]);
    log.append(lines([9]));
    assert_eq!(log.ids(8).await, [9]);
}

#[tokio::test]
async fn rotation_while_nobody_looks_is_found_after_a_restart() {
    let mut log = Log::with(lines(1..=3));
    assert_eq!(log.ids(0).await, [1, 2, 3]);
    log.append(lines([4]));
    log.rename("log", "log.1");
    log.append(lines([5]));
    log.rename("log.1", "log.2");
    log.rename("log", "log.1");
    log.append(lines([6, 7]));
    log.restart();
    assert_eq!(log.ids(3).await, [4, 5, 6, 7]);
    log.restart();
    assert_eq!(log.ids(5).await, [6, 7]);
    log.restart();
    assert_eq!(log.ids(0).await, [1, 2, 3, 4, 5, 6, 7]);
    log.restart();
    assert_eq!(log.ids(7).await, [0; 0]);
}

#[tokio::test]
async fn lines_written_to_the_old_file_after_a_rotation_are_not_lost() {
    let log = Log::with(lines([1]));
    assert_eq!(log.ids(0).await, [1]);
    log.rename("log", "log.1");
    // The rotation made the new file; the writer has the old one open still.
    log.append("");
    assert_eq!(log.ids(1).await, [0; 0]);
    log.append_to("log.1", "{\"id\":2}\n{\"id\":");
    assert_eq!(log.ids(1).await, [2]);
    assert_eq!(log.bad(2).await, []);
    log.append_to("log.1", "3}\n");
    log.append(lines([4]));
    assert_eq!(log.ids(2).await, [3, 4]);
}

#[tokio::test]
async fn a_last_line_without_newline_counts_once_the_next_file_is_written_to() {
    let mut log = Log::with("{\"id\":1}\n{\"id\":2}");
    log.rename("log", "log.1");
    log.append(lines([3]));
    assert_eq!(log.ids(0).await, [1, 2, 3]);
    log.restart();
    assert_eq!(log.ids(2).await, [3]);
}

#[tokio::test]
async fn a_file_renamed_out_of_sight_is_followed_by_the_new_one() {
    let log = Log::with(lines(1..=2));
    assert_eq!(log.ids(0).await, [1, 2]);
    log.append(lines([3]));
    log.rename("log", "log-20240229");
    assert_eq!(log.ids(2).await, [3]);
    assert_eq!(log.ids(3).await, [0; 0]);
    log.append(lines([4]));
    assert_eq!(log.ids(3).await, [0; 0], "the place in the new file is looked for");
    assert_eq!(log.ids(3).await, [4]);
}

#[tokio::test]
async fn a_file_that_was_replaced_by_a_longer_copy_goes_on_after_the_cursor() {
    let log = Log::with(lines(1..=3));
    assert_eq!(log.ids(0).await, [1, 2, 3]);
    fs::write(log.path("copy"), lines(1..=5)).unwrap();
    log.rename("copy", "log");
    assert_eq!(log.ids(3).await, [0; 0]);
    assert_eq!(log.ids(3).await, [4, 5]);
}

#[tokio::test]
async fn copytruncate_loses_nothing_that_is_in_the_copy() {
    let log = Log::with(lines(1..=3));
    assert_eq!(log.ids(0).await, [1, 2, 3]);
    log.append(lines([4]));
    fs::copy(log.path("log"), log.path("log.1")).unwrap();
    fs::write(log.path("log"), "").unwrap();
    log.append(lines([5]));
    assert_eq!(log.ids(3).await, [4, 5]);
    // Cut, and written to beyond the old end before anybody looks.
    fs::copy(log.path("log"), log.path("log.1")).unwrap();
    fs::write(log.path("log"), lines(6..=20)).unwrap();
    assert_eq!(log.ids(5).await, (6..=20).collect::<Vec<_>>());
    // Cut without a copy.
    fs::write(log.path("log"), "").unwrap();
    assert_eq!(log.ids(20).await, [0; 0]);
    log.append(lines([21]));
    assert_eq!(log.ids(20).await, [21]);
}

#[tokio::test]
async fn blank_lines_line_ends_and_a_byte_order_mark_are_no_events() {
    let log = Log::with("\u{feff}{\"id\":1}\r\n\r\n\n   \n {\"id\":2} \r\n\t\n");
    let page = log.page(0).await;
    let payloads: Vec<&str> = page
        .items
        .iter()
        .map(|item| match item {
            Item::Good(event) => event.payload.as_str(),
            Item::Bad(bad) => panic!("{bad:?}"),
        })
        .collect();
    assert_eq!(payloads, [r#"{"id":1}"#, r#"{"id":2}"#]);
    assert_eq!(log.ids(2).await, [0; 0]);
    let empty = Log::with("");
    assert_eq!(empty.ids(0).await, [0; 0]);
    empty.append("\n\n");
    assert_eq!(empty.ids(0).await, [0; 0]);
}

#[tokio::test]
async fn lines_without_an_id_are_named_by_the_id_before_them() {
    let mut log = Log::with(
        b"no json\n{\"id\":1}\n{\"id\":\n[1]\n{\"n\":1}\n{\"id\":\"7\"}\n\xff\xfe\n{\"id\":2}\n",
    );
    let bad = log.bad(0).await;
    let found: Vec<(&str, &[u8])> =
        bad.iter().map(|bad| (bad.reference.as_str(), bad.body.as_ref())).collect();
    let expected: [(&str, &[u8]); 6] = [
        ("line 1 after id 0", b"no json"),
        ("line 1 after id 1", b"{\"id\":"),
        ("line 2 after id 1", b"[1]"),
        ("line 3 after id 1", b"{\"n\":1}"),
        ("line 4 after id 1", b"{\"id\":\"7\"}"),
        ("line 5 after id 1", b"\xff\xfe"),
    ];
    assert_eq!(found, expected);
    assert!(bad.iter().all(|bad| bad.id.is_none() && !bad.reason.is_empty()));
    // Read again from the middle they have the same names; those before the cursor are not read again.
    log.restart();
    assert_eq!(log.bad(1).await, bad[1..]);
    log.restart();
    assert_eq!(log.bad(2).await, []);
}

#[tokio::test]
async fn a_bad_last_line_is_given_once_and_after_a_restart_by_the_same_name() {
    let mut log = Log::with("{\"id\":1}\nbroken\n");
    let first = log.bad(0).await;
    assert_eq!(first[0].reference, "line 1 after id 1");
    assert_eq!(log.bad(1).await, [], "not at every look");
    log.append("broken too\n");
    assert_eq!(log.bad(1).await[0].reference, "line 2 after id 1");
    log.restart();
    let again = log.bad(1).await;
    assert_eq!(again[0], first[0]);
    assert_eq!(again[1].reference, "line 2 after id 1");
    log.append(lines([2]));
    assert_eq!(log.ids(1).await, [2]);
}

#[tokio::test]
async fn a_long_event_is_bad_and_its_neighbours_go_on() {
    let long = format!("{{\"id\":2,\"x\":\"{}\"}}", "x".repeat(MAX_EVENT_BYTES));
    let log = Log::with(format!("{{\"id\":1}}\n{long}\n{{\"id\":3}}\n"));
    let page = log.page(0).await;
    assert_eq!(page.items.iter().filter_map(Item::id).collect::<Vec<_>>(), [1, 2, 3]);
    let Item::Bad(bad) = &page.items[1] else { panic!("{:?}", page.items[1]) };
    assert_eq!(bad.body, long);
    assert!(bad.reason.contains("max_event_bytes"), "{}", bad.reason);
}

#[tokio::test]
async fn a_line_longer_than_a_page_is_bad_and_its_neighbours_go_on() {
    let long = "y".repeat(MAX_PAGE_BYTES * 5);
    let mut log = Log::with(format!("{{\"id\":1}}\n{long}\n{{\"id\":2}}\n"));
    assert_eq!(log.ids(0).await, [1]);
    let bad = log.bad(1).await;
    assert_eq!(bad[0].reference, "line 1 after id 1");
    assert_eq!(bad[0].body, long[..MAX_PAGE_BYTES]);
    assert!(bad[0].reason.contains("max_page_bytes"), "{}", bad[0].reason);
    assert_eq!(log.ids(1).await, [2]);
    log.restart();
    assert_eq!(log.ids(2).await, [0; 0]);
    // One that never ends is given once, and passed as it grows.
    log.append(&long);
    assert_eq!(log.bad(2).await.len(), 1);
    log.append(&long);
    assert_eq!(log.bad(2).await, []);
    log.append("end\n{\"id\":3}\n");
    assert_eq!(log.ids(2).await, [3]);
}

#[tokio::test]
async fn pages_stay_below_max_page_bytes() {
    let line = |id: i64| format!("{{\"id\":{id},\"x\":\"{}\"}}\n", "x".repeat(100));
    let log = Log::with((1..=50).map(line).collect::<String>());
    let mut after_id = 0;
    let mut pages = 0;
    while let Some(last) = log.ids(after_id).await.last() {
        after_id = *last;
        pages += 1;
    }
    assert_eq!(after_id, 50);
    assert!((6..=8).contains(&pages), "{pages} pages");
}

#[tokio::test]
async fn runs_of_bad_lines_are_passed_in_bounded_pages() {
    let run: String = (0..25_000).map(|n| format!("bad {n}\n")).collect();
    let mut log = Log::with(format!("{{\"id\":1}}\n{run}{{\"id\":2}}\n"));
    log.source =
        FileSource::new(FileOptions { max_page_bytes: 1 << 20, ..options(log.path("log")) });
    let mut references = Vec::new();
    let mut after_id = 0;
    let mut pages = 0;
    while after_id < 2 {
        let page = log.page(after_id).await;
        assert!(page.items.len() <= 10_001, "{} items in a page", page.items.len());
        after_id = page.items.iter().rev().find_map(Item::id).unwrap_or(after_id);
        references.extend(page.items.into_iter().filter_map(|item| match item {
            Item::Bad(bad) => Some(bad.reference),
            Item::Good(_) => None,
        }));
        pages += 1;
        assert!(pages < 10, "no progress");
    }
    let expected: Vec<String> = (1..=25_000).map(|n| format!("line {n} after id 1")).collect();
    assert_eq!(references, expected);
}

#[tokio::test]
async fn ids_that_do_not_increase_make_the_page_invalid() {
    for text in ["{\"id\":1}\n{\"id\":3}\n{\"id\":2}\n", "{\"id\":1}\n{\"id\":1}\n"] {
        let log = Log::with(text);
        for _ in 0..2 {
            let error = log.error(0).await;
            assert_eq!(error.class, FailureClass::InvalidPage);
            assert_eq!(error.page.unwrap(), text.trim_end());
        }
    }
    // A writer that begins at 1 again, in the same file or in a new one, is noticed.
    let log = Log::with(lines(1..=3));
    assert_eq!(log.ids(0).await, [1, 2, 3]);
    log.append(lines([1]));
    assert_eq!(log.error(3).await.class, FailureClass::InvalidPage);
    let log = Log::with(lines(1..=3));
    assert_eq!(log.ids(0).await, [1, 2, 3]);
    log.rename("log", "log.1");
    log.append(lines([1]));
    assert_eq!(log.error(3).await.class, FailureClass::InvalidPage);
}

#[tokio::test]
async fn what_cannot_be_read_was_not_asked() {
    let log = Log::missing();
    let error = log.error(0).await;
    assert_eq!(error.class, FailureClass::NotSent);
    assert!(error.reason.contains("does not exist"), "{error}");
    log.append(lines([1]));
    assert_eq!(log.ids(0).await, [1]);

    let directory = Log::missing();
    fs::create_dir(directory.path("log")).unwrap();
    let error = directory.error(0).await;
    assert_eq!(error.class, FailureClass::NotSent);
    assert!(error.reason.contains("directory"), "{error}");

    // Opening a pipe would wait for a writer.
    let pipe = Log::missing();
    let made = std::process::Command::new("mkfifo").arg(pipe.path("log")).status().unwrap();
    assert!(made.success());
    let error = pipe.error(0).await;
    assert_eq!(error.class, FailureClass::NotSent);
    assert!(error.reason.contains("regular file"), "{error}");
}

#[tokio::test]
async fn a_file_without_the_right_to_read_it_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let log = Log::with(lines([1]));
    fs::set_permissions(log.path("log"), fs::Permissions::from_mode(0o0)).unwrap();
    if fs::File::open(log.path("log")).is_ok() {
        // Root may read everything.
        return;
    }
    let error = log.error(0).await;
    assert_eq!(error.class, FailureClass::NotSent);
    assert!(error.reason.contains("log"), "{error}");
    fs::set_permissions(log.path("log"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(log.ids(0).await, [1]);
}

#[tokio::test]
async fn a_high_cursor_in_a_large_file_is_found_page_by_page_of_memory() {
    let mut log = Log::missing();
    let filler = "x".repeat(100);
    let text: String =
        (1..=80_000).map(|id| format!("{{\"id\":{id},\"x\":\"{filler}\"}}\n")).collect();
    log.append(text);
    // Far more than a page: what is passed over takes no room in it.
    assert_eq!(log.ids(79_999).await, [80_000]);
    log.restart();
    assert_eq!(log.ids(80_000).await, [0; 0]);
    assert_eq!(log.ids(10).await.first(), Some(&11));
}

#[tokio::test]
async fn a_file_with_broken_lines_loads_once_over_restarts() {
    let database = Database::migrated().await;
    let log = Log::with("{\"id\":1}\nbroken\n{\"id\":2}\n{\"id\":3,\"x\":\"\\u0000\"}\nlast\n");
    let letters = || async {
        database
            .column::<String>("select reference from eventloader.dead_letter order by reference")
            .await
    };
    for (round, stored) in [3_i64, 4].into_iter().enumerate() {
        let source = Arc::new(FileSource::new(options(log.path("log"))));
        let mut loaded = LoadedSource::new("log", source);
        loaded.settings = SourceSettings { batch_size: 2, ..loaded.settings };
        let (loader, hints) =
            Loader::new(Connections::new(database.options.clone(), 4), vec![loaded]);
        loader.register().await.unwrap();
        let stop = Stop::default();
        let worker = RetryWorker::new(database.pool.clone());
        let moving = tokio::spawn(worker.run(hints, stop.work.clone()));
        let loading = tokio::spawn(loader.run(stop.clone()));
        let expected_letters = 3 + round;
        wait_for("the file", || async {
            let done = database.last_stored_id("log").await == stored
                && letters().await.len() == expected_letters;
            done.then_some(())
        })
        .await;
        stop.intake.cancel();
        loading.await.unwrap();
        stop.work.cancel();
        moving.await.unwrap();
        log.append("after\n{\"id\":4}\n");
    }
    assert_eq!(database.stored("log").await, [1, 2, 4]);
    assert_eq!(
        letters().await,
        ["3", "line 1 after id 1", "line 1 after id 3", "line 2 after id 3"]
    );
}
