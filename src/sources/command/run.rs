//! One run of a program: started, read, and ended with everything it started.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::ExposeSecret;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::Instant;

use super::arguments::{self, Place};
use super::exit::{self, Outcome};
use super::stderr::{Log, Stderr};
use super::{AFTER_ID_VARIABLE, CommandOptions, LIMIT_VARIABLE, TRACEPARENT_VARIABLE};
use crate::source::SourceError;
use crate::telemetry::Span;

/// Bytes that are read at once.
const READ_LENGTH: usize = 64 << 10;

/// How long the last words of a program that has ended are waited for. Only who left its process group, and so outlives
/// it, can hold them back.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(500);

/// Most bytes that are taken out of the pipe of a program that has ended: no pipe holds more without special rights.
const PIPE_LENGTH_MAX: usize = 1 << 20;

/// A program that runs. Dropping it kills the program and its children.
pub(super) struct Run {
    // Dropped before the child, which has to be there as a zombie at least: until then nobody else has its number.
    group: Group,
    child: Child,
    stdout: ChildStdout,
    stdout_has_ended: bool,
    status: Option<ExitStatus>,
    /// When the output of the program, which has ended, is taken as complete, though somebody holds it open.
    output_until: Option<Instant>,
    stderr: Stderr,
    /// What was read and not taken.
    pub(super) output: BytesMut,
}

/// What a read answered.
pub(super) enum Read {
    /// There is more output.
    More,
    /// The output has ended and so has the program.
    Ended(ExitStatus),
    /// The deadline has passed.
    TimedOut,
    /// The pipe or the process cannot be waited for.
    Broken(io::Error),
}

impl Run {
    pub(super) fn start(
        options: &CommandOptions,
        place: &Place<'_>,
        log: Arc<Log>,
    ) -> Result<Self, SourceError> {
        let filled = arguments::fill(&options.command, place);
        let Some((program, arguments)) = filled.split_first() else {
            return Err(SourceError::not_sent("the command is empty"));
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&options.directory)
            .env_clear()
            .envs(options.inherited.iter().map(|(name, value)| (name, value)))
            .envs(Span::current().traceparent().map(|trace| (TRACEPARENT_VARIABLE, trace)))
            .envs(options.environment.iter().map(|(name, value)| (name, value.expose_secret())))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Place::Window { after_id, limit } = place {
            command.env(AFTER_ID_VARIABLE, after_id.to_string());
            command.env(LIMIT_VARIABLE, limit.to_string());
        }
        let mut child = command
            .spawn()
            .map_err(|error| exit::not_started(program, &options.directory, &error))?;
        let group = Group::of(&child);
        let pipes = child.stdout.take().zip(child.stderr.take());
        let Some((stdout, stderr)) = pipes else {
            return Err(SourceError::unknown("the program was started without pipes"));
        };
        Ok(Self {
            group,
            child,
            stdout,
            stdout_has_ended: false,
            status: None,
            output_until: None,
            stderr: Stderr::new(stderr, log),
            output: BytesMut::new(),
        })
    }

    /// Waits for more output, or for the end. Safe to cancel.
    pub(super) async fn read(&mut self, deadline: Instant) -> Read {
        let outcome = match tokio::time::timeout_at(deadline, self.read_on()).await {
            Ok(outcome) => outcome,
            // It did end in time, only somebody else holds its output open.
            Err(_) if self.status.is_some() => self.end_output().map(|()| self.status),
            Err(_) => return Read::TimedOut,
        };
        match outcome {
            Ok(None) => Read::More,
            Ok(Some(status)) => {
                // The group is dead by now, so this ends at once.
                drop(tokio::time::timeout(LAST_WORDS_WITHIN, self.hear_out()).await);
                Read::Ended(status)
            }
            Err(error) => Read::Broken(error),
        }
    }

    /// `None`: there is more output.
    async fn read_on(&mut self) -> io::Result<Option<ExitStatus>> {
        loop {
            if let (Some(status), true) = (self.status, self.stdout_has_ended) {
                return Ok(Some(status));
            }
            if self.output_until.is_some_and(|until| until <= Instant::now()) {
                self.end_output()?;
                continue;
            }
            let until = self.output_until.unwrap_or_else(Instant::now);
            self.output.reserve(READ_LENGTH);
            tokio::select! {
                biased;
                () = self.stderr.pump(), if !self.stderr.has_ended => {}
                read = self.stdout.read_buf(&mut self.output), if !self.stdout_has_ended => {
                    if read? > 0 {
                        return Ok(None);
                    }
                    self.stdout_has_ended = true;
                }
                status = self.child.wait(), if self.status.is_none() => {
                    self.status = Some(status?);
                    // What it left behind would hold its output open.
                    self.group.kill();
                    self.output_until = Some(Instant::now() + LAST_WORDS_WITHIN);
                }
                () = tokio::time::sleep_until(until), if self.status.is_some() => {}
            }
        }
    }

    /// Takes what is in the pipe, which is all that the program, now dead, printed before its end, and no more.
    fn end_output(&mut self) -> io::Result<()> {
        self.stdout_has_ended = true;
        self.stderr.say_output_is_held();
        let mut buffer = vec![0; READ_LENGTH];
        let mut taken_length = 0;
        while taken_length < PIPE_LENGTH_MAX {
            match rustix::io::read(&self.stdout, buffer.as_mut_slice()) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(length) => {
                    self.output.extend_from_slice(&buffer[..length]);
                    taken_length += length;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn hear_out(&mut self) {
        while !self.stderr.has_ended {
            self.stderr.pump().await;
        }
    }

    /// Ends the run, which brought no page.
    pub(super) fn failure(&mut self, outcome: &Outcome) -> SourceError {
        self.group.kill();
        outcome.failure(&self.stderr.last_words())
    }
}

/// The process group of a child that leads it.
struct Group {
    leader: Option<Pid>,
}

impl Group {
    fn of(child: &Child) -> Self {
        let number = child.id().and_then(|id| i32::try_from(id).ok());
        Self { leader: number.and_then(Pid::from_raw) }
    }

    /// Kills whoever is in the group, once.
    fn kill(&mut self) {
        if let Some(leader) = self.leader.take() {
            // There may be nobody left.
            kill_process_group(leader, Signal::KILL).ok();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
