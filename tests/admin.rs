//! The admin server, asked over HTTP as monitors, programs and browsers ask it.

mod access;
mod actions;
mod alerts;
mod health;
mod metrics;
mod page;
mod service_manager;
