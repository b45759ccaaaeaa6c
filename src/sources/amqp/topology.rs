//! Queues and bindings that are created where they are missing, for those who ask for it.

use lapin::Channel;
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};

use super::connection::call;
use super::failure::Site;
use super::name;
use crate::source::queue::QueueError;

/// What is declared: a durable queue, and its bindings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// `queue_type`; `None`: what the broker makes of a queue without one.
    pub queue_type: Option<QueueType>,
    /// `bindings`: where its messages come from. The exchanges have to be there.
    pub bindings: Vec<Binding>,
}

/// The types of queues that can be declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueType {
    /// On one node.
    Classic,
    /// On several nodes.
    Quorum,
}

/// One binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// `exchange`.
    pub exchange: String,
    /// `routing_key`; empty: all, or none, as the exchange understands it.
    pub routing_key: String,
}

impl Topology {
    /// Creates what is missing. What is there and differs is refused by the broker.
    pub(super) async fn declare(
        &self,
        site: Site<'_>,
        channel: &Channel,
    ) -> Result<(), QueueError> {
        let mut arguments = FieldTable::default();
        if let Some(queue_type) = self.queue_type {
            let word = match queue_type {
                QueueType::Classic => "classic",
                QueueType::Quorum => "quorum",
            };
            arguments.insert("x-queue-type".into(), AMQPValue::LongString(word.into()));
        }
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(name(site.queue), durable, arguments);
        call(site, "declare the queue", declared).await?;
        for binding in &self.bindings {
            let (exchange, key) = (name(&binding.exchange), name(&binding.routing_key));
            let options = QueueBindOptions::default();
            let bound =
                channel.queue_bind(name(site.queue), exchange, key, options, FieldTable::default());
            call(site, "bind the queue", bound).await?;
        }
        Ok(())
    }
}
