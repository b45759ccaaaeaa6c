//! Events in memory: for tests and for programs that load what they make themselves.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::event::Item;
use crate::mapping::{Mapping, PageError};
use crate::source::{EventSource, Page, SourceError};

/// A source whose events are pushed by the program. Keeps a log of what it was asked.
#[derive(Debug, Default)]
pub struct MemorySource {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    items: Vec<Pushed>,
    asked: Vec<(i64, u32)>,
}

/// What was pushed: an item, or something that is none.
type Pushed = Result<Item, (PageError, Bytes)>;

impl MemorySource {
    /// A source without events.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event, a JSON object with an integer `id` greater than those before it.
    pub fn push(&self, event: &serde_json::Value) {
        let raw = Bytes::from(event.to_string());
        self.lock().items.push(Mapping::default().item(&raw).map_err(|error| (error, raw)));
    }

    /// The windows it was asked for, in order: `after_id` and `limit`.
    pub fn asked(&self) -> Vec<(i64, u32)> {
        self.lock().asked.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Every change is one push, so a panic of another thread leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl EventSource for MemorySource {
    async fn fetch_events(&self, after_id: i64, limit: u32) -> Result<Page, SourceError> {
        let mut state = self.lock();
        state.asked.push((after_id, limit));
        let later = state.items.iter().filter(|pushed| match pushed {
            Ok(item) => item.id().is_some_and(|id| id > after_id),
            Err(_) => true,
        });
        let page: Result<Vec<Item>, _> = later.take(limit as usize).cloned().collect();
        page.map(Page::new).map_err(|(error, raw)| SourceError::invalid_page(&error, raw))
    }
}
