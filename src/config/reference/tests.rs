use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use serde_json::json;

use super::*;
use crate::config::recording::Purpose;
use crate::config::{ConfigError, Environment};

static VALIDATOR: LazyLock<jsonschema::Validator> =
    LazyLock::new(|| jsonschema::validator_for(&schema()).unwrap());

/// What the schema has against a file that TOML accepts.
pub(in crate::config) fn refusals(text: &str) -> Vec<String> {
    let file: toml::Table = toml::from_str(text).unwrap();
    let file = serde_json::to_value(file).unwrap();
    VALIDATOR.iter_errors(&file).map(|error| error.to_string()).collect()
}

fn load(text: &str) -> Result<Config, ConfigError> {
    let environment = Environment::from_pairs([
        ("DATABASE_URL", "postgres://u:p@h/d"),
        ("STORAGE_URL", "postgres://u:p@h/e"),
        ("BILLING_DATABASE_URL", "postgres://u:p@h/billing"),
        ("SHOP_TOKEN", "t"),
        ("ADMIN_TOKEN", "0123456789abcdef"),
        ("LEGACY_TOKEN", "t"),
    ]);
    let path = Path::new("eventloader.toml");
    Config::parse(path, text, None, &environment, Purpose::Load).map(|(config, _)| config)
}

/// `[loader]`, or a source of a type with all that is required.
fn header(section: &Section) -> String {
    match section.place.split_once('.') {
        None => format!("[{}]\n", section.place),
        Some((_, kind)) => {
            let required = section.keys.iter().filter(|key| key.required && key.name != "type");
            let lines = required.map(|key| {
                let example = key.key.example.expect("a required key has an example");
                format!("{} = {example}\n", key.name)
            });
            // One of `table` and `query` is.
            let more = match kind {
                "sql" => "table = \"events\"\n",
                // What else is said of the queue needs it.
                "amqp" => "declare = true\n",
                _ => "",
            };
            format!("[sources.a]\ntype = \"{kind}\"\n{more}{}", lines.collect::<String>())
        }
    }
}

#[test]
fn every_key_that_is_read_has_its_words_and_every_row_is_read() {
    let mut used: BTreeSet<(&str, &str)> = BTreeSet::new();
    let sections = sections();
    for section in &sections {
        let is_inner = section.place.split('.').count() > 2;
        assert!(
            is_inner || !section.words.is_empty(),
            "add a row for {} to SECTIONS of src/config/reference/keys.rs",
            section.place
        );
        for Described { name, key, .. } in &section.keys {
            let place = &section.place;
            assert!(
                !key.words.is_empty(),
                "{name} of [{place}] is read: add its row to KEYS of src/config/reference/keys.rs"
            );
            assert!(key.words.ends_with('.'), "{place}.{name}: a sentence ends in a full stop");
            used.insert((key.place, key.name));
        }
    }
    for key in KEYS {
        let row = (key.place, key.name);
        assert!(used.contains(&row), "{row:?} is described, but nothing reads it");
        let count = KEYS.iter().filter(|other| (other.place, other.name) == row).count();
        assert_eq!(count, 1, "{row:?} is described twice");
    }
    for (place, _) in SECTIONS {
        assert!(
            *place == "sources" || sections.iter().any(|section| section.place == *place),
            "[{place}] is described, but nothing reads it"
        );
    }
}

#[test]
fn the_default_that_is_described_is_the_one_that_is_taken() {
    for section in sections().iter().filter(|section| section.place.split('.').count() <= 2) {
        let without = format!("{:?}", load(&header(section)).unwrap());
        for Described { name, key, required, .. } in &section.keys {
            let Default::Is(literal) = key.default else { continue };
            assert!(!required, "{name} of [{}] has a default and is required", section.place);
            let text = format!("{}{name} = {literal}\n", header(section));
            let with = format!("{:?}", load(&text).unwrap_or_else(|error| panic!("{error}")));
            assert_eq!(with, without, "{name} = {literal} in [{}]", section.place);
        }
    }
}

#[test]
fn what_is_inherited_is_inherited() {
    let above: Vec<Section> = sections();
    for section in above.iter().filter(|section| section.place.starts_with("sources.")) {
        for Described { name, key, shape, .. } in &section.keys {
            let Default::Of(from) = key.default else { continue };
            let other = match shape {
                Shape::Integer { low, .. } => low.clone(),
                Shape::Duration { high, .. } => format!("{high:?}"),
                Shape::List => "[\"*.example.com\"]".to_owned(),
                _ => panic!("say here what another value of {name} is"),
            };
            let above = format!("[{from}]\nmax_idle = \"24h\"\n{name} = {other}\n");
            let above = above.replace("max_idle = \"24h\"\nmax_idle", "max_idle");
            let source = |config: Config| format!("{:?}", config.sources[0]);
            let inherited = source(load(&format!("{above}{}", header(section))).unwrap());
            let plain = source(load(&header(section)).unwrap());
            let own = format!("{}max_idle = \"24h\"\n{name} = {other}\n", header(section));
            let own = own.replace("max_idle = \"24h\"\nmax_idle", "max_idle");
            assert_eq!(inherited, source(load(&own).unwrap()), "{name}");
            assert_ne!(inherited, plain, "{name}");
        }
    }
}

#[test]
fn the_schema_is_a_schema_and_knows_every_example() {
    jsonschema::meta::validate(&schema()).unwrap();
    for section in sections().iter().filter(|section| section.place.split('.').count() <= 2) {
        for Described { name, key, required, .. } in &section.keys {
            let literals = [
                key.example,
                match key.default {
                    Default::Is(literal) => Some(literal),
                    _ => None,
                },
            ];
            // The header of a sql source has its table already.
            let is_new = !required && !header(section).contains(&format!("\n{name} = "));
            for literal in literals.into_iter().flatten().filter(|_| is_new) {
                let text = format!("{}{name} = {literal}\n", header(section));
                assert_eq!(refusals(&text), Vec::<String>::new(), "{text}");
                load(&text).unwrap_or_else(|error| panic!("{text}\n{error}"));
            }
        }
    }
}

#[test]
fn the_schema_says_what_editors_show() {
    let schema = schema();
    let batch_size = &schema["properties"]["loader"]["properties"]["batch_size"];
    assert_eq!(batch_size["default"], json!(1000));
    assert_eq!(batch_size["description"], json!("The most events one request asks for."));
    assert_eq!(batch_size["anyOf"][0], json!({"type": "integer", "minimum": 1, "maximum": 1000}));
    let types =
        schema["properties"]["sources"]["additionalProperties"]["oneOf"].as_array().unwrap();
    let http = types.iter().find(|kind| kind["properties"]["type"]["const"] == "http").unwrap();
    assert_eq!(http["required"], json!(["type", "url"]));
    assert_eq!(http["additionalProperties"], json!(false));
    assert_eq!(http["properties"]["headers"]["additionalProperties"]["type"], json!("string"));
    assert_eq!(http["properties"]["on_failure"]["anyOf"][0], json!({"enum": ["hold", "retry"]}));
    assert_eq!(schema["additionalProperties"], json!(false));
    assert!(schema["$id"].is_string(), "editors remember schemas by their name");
}

#[test]
fn a_table_of_several_kinds_is_one_of_them() {
    let key = |name: &str, shape: Shape, required| Described {
        name: name.to_owned(),
        key: &UNDESCRIBED,
        shape,
        required,
    };
    let text = || Shape::Text(None);
    let section =
        |place: &str, keys: Vec<Described>| Section { place: place.to_owned(), words: "", keys };
    let sections = [
        section("sources", vec![]),
        section("sources.http", vec![key("type", text(), true), key("auth", Shape::Table, false)]),
        section(
            "sources.http.auth.bearer",
            vec![key("type", text(), true), key("token", text(), true)],
        ),
        section(
            "sources.http.auth.basic",
            vec![key("type", text(), true), key("user", text(), false)],
        ),
    ];
    let schema = jsonschema::validator_for(&schema::schema_of(&sections)).unwrap();
    for (auth, want) in [
        (json!({"type": "bearer", "token": "t"}), true),
        (json!({"type": "basic"}), true),
        (json!({"type": "${AUTH}", "token": "t"}), true),
        (json!({"type": "bearer"}), false),
        (json!({"type": "basic", "token": "t"}), false),
        (json!({"token": "t"}), false),
        (json!("bearer"), false),
    ] {
        let file = json!({"sources": {"a": {"type": "http", "auth": auth}}});
        assert_eq!(schema.is_valid(&file), want, "{file}");
    }
}

#[test]
fn the_schema_lets_references_stand_for_anything() {
    for text in [
        "[loader]\nbatch_size = \"${N}\"\nmax_idle = \"${N:-5}s\"\nconcurrency = \"${N:-64}\"",
        "[sources.a]\ntype = \"${TYPE}\"\nwhatever = 1",
        "[sources.a]\ntype = \"http\"\nurl = \"${URL}\"\nmax_event_bytes = \"${N}\"\non_failure = \"${F}\"",
        "[admin]\nlisten = \"${HOST:-127.0.0.1}:8080\"\n[database]\nurl = \"${URL}\"",
    ] {
        assert_eq!(refusals(text), Vec::<String>::new(), "{text}");
    }
    for text in [
        "[loader]\nbatch_size = \"7\"",
        "[loader]\nbatch_size = \"$N\"",
        "[loader]\nmax_idle = \"${}\"",
        "[sources.a]\ntype = \"htpp\"\nurl = \"https://x\"",
    ] {
        assert_ne!(refusals(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn the_starting_file_is_good_as_it_is_and_with_everything_uncommented() {
    let text = starting_file();
    let config = load(&text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.sources.len(), 1, "run has something to do");
    assert_eq!(refusals(&text), Vec::<String>::new());
    let is_code = |line: &str| {
        let key = line.split(" =").next().unwrap_or_default();
        line.starts_with('[') || line.contains(" = ") && !key.contains(' ')
    };
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|line| is_code(line)).unwrap_or(line))
        .collect();
    let uncommented = uncommented.join("\n");
    assert_eq!(refusals(&uncommented), Vec::<String>::new());
    let config = load(&uncommented).unwrap_or_else(|error| panic!("{error}\n{uncommented}"));
    let types: BTreeSet<&str> =
        config.sources.iter().map(|source| source.kind.type_name()).collect();
    assert_eq!(config.sources.len(), types.len() + 1, "one of every type, and the first");
    for section in sections() {
        let kind = section.place.strip_prefix("sources.");
        assert!(kind.is_none_or(|kind| kind.contains('.') || types.contains(kind)), "{kind:?}");
    }
}

#[test]
fn the_written_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == markdown(), "docs/configuration.md is out of date: run `make docs`");
}

#[test]
fn every_example_of_the_repository_is_good() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut examples: Vec<(String, String)> = Vec::new();
    for entry in std::fs::read_dir(root.join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            let text = std::fs::read_to_string(&path).unwrap();
            examples.push((path.display().to_string(), text));
        }
    }
    let pages = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    for path in pages.chain([root.join("README.md")]) {
        if path.extension().is_none_or(|ending| ending != "md") {
            continue;
        }
        let (document, text) = (path.display(), std::fs::read_to_string(&path).unwrap());
        for block in text.split("\n```toml\n").skip(1) {
            let block = block.split("\n```").next().unwrap_or_default();
            examples.push((document.to_string(), block.to_owned()));
        }
    }
    assert!(examples.len() >= 10, "the examples were not found");
    for (place, text) in examples {
        assert_eq!(refusals(&text), Vec::<String>::new(), "{place}:\n{text}");
        load(&text).unwrap_or_else(|error| panic!("{place}: {error}"));
    }
}
