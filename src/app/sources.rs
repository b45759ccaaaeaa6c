//! Makes sources of what the configuration says of them.

use std::sync::Arc;
use std::time::Duration;

use super::AppError;
use crate::config::{CommandConfig, SourceConfig, SourceKind, SqlConfig};
use crate::consumer::{ConsumedSource, ConsumerSettings};
use crate::loader::{LoadedSource, SourceSettings};
use crate::source::EventSource;
use crate::source::queue::QueueSource;
use crate::sources::amqp::Amqp;
use crate::sources::command::{CommandOptions, CommandSource};
use crate::sources::file::{FileOptions, FileSource};
use crate::sources::http::{Clients, HttpOptions, HttpSource};
#[cfg(feature = "kafka")]
use crate::sources::kafka::KafkaSource;
use crate::sources::rabbitmq_stream::{RabbitMqStream, StreamSettings};
use crate::sources::redis_stream::RedisStreamSource;
use crate::sources::sql::{SqlOptions, SqlSource};

/// A net below the sources' own deadlines, for those that have none.
const SOURCE_DEADLINE: Duration = Duration::from_mins(1);

/// How long an empty page of a stream waits for a message; at most half a lease.
const STREAM_POLL: Duration = Duration::from_millis(500);

/// Sets sources up: those that are asked, and those that are consumed.
pub(super) fn set_up_all<'a>(
    sources: impl IntoIterator<Item = &'a SourceConfig>,
    clients: &mut Clients,
) -> Result<(Vec<LoadedSource>, Vec<ConsumedSource>), AppError> {
    let (mut loaded, mut consumed) = (Vec::new(), Vec::new());
    for source in sources {
        match set_up(source, clients)? {
            SetUp::Pull(source) => loaded.push(source),
            SetUp::Queue(source) => consumed.push(source),
        }
    }
    Ok((loaded, consumed))
}

/// A source that is set up.
#[expect(clippy::large_enum_variant, reason = "one value for each source, made once")]
pub(crate) enum SetUp {
    /// It is asked by the loader.
    Pull(LoadedSource),
    /// It is consumed.
    Queue(ConsumedSource),
}

fn consumed(config: &SourceConfig, source: impl QueueSource, settings: &ConsumerSettings) -> SetUp {
    let source = ConsumedSource::new(config.name.as_str(), Arc::new(source));
    SetUp::Queue(source.with_settings(settings.clone()))
}

fn cannot_set_up(
    config: &SourceConfig,
    cause: impl std::error::Error + Send + Sync + 'static,
) -> AppError {
    AppError::Source { source_name: config.name.as_str().to_owned(), cause: Box::new(cause) }
}

pub(crate) fn set_up(config: &SourceConfig, clients: &mut Clients) -> Result<SetUp, AppError> {
    let source_name = config.name.as_str().to_owned();
    let (source, deadline): (Arc<dyn EventSource>, Duration) = match &config.kind {
        SourceKind::Http(api) => {
            let options = HttpOptions { lease_ttl: config.loading.lease_ttl, ..api.clone() };
            let source =
                HttpSource::new(clients, options).map_err(|cause| cannot_set_up(config, cause))?;
            (Arc::new(source), api.timeout + Duration::from_secs(1))
        }
        SourceKind::File(file) => {
            let options = FileOptions {
                path: file.path.clone(),
                mapping: file.mapping.clone(),
                max_page_bytes: file.max_page_bytes,
            };
            (Arc::new(FileSource::new(options)), SOURCE_DEADLINE)
        }
        SourceKind::Command(command) => {
            let options = command_options(&source_name, command);
            (Arc::new(CommandSource::new(options)), command.timeout + Duration::from_secs(5))
        }
        SourceKind::Sql(sql) => {
            let options = sql_options(sql);
            let deadline = options.deadline() + Duration::from_secs(1);
            (Arc::new(SqlSource::new(options)), deadline)
        }
        SourceKind::Amqp(amqp) => {
            let source = Amqp::new(amqp.options.clone());
            let source = source.map_err(|cause| cannot_set_up(config, cause))?;
            return Ok(consumed(config, source, &amqp.settings));
        }
        SourceKind::RabbitMqStream(stream) => {
            let settings = StreamSettings {
                source_name: source_name.clone(),
                address: stream.address.clone(),
                stream: stream.stream.clone(),
                mapping: stream.mapping.clone(),
                timeout: stream.timeout,
                poll: STREAM_POLL.min(config.loading.lease_ttl / 2),
                ca_file: stream.ca_file.clone(),
            };
            let deadline = RabbitMqStream::deadline(&settings);
            let source =
                RabbitMqStream::new(settings).map_err(|cause| cannot_set_up(config, cause))?;
            (Arc::new(source), deadline)
        }
        #[cfg(feature = "kafka")]
        SourceKind::Kafka(kafka) => {
            let source = KafkaSource::new(kafka.options.clone());
            return Ok(consumed(config, source, &kafka.settings));
        }
        SourceKind::RedisStream(stream) => {
            let source = RedisStreamSource::new(stream.options.clone());
            return Ok(consumed(config, source, &stream.settings));
        }
    };
    let loading = &config.loading;
    let settings = SourceSettings {
        batch_size: loading.batch_size,
        min_interval: loading.min_interval,
        lease_ttl: loading.lease_ttl,
        max_idle: loading.max_idle,
        on_failure: loading.on_failure,
        deadline,
    };
    Ok(SetUp::Pull(LoadedSource { source_name, source, settings }))
}

fn command_options(source_name: &str, command: &CommandConfig) -> CommandOptions {
    CommandOptions {
        source_name: source_name.to_owned(),
        mode: command.mode,
        command: command.command.clone(),
        secrets: command.secrets.clone(),
        directory: command.directory.clone(),
        inherited: command.inherited.clone(),
        environment: command.environment.clone(),
        mapping: command.mapping.clone(),
        timeout: command.timeout,
        max_page_bytes: command.max_page_bytes,
    }
}

/// What a configured SQL source is made of; its [`SqlOptions::guarantee`] needs no contact.
pub fn sql_options(sql: &SqlConfig) -> SqlOptions {
    SqlOptions {
        location: sql.location.clone(),
        relation: sql.relation.clone(),
        id: sql.id.clone(),
        mapping: sql.mapping.clone(),
        timeout: sql.timeout,
        tip_lag: sql.tip_lag,
        max_page_bytes: sql.max_page_bytes,
    }
}
