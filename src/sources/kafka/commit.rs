//! Commits offsets: after the deposit, and once when a group begins at the end.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{self, Client, Shared};
use super::{blocking, fault};
use crate::source::queue::QueueError;

/// A broker that is choosing a coordinator, or a group that changes, takes about so long.
const ATTEMPTS_MAX: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What became of a commit.
enum Outcome {
    Done,
    Again(KafkaError),
}

/// Commits what is due. What can no longer be committed is left: its next owner reads it again.
pub(super) async fn commit(client: &Weak<Client>, shared: &Arc<Shared>) -> Result<(), QueueError> {
    let mut pause = FIRST_PAUSE;
    for attempt in 1..=ATTEMPTS_MAX {
        let (client, committing) = (Weak::clone(client), Arc::clone(shared));
        match blocking(move || commit_once(&client, &committing)).await? {
            Outcome::Done => return Ok(()),
            Outcome::Again(error) if attempt == ATTEMPTS_MAX => return Err(shared.explain(&error)),
            Outcome::Again(error) => {
                tracing::debug!(topic = &*shared.topic, %error, "offsets are committed again");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
    }
    Ok(())
}

fn commit_once(client: &Weak<Client>, shared: &Shared) -> Result<Outcome, QueueError> {
    let client = client.upgrade();
    let client = client.ok_or_else(|| QueueError::unavailable("the session with Kafka is over"))?;
    let _turn = shared.commits.lock().unwrap_or_else(PoisonError::into_inner);
    let offsets = shared.hand_over.due();
    if offsets.is_empty() {
        return Ok(Outcome::Done);
    }
    let Err(error) = client.commit(&list(shared, &offsets), CommitMode::Sync) else {
        shared.hand_over.committed(&offsets);
        return Ok(Outcome::Done);
    };
    match fault::code(&error) {
        Some(code) if fault::is_passing(code) => Ok(Outcome::Again(error)),
        Some(code) if fault::is_not_ours(code) => {
            let topic = &*shared.topic;
            tracing::info!(topic, %error, "offsets are not committed: the group has changed; their messages come again, and are recognised");
            Ok(Outcome::Done)
        }
        _ => Err(shared.explain(&error)),
    }
}

/// A group that has committed nothing yet, and of whose topic nothing is stored, begins at the end of every partition, from
/// now on and whatever happens next. As long as nobody has joined, everybody may say so; afterwards the broker lets nobody
/// but members commit.
pub(super) fn pin_end(
    client: &Client,
    shared: &Shared,
    partitions: &[i32],
) -> Result<(), QueueError> {
    let found = client::find(client, partitions)?;
    if found.iter().any(|(_, found)| found.committed.is_some()) {
        // A partition without an offset was made after the group, and is read from its first message.
        return Ok(());
    }
    if partitions.iter().any(|number| shared.behind_stored(*number).is_some()) {
        // The group is not new, it is forgotten. Of a partition of which nothing is stored nobody knows where the group
        // stood: it is read from its first message, for too much is better than too little.
        let (topic, group) = (&*shared.topic, &*shared.places.group);
        tracing::info!(topic, group, "the group has no offsets: it goes on behind what is stored");
        return Ok(());
    }
    let highs: Option<Vec<(i32, i64)>> =
        found.iter().map(|(number, found)| Some((*number, found.high?))).collect();
    let Some(highs) = highs else {
        return Err(QueueError::unavailable(format!(
            "not all partitions of the topic \"{}\" have a leader, so their ends are not known",
            shared.topic
        )));
    };
    let pinned = client.commit(&list(shared, &highs), CommitMode::Sync);
    match pinned {
        Ok(()) => {
            let (topic, group) = (&*shared.topic, &*shared.places.group);
            tracing::info!(
                topic,
                group,
                "the group has no offsets yet: it begins at the end of the topic"
            );
            Ok(())
        }
        Err(error) => {
            let committed = client::committed(client, partitions)?;
            let is_pinned = committed.iter().any(|(_, offset)| offset.is_some());
            if is_pinned { Ok(()) } else { Err(shared.explain(&error)) }
        }
    }
}

fn list(shared: &Shared, offsets: &[(i32, i64)]) -> TopicPartitionList {
    let each = offsets.iter().map(|(number, offset)| (*number, Offset::Offset(*offset)));
    client::list(&shared.topic, each)
}
