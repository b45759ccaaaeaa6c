//! The sources, one file per kind. They know the trait and nothing of the database or of each other; what several need
//! is a file of its own.

pub mod amqp;
mod amqp_value;
pub mod command;
pub mod file;
pub mod http;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod memory;
pub mod memory_queue;
pub mod rabbitmq_stream;
pub mod redis_stream;
pub mod sql;
pub mod tls;
