//! What events are taken from.

mod command;
mod conformance;
mod file;
mod http;
mod singer;
mod sql;
