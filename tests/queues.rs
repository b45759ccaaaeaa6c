//! Queue sources: one suite for every driver, and what is particular to each.

mod amqp;
pub(crate) mod conformance;
mod consuming;
#[cfg(feature = "kafka")]
mod kafka;
pub(crate) mod memory;
mod poison_campaign;
pub(crate) mod redis_stream;
mod spool;
