//! The file that `eventloader init` writes: complete, commented, and ready to run.

use super::{Default, Described, Section, sections};
use crate::config::recording::ANY_KEY;

const HEAD: &str = "\
#:schema ./eventloader.schema.json
#
# The configuration of eventloader. Everything that is commented out is at its default, or an example.
# Every string may hold ${NAME} or ${NAME:-default}, filled from the environment: a good place for secrets.
#
#   eventloader config show      what is in effect, and where it comes from
#   eventloader config schema    the schema that the first line names, for editors: > eventloader.schema.json
";

/// A source that works as soon as somebody writes a line to it.
const FIRST_SOURCE: &str = "
# The key of the table is the name of the source. This one follows a file, and waits for it until it is there:
#   echo '{\"id\": 1, \"type\": \"hello\"}' >> events.ndjson
[sources.example]
type = \"file\"
path = \"events.ndjson\"
event_type = \"/type\"
";

/// Comments are broken before this column.
const WIDTH: usize = 110;

/// Where the words for a key begin, beside it.
const COMMENT_COLUMN: usize = 44;

/// The file, as text.
pub(crate) fn starting_file() -> String {
    let sections = sections();
    let mut text = HEAD.to_owned();
    let (first, others): (Vec<_>, Vec<_>) = sections
        .iter()
        .filter(|section| !section.place.starts_with("sources"))
        .partition(|section| section.place == "database");
    for section in first {
        push_section(&mut text, section);
    }
    text.push_str(FIRST_SOURCE);
    for (at, section) in sections.iter().filter(|section| is_type_of_source(section)).enumerate() {
        push_type(&mut text, section);
        if at == 0 {
            push_comment(&mut text, "Most types of sources take these too:");
            section
                .keys
                .iter()
                .filter(|key| is_shared(key))
                .for_each(|key| push_key(&mut text, key));
        }
    }
    for section in others {
        push_section(&mut text, section);
    }
    text
}

fn is_type_of_source(section: &Section) -> bool {
    let kind = section.place.strip_prefix("sources.");
    kind.is_some_and(|kind| !kind.contains('.'))
}

/// Whether the key means the same in every type of source.
fn is_shared(key: &Described) -> bool {
    key.key.place == "sources" && key.name != "type"
}

fn push_section(text: &mut String, section: &Section) {
    text.push('\n');
    push_comment(text, section.words);
    push_line(text, &format!("[{}]", section.place));
    section.keys.iter().for_each(|key| push_key(text, key));
}

/// A commented source of one type, with the keys that only this type has.
fn push_type(text: &mut String, section: &Section) {
    let kind = section.place.trim_start_matches("sources.");
    text.push('\n');
    push_comment(text, section.words);
    push_line(text, &format!("# [sources.my-{}]", kind.replace('_', "-")));
    push_line(text, &format!("# type = \"{kind}\""));
    let own = section.keys.iter().filter(|key| key.key.place != "sources");
    own.for_each(|key| push_key(text, key));
}

/// A commented key, with its value on a line that is valid without the `# `.
fn push_key(text: &mut String, key: &Described) {
    if key.name == ANY_KEY {
        return;
    }
    let value = match (key.key.example, key.key.default) {
        (Some(example), _) => example,
        (None, Default::Is(literal)) => literal,
        // What a source inherits is said in the section it comes from.
        (None, Default::Of(_) | Default::None) => return,
    };
    let line = format!("# {} = {value}", key.name);
    let need = if key.required { "Required. " } else { "" };
    let words = format!("{need}{}", key.key.words.replace('`', ""));
    let mut lines = wrapped(&words, WIDTH - COMMENT_COLUMN - 2).into_iter();
    let beside = (line.len() < COMMENT_COLUMN).then(|| lines.next()).flatten();
    match beside {
        Some(beside) => push_line(text, &format!("{line:<COMMENT_COLUMN$}# {beside}")),
        None => push_line(text, &line),
    }
    lines.for_each(|rest| push_line(text, &format!("{:<COMMENT_COLUMN$}# {rest}", "#")));
}

fn push_comment(text: &mut String, words: &str) {
    for line in wrapped(&words.replace('`', ""), WIDTH - 2) {
        push_line(text, &format!("# {line}"));
    }
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn wrapped(words: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
