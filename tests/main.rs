//! The one integration-test binary. Every test has a database of its own on a private PostgreSQL, started by the same
//! launcher that the product uses, and real HTTP servers that keep their own log of what they were asked.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::format_collect, reason = "configurations and pages are small, and made once")]

mod admin;
mod bench;
#[cfg(feature = "chaos")]
mod chaos;
mod check;
mod commands;
mod configuration;
mod embedded;
mod examples;
mod fairness;
mod handlers;
mod hostile_http;
mod instances;
mod loading;
mod model;
mod moving;
mod outages;
mod own_source;
mod payloads;
mod queues;
mod reload;
mod roles;
mod round_trips;
mod schema;
mod secrets;
mod shutdown;
mod sources;
mod support;
mod tidy;
#[cfg(feature = "otel")]
mod tracing;
mod traps;
mod twin;
mod upkeep;
mod wrong_configurations;
