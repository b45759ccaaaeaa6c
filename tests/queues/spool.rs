//! The queue of the example: a driver that is not part of the library keeps the same promises.

use std::sync::Arc;

use eventloader::mapping::Pointer;
use eventloader::mapping::message::{MessageMapping, Place};
use tempfile::TempDir;

use super::conformance::{Fixture, Sent, queue_conformance};
use crate::examples::custom_queue::Spool;

struct SpoolFixture(TempDir);

impl Fixture for SpoolFixture {
    type Source = Spool;

    async fn create() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn source(&self) -> Arc<Spool> {
        Arc::new(Spool { directory: self.0.path().to_owned() })
    }

    fn mapping(&self) -> MessageMapping {
        let message_id = Place::Usual(Pointer::to_key("message_id"));
        MessageMapping { message_id, ..MessageMapping::default() }
    }

    async fn publish(&self, messages: &[Sent]) {
        for Sent { body, .. } in messages {
            // Names in the order of time.
            let name = uuid::Uuid::now_v7();
            let part = self.0.path().join(format!("{name}.part"));
            std::fs::write(&part, body).unwrap();
            std::fs::rename(part, self.0.path().join(format!("{name}.json"))).unwrap();
        }
    }

    async fn unacknowledged(&self) -> usize {
        std::fs::read_dir(self.0.path()).unwrap().count()
    }
}

queue_conformance!(SpoolFixture);
