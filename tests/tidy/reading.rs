//! Files as the rules see them: Rust code apart from its comments and strings, and the paths it names.

use std::path::Path;

use crate::tidy::Breach;

/// A text file of the repository.
pub(crate) struct File {
    /// From the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// Of a Rust file: comments gone, strings empty, line breaks kept.
    pub(crate) code: String,
    /// Of a Rust file: its strings as written, with the line they begin on.
    pub(crate) strings: Vec<(usize, String)>,
}

impl File {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let (code, strings) =
            if has_ending(path, "rs") { split(text) } else { (String::new(), Vec::new()) };
        Self { path: path.to_owned(), text: text.to_owned(), code, strings }
    }

    /// Whether it is one of these files, or below one of these folders (which end in `/`).
    pub(crate) fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| {
            self.path == *place || place.ends_with('/') && self.path.starts_with(place)
        })
    }

    pub(crate) fn breach(&self, line: usize, found: impl Into<String>) -> Breach {
        Breach { path: self.path.clone(), line, found: found.into() }
    }

    /// The lines of the text that `is_bad`, as breaches.
    pub(crate) fn bad_lines(&self, is_bad: impl Fn(&str) -> bool) -> Vec<Breach> {
        let lines = self.text.lines().enumerate();
        lines.filter(|(_, l)| is_bad(l)).map(|(n, l)| self.breach(n + 1, l.trim())).collect()
    }

    /// Every path in the code that begins with `root`, one per leaf of a `use` tree, with its line.
    pub(crate) fn paths(&self, root: &str) -> Vec<(usize, String)> {
        let chars: Vec<char> = self.code.chars().collect();
        let mut found = Vec::new();
        for (start, _) in self.code.char_indices().filter(|(i, _)| self.is_word_at(*i, root)) {
            let start = self.code[..start].chars().count();
            let qualified = chars[..start].ends_with(&[':', ':']);
            if !qualified {
                expand(&chars, start, "", &mut found);
            }
        }
        found
    }

    /// The lines of the code that hold a word.
    pub(crate) fn lines_with_word(&self, word: &str) -> Vec<usize> {
        let places = self.code.char_indices().filter(|(i, _)| self.is_word_at(*i, word));
        places.map(|(i, _)| 1 + self.code[..i].matches('\n').count()).collect()
    }

    fn is_word_at(&self, place: usize, word: &str) -> bool {
        let (before, rest) = self.code.split_at(place);
        rest.starts_with(word)
            && !before.ends_with(is_word_char)
            && !rest[word.len()..].starts_with(is_word_char)
    }
}

pub(crate) fn has_ending(path: &str, ending: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == ending)
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Follows a path, or a tree of paths in braces, from `at`; answers where it ends.
fn expand(chars: &[char], mut at: usize, prefix: &str, found: &mut Vec<(usize, String)>) -> usize {
    let skip = |mut at: usize| {
        while chars.get(at).is_some_and(|c| c.is_whitespace()) {
            at += 1;
        }
        at
    };
    at = skip(at);
    if chars.get(at) == Some(&'{') {
        loop {
            at = skip(expand(chars, at + 1, prefix, found));
            match chars.get(at) {
                Some(',') if chars.get(skip(at + 1)) != Some(&'}') => {}
                Some(',') => return skip(at + 1) + 1,
                _ => return at + 1,
            }
        }
    }
    let start = at;
    while chars.get(at).is_some_and(|c| is_word_char(*c) || *c == '*') {
        at += 1;
    }
    let name: String = chars[start..at].iter().collect();
    let path = format!("{prefix}{name}");
    let next = skip(at);
    if chars[next.min(chars.len())..].starts_with(&[':', ':'])
        && chars.get(skip(next + 2)).is_some_and(|c| is_word_char(*c) || "{*".contains(*c))
    {
        return expand(chars, next + 2, &format!("{path}::"), found);
    }
    found.push((1 + chars[..start].iter().filter(|c| **c == '\n').count(), path));
    at
}

/// Separates Rust code from its comments and strings.
fn split(text: &str) -> (String, Vec<(usize, String)>) {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut strings, mut at) = (String::new(), Vec::new(), 0);
    while at < chars.len() {
        let rest = &chars[at..];
        let end = if rest.starts_with(&['/', '/']) {
            at + rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())
        } else if rest.starts_with(&['/', '*']) {
            at + 2 + find(&rest[2..], "*/").map_or(rest.len() - 2, |n| n + 2)
        } else if let Some((opening, closing)) = string_marks(rest, &code) {
            let body = &rest[opening..];
            let length = match closing.as_str() {
                "\"" => end_of_string(body),
                raw => find(body, raw).unwrap_or(body.len()),
            };
            let line = 1 + code.matches('\n').count();
            strings.push((line, body[..length].iter().collect()));
            code.push_str("\"\"");
            at + opening + length + closing.len()
        } else if let Some(length) = char_literal(rest) {
            code.push_str("' '");
            at + length
        } else {
            code.push(chars[at]);
            at += 1;
            continue;
        };
        let end = end.min(chars.len());
        code.extend(chars[at..end].iter().filter(|c| **c == '\n'));
        at = end;
    }
    (code, strings)
}

/// How many characters open a string here, and what closes it.
fn string_marks(rest: &[char], code: &str) -> Option<(usize, String)> {
    if rest[0] == '"' {
        return Some((1, "\"".to_owned()));
    }
    if rest[0] != 'r' || code.ends_with(|c| is_word_char(c) && c != 'b') {
        return None;
    }
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    (rest.get(1 + hashes) == Some(&'"')).then(|| (2 + hashes, format!("\"{}", "#".repeat(hashes))))
}

fn end_of_string(body: &[char]) -> usize {
    let mut at = 0;
    while at < body.len() && body[at] != '"' {
        at += if body[at] == '\\' { 2 } else { 1 };
    }
    at.min(body.len())
}

/// The length of a character literal; `None`: a lifetime, or something else.
fn char_literal(rest: &[char]) -> Option<usize> {
    match rest {
        ['\'', '\\', _, tail @ ..] => tail.iter().position(|c| *c == '\'').map(|n| n + 4),
        ['\'', _, '\'', ..] => Some(3),
        _ => None,
    }
}

fn find(text: &[char], wanted: &str) -> Option<usize> {
    let wanted: Vec<char> = wanted.chars().collect();
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// All text files but those that `.gitignore` leaves out.
pub(crate) fn repository() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ignored = std::fs::read_to_string(root.join(".gitignore")).expect("it is there");
    let ignored: Vec<&str> = ignored.lines().map(|l| l.trim_matches('/')).chain([".git"]).collect();
    let mut files = Vec::new();
    walk(root, root, &ignored, &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn walk(root: &Path, folder: &Path, ignored: &[&str], files: &mut Vec<File>) {
    for entry in std::fs::read_dir(folder).expect("a folder can be read") {
        let path = entry.expect("a folder can be read").path();
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else {
            continue;
        };
        let is_ignored = |rule: &&str| match rule.strip_prefix('*') {
            Some(ending) => name.ends_with(ending),
            None => name == **rule,
        };
        if ignored.iter().any(is_ignored) {
            continue;
        }
        if path.is_dir() {
            walk(root, &path, ignored, files);
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            let relative = path.strip_prefix(root).expect("the walk stays below the root");
            files.push(File::new(&relative.to_string_lossy(), &text));
        }
    }
}
