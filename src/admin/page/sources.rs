//! The table of sources: which are shown, and in what order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::super::Running;
use super::super::snapshot::{Snapshot, Snapshots};
use super::actions::actions;
use super::{SORTS, Sort, View, age, link_of, number, seconds};
use crate::metrics::Outcome;
use crate::status::NotReady;
use crate::store::source::SourceStatus;

/// Rows of one page of the table: what a browser draws anew every two seconds without anybody noticing.
const ROWS: usize = 100;

/// Every state, and how it is called; what goes wrong comes first.
const STATES: [(&str, &str); 7] = [
    ("held", "held"),
    ("rejected", "rejected"),
    ("not_moved", "not moved"),
    ("not_asked", "not asked"),
    ("backing_off", "backing off"),
    ("paused", "paused"),
    ("ok", "ok"),
];

/// The headings, what they mean, and whether numbers stand below.
const HEADINGS: [(&str, &str, bool); 9] = [
    ("Source", "", false),
    ("State", "", false),
    ("Requested", "the greatest id that was asked for and arrived", true),
    ("Stored", "every id up to here is an event or a dead letter", true),
    ("Lag", "ids that arrived and are not stored yet", true),
    ("Last request", "by any instance", true),
    ("Requests/s", "of this instance over the last minute, and how many are allowed", true),
    ("Errors", "failed requests of this instance since it started", true),
    ("Actions", "", false),
];

/// How a state is called.
fn called(state: &str) -> &str {
    STATES.iter().find(|(value, _)| *value == state).map_or(state, |(_, called)| called)
}

/// What is searched for.
pub(super) fn filter(view: &View) -> Markup {
    html! {
        form class="filter" method="get" action="/" role="search" aria-label="Sources" data-live="" {
            label { "Name " input type="search" name="q" value=(view.q) placeholder="part of it" autocomplete="off"; }
            label {
                "State "
                select name="state" {
                    option value="" { "all" }
                    @for (state, called) in STATES {
                        option value=(state) selected[view.state == state] { (called) }
                    }
                }
            }
            label {
                "Order "
                select name="sort" {
                    @for (sort, value, text) in SORTS {
                        option value=(value) selected[view.sort == sort] { (text) }
                    }
                }
            }
            (view.kept(&["kind", "origin"]))
            noscript { button { "Show" } }
        }
    }
}

/// What the table is drawn from.
pub(super) struct Table<'a> {
    running: &'a Running,
    snapshot: &'a Snapshot,
    view: &'a View,
    may_change: bool,
    /// Sources that do not get on, by name, and their place among them.
    told: HashMap<&'a str, (usize, &'a NotReady)>,
    rates: HashMap<String, f64>,
    /// Requests a second that are allowed.
    allowed: HashMap<String, f64>,
}

impl<'a> Table<'a> {
    pub(super) fn new(
        running: &'a Running,
        snapshots: &Snapshots,
        snapshot: &'a Snapshot,
        told: &'a [NotReady],
        view: &'a View,
        may_change: bool,
    ) -> Self {
        let config = Arc::clone(&running.config.borrow());
        let intervals = config.sources.iter().map(|source| {
            (source.name.as_str().to_owned(), source.loading.min_interval.as_secs_f64())
        });
        let allowed = intervals
            .filter(|(_, interval)| *interval > 0.0)
            .map(|(name, interval)| (name, 1.0 / interval))
            .collect();
        let told = told.iter().enumerate();
        Self {
            running,
            snapshot,
            view,
            may_change,
            told: told.map(|(place, told)| (told.source_name.as_str(), (place, told))).collect(),
            rates: snapshots.request_rates(),
            allowed,
        }
    }

    fn told(&self, source: &SourceStatus) -> Option<&NotReady> {
        self.told.get(source.source_name.as_str()).map(|(_, told)| *told)
    }

    fn state<'s>(&'s self, source: &'s SourceStatus) -> &'s str {
        self.told(source).map_or(&source.state, |told| &told.state)
    }

    /// The sources that are wanted, in order.
    fn chosen(&self) -> Vec<&'a SourceStatus> {
        let wanted = self.view.q.trim().to_lowercase();
        let mut rows: Vec<_> = self
            .snapshot
            .report
            .sources
            .iter()
            .filter(|source| source.source_name.to_lowercase().contains(&wanted))
            .filter(|source| self.view.state.is_empty() || self.state(source) == self.view.state)
            .collect();
        // Pausing a source does not move its row away from under the pointer.
        let place = |source: &SourceStatus| {
            let told = self.told.get(source.source_name.as_str());
            told.filter(|(_, told)| told.state != "paused").map_or(usize::MAX, |(place, _)| *place)
        };
        // They come sorted by name, which decides between equals.
        match self.view.sort {
            Sort::Name => {}
            Sort::Trouble => rows.sort_by_key(|source| place(source)),
            Sort::Lag => rows.sort_by_key(|source| Reverse(lag(source))),
            Sort::LastRequest => rows.sort_by_key(|source| Reverse(source.last_request_at)),
            Sort::DeadLetters => rows.sort_by_key(|source| Reverse(source.dead_letter_count)),
        }
        rows
    }

    pub(super) fn draw(&self) -> Markup {
        let rows = self.chosen();
        let pages = rows.len().div_ceil(ROWS).max(1);
        let page = self.view.page.min(pages - 1);
        html! {
            (self.counts())
            p role="status" class="found" {
                @if rows.len() == self.snapshot.report.sources.len() { (rows.len()) " sources" }
                @else { (rows.len()) " of " (self.snapshot.report.sources.len()) " sources" }
            }
            @if !rows.is_empty() {
                (pager(self.view, page, pages, "Pages"))
                div class="scroll" {
                    table aria-labelledby="sources-title" {
                        thead { tr {
                            @for (title, meaning, is_number) in HEADINGS {
                                th scope="col" class=[is_number.then_some("number")] title=[(!meaning.is_empty()).then_some(meaning)] { (title) }
                            }
                        } }
                        tbody {
                            @for source in rows.iter().skip(page * ROWS).take(ROWS) { (self.row(source)) }
                        }
                    }
                }
                (pager(self.view, page, pages, "Pages, again"))
            }
        }
    }

    /// How many sources are in each state.
    fn counts(&self) -> Markup {
        let mut counts = BTreeMap::<&str, usize>::new();
        for source in &self.snapshot.report.sources {
            *counts.entry(self.state(source)).or_default() += 1;
        }
        let there =
            STATES.iter().filter_map(|(state, called)| Some((state, called, counts.get(state)?)));
        html! {
            nav class="counts" aria-label="States" {
                @for (state, called, count) in there {
                    a class=(format!("state {state}")) data-key=(state) href=(self.view.link_to_state(state))
                        aria-current=[(self.view.state == *state).then_some("true")] { b { (count) } " " (called) }
                }
                @if !self.view.state.is_empty() { a data-key="all" href=(self.view.link_to_state("")) { "all" } }
            }
        }
    }

    fn row(&self, source: &SourceStatus) -> Markup {
        let name = source.source_name.as_str();
        let rate = self.rates.get(name).copied().unwrap_or_default();
        let now = self.snapshot.report.totals.now;
        let failures = failures(self.running, name);
        html! {
            tr data-key=(name) {
                th scope="row" { (name) " " small { (source.source_type) } }
                (self.state_cell(source, now))
                td class="number" data-label="Requested" { (source.last_requested_id) }
                td class="number" data-label="Stored" { (source.last_stored_id) }
                td class="number" data-label="Lag" { (lag(source)) }
                td class="number" data-label="Last request" {
                    @match source.last_request_at {
                        Some(at) => { time datetime=(at.to_rfc3339()) { (age(seconds(now - at))) " ago" } }
                        None => "never"
                    }
                }
                td class="number" data-label="Requests/s" {
                    (number(rate))
                    @if let Some(allowed) = self.allowed.get(name) { " of " (number(*allowed)) }
                }
                td class="number" data-label="Errors" {
                    (failures)
                    @if source.dead_letter_count > 0 {
                        br; a href=(format!("/?origin={}#dead-letters", link_of(name))) { (counted(source.dead_letter_count, "dead letter")) }
                    }
                    @if source.failing_inbox_count > 0 { br; (source.failing_inbox_count) " failing to move" }
                }
                td class="actions" data-label="Actions" {
                    @if self.may_change { (actions(source)) }
                    @else if let Some(remedy) = &source.remedy { code { (remedy) } }
                }
            }
        }
    }

    fn state_cell(&self, source: &SourceStatus, now: DateTime<Utc>) -> Markup {
        let state = self.state(source);
        let meaning = match state {
            "not_asked" => Some("no instance asks it although it is time"),
            "not_moved" => Some("its events stay in the inbox"),
            _ => source.reason.as_deref(),
        };
        let waits = matches!(state, "backing_off" | "rejected");
        let again = source.not_before.filter(|until| waits && *until > now);
        html! {
            td class=(format!("state {state}")) data-label="State" {
                b { (called(state)) }
                @if let Some(told) = self.told(source) {
                    " for " (age(seconds(now - told.since)))
                    @if told.is_stalled { ", " strong { "stalled" } }
                }
                @if let Some(meaning) = meaning { br; span class="reason" { (meaning) } }
                @if let Some(until) = again { br; span class="reason" { "asked again in " (age(seconds(until - now))) } }
                @if source.gap_count > 0 { br; span class="reason" { (counted(source.gap_count, "gap")) ": ids that the source dropped" } }
            }
        }
    }
}

fn counted(count: i64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn lag(source: &SourceStatus) -> i64 {
    source.last_requested_id.saturating_sub(source.last_stored_id)
}

fn failures(running: &Running, source_name: &str) -> u64 {
    let counted = running.metrics.source(source_name);
    let failed = Outcome::ALL.into_iter().filter(|outcome| matches!(outcome, Outcome::Failed(_)));
    failed.map(|outcome| counted.outcome(outcome)).sum()
}

fn pager(view: &View, page: usize, pages: usize, label: &str) -> Markup {
    html! {
        @if pages > 1 {
            nav class="pager" aria-label=(label) {
                @if page > 0 { a data-key="previous" rel="prev" href=(view.link(page - 1)) { "Previous" } }
                span { "Page " (page + 1) " of " (pages) }
                @if page + 1 < pages { a data-key="next" rel="next" href=(view.link(page + 1)) { "Next" } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_escaped() {
        let view = View { q: "<script>&\"".to_owned(), ..View::default() };
        assert!(!filter(&view).into_string().contains("<script>"));
        assert_eq!(view.link(2), "/?q=%3Cscript%3E%26%22&sort=trouble&page=2");
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!((counted(1, "gap"), counted(2, "gap")), ("1 gap".into(), "2 gaps".into()));
    }
}
