//! `type = "file"`: newline-delimited JSON, followed as it grows.
//!
//! A line counts once its newline is there; a half-written last line waits. The place after the last page is remembered
//! together with the id it ended at; asked after another id (after a restart, or a seek), the file is searched for the
//! last line that is not after it. Ids have to increase from line to line: a line that breaks this makes the page
//! invalid.
//!
//! Rotation: `path` renamed to `path.1`, `path.1` to `path.2` and so on, is followed file by file, also when it happened
//! while nobody looked, as long as the rotated files are not compressed. A file that was cut (`copytruncate`) or
//! replaced is searched again, its copy first.
//!
//! A line without a usable id is a dead letter, named by the id before it, which is the same whenever the file is read
//! again.

mod lines;
mod rotation;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use crate::event::{BadEvent, Item};
use crate::mapping::{Mapping, check_order};
use crate::source::{EventSource, Page, SourceError};
use lines::{LineEnd, Lines};
use rotation::{Successor, Unreadable};

/// Lines without a usable id that one page takes.
const NAMELESS_MAX: u32 = 10_000;

/// How much is kept of a line that is longer than a page may be, and of a page that is invalid.
const KEPT_OF_OVERSIZED: usize = 1 << 20;

/// Longest search for an id in one call; the next call goes on with it. Short enough for a shutdown to wait.
const SEARCH_MAX: Duration = Duration::from_secs(2);

/// Bytes between two looks at the time.
const SEARCH_STEP: u64 = 4 << 20;

/// Bytes of a file that are read for its first id.
const FIRST_ID_WITHIN: u64 = 16 << 20;

/// Bytes before a place that tell whether the file is still the one that was read.
const TAIL_LENGTH: u64 = 256;

/// What a file source needs to know.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// The file that is written to.
    pub path: PathBuf,
    /// Where the parts of an event stand in a line.
    pub mapping: Mapping,
    /// Most bytes of lines in one page, and so the longest line.
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
    /// The bytes before `offset`.
    tail: Vec<u8>,
    naming: Naming,
    /// `offset` is inside a line that is longer than a page may be.
    inside_line: bool,
    /// How far the search for `after_id` has come; `None`: it is over.
    searched_to: Option<u64>,
}

/// What a line without a usable id is named by.
#[derive(Clone, Copy, Debug)]
struct Naming {
    /// The id of the last line that has one.
    id: i64,
    /// Lines without one since then.
    count: u32,
}

impl FileSource {
    /// A source that reads this file. The file may appear later.
    pub fn new(options: FileOptions) -> Self {
        Self { inner: Arc::new(Inner { options, place: Mutex::new(None) }) }
    }

    /// Reads a page, without a runtime. What `fuzz/` calls.
    ///
    /// # Errors
    ///
    /// As [`EventSource::fetch_events`].
    #[cfg(fuzzing)]
    pub fn read(&self, after_id: i64, limit: usize) -> Result<Page, SourceError> {
        self.inner.fetch(after_id, limit)
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
        let mut known = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let mut place = match known.take() {
            Some(place) if place.after_id == after_id && self.is_intact(&place)? => place,
            _ => self.first_place(after_id)?,
        };
        if place.searched_to.is_some() {
            self.search(&mut place)?;
        }
        if place.searched_to.is_some() {
            *known = Some(place);
            return Ok(Page::default());
        }
        let (page, next) = self.read_page(place, limit)?;
        *known = next;
        Ok(page)
    }

    /// Whether the file still holds what was read of it: it may have been cut and written to again.
    fn is_intact(&self, place: &Place) -> Result<bool, SourceError> {
        let length = self.length(&place.file)?;
        Ok(length >= place.offset.max(place.searched_to.unwrap_or(0))
            && self.tail(&place.file, place.offset)? == place.tail)
    }

    fn tail(&self, file: &File, offset: u64) -> Result<Vec<u8>, SourceError> {
        let length = offset.min(TAIL_LENGTH);
        let mut tail = vec![0; length as usize];
        file.read_exact_at(&mut tail, offset - length).map_err(|e| self.unreadable(&e))?;
        Ok(tail)
    }

    /// The place to search from for a given id: the newest file whose first event is not after it.
    fn first_place(&self, after_id: i64) -> Result<Place, SourceError> {
        let mut chosen = None;
        for (file, _) in rotation::files(&self.options.path)? {
            if chosen.is_none() || self.first_id(&file)?.is_some_and(|id| id <= after_id) {
                chosen = Some(file);
            }
        }
        let Some(file) = chosen else {
            let path = self.options.path.display();
            return Err(SourceError::not_sent(format!("{path} does not exist (yet)")));
        };
        Ok(Place {
            after_id,
            file,
            offset: 0,
            tail: Vec::new(),
            naming: Naming { id: after_id, count: 0 },
            inside_line: false,
            searched_to: Some(0),
        })
    }

    fn first_id(&self, file: &File) -> Result<Option<i64>, SourceError> {
        let mut lines = self.lines(file, 0)?;
        let mut text = Vec::new();
        let mut read = 0;
        while read < FIRST_ID_WITHIN
            && let Some(line) = lines.next(&mut text).map_err(|e| self.unreadable(&e))?
        {
            read += line.length;
            if line.end == LineEnd::TooLong {
                read += lines.skip().map_err(|e| self.unreadable(&e))?.0;
            } else if let Some(id) = self.options.mapping.id_of_item(&text) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// Moves the place behind the last line whose id is not after `after_id`, as far as the time allows. Lines without
    /// an id that follow it are left for the page.
    fn search(&self, place: &mut Place) -> Result<(), SourceError> {
        let began = Instant::now();
        let mut at = place.searched_to.unwrap_or(place.offset);
        let mut lines = self.lines(&place.file, at)?;
        let mut text = Vec::new();
        let mut next_check = at + SEARCH_STEP;
        let mut disorder = None;
        place.searched_to = None;
        while let Some(line) = lines.next(&mut text).map_err(|e| self.unreadable(&e))? {
            at += line.length;
            if line.end == LineEnd::TooLong {
                at += lines.skip().map_err(|e| self.unreadable(&e))?.0;
            } else if let Some(id) = self.options.mapping.id_of_item(&text) {
                if id > place.after_id {
                    break;
                }
                if line.end == LineEnd::EndOfFile && self.is_written_to(&place.file)? {
                    place.searched_to = Some(at - line.length);
                    break;
                }
                if id <= place.naming.id && place.offset > 0 {
                    disorder.get_or_insert((id, place.naming.id));
                }
                (place.offset, place.naming.id) = (at, id);
            }
            if at >= next_check {
                next_check = at + SEARCH_STEP;
                if began.elapsed() > SEARCH_MAX {
                    place.searched_to = Some(at);
                    break;
                }
            }
        }
        place.tail = self.tail(&place.file, place.offset)?;
        if let Some((id, previous)) = disorder {
            tracing::warn!(
                path = %self.options.path.display(),
                id,
                previous,
                "ids do not increase in the part of the file that is passed over, up to the cursor"
            );
        }
        Ok(())
    }

    /// Reads lines from a place on, through rotated files, until the page is full or there is no complete line left.
    /// Answers where the next page begins; `None`: it has to be searched for.
    fn read_page(
        &self,
        mut place: Place,
        limit: usize,
    ) -> Result<(Page, Option<Place>), SourceError> {
        let mut page = PageReader::new(&self.options, limit);
        let mut is_known = true;
        while self.read_file(&mut place, &mut page)? {
            match rotation::successor(&self.options.path, &place.file)? {
                Successor::None => break,
                Successor::File(file) => {
                    (place.file, place.offset, place.inside_line) = (file, 0, false);
                }
                Successor::Unknown => {
                    is_known = false;
                    break;
                }
            }
        }
        let ids = page.items.iter().filter_map(Item::id);
        if let Err(error) = check_order(ids, place.after_id, limit) {
            return Err(SourceError::invalid_page(&error, page.body()));
        }
        place.tail = self.tail(&place.file, place.offset)?;
        place.after_id = page.items.iter().rev().find_map(Item::id).unwrap_or(place.after_id);
        Ok((Page::new(page.items), is_known.then_some(place)))
    }

    /// Reads lines of one file; true: to its end, so that the next file may follow.
    fn read_file(&self, place: &mut Place, page: &mut PageReader<'_>) -> Result<bool, SourceError> {
        let Place { file, offset, inside_line, naming, .. } = place;
        if *offset >= self.length(file)? {
            return Ok(true);
        }
        let file = &*file;
        let mut lines = self.lines(file, *offset)?;
        loop {
            if *inside_line {
                let (length, ended) = lines.skip().map_err(|e| self.unreadable(&e))?;
                *offset += length;
                *inside_line = !ended;
            }
            if page.is_full() {
                return Ok(false);
            }
            let mut text = Vec::new();
            let Some(line) = lines.next(&mut text).map_err(|e| self.unreadable(&e))? else {
                return Ok(true);
            };
            if line.end == LineEnd::EndOfFile && self.is_written_to(file)? {
                return Ok(false);
            }
            if !page.has_room(line.length) {
                return Ok(false);
            }
            *offset += line.length;
            *inside_line = line.end == LineEnd::TooLong;
            page.take(Bytes::from(text), line.end, naming);
        }
    }

    /// Whether the rest of a line may still come.
    fn is_written_to(&self, file: &File) -> Result<bool, SourceError> {
        let successor = rotation::successor(&self.options.path, file)?;
        Ok(matches!(successor, Successor::None))
    }

    fn lines<'f>(&self, file: &'f File, offset: u64) -> Result<Lines<'f>, SourceError> {
        Lines::from(file, offset, self.options.max_page_bytes).map_err(|e| self.unreadable(&e))
    }

    fn length(&self, file: &File) -> Result<u64, SourceError> {
        Ok(file.metadata().map_err(|e| self.unreadable(&e))?.len())
    }

    fn unreadable(&self, error: &std::io::Error) -> SourceError {
        SourceError::not_sent(format!("cannot read {}: {error}", self.options.path.display()))
    }
}

/// Collects the lines of one page.
struct PageReader<'o> {
    options: &'o FileOptions,
    limit: usize,
    items: Vec<Item>,
    /// The text of each item.
    texts: Vec<Bytes>,
    good_count: usize,
    nameless_count: u32,
    byte_count: u64,
}

impl<'o> PageReader<'o> {
    fn new(options: &'o FileOptions, limit: usize) -> Self {
        let (items, texts) = (Vec::new(), Vec::new());
        Self { options, limit, items, texts, good_count: 0, nameless_count: 0, byte_count: 0 }
    }

    fn is_full(&self) -> bool {
        self.good_count >= self.limit || self.nameless_count >= NAMELESS_MAX
    }

    /// A page holds one line at least.
    fn has_room(&self, length: u64) -> bool {
        self.items.is_empty() || self.byte_count + length <= self.options.max_page_bytes as u64
    }

    fn take(&mut self, mut text: Bytes, end: LineEnd, naming: &mut Naming) {
        if text.is_empty() && end != LineEnd::TooLong {
            return;
        }
        self.byte_count += text.len() as u64;
        let mapping = &self.options.mapping;
        let item = if end == LineEnd::TooLong {
            text = Bytes::copy_from_slice(&text[..text.len().min(KEPT_OF_OVERSIZED)]);
            let reason = format!(
                "the line is longer than max_page_bytes = {}; its first {} bytes are kept",
                self.options.max_page_bytes,
                text.len()
            );
            Item::Bad(nameless_event(text.clone(), reason, mapping))
        } else {
            mapping.item(&text).unwrap_or_else(|error| {
                Item::Bad(nameless_event(text.clone(), error.to_string(), mapping))
            })
        };
        self.items.push(match (item.id(), item) {
            (None, Item::Bad(bad)) => {
                naming.count += 1;
                self.nameless_count += 1;
                let reference = format!("line {} after id {}", naming.count, naming.id);
                Item::Bad(BadEvent { reference, ..bad })
            }
            (id, item) => {
                *naming = Naming { id: id.unwrap_or(naming.id), count: 0 };
                self.good_count += 1;
                item
            }
        });
        self.texts.push(text);
    }

    /// The page as it stands in the file, for the dead letters.
    fn body(&self) -> Bytes {
        let mut body = self.texts.join(&b'\n');
        body.truncate(KEPT_OF_OVERSIZED);
        body.into()
    }
}

fn nameless_event(body: Bytes, reason: String, mapping: &Mapping) -> BadEvent {
    BadEvent {
        id: None,
        reference: String::new(),
        body,
        reason,
        payload_at: mapping.payload.to_string(),
        event_type: None,
        occurred_at: None,
        message_id: None,
        metadata: None,
    }
}

impl From<Unreadable> for SourceError {
    fn from(file: Unreadable) -> Self {
        Self::not_sent(format!("cannot read {}: {}", file.path.display(), file.cause))
    }
}
