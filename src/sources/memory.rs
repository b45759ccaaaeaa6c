//! Events in memory: for tests and for programs that load what they make themselves.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::event::Item;
use crate::mapping::Mapping;
use crate::source::{EventSource, Page, SourceError};

/// A source whose events are pushed by the program. Keeps a log of what it was asked.
#[derive(Debug, Default)]
pub struct MemorySource {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    items: Vec<Bytes>,
    asked: Vec<(i64, u32)>,
}

impl MemorySource {
    /// A source without events.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event, a JSON object with an integer `id` greater than those before it.
    pub fn push(&self, event: &serde_json::Value) {
        self.lock().items.push(Bytes::from(event.to_string()));
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
        let mapping = Mapping::default();
        let mut items: Vec<Item> = Vec::new();
        for raw in &state.items {
            let item = mapping
                .item(raw)
                .map_err(|error| SourceError::invalid_page(&error, raw.clone()))?;
            if item.id().is_some_and(|id| id > after_id) && items.len() < limit as usize {
                items.push(item);
            }
        }
        Ok(Page::new(items))
    }
}
