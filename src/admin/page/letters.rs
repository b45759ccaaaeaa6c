//! Dead letters: the newest that a filter lets through, and one with its body.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::{View, age, form, seconds};
use crate::store::dead_letter::{self, DeadLetter};

/// Dead letters that are listed.
pub(super) const LISTED: i64 = 20;
/// What one press of a button replays or discards at most.
const BULK: &str = "1000";
/// The beginning of a body that is shown, in bytes.
const BODY_SHOWN: usize = 64 << 10;
/// The headings, and whether numbers stand below.
const HEADINGS: [(&str, bool); 8] = [
    ("Number", false),
    ("Kind", false),
    ("Origin", false),
    ("Reference", false),
    ("Bytes", true),
    ("Failed", true),
    ("Reason", false),
    ("Actions", false),
];

/// What is searched for.
pub(super) fn filter(view: &View) -> Markup {
    html! {
        form class="filter" method="get" action="/#dead-letters" role="search" aria-label="Dead letters" data-live="" {
            label {
                "Kind "
                select name="kind" {
                    option value="" { "all" }
                    @for kind in dead_letter::KINDS {
                        option value=(kind) selected[view.kind == kind] { (kind) }
                    }
                }
            }
            label { "Origin " input type="search" name="origin" value=(view.origin) placeholder="its whole name" autocomplete="off"; }
            (view.kept(&["q", "state", "sort"]))
            noscript { button { "Show" } }
        }
    }
}

/// Of `total` there are.
pub(super) fn table(
    letters: &[DeadLetter],
    total: i64,
    now: DateTime<Utc>,
    view: &View,
    may_change: bool,
) -> Markup {
    html! {
        p role="status" class="found" { (found(letters, total, view)) }
        @if !letters.is_empty() {
            @if may_change { (bulk(view)) }
            div class="scroll" {
                table aria-labelledby="dead-letters" {
                    thead { tr {
                        @for (title, is_number) in HEADINGS {
                            th scope="col" class=[is_number.then_some("number")] { (title) }
                        }
                    } }
                    tbody { @for letter in letters { (row(letter, now, view, may_change)) } }
                }
            }
        }
    }
}

fn found(letters: &[DeadLetter], total: i64, view: &View) -> String {
    let is_filtered = !view.kind.is_empty() || !view.origin.is_empty();
    let count = i64::try_from(letters.len()).unwrap_or(i64::MAX);
    match (count, is_filtered) {
        (0, false) => "No dead letters.".to_owned(),
        (0, true) => format!("None of {total} dead letters."),
        (LISTED.., false) if total > count => {
            format!("The {LISTED} newest of {total} dead letters.")
        }
        (LISTED.., true) => format!("The {LISTED} newest of these dead letters."),
        (1, _) => "1 dead letter.".to_owned(),
        (count, _) => format!("{count} dead letters."),
    }
}

fn row(letter: &DeadLetter, now: DateTime<Utc>, view: &View, may_change: bool) -> Markup {
    html! {
        tr data-key=(letter.id) {
            th scope="row" {
                a href=(format!("{}&letter={}#letter", view.link(view.page), letter.id)) aria-label=(format!("Dead letter {}", letter.id)) { (letter.id) }
            }
            td data-label="Kind" { (letter.kind) }
            td data-label="Origin" { (letter.origin) }
            td data-label="Reference" { (letter.reference) }
            td class="number" data-label="Bytes" { (letter.body_bytes) }
            td class="number" data-label="Failed" { (age(seconds(now - letter.failed_at))) " ago" }
            td data-label="Reason" { span class="reason" { (letter.reason) } }
            td class="actions" data-label="Actions" {
                @if may_change { (actions(letter)) }
                @else { code { "eventloader dead-letters replay " (letter.id) } }
            }
        }
    }
}

/// What is done with all letters that the filter lets through.
fn bulk(view: &View) -> Markup {
    let what = match (view.kind.as_str(), view.origin.as_str()) {
        ("", "") => "all dead letters".to_owned(),
        (kind, "") => format!("all of kind {kind}"),
        ("", origin) => format!("all of {origin}"),
        (kind, origin) => format!("all of {origin} of kind {kind}"),
    };
    html! {
        div class="actions" {
            @for (verb, text, end) in [("replay", "Replay", ""), ("discard", "Discard", " They are deleted for good.")] {
                (form(
                    &format!("/api/v1/dead-letters/{verb}"),
                    &html! {
                        input type="hidden" name="all" value="true";
                        input type="hidden" name="limit" value=(BULK);
                        input type="hidden" name="kind" value=(view.kind);
                        input type="hidden" name="origin" value=(view.origin);
                        button class=(verb) { (text) " " (what) }
                    },
                    Some(&format!("{text} {what}, the newest {BULK} at most?{end}")),
                ))
            }
        }
    }
}

fn actions(letter: &DeadLetter) -> Markup {
    let id = letter.id;
    let gone = format!("Delete dead letter {id} for good?");
    html! {
        @for (verb, text, question) in [("replay", "Replay", None), ("discard", "Discard", Some(gone.as_str()))] {
            (form(
                &format!("/api/v1/dead-letters/{verb}"),
                &html! {
                    input type="hidden" name="id" value=(id);
                    button class=(verb) aria-label=(format!("{text} dead letter {id}")) { (text) }
                },
                question,
            ))
        }
    }
}

/// One, whole.
pub(super) fn shown(letter: &DeadLetter, body: &[u8], view: &View, may_change: bool) -> Markup {
    let text = String::from_utf8_lossy(&body[..body.len().min(BODY_SHOWN)]);
    html! {
        h2 id="letter-title" { "Dead letter " (letter.id) }
        p {
            (letter.kind) " of " (letter.origin) ", " (letter.reference)
            ", failed " (time(letter.failed_at)) ", attempts: " (letter.attempts)
        }
        p class="reason" { (letter.reason) }
        @if let Some(at) = letter.replayed_at { p { "Replayed " (time(at)) } }
        div class="actions" {
            @if letter.replayed_at.is_none() && may_change { (actions(letter)) }
            a href=(format!("{}#dead-letters", view.link(view.page))) { "Close" }
        }
        h3 id="letter-body" { "Body, " (body.len()) " bytes" @if body.len() > BODY_SHOWN { ", its beginning" } }
        pre tabindex="0" aria-labelledby="letter-body" { (text) }
        h3 id="letter-detail" { "Detail" }
        pre tabindex="0" aria-labelledby="letter-detail" { (serde_json::to_string_pretty(&letter.detail).unwrap_or_default()) }
    }
}

fn time(at: DateTime<Utc>) -> Markup {
    html! { time datetime=(at.to_rfc3339()) { (at.format("%Y-%m-%d %H:%M:%S UTC")) } }
}
