//! The pull sources, one file per kind. They know the trait and nothing of the database or of each other.

pub mod amqp;
pub mod command;
pub mod file;
pub mod http;
pub mod memory;
pub mod memory_queue;
pub mod sql;
