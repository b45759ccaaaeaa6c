//! The pull source: anything that answers "which events come after this id".
//!
//! # Contract
//!
//! An implementation of [`EventSource`] promises:
//!
//! 1. **Order.** A page holds events with ids greater than `after_id`, strictly increasing, at most `limit` of them: what
//!    `SELECT * FROM events WHERE id > after_id ORDER BY id LIMIT limit` answers. Gaps are fine. The loader checks this
//!    for every page and refuses one that breaks it.
//! 2. **Visibility.** No id appears below one that was already answered. A source that cannot promise this has to stay
//!    behind its own tip.
//! 3. **One request.** One call sends at most one request. No retries, no redirects: the loader decides about those, with
//!    its log in hand.
//! 4. **Honest failures.** The class of a [`SourceError`] says what is known. What may have reached the source is
//!    [`FailureClass::Unknown`], never [`FailureClass::NotSent`].
//! 5. **An end.** A call ends by itself; the loader's deadline is a net below it.
//!
//! # Cancel safety
//!
//! The loader drops the future at its deadline and at the end of a shutdown, and records the outcome as unknown.
//! Nothing that has to be kept may live in the future alone.

pub mod queue;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use crate::event::Item;
pub use crate::loader::policy::FailureClass;
use crate::mapping::PageError;

/// Something events are pulled from. The [module](self) states the contract.
#[async_trait]
pub trait EventSource: Send + Sync {
    /// Asks for at most `limit` events with ids greater than `after_id`.
    ///
    /// # Errors
    ///
    /// The class of the error decides whether the window may be asked again; see [`SourceError`].
    async fn fetch_events(&self, after_id: i64, limit: u32) -> Result<Page, SourceError>;

    /// Whether pages carry a [state](Page::state), so that claims read it.
    fn keeps_state(&self) -> bool {
        false
    }

    /// Asks as [`Self::fetch_events`] does, of a source that [keeps a state](Self::keeps_state). `state` is what came with
    /// the last page that was deposited, word for word; `None`: none did.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch_events`].
    async fn fetch_with_state(
        &self,
        after_id: i64,
        limit: u32,
        state: Option<&str>,
    ) -> Result<Page, SourceError> {
        debug_assert!(state.is_none(), "a source that keeps a state has to take it");
        self.fetch_events(after_id, limit).await
    }

    /// Where a source without a cursor begins: the id before the first one.
    fn start_after(&self) -> i64 {
        0
    }
}

/// What a source answered.
#[derive(Debug, Default)]
pub struct Page {
    /// The events, in the order the source gave them.
    pub items: Vec<Item>,
    /// The body, kept as a dead letter if the ids turn out to be out of order. Empty where there is none.
    pub body: Bytes,
    /// When the source is known to have had the request; `None`: when the call returned. Spacing counts from here.
    pub answered_at: Option<Instant>,
    /// Where the source stands after these events, in its own words: JSON text, stored in their transaction and given to
    /// the next request. `None`: as before. A page with a state may hold more than `limit` events, because it has to end
    /// where the state does.
    pub state: Option<String>,
    /// How long the source asks not to be asked again, such as until its rate limit is reset; `None`: it says nothing.
    /// Capped like a `Retry-After`, and kept by all instances.
    pub pause: Option<Duration>,
    /// Ids below the first of these events that the source no longer has.
    pub gaps: Vec<queue::Gap>,
}

impl Page {
    /// A page of items, answered now.
    pub fn new(items: Vec<Item>) -> Self {
        Self { items, ..Self::default() }
    }
}

/// A request that brought no page.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct SourceError {
    /// What is known of the request.
    pub class: FailureClass,
    /// What happened, for people; holds no secret.
    pub reason: String,
    /// What the source asked for in `Retry-After`.
    pub retry_after: Option<Duration>,
    /// The body of an invalid page, kept as a dead letter.
    pub page: Option<Bytes>,
}

impl SourceError {
    /// An error of this class.
    pub fn new(class: FailureClass, reason: impl Into<String>) -> Self {
        Self { class, reason: reason.into(), retry_after: None, page: None }
    }

    /// Nothing reached the source.
    pub fn not_sent(reason: impl Into<String>) -> Self {
        Self::new(FailureClass::NotSent, reason)
    }

    /// The request may have been served.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self::new(FailureClass::Unknown, reason)
    }

    /// The source answered with something that is no valid page.
    pub fn invalid_page(error: &PageError, body: Bytes) -> Self {
        Self {
            page: Some(body),
            ..Self::new(FailureClass::InvalidPage, format!("invalid page: {error}"))
        }
    }

    /// The same error with the pause the source asked for.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after;
        self
    }
}
