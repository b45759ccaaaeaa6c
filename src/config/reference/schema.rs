//! The JSON Schema of the file, for editors and for checks before eventloader itself sees the file.
//!
//! It lets everything pass that [`Config::load`](crate::config::Config::load) accepts of a file that is complete
//! without the environment, and refuses what can be told from the file alone: unknown keys, wrong types, numbers out of
//! range. What it cannot tell (a duration out of range, whether a variable is set), `eventloader check` does.

use serde_json::{Map, Value, json};

use super::{Default, Described, Section, sections};
use crate::config::recording::ANY_KEY;
use crate::config::shape::Shape;

/// The name of the schema; stays the same as long as files stay valid.
const ID: &str = "urn:eventloader:configuration:1";
/// A string that is filled from the environment, and so could be anything.
const REFERENCE: &str = r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}";
const DURATION: &str = r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$";
const SIZE: &str = r"^[0-9]+(\.[0-9]+)?([Bb]|[KkMmGg][Ii]?[Bb])?$";

/// The schema, draft 2020-12.
pub(crate) fn schema() -> Value {
    schema_of(&sections())
}

pub(super) fn schema_of(sections: &[Section]) -> Value {
    let mut properties = Map::new();
    for section in sections.iter().filter(|section| !section.place.contains('.')) {
        let value = match section.place.as_str() {
            "sources" => sources(section, sections),
            _ => table(section, sections),
        };
        properties.insert(section.place.clone(), value);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        "title": "eventloader.toml",
        "description": "The configuration of eventloader.",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}

/// The tables of sources.
fn sources(section: &Section, sections: &[Section]) -> Value {
    json!({
        "description": section.words,
        "type": "object",
        "propertyNames": { "minLength": 1, "maxLength": 190 },
        "additionalProperties": inner(&section.place, sections),
    })
}

/// A table by its place: as one of its kinds each, where it has any.
fn inner(place: &str, sections: &[Section]) -> Map<String, Value> {
    let is_below = |section: &&Section| {
        section.place.rsplit_once('.').is_some_and(|(above, _)| above == place)
            && section.kind(sections).is_some()
    };
    let mut kinds: Vec<Value> =
        sections.iter().filter(is_below).map(|kind| table(kind, sections)).collect();
    let schema = if kinds.is_empty() {
        let section = sections.iter().find(|section| section.place == place);
        section.map_or_else(|| json!({ "type": "object" }), |section| table(section, sections))
    } else {
        kinds.push(json!({
            "title": "a type that is named by the environment",
            "type": "object",
            "properties": { "type": { "type": "string", "pattern": REFERENCE } },
            "required": ["type"],
        }));
        json!({ "oneOf": kinds })
    };
    as_object(schema)
}

fn table(section: &Section, sections: &[Section]) -> Value {
    let kind = section.kind(sections);
    let mut properties = Map::new();
    let mut others = json!(false);
    for key in &section.keys {
        let value = match (&key.shape, kind) {
            (Shape::Table, _) => inner(&format!("{}.{}", section.place, key.name), sections),
            (_, Some(kind)) if key.name == "type" => as_object(json!({ "const": kind })),
            (shape, _) => values(shape),
        };
        let value = Value::Object(with_words(key, value));
        if key.name == ANY_KEY {
            others = value;
        } else {
            properties.insert(key.name.clone(), value);
        }
    }
    let required = section.keys.iter().filter(|key| key.required);
    let required: Vec<&str> = required.map(|key| key.name.as_str()).collect();
    json!({
        "description": section.words,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": others,
    })
}

fn as_object(schema: Value) -> Map<String, Value> {
    match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

/// Meaning, default and example of a key.
fn with_words(key: &Described, mut schema: Map<String, Value>) -> Map<String, Value> {
    schema.insert("description".to_owned(), json!(key.key.words));
    if let Default::Is(literal) = key.key.default {
        schema.insert("default".to_owned(), parse(literal));
    }
    if let Some(example) = key.key.example {
        schema.insert("examples".to_owned(), json!([parse(example)]));
    }
    schema
}

/// A value of the file as JSON.
fn parse(literal: &str) -> Value {
    let table: Option<Map<String, Value>> = toml::from_str(&format!("v = {literal}")).ok();
    table.and_then(|mut table| table.remove("v")).unwrap_or_default()
}

/// What a key takes. Strings may hold references in place of what they should hold.
fn values(shape: &Shape) -> Map<String, Value> {
    let text =
        |pattern: &str| json!({ "type": "string", "pattern": format!("{pattern}|{REFERENCE}") });
    let reference = || json!({ "type": "string", "pattern": REFERENCE });
    let schema = match shape {
        Shape::Text(None) => json!({ "type": "string" }),
        Shape::Text(Some(form)) => text(form.pattern),
        Shape::Integer { low, high } => {
            json!({ "anyOf": [integer(low, high), reference()] })
        }
        Shape::Duration { .. } => text(DURATION),
        Shape::Size { bytes: (low, high), .. } => {
            json!({ "anyOf": [integer(&low.to_string(), &high.to_string()), text(SIZE)] })
        }
        Shape::Word(words) => json!({ "anyOf": [{ "enum": words }, reference()] }),
        Shape::Boolean => json!({ "anyOf": [{ "type": "boolean" }, reference()] }),
        Shape::List => json!({ "type": "array", "items": { "type": "string" } }),
        Shape::Table => json!({ "type": "object" }),
    };
    as_object(schema)
}

fn integer(low: &str, high: &str) -> Value {
    let bound = |text: &str| text.parse::<i64>().map_or(Value::Null, Value::from);
    json!({ "type": "integer", "minimum": bound(low), "maximum": bound(high) })
}
