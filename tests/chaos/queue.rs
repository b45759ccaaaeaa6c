//! The queue source of a campaign: a stream of a private Redis, whose published ids are known.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::history;
use crate::support::redis::Redis;

pub(crate) struct Queue {
    redis: Redis,
    stream: String,
    published: Mutex<HashSet<Uuid>>,
}

impl Queue {
    pub(crate) async fn start() -> Self {
        Self {
            redis: Redis::start().await,
            stream: Redis::new_stream(),
            published: Mutex::default(),
        }
    }

    /// Its part of the configuration.
    pub(crate) fn configuration(&self) -> String {
        format!(
            "[sources.queue]\ntype = \"redis_stream\"\nurl = \"{}\"\nstream = \"{}\"\nretry_after = \"1s\"\nbatch_size = 20\n",
            self.redis.url(),
            self.stream
        )
    }

    /// Publishes, until the task is dropped. What was not confirmed is not counted.
    pub(crate) async fn publish(&self) {
        let mut connection = self.redis.connect().await;
        loop {
            for _ in 0..10 {
                let id = Uuid::new_v4();
                let body = format!(r#"{{"message_id":"{id}"}}"#);
                let mut add = redis::cmd("XADD");
                add.arg(&self.stream).arg("*").arg("body").arg(body);
                // Held while it is confirmed, so that the end sees either both or none.
                let mut published = self.published.lock().await;
                add.query_async::<()>(&mut connection).await.unwrap();
                published.insert(id);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What became of what was published.
    pub(crate) async fn count(&self, pool: &PgPool) -> history::Queue {
        let stored: Vec<Uuid> = sqlx::query_scalar(
            "select message_id from eventloader.events where stream = 'queue' and message_id is not null",
        )
        .fetch_all(pool)
        .await
        .unwrap();
        let published = self.published.lock().await;
        let distinct: HashSet<Uuid> = stored.iter().copied().collect();
        let number = |count: usize| i64::try_from(count).unwrap();
        history::Queue {
            published_count: number(published.len()),
            stored_count: number(stored.len()),
            lost_count: number(published.difference(&distinct).count()),
            doubled_count: number(stored.len() - distinct.len()),
        }
    }
}
