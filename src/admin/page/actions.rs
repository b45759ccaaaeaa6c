//! What can be done about a source: its pause, and the window that it holds.

use maud::{Markup, html};

use super::{form, link_of};
use crate::store::source::SourceStatus;

pub(super) fn actions(source: &SourceStatus) -> Markup {
    let name = &source.source_name;
    if source.part_of.is_some() {
        return html! { "with its source" };
    }
    let pause = |verb: &str, text: &str| {
        let action = format!("/api/v1/sources/{}/{verb}", link_of(name));
        form(&action, &html! { button aria-label=(format!("{text} {name}")) { (text) } }, None)
    };
    let waits = matches!(source.state.as_str(), "held" | "backing_off");
    let held = source.held_request_id.filter(|_| waits);
    html! {
        @if source.state == "paused" {
            (pause("resume", "Resume"))
        } @else {
            (pause("pause", "Pause"))
            @if matches!(source.state.as_str(), "rejected" | "backing_off") && held.is_none() {
                (pause("resume", "Ask now"))
            }
        }
        @if let Some(id) = held { (retry(name, id)) (skip(name, id)) }
    }
}

fn retry(name: &str, id: i64) -> Markup {
    let question = format!(
        "Ask {name} for the window of request {id} again? The source may have answered it already."
    );
    form(
        &format!("/api/v1/requests/{id}/retry"),
        &html! { button aria-label=(format!("Retry the window of {name}")) { "Retry" } },
        Some(&question),
    )
}

fn skip(name: &str, id: i64) -> Markup {
    form(
        &format!("/api/v1/requests/{id}/skip"),
        &html! {
            label {
                "up to id "
                input name="to" aria-label=(format!("Skip {name} up to id")) inputmode="numeric" pattern="-?[0-9]+" title="the last id to leave out" size="7" required autocomplete="off";
            }
            " "
            button aria-label=(format!("Skip the window of {name}")) { "Skip" }
        },
        Some(&format!("Never ask {name} for the events of this window?")),
    )
}
