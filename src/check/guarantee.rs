//! What holds for the events of each kind of source, in plain words.

use super::{Finding, message, subject_of};
use crate::app;
use crate::config::{SourceConfig, SourceKind};
use crate::loader::policy::OnFailure;
use crate::sources::redis_stream::RedisStreamOptions;

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
        SourceKind::RedisStream(_) => return queue_finding(source, RedisStreamOptions::GUARANTEE),
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
