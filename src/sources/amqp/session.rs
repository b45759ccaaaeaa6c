//! One consumer of a queue.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicNackOptions};
use lapin::{Channel, Consumer, ErrorKind};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::connection::{Link, call};
use super::failure::Site;
use super::message::{is_of_a_stream, message};
use super::window::Window;
use super::{AmqpOptions, consume};
use crate::source::queue::{BatchLimits, Delivery, Message, QueueError, QueueSession};

/// What the name of every second consumer of a session begins with.
const SECOND: &str = "~";

/// One consumer of a queue, made by [`super::Amqp`].
pub struct AmqpSession {
    options: Arc<AmqpOptions>,
    channel: Channel,
    link: Link,
    inbound: Mutex<Inbound>,
    settled: Mutex<Settled>,
    /// Messages that were delivered to the caller and are neither acknowledged nor given back.
    unsettled: AtomicUsize,
}

/// The messages of one delivery, by their delivery tags.
#[derive(Debug)]
pub struct AmqpReceipt {
    first_tag: u64,
    last_tag: u64,
    count: usize,
}

/// What has arrived and was not delivered to the caller yet. A call that is dropped leaves it for the next one.
struct Inbound {
    options: Arc<AmqpOptions>,
    channel: Channel,
    consumer: Consumer,
    window: Window,
    /// A consumer with another window, which is about to take the place of this one.
    successor: Option<BoxFuture<'static, Result<Consumer, QueueError>>>,
    /// Told when a message could not be read.
    is_unreadable: Arc<AtomicBool>,
    waiting: VecDeque<(u64, Message)>,
    byte_count: usize,
    /// When the first of those that wait arrived.
    since: Option<Instant>,
    /// Why nothing more comes.
    end: Option<QueueError>,
}

impl AmqpSession {
    pub(super) fn new(
        options: Arc<AmqpOptions>,
        link: Link,
        channel: Channel,
        (consumer, window): (Consumer, Window),
        is_unreadable: Arc<AtomicBool>,
    ) -> Self {
        let inbound = Inbound {
            options: Arc::clone(&options),
            channel: channel.clone(),
            consumer,
            window,
            successor: None,
            is_unreadable,
            waiting: VecDeque::new(),
            byte_count: 0,
            since: None,
            end: None,
        };
        Self {
            options,
            channel,
            link,
            inbound: Mutex::new(inbound),
            settled: Mutex::default(),
            unsettled: AtomicUsize::new(0),
        }
    }

    fn site(&self) -> Site<'_> {
        self.options.site()
    }

    /// Says what becomes of a delivery. A range is settled with one word, unless one before it is still open: that word
    /// would settle it too.
    async fn settle(&self, receipt: AmqpReceipt, verdict: Verdict) -> Result<(), QueueError> {
        let mut settled = self.settled.lock().await;
        if settled.is_next(&receipt) {
            self.say(receipt.last_tag, true, verdict).await?;
        } else {
            for tag in receipt.first_tag..=receipt.last_tag {
                self.say(tag, false, verdict).await?;
            }
        }
        settled.add(&receipt);
        self.unsettled.fetch_sub(receipt.count, Ordering::Relaxed);
        Ok(())
    }

    async fn say(&self, tag: u64, multiple: bool, verdict: Verdict) -> Result<(), QueueError> {
        match verdict {
            Verdict::Stored => {
                let said = self.channel.basic_ack(tag, BasicAckOptions { multiple });
                call(self.site(), "take an acknowledgement", said).await
            }
            Verdict::GivenBack => {
                let options = BasicNackOptions { multiple, requeue: true };
                let said = self.channel.basic_nack(tag, options);
                call(self.site(), "take messages back", said).await
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Verdict {
    Stored,
    GivenBack,
}

impl QueueSession for AmqpSession {
    type Receipt = AmqpReceipt;

    async fn deliver(&self, limits: BatchLimits) -> Result<Delivery<AmqpReceipt>, QueueError> {
        let mut inbound = self.inbound.lock().await;
        while !inbound.is_full(limits) {
            inbound.adapt().await?;
            // The broker sends no more than it may: waiting for more would be in vain.
            let window = usize::from(inbound.window.count());
            let is_all = inbound.waiting.len() + self.unsettled.load(Ordering::Relaxed) >= window;
            if is_all && !inbound.waiting.is_empty() {
                break;
            }
            if !inbound.receive(limits).await? {
                break;
            }
        }
        let delivery = inbound.take(limits);
        self.unsettled.fetch_add(delivery.messages.len(), Ordering::Relaxed);
        Ok(delivery)
    }

    async fn acknowledge(&self, receipt: AmqpReceipt) -> Result<(), QueueError> {
        self.settle(receipt, Verdict::Stored).await
    }

    async fn reject(&self, receipt: AmqpReceipt) -> Result<(), QueueError> {
        self.settle(receipt, Verdict::GivenBack).await
    }

    async fn close(self) {
        let site = self.options.site();
        self.link.close(site).await;
    }
}

impl Inbound {
    /// While one half of what the broker may send ahead is stored, the other half comes.
    fn is_full(&self, limits: BatchLimits) -> bool {
        let half = usize::from(self.window.count_max()).div_ceil(2);
        self.waiting.len() >= limits.count.clamp(1, half) || self.byte_count >= limits.bytes.max(1)
    }

    /// Lets another consumer take over when messages have become larger or smaller: the window of one is fixed when it
    /// begins. It begins before the other ends, because a queue may be deleted with its last consumer.
    async fn adapt(&mut self) -> Result<(), QueueError> {
        if self.successor.is_none()
            && self.end.is_none()
            && let Some(count) = self.window.change()
        {
            let (options, channel) = (Arc::clone(&self.options), self.channel.clone());
            let before = self.consumer.tag();
            // Both are there for a moment, and need names of their own.
            let tag = match before.as_str().strip_prefix(SECOND) {
                Some(first) => first.to_owned(),
                None => format!("{SECOND}{before}"),
            };
            self.successor = Some(Box::pin(async move {
                let site = options.site();
                let consumer = consume(site, &channel, &tag, count).await?;
                let ended = channel.basic_cancel(before, BasicCancelOptions::default());
                call(site, "end a consumer", ended).await?;
                Ok(consumer)
            }));
        }
        let Some(successor) = &mut self.successor else { return Ok(()) };
        let begun = successor.await;
        self.successor = None;
        let mut before = match begun {
            Ok(consumer) => std::mem::replace(&mut self.consumer, consumer),
            Err(error) => {
                // What ended the channel was told to the consumer.
                while let Some(Some(next)) = self.consumer.next().now_or_never() {
                    self.add(Some(next))?;
                }
                self.end = Some(error.clone());
                return Err(error);
            }
        };
        // Whatever the one before was sent, and what came to its successor meanwhile: all of it is here.
        while let Some(Some(next)) = before.next().now_or_never() {
            self.add(Some(next))?;
        }
        while let Some(next) = self.consumer.next().now_or_never() {
            self.add(next)?;
        }
        self.waiting.make_contiguous().sort_unstable_by_key(|(tag, _)| *tag);
        Ok(())
    }

    /// Waits for one more message; `false`: the first one has lingered long enough. What is there already is taken all
    /// the same: a time that is over is only looked at when there is nothing to take.
    async fn receive(&mut self, limits: BatchLimits) -> Result<bool, QueueError> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        let next = match self.since {
            None => self.consumer.next().await,
            Some(since) => match timeout_at(since + limits.linger, self.consumer.next()).await {
                Ok(next) => next,
                Err(_) => return Ok(false),
            },
        };
        self.add(next)?;
        Ok(true)
    }

    /// Keeps what came of the consumer, if it is a message.
    fn add(
        &mut self,
        next: Option<lapin::Result<lapin::message::Delivery>>,
    ) -> Result<(), QueueError> {
        let site = self.options.site();
        let end = match next {
            Some(Ok(delivery)) if is_of_a_stream(&delivery) => site.is_a_stream(),
            Some(Ok(delivery)) => {
                self.since.get_or_insert_with(Instant::now);
                self.byte_count += delivery.data.len();
                self.window.add(delivery.data.len());
                self.waiting.push_back((delivery.delivery_tag, message(delivery)));
                return Ok(());
            }
            Some(Err(error)) => {
                if matches!(error.kind(), ErrorKind::ParsingError(_)) {
                    self.is_unreadable.store(true, Ordering::Relaxed);
                }
                site.failed("deliver messages", &error)
            }
            None => site.cancelled(),
        };
        self.end = Some(end.clone());
        Err(end)
    }

    /// What fits of what waits; never nothing.
    fn take(&mut self, limits: BatchLimits) -> Delivery<AmqpReceipt> {
        let mut messages = Vec::with_capacity(self.waiting.len().min(limits.count));
        let (mut first_tag, mut last_tag, mut byte_count) = (0, 0, 0);
        while messages.len() < limits.count.max(1) && byte_count < limits.bytes.max(1) {
            let Some((tag, message)) = self.waiting.pop_front() else { break };
            first_tag = if messages.is_empty() { tag } else { first_tag };
            last_tag = tag;
            byte_count += message.body.len();
            messages.push(message);
        }
        self.byte_count -= byte_count;
        self.since = self.since.filter(|_| !self.waiting.is_empty());
        let receipt = AmqpReceipt { first_tag, last_tag, count: messages.len() };
        Delivery { messages, gaps: Vec::new(), receipt }
    }
}

/// Which deliveries are settled. Tags count from 1.
#[derive(Default)]
struct Settled {
    /// Everything up to here.
    up_to: u64,
    /// Last tag by first tag, of those beyond an open one.
    ahead: BTreeMap<u64, u64>,
}

impl Settled {
    fn is_next(&self, receipt: &AmqpReceipt) -> bool {
        receipt.first_tag == self.up_to + 1
    }

    fn add(&mut self, receipt: &AmqpReceipt) {
        self.ahead.insert(receipt.first_tag, receipt.last_tag);
        while let Some(last_tag) = self.ahead.remove(&(self.up_to + 1)) {
            self.up_to = last_tag;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_next_only_when_all_before_it_are_settled() {
        let receipt = |first_tag, last_tag| AmqpReceipt { first_tag, last_tag, count: 1 };
        let mut settled = Settled::default();
        assert!(!settled.is_next(&receipt(4, 6)));
        settled.add(&receipt(4, 6));
        assert!(!settled.is_next(&receipt(7, 7)), "1 to 3 are open");
        assert!(settled.is_next(&receipt(1, 3)));
        settled.add(&receipt(1, 3));
        assert!(settled.is_next(&receipt(7, 7)));
    }
}
