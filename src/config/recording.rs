//! What one reading of the configuration came across, for those who ask about keys instead of values.

use std::cell::RefCell;

use super::error::Place;
use super::shape::Shape;

/// Stands for every key of a table whose keys are free, such as headers.
pub(super) const ANY_KEY: &str = "*";

/// What is written down while the configuration is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Nothing: only the values are wanted.
    Load,
    /// Every value with its origin.
    Show,
    /// Every key with what it takes. Nothing is converted; every key is absent.
    Describe,
}

/// One key that was read.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) path: Vec<String>,
    /// Of a key that is there, or when describing.
    pub(super) shape: Option<Shape>,
    pub(super) required: bool,
    /// What it was set to; none where it is absent.
    pub(super) stated: Option<Stated>,
}

/// A value as it may be shown.
#[derive(Debug)]
pub(super) struct Stated {
    /// As it would stand in the file.
    pub(super) literal: String,
    /// What it comes to where it has references, if that may be shown.
    pub(super) filled: Option<String>,
    pub(super) origin: StatedBy,
}

/// Who said so.
#[derive(Debug)]
pub(super) enum StatedBy {
    /// The file, a variable or a flag.
    Given(Place),
    /// The reading itself, with its reason.
    Rule(&'static str),
}

/// The records of one reading.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) purpose: Purpose,
    records: RefCell<Vec<Record>>,
}

impl Recording {
    pub(super) fn new(purpose: Purpose) -> Self {
        Self { purpose, records: RefCell::default() }
    }

    pub(super) fn is(&self, purpose: Purpose) -> bool {
        self.purpose == purpose
    }

    /// Adds a record, unless only the values are wanted.
    pub(super) fn add(&self, record: impl FnOnce() -> Record) {
        if self.purpose != Purpose::Load {
            self.records.borrow_mut().push(record());
        }
    }

    /// Changes the latest record of a key.
    pub(super) fn amend(&self, path: &[String], change: impl FnOnce(&mut Record)) {
        if self.purpose == Purpose::Load {
            return;
        }
        let mut records = self.records.borrow_mut();
        if let Some(record) = records.iter_mut().rev().find(|record| record.path == path) {
            change(record);
        }
    }

    pub(super) fn into_records(self) -> Vec<Record> {
        self.records.into_inner()
    }
}
