//! Tokens of an authorization server: fetched when one is needed, kept until they run out or the API refuses one.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use url::form_urlencoded::{self, Serializer};

use super::auth::{Credentials, OAuth2};
use super::body::{self, BodyError};
use super::date;
use super::failure::send_error;
use super::status::parse_retry_after;
use crate::event::excerpt::excerpt;
use crate::source::{FailureClass, SourceError};

/// Largest answer of a token endpoint, in bytes.
const ANSWER_MAX: usize = 64 << 10;
/// A token is not used for this long before it runs out, or for a tenth of its life where that is shorter.
const MARGIN_MAX: Duration = Duration::from_secs(30);
/// How long a token is kept whose server does not say how long it lives. It may be too long, so a refusal drops it.
const UNSTATED_LIFE: Duration = Duration::from_mins(5);
/// Longest life that is believed, so that the sum with a point in time has a value.
const LIFE_MAX: Duration = Duration::from_hours(24 * 365);
/// Longest piece of a server's own words in a reason, in characters.
const DESCRIPTION_LENGTH_MAX: usize = 300;

/// The token of one source.
pub(super) struct Tokens {
    oauth2: OAuth2,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    token: Token,
    usable_until: Instant,
}

/// A token that can be used now.
#[derive(Clone)]
pub(super) struct Token {
    secret: SecretString,
    /// Whether it was fetched for this very request.
    pub(super) is_new: bool,
}

impl Token {
    pub(super) fn secret(&self) -> &str {
        self.secret.expose_secret()
    }
}

impl Tokens {
    pub(super) fn new(oauth2: OAuth2) -> Self {
        Self { oauth2, kept: Mutex::new(None) }
    }

    /// The token that is kept, or a new one. Whoever comes while one is being fetched waits for that one.
    ///
    /// # Cancel safety
    ///
    /// A fetch that is dropped brings nothing, and the next one begins anew.
    pub(super) async fn get(
        &self,
        client: &Client,
        deadline: Instant,
    ) -> Result<Token, SourceError> {
        let late = || SourceError::not_sent(self.said("did not answer in time"));
        let mut kept = timeout_at(deadline, self.kept.lock()).await.map_err(|_| late())?;
        if let Some(kept) = kept.as_ref().filter(|kept| Instant::now() < kept.usable_until) {
            return Ok(Token { is_new: false, ..kept.token.clone() });
        }
        *kept = None;
        let asked_at = Instant::now();
        let sent = timeout_at(deadline, self.request(client).send()).await.map_err(|_| late())?;
        let response = sent.map_err(|error| {
            let error = send_error(&self.oauth2.token_url, error);
            let reason = self.said(&format!("gave no token: {}", error.reason));
            // Whatever became of the token request: the source itself was not asked.
            let class = match error.class {
                FailureClass::Rejected => FailureClass::Rejected,
                _ => FailureClass::NotSent,
            };
            SourceError::new(class, reason)
        })?;
        let answer = self.read(response, deadline).await?;
        let life = answer.life();
        let token = Token { secret: answer.access_token, is_new: true };
        let usable_until = asked_at + usable_for(life);
        *kept = Some(Kept { token: token.clone(), usable_until });
        Ok(token)
    }

    /// Forgets a token that the API did not accept, unless another one is kept by now.
    pub(super) async fn forget(&self, token: &Token) {
        let mut kept = self.kept.lock().await;
        if kept.as_ref().is_some_and(|kept| kept.token.secret() == token.secret()) {
            *kept = None;
        }
    }

    fn request(&self, client: &Client) -> reqwest::RequestBuilder {
        let (id, secret) = (&self.oauth2.client_id, self.oauth2.client_secret.expose_secret());
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        for (name, value) in [("scope", &self.oauth2.scope), ("audience", &self.oauth2.audience)] {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        let request = client.post(self.oauth2.token_url.clone());
        let request = match self.oauth2.credentials {
            // Both parts are encoded like a form first (RFC 6749, section 2.3.1).
            Credentials::Header => {
                let encode = |text: &str| -> String {
                    form_urlencoded::byte_serialize(text.as_bytes()).collect()
                };
                request.basic_auth(encode(id), Some(encode(secret)))
            }
            Credentials::Body => {
                form.append_pair("client_id", id).append_pair("client_secret", secret);
                request
            }
        };
        let is_form = HeaderValue::from_static("application/x-www-form-urlencoded");
        let json = HeaderValue::from_static("application/json");
        let request = request.header(CONTENT_TYPE, is_form);
        request.header(reqwest::header::ACCEPT, json).body(form.finish())
    }

    async fn read(&self, response: Response, deadline: Instant) -> Result<Answer, SourceError> {
        let (status, headers) = (response.status(), response.headers().clone());
        let body = body::read(response, deadline, ANSWER_MAX).await.map_err(|error| {
            SourceError::not_sent(self.said(&match error {
                BodyError::Late => "did not answer in time".to_owned(),
                BodyError::Broken(cause) => format!("broke off its answer: {cause}"),
                BodyError::Oversized(_) => format!("answered more than {ANSWER_MAX} bytes"),
            }))
        })?;
        if status != StatusCode::OK {
            return Err(self.refusal(status, &headers, &body));
        }
        let Ok(answer) = serde_json::from_slice::<Answer>(&body) else {
            let reason = self.said("answered 200 without an access_token in a JSON object");
            return Err(SourceError::not_sent(reason));
        };
        if answer.access_token.expose_secret().parse::<HeaderValue>().is_err() {
            return Err(SourceError::not_sent(
                self.said("answered a token that no header can hold"),
            ));
        }
        match &answer.token_type {
            Some(kind) if !kind.eq_ignore_ascii_case("bearer") => {
                let kind = excerpt(kind, 40);
                let reason = self.said(&format!("answered a token of type \"{kind}\", not Bearer"));
                Err(SourceError::new(FailureClass::Rejected, reason))
            }
            _ => Ok(answer),
        }
    }

    /// What a status other than 200 means. The request for events was not sent in any case.
    fn refusal(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> SourceError {
        let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after =
            retry_after.and_then(|value| parse_retry_after(value, date::now_at_source(headers)));
        let problem: OAuthProblem = serde_json::from_slice(body).unwrap_or_default();
        let words = [problem.error, problem.error_description];
        let words: Vec<String> =
            words.into_iter().flatten().map(|text| self.without(&text)).collect();
        let words =
            if words.is_empty() { String::new() } else { format!(" ({})", words.join(": ")) };
        let class = match status.as_u16() {
            408 | 429 | 500..=599 => FailureClass::NotSent,
            _ => FailureClass::Rejected,
        };
        let hint = match (class, status.is_redirection()) {
            (FailureClass::Rejected, true) => {
                "; redirects are not followed, set token_url to where it points"
            }
            (FailureClass::Rejected, false) => {
                "; check token_url, client_id, client_secret, scope and credentials"
            }
            _ => "",
        };
        SourceError::new(class, self.said(&format!("answered {status}{words}{hint}")))
            .with_retry_after(retry_after)
    }

    fn said(&self, what: &str) -> String {
        let host = self.oauth2.token_url.host_str().unwrap_or_default();
        format!("no request was sent: the token endpoint at {host} {what}")
    }

    /// A server's words, without the secret that they may repeat.
    fn without(&self, text: &str) -> String {
        let secret = self.oauth2.client_secret.expose_secret();
        let text = if secret.is_empty() { text.to_owned() } else { text.replace(secret, "***") };
        excerpt(&text, DESCRIPTION_LENGTH_MAX)
    }
}

/// RFC 6749, section 5.1.
#[derive(Deserialize)]
struct Answer {
    access_token: SecretString,
    token_type: Option<String>,
    /// Seconds; some servers write a string.
    expires_in: Option<serde_json::Value>,
}

impl Answer {
    fn life(&self) -> Duration {
        let seconds = self.expires_in.as_ref().and_then(|value| match value {
            serde_json::Value::String(text) => text.trim().parse().ok(),
            other => other.as_f64(),
        });
        match seconds {
            None => UNSTATED_LIFE,
            Some(seconds) if seconds > 0.0 => {
                Duration::try_from_secs_f64(seconds).unwrap_or(LIFE_MAX).min(LIFE_MAX)
            }
            Some(_) => Duration::ZERO,
        }
    }
}

/// RFC 6749, section 5.2.
#[derive(Default, Deserialize)]
struct OAuthProblem {
    error: Option<String>,
    error_description: Option<String>,
}

/// How long a token of this life is used.
fn usable_for(life: Duration) -> Duration {
    life.saturating_sub(MARGIN_MAX.min(life / 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_used_shortly_before_it_runs_out() {
        for (life, want) in [(0, 0), (1_000, 900), (300_000, 270_000), (3_600_000, 3_570_000)] {
            let life = Duration::from_millis(life);
            assert_eq!(usable_for(life), Duration::from_millis(want), "{life:?}");
        }
    }

    #[test]
    fn the_life_of_a_token_is_read_in_every_form() {
        for (text, want) in [
            ("3600", Duration::from_hours(1)),
            ("\"3600\"", Duration::from_hours(1)),
            ("0.5", Duration::from_millis(500)),
            ("null", UNSTATED_LIFE),
            ("\"soon\"", UNSTATED_LIFE),
            ("0", Duration::ZERO),
            ("-5", Duration::ZERO),
            ("1e300", LIFE_MAX),
        ] {
            let text = format!("{{\"access_token\":\"t\",\"expires_in\":{text}}}");
            let answer: Answer = serde_json::from_str(&text).unwrap();
            assert_eq!(answer.life(), want, "{text}");
        }
    }
}
