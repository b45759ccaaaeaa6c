//! `mode = "singer"`: the program is a tap, and its state is stored with its records.
//!
//! A page ends at a STATE: it holds the records before it and none after it, so that the state in the database and the
//! events agree at every moment. The tap runs on between two requests, blocked on its pipe, as long as the next request
//! asks from where the last page ended; else it is killed and started anew from the state in the database.
//!
//! Records have no id: they are numbered in the order they come.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::arguments::Place;
use super::exit::Outcome;
use super::message::{Message, Record};
use super::run::{Read, Run};
use super::stderr::Log;
use super::tail::{Tail, TailDigest, TapPlace};
use super::{CommandOptions, KEPT_OF_INVALID, invalid};
use crate::event::Item;
use crate::mapping::Mapping;
use crate::source::FailureClass;
use crate::source::{Page, SourceError};

/// A page that is not full ends at the first STATE after this, counted from its first line, so that a slow tap's records
/// do not wait for more.
const PAGE_WITHIN: Duration = Duration::from_secs(1);

/// A tap that runs, and where it stands.
pub(super) struct Session {
    run: Run,
    /// How much of the run's output is known to hold no newline.
    searched_length: usize,
    /// Dropped after the run, which may still read it.
    _state_file: Option<StateFile>,
    has_ended: bool,
    /// The id and the state that the next request has to begin at.
    after_id: i64,
    state: Option<String>,
    reading: Reading,
}

impl Session {
    /// Starts the tap from a stored state.
    pub(super) fn start(
        options: &CommandOptions,
        log: Arc<Log>,
        after_id: i64,
        state: Option<&str>,
    ) -> Result<Self, SourceError> {
        let place = match state.map(TapPlace::parse).transpose() {
            Ok(place) => place.unwrap_or_default(),
            Err(error) => {
                let reason = format!(
                    "the stored state cannot be read ({error}); set one: `eventloader sources seek NAME --state JSON`"
                );
                return Err(SourceError::new(FailureClass::Rejected, reason));
            }
        };
        let state_file = match &place.value {
            Some(value) => Some(StateFile::write(options, value)?),
            None => None,
        };
        let path = state_file.as_ref().map(|file| file.path.as_path());
        let run = Run::start(options, &Place::State(path), log)?;
        let reading = Reading::new(place);
        let state = state.map(str::to_owned);
        Ok(Self {
            run,
            searched_length: 0,
            _state_file: state_file,
            has_ended: false,
            after_id,
            state,
            reading,
        })
    }

    /// Whether the next page is the one that is asked for.
    pub(super) fn stands_at(&self, after_id: i64, state: Option<&str>) -> bool {
        !self.has_ended && self.after_id == after_id && self.state.as_deref() == state
    }

    pub(super) fn is_running(&self) -> bool {
        !self.has_ended
    }

    /// Reads up to the next STATE that a page can end at. After an error the session is of no use.
    pub(super) async fn read_page(
        &mut self,
        options: &CommandOptions,
        limit: usize,
    ) -> Result<Page, SourceError> {
        let deadline = Instant::now() + options.timeout;
        let mut begun_at = None;
        self.reading.begin_page();
        loop {
            while let Some(line) = self.next_line() {
                let begun_at = *begun_at.get_or_insert_with(Instant::now);
                let is_due = || begun_at.elapsed() >= PAGE_WITHIN;
                if self.reading.take(&line)? && (self.reading.known_count >= limit || is_due()) {
                    return self.end_page(&options.mapping);
                }
            }
            if self.reading.byte_count + self.run.output.len() > options.max_page_bytes {
                if self.reading.has_state {
                    return self.end_page(&options.mapping);
                }
                return Err(self.too_much(options.max_page_bytes));
            }
            match self.run.read(deadline).await {
                Read::More => {}
                Read::TimedOut if self.reading.has_state => {
                    return self.end_page(&options.mapping);
                }
                Read::TimedOut => {
                    return Err(self.run.failure(&Outcome::TimedOut(options.timeout)));
                }
                Read::Broken(error) => return Err(self.run.failure(&Outcome::Unreadable(error))),
                Read::Ended(status) if status.success() => {
                    // A last line may lack its newline.
                    let rest = std::mem::take(&mut self.run.output).freeze();
                    self.reading.take(&rest)?;
                    self.has_ended = true;
                    self.reading.end();
                    return self.end_page(&options.mapping);
                }
                Read::Ended(status) => return Err(self.run.failure(&Outcome::Ended(status))),
            }
        }
    }

    fn next_line(&mut self) -> Option<Bytes> {
        let rest = &self.run.output[self.searched_length..];
        let Some(newline) = rest.iter().position(|byte| *byte == b'\n') else {
            self.searched_length = self.run.output.len();
            return None;
        };
        let newline = self.searched_length + newline;
        self.searched_length = 0;
        let mut line = self.run.output.split_to(newline + 1).freeze();
        line.truncate(newline);
        Some(line)
    }

    fn end_page(&mut self, mapping: &Mapping) -> Result<Page, SourceError> {
        let (records, place) = self.reading.end_page();
        let text = place.to_text().map_err(|error| {
            SourceError::unknown(format!("the tap's state cannot be stored: {error}"))
        })?;
        let items: Vec<Item> = records
            .into_iter()
            .zip(1..)
            .map(|(record, number)| record.item(mapping, self.after_id.saturating_add(number)))
            .collect();
        let is_at_its_beginning = self.state.is_none() && place == TapPlace::default();
        if items.is_empty() && (is_at_its_beginning || self.state.as_deref() == Some(&text)) {
            return Ok(Page::default());
        }
        self.after_id = items.last().and_then(Item::id).unwrap_or(self.after_id);
        self.state = Some(text.clone());
        Ok(Page { items, state: Some(text), ..Page::default() })
    }

    fn too_much(&self, limit: usize) -> SourceError {
        let record_count = self.reading.records.len();
        let start = &self.run.output[..self.run.output.len().min(KEPT_OF_INVALID)];
        invalid(
            &format!(
                "the tap wrote {record_count} records, more than max_page_bytes = {limit}, without a STATE among them; \
                 raise max_page_bytes, or make the tap write STATE more often"
            ),
            Bytes::copy_from_slice(start),
        )
    }
}

/// What was read of a tap and is not in a page yet. No I/O.
struct Reading {
    /// Where the records begin.
    place: TapPlace,
    records: Vec<Record>,
    /// How many of the records stand before the last STATE.
    known_count: usize,
    /// Whether a STATE came since the page began.
    has_state: bool,
    /// Records since the last STATE, those of pages before among them.
    digest: TailDigest,
    /// What the run before ended with: expected to come again.
    expected: Option<Tail>,
    /// Bytes of lines since the page began, and of what is left from the page before.
    byte_count: usize,
}

impl Reading {
    fn new(place: TapPlace) -> Self {
        let expected = place.tail.clone();
        Self {
            place,
            records: Vec::new(),
            known_count: 0,
            has_state: false,
            digest: TailDigest::default(),
            expected,
            byte_count: 0,
        }
    }

    fn begin_page(&mut self) {
        self.has_state = false;
        self.byte_count = self.records.iter().map(|record| record.text.len()).sum();
    }

    /// Takes a line; true: it was a STATE, so a page can end here.
    fn take(&mut self, line: &Bytes) -> Result<bool, SourceError> {
        self.byte_count += line.len() + 1;
        match Message::parse(line) {
            Ok(Message::Other) => Ok(false),
            Ok(Message::Record(record)) => {
                self.digest.add(&record);
                self.records.push(record);
                self.leave_out_repeated();
                Ok(false)
            }
            Ok(Message::State(value)) => {
                self.place = TapPlace::of_value(&value);
                self.known_count = self.records.len();
                self.has_state = true;
                self.digest = TailDigest::default();
                self.expected = None;
                Ok(true)
            }
            Err(what) => {
                let start = line.slice(..line.len().min(KEPT_OF_INVALID));
                Err(invalid(&format!("a line of the tap {what}"), start))
            }
        }
    }

    /// Forgets the records that the run before has delivered, once they have all come again.
    fn leave_out_repeated(&mut self) {
        let Some(expected) = &self.expected else { return };
        if self.digest.count < expected.count {
            return;
        }
        if self.digest.tail().as_ref() == Some(expected) {
            self.records.clear();
        }
        self.expected = None;
    }

    /// The tap has ended well: what it sent after its last STATE counts too.
    fn end(&mut self) {
        self.known_count = self.records.len();
        if self.digest.count > 0 {
            self.place.tail = self.digest.tail();
        }
    }

    /// Takes the records of a page and the place it ends at. What came after it stays for the next.
    fn end_page(&mut self) -> (Vec<Record>, TapPlace) {
        let rest = self.records.split_off(self.known_count);
        self.known_count = 0;
        (std::mem::replace(&mut self.records, rest), self.place.clone())
    }
}

/// A file with a state, for nobody but the tap; removed with the session.
struct StateFile {
    path: PathBuf,
}

impl StateFile {
    fn write(options: &CommandOptions, state: &str) -> Result<Self, SourceError> {
        let given = options.inherited.iter().find(|(name, _)| name == "TMPDIR");
        let directory = given.map_or(Path::new("/tmp"), |(_, value)| Path::new(value));
        let name = format!("eventloader-state-{}.json", uuid::Uuid::new_v4().simple());
        let file = Self { path: directory.join(name) };
        let write = || {
            // Not one that is there: in a directory of everybody's it would be somebody else's.
            let mut opened = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&file.path)?;
            opened.write_all(state.as_bytes())
        };
        write().map_err(|error: std::io::Error| {
            SourceError::not_sent(format!(
                "cannot write the state for the tap to {}: {error}; TMPDIR names another directory",
                file.path.display()
            ))
        })?;
        Ok(file)
    }
}

impl Drop for StateFile {
    fn drop(&mut self) {
        // A directory that was cleaned up meanwhile is no harm.
        drop(std::fs::remove_file(&self.path));
    }
}
