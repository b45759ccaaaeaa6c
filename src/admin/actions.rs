//! Changes, as JSON for programs and as forms for the page; the answer is of the kind that was asked for.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State as Given};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::access::wants_page;
use super::api::{ApiError, LettersQuery, running};
use super::{State, page};
use crate::dead_letter::{self, Judge, Replay};
use crate::operate::{self, Mode, OperateError, Skip};
use crate::store::Actor;
use crate::store::dead_letter as letters;

/// Who acts, for the audit log: somebody with the token. Who that was, a proxy in front may know.
fn actor() -> Actor {
    Actor("operator (admin server)".to_owned())
}

/// What was done, for a program or a person.
struct Done {
    said: String,
    value: serde_json::Value,
}

fn answer(headers: &HeaderMap, outcome: Result<Done, ApiError>) -> Response {
    let is_page = wants_page(headers);
    match outcome {
        Ok(done) if is_page => page::said(StatusCode::OK, &done.said, None),
        Ok(done) => Json(done.value).into_response(),
        Err(error) if is_page => {
            let (status, message, hint) = error.said();
            page::said(status, &message, hint.as_deref())
        }
        Err(error) => error.into_response(),
    }
}

/// A body, as JSON or as a form; an empty one is the default.
fn body<T: DeserializeOwned + Default>(headers: &HeaderMap, body: &Bytes) -> Result<T, ApiError> {
    if body.is_empty() {
        return Ok(T::default());
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let read = match kind.and_then(|kind| kind.split(';').next()).map(str::trim) {
        Some("application/json") => serde_json::from_slice(body).map_err(|error| error.to_string()),
        Some("application/x-www-form-urlencoded") => {
            serde_urlencoded::from_bytes(body).map_err(|error| error.to_string())
        }
        _ => Err("its Content-Type is neither JSON nor a form".to_owned()),
    };
    read.map_err(|why| {
        let why = format!("the body of the request cannot be read: {why}");
        OperateError::Usage { why, hint: None }.into()
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PauseBody {
    reason: Option<String>,
}

/// Pauses a source.
pub(super) async fn pause(
    Given(state): Given<Arc<State>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Response {
    let outcome = async {
        let (running, _) = running(&state)?;
        let asked: PauseBody = body(&headers, &bytes)?;
        let reason = asked.reason.filter(|reason| !reason.is_empty());
        operate::pause(&running.pool, &name, &actor(), reason.as_deref()).await?;
        Ok(source_done(&name, "paused"))
    };
    answer(&headers, outcome.await)
}

/// Resumes a source.
pub(super) async fn resume(
    Given(state): Given<Arc<State>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    let outcome = async {
        let (running, _) = running(&state)?;
        operate::resume(&running.pool, &name, &actor()).await?;
        Ok(source_done(&name, "resumed"))
    };
    answer(&headers, outcome.await)
}

fn source_done(name: &str, what: &str) -> Done {
    Done { said: format!("{name} is {what}"), value: json!({ "source_name": name, "done": what }) }
}

/// Lets the window of a failed or orphaned request be asked again.
pub(super) async fn retry(
    Given(state): Given<Arc<State>>,
    Path(id): Path<i64>,
    headers: HeaderMap,
) -> Response {
    let outcome = async {
        let (running, _) = running(&state)?;
        let retried = operate::retry(&running.pool, vec![id], &actor(), Mode::Do).await?;
        let request = retried.first().ok_or_else(|| operate::unknown_request(id))?;
        Ok(Done {
            said: format!(
                "the window of request {id} ({} after {}) will be asked again",
                request.source_name, request.after_id
            ),
            value: json!({
                "request_id": id, "source_name": request.source_name, "after_id": request.after_id,
            }),
        })
    };
    answer(&headers, outcome.await)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SkipBody {
    to: Option<i64>,
}

/// Gives the window of a failed or orphaned request up.
pub(super) async fn skip(
    Given(state): Given<Arc<State>>,
    Path(id): Path<i64>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Response {
    let outcome = async {
        let (running, _) = running(&state)?;
        let asked: SkipBody = body(&headers, &bytes)?;
        let plan = Skip::plan(&running.pool, id, asked.to).await?;
        plan.carry_out(&running.pool, &actor(), Mode::Do).await?;
        let (name, to) = (&plan.request.source_name, plan.to);
        Ok(Done {
            said: format!("{name} goes on after {to}"),
            value: json!({
                "request_id": id, "source_name": name, "after_id": plan.request.after_id, "to": to,
            }),
        })
    };
    answer(&headers, outcome.await)
}

/// Which dead letters: one number, several, or all that match a filter.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Chosen {
    id: Option<i64>,
    ids: Vec<i64>,
    all: bool,
    kind: Option<String>,
    origin: Option<String>,
    limit: Option<i64>,
}

impl Chosen {
    async fn letters(&self, state: &State) -> Result<Vec<letters::DeadLetter>, ApiError> {
        let (running, _) = running(state)?;
        let ids: Vec<i64> = self.ids.iter().copied().chain(self.id).collect();
        if ids.is_empty() != self.all {
            let why = "name dead letters by their numbers, or all of them: {\"ids\": [1]} or {\"all\": true}";
            return Err(OperateError::Usage { why: why.to_owned(), hint: None }.into());
        }
        let query = LettersQuery {
            kind: self.kind.clone(),
            origin: self.origin.clone(),
            replayed: false,
            limit: self.limit,
        };
        let found = letters::list(&running.pool, &query.filter(ids.clone())).await?;
        match ids.iter().find(|id| !found.iter().any(|letter| letter.id == **id)) {
            Some(id) => Err(OperateError::Unknown {
                what: format!("there is no dead letter {id} that is not replayed"),
                hint: "see `eventloader dead-letters list`".to_owned(),
            }
            .into()),
            None => Ok(found),
        }
    }
}

/// Gives dead letters back.
pub(super) async fn replay(
    Given(state): Given<Arc<State>>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Response {
    let outcome = async {
        let (running, _) = running(&state)?;
        let chosen: Chosen = body(&headers, &bytes)?;
        let config = Arc::clone(&running.config.borrow());
        let mut outcomes = Vec::new();
        for letter in chosen.letters(&state).await? {
            let judge = Judge::of(&config.sources, &letter);
            let replayed = dead_letter::replay(&running.pool, letter.id, &actor(), &judge).await?;
            let said = match replayed {
                Replay::Replayed => "replayed".to_owned(),
                Replay::Gone => "already gone".to_owned(),
                Replay::Refused(reason) => format!("not replayed: {reason}"),
            };
            outcomes.push((letter.id, said));
        }
        Ok(report(&outcomes))
    };
    answer(&headers, outcome.await)
}

/// Deletes dead letters for good.
pub(super) async fn discard(
    Given(state): Given<Arc<State>>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Response {
    let outcome = async {
        let (running, _) = running(&state)?;
        let chosen: Chosen = body(&headers, &bytes)?;
        let ids: Vec<i64> = chosen.letters(&state).await?.iter().map(|letter| letter.id).collect();
        letters::discard(&running.pool, &ids, &actor()).await?;
        let outcomes: Vec<_> = ids.iter().map(|id| (*id, "discarded".to_owned())).collect();
        Ok(report(&outcomes))
    };
    answer(&headers, outcome.await)
}

fn report(outcomes: &[(i64, String)]) -> Done {
    let rows: Vec<_> =
        outcomes.iter().map(|(id, said)| json!({ "id": id, "outcome": said })).collect();
    let lines: Vec<_> =
        outcomes.iter().map(|(id, said)| format!("dead letter {id}: {said}")).collect();
    let said = if lines.is_empty() { "no dead letters".to_owned() } else { lines.join("\n") };
    Done { said, value: json!(rows) }
}
