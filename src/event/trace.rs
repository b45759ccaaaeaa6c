//! The trace that an event was loaded in, as a member of its metadata.

use serde_json::{Map, Value, json};

use super::JsonText;
use crate::mapping::Pointer;

/// The member, named as the header of W3C's Trace Context.
const TRACEPARENT: &str = "traceparent";

/// The trace that events are loaded in, ready to be written into many.
pub(crate) struct TraceNote {
    traceparent: Value,
    /// For an event without metadata: one text for all of them.
    alone: JsonText,
    own: [Pointer; 2],
}

impl TraceNote {
    pub(crate) fn new(traceparent: String) -> Self {
        let own = [Pointer::to_key(TRACEPARENT), headers_own()];
        let alone = JsonText::from_value(&json!({ TRACEPARENT: traceparent }));
        Self { traceparent: traceparent.into(), alone, own }
    }

    /// Adds it, unless the event brought one.
    pub(crate) fn add_to(&self, metadata: &mut Option<JsonText>) {
        let Some(text) = metadata.as_ref().map(JsonText::as_str) else {
            *metadata = Some(self.alone.clone());
            return;
        };
        if self.own.iter().any(|own| own.find(text).is_some()) {
            return;
        }
        // As text, so that the others stay exactly what they are.
        let Some(others) = text.strip_prefix('{').map(str::trim_ascii_start) else { return };
        let comma = if others == "}" { "" } else { "," };
        let joined = format!("{{\"{TRACEPARENT}\":{}{comma}{others}", self.traceparent);
        if let Ok(joined) = JsonText::parse(joined) {
            *metadata = Some(joined);
        }
    }

    /// Adds it to a message, unless the message brought one, here or in its headers.
    pub(crate) fn add_to_message(&self, metadata: &mut Map<String, Value>) {
        let brought = |map: &Map<String, Value>| {
            map.keys().any(|name| name.eq_ignore_ascii_case(TRACEPARENT))
        };
        let headers = metadata.get("headers").and_then(Value::as_object);
        if !brought(metadata) && !headers.is_some_and(brought) {
            metadata.insert(TRACEPARENT.to_owned(), self.traceparent.clone());
        }
    }
}

fn headers_own() -> Pointer {
    "/headers/traceparent".parse().expect("it is a pointer")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(metadata: Option<&str>) -> String {
        let mut metadata = metadata.map(|text| JsonText::parse(text.to_owned()).unwrap());
        TraceNote::new("00-a-b-01".to_owned()).add_to(&mut metadata);
        metadata.unwrap().to_string()
    }

    #[test]
    fn a_trace_is_noted_beside_what_is_there() {
        let own = r#""traceparent":"00-a-b-01""#;
        assert_eq!(noted(None), format!("{{{own}}}"));
        assert_eq!(noted(Some("{ }")), format!("{{{own}}}"));
        assert_eq!(noted(Some(r#"{"n": 1.00}"#)), format!("{{{own},\"n\": 1.00}}"));
    }

    #[test]
    fn a_trace_that_was_brought_stays() {
        for text in [
            r#"{"traceparent":"00-x-y-00"}"#,
            r#"{"headers":{"traceparent":"00-x-y-00"}}"#,
            r#"{"headers":{"Traceparent":"00-x-y-00"}}"#,
        ] {
            let mut metadata: Map<String, Value> = serde_json::from_str(text).unwrap();
            TraceNote::new("00-a-b-01".to_owned()).add_to_message(&mut metadata);
            assert_eq!(Value::Object(metadata).to_string(), text);
        }
        for text in [r#"{"traceparent":null}"#, r#"{"headers":{"traceparent":"00-x-y-00"}}"#] {
            assert_eq!(noted(Some(text)), text);
        }
        let mut metadata: Map<String, Value> =
            serde_json::from_str(r#"{"headers":{"a":1}}"#).unwrap();
        TraceNote::new("00-a-b-01".to_owned()).add_to_message(&mut metadata);
        assert_eq!(metadata["traceparent"], "00-a-b-01");
    }
}
