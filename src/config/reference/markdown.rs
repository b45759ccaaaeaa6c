//! `docs/configuration.md`: the reference of all keys, after a few pages of text that stand in `reference/preface.md`.

use super::{Default, Described, Section, sections};
use crate::config::recording::ANY_KEY;

/// The whole document.
pub(crate) fn markdown() -> String {
    let mut text = include_str!("preface.md").to_owned();
    let sections = sections();
    for section in sections.iter().filter(|section| is_documented(section)) {
        text.push_str(&describe(section, section.kind(&sections)));
    }
    text
}

/// Tables whose keys are free have nothing to list: the key that they are says it.
fn is_documented(section: &Section) -> bool {
    section.keys.iter().all(|key| key.name != ANY_KEY)
}

fn describe(section: &Section, kind: Option<&str>) -> String {
    let heading = match (section.place.split('.').collect::<Vec<_>>().as_slice(), kind) {
        (["sources"], _) => "### `[sources.NAME]`".to_owned(),
        ([section], _) => format!("### `[{section}]`"),
        ([_, kind], _) => format!("### `type = \"{kind}\"`"),
        ([_, of, table, ..], Some(kind)) => {
            format!("#### `type = \"{of}\"`: `{table}` with `type = \"{kind}\"`")
        }
        (parts, _) => format!("#### `type = \"{}\"`: `{}`", parts[1], parts[2..].join(".")),
    };
    let mut text = format!("\n{heading}\n\n{}\n", section.words);
    if !section.keys.is_empty() {
        text.push_str("\n| key | value | default | meaning |\n|---|---|---|---|\n");
    }
    for key in &section.keys {
        let name = &key.name;
        let cells = [format!("`{name}`"), values(key, kind), default(key), meaning(key)];
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        text += &["| ", &cells.join(" | "), " |\n"].concat();
    }
    text
}

fn values(key: &Described, kind: Option<&str>) -> String {
    match kind {
        Some(kind) if key.name == "type" => format!("`\"{kind}\"`"),
        _ => key.shape.words(),
    }
}

fn default(key: &Described) -> String {
    match key.key.default {
        Default::Is(literal) => format!("`{literal}`"),
        Default::Of(section) => format!("that of `[{section}]`"),
        Default::None if key.required => "required".to_owned(),
        Default::None => "none".to_owned(),
    }
}

fn meaning(key: &Described) -> String {
    let example = key.key.example.map(|example| format!(" Such as `{example}`."));
    format!("{}{}", key.key.words, example.unwrap_or_default())
}
