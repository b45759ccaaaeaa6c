//! What is written to a log, rotated and cut while it is followed → events. Every line has to come once, in order, as
//! an independent reader of the same files finds it.
//!
//! The first byte says how many events a page has. The rest are steps, with a byte 0x1E between two; the first byte of a
//! step says what happens before its other bytes are appended: `r` rotates, `c` copies and truncates, `s` restarts the
//! reader.

#![no_main]

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::LazyLock;

use bytes::Bytes;
use eventloader::event::Item;
use eventloader::mapping::{Mapping, check_order};
use eventloader::source::FailureClass;
use eventloader::sources::file::{FileOptions, FileSource};
use libfuzzer_sys::fuzz_target;

/// The longest line, its newline included, and so a few lines to a page.
const MAX_PAGE_BYTES: usize = 64;
/// Files that are looked for.
const ROTATIONS_MAX: usize = 9;

static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let root = if memory.is_dir() { memory } else { std::env::temp_dir() };
    root.join(format!("eventloader-fuzz-file-{}", std::process::id()))
});

fuzz_target!(|data: &[u8]| {
    let Some((how, script)) = data.split_first() else { return };
    let mut log = Log::new(1 + usize::from(how & 7));
    for step in script.split(|byte| *byte == 0x1e) {
        log.step(step);
        log.drain();
    }
    if !log.is_cut && !log.is_invalid {
        log.compare();
    }
});

struct Log {
    source: FileSource,
    limit: usize,
    after_id: i64,
    /// The content of each file, oldest first.
    files: Vec<Vec<u8>>,
    /// Read so far.
    items: Vec<Item>,
    /// Lines without an id, which come again after a restart under the same name.
    nameless: HashSet<(String, Bytes)>,
    is_cut: bool,
    is_invalid: bool,
}

fn source() -> FileSource {
    let options = FileOptions {
        path: DIRECTORY.join("log"),
        mapping: Mapping::default(),
        max_page_bytes: MAX_PAGE_BYTES,
    };
    FileSource::new(options)
}

impl Log {
    fn new(limit: usize) -> Self {
        drop(fs::remove_dir_all(&*DIRECTORY));
        fs::create_dir(&*DIRECTORY).unwrap();
        Self {
            source: source(),
            limit,
            after_id: 0,
            files: vec![Vec::new()],
            items: Vec::new(),
            nameless: HashSet::new(),
            is_cut: false,
            is_invalid: false,
        }
    }

    fn step(&mut self, step: &[u8]) {
        let path = DIRECTORY.join("log");
        let numbered = |n: usize| DIRECTORY.join(format!("log.{n}"));
        let text = match step.split_first() {
            Some((b'r', text)) if self.files.len() <= ROTATIONS_MAX && path.exists() => {
                for n in (1..self.files.len()).rev() {
                    fs::rename(numbered(n), numbered(n + 1)).unwrap();
                }
                fs::rename(&path, numbered(1)).unwrap();
                self.files.push(Vec::new());
                text
            }
            Some((b'c', text)) if path.exists() => {
                fs::copy(&path, numbered(1)).unwrap();
                fs::write(&path, "").unwrap();
                self.is_cut = true;
                text
            }
            Some((b's', text)) => {
                self.source = source();
                text
            }
            _ => step,
        };
        let mut file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        file.write_all(text).unwrap();
        self.files.last_mut().unwrap().extend_from_slice(text);
    }

    /// Reads as the loader does, until nothing is new.
    fn drain(&mut self) {
        let mut pages = 0;
        loop {
            let page = match self.source.read(self.after_id, self.limit) {
                Ok(page) => page,
                Err(error) => {
                    assert_eq!(error.class, FailureClass::InvalidPage, "{error}");
                    assert!(!error.reason.chars().any(char::is_control), "{:?}", error.reason);
                    assert!(error.page.is_some());
                    self.is_invalid = true;
                    return;
                }
            };
            let ids = || page.items.iter().filter_map(Item::id);
            check_order(ids(), self.after_id, self.limit).expect("the page is checked before");
            assert!(ids().is_sorted() && ids().all(|id| id > self.after_id));
            self.after_id = ids().last().unwrap_or(self.after_id);
            if page.items.is_empty() {
                return;
            }
            // A line is 1 byte at least, and a page has one at least.
            pages += 1;
            assert!(pages <= 5000, "no end");
            for item in page.items {
                match &item {
                    Item::Bad(bad) if bad.id.is_none() => {
                        assert!(
                            !bad.reason.is_empty() && !bad.reason.chars().any(char::is_control)
                        );
                        if self.nameless.insert((bad.reference.clone(), bad.body.clone())) {
                            self.items.push(item);
                        }
                    }
                    _ => self.items.push(item),
                }
            }
        }
    }

    fn compare(&self) {
        let wanted = self.lines();
        let ids: Vec<i64> = wanted.iter().filter_map(Line::id).collect();
        // What stands at or below the place where the source begins is passed over, and what is out of order is refused.
        if ids.first().is_some_and(|id| *id <= 0) || !ids.is_sorted_by(|a, b| a < b) {
            return;
        }
        assert_eq!(self.items.len(), wanted.len(), "{:?}\n{wanted:?}", self.items);
        for (item, wanted) in self.items.iter().zip(&wanted) {
            match (item, wanted) {
                (Item::Bad(bad), Line::Nameless(text)) => {
                    assert_eq!((bad.id, &bad.body), (None, text))
                }
                (item, Line::Item(wanted)) => assert_eq!(item, wanted),
                other => panic!("{other:?}"),
            }
        }
    }

    /// What can be read of the files, each line judged by itself.
    fn lines(&self) -> Vec<Line> {
        let last = self.files.iter().rposition(|file| !file.is_empty()).unwrap_or_default();
        let mut found = Vec::new();
        for (place, file) in self.files.iter().enumerate() {
            for line in file.split_inclusive(|byte| *byte == b'\n') {
                let is_too_long = line.iter().take(MAX_PAGE_BYTES).all(|byte| *byte != b'\n')
                    && line.len() >= MAX_PAGE_BYTES;
                // The last line of what is written to may go on.
                if !is_too_long && !line.ends_with(b"\n") && place == last {
                    continue;
                }
                let start = line[..line.len().min(MAX_PAGE_BYTES)].trim_ascii_end();
                let text = Bytes::copy_from_slice(start);
                if is_too_long {
                    found.push(Line::Nameless(text));
                } else if !text.is_empty() {
                    found.push(match Mapping::default().item(&text) {
                        Ok(item) if item.id().is_some() => Line::Item(item),
                        _ => Line::Nameless(text),
                    });
                }
            }
        }
        found
    }
}

#[derive(Debug)]
enum Line {
    Item(Item),
    Nameless(Bytes),
}

impl Line {
    fn id(&self) -> Option<i64> {
        match self {
            Self::Item(item) => item.id(),
            Self::Nameless(_) => None,
        }
    }
}
