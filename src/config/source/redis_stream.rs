//! `type = "redis_stream"`.

use std::ops::RangeInclusive;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::queue::{Usual, read_settings};
use super::tls::read_ca_file;
use crate::config::error::Problem;
use crate::config::reader::TableReader;
use crate::config::setting::Setting;
use crate::config::shape::Form;
use crate::consumer::ConsumerSettings;
use crate::mapping::Pointer;
use crate::mapping::message::Payload;
use crate::sources::redis_stream::{ReadFrom, RedisStreamOptions};

const RETRIES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);
const DEFAULT_RETRY: Duration = Duration::from_mins(1);
const REDIS_URL: Form =
    Form { name: "a redis or rediss URL", pattern: r"^\s*[Rr][Ee][Dd][Ii][Ss]{1,2}://" };

/// A stream of Redis, read by a consumer group.
#[derive(Debug, Clone)]
pub struct RedisStreamConfig {
    /// `url`, required, never shown; `stream`, required; `group` (default `eventloader`); `read_from` (default `beginning`);
    /// `retry_after` (default 60s, 1s to 24h); `ca_file`.
    pub options: RedisStreamOptions,
    /// `batch_size`, `linger`, `dedup_retention`, and where the parts of an event are.
    pub settings: ConsumerSettings,
}

impl RedisStreamConfig {
    pub(super) fn read(table: &mut TableReader<'_>) -> Option<Self> {
        let url = table.require("url", "add url = \"redis://localhost:6379\"", redis_url);
        let stream =
            table.require("stream", "add stream = \"…\"", |s| name(s, "the key of a stream"));
        let group =
            table.read_or("group", "eventloader".to_owned(), |s| name(s, "the name of a group"));
        let choices =
            [("beginning", ReadFrom::Beginning), ("group_created", ReadFrom::GroupCreated)];
        let read_from = table.read_or("read_from", ReadFrom::Beginning, |s| s.one_of(&choices));
        let retry_after = table.read_or("retry_after", DEFAULT_RETRY, |s| s.duration(RETRIES));
        let ca_file = read_ca_file(table);
        let (url, is_tls) = url.map(|read| read.value).unzip();
        if table.has("ca_file") && is_tls == Some(false) {
            let problem = Problem::new("beside a URL without TLS");
            table.refuse("ca_file", problem.help("write rediss:// or take ca_file out"));
        }
        let payload = Payload::At(Pointer::whole());
        let settings = read_settings(table, Usual { event_type: "type", payload });
        let options = RedisStreamOptions {
            url: url?,
            stream: stream?.value,
            group,
            read_from,
            retry_after,
            ca_file,
        };
        Some(Self { options, settings })
    }
}

/// The URL, and whether it is one of TLS.
fn redis_url(setting: &Setting<'_>) -> Result<(SecretString, bool), Problem> {
    let expected = "redis://user:password@localhost:6379/0, or rediss:// for TLS";
    let text = setting.text_of(&REDIS_URL)?;
    let refuse = |reason: &str| text.refuse(Problem::new(reason).expected(expected));
    let value = text.value.trim();
    let url = Url::parse(value).map_err(|error| {
        refuse(&format!("not a URL ({error})"))
            .help("percent-encode special characters of the password: @ as %40, / as %2F, # as %23")
    })?;
    let is_tls = match url.scheme() {
        "redis" => false,
        "rediss" => true,
        _ => return Err(refuse("not the URL of a Redis")),
    };
    if url.host_str().is_none_or(str::is_empty) {
        return Err(refuse("a URL without a host"));
    }
    let number = url.path().trim_matches('/');
    if !number.is_empty() && number.parse::<u32>().is_err() {
        return Err(refuse("a URL whose path is not the number of a database")
            .help("percent-encode / in the password as %2F, or end the URL after the port"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("a URL with options")
            .help("remove what follows ? or #, or percent-encode it in the password"));
    }
    Ok((SecretString::from(value), is_tls))
}

fn name(setting: &Setting<'_>, what: &str) -> Result<String, Problem> {
    let text = setting.text()?;
    if text.value.is_empty() {
        return Err(
            text.refuse(Problem::new(format!("not {what}")).expected("at least one character"))
        );
    }
    Ok(text.value)
}
