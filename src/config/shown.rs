//! Every value that is in effect, with its origin: what `eventloader config show` prints.

use std::collections::HashMap;
use std::ops::Range;

use toml::de::DeValue;

use super::document::Document;
use super::environment::Environment;
use super::error::{ConfigError, Place};
use super::reader::dotted;
use super::recording::{Purpose, Record, Stated, StatedBy};
use super::reference::{Default, Key};
use super::setting::{Raw, Setting};
use super::shape::Shape;
use super::{Config, LoadRequest, interpolate, masking};

/// Stands for what may be secret.
pub(super) const MASK: &str = "***";

/// One key and what it comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShownValue {
    /// The table it stands in, as the file writes it: `sources.orders`.
    pub(crate) table: String,
    pub(crate) key: String,
    /// As it would stand in the file, secrets masked; none where it is not set and has no default.
    pub(crate) literal: Option<String>,
    /// What it comes to where references in it are filled, and none of them may hold a secret.
    pub(crate) filled: Option<String>,
    pub(crate) origin: String,
}

impl ShownValue {
    /// Its name in messages: `sources.orders.timeout`.
    pub(crate) fn dotted(&self) -> String {
        format!("{}.{}", self.table, self.key)
    }

    /// The value as JSON; null where there is none.
    pub(crate) fn json(&self) -> serde_json::Value {
        let Some(literal) = &self.literal else { return serde_json::Value::Null };
        let parsed =
            toml::from_str::<HashMap<String, serde_json::Value>>(&format!("v = {literal}"));
        parsed.ok().and_then(|mut table| table.remove("v")).unwrap_or_default()
    }
}

/// Finds, reads and checks the configuration, and says what every key comes to, in the order of the sections.
///
/// # Errors
/// Those of [`Config::load`].
pub(crate) fn values(
    request: &LoadRequest,
    environment: &Environment,
) -> Result<Vec<ShownValue>, ConfigError> {
    let (config, records) = Config::load_recording(request, environment, Purpose::Show)?;
    Ok(of_records(&config, &records))
}

pub(super) fn of_records(config: &Config, records: &[Record]) -> Vec<ShownValue> {
    let by_path: HashMap<&[String], &Record> =
        records.iter().map(|record| (record.path.as_slice(), record)).collect();
    let kinds: HashMap<&str, &str> = config
        .sources
        .iter()
        .map(|source| (source.name.as_str(), source.kind.type_name()))
        .collect();
    records
        .iter()
        .filter(|record| record.shape != Some(Shape::Table))
        .filter_map(|record| {
            let (key, table) = record.path.split_last()?;
            let (literal, origin) = match &record.stated {
                Some(stated) => (Some(stated.literal.clone()), origin(stated)),
                None => left_out(&record.path, &kinds, &by_path),
            };
            Some(ShownValue {
                table: dotted(table),
                key: dotted(std::slice::from_ref(key)),
                literal,
                filled: record.stated.as_ref().and_then(|stated| stated.filled.clone()),
                origin,
            })
        })
        .collect()
}

/// What a key comes to that was not set.
fn left_out(
    path: &[String],
    kinds: &HashMap<&str, &str>,
    by_path: &HashMap<&[String], &Record>,
) -> (Option<String>, String) {
    let (place, name) = match path {
        [section, key] => (section.clone(), key),
        [section, source, inner @ .., key] => {
            let kind = kinds.get(source.as_str()).copied().unwrap_or_default();
            let inner = inner.iter().map(String::as_str);
            let parts: Vec<&str> = [section, kind].into_iter().chain(inner).collect();
            (parts.join("."), key)
        }
        _ => return (None, "not set".to_owned()),
    };
    match Key::find_below(&place, name).map_or(Default::None, Key::default) {
        Default::Is(literal) => (Some(literal.to_owned()), "default".to_owned()),
        Default::None => (None, "not set".to_owned()),
        Default::Of(section) => {
            let above = [section.to_owned(), name.clone()];
            match by_path.get(&above[..]).and_then(|record| record.stated.as_ref()) {
                Some(stated) => {
                    (Some(stated.literal.clone()), format!("[{section}], {}", origin(stated)))
                }
                None => left_out(&above, kinds, by_path),
            }
        }
    }
}

fn origin(stated: &Stated) -> String {
    match &stated.origin {
        StatedBy::Given(Place::Position { path, line, .. }) => {
            format!("{}:{line}", path.display()).replace(char::is_control, " ")
        }
        StatedBy::Given(Place::Variable(name)) => name.clone(),
        StatedBy::Given(place) => place.to_string(),
        StatedBy::Rule(reason) => (*reason).to_owned(),
    }
}

/// A value of the file as it stands there, what may be secret masked.
pub(super) fn literal_in_file(
    document: &Document<'_>,
    span: &Range<usize>,
    setting: &Setting<'_>,
) -> String {
    let raw = document.text.get(span.clone()).unwrap_or_default();
    if setting.harmless {
        return raw.to_owned();
    }
    let Raw::File(DeValue::String(_)) = setting.raw else { return format!("{MASK:?}") };
    let mut literal = raw.to_owned();
    let mut masks = masking::masks_of_value(raw);
    masks.sort_by_key(|mask| std::cmp::Reverse(mask.start));
    for mask in masks {
        literal.replace_range(mask, MASK);
    }
    literal
}

/// What a value with references comes to, where it may be shown.
pub(super) fn filled(setting: &Setting<'_>) -> Option<String> {
    let Raw::File(DeValue::String(text)) = setting.raw else { return None };
    let filled = interpolate::fill(text, setting.environment).ok()?;
    let is_secret = filled.variables.iter().any(|name| masking::is_secret_variable(name));
    let may_be_shown = setting.harmless && !is_secret && !filled.variables.is_empty();
    may_be_shown.then_some(filled.text)
}

/// A value from outside the file as it would stand there, what may be secret masked.
pub(super) fn literal_given(text: &str, harmless: bool, shape: Option<&Shape>) -> String {
    if !harmless {
        return format!("{MASK:?}");
    }
    let is_number = match shape {
        Some(Shape::Integer { .. } | Shape::Boolean) => true,
        Some(Shape::Size { .. }) => text.chars().all(|c| c.is_ascii_digit()),
        _ => false,
    };
    if is_number { text.trim().to_owned() } else { toml::Value::from(text).to_string() }
}
