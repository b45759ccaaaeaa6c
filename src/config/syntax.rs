//! Mistakes of TOML itself, put into our words.

use toml::de::Error;

use super::document::Document;
use super::error::Finding;
use crate::event::excerpt::excerpt;

/// What the parser calls a key or table that stands twice.
const DUPLICATE: &str = "duplicate key";
/// A file with more is no TOML at all; the rest would only scroll the first away.
const MAX_ERRORS: usize = 100;
/// Longest part of a file, or of what the parser says of it, in a message.
const SHOWN_LENGTH_MAX: usize = 200;

/// Whether the tree can be used in spite of the errors: only keys that stand twice, of which the
/// first is in the tree.
pub(super) fn tree_is_sound(errors: &[Error]) -> bool {
    errors.iter().all(|error| error.message().starts_with(DUPLICATE))
}

/// One finding for each line with an error, as a mistake tends to cause more on the same line; and
/// one for a table that stands twice, not another for each of its keys.
pub(super) fn findings(document: &Document<'_>, errors: &[Error]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let mut last_line = 0;
    let mut in_second_table = false;
    let mut errors: Vec<&Error> = errors.iter().collect();
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    errors.truncate(MAX_ERRORS);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let (number, line, _) = document.line_of(span.start);
        let duplicate = error.message().starts_with(DUPLICATE);
        let mut since =
            document.text.lines().skip(last_line).take(number.saturating_sub(last_line));
        let same_table = !since.any(is_header);
        if number == last_line || (in_second_table && same_table && duplicate) {
            continue;
        }
        in_second_table = duplicate && is_header(line);
        last_line = number;
        let mut finding = Finding::new(document.place(span.start), problem(document, error));
        finding.snippet = Some(document.snippet_of_broken_line(&span));
        finding.help = Some(help(error.message(), line).to_owned());
        findings.push(finding);
    }
    findings
}

fn is_header(line: &str) -> bool {
    line.trim_start().starts_with('[')
}

fn problem(document: &Document<'_>, error: &Error) -> String {
    if !error.message().starts_with(DUPLICATE) {
        return format!("bad TOML syntax: {}", excerpt(error.message(), SHOWN_LENGTH_MAX));
    }
    let key = error.span().and_then(|span| document.text.get(span)).unwrap_or_default();
    format!("duplicate key `{}`", excerpt(key, SHOWN_LENGTH_MAX))
}

/// What the parser says, in part, and what to do. The first that fits counts.
const HELP: &[(&str, &str)] = &[
    (DUPLICATE, "it stands in the file already; keep one of the two"),
    ("escape", ESCAPE),
    ("must be quoted", ""),
    ("basic string", "end the text with the quote it begins with"),
    ("literal string", "end the text with the quote it begins with"),
    ("unclosed table", "end the name of the table with \"]\""),
    ("missing comma", "put a comma between the two"),
    ("unclosed array", "end the list with \"]\""),
    ("unclosed inline table", "end the inline table with \"}\""),
];
const ESCAPE: &str = "a backslash begins an escape: write \\\\, or use single quotes, '…'";

fn help(message: &str, line: &str) -> &'static str {
    if message.contains("invalid") && line.contains(":\\") {
        return ESCAPE;
    }
    let known = HELP.iter().find(|(part, _)| message.contains(part)).map(|(_, help)| *help);
    known.filter(|help| !help.is_empty()).unwrap_or_else(|| help_by_line(message, line))
}

fn help_by_line(message: &str, line: &str) -> &'static str {
    let value = line.split_once('=').map(|(_, value)| value.trim());
    match value {
        Some("") => "give the key a value, or remove it",
        Some(_) if message.starts_with("key with no value") => {
            "write key = \"value\"; a name with a space in it is no key"
        }
        Some(value) if value.starts_with(|c: char| c.is_alphanumeric() || "/$.~".contains(c)) => {
            "put text, durations and sizes in double quotes: key = \"value\""
        }
        None if line.contains(':') && !line.trim_start().starts_with(['[', '{']) => {
            "TOML is written key = \"value\", not key: value"
        }
        None if line.trim_start().starts_with(['{', '}']) => {
            "the file is TOML, not JSON: a section is [loader], a value key = \"value\""
        }
        _ => "a line is [section], key = \"value\", or a comment that begins with \"#\"",
    }
}
