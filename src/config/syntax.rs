//! Mistakes of TOML itself, put into our words.

use toml::de::Error;

use super::document::Document;
use super::error::Finding;

/// What the parser calls a key or table that stands twice.
const DUPLICATE: &str = "duplicate key";
/// A file with more is no TOML at all; the rest would only scroll the first away.
const MAX_ERRORS: usize = 100;

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
        finding.help = help(error.message(), line);
        findings.push(finding);
    }
    findings
}

fn is_header(line: &str) -> bool {
    line.trim_start().starts_with('[')
}

fn problem(document: &Document<'_>, error: &Error) -> String {
    if !error.message().starts_with(DUPLICATE) {
        return format!("bad TOML syntax: {}", error.message());
    }
    let key = error.span().and_then(|span| document.text.get(span)).unwrap_or_default();
    format!("duplicate key `{key}`")
}

fn help(message: &str, line: &str) -> Option<String> {
    if message.starts_with(DUPLICATE) {
        return Some("it stands in the file already; keep one of the two".to_owned());
    }
    if message.contains("escape") || (message.contains("invalid") && line.contains(":\\")) {
        return Some(
            "a backslash begins an escape: write \\\\, or use single quotes, '…'".to_owned(),
        );
    }
    let value = line.split_once('=').map(|(_, value)| value.trim());
    match value {
        Some("") => Some("give the key a value, or remove it".to_owned()),
        Some(value) if value.starts_with(|c: char| c.is_alphanumeric() || "/$.~".contains(c)) => {
            Some("put text, durations and sizes in double quotes: key = \"value\"".to_owned())
        }
        None if line.contains(':') && !line.trim_start().starts_with('[') => {
            Some("TOML is written key = \"value\", not key: value".to_owned())
        }
        _ => None,
    }
}
