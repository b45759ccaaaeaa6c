//! Connections that are cut, servers that restart, groups that vanish.

use eventloader::source::queue::{QueueFailure, QueueSession, QueueSource};
use eventloader::sources::redis_stream::{ReadFrom, RedisStreamSource};
use secrecy::SecretString;

use super::{LIMITS, Stream, acknowledge_all, deliver, numbers, options, try_deliver};
use crate::support::cable::{Cable, Cut};
use crate::support::redis::{PASSWORD, Redis};

/// A source behind a cable.
pub(super) fn behind(cable: &Cable, stream: &Stream) -> RedisStreamSource {
    let mut options = stream.options.clone();
    options.url = SecretString::from(format!("redis://:{PASSWORD}@{}", cable.address));
    RedisStreamSource::new(options)
}

#[tokio::test]
async fn a_connection_cut_before_an_acknowledgement_brings_the_entries_again() {
    let stream = Stream::new().await;
    stream.add_all(1..=4).await;
    let cable = Cable::to(stream.redis.port).await;
    let source = behind(&cable, &stream);
    let session = source.connect("one").await.unwrap();
    let delivery = deliver(&session).await;
    cable.cut_at(Cut::Before("XACK"));
    let error = session.acknowledge(delivery.receipt).await.unwrap_err();
    assert_eq!(error.class, QueueFailure::Unavailable, "{error:?}");
    let error = try_deliver(&session, LIMITS).await.unwrap_err();
    assert_eq!(error.class, QueueFailure::Unavailable, "{error:?}");
    drop(session);
    let session = source.connect("one").await.unwrap();
    assert_eq!(acknowledge_all(&session, deliver(&session).await).await, [1, 2, 3, 4]);
    assert_eq!(stream.pending().await, 0);
}

#[tokio::test]
async fn a_connection_cut_after_an_acknowledgement_brings_nothing_again() {
    let stream = Stream::new().await;
    stream.add_all(1..=4).await;
    let cable = Cable::to(stream.redis.port).await;
    let source = behind(&cable, &stream);
    let session = source.connect("one").await.unwrap();
    let delivery = deliver(&session).await;
    cable.cut_at(Cut::After("XACK"));
    let error = session.acknowledge(delivery.receipt).await.unwrap_err();
    assert_eq!(error.class, QueueFailure::Unavailable, "{error:?}");
    drop(session);
    let session = source.connect("one").await.unwrap();
    stream.add(5).await;
    assert_eq!(numbers(&deliver(&session).await), [5]);
    assert_eq!(stream.pending().await, 1);
}

#[tokio::test]
async fn a_server_that_restarts_in_mid_batch_loses_nothing() {
    let redis = Redis::start().await;
    let options = options(redis.url());
    let stream = options.stream.clone();
    for n in 1..=5 {
        redis.command(&["XADD", &stream, &format!("{n}-0"), "n", "1"]).await;
    }
    let source = RedisStreamSource::new(options);
    let session = source.connect("one").await.unwrap();
    let delivery = deliver(&session).await;
    redis.restart().await;
    assert!(session.acknowledge(delivery.receipt).await.is_err());
    assert!(try_deliver(&session, LIMITS).await.is_err());
    session.close().await;
    let session = source.connect("one").await.unwrap();
    redis.command(&["XADD", &stream, "6-0", "n", "1"]).await;
    let mut seen = acknowledge_all(&session, deliver(&session).await).await;
    while seen.len() < 6 {
        seen.extend(acknowledge_all(&session, deliver(&session).await).await);
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_group_that_is_destroyed_ends_the_session_and_is_made_anew() {
    let mut stream = Stream::new().await;
    for read_from in [ReadFrom::Beginning, ReadFrom::GroupCreated] {
        stream.options.read_from = read_from;
        stream.options.stream = Redis::new_stream();
        let source = stream.source();
        let session = source.connect("one").await.unwrap();
        stream.add_all(1..=2).await;
        assert_eq!(acknowledge_all(&session, deliver(&session).await).await, [1, 2]);
        stream.command("XGROUP DESTROY {} @").await;
        let error = try_deliver(&session, LIMITS).await.unwrap_err();
        assert_eq!(error.class, QueueFailure::Rejected);
        assert!(error.reason.contains("no longer has"), "{error:?}");
        assert!(error.fix.unwrap().contains("made anew"));
        stream.add(3).await;
        let session = source.connect("one").await.unwrap();
        let again = deliver(&session).await;
        let wanted = if read_from == ReadFrom::Beginning { vec![1, 2, 3] } else { vec![3] };
        assert_eq!(numbers(&again), wanted);
    }
}

#[tokio::test]
async fn a_group_that_is_destroyed_before_its_entries_are_stored_is_made_anew_before_them() {
    let mut stream = Stream::new().await;
    stream.options.read_from = ReadFrom::GroupCreated;
    let source = stream.source();
    let session = source.connect("one").await.unwrap();
    stream.add_all(1..=2).await;
    assert_eq!(acknowledge_all(&session, deliver(&session).await).await, [1, 2]);
    stream.add_all(3..=4).await;
    assert_eq!(numbers(&deliver(&session).await), [3, 4]);
    stream.command("XGROUP DESTROY {} @").await;
    drop(session);
    let session = source.connect("one").await.unwrap();
    assert_eq!(numbers(&deliver(&session).await), [3, 4]);
}

#[tokio::test]
async fn a_stream_that_is_deleted_under_a_waiting_session_ends_it() {
    let stream = Stream::new().await;
    stream.add(1).await;
    let session = stream.connect("one").await;
    assert_eq!(acknowledge_all(&session, deliver(&session).await).await, [1]);
    let deleting = async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        stream.command("DEL {}").await;
    };
    let (delivered, ()) = tokio::join!(try_deliver(&session, LIMITS), deleting);
    let error = delivered.unwrap_err();
    assert_eq!(error.class, QueueFailure::Rejected, "{error:?}");
    assert!(error.reason.contains(&stream.options.stream), "{error:?}");
    assert!(error.fix.is_some());
}
