//! The names of `src/telemetry/trace.rs`, for a build without the feature `otel`: no code comes of them.

#![expect(
    clippy::unused_self,
    clippy::unnecessary_wraps,
    reason = "the same signatures as with the feature"
)]

use tracing_subscriber::{Layer, Registry};

pub(super) const NO_SPANS: &str = "";

#[derive(Debug, Default)]
pub(crate) struct Traces {}

impl Traces {
    pub(crate) fn over_otlp() -> Result<Self, String> {
        Ok(Self {})
    }

    pub(super) fn layer(&self) -> Option<Box<dyn Layer<Registry> + Send + Sync>> {
        None
    }

    pub(crate) fn flush(&self) {}
}

#[derive(Clone, Debug)]
pub(crate) struct Span;

impl Span {
    pub(crate) fn none() -> Self {
        Self
    }

    pub(crate) fn current() -> Self {
        Self
    }

    pub(crate) fn request(_source_name: &str) -> Self {
        Self
    }

    pub(crate) fn claim() -> Self {
        Self
    }

    pub(crate) fn fetch() -> Self {
        Self
    }

    pub(crate) fn deposit() -> Self {
        Self
    }

    pub(crate) fn close() -> Self {
        Self
    }

    pub(crate) fn delivery(_source_name: &str) -> Self {
        Self
    }

    pub(crate) fn move_batch(_source_name: &str) -> Self {
        Self
    }

    pub(crate) fn set<V>(&self, _field: &'static str, _value: V) {}

    pub(crate) fn count<V>(&self, _field: &'static str, _count: V) {}

    pub(crate) fn failed(&self, _reason: &str) {}

    pub(crate) fn forget(&self) {}

    pub(crate) fn around<F: Future>(&self, work: F) -> F {
        work
    }

    pub(crate) fn traceparent(&self) -> Option<String> {
        None
    }

    pub(crate) fn kept_traceparent(&self) -> Option<String> {
        None
    }
}
