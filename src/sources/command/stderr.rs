//! What a program says on standard error: to the log, line by line, and its last words into the reason of a failure.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::process::ChildStderr;

use crate::event::excerpt::excerpt;

/// Longest line in the log, in characters; the rest of a line is left out.
const LINE_LENGTH_MAX: usize = 500;

/// Bytes of a line that are kept while its end has not come.
const LINE_BYTES_MAX: usize = 8 << 10;

/// Lines that become part of the reason of a failure, and the length of each.
const LAST_LINES: usize = 3;
const LAST_LENGTH_MAX: usize = 200;

/// Lines a second that go to the log, and how many at once after a quiet time.
const LINES_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("10 is not 0");
const BURST: NonZeroU32 = NonZeroU32::new(100).expect("100 is not 0");

/// Shorter secrets, and lines of secrets, are too common in text to be hidden.
const SECRET_LENGTH_MIN: usize = 4;

/// Where the lines of one source go.
pub(super) struct Log {
    source_name: String,
    /// Lines that are not shown, the longest first: a shorter one may be part of it.
    secrets: Vec<SecretString>,
    rate: DefaultDirectRateLimiter,
    left_out: AtomicU64,
}

impl Log {
    /// No line of `secrets` is shown.
    pub(super) fn new<'s>(
        source_name: String,
        secrets: impl IntoIterator<Item = &'s SecretString>,
    ) -> Self {
        let mut lines: Vec<&str> = secrets
            .into_iter()
            .flat_map(|secret| secret.expose_secret().lines().map(str::trim))
            .filter(|line| line.len() >= SECRET_LENGTH_MIN)
            .collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.len()));
        let secrets = lines.into_iter().map(SecretString::from).collect();
        let rate = RateLimiter::direct(Quota::per_second(LINES_PER_SECOND).allow_burst(BURST));
        Self { source_name, secrets, rate, left_out: AtomicU64::new(0) }
    }

    /// Logs a line, unless there were too many. Answers it as it may be shown.
    fn say(&self, raw: &[u8]) -> String {
        let mut text = String::from_utf8_lossy(raw).into_owned();
        for secret in &self.secrets {
            let secret = secret.expose_secret();
            if text.contains(secret) {
                text = text.replace(secret, "***");
            }
        }
        let line = excerpt(&text, LINE_LENGTH_MAX);
        if self.rate.check().is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        } else {
            tracing::info!(source_name = self.source_name, line, "the program says");
        }
        line
    }

    /// Says that the output of a program was taken as complete though it is not closed.
    fn say_output_is_held(&self) {
        tracing::warn!(
            source_name = self.source_name,
            "the program has ended, but something that it started and that left its process group (setsid) still holds its \
             output open: it goes on running, and what it prints from now on is not read"
        );
    }

    /// Says once a request how many lines did not go to the log.
    pub(super) fn say_what_was_left_out(&self) {
        let line_count = self.left_out.swap(0, Ordering::Relaxed);
        if line_count > 0 {
            tracing::warn!(
                source_name = self.source_name,
                line_count,
                "the program says too much; lines were left out of the log"
            );
        }
    }
}

/// The standard error of one run.
pub(super) struct Stderr {
    pipe: ChildStderr,
    log: Arc<Log>,
    /// What has come of a line whose end has not.
    partial: BytesMut,
    /// The line was longer than is kept; the rest of it is passed.
    is_cut: bool,
    last: VecDeque<String>,
    pub(super) has_ended: bool,
}

impl Stderr {
    pub(super) fn new(pipe: ChildStderr, log: Arc<Log>) -> Self {
        let (partial, last) = (BytesMut::new(), VecDeque::new());
        Self { pipe, log, partial, is_cut: false, last, has_ended: false }
    }

    /// See [`Log::say_output_is_held`].
    pub(super) fn say_output_is_held(&self) {
        self.log.say_output_is_held();
    }

    /// Waits for more, and logs it. Safe to cancel.
    pub(super) async fn pump(&mut self) {
        self.partial.reserve(LINE_BYTES_MAX);
        // A pipe that cannot be read has nothing more to say.
        if self.pipe.read_buf(&mut self.partial).await.unwrap_or(0) == 0 {
            self.has_ended = true;
            let rest = self.partial.split();
            self.take(&rest);
            return;
        }
        while let Some(newline) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line = self.partial.split_to(newline + 1);
            self.take(&line);
            self.is_cut = false;
        }
        if self.partial.len() >= LINE_BYTES_MAX {
            let start = self.partial.split();
            self.take(&start);
            self.is_cut = true;
        }
    }

    fn take(&mut self, line: &[u8]) {
        let line = line.trim_ascii();
        if self.is_cut || line.is_empty() {
            return;
        }
        let said = self.log.say(line);
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(excerpt(&said, LAST_LENGTH_MAX));
    }

    /// The last lines, for the reason of a failure.
    pub(super) fn last_words(&self) -> String {
        self.last.iter().map(String::as_str).collect::<Vec<_>>().join(" | ")
    }
}
