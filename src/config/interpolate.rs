//! `${NAME}` and `${NAME:-default}` in string values, filled from the environment.
//!
//! This happens after parsing, so nothing in a variable can change the structure of the file, and
//! comments and keys are left alone. Only `${` is special; a lone `$` is itself.

use std::borrow::Cow;
use std::ops::Range;

use super::environment::{Environment, Variable};
use super::error::Problem;
use super::{masking, suggest};

/// A string value with its references filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) text: String,
    /// The variables it refers to, in order.
    pub(super) variables: Vec<String>,
    /// What was filled in and may be secret, see [`masking::is_secret_filling`].
    pub(super) secrets: Vec<String>,
}

/// One `${…}`: its bytes in the text, the name and the default.
struct Reference<'t> {
    range: Range<usize>,
    name: &'t str,
    default: Option<&'t str>,
}

/// Fills every reference. An empty variable with a default takes the default, as in a shell.
pub(super) fn fill(text: &str, environment: &Environment) -> Result<Filled, Problem> {
    let mut filled = Filled { text: String::new(), variables: Vec::new(), secrets: Vec::new() };
    let mut missing = Vec::new();
    let mut at = 0;
    while let Some(reference) = next_reference(text, at)? {
        filled.text.push_str(&text[at..reference.range.start]);
        at = reference.range.end;
        let name = reference.name;
        let value = match (environment.text(name), reference.default) {
            (Variable::Text(value), Some(default)) if value.is_empty() => Cow::Borrowed(default),
            (Variable::Missing, Some(default)) => Cow::Borrowed(default),
            (Variable::Text(value), _) => value,
            (Variable::Unreadable { path, why }, _) => {
                let found = format!("the file of {name} cannot be read: {}: {why}", path.display());
                return Err(Problem::new(found)
                    .pointing_at(&text[reference.range])
                    .help(format!("correct {name}_FILE, or the rights of the file")));
            }
            (Variable::Missing, None) => {
                missing.push(name);
                continue;
            }
            (Variable::NotUnicode, _) => {
                return Err(Problem::new(format!("the variable {name} is not valid UTF-8"))
                    .pointing_at(&text[reference.range])
                    .help(format!("give {name} a value in UTF-8")));
            }
        };
        filled.text.push_str(&value);
        if masking::is_secret_filling(name, &value) {
            filled.secrets.push(value.into_owned());
        }
        filled.variables.push(name.to_owned());
    }
    filled.text.push_str(&text[at..]);
    if missing.is_empty() { Ok(filled) } else { Err(missing_problem(&missing)) }
}

fn missing_problem(names: &[&str]) -> Problem {
    let first = names[0];
    let found = match names {
        [one] => format!("the environment variable {one} is not set"),
        many => format!(
            "the environment variables {} are not set",
            suggest::list(many.iter().copied()).replace('`', "")
        ),
    };
    Problem::new(found).pointing_at(format!("${{{first}}}")).help(format!(
        "set it (export {first}=…), or {first}_FILE to a file with it, or give a default in the file: \
         ${{{first}:-value}}"
    ))
}

fn next_reference(text: &str, from: usize) -> Result<Option<Reference<'_>>, Problem> {
    let Some(start) = text[from..].find("${").map(|found| from + found) else { return Ok(None) };
    let inner = &text[start + 2..];
    let Some(length) = inner.find('}') else {
        return Err(Problem::new("a \"${\" without its \"}\"")
            .pointing_at("${")
            .expected("${NAME} or ${NAME:-default}")
            .help(
                "close it with \"}\"; where a literal \"${\" is meant, write \"${DOLLAR:-$}{\"",
            ));
    };
    let range = start..start + 2 + length + 1;
    let (name, default) = match inner[..length].split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (&inner[..length], None),
    };
    if default.is_some_and(|default| default.contains("${")) {
        return Err(Problem::new("a reference inside the default of another")
            .pointing_at("${")
            .expected("${NAME} or ${NAME:-default}, where the default is plain text"));
    }
    if !is_name(name) {
        return Err(Problem::new("not the name of an environment variable")
            .pointing_at(&text[range])
            .expected("${NAME} or ${NAME:-default}: letters, digits and \"_\", no digit first"));
    }
    Ok(Some(Reference { range, name, default }))
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The ranges of references without a default: text that says where a secret comes from, and
/// nothing of the secret.
pub(super) fn plain_references(text: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Ok(Some(reference)) = next_reference(text, at) {
        at = reference.range.end;
        if reference.default.is_none() {
            ranges.push(reference.range);
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_filled_and_lone_dollars_stay() {
        let environment = Environment::from_pairs([("A", "1"), ("EMPTY", ""), ("B_2", "${A}")]);
        for (text, want) in [
            ("plain", Ok("plain")),
            ("", Ok("")),
            ("$A $$ $", Ok("$A $$ $")),
            ("${A}", Ok("1")),
            ("x${A}y${A}", Ok("x1y1")),
            ("${NONE:-d}", Ok("d")),
            ("${NONE:-}", Ok("")),
            ("${EMPTY:-d}", Ok("d")),
            ("${EMPTY}", Ok("")),
            ("${A:-d}", Ok("1")),
            ("${NONE:-a:-b}", Ok("a:-b")),
            ("${B_2}", Ok("${A}")),
            ("${DOLLAR:-$}{A}", Ok("${A}")),
            ("ä${A}ö", Ok("ä1ö")),
            ("${NONE}", Err("the environment variable NONE is not set")),
            ("${X} ${Y}", Err("the environment variables X and Y are not set")),
            ("${A", Err("a \"${\" without its \"}\"")),
            ("${}", Err("not the name of an environment variable")),
            ("${1A}", Err("not the name of an environment variable")),
            ("${A-x}", Err("not the name of an environment variable")),
            ("${A:-${A}}", Err("a reference inside the default of another")),
        ] {
            let got = fill(text, &environment).map(|f| f.text).map_err(|p| p.found);
            assert_eq!(got, want.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn what_is_not_in_the_environment_may_be_in_a_file_that_it_names() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.into_os_string()
        };
        let credentials = directory.path().as_os_str().to_owned();
        let environment = Environment::from_pairs([
            ("A_FILE", write("a", b"from a file\r\n\n")),
            ("B", "from the environment".into()),
            ("B_FILE", write("b", b"not this")),
            ("C_FILE", directory.path().join("none").into_os_string()),
            ("D_FILE", write("d", b"\xff")),
            ("CREDENTIALS_DIRECTORY", credentials),
        ]);
        write("E", b" a credential ");
        let fill = |text: &str| fill(text, &environment).map(|f| f.text).map_err(|p| p.found);
        assert_eq!(fill("${A} and ${B}").unwrap(), "from a file and from the environment");
        assert_eq!(fill("<${E}>").unwrap(), "< a credential >");
        assert!(fill("${C}").unwrap_err().contains("the file of C cannot be read"));
        assert!(fill("${C:-default}").unwrap_err().contains("none: No such file"));
        assert_eq!(fill("${D}").unwrap_err(), "the variable D is not valid UTF-8");
        assert_eq!(fill("${F:-default}").unwrap(), "default");
    }

    #[test]
    fn plain_references_are_those_without_default() {
        assert_eq!(plain_references("Bearer ${T} ${D:-secret}"), vec![7..11]);
        assert_eq!(plain_references("none ${"), Vec::<Range<usize>>::new());
    }
}
