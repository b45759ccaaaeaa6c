//! Months of the archive, in UTC.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveTime, Utc};

/// A month, 2000-01 to 2199-12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month(NaiveDate);

/// The years that the archive has partitions for.
const YEARS: std::ops::RangeInclusive<i32> = 2000..=2199;

/// Why a text or a time is no month of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MonthError {
    /// Not of the form.
    #[error("not a month; write the year and the month, as in 2026-05")]
    Form,
    /// Too early or too late.
    #[error("the archive has months from 2000-01 to 2199-12")]
    Range,
}

impl Month {
    /// The month of a day.
    ///
    /// # Errors
    ///
    /// [`MonthError::Range`].
    pub fn of(day: NaiveDate) -> Result<Self, MonthError> {
        let first = day.with_day(1).filter(|first| YEARS.contains(&first.year()));
        first.map(Self).ok_or(MonthError::Range)
    }

    /// The first day.
    pub fn first_day(self) -> NaiveDate {
        self.0
    }

    /// When it begins.
    pub fn start(self) -> DateTime<Utc> {
        self.0.and_time(NaiveTime::MIN).and_utc()
    }

    /// The month so many months later.
    ///
    /// # Errors
    ///
    /// [`MonthError::Range`].
    pub fn plus(self, months: u32) -> Result<Self, MonthError> {
        let day = self.0.checked_add_months(Months::new(months)).ok_or(MonthError::Range)?;
        Self::of(day)
    }

    /// What its partition is called.
    pub fn partition_name(self) -> String {
        format!("event_request_log_archive_{}", self.0.format("%Y_%m"))
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format("%Y-%m"))
    }
}

impl FromStr for Month {
    type Err = MonthError;

    fn from_str(text: &str) -> Result<Self, MonthError> {
        let digits = |part: &str, count| {
            let is_number = part.len() == count && part.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| part.parse::<u32>().ok()).flatten()
        };
        let (year, month) = text.split_once('-').ok_or(MonthError::Form)?;
        let year = digits(year, 4).ok_or(MonthError::Form)?;
        let month = digits(month, 2).ok_or(MonthError::Form)?;
        let first =
            NaiveDate::from_ymd_opt(year.cast_signed(), month, 1).ok_or(MonthError::Form)?;
        Self::of(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_a_year_and_two_digits() {
        for (text, want) in [
            ("2026-05", Ok("2026-05")),
            ("2000-01", Ok("2000-01")),
            ("2199-12", Ok("2199-12")),
            ("1999-12", Err(MonthError::Range)),
            ("2200-01", Err(MonthError::Range)),
            ("2026-13", Err(MonthError::Form)),
            ("2026-00", Err(MonthError::Form)),
            ("2026-5", Err(MonthError::Form)),
            ("26-05", Err(MonthError::Form)),
            ("2026-05-01", Err(MonthError::Form)),
            ("2026/05", Err(MonthError::Form)),
            ("2026-+5", Err(MonthError::Form)),
            ("", Err(MonthError::Form)),
        ] {
            assert_eq!(
                text.parse::<Month>().map(|m| m.to_string()),
                want.map(str::to_owned),
                "{text}"
            );
        }
    }

    #[test]
    fn months_are_counted_over_the_end_of_a_year() {
        let november: Month = "2026-11".parse().unwrap();
        let names: Vec<_> = (0..3).map(|n| november.plus(n).unwrap().partition_name()).collect();
        assert_eq!(
            names,
            ["2026_11", "2026_12", "2027_01"].map(|m| format!("event_request_log_archive_{m}"))
        );
        let last: Month = "2199-12".parse().unwrap();
        assert_eq!(last.plus(1), Err(MonthError::Range));
        assert_eq!(last.plus(u32::MAX), Err(MonthError::Range));
    }
}
