//! Queue sources: one suite for every driver, and what is particular to each.

mod amqp;
mod conformance;
mod consuming;
mod memory;
