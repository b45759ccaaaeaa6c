//! `type = "http"`.

mod asking;
mod auth;
mod headers;
mod proxy;

use std::ops::RangeInclusive;
use std::time::Duration;

use url::Url;

use super::item::{read_mapping, read_max_page_bytes};
use super::tls::read_tls;
use crate::config::error::Problem;
use crate::config::hosts;
use crate::config::loading::LoaderConfig;
use crate::config::pointer::json_pointer;
use crate::config::reader::TableReader;
use crate::config::setting::{self, Setting};
use crate::config::shape::Form;
use crate::mapping::{Mapping, Pointer};
use crate::sources::http::{Auth, HostRefused, HttpOptions, check_url};

const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_mins(10);
const TIP_LAGS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(24);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const HTTP_URL: Form =
    Form { name: "an http or https URL", pattern: r"^\s*[Hh][Tt][Tt][Pp][Ss]?://" };

/// Reads the keys of an HTTP source.
pub(super) fn read(table: &mut TableReader<'_>) -> Option<HttpOptions> {
    let url = table.require("url", "add url = \"https://…\"", http_url);
    let asking = asking::read(table, url.as_ref());
    let headers = headers::read_headers(&table.table("headers"));
    let items = table.read_or("items", Pointer::whole(), json_pointer);
    let timeout = table.read_or("timeout", DEFAULT_TIMEOUT, |s| s.duration(TIMEOUTS));
    let mapping = Mapping { items, ..read_mapping(table) };
    let max_page_bytes = read_max_page_bytes(table, mapping.max_event_bytes);
    let auth = auth::read(table);
    let tls = read_tls(table);
    let proxy = proxy::read_proxy(table);
    let allow_hosts = table.read("allow_hosts", hosts::allow_hosts).map(|read| read.value);
    let allow_insecure = table.read_or("allow_insecure", false, setting::boolean);
    let tip_lag = read_tip_lag(table, &mapping);
    let options = HttpOptions {
        headers,
        asking,
        auth,
        tls,
        proxy,
        allow_hosts,
        mapping,
        timeout,
        max_page_bytes,
        tip_lag,
        ..HttpOptions::new(url?.value)
    };
    auth::check(table, &options, allow_insecure);
    Some(options)
}

fn read_tip_lag(table: &mut TableReader<'_>, mapping: &Mapping) -> Option<Duration> {
    let tip_lag = table.read("tip_lag", |s| s.duration(TIP_LAGS))?;
    if mapping.occurred_at.is_none() {
        let problem = Problem::new("without occurred_at: nothing tells how old an event is");
        let help = "add occurred_at = \"/created_at\", or where in an item its time is";
        table.refuse("tip_lag", problem.help(help));
    }
    Some(tip_lag.value)
}

/// Takes what `[loader]` says where the source says nothing, and checks the hosts with it.
pub(super) fn inherit(table: &TableReader<'_>, options: &mut HttpOptions, defaults: &LoaderConfig) {
    if options.allow_hosts.is_none() {
        options.allow_hosts.clone_from(&defaults.allow_hosts);
    }
    let allow = options.allow_hosts.as_ref();
    let refuse = |key: &str, refused: HostRefused| {
        table.refuse(key, Problem::new(format!("found a value that may not be asked: {refused}")));
    };
    if let Err(refused) = check_url(allow, &options.url) {
        refuse("url", refused);
    }
    if let Some(Auth::OAuth2(oauth2)) = &options.auth
        && let Err(refused) = check_url(allow, &oauth2.token_url)
    {
        refuse("auth", refused);
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
    Ok(url)
}
