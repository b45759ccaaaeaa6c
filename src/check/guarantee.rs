//! What holds for the events of each kind of source, in plain words.

use super::{Finding, message, subject_of};
use crate::app;
use crate::config::{AmqpConfig, SourceConfig, SourceKind};
use crate::loader::policy::OnFailure;
use crate::mapping::message::MissingId;
use crate::sources::redis_stream::RedisStreamOptions;

/// What a topic promises.
#[cfg(feature = "kafka")]
const KAFKA: &str = "every message of the topic is stored once, in the order of its partition, and its offset is committed \
                     after that; what retention removes before it is read is reported as a gap";

/// The promise of one source, as one line.
pub(super) fn finding(source: &SourceConfig) -> Finding {
    let order = match &source.kind {
        SourceKind::Http(api) => api.guarantee(),
        SourceKind::File(_) => {
            "every line whose newline is written is stored once, in order; ids have to increase from line to line"
                .to_owned()
        }
        SourceKind::Command(command) => command.mode.guarantee().to_owned(),
        SourceKind::Sql(sql) => app::sql_options(sql).guarantee(),
        SourceKind::RabbitMqStream(_) => {
            "every message that the stream keeps until it is read is stored once, in the order of the offsets; what its \
             retention removes before that is reported as a gap; asking again is harmless"
                .to_owned()
        }
        #[cfg(feature = "kafka")]
        SourceKind::Kafka(_) => return queue_finding(source, KAFKA),
        SourceKind::RedisStream(_) => return queue_finding(source, RedisStreamOptions::GUARANTEE),
        SourceKind::Amqp(amqp) => return queue_finding(source, &amqp_guarantee(amqp)),
    };
    let failure = match source.loading.on_failure {
        OnFailure::Hold => {
            "a request whose outcome is unknown is never repeated without an operator"
        }
        OnFailure::Retry => {
            "a request whose outcome is unknown is repeated by itself, so the source may see a window up to 5 times"
        }
    };
    let promise = format!("{}; {failure}", order.trim_end_matches('.'));
    Finding::new(&message::PROMISE, subject_of(source.name.as_str()), promise)
}

/// A queue is not asked: no request's outcome can be unknown.
fn queue_finding(source: &SourceConfig, promise: &str) -> Finding {
    Finding::new(&message::PROMISE, subject_of(source.name.as_str()), promise)
}

fn amqp_guarantee(amqp: &AmqpConfig) -> String {
    let days = amqp.settings.dedup_retention.as_secs() / 86_400;
    let hours = amqp.settings.dedup_retention.as_secs() / 3600;
    let kept = if days > 1 { format!("{days} days") } else { format!("{hours} hours") };
    let missing = match amqp.settings.mapping.missing_id {
        MissingId::Refused => "a message without one becomes a dead letter",
        MissingId::Allowed => "a message without one is stored every time it is delivered",
        MissingId::From(_) => "one without is known by the hash of its body",
    };
    format!(
        "every message is acknowledged after it is stored, in order of arrival; a second delivery within {kept} is \
         recognised by its message_id, and {missing}"
    )
}
