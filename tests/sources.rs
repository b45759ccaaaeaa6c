//! What events are taken from.

mod command;
mod conformance;
mod file;
mod http;
mod rabbitmq_stream;
mod singer;
mod sql;
