//! `auth`, and what must not stand beside it.

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::headers::{check_header_name, header_value};
use super::http_url;
use crate::config::error::Problem;
use crate::config::masking;
use crate::config::reader::TableReader;
use crate::config::setting::Setting;
use crate::sources::http::{Auth, Credentials, HttpOptions, OAuth2};

#[derive(Clone, Copy)]
enum Kind {
    Bearer,
    Basic,
    Header,
    OAuth2,
}

const KINDS: &[(&str, Kind)] = &[
    ("bearer", Kind::Bearer),
    ("basic", Kind::Basic),
    ("header", Kind::Header),
    ("oauth2", Kind::OAuth2),
];

/// Reads who asks.
pub(super) fn read(table: &mut TableReader<'_>) -> Option<Auth> {
    let is_there = table.has("auth");
    let mut auth = table.table("auth");
    if !is_there {
        return None;
    }
    if auth.describes() {
        for (word, kind) in KINDS {
            let mut auth = auth.absent(word);
            require_type(&mut auth);
            read_kind(&mut auth, *kind);
        }
        return None;
    }
    let Some(kind) = require_type(&mut auth) else {
        auth.abandon();
        return None;
    };
    let read = read_kind(&mut auth, kind);
    auth.finish();
    read
}

fn require_type(auth: &mut TableReader<'_>) -> Option<Kind> {
    let help = "add type = \"bearer\", \"basic\", \"header\" or \"oauth2\"";
    auth.require("type", help, |s| s.one_of(KINDS)).map(|read| read.value)
}

fn read_kind(auth: &mut TableReader<'_>, kind: Kind) -> Option<Auth> {
    match kind {
        Kind::Bearer => require(auth, "token", secret).map(|token| Auth::Bearer { token }),
        Kind::Basic => {
            let username = require(auth, "username", username);
            let password = require(auth, "password", header_value);
            username.zip(password).map(|(username, password)| Auth::Basic { username, password })
        }
        Kind::Header => {
            let name = require(auth, "name", header_name);
            let value = require(auth, "value", secret);
            name.zip(value).map(|(name, value)| Auth::Header { name, value })
        }
        Kind::OAuth2 => oauth2(auth).map(Auth::OAuth2),
    }
}

fn oauth2(auth: &mut TableReader<'_>) -> Option<OAuth2> {
    let token_url = require(auth, "token_url", http_url);
    let client_id = require(auth, "client_id", text);
    let client_secret = require(auth, "client_secret", secret);
    let scope = auth.read_or("scope", None, |s| text(s).map(Some));
    let audience = auth.read_or("audience", None, |s| text(s).map(Some));
    let places = [("header", Credentials::Header), ("body", Credentials::Body)];
    let credentials = auth.read_or("credentials", Credentials::Header, |s| s.one_of(&places));
    let (token_url, client_id, client_secret) = (token_url?, client_id?, client_secret?);
    Some(OAuth2 { token_url, client_id, client_secret, scope, audience, credentials })
}

fn require<T>(
    auth: &mut TableReader<'_>,
    key: &'static str,
    convert: impl FnOnce(&Setting<'_>) -> Result<T, Problem>,
) -> Option<T> {
    let help = format!("add {key} = \"…\", or \"${{NAME}}\" to fill it from the environment");
    auth.require(key, &help, convert).map(|read| read.value)
}

fn text(setting: &Setting<'_>) -> Result<String, Problem> {
    secret(setting).map(|text| text.expose_secret().to_owned())
}

fn secret(setting: &Setting<'_>) -> Result<SecretString, Problem> {
    let secret = header_value(setting)?;
    if secret.expose_secret().trim().is_empty() {
        return Err(Problem::new("empty").help("look at the variable it is filled from"));
    }
    Ok(secret)
}

fn username(setting: &Setting<'_>) -> Result<String, Problem> {
    let username = header_value(setting)?.expose_secret().to_owned();
    if username.contains(':') {
        return Err(Problem::new("a user name with \":\" in it, which ends it")
            .help("take what follows the \":\" for the password"));
    }
    Ok(username)
}

fn header_name(setting: &Setting<'_>) -> Result<String, Problem> {
    let text = setting.text()?;
    check_header_name(&text.value, &[]).map_err(|problem| text.refuse(problem))?;
    Ok(text.value)
}

/// Checks that nothing says twice who asks, and that nobody on the way can read it.
pub(super) fn check(table: &TableReader<'_>, options: &HttpOptions, allow_insecure: bool) {
    let has_user = !options.url.username().is_empty() || options.url.password().is_some();
    let own_header = match &options.auth {
        Some(Auth::Header { name, .. }) => Some(name.as_str()),
        Some(_) => Some("Authorization"),
        None => None,
    };
    if let Some(own) = own_header {
        let is_own = |name: &str| name.eq_ignore_ascii_case(own);
        if let Some((name, _)) = options.headers.iter().find(|(name, _)| is_own(name)) {
            let problem = Problem::new(format!("sets the header {own}, which `headers` sets too"));
            table.refuse("auth", problem.help(format!("take {name} out of headers, or auth out")));
        }
        if has_user && is_own("Authorization") {
            let problem = Problem::new("says who asks, and so does the user name in the url");
            table.refuse("auth", problem.help("take one of them out"));
        }
    }
    if allow_insecure {
        return;
    }
    let is_secret = |name: &str| {
        masking::is_secret_variable(name) || name.to_ascii_lowercase().contains("cookie")
    };
    let has_credentials = has_user
        || options.auth.is_some()
        || options.headers.iter().any(|(name, _)| is_secret(name));
    if has_credentials {
        check_clear("url", "url", &options.url, table);
    }
    if let Some(Auth::OAuth2(oauth2)) = &options.auth {
        check_clear("auth", "token_url", &oauth2.token_url, table);
    }
}

fn check_clear(key: &str, name: &str, url: &Url, table: &TableReader<'_>) {
    let is_here = match url.host() {
        Some(url::Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(url::Host::Ipv4(v4)) => v4.is_loopback(),
        Some(url::Host::Ipv6(v6)) => v6.is_loopback(),
        None => true,
    };
    if url.scheme() == "http" && !is_here {
        let found =
            format!("found credentials that go to another machine in the clear: {name} is http");
        let problem = Problem::new(found)
            .expected("an https:// URL")
            .help("use https://, or add allow_insecure = true if nobody can listen on the way");
        table.refuse(key, problem);
    }
}
