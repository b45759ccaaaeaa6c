//! What an error of the database says about the request.
//!
//! Events are asked for by one statement. Until that has been sent, nothing was asked. An error that the server sends
//! is an answer: no event came, and none will. Where the answer itself is missing, or the statement ran out of time,
//! the outcome is unknown.

use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlDatabaseError;

use super::Dialect;
use crate::event::excerpt::excerpt;
use crate::source::{FailureClass, SourceError};

/// Longest message of a server that is shown, in characters.
const MESSAGE_LENGTH_MAX: usize = 300;

/// Whether the statement that asks for events has been sent.
#[derive(Debug, Default)]
pub(super) struct Asked(AtomicBool);

impl Asked {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// What an answer that never came means.
    pub(super) fn class(&self) -> FailureClass {
        if self.0.load(Ordering::Relaxed) { FailureClass::Unknown } else { FailureClass::NotSent }
    }

    /// What an error means.
    pub(super) fn failed(&self, dialect: Dialect, error: &sqlx::Error) -> SourceError {
        let sqlx::Error::Database(answer) = error else {
            // A message of the driver about its configuration may hold a part of the URL.
            let reason = match error {
                sqlx::Error::Configuration(_) => "the url cannot be used".to_owned(),
                sqlx::Error::Io(cause) => format!("the connection failed: {cause}"),
                other => excerpt(&other.to_string(), MESSAGE_LENGTH_MAX),
            };
            let class = match error {
                sqlx::Error::Configuration(_)
                | sqlx::Error::ColumnNotFound(_)
                | sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::Decode(_) => FailureClass::Rejected,
                _ => self.class(),
            };
            return SourceError::new(class, reason);
        };
        let (code, said) = code_of(dialect, answer.as_ref());
        let meaning = match dialect {
            Dialect::Postgres => of_postgres(&code),
            Dialect::MySql => of_mysql(code.parse().unwrap_or(0)),
            Dialect::Sqlite => of_sqlite(code.parse().unwrap_or(0)),
        };
        let class = match (meaning.class, self.class()) {
            // Out of time, but events had not been asked for.
            (FailureClass::Unknown, FailureClass::NotSent) => FailureClass::Refused,
            (class, _) => class,
        };
        let hint = if meaning.hint.is_empty() { "" } else { "; " };
        let message = excerpt(answer.message(), MESSAGE_LENGTH_MAX);
        SourceError::new(class, format!("{message} ({said}){hint}{}", meaning.hint))
    }
}

fn code_of(dialect: Dialect, error: &dyn DatabaseError) -> (String, String) {
    let code = match (dialect, error.try_downcast_ref::<MySqlDatabaseError>()) {
        (Dialect::MySql, Some(error)) => error.number().to_string(),
        _ => error.code().unwrap_or_default().into_owned(),
    };
    let word = match dialect {
        Dialect::Postgres => "SQLSTATE",
        Dialect::MySql => "error",
        Dialect::Sqlite => "SQLite code",
    };
    let said = format!("{word} {code}");
    (code, said)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meaning {
    class: FailureClass,
    /// What to do; may be empty.
    hint: &'static str,
}

const fn meaning(class: FailureClass, hint: &'static str) -> Meaning {
    Meaning { class, hint }
}

const TIMED_OUT: Meaning =
    meaning(FailureClass::Unknown, "raise `timeout`, or index the id column of the table");
const BUSY: Meaning = meaning(FailureClass::Refused, "");
const LOGIN: Meaning = meaning(FailureClass::Rejected, "check user and password in `url`");
const NO_DATABASE: Meaning =
    meaning(FailureClass::Rejected, "check the name of the database in `url`");
const NO_TABLE: Meaning =
    meaning(FailureClass::Rejected, "check `table` or `query`; a schema is written schema.table");
const NO_COLUMN: Meaning = meaning(FailureClass::Rejected, "check `id` and the columns of `query`");
const NO_RIGHT: Meaning =
    meaning(FailureClass::Rejected, "grant the user of `url` select on what is read");
const SYNTAX: Meaning = meaning(FailureClass::Rejected, "check `query`");
const WRITES: Meaning =
    meaning(FailureClass::Rejected, "a source is only read; take out of `query` what writes");
const OTHER: Meaning = meaning(FailureClass::Rejected, "");

fn of_postgres(code: &str) -> Meaning {
    match code {
        "57014" => TIMED_OUT,
        "28P01" | "28000" => LOGIN,
        "3D000" => NO_DATABASE,
        "42P01" | "3F000" => NO_TABLE,
        "42703" => NO_COLUMN,
        "42501" => NO_RIGHT,
        "25006" => WRITES,
        "55P03" => meaning(FailureClass::Refused, "the table is locked"),
        "25P03" => meaning(FailureClass::Unknown, ""),
        _ if code.starts_with("42") => SYNTAX,
        _ => match code.get(..2) {
            Some("08" | "40" | "53" | "57") => BUSY,
            Some("58" | "XX") => meaning(FailureClass::Unknown, ""),
            _ => OTHER,
        },
    }
}

fn of_mysql(number: u16) -> Meaning {
    match number {
        1969 | 3024 | 1317 | 1927 => TIMED_OUT,
        1045 | 1698 => LOGIN,
        1044 | 1142 | 1143 | 1227 => NO_RIGHT,
        1049 => NO_DATABASE,
        1146 => NO_TABLE,
        1054 => NO_COLUMN,
        1064 => SYNTAX,
        1792 | 1290 => WRITES,
        // Too many connections, lock waits, deadlocks, a server that starts or stops.
        1040 | 1053 | 1077 | 1079 | 1129 | 1203 | 1205 | 1213 | 1226 | 1412 => BUSY,
        _ => OTHER,
    }
}

fn of_sqlite(code: u32) -> Meaning {
    match code & 0xff {
        5 | 6 => BUSY,
        8 => WRITES,
        9 => TIMED_OUT,
        10 => meaning(FailureClass::Unknown, ""),
        14 => meaning(
            FailureClass::Refused,
            "the file has to exist; with a write-ahead log, its directory has to be writable",
        ),
        26 => meaning(FailureClass::Rejected, "the file is no SQLite database"),
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_servers_mean_what_they_say() {
        use FailureClass::{Refused, Rejected, Unknown};
        for (code, class) in [
            ("28P01", Rejected),
            ("42P01", Rejected),
            ("42883", Rejected),
            ("25006", Rejected),
            ("22012", Rejected),
            ("53300", Refused),
            ("57P01", Refused),
            ("57P03", Refused),
            ("40P01", Refused),
            ("55P03", Refused),
            ("57014", Unknown),
            ("XX000", Unknown),
            ("", Rejected),
        ] {
            assert_eq!(of_postgres(code).class, class, "{code}");
        }
        for (number, class) in
            [(1040, Refused), (1045, Rejected), (1969, Unknown), (3024, Unknown), (1792, Rejected)]
        {
            assert_eq!(of_mysql(number).class, class, "{number}");
        }
        for (code, class) in [(5, Refused), (517, Refused), (9, Unknown), (1, Rejected)] {
            assert_eq!(of_sqlite(code).class, class, "{code}");
        }
    }

    #[test]
    fn nothing_is_unknown_before_events_are_asked_for() {
        let asked = Asked::default();
        assert_eq!(asked.class(), FailureClass::NotSent);
        asked.set();
        assert_eq!(asked.class(), FailureClass::Unknown);
    }
}
