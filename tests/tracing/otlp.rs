//! A collector: takes spans over OTLP/HTTP, and reads the protobuf by itself, so that what the exporter sends is what the
//! standard says, not what its own types make of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// A span as it arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Span {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) trace_id: String,
    pub(crate) id: String,
    /// Empty: it has none.
    pub(crate) parent_id: String,
    pub(crate) kind: u64,
    pub(crate) started_at: u64,
    pub(crate) ended_at: u64,
    pub(crate) attributes: BTreeMap<String, Value>,
    /// The names of its events.
    pub(crate) events: Vec<String>,
    /// 2: an error.
    pub(crate) status: u64,
}

impl Span {
    pub(crate) fn attribute(&self, name: &str) -> &Value {
        self.attributes.get(name).unwrap_or(&Value::Null)
    }

    /// Of which the header says `traceparent`.
    pub(crate) fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace_id, self.id)
    }
}

/// It ends with the value.
pub(crate) struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Span>>>,
    task: AbortHandle,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let spans = Arc::new(Mutex::new(Vec::new()));
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&spans));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = async move { axum::serve(listener, router).await };
        Self { url, spans, task: tokio::spawn(serve).abort_handle() }
    }

    /// The base of its addresses, for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What arrived so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }
}

async fn take(
    State(spans): State<Arc<Mutex<Vec<Span>>>>,
    headers: HeaderMap,
    body: Bytes,
) -> &'static [u8] {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    spans.lock().unwrap().extend(read(&body));
    // An empty ExportTraceServiceResponse.
    b""
}

/// One field of a message.
enum Field<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

impl Field<'_> {
    fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Bytes(_) => panic!("not a number"),
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes().to_vec()).unwrap()
    }

    fn hex(&self) -> String {
        self.bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(_) => panic!("not bytes"),
        }
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}

/// The fields of a message, by their numbers.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let field = match key & 7 {
            0 => Field::Number(varint(&mut bytes)),
            kind => {
                let length = match kind {
                    1 => 8,
                    2 => usize::try_from(varint(&mut bytes)).unwrap(),
                    5 => 4,
                    other => panic!("no wire type {other}"),
                };
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                match value.try_into() {
                    Ok(eight) if kind == 1 => Field::Number(u64::from_le_bytes(eight)),
                    _ => Field::Bytes(value),
                }
            }
        };
        fields.push((key >> 3, field));
    }
    fields
}

/// The messages in one field.
fn all(bytes: &[u8], number: u64) -> Vec<&[u8]> {
    let of_number = fields(bytes).into_iter().filter(|(found, _)| *found == number);
    of_number
        .map(|(_, field)| match field {
            Field::Bytes(bytes) => bytes,
            Field::Number(_) => panic!("not a message"),
        })
        .collect()
}

/// The numbers are those of opentelemetry-proto's trace.proto and common.proto.
fn read(request: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_resource in all(request, 1) {
        let resource = all(of_resource, 1).into_iter().flat_map(|resource| all(resource, 1));
        let resource: BTreeMap<_, _> = resource.map(attribute).collect();
        let service = resource["service.name"].as_str().unwrap();
        for span in all(of_resource, 2).into_iter().flat_map(|of_scope| all(of_scope, 2)) {
            spans.push(Span { service: service.to_owned(), ..read_span(span) });
        }
    }
    spans
}

fn read_span(bytes: &[u8]) -> Span {
    let mut span = Span::default();
    for (number, field) in fields(bytes) {
        match number {
            1 => span.trace_id = field.hex(),
            2 => span.id = field.hex(),
            4 => span.parent_id = field.hex(),
            5 => span.name = field.text(),
            6 => span.kind = field.number(),
            7 => span.started_at = field.number(),
            8 => span.ended_at = field.number(),
            9 => span.attributes.extend([attribute(field.bytes())]),
            11 => {
                let event = fields(field.bytes());
                span.events.extend(event.iter().filter(|(n, _)| *n == 2).map(|(_, f)| f.text()));
            }
            15 => {
                let status = fields(field.bytes());
                let code = status.iter().find(|(number, _)| *number == 3);
                span.status = code.map_or(0, |(_, field)| field.number());
            }
            _ => {}
        }
    }
    span
}

fn attribute(bytes: &[u8]) -> (String, Value) {
    let fields = fields(bytes);
    let of = |wanted: u64| &fields.iter().find(|(number, _)| *number == wanted).unwrap().1;
    let value = self::fields(of(2).bytes());
    let value = match value.first() {
        Some((1, text)) => text.text().into(),
        Some((2, yes)) => (yes.number() == 1).into(),
        Some((3, number)) => json!(number.number().cast_signed()),
        _ => Value::Null,
    };
    (of(1).text(), value)
}
