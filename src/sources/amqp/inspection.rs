//! A look at the queue, for `eventloader check`.

use lapin::options::BasicConsumeOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Error, ErrorKind};

use super::connection::{Link, call};
use super::{Amqp, PRIORITY, STREAM_OFFSET, name, passive};
use crate::source::queue::{QueueError, QueueInspection};

const DELIVERY_LIMIT: &str = "a quorum queue drops a message after `delivery-limit` deliveries (20 by default since \
    RabbitMQ 4), also if they ended with a lost connection: raise it by a policy, or give the queue a dead-letter exchange";

impl Amqp {
    /// Asks for the queue, and for what would keep it from being consumed, without ever consuming it.
    pub(super) async fn look(&self, link: &Link) -> Result<QueueInspection, QueueError> {
        let site = self.options.site();
        let channel = link.channel(site).await?;
        let found = channel.queue_declare(name(site.queue), passive(), FieldTable::default());
        let queue = match call(site, "look at the queue", found).await {
            Ok(queue) => queue,
            Err(error)
                if self.options.topology.is_some() && error.reason.contains("there is no") =>
            {
                let what = format!("{} does not exist yet, and will be declared", site.name());
                return Ok(QueueInspection { what, ..QueueInspection::default() });
            }
            Err(error) => return Err(error),
        };
        self.probe(link, PRIORITY).await?;
        let said = self.probe(link, STREAM_OFFSET).await?;
        let is_quorum = said.contains("rabbit_quorum_queue");
        let (ready, consumers) = (queue.message_count(), queue.consumer_count());
        Ok(QueueInspection {
            what: format!("{}: {ready} messages ready, {consumers} consumers", site.name()),
            warnings: is_quorum.then(|| DELIVERY_LIMIT.to_owned()).into_iter().collect(),
        })
    }

    /// Consumes with an argument that no broker takes: who may not read the queue is told that first. What it says of the
    /// argument names the type of the queue.
    async fn probe(&self, link: &Link, argument: &str) -> Result<String, QueueError> {
        let site = self.options.site();
        let channel = link.channel(site).await?;
        let mut arguments = FieldTable::default();
        arguments.insert(argument.into(), AMQPValue::LongString("no such value".into()));
        let (options, tag) = (BasicConsumeOptions::default(), name("eventloader check"));
        let probe = async {
            match channel.basic_consume(name(site.queue), tag, options, arguments).await {
                Ok(_) => Ok(String::new()),
                Err(error) => argument_refused(&error).ok_or(error),
            }
        };
        let said = call(site, "consume the queue", probe).await?;
        if said.contains("rabbit_stream_queue") { Err(site.is_a_stream()) } else { Ok(said) }
    }
}

/// What a broker says of an argument that it refuses.
fn argument_refused(error: &Error) -> Option<String> {
    let ErrorKind::ProtocolError(refusal) = error.kind() else { return None };
    let is_precondition =
        matches!(refusal.kind(), AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED));
    let said = refusal.get_message().to_string();
    (is_precondition && said.contains("invalid arg")).then_some(said)
}
