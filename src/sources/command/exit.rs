//! What the end of a program means. The numbers are those of sysexits.h, which many programs use.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use crate::source::FailureClass;
use crate::source::SourceError;

/// How a run went that brought no page.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It ended with another code than 0, or by a signal.
    Ended(ExitStatus),
    /// It did not end in time and was killed.
    TimedOut(Duration),
    /// Its output cannot be read.
    Unreadable(io::Error),
}

impl Outcome {
    /// The class of the failure, and what happened.
    fn judge(&self) -> (FailureClass, String) {
        match self {
            Self::Ended(status) => match (status.code(), status.signal()) {
                (Some(code), _) => {
                    let (class, meaning) = class_of(code);
                    (class, format!("the program ended with exit code {code}{meaning}"))
                }
                (None, Some(signal)) => {
                    (FailureClass::Unknown, format!("the program was ended by signal {signal}"))
                }
                (None, None) => (FailureClass::Unknown, "the program ended".to_owned()),
            },
            Self::TimedOut(timeout) => (
                FailureClass::Unknown,
                format!(
                    "the program did not answer within timeout = {} s and was killed with its process group",
                    timeout.as_secs_f64()
                ),
            ),
            Self::Unreadable(error) => (
                FailureClass::Unknown,
                format!("the output of the program cannot be read: {error}"),
            ),
        }
    }

    /// The failure, with what the program said last.
    pub(super) fn failure(&self, last_words: &str) -> SourceError {
        let (class, what) = self.judge();
        let reason =
            if last_words.is_empty() { what } else { format!("{what}; it said: {last_words}") };
        SourceError::new(class, reason)
    }
}

/// The class that a program chooses by its exit code. Every code that promises nothing is unknown.
fn class_of(code: i32) -> (FailureClass, &'static str) {
    match code {
        64 => (FailureClass::Rejected, " (usage): its arguments are wrong"),
        69 => (FailureClass::NotSent, " (unavailable): nothing was asked"),
        75 => (FailureClass::Refused, " (temporary failure)"),
        77 => (FailureClass::Rejected, " (no permission)"),
        78 => (FailureClass::Rejected, " (bad configuration)"),
        // Those of shells, `env` and the like for a program they cannot run.
        126 => (FailureClass::Unknown, " (usually: not executable)"),
        127 => (FailureClass::Unknown, " (usually: not found)"),
        _ => (FailureClass::Unknown, ""),
    }
}

/// Why a program could not be started: nothing was asked.
pub(super) fn not_started(
    program: &str,
    directory: &std::path::Path,
    error: &io::Error,
) -> SourceError {
    let what = format!("cannot start {program:?} in {}: {error}", directory.display());
    let hint = match error.kind() {
        io::ErrorKind::NotFound if !directory.exists() => "the directory does not exist",
        io::ErrorKind::NotADirectory => "`directory` has to be a directory",
        io::ErrorKind::NotFound if program.contains('/') => {
            "the path begins at `directory`; a script also needs the interpreter of its first line"
        }
        io::ErrorKind::NotFound => "it is in no directory of PATH; write its whole path",
        io::ErrorKind::PermissionDenied => "make it executable: chmod +x",
        io::ErrorKind::ArgumentListTooLong => "the arguments or the environment are too long",
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            "it is no program: a script begins with a line such as #!/bin/sh"
        }
        // Too many processes or open files, no memory, the file is being written: it passes.
        _ => return SourceError::not_sent(what),
    };
    SourceError::new(FailureClass::Rejected, format!("{what}; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_decides_the_class() {
        for (code, class) in [
            (1, FailureClass::Unknown),
            (2, FailureClass::Unknown),
            (64, FailureClass::Rejected),
            (69, FailureClass::NotSent),
            (70, FailureClass::Unknown),
            (75, FailureClass::Refused),
            (77, FailureClass::Rejected),
            (78, FailureClass::Rejected),
            (127, FailureClass::Unknown),
            (255, FailureClass::Unknown),
        ] {
            let failure = Outcome::Ended(ExitStatus::from_raw(code << 8)).failure("");
            assert_eq!(failure.class, class, "{code}");
            assert!(failure.reason.contains(&format!("exit code {code}")), "{failure}");
        }
        let killed = Outcome::Ended(ExitStatus::from_raw(9)).failure("bye");
        assert_eq!(killed.class, FailureClass::Unknown);
        assert_eq!(killed.reason, "the program was ended by signal 9; it said: bye");
    }
}
