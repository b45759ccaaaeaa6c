//! `type = "kafka"`.

use std::time::Duration;

use secrecy::ExposeSecret as _;

use super::*;
use crate::mapping::Pointer;
use crate::mapping::message::{Payload, Place as PlaceInBody};
use crate::sources::kafka::{Mechanism, ReadFrom, has_tls};

const HEAD: &str = "[sources.a]\ntype = \"kafka\"\n";
const LEAST: &str = "brokers = [\"k:9092\"]\ntopic = \"t\"\n";

fn kafka(keys: &str) -> KafkaConfig {
    let config = parse(&format!("{HEAD}{keys}"), &[]).unwrap();
    match &config.sources[0].kind {
        SourceKind::Kafka(kafka) => kafka.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_topic_needs_no_more_than_its_brokers_and_name() {
    let KafkaConfig { options, settings } = kafka(LEAST);
    assert_eq!(options.brokers, ["k:9092"]);
    assert_eq!((options.topic.as_str(), options.group.as_str()), ("t", "eventloader"));
    assert_eq!(options.read_from, ReadFrom::Beginning);
    assert!(!options.security.tls && options.security.login.is_none());
    assert_eq!(settings.mapping.payload, Payload::At(Pointer::whole()));
    assert_eq!(settings.mapping.event_type, PlaceInBody::Usual(Pointer::to_key("type")));
}

#[test]
fn every_key_of_a_topic_counts() {
    let KafkaConfig { options, settings } = kafka(
        "brokers = [\"k1:9092\", \"[::1]:9093\"]\ntopic = \"shop.orders-v1\"\ngroup = \"g\"\nread_from = \"group_created\"\n\
         username = \"u\"\npassword = \"${SHOP_TOKEN}\"\nmechanism = \"plain\"\nbatch_size = 10\nlinger = \"1s\"\n\
         payload = \"/data\"\nevent_type = \"/kind\"",
    );
    assert_eq!(options.brokers, ["k1:9092", "[::1]:9093"]);
    assert_eq!(options.first_host().as_deref(), Some("k1"));
    assert_eq!((options.group.as_str(), options.read_from), ("g", ReadFrom::GroupCreated));
    let login = options.security.login.as_ref().unwrap();
    assert_eq!((login.username.as_str(), login.mechanism), ("u", Mechanism::Plain));
    assert_eq!(login.password.expose_secret(), "s3cr3t-token");
    assert!(!format!("{options:?}").contains("s3cr3t"), "{options:?}");
    assert_eq!((settings.batch_size, settings.linger), (10, Duration::from_secs(1)));
    assert_eq!(settings.mapping.payload, Payload::At(Pointer::to_key("data")));
}

#[test]
fn every_mistake_in_a_topic_is_named() {
    let cases = [
        ("topic = \"t\"\nbrokers = []", "brokers", "an empty list", "localhost:9092"),
        ("topic = \"t\"\nbrokers = [\"k\"]", "brokers", "no port", "9092"),
        ("topic = \"t\"\nbrokers = [\"k:x\"]", "brokers", "no HOST:PORT", "localhost:9092"),
        ("topic = \"t\"\nbrokers = [\"kafka://k:9092\"]", "brokers", "a URL", "host and the port"),
        ("topic = \"t\"\nbrokers = [\"a:1,b:2\"]", "brokers", "several brokers", "of its own"),
        ("brokers = [\"k:9092\"]", "topic", "missing", "add topic"),
        ("topic = \"t\"", "brokers", "missing", "add brokers"),
        ("brokers = [\"k:9092\"]\ntopic = \"^t\"", "topic", "a pattern", "a source for each"),
        ("brokers = [\"k:9092\"]\ntopic = \"a b\"", "topic", "no name", "letters, digits"),
        ("brokers = [\"k:9092\"]\ntopic = \"t\"\ngroup = \" \"", "group", "empty", ""),
        (
            "brokers = [\"k:9092\"]\ntopic = \"t\"\nread_from = \"end\"",
            "read_from",
            "found \"end\"",
            "",
        ),
        (
            "brokers = [\"k:9092\"]\ntopic = \"t\"\nusername = \"u\"",
            "username",
            "without `password`",
            "add",
        ),
        (
            "brokers = [\"k:9092\"]\ntopic = \"t\"\nca_file = \"x\"",
            "ca_file",
            "without `tls`",
            "tls = true",
        ),
    ];
    for (keys, key, problem, hint) in cases {
        let found = findings(&format!("{HEAD}{keys}"), &[]);
        assert_eq!(found.len(), 1, "{keys}: {found:?}");
        let finding = &found[0];
        assert_eq!(finding.key.as_deref(), Some(format!("sources.a.{key}").as_str()), "{finding}");
        assert!(finding.problem.contains(problem), "{finding}");
        let hints = [finding.expected.as_deref(), finding.help.as_deref()];
        assert!(hint.is_empty() || hints.iter().flatten().any(|h| h.contains(hint)), "{finding:?}");
    }
}

#[test]
fn what_only_another_build_can_do_is_refused() {
    for (keys, key) in [
        ("tls = true", "tls"),
        ("username = \"u\"\npassword = \"p\"\nmechanism = \"scram-sha-512\"", "mechanism"),
    ] {
        let text = format!("{HEAD}{LEAST}{keys}");
        if has_tls() {
            assert!(parse(&text, &[]).is_ok());
            continue;
        }
        let found = findings(&text, &[]);
        assert_eq!(found[0].key.as_deref(), Some(format!("sources.a.{key}").as_str()));
        assert!(found[0].help.as_deref().unwrap_or_default().contains("kafka-tls"), "{found:?}");
    }
}

#[test]
fn two_sources_cannot_read_one_topic() {
    let text = format!(
        "{HEAD}{LEAST}[sources.b]\ntype = \"kafka\"\nbrokers = [\"other:9092\"]\ntopic = \"t\"\n"
    );
    let found = findings(&text, &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].key.as_deref(), Some("sources.b.topic"));
    assert!(found[0].problem.contains("which the source \"a\" reads, too"), "{}", found[0]);
}
