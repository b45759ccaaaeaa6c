//! `/live`: the parts of the page that changed, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State as Given};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::State;
use super::page::{Parts, View};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(2);

struct Viewer {
    state: Arc<State>,
    view: View,
    headers: HeaderMap,
    tick: Interval,
    /// What it was sent last.
    shown: [String; 3],
}

/// Sends parts of the page as they change, for the view of the query.
pub(super) async fn live(
    Given(state): Given<Arc<State>>,
    Query(view): Query<View>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let viewer = Viewer { state, view, headers, tick, shown: Default::default() };
    let events = stream::unfold(viewer, |mut viewer| async move {
        let changed = viewer.changed().await;
        Some((stream::iter(changed.into_iter().map(Ok)), viewer))
    });
    Sse::new(futures_util::StreamExt::flatten(events)).keep_alive(KeepAlive::default())
}

impl Viewer {
    /// Waits for the next look, and says what is different since the last.
    async fn changed(&mut self) -> Vec<Event> {
        self.tick.tick().await;
        let Ok(parts) = Parts::draw(&self.state, &self.view, &self.headers).await else {
            return Vec::new();
        };
        let drawn = [("head", parts.head), ("sources", parts.sources), ("letters", parts.letters)];
        let mut events = Vec::new();
        for ((name, markup), shown) in drawn.into_iter().zip(&mut self.shown) {
            // Lines end with a line feed alone in this protocol.
            let text = markup.into_string().replace('\r', " ");
            if text != *shown {
                events.push(Event::default().event(name).data(&text));
                *shown = text;
            }
        }
        events
    }
}
