//! `headers`.

use secrecy::SecretString;

use crate::config::error::Problem;
use crate::config::reader::TableReader;
use crate::config::setting::Setting;

pub(super) fn read_headers(table: &TableReader<'_>) -> Vec<(String, SecretString)> {
    let mut headers: Vec<(String, SecretString)> = Vec::new();
    for (name, span, value) in table.entries() {
        if let Err(problem) = check_header_name(name, &headers) {
            table.report_key(name, span, problem);
        }
        if let Some(read) = table.convert(name, Some(value), header_value) {
            headers.push((name.to_owned(), read.value));
        }
    }
    for key in table.keys_from_environment() {
        let name = key.to_ascii_lowercase().replace('_', "-");
        let Some(read) = table.convert(&name, None, header_value) else { continue };
        match check_header_name(&name, &headers) {
            Ok(()) => headers.push((name, read.value)),
            Err(problem) => table.report_at(&read.origin, &name, problem),
        }
    }
    headers
}

pub(super) fn check_header_name(
    name: &str,
    earlier: &[(String, SecretString)],
) -> Result<(), Problem> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(is_token) {
        return Err(Problem::new("not the name of a header")
            .expected("letters, digits and \"-\", such as Authorization"));
    }
    match earlier.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)) {
        Some((other, _)) => Err(Problem::new(format!("the same header as `{other}`"))
            .help("case does not count in names of headers; keep one of them")),
        None => Ok(()),
    }
}

/// One line of text that is not shown.
pub(super) fn header_value(setting: &Setting<'_>) -> Result<SecretString, Problem> {
    let text = setting.text()?;
    if text.value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(text
            .refuse(Problem::new("with a line break or control character in it"))
            .expected("one line of text")
            .help("look for a newline at the end of the variable it is filled from"));
    }
    Ok(SecretString::from(text.value))
}
