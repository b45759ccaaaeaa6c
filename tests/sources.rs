//! What events are taken from.

mod conformance;
mod file;
mod sql;
