//! How a source is told who asks.

use std::fmt;

use reqwest::Client;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::HttpSourceError;
use super::options::shown_url;

/// `auth`: who asks. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub enum Auth {
    /// `type = "bearer"`: `Authorization: Bearer TOKEN`.
    Bearer {
        /// `token`.
        token: SecretString,
    },
    /// `type = "basic"`: user name and password.
    Basic {
        /// `username`.
        username: String,
        /// `password`.
        password: SecretString,
    },
    /// `type = "header"`: a header of the API's own, such as `X-Api-Key`.
    Header {
        /// `name`.
        name: String,
        /// `value`.
        value: SecretString,
    },
    /// `type = "oauth2"`: a token of an authorization server (RFC 6749, client credentials).
    OAuth2(OAuth2),
}

/// The client credentials grant of OAuth 2 (RFC 6749, section 4.4).
#[derive(Clone)]
pub struct OAuth2 {
    /// `token_url`: the token endpoint.
    pub token_url: Url,
    /// `client_id`.
    pub client_id: String,
    /// `client_secret`.
    pub client_secret: SecretString,
    /// `scope`: what the token is to allow, space-separated. Default none.
    pub scope: Option<String>,
    /// `audience`: for whom the token is, which some servers ask for. Default none.
    pub audience: Option<String>,
    /// `credentials`: where the client's id and secret go, `header` or `body`. Default header.
    pub credentials: Credentials,
}

/// Where the id and the secret of a client stand in a token request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// In `Authorization: Basic`, which every server has to understand.
    Header,
    /// In the body, as `client_id` and `client_secret`.
    Body,
}

impl fmt::Debug for OAuth2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuth2")
            .field("token_url", &shown_url(&self.token_url))
            .field("client_id", &self.client_id)
            .field("client_secret", &self.client_secret)
            .field("scope", &self.scope)
            .field("audience", &self.audience)
            .field("credentials", &self.credentials)
            .finish()
    }
}

impl Auth {
    /// The headers that are the same in every request. A token of an authorization server comes later.
    pub(super) fn headers(&self, client: &Client) -> Result<HeaderMap, HttpSourceError> {
        let authorization = || HttpSourceError::Header(AUTHORIZATION.to_string());
        let mut headers = HeaderMap::new();
        match self {
            Self::Bearer { token } => {
                let value = SecretString::from(format!("Bearer {}", token.expose_secret()));
                headers.extend([header("authorization", &value)?]);
            }
            Self::Basic { username, password } => {
                // The library knows how to encode them; this request is never sent.
                let request = client.get("http://localhost");
                let request = request.basic_auth(username, Some(password.expose_secret()));
                let request = request.build().map_err(|_| authorization())?;
                let value = request.headers().get(AUTHORIZATION).ok_or_else(authorization)?;
                headers.insert(AUTHORIZATION, value.clone());
            }
            Self::Header { name, value } => headers.extend([header(name, value)?]),
            Self::OAuth2(_) => {}
        }
        Ok(headers)
    }
}

/// A header whose value is kept out of logs.
pub(super) fn header(
    name: &str,
    value: &SecretString,
) -> Result<(HeaderName, HeaderValue), HttpSourceError> {
    let invalid = || HttpSourceError::Header(name.to_owned());
    let key = name.parse().map_err(|_| invalid())?;
    let mut value: HeaderValue = value.expose_secret().parse().map_err(|_| invalid())?;
    value.set_sensitive(true);
    Ok((key, value))
}
