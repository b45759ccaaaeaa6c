//! What dead consumers leave behind.

use std::time::Duration;

use eventloader::source::queue::{BatchLimits, QueueSession, QueueSource};
use redis::Value;

use super::fault::behind;
use super::{LIMITS, Stream, acknowledge_all, deliver, gaps, numbers, try_deliver, version};
use crate::support::cable::{Cable, Cut};
use crate::support::wait_for;

#[tokio::test]
async fn entries_of_a_killed_consumer_are_taken_over_behind_those_of_a_slow_one() {
    let mut stream = Stream::new().await;
    stream.options.retry_after = Duration::from_secs(1);
    stream.add_all(1..=10).await;
    // It works on these for longer than retry_after, and is alive.
    let slow = stream.connect("slow").await;
    let slow_batch = deliver(&slow).await;
    assert_eq!(slow_batch.messages.len(), 10);
    // A head that cannot be read, and a good one behind it.
    stream.command("XADD {} 11-3000000 message broken").await;
    stream.add_all(12..=15).await;
    let killed = stream.connect("killed").await;
    assert_eq!(deliver(&killed).await.messages.len(), 5);
    drop(killed);
    let heir = stream.connect("heir").await;
    let mut heard = Vec::new();
    while heard.len() < 5 {
        heard.extend(acknowledge_all(&heir, deliver(&heir).await).await);
    }
    assert_eq!(heard, [11, 12, 13, 14, 15]);
    // Twice as long again: what the slow one has is never handed out to anybody else, nor again to itself.
    let patience = Duration::from_millis(2500);
    let (first, second) = tokio::join!(
        tokio::time::timeout(patience, heir.deliver(LIMITS)),
        tokio::time::timeout(patience, slow.deliver(LIMITS))
    );
    assert!(first.is_err() && second.is_err());
    slow.acknowledge(slow_batch.receipt).await.unwrap();
    assert_eq!(stream.pending().await, 0);
}

#[tokio::test]
async fn every_pending_entry_is_looked_at_not_only_the_oldest() {
    let mut stream = Stream::new().await;
    stream.options.retry_after = Duration::from_secs(1);
    stream.add_all(1..=1500).await;
    let slow = stream.connect("slow").await;
    let mut kept = Vec::new();
    let limits = BatchLimits { count: 1000, ..LIMITS };
    while kept.iter().map(|delivery: &super::Delivery<_>| delivery.messages.len()).sum::<usize>()
        < 1400
    {
        let left = 1400 - kept.iter().map(|delivery| delivery.messages.len()).sum::<usize>();
        kept.push(try_deliver(&slow, BatchLimits { count: left, ..limits }).await.unwrap());
    }
    let killed = stream.connect("killed").await;
    let last = try_deliver(&killed, limits).await.unwrap();
    assert_eq!(numbers(&last), (1401..=1500).collect::<Vec<_>>());
    drop(killed);
    let heir = stream.connect("heir").await;
    let mut heard = Vec::new();
    while heard.len() < 100 {
        heard.extend(acknowledge_all(&heir, deliver(&heir).await).await);
    }
    assert_eq!(heard, (1401..=1500).collect::<Vec<_>>());
    assert_eq!(stream.pending().await, 1400);
}

#[tokio::test]
async fn who_leaves_hands_over_at_once_and_is_forgotten() {
    let stream = Stream::new().await;
    stream.add_all(1..=3).await;
    let leaving = stream.connect("leaving").await;
    assert_eq!(deliver(&leaving).await.messages.len(), 3);
    leaving.close().await;
    // retry_after is a minute.
    let heir = stream.connect("heir").await;
    assert_eq!(acknowledge_all(&heir, deliver(&heir).await).await, [1, 2, 3]);
    heir.close().await;
    assert_eq!(stream.consumers().await, ["leaving"]);
}

#[tokio::test]
async fn who_leaves_takes_nothing_back_that_another_has_taken_over() {
    let stream = Stream::new().await;
    stream.add_all(1..=3).await;
    let cable = Cable::to(stream.redis.port).await;
    let leaving = behind(&cable, &stream).connect("leaving").await.unwrap();
    assert_eq!(deliver(&leaving).await.messages.len(), 3);
    // It has seen what it has, and is about to hand it over.
    cable.cut_at(Cut::Hold("JUSTID"));
    let taking_over = async {
        wait_for("the hand-over", async || cable.holds().then_some(())).await;
        stream.command("XCLAIM {} @ other 0 1-0 2-0").await;
        cable.release();
    };
    tokio::join!(leaving.close(), taking_over);
    let Value::Array(pending) = stream.command("XPENDING {} @ - + 10").await else { panic!() };
    let owners: Vec<Value> = pending
        .into_iter()
        .map(|entry| match entry {
            Value::Array(mut members) => members.swap_remove(1),
            other => panic!("{other:?}"),
        })
        .collect();
    let [other, leaving] = ["other", "leaving"].map(|name| Value::BulkString(name.into()));
    assert_eq!(owners, [other.clone(), other, leaving]);
    // retry_after is a minute: only what was handed over comes at once.
    let heir = stream.connect("heir").await;
    assert_eq!(acknowledge_all(&heir, deliver(&heir).await).await, [3]);
}

#[tokio::test]
async fn dead_consumers_are_removed_when_they_have_nothing_pending() {
    let mut stream = Stream::new().await;
    stream.add_all(1..=2).await;
    stream.command("XGROUP CREATE {} @ 0").await;
    stream.command("XGROUP CREATECONSUMER {} @ dead").await;
    stream.command("XREADGROUP GROUP @ burdened COUNT 1 STREAMS {} >").await;
    // Never old enough to be taken over, so that it is never without.
    let keep = async |stream: &Stream| {
        loop {
            stream.command("XCLAIM {} @ burdened 0 1-0 IDLE 0 JUSTID").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    stream.options.retry_after = Duration::from_millis(200);
    let session = stream.connect("alive").await;
    let watch = async {
        let delivery = deliver(&session).await;
        assert_eq!(numbers(&delivery), [2]);
        let waiting = session.deliver(LIMITS);
        let gone = wait_for("the dead one to be removed", async || {
            let names = stream.consumers().await;
            (!names.contains(&"dead".to_owned())).then_some(names)
        });
        tokio::select! {
            delivered = waiting => panic!("{delivered:?}"),
            names = gone => assert_eq!(names, ["alive", "burdened"]),
        }
    };
    tokio::select! {
        () = keep(&stream) => {}
        () = watch => {}
    }
}

#[tokio::test]
async fn an_entry_that_was_deleted_while_it_was_pending_is_a_gap() {
    let mut stream = Stream::new().await;
    stream.add_all(1..=3).await;
    let own = stream.connect("own").await;
    let delivery = deliver(&own).await;
    stream.command("XDEL {} 2-0").await;
    own.reject(delivery.receipt).await.unwrap();
    let again = deliver(&own).await;
    assert_eq!((numbers(&again), gaps(&again)), (vec![1, 3], vec![(version(2), version(2))]));
    assert!(again.gaps[0].reason.contains("2-0"), "{:?}", again.gaps);
    // Until that is stored, it is pending.
    assert_eq!(stream.pending().await, 3);
    own.acknowledge(again.receipt).await.unwrap();
    assert_eq!(stream.pending().await, 0);

    stream.add_all(4..=6).await;
    assert_eq!(deliver(&own).await.messages.len(), 3);
    drop(own);
    stream.command("XDEL {} 4-0").await;
    stream.options.retry_after = Duration::from_millis(100);
    let heir = stream.connect("heir").await;
    let mut heard = (Vec::new(), Vec::new());
    while heard.0.len() < 2 || heard.1.is_empty() {
        let delivery = deliver(&heir).await;
        heard.1.extend(gaps(&delivery));
        heard.0.extend(acknowledge_all(&heir, delivery).await);
    }
    assert_eq!(heard, (vec![5, 6], vec![(version(4), version(4))]));
    assert_eq!(stream.pending().await, 0);
}
