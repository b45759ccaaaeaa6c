//! `allow_hosts`: which hosts HTTP sources may be on.

use super::error::Problem;
use super::setting::Setting;
use crate::sources::http::AllowHosts;

const EXPECTED: &str =
    "names, patterns and networks: [\"api.example.com\", \"*.example.org\", \"10.1.0.0/16\"]";

/// Converts a setting into the list.
pub(super) fn allow_hosts(setting: &Setting<'_>) -> Result<AllowHosts, Problem> {
    let texts = setting.texts(EXPECTED)?;
    if texts.is_empty() {
        return Err(Problem::new("found an empty list, which allows nothing")
            .expected(EXPECTED)
            .help("leave it out to allow every host"));
    }
    let mut allow = AllowHosts::default();
    for text in texts {
        allow.add(&text.value).map_err(|error| {
            let help = if text.value.contains("://") {
                "write the host alone, without scheme, port and path"
            } else {
                "\"*.\" can stand before a name, and \"*\" alone for every name"
            };
            let problem = Problem::new(error.to_string()).expected(EXPECTED).help(help);
            text.refuse(problem.pointing_at(text.value.clone()))
        })?;
    }
    Ok(allow)
}
