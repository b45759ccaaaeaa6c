//! JSON pointers (RFC 6901), which say where in an item a value is.

use super::error::Problem;
use super::setting::Setting;
use super::shape::Form;
use crate::mapping::{Pointer, PointerError};

const EXPECTED: &str = "a JSON pointer: \"\" for the whole, or steps that begin with \"/\"";
const FORM: Form = Form { name: "a JSON pointer", pattern: "^(/([^~]|~[01])*)?$" };

/// Checks the form of a pointer, and guesses what was meant by one of another notation.
pub(super) fn parse_pointer(text: &str) -> Result<Pointer, Problem> {
    if let Some(path) = text.strip_prefix('$') {
        let steps = path.trim_start_matches('.').replace('.', "/");
        return Err(Problem::new("a JSON path, not a JSON pointer")
            .expected(EXPECTED)
            .help(format!("did you mean \"/{steps}\"?")));
    }
    if !text.is_empty() && !text.starts_with('/') {
        let steps = text.trim_start_matches("./").replace('.', "/");
        return Err(Problem::new("a JSON pointer must begin with \"/\"")
            .expected(EXPECTED)
            .help(format!("did you mean \"/{steps}\"?")));
    }
    let mut rest = text;
    while let Some(at) = rest.find('~') {
        rest = &rest[at + 1..];
        if !rest.starts_with(['0', '1']) {
            return Err(Problem::new("a \"~\" that is not escaped")
                .expected(EXPECTED)
                .help("write \"~0\" for \"~\" and \"~1\" for \"/\" inside a name"));
        }
    }
    text.parse().map_err(|error: PointerError| Problem::new(error.to_string()).expected(EXPECTED))
}

/// Converts a setting into a pointer.
pub(super) fn json_pointer(setting: &Setting<'_>) -> Result<Pointer, Problem> {
    let text = setting.text_of(&FORM)?;
    parse_pointer(&text.value).map_err(|problem| text.refuse(problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_empty_or_begin_with_a_slash() {
        for (text, want) in [
            ("", None),
            ("/", None),
            ("/id", None),
            ("/data/0/id", None),
            ("/a~1b/m~0n", None),
            ("id", Some("did you mean \"/id\"?")),
            ("data.id", Some("did you mean \"/data/id\"?")),
            ("$.data.id", Some("did you mean \"/data/id\"?")),
            ("/a~b", Some("write \"~0\" for \"~\" and \"~1\" for \"/\" inside a name")),
            ("/a~", Some("write \"~0\" for \"~\" and \"~1\" for \"/\" inside a name")),
        ] {
            let got = parse_pointer(text);
            assert_eq!(got.err().and_then(|problem| problem.help).as_deref(), want, "{text}");
        }
    }
}
