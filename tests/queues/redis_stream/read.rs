//! Reading, acknowledging, giving back.

use std::collections::BTreeSet;
use std::time::Duration;

use eventloader::source::queue::{BatchLimits, QueueSession, QueueSource};
use eventloader::sources::redis_stream::ReadFrom;

use super::{LIMITS, Stream, acknowledge_all, deliver, numbers, try_deliver, version};

#[tokio::test]
async fn entries_come_in_batches_in_their_order_and_are_acknowledged() {
    let stream = Stream::new().await;
    stream.add_all(1..=250).await;
    let session = stream.connect("one").await;
    let mut seen = Vec::new();
    let mut deliveries = 0;
    while seen.len() < 250 {
        let delivery = deliver(&session).await;
        let message = &delivery.messages[0];
        assert_eq!(
            message.version,
            Some(version(message.reference[..message.reference.len() - 2].parse().unwrap()))
        );
        assert!(delivery.gaps.is_empty());
        assert!(stream.pending().await >= i64::try_from(delivery.messages.len()).unwrap());
        seen.extend(acknowledge_all(&session, delivery).await);
        deliveries += 1;
    }
    assert_eq!(seen, (1..=250).collect::<Vec<_>>());
    assert!(deliveries <= 4, "{deliveries}");
    assert_eq!(stream.pending().await, 0);
}

#[tokio::test]
async fn an_entry_that_arrives_is_delivered_at_once() {
    let stream = Stream::new().await;
    let session = stream.connect("one").await;
    let adding = async {
        // The session waits by then, or will find it.
        tokio::time::sleep(Duration::from_millis(300)).await;
        stream.add(1).await;
        tokio::time::Instant::now()
    };
    let (delivery, added) = tokio::join!(deliver(&session), adding);
    assert_eq!(numbers(&delivery), [1]);
    assert!(added.elapsed() < Duration::from_millis(900), "{:?}", added.elapsed());
    assert_eq!(delivery.messages[0].body.as_ref(), b"{\"n\":1}");
}

#[tokio::test]
async fn a_delivery_that_is_dropped_loses_nothing() {
    let stream = Stream::new().await;
    let session = stream.connect("one").await;
    let mut seen = Vec::new();
    let limits = BatchLimits { count: 7, linger: Duration::from_millis(3), ..LIMITS };
    let adding = stream.add_all(1..=200);
    let reading = async {
        for round in 0.. {
            // Some end before Redis has answered, some between two answers.
            let patience = Duration::from_micros(200 * (round % 40));
            if let Ok(delivery) = tokio::time::timeout(patience, session.deliver(limits)).await {
                seen.extend(acknowledge_all(&session, delivery.unwrap()).await);
            }
            if seen.len() >= 200 {
                break;
            }
            assert!(round < 20_000, "{} of 200", seen.len());
        }
    };
    tokio::join!(adding, reading);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 200);
    assert_eq!(seen.len(), 200, "one came twice");
    assert_eq!(stream.pending().await, 0);
}

#[tokio::test]
async fn what_is_given_back_stays_pending_and_comes_again() {
    let stream = Stream::new().await;
    stream.add_all(1..=5).await;
    let session = stream.connect("one").await;
    let first = deliver(&session).await;
    stream.add(6).await;
    let second = deliver(&session).await;
    assert_eq!((numbers(&first), numbers(&second)), (vec![1, 2, 3, 4, 5], vec![6]));
    session.reject(first.receipt).await.unwrap();
    assert_eq!(stream.pending().await, 6);
    let again = deliver(&session).await;
    assert_eq!(acknowledge_all(&session, again).await, [1, 2, 3, 4, 5]);
    assert_eq!(stream.pending().await, 1);
    session.acknowledge(second.receipt).await.unwrap();
    stream.add(7).await;
    assert_eq!(numbers(&deliver(&session).await), [7]);
}

#[tokio::test]
async fn a_group_begins_where_it_is_told_and_one_that_exists_goes_on() {
    let mut stream = Stream::new().await;
    stream.add_all(1..=3).await;
    stream.options.read_from = ReadFrom::GroupCreated;
    let late = stream.connect("one").await;
    stream.add(4).await;
    assert_eq!(acknowledge_all(&late, deliver(&late).await).await, [4]);
    late.close().await;
    // Made already: where it would begin does not matter.
    stream.options.read_from = ReadFrom::Beginning;
    let second = stream.connect("two").await;
    stream.add(5).await;
    assert_eq!(numbers(&deliver(&second).await), [5]);
    stream.options.group = "another".to_owned();
    let early = stream.connect("one").await;
    assert_eq!(numbers(&deliver(&early).await), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn two_consumers_share_a_group_and_get_nothing_twice() {
    let stream = Stream::new().await;
    let (one, two) = (stream.connect("host-1").await, stream.connect("host-2").await);
    let limits = BatchLimits { count: 5, ..LIMITS };
    let read = async |session| {
        let mut seen = Vec::new();
        while let Ok(delivery) =
            tokio::time::timeout(Duration::from_secs(2), try_deliver(session, limits)).await
        {
            seen.extend(acknowledge_all(session, delivery.unwrap()).await);
        }
        seen
    };
    let (first, second, ()) = tokio::join!(read(&one), read(&two), stream.add_all(1..=300));
    assert!(!first.is_empty() && !second.is_empty(), "{} and {}", first.len(), second.len());
    let mut all = [first, second].concat();
    all.sort_unstable();
    assert_eq!(all, (1..=300).collect::<Vec<_>>());
    assert_eq!(stream.pending().await, 0);
}

#[tokio::test]
async fn large_entries_come_few_at_a_time() {
    let stream = Stream::new().await;
    let body = format!("{{\"text\":\"{}\"}}", "x".repeat(16 << 20));
    for n in 1..=5 {
        stream.command(&format!("XADD {{}} {n}-0 message {body}")).await;
    }
    let session = stream.connect("one").await;
    let limits = BatchLimits { bytes: 20 << 20, ..LIMITS };
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let delivery = try_deliver(&session, limits).await.unwrap();
        assert!(delivery.messages.len() <= 2);
        assert!(delivery.messages.iter().all(|message| message.body == body.as_bytes()));
        seen.extend(acknowledge_all(&session, delivery).await);
    }
    assert_eq!(seen, [1, 2, 3, 4, 5]);
    stream.command("DEL {}").await;
}

#[tokio::test]
async fn what_cannot_be_read_is_delivered_with_its_fault_among_its_neighbours() {
    let stream = Stream::new().await;
    stream.add(1).await;
    let mut add = redis::cmd("XADD");
    add.arg(&stream.options.stream).arg("2-0").arg("message").arg(b"\xff\xfe".as_slice());
    let mut connection = stream.redis.connect().await;
    add.query_async::<()>(&mut connection).await.unwrap();
    stream.command("XADD {} 3-0 message ").await;
    stream.command("XADD {} 4-2097152 n 4").await;
    let session = stream.connect("one").await;
    let delivery = deliver(&session).await;
    let faults: Vec<_> = delivery.messages.iter().map(|message| message.fault.is_some()).collect();
    assert_eq!(faults, [false, true, false, true]);
    let bodies: Vec<_> =
        delivery.messages.iter().map(|m| String::from_utf8_lossy(&m.body)).collect();
    assert_eq!(
        bodies[1..],
        [
            "{\"fields\":[[\"message\",{\"base64\":\"//4=\"}]]}",
            "{\"message\":\"\"}",
            "{\"n\":\"4\"}"
        ]
    );
    assert_eq!(delivery.messages[3].version, None);
    session.acknowledge(delivery.receipt).await.unwrap();
    assert_eq!(stream.pending().await, 0);
}

#[tokio::test]
async fn an_inspection_tells_what_is_there_and_makes_nothing() {
    let stream = Stream::new().await;
    let found = stream.source().inspect().await.unwrap();
    assert!(found.what.contains("no stream"), "{found:?}");
    assert_eq!(stream.command("EXISTS {}").await, redis::Value::Int(0));
    stream.add_all(1..=4).await;
    let found = stream.source().inspect().await.unwrap();
    assert!(found.what.contains("4 entries") && found.what.contains("will be made"), "{found:?}");
    let session = stream.connect("one").await;
    let limits = BatchLimits { count: 1, ..LIMITS };
    drop(try_deliver(&session, limits).await.unwrap());
    let found = stream.source().inspect().await.unwrap();
    assert!(found.what.contains("1 consumers, 1 pending, 3 to be read"), "{found:?}");
    stream.command("XTRIM {} MAXLEN 1").await;
    let found = stream.source().inspect().await.unwrap();
    assert!(
        found.warnings.iter().any(|warning| warning.contains("2 entries were trimmed")),
        "{found:?}"
    );
}
