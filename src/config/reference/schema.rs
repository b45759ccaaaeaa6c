//! The JSON Schema of the file, for editors and for checks before eventloader itself sees the file.
//!
//! It lets everything pass that [`Config::load`](crate::config::Config::load) accepts of a file that is complete
//! without the environment, and refuses what can be told from the file alone: unknown keys, wrong types, numbers out of
//! range. What it cannot tell (a duration out of range, whether a variable is set), `eventloader check` does.

use serde_json::{Map, Value, json};

use super::{Default, Described, Section, sections};
use crate::config::shape::Shape;

/// The name of the schema; stays the same as long as files stay valid.
const ID: &str = "urn:eventloader:configuration:1";
/// A string that is filled from the environment, and so could be anything.
const REFERENCE: &str = r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}";
const DURATION: &str = r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$";
const SIZE: &str = r"^[0-9]+(\.[0-9]+)?([Bb]|[KkMmGg][Ii]?[Bb])?$";

/// The schema, draft 2020-12.
pub(crate) fn schema() -> Value {
    let sections = sections();
    let mut properties = Map::new();
    for section in sections.iter().filter(|section| !section.place.contains('.')) {
        let value = match section.place.as_str() {
            "sources" => sources(section, &sections),
            _ => table(section, &sections),
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

/// The tables of sources: one of the types each, or a type that is named by the environment.
fn sources(section: &Section, sections: &[Section]) -> Value {
    let types = sections.iter().filter(|other| {
        other.place.strip_prefix("sources.").is_some_and(|kind| !kind.contains('.'))
    });
    let mut branches: Vec<Value> = types.map(|kind| table(kind, sections)).collect();
    branches.push(json!({
        "title": "a source whose type is named by the environment",
        "type": "object",
        "properties": { "type": { "type": "string", "pattern": REFERENCE } },
        "required": ["type"],
    }));
    json!({
        "description": section.words,
        "type": "object",
        "propertyNames": { "minLength": 1, "maxLength": 190 },
        "additionalProperties": { "oneOf": branches },
    })
}

fn table(section: &Section, sections: &[Section]) -> Value {
    let mut properties = Map::new();
    let mut schema = Map::new();
    schema.insert("description".to_owned(), json!(section.words));
    schema.insert("type".to_owned(), json!("object"));
    let mut others = json!(false);
    for key in &section.keys {
        let inner = format!("{}.{}", section.place, key.name);
        let value = match sections.iter().find(|section| section.place == inner) {
            Some(inner) => Value::Object(with_words(key, inner_table(inner, sections))),
            None if key.name == "type" => Value::Object(with_words(key, kind(section))),
            None => Value::Object(with_words(key, values(&key.shape))),
        };
        if key.name == crate::config::recording::ANY_KEY {
            others = value;
        } else {
            properties.insert(key.name.clone(), value);
        }
    }
    let required: Vec<&str> =
        section.keys.iter().filter(|key| key.required).map(|key| key.name.as_str()).collect();
    schema.insert("properties".to_owned(), Value::Object(properties));
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    schema.insert("additionalProperties".to_owned(), others);
    Value::Object(schema)
}

fn inner_table(section: &Section, sections: &[Section]) -> Map<String, Value> {
    match table(section, sections) {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

fn kind(section: &Section) -> Map<String, Value> {
    let name = section.place.rsplit('.').next().unwrap_or_default();
    Map::from_iter([("const".to_owned(), json!(name))])
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
        Shape::Table => json!({ "type": "object" }),
    };
    match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

fn integer(low: &str, high: &str) -> Value {
    let bound = |text: &str| text.parse::<i64>().map_or(Value::Null, Value::from);
    json!({ "type": "integer", "minimum": bound(low), "maximum": bound(high) })
}
