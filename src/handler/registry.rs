//! Which handler an event goes to.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use sqlx::PgConnection;

use super::{Handler, HandlerResult, LoggedEvent};
use crate::pattern::{NamePattern, PatternError};

/// Handlers by `event_type`, exact or by pattern.
///
/// Where several fit, one of them is called: that of the exact name, else that of the longest pattern; see
/// [`NamePattern`].
#[derive(Default)]
pub struct HandlerRegistry {
    exact: HashMap<String, Arc<dyn Handler>>,
    /// Most specific first.
    patterns: Vec<(NamePattern, Arc<dyn Handler>)>,
}

/// Why a handler cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// What it is to be registered for is no pattern.
    #[error("a handler cannot be registered")]
    Pattern(#[source] PatternError),
    /// There is a handler for it already.
    #[error(
        "{0} has a handler already; one event goes to one handler, so let one of them call the other"
    )]
    Taken(String),
}

/// An async function, or closure, that handles events with a payload of type `T`:
/// `async fn(T, LoggedEvent, &mut PgConnection) -> HandlerResult`. Implemented for all of them.
pub trait HandlerFn<'c, T>: FnOnce(T, LoggedEvent, &'c mut PgConnection) -> Self::Future {
    /// What it answers.
    type Future: Future<Output = HandlerResult> + Send + 'c;
}

impl<'c, T, F, R> HandlerFn<'c, T> for F
where
    F: FnOnce(T, LoggedEvent, &'c mut PgConnection) -> R,
    R: Future<Output = HandlerResult> + Send + 'c,
{
    type Future = R;
}

impl HandlerRegistry {
    /// Without handlers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers an async function, or a closure with the types of its arguments written out, for a name or a pattern.
    /// Payloads that are no `T` become dead letters without a call. `serde_json::Value` takes every payload;
    /// `Box<serde_json::value::RawValue>` keeps its numbers digit by digit. A closure is cloned for every call: let it
    /// hold an `Arc`, a pool, a client.
    ///
    /// # Errors
    ///
    /// `pattern` is none, or has a handler already.
    pub fn on<T: DeserializeOwned + Send + 'static>(
        &mut self,
        pattern: &str,
        handler: impl for<'c> HandlerFn<'c, T> + Clone + Send + Sync + 'static,
    ) -> Result<&mut Self, RegistrationError> {
        self.add(pattern, Typed { call: handler, payload: PhantomData })
    }

    /// Registers a [`Handler`] for a name or a pattern.
    ///
    /// # Errors
    ///
    /// `pattern` is none, or has a handler already.
    pub fn add(
        &mut self,
        pattern: &str,
        handler: impl Handler,
    ) -> Result<&mut Self, RegistrationError> {
        let pattern: NamePattern = pattern.parse().map_err(RegistrationError::Pattern)?;
        let handler: Arc<dyn Handler> = Arc::new(handler);
        let taken = match &pattern {
            NamePattern::Exact(name) => self.exact.contains_key(name),
            _ => self.patterns.iter().any(|(known, _)| *known == pattern),
        };
        if taken {
            return Err(RegistrationError::Taken(pattern.to_string()));
        }
        if let NamePattern::Exact(name) = pattern {
            self.exact.insert(name, handler);
        } else {
            let place = self.patterns.partition_point(|(known, _)| known.beats(&pattern));
            self.patterns.insert(place, (pattern, handler));
        }
        Ok(self)
    }

    /// The handler of an event type.
    pub fn find(&self, event_type: &str) -> Option<&Arc<dyn Handler>> {
        self.exact.get(event_type).or_else(|| {
            let fitting = self.patterns.iter().find(|(pattern, _)| pattern.matches(event_type));
            fitting.map(|(_, handler)| handler)
        })
    }
}

/// A function whose payload is read first.
struct Typed<T, F> {
    call: F,
    payload: PhantomData<fn() -> T>,
}

#[async_trait]
impl<T, F> Handler for Typed<T, F>
where
    T: DeserializeOwned + Send + 'static,
    F: for<'c> HandlerFn<'c, T> + Clone + Send + Sync + 'static,
{
    async fn handle(&self, event: LoggedEvent, transaction: &mut PgConnection) -> HandlerResult {
        let payload = event.payload_as::<T>()?;
        (self.call.clone())(payload, event, transaction).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named;

    #[async_trait]
    impl Handler for Named {
        async fn handle(&self, _: LoggedEvent, _: &mut PgConnection) -> HandlerResult {
            Ok(())
        }
    }

    #[test]
    fn the_most_specific_handler_is_found_in_whatever_order_they_came() {
        let mut patterns = ["*", "order.*", "order.item.*", "order.item.added", "user.*"];
        for _ in 0..patterns.len() {
            patterns.rotate_left(1);
            let mut registry = HandlerRegistry::new();
            let mut known = HashMap::new();
            for pattern in patterns {
                registry.add(pattern, Named).unwrap();
                let exact = registry.exact.get(pattern);
                let by_pattern = registry.patterns.iter().find(|(p, _)| p.to_string() == pattern);
                let handler = exact.or(by_pattern.map(|(_, handler)| handler)).unwrap();
                known.insert(pattern, Arc::clone(handler));
            }
            for (event_type, pattern) in [
                ("order.item.added", "order.item.added"),
                ("order.item.removed", "order.item.*"),
                ("order.placed", "order.*"),
                ("order", "*"),
                ("user.created", "user.*"),
            ] {
                let found = registry.find(event_type).unwrap();
                assert!(Arc::ptr_eq(found, &known[pattern]), "{event_type}");
            }
        }
    }

    #[test]
    fn nothing_is_found_for_a_name_that_nothing_fits() {
        let mut registry = HandlerRegistry::new();
        registry.add("order.*", Named).unwrap().add("user.created", Named).unwrap();
        assert!(registry.find("user.deleted").is_none());
        assert!(registry.find("order").is_none());
    }

    #[test]
    fn a_second_handler_for_a_name_and_what_is_no_pattern_are_refused() {
        for pattern in ["order.placed", "order.*", "*"] {
            let mut registry = HandlerRegistry::new();
            registry.add(pattern, Named).unwrap();
            let error = registry.add(pattern, Named).err().unwrap();
            assert_eq!(error, RegistrationError::Taken(pattern.to_owned()));
            assert!(error.to_string().starts_with(&format!("{pattern} has a handler already")));
        }
        let error = HandlerRegistry::new().add("or*der", Named).err().unwrap();
        assert!(crate::telemetry::chain(&error).contains("or*der: * can only be the last part"));
    }
}
