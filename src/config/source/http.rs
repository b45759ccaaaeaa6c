//! `type = "http"`.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::item::{read_mapping, read_max_page_bytes};
use crate::config::error::Problem;
use crate::config::pointer::json_pointer;
use crate::config::reader::TableReader;
use crate::config::setting::Setting;
use crate::config::shape::Form;
use crate::mapping::{Mapping, Pointer};

const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_mins(10);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const HTTP_URL: Form =
    Form { name: "an http or https URL", pattern: r"^\s*[Hh][Tt][Tt][Pp][Ss]?://" };
/// Parameters that every request sets itself.
const OWN_PARAMETERS: &[&str] = &["after_id", "limit"];

/// An HTTP API, asked as `GET url?after_id=41&limit=1000`.
///
/// `Debug` shows the URL as [`HttpConfig::shown_url`] does, and no header values.
#[derive(Clone)]
pub struct HttpConfig {
    /// `url`: where events are asked for; `http` or `https`, without fragment. Required. A user
    /// name, a password and a query are kept, and never shown.
    pub url: Url,
    /// `headers`: a table of further request headers, in the order of the file. Default none.
    pub headers: Vec<(String, SecretString)>,
    /// Where the parts of an event are: `id` (default `/id`), `event_type` (default none, the type is the source's name),
    /// `occurred_at`, `message_id` (default none), `payload` (default `""`, the whole item), `items` (from the body to the array;
    /// default `""`, the body is the array); and `max_event_bytes`,
    /// above which it becomes a dead letter (default 1MiB, 1KiB to 64MiB).
    pub mapping: Mapping,
    /// `timeout`: the longest a whole request may take. Default 30s, 1ms to 10m.
    pub timeout: Duration,
    /// `max_page_bytes`: a larger body is refused. Bytes, default 64MiB, `max_event_bytes` to 256MiB.
    pub max_page_bytes: usize,
}

impl HttpConfig {
    pub(super) fn read(table: &mut TableReader<'_>) -> Option<Self> {
        let url = table.require("url", "add url = \"https://…\"", http_url);
        let headers = read_headers(&table.table("headers"));
        let items = table.read_or("items", Pointer::whole(), json_pointer);
        let timeout = table.read_or("timeout", DEFAULT_TIMEOUT, |s| s.duration(TIMEOUTS));
        let mapping = Mapping { items, ..read_mapping(table) };
        let max_page_bytes = read_max_page_bytes(table, mapping.max_event_bytes);
        Some(Self { url: url?.value, headers, mapping, timeout, max_page_bytes })
    }

    /// The URL without user name, password and query, for logs and the status page.
    pub fn shown_url(&self) -> String {
        let query = if self.url.query().is_some() { "?***" } else { "" };
        let user = if self.url.username().is_empty() && self.url.password().is_none() {
            ""
        } else {
            "***@"
        };
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{user}{host}{port}{}{query}", self.url.scheme(), self.url.path())
    }
}

impl fmt::Debug for HttpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpConfig")
            .field("url", &self.shown_url())
            .field("headers", &self.headers)
            .field("mapping", &self.mapping)
            .field("timeout", &self.timeout)
            .field("max_page_bytes", &self.max_page_bytes)
            .finish()
    }
}

fn http_url(setting: &Setting<'_>) -> Result<Url, Problem> {
    let text = setting.text_of(&HTTP_URL)?;
    let refuse =
        |reason: &str| text.refuse(Problem::new(reason).expected("an http:// or https:// URL"));
    let value = text.value.trim();
    if value.is_empty() {
        return Err(Problem::new("empty").expected("an http:// or https:// URL"));
    }
    let lower = value.to_ascii_lowercase();
    if !lower.starts_with("http://") && !lower.starts_with("https://") {
        let problem = refuse("not an http or https URL");
        return Err(problem.help("begin it with https:// or http://"));
    }
    let url = Url::parse(value).map_err(|error| refuse(&format!("not a URL ({error})")))?;
    if url.fragment().is_some() {
        let problem = refuse("a URL with a fragment (\"#…\"), which is never sent");
        return Err(problem.help("remove it, or write %23 where a \"#\" is meant"));
    }
    let own = |name: &str| OWN_PARAMETERS.contains(&name);
    if url.query_pairs().any(|(name, _)| own(&name)) {
        let problem = refuse("a URL with after_id or limit, which every request sets itself");
        return Err(problem.help("remove them; batch_size sets the limit"));
    }
    Ok(url)
}

fn read_headers(table: &TableReader<'_>) -> Vec<(String, SecretString)> {
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

fn check_header_name(name: &str, earlier: &[(String, SecretString)]) -> Result<(), Problem> {
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

fn header_value(setting: &Setting<'_>) -> Result<SecretString, Problem> {
    let text = setting.text()?;
    if text.value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(text
            .refuse(Problem::new("with a line break or control character in it"))
            .expected("one line of text")
            .help("look for a newline at the end of the variable it is filled from"));
    }
    Ok(SecretString::from(text.value))
}
