//! `eventloader config`: what can be set, and what is.

use std::collections::HashMap;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Failure;
use super::output::Output;
use crate::config::shown::{self, ShownValue};
use crate::config::{Environment, LoadRequest, reference};

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Print the JSON Schema of the configuration file, for editors
    Schema(Schema),
    /// Print every value that is in effect, and where it comes from; secrets are masked
    Show(Show),
}

#[derive(Debug, Args)]
pub(super) struct Schema {
    /// Print the reference of all keys as Markdown instead
    #[arg(long)]
    markdown: bool,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// Print JSON instead of TOML
    #[arg(long)]
    json: bool,
}

/// Origins stand in this column, where the line before them is shorter.
const ORIGIN_COLUMN: usize = 40;

impl Config {
    /// Needs no database, and `schema` no configuration.
    pub(super) fn run(
        &self,
        request: &LoadRequest,
        environment: &Environment,
        output: &Output,
    ) -> Result<(), Failure> {
        match self {
            Self::Schema(Schema { markdown: true }) => {
                output.bytes(reference::markdown().as_bytes())
            }
            Self::Schema(Schema { markdown: false }) => output.json(&reference::schema()),
            Self::Show(show) => show.run(&shown::values(request, environment)?, output),
        }
    }
}

impl Show {
    fn run(&self, values: &[ShownValue], output: &Output) -> Result<(), Failure> {
        if self.json {
            let values: Vec<_> = values.iter().map(as_json).collect();
            return output.json(&values);
        }
        output.bytes(as_toml(values).as_bytes())
    }
}

#[derive(Serialize)]
struct ValueJson<'a> {
    key: String,
    value: serde_json::Value,
    /// Only of a value with references.
    #[serde(skip_serializing_if = "Option::is_none")]
    filled: Option<&'a str>,
    origin: &'a str,
}

fn as_json(value: &ShownValue) -> ValueJson<'_> {
    ValueJson {
        key: value.dotted(),
        value: value.json(),
        filled: value.filled.as_deref(),
        origin: &value.origin,
    }
}

/// A file that has the same effect, once the masked values are filled in: as they are, they are refused.
fn as_toml(values: &[ShownValue]) -> String {
    let mut tables: Vec<(&str, String)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for value in values {
        let at = *places.entry(&value.table).or_insert_with(|| {
            tables.push((&value.table, format!("[{}]\n", value.table)));
            tables.len() - 1
        });
        tables[at].1.push_str(&line(value));
    }
    let tables: Vec<String> = tables.into_iter().map(|(_, text)| text).collect();
    tables.join("\n")
}

fn line(value: &ShownValue) -> String {
    let filled = value.filled.as_ref().map(|filled| format!(", now {filled:?}"));
    let origin = format!("{}{}", value.origin, filled.unwrap_or_default());
    let key = &value.key;
    match &value.literal {
        Some(literal) => {
            let line = format!("{key} = {literal}");
            format!("{line:<ORIGIN_COLUMN$} # {origin}\n")
        }
        None => format!("{:<ORIGIN_COLUMN$} # {origin}\n", format!("# {key} =")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config as Configuration;

    const TEXT: &str = "[database]\nurl = \"${DB}\"\n[loader]\nbatch_size = \"${N:-50}\"\nmin_interval = \"6s\"\n\
        [sources.\"my \\\"shop\\\"\"]\ntype = 'http'\nurl = '${URL}'\nheaders = { A = \"${T}\" }\n\
        max_event_bytes = 2048\npayload = \"\"\"\n/a\"\"\"\non_failure = \"${F:-retry}\"\n\
        [sources.log]\nmin_interval = \"9s\"\npath = \"x\"\ntype = \"file\"\nstart_after = 0x10\n";

    fn load(text: &str, variables: &[(&str, &str)]) -> (Configuration, Vec<ShownValue>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("eventloader.toml");
        std::fs::write(&path, text).unwrap();
        let request = LoadRequest { config_flag: Some(path), database_url_flag: None };
        let environment = Environment::from_pairs(variables.iter().copied());
        let values =
            shown::values(&request, &environment).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let mut config = Configuration::load(&request, &environment).unwrap();
        config.path = None;
        (config, values)
    }

    /// Without the directory that relative paths begin at.
    fn comparable(config: &Configuration) -> String {
        let text = format!("{config:?}");
        let words = text.split_whitespace().filter(|word| !word.contains("/x\""));
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_shown_can_be_used_as_a_file() {
        let own = [("DB", "postgres://u:p@h/d"), ("URL", "https://u:hunter2@x/"), ("T", "hunter2")];
        let more = [
            ("EVENTLOADER_LOADER__CONCURRENCY", "7"),
            ("EVENTLOADER_SOURCES__LOG__MAX_EVENT_BYTES", "1MiB"),
            ("EVENTLOADER_SOURCES__LOG__MAX_PAGE_BYTES", "2097152"),
            ("EVENTLOADER_SOURCES__LOG__EVENT_TYPE", "/a\"b\\c"),
        ];
        let (config, values) = load(TEXT, &[&own[..], &more[..]].concat());
        let printed = as_toml(&values);
        assert!(!printed.contains("hunter2"), "{printed}");
        let (again, shown_again) = load(&printed, &own);
        assert_eq!(comparable(&again), comparable(&config), "{printed}");
        let literals = |values: &[ShownValue]| -> Vec<_> {
            values.iter().map(|value| (value.dotted(), value.literal.clone())).collect()
        };
        assert_eq!(literals(&shown_again), literals(&values));
    }

    #[test]
    fn every_value_says_where_it_comes_from() {
        let variables = [
            ("DB", "postgres://u:p@h/d"),
            ("URL", "https://x"),
            ("T", "t"),
            ("EVENTLOADER_SOURCES__LOG__MAX_EVENT_BYTES", "2048"),
        ];
        let (_, values) = load(TEXT, &variables);
        let printed = as_toml(&values);
        let lines: Vec<String> = printed
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .map(|line| line.replace(&path_before(&line), ""))
            .collect();
        for want in [
            "url = \"${DB}\" # eventloader.toml:2",
            "max_connections = 10 # default",
            "batch_size = \"${N:-50}\" # eventloader.toml:4, now \"50\"",
            "batch_size = \"${N:-50}\" # [loader], eventloader.toml:4",
            "max_idle = \"6s\" # default, raised to min_interval",
            "max_idle = \"9s\" # default, raised to min_interval",
            "[sources.\"my \\\"shop\\\"\"]",
            "max_event_bytes = 2048 # EVENTLOADER_SOURCES__LOG__MAX_EVENT_BYTES",
            "# message_id = # not set",
            "lease_ttl = \"2s\" # default",
        ] {
            assert!(lines.iter().any(|line| line == want), "{want} in\n{printed}");
        }
        let json: Vec<_> = values.iter().map(ShownValue::json).collect();
        assert!(json.contains(&serde_json::json!(2048)) && json.contains(&serde_json::json!("/a")));
    }

    fn path_before(line: &str) -> String {
        let word = line.split_whitespace().find(|word| word.contains("/eventloader.toml"));
        let directory = word.and_then(|word| Path::new(word).parent());
        directory.map(|directory| format!("{}/", directory.display())).unwrap_or_default()
    }
}
