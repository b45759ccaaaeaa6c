//! The top of the page: who this is, and how all of it stands.

use std::time::Duration;

use maud::{Markup, html};

use super::super::snapshot::{Answer, SAMPLE_EVERY, Snapshot};
use super::super::{Running, State};
use super::{age, number};
use crate::status::NotReady;

/// Points of the line of rates.
const POINTS: usize = 120;
/// Its size.
const WIDTH: f64 = 240.0;
const HEIGHT: f64 = 36.0;

/// Name, version, and whether somebody is signed in.
pub(super) fn banner(state: &State, running: &Running, may_change: bool) -> Markup {
    html! {
        header {
            h1 { "eventloader " small { (env!("CARGO_PKG_VERSION")) " on " (running.owner) } }
            div class="sign" {
                span id="live" { "not live: reload to see what is new" }
                @if may_change {
                    form method="post" action="/logout" { button class="link" { "Sign out" } }
                } @else if state.access.has_token() {
                    a href="/login" { "Sign in to change something" }
                } @else {
                    span { "read only: " code { "[admin]" } " has no token" }
                }
            }
        }
    }
}

/// The title of the window: what is wrong is seen without looking at the page.
pub(super) fn title(answer: &Answer, told: &[NotReady]) -> String {
    match (answer, troubled(told)) {
        (Err(_), _) => "database away – eventloader".to_owned(),
        (Ok(_), 0) => "eventloader".to_owned(),
        (Ok(_), count) => format!("({count}) eventloader"),
    }
}

/// Sources that do not get on although nobody paused them.
fn troubled(told: &[NotReady]) -> usize {
    told.iter().filter(|told| told.state != "paused").count()
}

/// Everything that is told of all sources together.
pub(super) fn facts(
    running: &Running,
    answer: &Answer,
    told: &[NotReady],
    rates: &[f64],
) -> Markup {
    html! {
        dl class="facts" data-title=(title(answer, told)) {
            @match answer {
                Ok(snapshot) => (of_database(snapshot, troubled(told))),
                Err(away) => {
                    (fact("Database", true, &html! { "away for " (age(away.since.elapsed().as_secs_f64())) }))
                    (fact("It says", true, &html! { span class="text" { (away.reason) } }))
                }
            }
            (events(rates))
            @for pulse in running.pulses.iter().filter(|pulse| !pulse.is_alive()) {
                (fact(pulse.part, true, &html! { "hangs for " (age(pulse.age().as_secs_f64())) }))
            }
        }
    }
}

fn of_database(snapshot: &Snapshot, troubled: usize) -> Markup {
    let totals = &snapshot.report.totals;
    let distance = &snapshot.distance;
    let letters = totals.dead_letter_count;
    html! {
        (fact("Sources", troubled > 0, &html! {
            (snapshot.report.sources.len())
            @if troubled > 0 { ", " (troubled) " not getting on" }
        }))
        (fact("In the inbox", false, &html! {
            (totals.inbox_count)
            @if totals.inbox_count >= 100_000 { " or more" }
            @if let Some(oldest) = totals.inbox_oldest_seconds { small { " oldest " (age(oldest)) } }
        }))
        (fact("Last position", false, &html! { (totals.last_position) }))
        (fact("Dead letters", letters > 0, &html! { a href="#dead-letters" { (letters) } }))
        (fact("Database", false, &html! { (format!("{:.1}", distance.round_trip.as_secs_f64() * 1000.0)) " ms" }))
        @if distance.clock_ahead_seconds.abs() >= 1.0 {
            (fact("Clocks", true, &html! { (format!("{:+.1}", distance.clock_ahead_seconds)) " s apart" }))
        }
    }
}

fn fact(name: &str, is_bad: bool, value: &Markup) -> Markup {
    html! { div class=[is_bad.then_some("bad")] { dt { (name) } dd { (value) } } }
}

/// What this process moves, and has moved in the last hour.
fn events(rates: &[f64]) -> Markup {
    let lasted = SAMPLE_EVERY * u32::try_from(rates.len()).unwrap_or_default();
    html! {
        div class="line" {
            dt { "Events/s of this instance" }
            dd { (number(rates.last().copied().unwrap_or_default())) " " (sparkline(rates, lasted)) }
        }
    }
}

/// The rates as a line; a few points stand for all.
fn sparkline(rates: &[f64], lasted: Duration) -> Markup {
    let step = rates.len().div_ceil(POINTS).max(1);
    let points: Vec<f64> = rates.chunks(step).map(mean).collect();
    let most = points.iter().copied().fold(1.0, f64::max);
    let apart = WIDTH / f64::from(u32::try_from(points.len()).unwrap_or(u32::MAX).max(2) - 1);
    let line: Vec<_> = points
        .iter()
        .zip(0_u32..)
        .map(|(rate, at)| {
            let height = HEIGHT - 1.0 - (HEIGHT - 2.0) * rate / most;
            format!("{:.1},{height:.1}", f64::from(at) * apart)
        })
        .collect();
    let said = format!(
        "over the last {}: {} at most",
        age(lasted.as_secs_f64()),
        number(points.iter().copied().fold(0.0, f64::max))
    );
    html! {
        @if points.len() > 1 {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) width=(WIDTH) height=(HEIGHT) aria-hidden="true" {
                polyline fill="none" stroke="currentColor" stroke-width="1.5" points=(line.join(" ")) {}
                polygon fill="currentColor" opacity="0.12" points=(format!("0,{HEIGHT} {} {WIDTH},{HEIGHT}", line.join(" "))) {}
            }
            " " small { (said) }
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / f64::from(u32::try_from(values.len()).unwrap_or(u32::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_many_samples_has_few_points() {
        let line = sparkline(&[1.0; 719], Duration::from_hours(1)).into_string();
        let points = line.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(points.split(' ').count(), 120, "{line}");
        assert!(points.ends_with("240.0,1.0"), "{line}");
    }
}
