//! The queue in memory.

use std::sync::Arc;

use eventloader::mapping::Pointer;
use eventloader::mapping::message::{MessageMapping, Place};
use eventloader::source::queue::Message;
use eventloader::sources::memory_queue::MemoryQueue;

use super::conformance::{Fixture, Sent, queue_conformance};

struct Memory(MemoryQueue);

impl Fixture for Memory {
    type Source = MemoryQueue;

    async fn create() -> Self {
        Self(MemoryQueue::new())
    }

    fn source(&self) -> Arc<MemoryQueue> {
        Arc::new(self.0.clone())
    }

    fn mapping(&self) -> MessageMapping {
        let message_id = Place::Usual(Pointer::to_key("message_id"));
        MessageMapping { message_id, ..MessageMapping::default() }
    }

    async fn publish(&self, messages: &[Sent]) {
        for Sent { message_id, body } in messages {
            self.0.push(Message {
                message_id: message_id.map(|id| id.to_string()),
                body: body.clone().into(),
                routed_as: "memory".into(),
                ..Message::default()
            });
        }
    }

    async fn unacknowledged(&self) -> usize {
        self.0.left()
    }
}

queue_conformance!(Memory);
