//! What an operator does by hand, with the checks that keep it safe: what the command line and the status page both call.
//! Each leaves a row in the audit log.

use sqlx::PgPool;

use crate::config::is_queue_type;
use crate::store::request_log::{self, Request};
use crate::store::source::{self, SourceStatus};
use crate::store::{Actor, StoreError, failed_to};

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// There is no such thing.
    #[error("{what}")]
    Unknown {
        /// What there is not.
        what: String,
        /// Where to look.
        hint: String,
    },
    /// It cannot be done as things are.
    #[error("{why}")]
    Refused {
        /// Why.
        why: String,
        /// What to do instead.
        hint: Option<String>,
    },
    /// Something is missing in what was asked.
    #[error("{why}")]
    Usage {
        /// What.
        why: String,
        /// How to say it.
        hint: Option<String>,
    },
    /// The database does not answer or refuses us.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OperateError {
    pub(crate) fn refused(why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { why: why.into(), hint: Some(hint.into()) }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Unknown { hint, .. } => Some(hint),
            Self::Refused { hint, .. } | Self::Usage { hint, .. } => hint.as_deref(),
            Self::Store(error) => error.hint(),
        }
    }
}

/// That there is no source of this name.
pub fn unknown_source(source_name: &str) -> OperateError {
    OperateError::Unknown {
        what: format!("there is no source {source_name:?}"),
        hint: "see `eventloader sources list`".to_owned(),
    }
}

/// That there is no request of this number.
pub fn unknown_request(id: i64) -> OperateError {
    OperateError::Unknown {
        what: format!("there is no request {id}"),
        hint: "see `eventloader requests list`".to_owned(),
    }
}

/// A source that is known; a misspelt name should not look like a source without anything to show.
///
/// # Errors
///
/// There is none of that name.
pub async fn known_source(pool: &PgPool, source_name: &str) -> Result<SourceStatus, OperateError> {
    let known = source::status(pool, Some(source_name)).await?.pop();
    known.ok_or_else(|| unknown_source(source_name))
}

/// A source that is whole: a partition is consumed with its source, and paused with it.
async fn whole_source(pool: &PgPool, source_name: &str) -> Result<SourceStatus, OperateError> {
    let known = known_source(pool, source_name).await?;
    match &known.part_of {
        Some(whole) => Err(OperateError::refused(
            format!("{source_name} is a partition of {whole}"),
            format!("name the source: {whole}"),
        )),
        None => Ok(known),
    }
}

/// A source whose cursor can be moved. Where a queue is read next is the broker's to know. The database says what kind a
/// source is, whatever configuration this program was given.
///
/// # Errors
///
/// It is none.
pub async fn seekable_source(
    pool: &PgPool,
    source_name: &str,
) -> Result<SourceStatus, OperateError> {
    let known = whole_source(pool, source_name).await?;
    if is_queue_type(&known.source_type) {
        return Err(OperateError::refused(
            format!("{source_name} has no cursor here: its broker keeps the place"),
            "move the place at the broker; messages that come again are recognised",
        ));
    }
    Ok(known)
}

/// Pauses a source on all instances until it is resumed.
///
/// # Errors
///
/// See [`OperateError`].
pub async fn pause(
    pool: &PgPool,
    source_name: &str,
    actor: &Actor,
    reason: Option<&str>,
) -> Result<(), OperateError> {
    whole_source(pool, source_name).await?;
    source::pause(pool, source_name, actor, reason).await?;
    Ok(())
}

/// Ends a pause, and any back-off with it.
///
/// # Errors
///
/// See [`OperateError`].
pub async fn resume(pool: &PgPool, source_name: &str, actor: &Actor) -> Result<(), OperateError> {
    whole_source(pool, source_name).await?;
    source::resume(pool, source_name, actor).await?;
    Ok(())
}

/// Whether the outcome of a request is unknown, so that it holds its window.
pub fn is_held(request: &Request) -> bool {
    matches!(request.status.as_str(), "failed" | "orphaned")
}

/// A request can be freed when its outcome is unknown and nobody works on it.
fn check_held(request: &Request) -> Result<(), OperateError> {
    if is_held(request) {
        return Ok(());
    }
    let why = match request.status.as_str() {
        "reserved" => "it is in work; if its instance is gone, it becomes orphaned after the lease",
        "inbox_only" => "its events have arrived and are on their way to the event log",
        "succeeded" => {
            "its events are in the event log; `eventloader sources seek` moves a cursor back"
        }
        _ => "it is closed already",
    };
    let why = format!("request {} is {}: {why}", request.id, request.status);
    Err(OperateError::Refused { why, hint: None })
}

/// Whether something is done, or only looked whether it could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is done.
    Do,
    /// Nothing is changed.
    DryRun,
}

/// Lets the windows of failed or orphaned requests be asked again: all of them, or none.
///
/// # Errors
///
/// See [`OperateError`].
pub async fn retry(
    pool: &PgPool,
    mut ids: Vec<i64>,
    actor: &Actor,
    mode: Mode,
) -> Result<Vec<Request>, OperateError> {
    ids.sort_unstable();
    ids.dedup();
    let mut transaction = pool.begin().await.map_err(failed_to("begin a retry"))?;
    let mut requests = Vec::new();
    for id in ids {
        let locked = request_log::lock(&mut transaction, id).await?;
        let request = locked.ok_or_else(|| unknown_request(id))?;
        check_held(&request)?;
        if mode == Mode::Do {
            request_log::retry(&mut transaction, &request, actor).await?;
        }
        requests.push(request);
    }
    transaction.commit().await.map_err(failed_to("commit a retry"))?;
    Ok(requests)
}

/// A window that is to be given up, and where its source goes on.
#[derive(Clone, Debug)]
pub struct Skip {
    /// The request that holds it.
    pub request: Request,
    /// The last id that is left out.
    pub to: i64,
}

impl Skip {
    /// Looks what it would be. Changes nothing.
    ///
    /// # Errors
    ///
    /// See [`OperateError`].
    pub async fn plan(pool: &PgPool, id: i64, to: Option<i64>) -> Result<Self, OperateError> {
        let request = request_log::show(pool, id).await?.ok_or_else(|| unknown_request(id))?;
        let to = to.or(request.max_id).ok_or_else(|| OperateError::Usage {
            why: format!("nobody knows where the window of request {id} ends"),
            hint: Some(format!(
                "name the last id to leave out: `eventloader requests skip {id} --to ID`"
            )),
        })?;
        if to <= request.after_id {
            let why = format!(
                "{to} is not after {}, where the window of request {id} begins",
                request.after_id
            );
            return Err(OperateError::Usage { why, hint: None });
        }
        Ok(Self { request, to })
    }

    /// Gives the window up.
    ///
    /// # Errors
    ///
    /// See [`OperateError`].
    pub async fn carry_out(
        &self,
        pool: &PgPool,
        actor: &Actor,
        mode: Mode,
    ) -> Result<(), OperateError> {
        let id = self.request.id;
        let mut transaction = pool.begin().await.map_err(failed_to("begin a skip"))?;
        let locked = request_log::lock(&mut transaction, id).await?;
        let request = locked.ok_or_else(|| unknown_request(id))?;
        check_held(&request)?;
        let name = &request.source_name;
        let cursor = source::lock_cursor(&mut transaction, name).await?;
        if cursor.is_some_and(|cursor| cursor.has_state) {
            return Err(OperateError::refused(
                format!(
                    "{name} goes on from its own state, not from an id: there is nothing to skip to"
                ),
                format!(
                    "mend the tap and `eventloader requests retry {id}`, or `eventloader sources seek {name} --state JSON`"
                ),
            ));
        }
        if mode == Mode::Do {
            request_log::skip(&mut transaction, &request, self.to, actor).await?;
            transaction.commit().await.map_err(failed_to("commit a skip"))?;
        }
        Ok(())
    }
}
