//! Queue sources: one suite for every driver, and what is particular to each.

mod conformance;
mod consuming;
mod memory;
