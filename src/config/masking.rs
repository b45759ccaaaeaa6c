//! Which values may be shown: those of the known harmless keys, and no others.
//!
//! A misspelt key could be any key, so what is harmless is what `reference/keys.rs` says so of, everywhere it stands.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{interpolate, reference};

const SECRET_WORDS: &[&str] =
    &["secret", "token", "password", "passwd", "credential", "authorization", "key", "auth"];

/// Whether the value at a path of keys may be shown in a message.
pub(super) fn is_harmless<S: AsRef<str>>(path: &[S]) -> bool {
    match path {
        [section, key] => is_section(section.as_ref()) && is_harmless_key(key.as_ref()),
        [section, _, key] => section.as_ref() == "sources" && is_harmless_key(key.as_ref()),
        [section, _, table, key] => {
            section.as_ref() == "sources" && reference::is_harmless_in(table.as_ref(), key.as_ref())
        }
        _ => false,
    }
}

fn is_section(name: &str) -> bool {
    reference::has_section(name)
}

fn is_harmless_key(name: &str) -> bool {
    reference::is_harmless(name)
}

/// Whether an environment variable holds a secret, judged by its name.
pub(super) fn is_secret_variable(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with("url") || SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// Whether what a reference to a variable is filled with may be secret. A name can hide that it is (`PAT`, `DSN`), so every
/// longer value is; a short one (`eu`, `json`) would take common words out of whatever it is masked in.
pub(super) fn is_secret_filling(name: &str, value: &str) -> bool {
    is_secret_variable(name) || value.len() >= 8
}

/// Collects the byte ranges of all values that must not be shown.
pub(super) fn masks(root: &DeTable<'_>, text: &str) -> Vec<Range<usize>> {
    let mut masks = Vec::new();
    mask_table(root, text, &mut Vec::new(), &mut masks);
    masks
}

fn mask_table<'t>(
    table: &'t DeTable<'_>,
    text: &str,
    path: &mut Vec<&'t str>,
    masks: &mut Vec<Range<usize>>,
) {
    for (key, value) in table {
        path.push(key.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) => mask_table(inner, text, path, masks),
            DeValue::Array(array) if array.iter().any(|item| item.get_ref().is_table()) => {
                for item in array {
                    match item.get_ref() {
                        DeValue::Table(inner) => mask_table(inner, text, path, masks),
                        _ => mask_value(item, text, masks),
                    }
                }
            }
            _ if is_harmless(path) => {}
            _ => mask_value(value, text, masks),
        }
        path.pop();
    }
}

fn mask_value(value: &Spanned<DeValue<'_>>, text: &str, masks: &mut Vec<Range<usize>>) {
    let Range { start, end } = value.span();
    let Some(raw) = text.get(start..end) else { return };
    masks.extend(masks_of_value(raw).into_iter().map(|mask| start + mask.start..start + mask.end));
}

/// All of a value, as it stands in the file, but its quotes and the names of the variables it is filled from.
pub(super) fn masks_of_value(raw: &str) -> Vec<Range<usize>> {
    let quote =
        ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| raw.starts_with(quote)).unwrap_or("");
    let start = quote.len();
    let inside = &raw[start..];
    // A string that was not ended has no quotes there.
    let inside = inside.strip_suffix(quote).unwrap_or(inside);
    let (mut at, end) = (start, start + inside.len());
    let mut masks = Vec::new();
    for reference in interpolate::plain_references(inside) {
        masks.push(at..start + reference.start);
        at = start + reference.end;
    }
    masks.push(at..end);
    masks.retain(|mask| !mask.is_empty());
    masks
}

/// Whether the text before a line ends in a table whose keys we know, judged without parsing it.
fn ends_in_known_table(before: &str) -> bool {
    let header = before.lines().rev().position(|line| line.trim_start().starts_with('['));
    let Some(lines_since) = header else { return false };
    let since: Vec<&str> = before.lines().rev().take(lines_since).collect();
    let count = |text: &str| since.iter().map(|line| line.matches(text).count()).sum::<usize>();
    let nested = count("{") != count("}") || count("\"\"\"") + count("'''") > 0;
    let line = before.lines().rev().nth(lines_since).unwrap_or_default();
    let name = line.trim().trim_start_matches('[').split(']').next().unwrap_or_default();
    let mut parts = name.split('.').map(str::trim);
    let known = parts.next().is_some_and(is_section);
    known && parts.count() <= 1 && !nested
}

/// The part of a line to hide when the file could not be parsed, judged by the line and what is
/// before it. When in doubt it is hidden.
pub(super) fn mask_of_broken_line(before: &str, line: &str) -> Option<Range<usize>> {
    let start = line.len() - line.trim_start().len();
    let trimmed = line.trim();
    let word_end = trimmed
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-')
        .unwrap_or(trimmed.len());
    let lower = trimmed.to_ascii_lowercase();
    let suspicious = lower.contains("://")
        || lower.contains("headers")
        || SECRET_WORDS.iter().any(|word| lower.contains(word));
    if let Some(header) = trimmed.strip_prefix('[') {
        let name = header.trim_start_matches('[').split(['.', ']']).next().unwrap_or_default();
        let plain = is_section(name.trim()) && !trimmed.contains(['=', '"', '\'', ',']);
        return (!plain).then(|| start + 1..line.len());
    }
    if is_harmless_key(&trimmed[..word_end]) && !suspicious && ends_in_known_table(before) {
        return None;
    }
    let shown = line.find('=').map_or(start, |equals| equals + 1);
    (shown < line.len()).then_some(shown..line.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_values_are_shown() {
        for (path, want) in [
            (&["loader", "batch_size"][..], true),
            (&["sources", "orders", "timeout"], true),
            (&["sources", "orders", "url"], false),
            (&["sources", "orders", "headers", "id"], false),
            (&["sources", "orders", "header", "id"], false),
            (&["database", "url"], false),
            (&["database", "ulr"], false),
        ] {
            assert_eq!(is_harmless(path), want, "{path:?}");
        }
    }

    #[test]
    fn all_of_a_value_is_hidden_but_its_quotes() {
        // What is hidden, as text: a range that cuts a character in two would panic here.
        for (raw, want) in [
            ("\"abc\"", &["abc"][..]),
            ("'''abc'''", &["abc"]),
            ("\"a${B}c\"", &["a", "c"]),
            ("42", &["42"]),
            ("\"\"", &[]),
            // Without an end, as fuzzing found them.
            ("\"abc", &["abc"]),
            ("\"ab\u{e9}", &["ab\u{e9}"]),
            ("\"\"\"ab\"", &["ab\""]),
            ("\"", &[]),
        ] {
            let hidden: Vec<_> = masks_of_value(raw).into_iter().map(|range| &raw[range]).collect();
            assert_eq!(hidden, want, "{raw}");
        }
    }

    #[test]
    fn a_broken_line_shows_only_harmless_values() {
        for (line, want) in [
            ("timeout = 30s", None),
            ("max_idle \"5s\"", None),
            ("[sources.orders", None),
            ("[sources.orders]]", None),
            ("url = postgres://u:p@h/db", Some(5..25)),
            ("Authorization = Bearer x", Some(15..24)),
            ("abc\"", Some(0..4)),
            ("[\"Bearer x\"", Some(1..11)),
            ("timeout = 1, headers = { a = \"s\"", Some(9..32)),
            ("", None),
        ] {
            assert_eq!(mask_of_broken_line("[sources.a]\n", line), want, "{line}");
        }
        for before in [
            "",
            "[sources.a.headers]\n",
            "[other]\n",
            "[sources.a]\nheaders = {\n",
            "[sources.a]\nurl = \"\"\"\n",
            "[sources.\"a.headers\"]\n",
        ] {
            assert_eq!(mask_of_broken_line(before, "id = x"), Some(4..6), "{before}");
        }
    }
}
