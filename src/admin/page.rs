//! The status page: HTML made here, whole without JavaScript. With it, `/live` sends the same parts anew when they change.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use axum::extract::{Query, State as Given};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::api::{ApiError, LettersQuery, letter_and_body, running};
use super::snapshot::{Answer, Snapshot, Snapshots};
use super::{Running, State, health};
use crate::status::NotReady;
use crate::store::dead_letter::{self, DeadLetter};
use crate::store::source::SourceStatus;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Rows of one page of the table: what a browser draws anew every two seconds without anybody noticing.
const ROWS: usize = 100;
/// Dead letters that are listed.
const LETTERS: i64 = 20;
/// The beginning of a body that is shown, in bytes.
const BODY_SHOWN: usize = 64 << 10;
/// Points of the sparkline.
const POINTS: usize = 120;

/// What a browser may do with any answer: nothing but run the page's own script and style.
pub(super) fn content_security_policy() -> HeaderValue {
    static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
        let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; form-action 'self'; \
             frame-ancestors 'none'; base-uri 'none'",
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

const STATES: [&str; 5] = ["ok", "paused", "held", "rejected", "backing_off"];

impl View {
    /// The address of the same view with another page.
    fn link(&self, page: usize) -> String {
        let sort = SORTS.iter().find(|(sort, ..)| *sort == self.sort).map_or("trouble", |s| s.1);
        let text = |value: &str| {
            url::form_urlencoded::byte_serialize(value.as_bytes()).collect::<String>()
        };
        let mut link =
            format!("/?q={}&state={}&sort={sort}&page={page}", text(&self.q), text(&self.state));
        for (name, value) in [("kind", &self.kind), ("origin", &self.origin)] {
            if !value.is_empty() {
                link.extend(["&", name, "=", &text(value)]);
            }
        }
        link
    }

    fn letters(&self) -> LettersQuery {
        LettersQuery {
            kind: Some(self.kind.clone()),
            origin: Some(self.origin.clone()),
            replayed: false,
            limit: Some(LETTERS),
        }
    }
}

/// The parts of the page that change.
pub(super) struct Parts {
    pub(super) head: Markup,
    pub(super) sources: Markup,
    pub(super) letters: Markup,
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
        let may_change = state.access.is_known(headers);
        let head = head(running, snapshots, &answer);
        let Ok(snapshot) = answer else {
            return Ok(Self { head, sources: html! {}, letters: html! {} });
        };
        let told = health::sources_not_ready(running, snapshots, &snapshot);
        let letters = dead_letter::list(&running.pool, &view.letters().filter(Vec::new())).await?;
        Ok(Self {
            head,
            sources: sources(running, snapshots, &snapshot, &told, view, may_change),
            letters: letters_table(&letters, &snapshot, view, may_change),
        })
    }
}

/// The page.
pub(super) async fn show(
    Given(state): Given<Arc<State>>,
    Query(view): Query<View>,
    headers: HeaderMap,
) -> Response {
    let parts = match Parts::draw(&state, &view, &headers).await {
        Ok(parts) => parts,
        Err(error) => {
            let (status, message, hint) = error.said();
            return said(status, &message, hint.as_deref());
        }
    };
    let letter = match view.letter {
        None => None,
        Some(id) => match running(&state) {
            Ok((running, _)) => letter_and_body(running, id).await.ok(),
            Err(_) => None,
        },
    };
    let may_change = state.access.is_known(&headers);
    document(
        StatusCode::OK,
        true,
        &html! {
            div id="head" { (parts.head) }
            (sign(&state, may_change))
            p id="said" role="status" aria-live="polite" {}
            h2 { "Sources" }
            (filter(&view))
            div id="sources" { (parts.sources) }
            h2 id="dead-letters" { "Dead letters" }
            (letter_filter(&view))
            div id="letters" { (parts.letters) }
            @if let Some((letter, body)) = letter { (shown_letter(&letter, &body, may_change)) }
        },
    )
}

/// Everything around.
fn document(status: StatusCode, is_live: bool, body: &Markup) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "eventloader" }
                style { (PreEscaped(STYLE)) }
                @if is_live { noscript { meta http-equiv="refresh" content="5"; } }
            }
            body {
                main { (body) }
                @if is_live { script { (PreEscaped(SCRIPT)) } }
            }
        }
    };
    (status, Html(page.into_string())).into_response()
}

/// A page that says one thing.
pub(super) fn said(status: StatusCode, message: &str, hint: Option<&str>) -> Response {
    document(
        status,
        false,
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
    document(
        status,
        false,
        &html! {
            h1 { "eventloader" }
            @if let Some(complaint) = complaint { p class="message" role="alert" { (complaint) } }
            form method="post" action="/login" {
                label for="token" { "Token of " code { "[admin]" } }
                " "
                input id="token" name="token" type="password" autocomplete="current-password" required autofocus;
                " "
                button { "Sign in" }
            }
        },
    )
}

fn sign(state: &State, may_change: bool) -> Markup {
    html! {
        p class="sign" {
            span id="live" { "not live: reload to see what is new" }
            " · "
            @if may_change {
                form method="post" action="/logout" { button class="link" { "sign out" } }
            } @else if state.access.has_token() {
                a href="/login" { "sign in to change something" }
            } @else {
                "nothing can be changed here: [admin] has no token"
            }
        }
    }
}

fn head(running: &Running, snapshots: &Snapshots, answer: &Answer) -> Markup {
    let rates = snapshots.event_rates();
    html! {
        h1 { "eventloader " small { (env!("CARGO_PKG_VERSION")) " · " (running.owner) } }
        dl class="facts" {
            @match answer {
                Ok(snapshot) => (facts(snapshot)),
                Err(away) => {
                    div class="bad" { dt { "Database" } dd { "away for " (age(away.since.elapsed().as_secs_f64())) } }
                    div class="bad wide" { dt { "It says" } dd { (away.reason) } }
                }
            }
            div {
                dt { "Events/s, this instance" }
                dd { (number(rates.last().copied().unwrap_or_default())) " " (sparkline(&rates)) }
            }
            @for pulse in running.pulses.iter().filter(|pulse| !pulse.is_alive()) {
                div class="bad" { dt { (pulse.part) } dd { "hangs for " (age(pulse.age().as_secs_f64())) } }
            }
        }
    }
}

fn facts(snapshot: &Snapshot) -> Markup {
    let totals = &snapshot.report.totals;
    let distance = &snapshot.distance;
    html! {
        div { dt { "Inbox" } dd { (totals.inbox_count) @if totals.inbox_count >= 100_000 { " or more" } } }
        div {
            dt { "Oldest in it" }
            dd { @match totals.inbox_oldest_seconds { Some(seconds) => (age(seconds)), None => "–" } }
        }
        div { dt { "Last position" } dd { (totals.last_position) } }
        div class=[(totals.dead_letter_count > 0).then_some("bad")] {
            dt { "Dead letters" } dd { a href="#dead-letters" { (totals.dead_letter_count) } }
        }
        div { dt { "Database" } dd { "answers in " (format!("{:.1}", distance.round_trip.as_secs_f64() * 1000.0)) " ms" } }
        @if distance.clock_ahead_seconds.abs() >= 1.0 {
            div class="bad" { dt { "Clocks" } dd { (format!("{:+.1}", distance.clock_ahead_seconds)) " s apart" } }
        }
    }
}

/// The rates of the last hour as a line; a few points stand for all.
fn sparkline(rates: &[f64]) -> Markup {
    let step = rates.len().div_ceil(POINTS).max(1);
    let points: Vec<f64> = rates.chunks(step).map(|chunk| mean(chunk)).collect();
    let most = points.iter().copied().fold(1.0, f64::max);
    let line: Vec<_> = points
        .iter()
        .zip(0_u32..)
        .map(|(rate, x)| format!("{x},{:.1}", 23.0 - 22.0 * rate / most))
        .collect();
    html! {
        svg viewBox="0 0 120 24" width="120" height="24" role="img"
            aria-label=(format!("events a second in the last hour, {} at most", number(most))) {
            polyline fill="none" stroke="currentColor" stroke-width="1" points=(line.join(" ")) {}
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / f64::from(u32::try_from(values.len()).unwrap_or(u32::MAX).max(1))
}

fn filter(view: &View) -> Markup {
    html! {
        form class="filter" method="get" action="/" data-live="" {
            label { "Name " input type="search" name="q" value=(view.q) data-key="q"; }
            label {
                "State "
                select name="state" {
                    option value="" { "all" }
                    @for state in STATES { option value=(state) selected[view.state == state] { (state) } }
                }
            }
            label {
                "Order "
                select name="sort" {
                    @for (sort, value, text) in SORTS { option value=(value) selected[view.sort == sort] { (text) } }
                }
            }
            button { "Show" }
        }
    }
}

/// The sources that are wanted, in order.
fn chosen<'s>(snapshot: &'s Snapshot, told: &[NotReady], view: &View) -> Vec<&'s SourceStatus> {
    let wanted = view.q.to_lowercase();
    let mut rows: Vec<_> = snapshot
        .report
        .sources
        .iter()
        .filter(|source| source.source_name.to_lowercase().contains(&wanted))
        .filter(|source| view.state.is_empty() || source.state == view.state)
        .collect();
    let places: HashMap<_, _> =
        told.iter().enumerate().map(|(place, told)| (told.source_name.as_str(), place)).collect();
    // They come sorted by name, which decides between equals.
    match view.sort {
        Sort::Name => {}
        Sort::Trouble => rows.sort_by_key(|source| {
            places.get(source.source_name.as_str()).copied().unwrap_or(usize::MAX)
        }),
        Sort::Lag => rows.sort_by_key(|source| std::cmp::Reverse(lag(source))),
        Sort::LastRequest => rows.sort_by_key(|source| std::cmp::Reverse(source.last_request_at)),
        Sort::DeadLetters => rows.sort_by_key(|source| std::cmp::Reverse(source.dead_letter_count)),
    }
    rows
}

fn lag(source: &SourceStatus) -> i64 {
    source.last_requested_id.saturating_sub(source.last_stored_id)
}

fn sources(
    running: &Running,
    snapshots: &Snapshots,
    snapshot: &Snapshot,
    told: &[NotReady],
    view: &View,
    may_change: bool,
) -> Markup {
    let rows = chosen(snapshot, told, view);
    let pages = rows.len().div_ceil(ROWS).max(1);
    let page = view.page.min(pages - 1);
    let config = Arc::clone(&running.config.borrow());
    let allowed: HashMap<_, _> = config
        .sources
        .iter()
        .map(|source| (source.name.as_str(), source.loading.min_interval.as_secs_f64()))
        .collect();
    let rates = snapshots.request_rates();
    let told: HashMap<_, _> = told.iter().map(|told| (told.source_name.as_str(), told)).collect();
    let now = snapshot.report.totals.now;
    html! {
        p { (rows.len()) " of " (snapshot.report.sources.len()) " sources" (pager(view, page, pages)) }
        div class="scroll" {
            table {
                thead { tr {
                    @for title in ["Source", "State", "Requested", "Stored", "Lag", "Last request", "Requests/s here", "Errors", "Actions"] {
                        th scope="col" { (title) }
                    }
                } }
                tbody {
                    @for source in rows.iter().skip(page * ROWS).take(ROWS) {
                        (row(&Row {
                            source,
                            told: told.get(source.source_name.as_str()).copied(),
                            rate: rates.get(&source.source_name).copied(),
                            interval: allowed.get(source.source_name.as_str()).copied(),
                            failures: failures(running, &source.source_name),
                            now,
                            may_change,
                        }))
                    }
                }
            }
        }
    }
}

fn failures(running: &Running, source_name: &str) -> u64 {
    use crate::metrics::Outcome;

    let counted = running.metrics.source(source_name);
    let failed = Outcome::ALL.into_iter().filter(|outcome| matches!(outcome, Outcome::Failed(_)));
    failed.map(|outcome| counted.outcome(outcome)).sum()
}

fn pager(view: &View, page: usize, pages: usize) -> Markup {
    html! {
        @if pages > 1 {
            " · page " (page + 1) " of " (pages)
            @if page > 0 { " · " a href=(view.link(page - 1)) data-key="previous" { "previous" } }
            @if page + 1 < pages { " · " a href=(view.link(page + 1)) data-key="next" { "next" } }
        }
    }
}

struct Row<'a> {
    source: &'a SourceStatus,
    told: Option<&'a NotReady>,
    rate: Option<f64>,
    interval: Option<f64>,
    failures: u64,
    now: DateTime<Utc>,
    may_change: bool,
}

fn row(row: &Row<'_>) -> Markup {
    let Row { source, told, now, .. } = row;
    let state = told.map_or(source.state.as_str(), |told| told.state.as_str());
    let allowed = row.interval.filter(|interval| *interval > 0.0).map(|interval| 1.0 / interval);
    html! {
        tr {
            th scope="row" { (source.source_name) " " small { (source.source_type) } }
            td class=(format!("state {state}")) {
                b { (state) }
                @if let Some(told) = told {
                    " for " (age(seconds(*now - told.since)))
                    @if told.is_stalled { " " strong { "stalled" } }
                }
                @if let Some(reason) = &source.reason { br; span class="reason" { (reason) } }
                @if source.gap_count > 0 { br; span class="reason" { (source.gap_count) " gaps: ids that the source dropped" } }
            }
            td class="number" { (source.last_requested_id) }
            td class="number" { (source.last_stored_id) }
            td class="number" { (lag(source)) }
            td {
                @match source.last_request_at {
                    Some(at) => { time datetime=(at.to_rfc3339()) { (age(seconds(*now - at))) " ago" } }
                    None => "–"
                }
                @if let Some(until) = source.not_before { br; "not before " (until.format("%H:%M:%S")) }
            }
            td class="number" {
                (number(row.rate.unwrap_or_default()))
                @if let Some(allowed) = allowed { " of " (number(allowed)) }
            }
            td class="number" {
                (row.failures)
                @if source.dead_letter_count > 0 { br; (source.dead_letter_count) " dead letters" }
                @if source.failing_inbox_count > 0 { br; (source.failing_inbox_count) " failing" }
            }
            td class="actions" { (actions(row)) }
        }
    }
}

fn actions(row: &Row<'_>) -> Markup {
    let source = row.source;
    let name = &source.source_name;
    if !row.may_change {
        return html! { @if let Some(remedy) = &source.remedy { code { (remedy) } } };
    }
    if source.part_of.is_some() {
        return html! { "with its source" };
    }
    let of_source = |verb: &str| {
        let escaped =
            percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
        format!("/api/v1/sources/{escaped}/{verb}")
    };
    let held =
        source.held_request_id.filter(|_| source.state == "held" || source.state == "backing_off");
    html! {
        @if source.state == "paused" {
            (button(&of_source("resume"), &format!("resume {name}"), "Resume", None))
        } @else {
            (button(&of_source("pause"), &format!("pause {name}"), "Pause", None))
            @if matches!(source.state.as_str(), "rejected" | "backing_off") && held.is_none() {
                (button(&of_source("resume"), &format!("resume {name}"), "Ask now", None))
            }
        }
        @if let Some(id) = held {
            (button(&format!("/api/v1/requests/{id}/retry"), &format!("retry {id}"), "Retry",
                Some(&format!("Ask {name} for the window of request {id} again? The source may have answered it already."))))
            form method="post" action=(format!("/api/v1/requests/{id}/skip")) data-act=""
                data-confirm=(format!("Never ask {name} for the events of this window?")) {
                label { "to " input name="to" inputmode="numeric" pattern="-?[0-9]+" size="8" required data-key=(format!("to {id}")); }
                button data-key=(format!("skip {id}")) { "Skip" }
            }
        }
    }
}

fn button(action: &str, key: &str, text: &str, question: Option<&str>) -> Markup {
    html! {
        form method="post" action=(action) data-act="" data-confirm=[question] {
            button data-key=(key) aria-label=(key) { (text) }
        }
    }
}

fn letter_filter(view: &View) -> Markup {
    html! {
        form class="filter" method="get" action="/#dead-letters" data-live="" {
            label {
                "Kind "
                select name="kind" {
                    option value="" { "all" }
                    @for kind in dead_letter::KINDS {
                        option value=(kind) selected[view.kind == kind] { (kind) }
                    }
                }
            }
            label { "Origin " input type="search" name="origin" value=(view.origin) data-key="origin"; }
            button { "Show" }
        }
    }
}

fn letters_table(
    letters: &[DeadLetter],
    snapshot: &Snapshot,
    view: &View,
    may_change: bool,
) -> Markup {
    let now = snapshot.report.totals.now;
    html! {
        @if letters.is_empty() {
            p { "None." }
        } @else {
            @if may_change { (bulk(view)) }
            div class="scroll" {
                table {
                    thead { tr {
                        @for title in ["Number", "Kind", "Origin", "Reference", "Bytes", "Failed", "Reason", "Actions"] {
                            th scope="col" { (title) }
                        }
                    } }
                    tbody {
                        @for letter in letters {
                            tr {
                                th scope="row" {
                                    a href=(format!("{}&letter={}#letter", view.link(view.page), letter.id)) data-key=(format!("letter {}", letter.id)) { (letter.id) }
                                }
                                td { (letter.kind) }
                                td { (letter.origin) }
                                td { (letter.reference) }
                                td class="number" { (letter.body_bytes) }
                                td { (age(seconds(now - letter.failed_at))) " ago" }
                                td { span class="reason" { (letter.reason) } }
                                td class="actions" {
                                    @if may_change { (letter_actions(letter)) }
                                    @else { code { "eventloader dead-letters replay " (letter.id) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What is done with all letters that the filter lets through.
fn bulk(view: &View) -> Markup {
    let what = match (view.kind.as_str(), view.origin.as_str()) {
        ("", "") => "all dead letters".to_owned(),
        (kind, "") => format!("all dead letters of kind {kind}"),
        ("", origin) => format!("all dead letters of {origin}"),
        (kind, origin) => format!("all dead letters of {origin} of kind {kind}"),
    };
    html! {
        @for (verb, text) in [("replay", "Replay"), ("discard", "Discard")] {
            form class="bulk" method="post" action=(format!("/api/v1/dead-letters/{verb}")) data-act=""
                data-confirm=(format!("{text} {what}, 1000 at most?")) {
                input type="hidden" name="all" value="true";
                input type="hidden" name="limit" value="1000";
                input type="hidden" name="kind" value=(view.kind);
                input type="hidden" name="origin" value=(view.origin);
                button data-key=(format!("{verb} all")) { (text) " " (what) }
            }
        }
    }
}

fn letter_actions(letter: &DeadLetter) -> Markup {
    html! {
        @for (verb, text, question) in [("replay", "Replay", None), ("discard", "Discard", Some("Delete this dead letter for good?"))] {
            form method="post" action=(format!("/api/v1/dead-letters/{verb}")) data-act="" data-confirm=[question] {
                input type="hidden" name="id" value=(letter.id);
                button data-key=(format!("{verb} letter {}", letter.id)) { (text) }
            }
        }
    }
}

fn shown_letter(letter: &DeadLetter, body: &[u8], may_change: bool) -> Markup {
    let shown = String::from_utf8_lossy(&body[..body.len().min(BODY_SHOWN)]);
    html! {
        section id="letter" {
            h2 { "Dead letter " (letter.id) }
            p { (letter.kind) " of " (letter.origin) ", " (letter.reference) ", failed " (letter.failed_at.format("%Y-%m-%d %H:%M:%S")) ", attempts " (letter.attempts) }
            p class="reason" { (letter.reason) }
            @if let Some(at) = letter.replayed_at { p { "Replayed " (at.format("%Y-%m-%d %H:%M:%S")) } }
            @else if may_change { div class="actions" { (letter_actions(letter)) } }
            h3 { "Body, " (body.len()) " bytes" @if body.len() > BODY_SHOWN { ", its beginning" } }
            pre tabindex="0" { (shown) }
            h3 { "Detail" }
            pre tabindex="0" { (serde_json::to_string_pretty(&letter.detail).unwrap_or_default()) }
        }
    }
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

    #[test]
    fn the_line_of_many_samples_has_few_points() {
        let line = sparkline(&[1.0; 719]).into_string();
        let points = line.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(points.split(' ').count(), 120, "{line}");
    }

    #[test]
    fn what_others_wrote_is_escaped() {
        let view = View { q: "<script>&\"".to_owned(), ..View::default() };
        assert!(!filter(&view).into_string().contains("<script>"));
        assert_eq!(view.link(2), "/?q=%3Cscript%3E%26%22&state=&sort=trouble&page=2");
    }
}
