//! What keeps a session from being, and what is said of it.

use eventloader::source::queue::{QueueError, QueueFailure, QueueSession, QueueSource};
use eventloader::sources::redis_stream::{RedisStreamOptions, RedisStreamSource};
use secrecy::SecretString;

use super::{Stream, deliver, numbers, options};
use crate::support::redis::{PASSWORD, Redis};

/// Why neither a connection nor a look works.
async fn refusal(options: RedisStreamOptions) -> QueueError {
    let source = RedisStreamSource::new(options);
    let Err(error) = source.connect("one").await else { panic!("connected") };
    let seen = format!("{error:?} {source:?}");
    assert!(!seen.contains(PASSWORD) && !seen.contains("wr0ng"), "{seen}");
    error
}

fn assert_told(error: &QueueError, class: QueueFailure, reason: &str, fix: &str) {
    let told = error.fix.as_deref().unwrap_or_default();
    assert_eq!(error.class, class, "{error:?}");
    assert!(error.reason.contains(reason), "{error:?}");
    assert!(told.contains(fix), "{error:?}");
}

use QueueFailure::{Rejected, Unavailable};

#[tokio::test]
async fn credentials_and_rights_that_do_not_do_are_told() {
    let stream = Stream::new().await;
    let port = stream.redis.port;
    let with =
        |url: String| RedisStreamOptions { url: SecretString::from(url), ..stream.options.clone() };
    let error = refusal(with(format!("redis://127.0.0.1:{port}"))).await;
    assert_told(&error, Rejected, "wants a password", "redis://user:password@");
    let error = refusal(with(format!("redis://:wr0ng@127.0.0.1:{port}"))).await;
    assert_told(&error, Rejected, "refuses the user or the password", "correct them in url");
    let user = format!("reader-{port}");
    stream
        .redis
        .command(&[
            "ACL", "SETUSER", &user, "on", ">wr0ng", "~*", "+xread", "+type", "+xinfo", "+multi",
            "+exec",
        ])
        .await;
    stream.add(1).await;
    let error = refusal(with(format!("redis://{user}:wr0ng@127.0.0.1:{port}"))).await;
    assert_told(
        &error,
        Rejected,
        "does not let its user make the consumer group",
        "+xreadgroup +xack",
    );
    let error = refusal(with(format!("redis://:{PASSWORD}@127.0.0.1:{port}/99"))).await;
    assert_told(&error, Rejected, "no database of that number", "end of url");
    assert!(error.reason.contains(&format!("127.0.0.1:{port}")), "{error:?}");
}

#[tokio::test]
async fn the_rights_that_are_named_are_enough() {
    let stream = Stream::new().await;
    let name = stream.options.stream.clone();
    let rights = "+xreadgroup +xack +xclaim +xpending +xrange +xinfo +xgroup +type +multi +exec +eval +select";
    let key = format!("~{name}");
    let mut words = vec!["ACL", "SETUSER", "enough", "on", ">wr0ng", key.as_str()];
    words.extend(rights.split(' '));
    stream.redis.command(&words).await;
    stream.add_all(1..=3).await;
    let url = format!("redis://enough:wr0ng@127.0.0.1:{}", stream.redis.port);
    let source =
        RedisStreamSource::new(RedisStreamOptions { url: url.into(), ..stream.options.clone() });
    let session = source.connect("one").await.unwrap();
    let delivery = deliver(&session).await;
    assert_eq!(numbers(&delivery), [1, 2, 3]);
    session.acknowledge(delivery.receipt).await.unwrap();
    session.close().await;
    assert!(stream.consumers().await.is_empty(), "it may not leave");
    assert!(source.inspect().await.is_ok());
}

#[tokio::test]
async fn a_server_that_is_not_there_or_something_else_is_told() {
    let stream = Stream::new().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("redis://127.0.0.1:{closed}");
    let error = refusal(RedisStreamOptions { url: url.into(), ..stream.options.clone() }).await;
    assert_told(&error, Unavailable, &format!("127.0.0.1:{closed}"), "nothing listens");
    stream.command("SET {} text").await;
    let error = refusal(stream.options.clone()).await;
    assert_told(&error, Rejected, "is no stream", "correct stream");
}

#[tokio::test]
async fn a_replica_and_a_server_without_memory_are_told() {
    let redis = Redis::start().await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = refusal(options(redis.url())).await;
    assert_told(&error, Unavailable, "out of memory", "raise maxmemory");
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let error = refusal(options(redis.url())).await;
    assert_told(&error, Unavailable, "is a replica", "name the primary");
    let error = RedisStreamSource::new(options(redis.url())).inspect().await.unwrap_err();
    assert_told(&error, Unavailable, "is a replica", "name the primary");
}

#[tokio::test]
async fn tls_is_spoken_with_a_certificate_that_is_trusted_only() {
    let stream = Stream::new().await;
    let (port, tls_port) = (stream.redis.port, stream.redis.tls_port);
    let with = |url: String, is_known: bool| RedisStreamOptions {
        url: SecretString::from(url),
        ca_file: is_known.then(|| stream.redis.authority.file()),
        ..stream.options.clone()
    };
    stream.add(1).await;
    let good = format!("rediss://:{PASSWORD}@localhost:{tls_port}");
    let session = RedisStreamSource::new(with(good.clone(), true)).connect("one").await.unwrap();
    assert_eq!(numbers(&deliver(&session).await), [1]);
    let error = refusal(with(good, false)).await;
    assert_told(&error, Rejected, "signed by nobody that is trusted", "ca_file");
    let error = refusal(with(format!("rediss://:{PASSWORD}@127.0.0.1:{tls_port}"), true)).await;
    assert_told(&error, Rejected, "for another name", "url");
    let error = refusal(with(format!("rediss://:{PASSWORD}@localhost:{port}"), true)).await;
    assert_told(
        &error,
        Unavailable,
        "did not answer in time to connect",
        "speaks TLS, else write redis://",
    );
    let error = refusal(with(format!("redis://:{PASSWORD}@127.0.0.1:{tls_port}"), false)).await;
    assert!(error.fix.as_deref().is_some_and(|fix| fix.contains("rediss://")), "{error:?}");
    let missing = RedisStreamOptions {
        ca_file: Some("none.pem".into()),
        ..with(format!("rediss://localhost:{tls_port}"), false)
    };
    assert!(refusal(missing).await.reason.contains("failed to read ca_file none.pem"));
}
