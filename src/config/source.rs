//! `[sources.NAME]`: what events are taken from.
//!
//! Each type of source has a file in `source/`, a variant of [`SourceKind`] and a row of `TYPES`.

mod amqp;
mod command;
mod file;
mod http;
mod item;
#[cfg(feature = "kafka")]
mod kafka;
mod name;
mod queue;
mod rabbitmq_stream;
mod redis_stream;
mod sql;
mod tls;

pub use amqp::AmqpConfig;
pub use command::CommandConfig;
pub use file::FileConfig;
#[cfg(feature = "kafka")]
pub use kafka::KafkaConfig;
pub use name::{SourceName, SourceNameError};
pub use rabbitmq_stream::RabbitMqStreamConfig;
pub use redis_stream::RedisStreamConfig;
pub use sql::SqlConfig;

use super::error::Problem;
use super::loading::{Limits, LoaderConfig, Loading};
use super::reader::TableReader;
use super::shape::Shape;
use super::suggest;
pub use crate::sources::http::HttpOptions as HttpConfig;

/// One source.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// The key of its table; unique.
    pub name: SourceName,
    /// How it is loaded; what it does not set comes from `[loader]`. Without meaning for a queue source.
    pub loading: Loading,
    /// What it is, by its key `type`.
    pub kind: SourceKind,
}

/// The types of sources.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one value for each source, made once")]
pub enum SourceKind {
    /// `type = "http"`: an HTTP API that answers pages of JSON.
    Http(HttpConfig),
    /// `type = "file"`: newline-delimited JSON, followed as it grows.
    File(FileConfig),
    /// `type = "command"`: any program that prints newline-delimited JSON, or a Singer tap.
    Command(CommandConfig),
    /// `type = "sql"`: a table or a query of PostgreSQL, MariaDB, MySQL or SQLite.
    Sql(SqlConfig),
    /// `type = "amqp"`: a queue of RabbitMQ.
    Amqp(AmqpConfig),
    /// `type = "rabbitmq_stream"`: a stream of RabbitMQ.
    RabbitMqStream(RabbitMqStreamConfig),
    /// `type = "kafka"`: one topic of Kafka.
    #[cfg(feature = "kafka")]
    Kafka(KafkaConfig),
    /// `type = "redis_stream"`: a stream of Redis or Valkey, read by a consumer group.
    RedisStream(RedisStreamConfig),
}

impl SourceKind {
    /// The word for it in the file.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::File(_) => "file",
            Self::Command(_) => "command",
            Self::Sql(_) => "sql",
            Self::Amqp(_) => "amqp",
            Self::RabbitMqStream(_) => "rabbitmq_stream",
            #[cfg(feature = "kafka")]
            Self::Kafka(_) => "kafka",
            Self::RedisStream(_) => "redis_stream",
        }
    }

    /// Whether a broker delivers, and keeps the place.
    pub fn is_queue(&self) -> bool {
        is_queue_type(self.type_name())
    }

    /// The host it is asked at; none for what is on this machine.
    pub fn host(&self) -> Option<String> {
        match self {
            Self::Http(api) => api.url.host_str().map(str::to_owned),
            Self::Sql(sql) => sql.location.host(),
            Self::Amqp(amqp) => Some(amqp.options.broker.host().to_owned()),
            Self::RabbitMqStream(stream) => Some(stream.address.host().to_owned()),
            Self::RedisStream(stream) => stream.options.host(),
            Self::File(_) | Self::Command(_) => None,
            #[cfg(feature = "kafka")]
            Self::Kafka(kafka) => kafka.options.first_host(),
        }
    }
}

/// Whether sources of a type are consumed: a broker delivers, and keeps the place.
pub fn is_queue_type(name: &str) -> bool {
    let of_name = TYPES.iter().find(|source_type| source_type.name == name);
    of_name.is_some_and(|source_type| matches!(source_type.intake, Intake::Queue))
}

/// How events come in.
#[derive(Clone, Copy)]
enum Intake {
    /// The source is asked, as [`Loading`] says.
    Pull(Limits),
    /// A broker delivers; the type reads all its keys.
    Queue,
}

/// A type that can be configured.
#[derive(Clone, Copy)]
struct SourceType {
    name: &'static str,
    /// A key that only this type has, to guess it where `type` is missing.
    telltale: &'static str,
    intake: Intake,
    read: fn(&mut TableReader<'_>) -> Option<SourceKind>,
}

impl SourceType {
    /// How it is asked; the defaults for a type that is not.
    fn read_loading(&self, table: &mut TableReader<'_>, defaults: &LoaderConfig) -> Loading {
        match self.intake {
            Intake::Pull(limits) => Loading::read(table, defaults, limits),
            Intake::Queue => Loading::of_queue(defaults),
        }
    }
}

const TYPES: &[SourceType] = &[
    SourceType {
        name: "http",
        telltale: "url",
        intake: Intake::Pull(Limits::USUAL),
        read: |table| http::read(table).map(SourceKind::Http),
    },
    SourceType {
        name: "file",
        telltale: "path",
        intake: Intake::Pull(Limits::USUAL),
        read: |table| FileConfig::read(table).map(SourceKind::File),
    },
    SourceType {
        name: "command",
        telltale: "command",
        intake: Intake::Pull(Limits::USUAL),
        read: |table| CommandConfig::read(table).map(SourceKind::Command),
    },
    SourceType {
        name: "sql",
        telltale: "table",
        intake: Intake::Pull(Limits::USUAL),
        read: |table| SqlConfig::read(table).map(SourceKind::Sql),
    },
    SourceType {
        name: "rabbitmq_stream",
        telltale: "stream",
        intake: Intake::Pull(Limits::STREAM),
        read: |table| RabbitMqStreamConfig::read(table).map(SourceKind::RabbitMqStream),
    },
    SourceType {
        name: "amqp",
        telltale: "queue",
        intake: Intake::Queue,
        read: |table| AmqpConfig::read(table).map(SourceKind::Amqp),
    },
    SourceType {
        name: "redis_stream",
        telltale: "group",
        intake: Intake::Queue,
        read: |table| RedisStreamConfig::read(table).map(SourceKind::RedisStream),
    },
    #[cfg(feature = "kafka")]
    SourceType {
        name: "kafka",
        telltale: "brokers",
        intake: Intake::Queue,
        read: |table| KafkaConfig::read(table).map(SourceKind::Kafka),
    },
];

/// Types that this build leaves out, with the cargo feature that they need.
#[cfg(feature = "kafka")]
const LEFT_OUT_TYPES: &[(&str, &str)] = &[];
#[cfg(not(feature = "kafka"))]
const LEFT_OUT_TYPES: &[(&str, &str)] = &[("kafka", "kafka")];

/// Reads all sources, in the order of the file. Those with problems are left out and reported.
pub(super) fn read_all(table: &TableReader<'_>, defaults: &LoaderConfig) -> Vec<SourceConfig> {
    let mut sources = Vec::new();
    for (key, key_span, value) in table.entries() {
        let source = table.inner(key, key_span, value);
        if value.get_ref().is_table() {
            let read = read_one(key, source, defaults, &sources);
            sources.extend(read);
        } else {
            source.abandon();
        }
    }
    sources
}

/// Reads one absent source of each type, for what its keys are.
pub(super) fn read_types(table: &TableReader<'_>) {
    for source_type in TYPES {
        let mut source = table.absent(source_type.name);
        read_type(&mut source);
        (source_type.read)(&mut source);
        source_type.read_loading(&mut source, &LoaderConfig::default());
    }
}

fn read_one(
    key: &str,
    mut table: TableReader<'_>,
    defaults: &LoaderConfig,
    earlier: &[SourceConfig],
) -> Option<SourceConfig> {
    let name = SourceName::parse(key);
    if let Err(error) = &name {
        let problem = Problem::new(error.to_string())
            .expected("1 to 190 bytes of printable text without spaces around it");
        table.report_table(problem.help("rename the source"));
    }
    let source_type = read_type(&mut table);
    let kind = source_type.map(|source_type| (source_type.read)(&mut table));
    let loading = match source_type {
        Some(source_type) => source_type.read_loading(&mut table, defaults),
        None => Loading::read(&mut table, defaults, Limits::USUAL),
    };
    let Some(mut kind) = kind else {
        table.abandon();
        return None;
    };
    if let Some(SourceKind::Http(options)) = &mut kind {
        http::inherit(&table, options, defaults);
    }
    #[cfg(feature = "kafka")]
    if let Some(SourceKind::Kafka(kafka)) = &kind {
        kafka.refuse_twins(&table, earlier);
    }
    #[cfg(not(feature = "kafka"))]
    let _ = earlier;
    table.finish();
    Some(SourceConfig { name: name.ok()?, loading, kind: kind? })
}

fn read_type(table: &mut TableReader<'_>) -> Option<SourceType> {
    let names = || TYPES.iter().map(|source_type| source_type.name);
    let supported = format!("one of {}", suggest::list(names()));
    // The last that fits: a `table` says more than the `url` beside it.
    let guess = TYPES.iter().rev().find(|source_type| table.has(source_type.telltale));
    let help = match guess {
        Some(guess) => format!("add type = \"{}\"", guess.name),
        None => format!("add type = \"…\", {supported}"),
    };
    let missing = !table.has("type");
    let read = table.require("type", &help, |setting| {
        setting.note(|| Shape::Word(names().collect()));
        let text = setting.text()?;
        let wanted = text.value.as_str();
        if let Some(source_type) = TYPES.iter().find(|source_type| source_type.name == wanted) {
            return Ok(*source_type);
        }
        if let Some((_, feature)) = LEFT_OUT_TYPES.iter().find(|(name, _)| *name == wanted) {
            let problem = Problem::new("a type of source that this build has no support for");
            let help = format!("use a build with the cargo feature `{feature}`");
            return Err(text.refuse(problem.expected(&supported).help(help)));
        }
        let problem = text.refuse(Problem::new("no type of source").expected(&supported));
        Err(match suggest::nearest(wanted, names()) {
            Some(meant) => problem.help(format!("did you mean `{meant}`?")),
            None => problem,
        })
    });
    // A missing type is reported; with a good guess the other keys can still be checked.
    read.map(|read| read.value).or_else(|| guess.copied().filter(|_| missing))
}
