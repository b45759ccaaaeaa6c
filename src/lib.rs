//! eventloader pulls every event out of many sources, once, keeps it in PostgreSQL in order, and hands it on.
//!
//! The `eventloader` program is a thin shell around this library. Programs of your own start at [`source::EventSource`]:
//! implement it, hand it to a [`loader::Loader`], and its events go through the same inbox, request log and event log as
//! those of the built-in sources. `examples/custom_source.rs` shows the whole of it.
//!
//! The modules in reading order: [`source`] and [`event`] say what comes in, [`loader`] how it is asked for, [`store`]
//! what is written where, [`retry_worker`] and [`storage`] how it reaches `events`.

pub mod admin;
pub mod app;
pub mod check;
pub mod cli;
pub mod config;
pub mod consumer;
pub mod database;
pub mod dead_letter;
pub mod demo;
pub mod event;
pub mod failpoint;
pub mod handler;
pub mod heartbeat;
pub mod loader;
pub mod mapping;
pub mod metrics;
mod mutant;
pub mod operate;
pub mod pattern;
pub mod postgres;
pub mod retry_worker;
pub mod service_manager;
pub mod shutdown;
pub mod source;
pub mod sources;
pub mod status;
pub mod storage;
pub mod store;
pub mod telemetry;
pub mod upkeep;
