//! `docs/configuration.md`: the reference of all keys, after a few pages of text that stand in `reference/preface.md`.

use super::{Default, Described, Section, sections};
use crate::config::recording::ANY_KEY;

/// The whole document.
pub(crate) fn markdown() -> String {
    let mut text = include_str!("preface.md").to_owned();
    for section in sections().iter().filter(|section| is_documented(section)) {
        text.push_str(&describe(section));
    }
    text
}

/// Tables whose keys are free have nothing to list: the key that they are says it.
fn is_documented(section: &Section) -> bool {
    section.keys.iter().all(|key| key.name != ANY_KEY)
}

fn describe(section: &Section) -> String {
    let heading = match section.place.split_once('.') {
        Some((_, kind)) => format!("### `type = \"{kind}\"`"),
        None if section.place == "sources" => "### `[sources.NAME]`".to_owned(),
        None => format!("### `[{}]`", section.place),
    };
    let mut text = format!("\n{heading}\n\n{}\n", section.words);
    if !section.keys.is_empty() {
        text.push_str("\n| key | value | default | meaning |\n|---|---|---|---|\n");
    }
    for key in &section.keys {
        let name = &key.name;
        let cells = [format!("`{name}`"), values(key, section), default(key), meaning(key)];
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        text += &["| ", &cells.join(" | "), " |\n"].concat();
    }
    text
}

fn values(key: &Described, section: &Section) -> String {
    match section.place.split_once('.') {
        Some((_, kind)) if key.name == "type" => format!("`\"{kind}\"`"),
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
