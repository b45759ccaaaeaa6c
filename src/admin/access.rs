//! Who may do what: whether a request is meant for this server, comes from where it says, and shows the token.
//!
//! A browser on this machine sends requests for any page it shows. So a request for a foreign `Host` is refused (a name that
//! was rebound to loopback), and one that changes something needs the token and must not come from another site.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Form;
use axum::extract::{Request, State as Given};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::timeout;

use super::server::CLIENT_PATIENCE;
use super::{State, page};
use crate::config::AdminConfig;

/// The cookie of somebody who showed the token in the form.
const COOKIE: &str = "eventloader_session";
/// How long a browser keeps it, in seconds: a working day.
const COOKIE_SECONDS: u32 = 12 * 60 * 60;
/// Wrong tokens a second, over all clients. A number that is not zero, or this does not compile.
const WRONG_TOKENS: NonZeroU32 = NonZeroU32::new(5).unwrap();

/// What is asked of a request.
pub(super) struct Access {
    /// SHA-256 of the token, and what a session shows instead of it.
    token: Option<Proofs>,
    /// Where it listens.
    address: SocketAddr,
    hosts: Vec<String>,
    wrong: DefaultDirectRateLimiter,
}

struct Proofs {
    token: [u8; 32],
    session: String,
}

impl Proofs {
    fn of(token: &SecretString) -> Self {
        let secret = token.expose_secret().as_bytes();
        let session = Sha256::new().chain_update(b"eventloader session\0").chain_update(secret);
        Self {
            token: Sha256::digest(secret).into(),
            session: URL_SAFE_NO_PAD.encode(session.finalize()),
        }
    }

    /// In constant time: digests are compared, of equal length whatever was sent.
    fn is_token(&self, shown: &str) -> bool {
        let shown: [u8; 32] = Sha256::digest(shown.as_bytes()).into();
        self.token.ct_eq(&shown).into()
    }

    fn is_session(&self, shown: &str) -> bool {
        self.session.as_bytes().ct_eq(shown.as_bytes()).into()
    }
}

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    Host,
    Origin,
    NoToken,
    WrongToken,
    Nothing,
}

impl Access {
    pub(super) fn new(config: &AdminConfig, address: SocketAddr) -> Self {
        Self {
            token: config.token.as_ref().map(Proofs::of),
            address,
            hosts: config.hosts.clone(),
            wrong: RateLimiter::direct(Quota::per_second(WRONG_TOKENS)),
        }
    }

    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether the request was meant for us.
    fn check_host(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let Some(name) = host.map(host_name) else { return Err(Refusal::Host) };
        let name = name.to_ascii_lowercase();
        if self.hosts.contains(&name) {
            return Ok(());
        }
        let address = name.trim_matches(['[', ']']).parse::<IpAddr>();
        let is_ours = match (self.address.ip().is_loopback(), address) {
            (true, Ok(address)) => address.is_loopback(),
            (true, Err(_)) => name == "localhost",
            // Nobody rebinds a number.
            (false, Ok(_)) => true,
            (false, Err(_)) => self.hosts.is_empty() || name == "localhost",
        };
        if is_ours { Ok(()) } else { Err(Refusal::Host) }
    }

    /// Whether it shows the token, in the header or as a session.
    fn check_token(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(proofs) = &self.token else { return Err(Refusal::Nothing) };
        if let Some(shown) = bearer(headers) {
            return if proofs.is_token(shown) { Ok(()) } else { Err(Refusal::WrongToken) };
        }
        match session(headers) {
            Some(shown) if proofs.is_session(shown) => Ok(()),
            _ => Err(Refusal::NoToken),
        }
    }

    /// Whether somebody is signed in, for the page.
    pub(super) fn is_known(&self, headers: &HeaderMap) -> bool {
        self.check_token(headers).is_ok()
    }

    fn may_read(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if self.has_token() { self.check_token(headers) } else { Ok(()) }
    }

    fn may_change(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        check_origin(headers)?;
        self.check_token(headers)
    }

    /// The answer to a request that is refused.
    fn refuse(&self, refusal: &Refusal, wants_page: bool) -> Response {
        if *refusal == Refusal::WrongToken && self.wrong.check().is_err() {
            return (StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens\n").into_response();
        }
        let (status, text) = match refusal {
            Refusal::Host => (
                StatusCode::MISDIRECTED_REQUEST,
                "this is eventloader, and not the host that was asked for; add the name to [admin] hosts if it is right",
            ),
            Refusal::Origin => (StatusCode::FORBIDDEN, "the request comes from another site"),
            Refusal::NoToken if wants_page => return Redirect::to("/login").into_response(),
            Refusal::NoToken => {
                (StatusCode::UNAUTHORIZED, "show the token of [admin]: Authorization: Bearer …")
            }
            Refusal::WrongToken => (StatusCode::UNAUTHORIZED, "the token is wrong"),
            Refusal::Nothing => {
                (StatusCode::FORBIDDEN, "nothing can be changed without a token: set [admin] token")
            }
        };
        let body = axum::Json(serde_json::json!({ "error": text }));
        let mut response = (status, body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let scheme = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// Without the port.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn session(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies.flat_map(|line| line.split(';')).find_map(|cookie| {
        let (name, value) = cookie.trim().split_once('=')?;
        (name == COOKIE).then_some(value)
    })
}

/// Browsers say where a request comes from; programs need not.
fn check_origin(headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return Err(Refusal::Origin);
    }
    let Some(origin) = text("origin") else { return Ok(()) };
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    if authority.is_some() && authority == text("host") { Ok(()) } else { Err(Refusal::Origin) }
}

/// Whether a person with a browser asks.
pub(super) fn wants_page(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// What every answer says to a browser.
const SAFETY: [(header::HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Lets requests pass that are meant for this server.
pub(super) async fn is_meant(
    Given(state): Given<Arc<State>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match state.access.check_host(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => state.access.refuse(&refusal, false),
    };
    for (name, value) in SAFETY {
        response.headers_mut().insert(name, header::HeaderValue::from_static(value));
    }
    let policy = page::content_security_policy();
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

/// Gives a request without a token as long as its head had: its body is read, too, before anybody knows who sends it.
pub(super) async fn in_time(request: Request, next: Next) -> Response {
    timeout(CLIENT_PATIENCE, next.run(request))
        .await
        .unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response())
}

/// Lets requests pass that may read.
pub(super) async fn may_read(
    Given(state): Given<Arc<State>>,
    request: Request,
    next: Next,
) -> Response {
    match state.access.may_read(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => state.access.refuse(&refusal, wants_page(request.headers())),
    }
}

/// Lets requests pass that may change something.
pub(super) async fn may_change(
    Given(state): Given<Arc<State>>,
    request: Request,
    next: Next,
) -> Response {
    match state.access.may_change(request.headers()) {
        Ok(()) => {
            let response = next.run(request).await;
            if let Some((_, snapshots)) = state.running() {
                snapshots.forget().await;
            }
            response
        }
        Err(refusal) => state.access.refuse(&refusal, wants_page(request.headers())),
    }
}

#[derive(Deserialize)]
pub(super) struct Login {
    token: SecretString,
}

/// Takes the token from the form, and gives a cookie for it that is of no use anywhere else.
pub(super) async fn login(
    Given(state): Given<Arc<State>>,
    headers: HeaderMap,
    Form(login): Form<Login>,
) -> Response {
    let access = &state.access;
    if let Err(refusal) = check_origin(&headers) {
        return access.refuse(&refusal, false);
    }
    let Some(proofs) = &access.token else { return access.refuse(&Refusal::Nothing, false) };
    if !proofs.is_token(login.token.expose_secret().trim()) {
        if access.wrong.check().is_err() {
            return (StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens\n").into_response();
        }
        return page::login_again();
    }
    let cookie = format!(
        "{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict; Max-Age={COOKIE_SECONDS}",
        proofs.session
    );
    ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response()
}

/// Takes the cookie back.
pub(super) async fn logout() -> Response {
    let cookie = format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
    ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn access(listen: &str, hosts: &[&str], token: Option<&str>) -> Access {
        let listen = listen.parse().unwrap();
        let config = AdminConfig {
            listen,
            token: token.map(SecretString::from),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        };
        Access::new(&config, listen)
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_host_that_is_not_ours_is_refused() {
        for (listen, hosts, host, want) in [
            ("127.0.0.1:8080", &[][..], "localhost:8080", true),
            ("127.0.0.1:8080", &[], "127.0.0.1:8080", true),
            ("127.0.0.1:8080", &[], "127.0.0.1", true),
            ("[::1]:8080", &[], "[::1]:8080", true),
            ("127.0.0.1:8080", &[], "evil.example:8080", false),
            ("127.0.0.1:8080", &[], "localhost.evil.example", false),
            ("127.0.0.1:8080", &[], "10.0.0.1:8080", false),
            ("127.0.0.1:8080", &["events.example.com"], "Events.example.com", true),
            ("127.0.0.1:8080", &["events.example.com"], "evil.example", false),
            ("0.0.0.0:8080", &[], "anything.example", true),
            ("0.0.0.0:8080", &["events.example.com"], "anything.example", false),
            ("0.0.0.0:8080", &["events.example.com"], "10.0.0.1:8080", true),
        ] {
            let access = access(listen, hosts, Some(TOKEN));
            let got = access.check_host(&headers(&[("host", host)])).is_ok();
            assert_eq!(got, want, "{host} at {listen} with {hosts:?}");
        }
        assert!(access("127.0.0.1:1", &[], None).check_host(&headers(&[])).is_err());
    }

    #[test]
    fn changes_need_the_token_and_no_foreign_origin() {
        let right = format!("Bearer {TOKEN}");
        let access = access("127.0.0.1:8080", &[], Some(TOKEN));
        let cookie = format!("a=b; {COOKIE}={}", access.token.as_ref().unwrap().session);
        for (given, want) in [
            (&[("authorization", right.as_str())][..], Ok(())),
            (&[("cookie", cookie.as_str())], Ok(())),
            (&[], Err(Refusal::NoToken)),
            (&[("authorization", "Bearer 0123456789abcdeg")], Err(Refusal::WrongToken)),
            (&[("authorization", "Basic abc")], Err(Refusal::NoToken)),
            (&[("cookie", "eventloader_session=abc")], Err(Refusal::NoToken)),
            (&[("authorization", &right), ("sec-fetch-site", "cross-site")], Err(Refusal::Origin)),
            (&[("authorization", &right), ("sec-fetch-site", "same-origin")], Ok(())),
            (
                &[("cookie", &cookie), ("host", "a:1"), ("origin", "http://b:1")],
                Err(Refusal::Origin),
            ),
            (&[("cookie", &cookie), ("host", "a:1"), ("origin", "http://a:1")], Ok(())),
            (&[("cookie", &cookie), ("host", "a:1"), ("origin", "null")], Err(Refusal::Origin)),
        ] {
            assert_eq!(access.may_change(&headers(given)), want, "{given:?}");
        }
    }

    #[test]
    fn without_a_token_everything_is_read_and_nothing_changed() {
        let access = access("127.0.0.1:8080", &[], None);
        assert_eq!(access.may_read(&headers(&[])), Ok(()));
        let given = headers(&[("authorization", "Bearer ")]);
        assert_eq!(access.may_change(&given), Err(Refusal::Nothing));
    }
}
