//! The status page: HTML made here, whole without JavaScript. With it, `/live` sends the same parts anew when they change.

mod actions;
mod head;
mod letters;
mod sources;

use std::sync::{Arc, LazyLock};

use axum::extract::{Query, State as Given};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::api::{ApiError, LettersQuery, letter_and_body, running};
use super::{State, health};
use crate::store::dead_letter;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// So that no browser asks for one.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath \
                    d='M2 3h12M4 8h8M7 13h2' stroke='%231a7f37' stroke-width='3'/%3E%3C/svg%3E";

/// What a browser may do with any answer: nothing but run the page's own script and style, and show its icon.
pub(super) fn content_security_policy() -> HeaderValue {
    static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
        let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; connect-src 'self'; \
             form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
            hash(SCRIPT),
            hash(STYLE)
        );
        HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
    });
    POLICY.clone()
}

/// What somebody wants to see.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct View {
    /// Part of a source's name.
    q: String,
    /// Only sources in this state.
    state: String,
    /// By what the sources are sorted.
    sort: Sort,
    /// Which hundred of them.
    page: usize,
    /// Only dead letters of this kind.
    kind: String,
    /// Only dead letters of this origin.
    origin: String,
    /// The dead letter whose body is shown.
    letter: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Sort {
    /// What does not get on comes first, the longest first.
    #[default]
    Trouble,
    Name,
    Lag,
    LastRequest,
    DeadLetters,
}

const SORTS: [(Sort, &str, &str); 5] = [
    (Sort::Trouble, "trouble", "trouble first"),
    (Sort::Name, "name", "name"),
    (Sort::Lag, "lag", "lag"),
    (Sort::LastRequest, "last_request", "last request"),
    (Sort::DeadLetters, "dead_letters", "dead letters"),
];

impl View {
    /// What was asked for, but neither the page nor the letter.
    fn fields(&self) -> [(&'static str, &str); 5] {
        let sort = SORTS.iter().find(|(sort, ..)| *sort == self.sort).map_or("trouble", |s| s.1);
        [
            ("q", &self.q),
            ("state", &self.state),
            ("sort", sort),
            ("kind", &self.kind),
            ("origin", &self.origin),
        ]
    }

    /// The address of the same view with another page.
    fn link(&self, page: usize) -> String {
        let mut query = url::form_urlencoded::Serializer::for_suffix("/?".to_owned(), 2);
        query.extend_pairs(self.fields().into_iter().filter(|(_, value)| !value.is_empty()));
        query.append_pair("page", &page.to_string()).finish()
    }

    /// The address of the same view with sources of another state, empty: of all.
    fn link_to_state(&self, state: &str) -> String {
        Self { state: state.to_owned(), ..self.clone() }.link(0)
    }

    /// Takes these fields along in a form that is about the others.
    fn kept(&self, names: &[&str]) -> Markup {
        html! {
            @for (name, value) in self.fields() {
                @if names.contains(&name) && !value.is_empty() { input type="hidden" name=(name) value=(value); }
            }
        }
    }

    fn letters(&self) -> LettersQuery {
        LettersQuery {
            kind: Some(self.kind.clone()),
            origin: Some(self.origin.clone()),
            replayed: false,
            limit: Some(letters::LISTED),
        }
    }
}

/// The parts of the page that change.
pub(super) struct Parts {
    pub(super) head: Markup,
    pub(super) sources: Markup,
    pub(super) letters: Markup,
    title: String,
}

impl Parts {
    /// Reads and draws them.
    pub(super) async fn draw(
        state: &State,
        view: &View,
        headers: &HeaderMap,
    ) -> Result<Self, ApiError> {
        let (running, snapshots) = running(state)?;
        let answer = snapshots.read().await;
        let rates = snapshots.event_rates();
        let may_change = state.access.is_known(headers);
        let Ok(snapshot) = &answer else {
            let unknown = html! { p { "Unknown while the database does not answer." } };
            return Ok(Self {
                head: head::facts(running, &answer, &[], &rates),
                sources: unknown.clone(),
                letters: unknown,
                title: head::title(&answer, &[]),
            });
        };
        let told = health::sources_not_ready(running, snapshots, snapshot);
        let found = dead_letter::list(&running.pool, &view.letters().filter(Vec::new())).await?;
        let table = sources::Table::new(running, snapshots, snapshot, &told, view, may_change);
        let totals = &snapshot.report.totals;
        Ok(Self {
            head: head::facts(running, &answer, &told, &rates),
            sources: table.draw(),
            letters: letters::table(&found, totals.dead_letter_count, totals.now, view, may_change),
            title: head::title(&answer, &told),
        })
    }
}

/// The page.
pub(super) async fn show(
    Given(state): Given<Arc<State>>,
    Query(view): Query<View>,
    headers: HeaderMap,
) -> Response {
    match draw(&state, &view, &headers).await {
        Ok((title, body)) => {
            // Who reads a letter is not disturbed.
            let reload = view.letter.is_none();
            document(StatusCode::OK, &title, &live(reload), &body)
        }
        Err(error) => {
            let (status, message, hint) = error.said();
            said(status, &message, hint.as_deref())
        }
    }
}

async fn draw(
    state: &State,
    view: &View,
    headers: &HeaderMap,
) -> Result<(String, Markup), ApiError> {
    let parts = Parts::draw(state, view, headers).await?;
    let (running, _) = running(state)?;
    let may_change = state.access.is_known(headers);
    let letter = match view.letter {
        None => html! {},
        Some(id) => match letter_and_body(running, id).await {
            Ok((letter, body)) => letters::shown(&letter, &body, view, may_change),
            Err(error) => html! { p { (error.said().1) } },
        },
    };
    let body = html! {
        (head::banner(state, running, may_change))
        div id="head" { (parts.head) }
        h2 id="sources-title" { "Sources" }
        (sources::filter(view))
        div id="sources" { (parts.sources) }
        h2 id="dead-letters" { "Dead letters" }
        (letters::filter(view))
        div id="letters" { (parts.letters) }
        section id="letter" aria-label="One dead letter" { (letter) }
        div id="toast" { p id="said" role="status" {} button type="button" id="close" { "Close" } }
    };
    Ok((parts.title, body))
}

/// What keeps the page new: the script, or where there is none, the browser's reload.
fn live(reload: bool) -> [Markup; 2] {
    [
        html! { @if reload { noscript { meta http-equiv="refresh" content="15"; } } },
        html! { script { (PreEscaped(SCRIPT)) } },
    ]
}

/// Everything around; `live` is put into the head and at the end.
fn document(status: StatusCode, title: &str, live: &[Markup; 2], body: &Markup) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
                (live[0])
            }
            body { main { (body) } (live[1]) }
        }
    };
    (status, Html(page.into_string())).into_response()
}

/// A page that stays as it is.
fn still(status: StatusCode, body: &Markup) -> Response {
    document(status, "eventloader", &[html! {}, html! {}], body)
}

/// A page that says one thing.
pub(super) fn said(status: StatusCode, message: &str, hint: Option<&str>) -> Response {
    still(
        status,
        &html! {
            h1 { "eventloader" }
            p class="message" { (message) }
            @if let Some(hint) = hint { p { (hint) } }
            p { a href="/" { "Back to the status page" } }
        },
    )
}

/// Where the token is shown.
pub(super) async fn login_form() -> Response {
    login_page(StatusCode::OK, None)
}

/// The same after a wrong one.
pub(super) fn login_again() -> Response {
    login_page(StatusCode::UNAUTHORIZED, Some("That is not the token."))
}

fn login_page(status: StatusCode, complaint: Option<&str>) -> Response {
    still(
        status,
        &html! {
            h1 { "eventloader" }
            form class="login" method="post" action="/login" {
                // Password managers want a name.
                input name="username" value="eventloader" autocomplete="username" hidden;
                label for="token" { "Token of " code { "[admin]" } }
                input id="token" name="token" type="password" autocomplete="current-password" required autofocus
                    aria-describedby=[complaint.map(|_| "complaint")] aria-invalid=[complaint.map(|_| "true")];
                @if let Some(complaint) = complaint { p id="complaint" role="alert" { (complaint) } }
                button { "Sign in" }
            }
        },
    )
}

/// A form that changes something, after a question where it needs one. Without JavaScript nobody asks: a box is ticked.
fn form(action: &str, inside: &Markup, question: Option<&str>) -> Markup {
    html! {
        form method="post" action=(action) data-key=(action) data-act="" data-confirm=[question] {
            (inside)
            @if question.is_some() { noscript { label { input type="checkbox" required; " sure" } } }
        }
    }
}

/// As a part of an address.
fn link_of(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn seconds(lasted: TimeDelta) -> f64 {
    lasted.to_std().unwrap_or_default().as_secs_f64()
}

/// A time that has passed, short.
fn age(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

fn number(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        for (seconds, want) in [
            (0.04, "0.0 s"),
            (9.9, "9.9 s"),
            (61.0, "61 s"),
            (600.0, "10 min"),
            (90_000.0, "25 h"),
            (864_000.0, "10 d"),
        ] {
            assert_eq!(age(seconds), want);
        }
    }
}
