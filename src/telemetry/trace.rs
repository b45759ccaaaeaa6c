//! Traces over OTLP: a span for each request cycle, each delivery of a queue and each batch that is moved.
//!
//! `src/telemetry/untraced.rs` has the same names, and nothing in them, for builds without the feature `otel`.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry::{Key, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing::field::Empty;
use tracing::info_span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::{Layer, Registry};

/// What our spans are filtered by: the exporter's layer wants them, and log lines never show them.
const TARGET: &str = "eventloader::trace";

/// Keeps spans out of the log lines.
pub(super) const NO_SPANS: &str = "eventloader::trace=off,";

/// How long the last spans may take to be sent. What drains at a stop has 8 s of the 10 s that Docker waits.
const FLUSH_WITHIN: Duration = Duration::from_millis(1500);

/// Marks a span of which nobody wants to hear: a look that found nothing to do.
const UNEXPORTED: Key = Key::from_static_str("unexported");

/// Where spans go; nowhere by default.
#[derive(Debug, Default)]
pub(crate) struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Begins to export, to where the variables `OTEL_…` of the environment say.
    ///
    /// # Errors
    ///
    /// One of these variables makes no sense.
    pub(crate) fn over_otlp() -> Result<Self, String> {
        let inner = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .build()
            .map_err(|error| format!("spans cannot be exported: {error}; see docs/tracing.md"))?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Exporter { inner, failures: AtomicU64::new(0) })
            .with_resource(resource())
            .build();
        Ok(Self(Some(provider)))
    }

    /// What hands spans to the exporter, and with them the log lines that are written while one is open.
    pub(super) fn layer(&self) -> Option<Box<dyn Layer<Registry> + Send + Sync>> {
        let tracer = self.0.as_ref()?.tracer("eventloader");
        let layer = tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_context_activation(false)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false);
        // Ours only: those of the HTTP client that exports would make spans of their own without end.
        let filter = Targets::new().with_target("eventloader", LevelFilter::INFO);
        Some(layer.with_filter(filter).boxed())
    }

    /// Sends what was not sent yet; gives up soon.
    pub(crate) fn flush(&self) {
        if let Some(provider) = &self.0
            && let Err(error) = provider.shutdown_with_timeout(FLUSH_WITHIN)
        {
            tracing::warn!(error = %error, "the last spans were not exported");
        }
    }
}

/// Who we are, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` say it.
fn resource() -> Resource {
    let name = Key::from_static_str("service.name");
    let found = Resource::builder().build();
    let is_named =
        found.get(&name).is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let builder = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if is_named { builder.build() } else { builder.with_service_name("eventloader").build() }
}

/// The exporter of the SDK, that leaves out what nobody wants, and says once when it begins to fail.
#[derive(Debug)]
struct Exporter {
    inner: opentelemetry_otlp::SpanExporter,
    /// In a row.
    failures: AtomicU64,
}

impl SpanExporter for Exporter {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        batch.retain(|span| span.attributes.iter().all(|attribute| attribute.key != UNEXPORTED));
        if batch.is_empty() {
            return Ok(());
        }
        let span_count = batch.len();
        let outcome = self.inner.export(batch).await;
        match &outcome {
            Ok(()) => {
                if self.failures.swap(0, Ordering::Relaxed) > 0 {
                    tracing::info!("spans are exported again");
                }
            }
            Err(error) => {
                if self.failures.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!(
                        error = %error,
                        span_count,
                        "spans cannot be exported, and are lost until they can; loading goes on"
                    );
                }
            }
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// A piece of work that a trace shows, as a child of the one around it.
#[derive(Clone, Debug)]
pub(crate) struct Span(tracing::Span);

impl Span {
    /// Nothing.
    pub(crate) fn none() -> Self {
        Self(tracing::Span::none())
    }

    /// The one around the caller.
    pub(crate) fn current() -> Self {
        Self(tracing::Span::current())
    }

    /// A cycle: one request of a source, from the claim to its end.
    pub(crate) fn request(source_name: &str) -> Self {
        Self(info_span!(
            target: TARGET,
            parent: None,
            "request",
            source_name,
            request_id = Empty,
            after_id = Empty,
            outcome = Empty,
            event_count = Empty,
            refused_count = Empty,
            unexported = Empty,
            otel.status_code = Empty,
            otel.status_description = Empty,
        ))
    }

    /// The claim of a window.
    pub(crate) fn claim() -> Self {
        Self(info_span!(target: TARGET, "claim", outcome = Empty, unexported = Empty))
    }

    /// The request to the source.
    pub(crate) fn fetch() -> Self {
        Self(info_span!(
            target: TARGET,
            "fetch",
            otel.kind = "client",
            outcome = Empty,
            otel.status_code = Empty,
            otel.status_description = Empty,
        ))
    }

    /// A page on its way to the inbox.
    pub(crate) fn deposit() -> Self {
        Self(info_span!(
            target: TARGET,
            "deposit",
            outcome = Empty,
            otel.status_code = Empty,
            otel.status_description = Empty,
        ))
    }

    /// The end of a request without a page.
    pub(crate) fn close() -> Self {
        Self(info_span!(
            target: TARGET,
            "close",
            otel.status_code = Empty,
            otel.status_description = Empty,
        ))
    }

    /// What a broker delivered, from there to its acknowledgement.
    pub(crate) fn delivery(source_name: &str) -> Self {
        Self(info_span!(
            target: TARGET,
            parent: None,
            "delivery",
            otel.kind = "consumer",
            source_name,
            event_count = Empty,
            duplicate_count = Empty,
            refused_count = Empty,
            conflict_count = Empty,
            outcome = Empty,
            otel.status_code = Empty,
            otel.status_description = Empty,
        ))
    }

    /// A batch on its way from the inbox to `events`.
    pub(crate) fn move_batch(source_name: &str) -> Self {
        Self(info_span!(
            target: TARGET,
            parent: None,
            "move_batch",
            source_name,
            event_count = Empty,
            duplicate_count = Empty,
            conflict_count = Empty,
            outcome = Empty,
            unexported = Empty,
            otel.status_code = Empty,
            otel.status_description = Empty,
        ))
    }

    /// Says something of it, once: a field that its constructor names.
    pub(crate) fn set(&self, field: &'static str, value: impl tracing::Value) {
        self.0.record(field, value);
    }

    /// How many, once. A number of its own type would be exported as text.
    pub(crate) fn count(&self, field: &'static str, count: impl TryInto<i64>) {
        self.0.record(field, count.try_into().unwrap_or(i64::MAX));
    }

    /// It went wrong.
    pub(crate) fn failed(&self, reason: &str) {
        self.0.record("otel.status_code", "ERROR");
        self.0.record("otel.status_description", reason);
    }

    /// It is not worth being told.
    pub(crate) fn forget(&self) {
        self.0.record("unexported", true);
    }

    /// The work, with the span around it.
    pub(crate) fn around<F: Future>(&self, work: F) -> impl Future<Output = F::Output> {
        tracing::Instrument::instrument(work, self.0.clone())
    }

    /// For those whom we ask: W3C's `traceparent`. `None`: nothing is traced.
    pub(crate) fn traceparent(&self) -> Option<String> {
        self.header(|_| true)
    }

    /// For those who read what came of it: only where the trace is kept.
    pub(crate) fn kept_traceparent(&self) -> Option<String> {
        self.header(opentelemetry::trace::SpanContext::is_sampled)
    }

    fn header(&self, counts: fn(&opentelemetry::trace::SpanContext) -> bool) -> Option<String> {
        if self.0.is_disabled() {
            return None;
        }
        let context = self.0.context();
        let span = context.span();
        let span = span.span_context();
        (span.is_valid() && counts(span)).then(|| {
            let flags = span.trace_flags().to_u8();
            format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id())
        })
    }
}
