//! The status API: what the listings of the command line print as JSON, under the same names.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State as Given};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::snapshot::{Away, Snapshots};
use super::{Running, State};
use crate::operate::{OperateError, unknown_request};
use crate::store::dead_letter::{self, DeadLetter, Filter};
use crate::store::{StoreError, request_log};
use crate::telemetry::chain;

/// Rows of a listing where nothing else is asked for, and at most.
const LIMIT: i64 = 100;
const LIMIT_MAX: i64 = 1000;

/// Why there is no answer.
pub(super) enum ApiError {
    /// The program is starting.
    Starting,
    /// The database does not answer.
    Away(Away),
    /// What was asked for is not there, or cannot be done.
    Operate(OperateError),
}

impl From<OperateError> for ApiError {
    fn from(error: OperateError) -> Self {
        Self::Operate(error)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::Operate(error.into())
    }
}

impl ApiError {
    /// Status, message and hint.
    pub(super) fn said(&self) -> (StatusCode, String, Option<String>) {
        match self {
            Self::Starting => (
                StatusCode::SERVICE_UNAVAILABLE,
                "starting: waiting for the database".to_owned(),
                None,
            ),
            Self::Away(away) => {
                let message = format!("the database does not answer: {}", away.reason);
                (StatusCode::SERVICE_UNAVAILABLE, message, None)
            }
            Self::Operate(error) => {
                let status = match error {
                    OperateError::Unknown { .. } => StatusCode::NOT_FOUND,
                    OperateError::Refused { .. } => StatusCode::CONFLICT,
                    OperateError::Usage { .. } => StatusCode::BAD_REQUEST,
                    OperateError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
                };
                (status, chain(error), error.hint().map(str::to_owned))
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, error, hint) = self.said();
        (status, Json(json!({ "error": error, "hint": hint }))).into_response()
    }
}

/// What runs, where it does already.
pub(super) fn running(state: &State) -> Result<&(Running, Snapshots), ApiError> {
    state.running().ok_or(ApiError::Starting)
}

/// What `eventloader status --json` prints.
pub(super) async fn status(Given(state): Given<Arc<State>>) -> Result<Response, ApiError> {
    let (_, snapshots) = running(&state)?;
    let snapshot = snapshots.read().await.map_err(ApiError::Away)?;
    Ok(Json(&snapshot.report).into_response())
}

#[derive(Deserialize)]
pub(super) struct RequestsQuery {
    source: Option<String>,
    status: Option<String>,
    limit: Option<i64>,
}

/// Requests, newest first.
pub(super) async fn requests(
    Given(state): Given<Arc<State>>,
    Query(query): Query<RequestsQuery>,
) -> Result<Response, ApiError> {
    let (running, _) = running(&state)?;
    let filter = request_log::Filter {
        source_name: query.source,
        status: query.status,
        limit: limit(query.limit),
    };
    Ok(Json(request_log::list(&running.pool, &filter).await?).into_response())
}

/// One request.
pub(super) async fn request(
    Given(state): Given<Arc<State>>,
    Path(id): Path<i64>,
) -> Result<Response, ApiError> {
    let (running, _) = running(&state)?;
    let shown = request_log::show(&running.pool, id).await?;
    Ok(Json(shown.ok_or_else(|| unknown_request(id))?).into_response())
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct LettersQuery {
    pub(super) kind: Option<String>,
    pub(super) origin: Option<String>,
    #[serde(default)]
    pub(super) replayed: bool,
    pub(super) limit: Option<i64>,
}

impl LettersQuery {
    pub(super) fn filter(&self, ids: Vec<i64>) -> Filter {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let limit = limit(self.limit).max(i64::try_from(ids.len()).unwrap_or(i64::MAX));
        Filter {
            ids,
            kind: given(&self.kind),
            origin: given(&self.origin),
            replayed: self.replayed,
            limit,
        }
    }
}

fn limit(asked: Option<i64>) -> i64 {
    asked.unwrap_or(LIMIT).clamp(1, LIMIT_MAX)
}

/// Dead letters, newest first.
pub(super) async fn dead_letters(
    Given(state): Given<Arc<State>>,
    Query(query): Query<LettersQuery>,
) -> Result<Response, ApiError> {
    let (running, _) = running(&state)?;
    Ok(Json(dead_letter::list(&running.pool, &query.filter(Vec::new())).await?).into_response())
}

/// One dead letter and its body, replayed or not.
pub(super) async fn letter_and_body(
    running: &Running,
    id: i64,
) -> Result<(DeadLetter, Vec<u8>), ApiError> {
    let filter = Filter { ids: vec![id], replayed: true, limit: 1, ..Filter::default() };
    let letter = dead_letter::list(&running.pool, &filter).await?.pop();
    let letter = letter.ok_or_else(|| OperateError::Unknown {
        what: format!("there is no dead letter {id}"),
        hint: "see `eventloader dead-letters list`".to_owned(),
    })?;
    let body = dead_letter::body(&running.pool, id).await?.unwrap_or_default();
    Ok((letter, body))
}

/// One dead letter with its body as text.
pub(super) async fn dead_letter(
    Given(state): Given<Arc<State>>,
    Path(id): Path<i64>,
) -> Result<Response, ApiError> {
    let (running, _) = running(&state)?;
    let (letter, body) = letter_and_body(running, id).await?;
    let mut value = json!(letter);
    value["body"] = json!(String::from_utf8_lossy(&body));
    Ok(Json(value).into_response())
}
