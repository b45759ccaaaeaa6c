//! `type = "kafka"`.

use std::path::PathBuf;

use secrecy::SecretString;

use super::queue::{Usual, read_settings};
use super::{SourceConfig, SourceKind};
use crate::config::error::Problem;
use crate::config::reader::TableReader;
use crate::config::setting::{self, Setting};
use crate::consumer::ConsumerSettings;
use crate::mapping::Pointer;
use crate::mapping::message::Payload;
use crate::sources::kafka::{KafkaOptions, Login, Mechanism, ReadFrom, Security, has_tls};

const BROKERS: &str = "a list of HOST:PORT";
const EXAMPLE: &str = "[\"localhost:9092\"]";
const TOPICS: &str = "the name of a topic";
/// Longest name of a topic or group, as brokers have it.
const NAME_LENGTH_MAX: usize = 178;
const WITHOUT_TLS: &str = "more than this build can do";
const HOW_TO_TLS: &str = "build with `--features kafka-tls`";

/// A topic of Kafka.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// `brokers`, `topic` (both required), `group` (default `eventloader`), `read_from` (default `beginning`); `tls`, `ca_file`,
    /// `username`, `password`, `mechanism`.
    pub options: KafkaOptions,
    /// What all queue sources have.
    pub settings: ConsumerSettings,
}

impl KafkaConfig {
    pub(super) fn read(table: &mut TableReader<'_>) -> Option<Self> {
        let help = format!("add brokers = {EXAMPLE}");
        let brokers = table.require("brokers", &help, brokers);
        let topic = table.require("topic", "add topic = \"NAME\"", topic);
        let group = table.read_or("group", "eventloader".to_owned(), group);
        let words = [("beginning", ReadFrom::Beginning), ("group_created", ReadFrom::GroupCreated)];
        let read_from = table.read_or("read_from", ReadFrom::Beginning, |s| s.one_of(&words));
        let security = read_security(table);
        let usual = Usual { event_type: "type", payload: Payload::At(Pointer::whole()) };
        let settings = read_settings(table, usual);
        let (brokers, topic) = (brokers?.value, topic?.value);
        let options = KafkaOptions { brokers, topic, group, read_from, security };
        Some(Self { options, settings })
    }

    /// Two sources with one topic would write the same streams.
    pub(super) fn refuse_twins(&self, table: &TableReader<'_>, earlier: &[SourceConfig]) {
        let topic = &self.options.topic;
        let is_twin = |source: &&SourceConfig| match &source.kind {
            SourceKind::Kafka(other) => other.options.topic == *topic,
            _ => false,
        };
        if let Some(twin) = earlier.iter().find(is_twin) {
            let found = format!("found \"{topic}\", which the source \"{}\" reads, too", twin.name);
            let help = "take one of them out: a topic is stored once, in streams of its own name";
            table.refuse("topic", Problem::new(found).help(help));
        }
    }
}

fn read_security(table: &mut TableReader<'_>) -> Security {
    let tls = table.read_or("tls", false, |setting| {
        let tls = setting::boolean(setting)?;
        if tls && !has_tls() {
            return Err(Problem::new(format!("found true, {WITHOUT_TLS}")).help(HOW_TO_TLS));
        }
        Ok(tls)
    });
    let base = table.document().path.parent().map(PathBuf::from).unwrap_or_default();
    let ca_file = table.read("ca_file", |setting| {
        let text = setting.text_expected("the path of a PEM file")?;
        Ok(base.join(text.value))
    });
    if ca_file.is_some() && !tls {
        table.refuse("ca_file", Problem::new("without `tls`").help("add tls = true"));
    }
    let username = table.read("username", |s| s.text().map(|text| text.value));
    let password = table.read("password", |s| s.text().map(|text| SecretString::from(text.value)));
    let mechanism = table.read("mechanism", mechanism);
    let login = match (username, password) {
        (Some(username), Some(password)) => Some(Login {
            username: username.value,
            password: password.value,
            mechanism: mechanism.map(|read| read.value).unwrap_or_default(),
        }),
        (Some(_), None) => {
            table.refuse(
                "username",
                Problem::new("without `password`").help("add password = \"${KAFKA_PASSWORD}\""),
            );
            None
        }
        (None, Some(_)) => {
            table.refuse(
                "password",
                Problem::new("without `username`").help("add username = \"NAME\""),
            );
            None
        }
        (None, None) => {
            if mechanism.is_some_and(|read| read.value != Mechanism::default()) {
                let problem = Problem::new("without `username` and `password`");
                table.refuse("mechanism", problem.help("add them, or take it out"));
            }
            None
        }
    };
    Security { tls, ca_file: ca_file.map(|read| read.value), login }
}

fn mechanism(setting: &Setting<'_>) -> Result<Mechanism, Problem> {
    let mechanism = setting.one_of(&[
        ("plain", Mechanism::Plain),
        ("scram-sha-256", Mechanism::ScramSha256),
        ("scram-sha-512", Mechanism::ScramSha512),
    ])?;
    if mechanism != Mechanism::Plain && !has_tls() {
        return Err(Problem::new(format!("found SCRAM, {WITHOUT_TLS}")).help(HOW_TO_TLS));
    }
    Ok(mechanism)
}

fn brokers(setting: &Setting<'_>) -> Result<Vec<String>, Problem> {
    let texts = setting.texts(BROKERS)?;
    if texts.is_empty() {
        return Err(Problem::new("an empty list")
            .expected(BROKERS)
            .help(format!("write {EXAMPLE}")));
    }
    let address = |text: &setting::Text| {
        let value = text.value.trim();
        let refuse = |what: &str| text.refuse(Problem::new(what).expected(BROKERS));
        if value.contains("://") {
            return Err(
                refuse("a URL").help("write the host and the port alone, as localhost:9092")
            );
        }
        if value.contains(',') {
            return Err(
                refuse("several brokers in one string").help("write each in quotes of its own")
            );
        }
        let (host, port) = value.rsplit_once(':').unwrap_or((value, ""));
        match port.parse::<u16>() {
            Ok(1..) if !host.is_empty() && !host.contains(char::is_whitespace) => {
                Ok(value.to_owned())
            }
            _ if !value.contains(':') => {
                Err(refuse("no port").help("add it; brokers usually listen on 9092"))
            }
            _ => Err(refuse("no HOST:PORT").help("write it as localhost:9092")),
        }
    };
    texts.iter().map(address).collect()
}

fn topic(setting: &Setting<'_>) -> Result<String, Problem> {
    let text = setting.text_expected(TOPICS)?;
    let value = text.value.as_str();
    let refuse = |what: &str| text.refuse(Problem::new(what.to_owned()).expected(TOPICS));
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match value {
        "" => Err(Problem::new("empty").expected(TOPICS)),
        "." | ".." => Err(refuse("no name of a topic")),
        _ if value.starts_with('^') => {
            Err(refuse("a pattern").help("one source reads one topic: add a source for each"))
        }
        _ if value.len() > NAME_LENGTH_MAX => Err(refuse(
            "longer than 178 bytes, which leave room for the partition in the name of a stream",
        )),
        _ if !value.chars().all(is_name) => Err(refuse("no name of a topic")
            .help("names of topics have letters, digits, dots, hyphens and underscores")),
        _ => Ok(value.to_owned()),
    }
}

fn group(setting: &Setting<'_>) -> Result<String, Problem> {
    let text = setting.text_expected("the name of a consumer group")?;
    if text.value.trim().is_empty() {
        return Err(Problem::new("empty").expected("the name of a consumer group"));
    }
    if text.value.contains('\0') {
        return Err(Problem::new("a NUL character").expected("the name of a consumer group"));
    }
    Ok(text.value)
}
