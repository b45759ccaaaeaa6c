//! The thread that polls, as long as the session lives: it keeps the place in the group, whatever becomes of the messages.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Message as _, Offset};

use super::client::{self, Client, Shared};
use super::fault::{self, Consequence};
use super::hand_over::Next;
use super::message;
use crate::source::queue::QueueError;

/// How long a poll waits, and so how late the thread hears of a rewind or of the end.
const POLL: Duration = Duration::from_millis(50);
/// How long nothing may be wanted before the partitions are paused. Pausing drops what was prefetched; not polling keeps
/// the others of the group waiting when it changes.
const PATIENCE: Duration = Duration::from_secs(3);
const SEEK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a broker has to show that it is there.
const PROOF_TIMEOUT: Duration = Duration::from_secs(5);

/// Polls until the session stops or fails; then leaves the group.
pub(super) fn run(client: Arc<Client>, shared: &Shared) {
    let end = End(shared);
    if let Err(error) = poll_all(&client, shared) {
        shared.hand_over.fail(error);
    }
    drop(end);
    drop(client);
}

/// However the thread ends, nobody waits for it.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.hand_over.fail(QueueError::unavailable("the session with Kafka is over"));
    }
}

fn poll_all(client: &Client, shared: &Shared) -> Result<(), QueueError> {
    let mut streams = HashMap::new();
    // Whether some partitions are paused, and whether one came since that is not.
    let (mut is_paused, mut has_unpaused) = (false, true);
    let mut next = Next::Poll;
    loop {
        match next {
            Next::Stop => return Ok(()),
            Next::Rewind(partitions) => {
                rewind(client, shared, &partitions)?;
                next = shared.hand_over.next();
                continue;
            }
            Next::Hold if has_unpaused => {
                next = shared.hand_over.next_within(PATIENCE);
                if next == Next::Hold {
                    let assigned = client.assignment().and_then(|all| client.pause(&all));
                    assigned.map_err(|error| shared.explain(&error))?;
                    (is_paused, has_unpaused) = (true, false);
                }
                continue;
            }
            Next::Poll if is_paused => {
                let assigned = client.assignment().and_then(|all| client.resume(&all));
                assigned.map_err(|error| shared.explain(&error))?;
                (is_paused, has_unpaused) = (false, true);
            }
            Next::Hold | Next::Poll => {}
        }
        next = match client.poll(POLL) {
            None => shared.hand_over.next(),
            Some(Ok(message)) => {
                // A partition that came while the others were paused is not.
                has_unpaused = true;
                let partition = message.partition();
                let stream = streams.entry(partition).or_insert_with(|| shared.stream(partition));
                let read = message::read(&message, stream, &shared.topic);
                shared.hand_over.put(partition, message.offset(), read)
            }
            Some(Err(error)) => {
                judge(client, shared, &error)?;
                shared.hand_over.next()
            }
        };
    }
}

/// Reads partitions again. Between the decision and this nothing of them was taken.
fn rewind(client: &Client, shared: &Shared, offsets: &[(i32, i64)]) -> Result<(), QueueError> {
    let each = offsets.iter().map(|(number, offset)| (*number, Offset::Offset(*offset)));
    let sought = client.seek_partitions(client::list(&shared.topic, each), SEEK_TIMEOUT);
    let explain = |error: &KafkaError| shared.explain(error);
    for element in sought.map_err(|error| explain(&error))?.elements() {
        element.error().map_err(|error| explain(&error))?;
        shared.hand_over.rewound(element.partition());
    }
    Ok(())
}

fn judge(client: &Client, shared: &Shared, error: &KafkaError) -> Result<(), QueueError> {
    match fault::consequence(error) {
        Consequence::None => Ok(()),
        Consequence::End => Err(shared.explain(error)),
        // One of several addresses of a broker that does not answer looks the same.
        Consequence::Ask => {
            let proof = client.fetch_metadata(Some(&shared.topic), PROOF_TIMEOUT);
            let gone = KafkaError::Global(RDKafkaErrorCode::AllBrokersDown);
            proof.map(|_| ()).map_err(|_| shared.explain(&gone))
        }
    }
}
