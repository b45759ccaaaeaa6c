//! `type = "command"`: any program that prints newline-delimited JSON.
//!
//! With `mode = "lines"` the program is asked for one window: it is told `after_id` and `limit`, prints events and ends.
//! One start of the program is the one request of a reservation. With `mode = "singer"` it is a Singer tap, see
//! [`singer`](self).
//!
//! The program has an environment of its own (nothing of ours leaks), reads nothing, and is killed with everything it
//! started: at the timeout, when it prints too much, when the request is given up, and when it has ended and left others
//! behind. Its exit code decides what a failure means. What it printed before a failure is not taken.

mod arguments;
mod exit;
mod message;
mod run;
mod singer;
mod stderr;
mod tail;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use secrecy::SecretString;
use tokio::time::Instant;

use crate::event::{Item, valid_json};
use crate::mapping::{Mapping, check_order};
use crate::source::FailureClass;
use crate::source::{EventSource, Page, SourceError};
use arguments::Place;
use exit::Outcome;
use run::{Read, Run};
use singer::Session;
use stderr::Log;
use tail::TapPlace;

/// Arguments in which these stand are filled in.
pub use arguments::{AFTER_ID, LIMIT, STATE};

/// Variables that tell the program its window, as the arguments do.
pub const AFTER_ID_VARIABLE: &str = "EVENTLOADER_AFTER_ID";
/// See [`AFTER_ID_VARIABLE`].
pub const LIMIT_VARIABLE: &str = "EVENTLOADER_LIMIT";
/// Tells the program the trace of its request, as W3C's header of that name does.
pub const TRACEPARENT_VARIABLE: &str = "TRACEPARENT";

/// How much is kept of output that is invalid.
const KEPT_OF_INVALID: usize = 1 << 20;

/// What the program prints, and how it is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Events with ids, one JSON object a line.
    #[default]
    Lines,
    /// The messages of a Singer tap.
    Singer,
}

impl Mode {
    /// What is promised for sources of this mode, and what is not, in plain words.
    pub fn guarantee(self) -> &'static str {
        match self {
            Self::Lines => {
                "every event that the program prints in a run that ends with exit code 0 is stored exactly once, by its id; \
                 a run that fails is not stored at all. An id that appears after a greater one was stored is never asked \
                 for: a program that reads from a store with concurrent writers has to stay behind its tip"
            }
            Self::Singer => {
                "the state of the tap is stored in the transaction of its records, so none is lost and none is stored twice \
                 for a tap that brings the same records when it is started from the same state, also if it is killed. \
                 Records that the tap itself sends again after its own state (most send those of the last timestamp twice) \
                 are stored again, under new ids: Singer records have no identity"
            }
        }
    }
}

/// What a command source needs to know.
#[derive(Clone, Debug)]
pub struct CommandOptions {
    /// Named in the log lines of what the program says on standard error.
    pub source_name: String,
    /// What the program prints.
    pub mode: Mode,
    /// The program and its arguments, with places for what is asked. Never empty. May hold secrets.
    pub command: Vec<String>,
    /// Parts of the arguments that are not shown where the program repeats them.
    pub secrets: Vec<SecretString>,
    /// Where it runs.
    pub directory: PathBuf,
    /// Variables of ours that it may know: `PATH` and the like.
    pub inherited: Vec<(String, OsString)>,
    /// Further variables, which win.
    pub environment: Vec<(String, SecretString)>,
    /// Where the parts of an event stand in a line, or in a record.
    pub mapping: Mapping,
    /// The longest one request may take.
    pub timeout: Duration,
    /// Most bytes of output for one page.
    pub max_page_bytes: usize,
}

/// A command source.
pub struct CommandSource {
    options: CommandOptions,
    log: Arc<Log>,
    /// The tap that runs between two requests. Taken out by a request, so that giving the request up ends the tap.
    session: Mutex<Option<Session>>,
}

impl CommandSource {
    /// A source that runs this program. It is not started before the first request.
    pub fn new(options: CommandOptions) -> Self {
        let values = options.environment.iter().map(|(_, value)| value);
        let log = Log::new(options.source_name.clone(), values.chain(&options.secrets));
        let log = Arc::new(log);
        Self { options, log, session: Mutex::new(None) }
    }

    /// Runs the program for one window.
    async fn fetch_lines(&self, after_id: i64, limit: u32) -> Result<Page, SourceError> {
        let place = Place::Window { after_id, limit };
        let mut run = Run::start(&self.options, &place, Arc::clone(&self.log))?;
        let deadline = Instant::now() + self.options.timeout;
        loop {
            match run.read(deadline).await {
                Read::More if run.output.len() > self.options.max_page_bytes => {
                    return Err(self.too_much(&run.output));
                }
                Read::More => {}
                Read::TimedOut => return Err(run.failure(&Outcome::TimedOut(self.options.timeout))),
                Read::Broken(error) => return Err(run.failure(&Outcome::Unreadable(error))),
                Read::Ended(status) if status.success() => break,
                Read::Ended(status) => return Err(run.failure(&Outcome::Ended(status))),
            }
        }
        let answered_at = Some(Instant::now());
        let body = std::mem::take(&mut run.output).freeze();
        let page = self.options.mapping.items_of_lines(&body).and_then(|items| {
            check_order(items.iter().filter_map(Item::id), after_id, limit as usize)?;
            Ok(items)
        });
        match page {
            Ok(items) => Ok(Page { items, body, answered_at, ..Page::default() }),
            Err(error) => Err(SourceError::invalid_page(&error, start_of(&body))),
        }
    }

    fn too_much(&self, output: &[u8]) -> SourceError {
        let limit = self.options.max_page_bytes;
        let body = Bytes::copy_from_slice(&output[..output.len().min(KEPT_OF_INVALID)]);
        invalid(
            &format!(
                "the program printed more than max_page_bytes = {limit} and was killed; its first {} bytes are kept. \
                 Does it heed the limit?",
                body.len()
            ),
            body,
        )
    }

    /// Goes on reading the tap that runs, where it stands at what is asked for, or starts it.
    async fn fetch_records(
        &self,
        after_id: i64,
        limit: u32,
        state: Option<&str>,
    ) -> Result<Page, SourceError> {
        let kept = self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut session = match kept.filter(|session| session.stands_at(after_id, state)) {
            Some(session) => session,
            None => Session::start(&self.options, Arc::clone(&self.log), after_id, state)?,
        };
        let page = session.read_page(&self.options, limit as usize).await?;
        if session.is_running() {
            *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        }
        Ok(page)
    }
}

#[async_trait]
impl EventSource for CommandSource {
    async fn fetch_events(&self, after_id: i64, limit: u32) -> Result<Page, SourceError> {
        self.fetch_with_state(after_id, limit, None).await
    }

    fn keeps_state(&self) -> bool {
        self.options.mode == Mode::Singer
    }

    async fn fetch_with_state(
        &self,
        after_id: i64,
        limit: u32,
        state: Option<&str>,
    ) -> Result<Page, SourceError> {
        let outcome = match self.options.mode {
            Mode::Lines => self.fetch_lines(after_id, limit).await,
            Mode::Singer => self.fetch_records(after_id, limit, state).await,
        };
        self.log.say_what_was_left_out();
        outcome
    }
}

/// A state as it is stored, made of the value of a tap's STATE. `None`: null, no state.
///
/// # Errors
///
/// `value` is not JSON.
pub fn stored_state(value: &str) -> Result<Option<String>, serde_json::Error> {
    let place = TapPlace::of_value(valid_json(value)?);
    if place == TapPlace::default() { Ok(None) } else { place.to_text().map(Some) }
}

fn start_of(body: &Bytes) -> Bytes {
    body.slice(..body.len().min(KEPT_OF_INVALID))
}

fn invalid(what: &str, body: Bytes) -> SourceError {
    SourceError {
        page: Some(body),
        ..SourceError::new(FailureClass::InvalidPage, format!("invalid page: {what}"))
    }
}
