//! `type = "file"`: newline-delimited JSON, followed as it grows.
//!
//! A line counts once its newline is there; a half-written last line waits. The place after the last page is remembered
//! together with the id it ended at; asked for another id (after a restart, or a seek), the file is read again and lines
//! up to that id are passed over.
//!
//! Rotation: `path` renamed to `path.1`, `path.1` to `path.2` and so on, is followed file by file, also when it happened
//! while nobody looked, as long as the rotated files are not compressed. A file cut to nothing (`copytruncate`) is read
//! from its start.

use std::fs::{File, Metadata};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::event::{BadEvent, Item};
use crate::mapping::Mapping;
use crate::source::{EventSource, FailureClass, Page, SourceError};

/// Rotated files that are looked for: `path.1` to `path.9`.
const ROTATED_MAX: u32 = 9;

/// What a file source needs to know.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// The file that is written to.
    pub path: PathBuf,
    /// Where the parts of an event stand in a line.
    pub mapping: Mapping,
    /// Most bytes read for one page, and so the longest line.
    pub max_page_bytes: usize,
}

/// A file source.
#[derive(Debug)]
pub struct FileSource {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: FileOptions,
    place: Mutex<Option<Place>>,
}

/// Where the next page begins.
#[derive(Debug)]
struct Place {
    /// The id the pages so far ended at.
    after_id: i64,
    file: File,
    /// Byte offset of the next line in `file`.
    offset: u64,
}

/// One line, and how many bytes it took with its newline.
struct Line {
    text: Bytes,
    /// The file ended before a newline.
    is_open: bool,
    length: u64,
}

impl FileSource {
    /// A source that reads this file. The file may appear later.
    pub fn new(options: FileOptions) -> Self {
        Self { inner: Arc::new(Inner { options, place: Mutex::new(None) }) }
    }
}

#[async_trait]
impl EventSource for FileSource {
    async fn fetch_events(&self, after_id: i64, limit: u32) -> Result<Page, SourceError> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || inner.fetch(after_id, limit as usize)).await.map_err(
            |error| SourceError::unknown(format!("the reader of the file failed: {error}")),
        )?
    }
}

impl Inner {
    fn fetch(&self, after_id: i64, limit: usize) -> Result<Page, SourceError> {
        // A panic while it was locked leaves a place that was not moved, or none: both are read again.
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let at = match place.take() {
            Some(known) if known.after_id == after_id => known,
            _ => self.place_of(after_id)?,
        };
        let (page, next) = self.read_page(at, limit)?;
        *place = Some(next);
        Ok(page)
    }

    /// The files there are, oldest first: `path.9`, …, `path.1`, `path`.
    fn files(&self) -> Result<Vec<(File, Metadata)>, SourceError> {
        let path = &self.options.path;
        let rotated = (1..=ROTATED_MAX).rev().map(|n| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        });
        let mut files = Vec::new();
        for candidate in rotated.chain([path.clone()]) {
            match open(&candidate) {
                Ok(opened) => files.push(opened),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(unreadable(&candidate, &error)),
            }
        }
        Ok(files)
    }

    /// The file to begin with for a given id: the newest whose first event is not after it.
    fn place_of(&self, after_id: i64) -> Result<Place, SourceError> {
        let mut chosen = None;
        for (file, _) in self.files()? {
            let first_id = self.first_id(&file)?;
            if chosen.is_none() || first_id.is_some_and(|id| id <= after_id) {
                chosen = Some(file);
            }
        }
        match chosen {
            Some(file) => Ok(Place { after_id, file, offset: 0 }),
            None => Err(SourceError::not_sent(format!(
                "{} does not exist (yet)",
                self.options.path.display()
            ))),
        }
    }

    fn first_id(&self, file: &File) -> Result<Option<i64>, SourceError> {
        let mut reader = self.reader(file, 0)?;
        while let Some(line) = self.read_line(&mut reader)? {
            if let Ok(item) = self.options.mapping.item(&line.text)
                && item.id().is_some()
            {
                return Ok(item.id());
            }
        }
        Ok(None)
    }

    /// Reads lines from a place on, through rotated files, until the page is full or there is no complete line left.
    fn read_page(&self, at: Place, limit: usize) -> Result<(Page, Place), SourceError> {
        let mut page = PageReader::new(&self.options.mapping, at.after_id, limit);
        let Place { mut file, mut offset, after_id } = at;
        let mut settled =
            (file.try_clone().map_err(|e| unreadable(&self.options.path, &e))?, offset);
        let mut budget = self.options.max_page_bytes as u64;
        'files: loop {
            if offset > length(&self.options.path, &file)? {
                offset = 0;
                page.passing_over = true;
            }
            let mut reader = self.reader(&file, offset)?;
            while let Some(line) = self.read_line(&mut reader)? {
                if line.length > budget || page.is_full() {
                    break 'files;
                }
                if line.is_open && self.successor(&file)?.is_none() {
                    break 'files;
                }
                budget -= line.length;
                offset += line.length;
                if page.take(line.text) {
                    settled =
                        (file.try_clone().map_err(|e| unreadable(&self.options.path, &e))?, offset);
                }
            }
            let Some(next) = self.successor(&file)? else { break };
            (file, offset) = (next, 0);
            page.passing_over = true;
        }
        let place = Place { after_id: page.last_id, file: settled.0, offset: settled.1 };
        // Lines without an id do not move the cursor, so the place does not move past them alone; unless events follow
        // they are read again, and are the same dead letters again.
        let place = if page.last_id == after_id { Place { after_id, ..place } } else { place };
        Ok((Page::new(page.items), place))
    }

    fn reader<'f>(
        &self,
        mut file: &'f File,
        offset: u64,
    ) -> Result<BufReader<&'f File>, SourceError> {
        file.seek(SeekFrom::Start(offset))
            .map_err(|error| unreadable(&self.options.path, &error))?;
        Ok(BufReader::with_capacity(1 << 16, file))
    }

    fn read_line(&self, reader: &mut BufReader<&File>) -> Result<Option<Line>, SourceError> {
        let max_bytes = self.options.max_page_bytes as u64;
        let mut text = Vec::new();
        let length = reader
            .by_ref()
            .take(max_bytes)
            .read_until(b'\n', &mut text)
            .map_err(|error| unreadable(&self.options.path, &error))? as u64;
        let is_open = text.last() != Some(&b'\n');
        if is_open && length == max_bytes {
            return Err(SourceError {
                page: Some(Bytes::copy_from_slice(&text[..text.len().min(1 << 20)])),
                ..SourceError::new(
                    FailureClass::InvalidPage,
                    format!("invalid page: a line is longer than max_page_bytes = {max_bytes}"),
                )
            });
        }
        while text.last().is_some_and(u8::is_ascii_whitespace) {
            text.pop();
        }
        Ok((length > 0).then(|| Line { text: Bytes::from(text), is_open, length }))
    }

    /// The file that follows a rotated one; `None`: this is the one that is written to.
    fn successor(&self, file: &File) -> Result<Option<File>, SourceError> {
        let known = file.metadata().map_err(|error| unreadable(&self.options.path, &error))?;
        let is_same = |other: &Metadata| (other.dev(), other.ino()) == (known.dev(), known.ino());
        let mut files = self.files()?;
        let after = match files.iter().position(|(_, other)| is_same(other)) {
            Some(place) => place + 1,
            // Rotated out of sight: everything that is left may follow it. Known ids are passed over.
            None => 0,
        };
        Ok(if after < files.len() { Some(files.swap_remove(after).0) } else { None })
    }
}

/// Collects the lines of one page.
struct PageReader<'m> {
    mapping: &'m Mapping,
    limit: usize,
    items: Vec<Item>,
    good_count: usize,
    last_id: i64,
    /// Lines without a usable id since `last_id`.
    nameless_count: u32,
    /// Ids up to the one asked for are passed over, until the first later one: the file is read from its start.
    passing_over: bool,
}

impl<'m> PageReader<'m> {
    fn new(mapping: &'m Mapping, after_id: i64, limit: usize) -> Self {
        Self {
            mapping,
            limit,
            items: Vec::new(),
            good_count: 0,
            last_id: after_id,
            nameless_count: 0,
            passing_over: true,
        }
    }

    fn is_full(&self) -> bool {
        self.good_count >= self.limit
    }

    /// Takes a line; true: it had an id, so the place behind it can be remembered.
    fn take(&mut self, text: Bytes) -> bool {
        if text.is_empty() {
            return false;
        }
        let item = match self.mapping.item(&text) {
            Ok(item) => item,
            Err(error) => Item::Bad(nameless(text, error.to_string(), self.mapping)),
        };
        let Some(id) = item.id() else {
            self.take_nameless(item);
            return false;
        };
        if self.passing_over && id <= self.last_id {
            self.nameless_count = 0;
            return true;
        }
        self.passing_over = false;
        self.good_count += 1;
        self.nameless_count = 0;
        self.last_id = id;
        self.items.push(item);
        true
    }

    /// A line that has no id is named by the id before it, which is the same whenever the file is read again.
    fn take_nameless(&mut self, item: Item) {
        if let Item::Bad(mut bad) = item {
            self.nameless_count += 1;
            bad.reference = format!("line {} after id {}", self.nameless_count, self.last_id);
            self.items.push(Item::Bad(bad));
        }
    }
}

fn nameless(body: Bytes, reason: String, mapping: &Mapping) -> BadEvent {
    BadEvent {
        id: None,
        reference: String::new(),
        body,
        reason,
        payload_at: mapping.payload.to_string(),
        event_type: None,
        occurred_at: None,
        message_id: None,
    }
}

fn open(path: &Path) -> std::io::Result<(File, Metadata)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(std::io::Error::other("it is a directory"));
    }
    Ok((file, metadata))
}

fn length(path: &Path, file: &File) -> Result<u64, SourceError> {
    Ok(file.metadata().map_err(|error| unreadable(path, &error))?.len())
}

fn unreadable(path: &Path, error: &std::io::Error) -> SourceError {
    SourceError::not_sent(format!("cannot read {}: {error}", path.display()))
}
