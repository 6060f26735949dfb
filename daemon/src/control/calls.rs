//! `/api/v1/calls`: the calls that are up and those that were, as one list.

use std::time::Duration;

use axum::extract::{Path, Query, State, rejection::QueryRejection};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::orders::permitted;
use super::{LiveCall, LiveCalls, Problem, Shared, View, Wish};
use crate::base::CallId;
use crate::storage::{CallRecord, Cursor, StorageHandle};

/// Calls on a page if nothing is asked for, and at most.
const PAGE: (u32, u32) = (50, 500);

/// Time in which the task of a call takes an order.
const PATIENCE: Duration = Duration::from_secs(3);

/// Fields that say who called and what was said.
const PRIVATE: [&str; 5] = ["from", "to", "caller_text", "agent_text", "heard_text"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    limit: Option<u32>,
    before: Option<String>,
}

pub(super) async fn list(
    State(shared): State<Shared>,
    Extension(view): Extension<View>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(page) = page.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let limit = page.limit.unwrap_or(PAGE.0).clamp(1, PAGE.1);
    let before: Option<Cursor> = page
        .before
        .map(|text| text.parse().map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("before: {error}"))))
        .transpose()?;

    // Live calls are read first: one that ends in between is on disk or missing, never listed twice.
    let live = shared.state.live.all();
    // A stored call that is up is left out below, so as many more are asked for; and one more tells of a next page.
    let fetch = limit.saturating_add(1).saturating_add(u32::try_from(live.len()).unwrap_or(u32::MAX));
    let stored = read(&shared.state.storage, move |storage| storage.calls(fetch, before)).await?;

    let mut found: Vec<(Cursor, Value)> = Vec::new();
    for call in &live {
        let place = Cursor { started: call.started, id: call.id };
        if before.is_none_or(|before| place < before) {
            found.push((place, listed(call, view)));
        }
    }
    for call in stored.iter().filter(|call| live.iter().all(|live| live.id != call.id)) {
        found.push((Cursor { started: call.started, id: call.id }, ended(call, view)));
    }
    found.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = found.last().filter(|_| more).map(|(place, _)| place.to_string());
    let calls: Vec<Value> = found.into_iter().map(|(_, call)| call).collect();
    Ok(Json(json!({ "calls": calls, "next": next })))
}

pub(super) async fn one(
    State(shared): State<Shared>,
    Extension(view): Extension<View>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let id: CallId = id.parse().map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("{error}")))?;
    let live = shared.state.live.one(id);
    let stored = read(&shared.state.storage, move |storage| storage.call(id)).await?;
    let unknown = || Problem::new(StatusCode::NOT_FOUND, format!("no call {id} is known"));
    let mut call = match (&live, &stored.call) {
        (Some(live), _) => listed(live, view),
        (None, Some(stored)) => ended(stored, view),
        (None, None) => return Err(unknown()),
    };
    let exchanges = stored.turns.iter().map(|turn| shown(turn, view)).collect();
    call["exchanges"] = Value::Array(exchanges);
    Ok(Json(call))
}

/// Ends a call that is up, without a word.
pub(super) async fn hang_up(
    State(shared): State<Shared>,
    Extension(view): Extension<View>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    permitted(view)?;
    let id = asked(&shared.state.live, &id, Wish::HangUp).await?.0;
    Ok(Json(json!({ "id": id.to_string() })))
}

/// Has the task of a call do something, and waits for what comes of it.
pub(super) async fn asked<T>(
    live: &LiveCalls,
    id: &str,
    wish: impl FnOnce(oneshot::Sender<T>) -> Wish,
) -> Result<(CallId, T), Problem> {
    let id: CallId = id.parse().map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("{error}")))?;
    if live.one(id).is_none() {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("call {id} is not up")));
    }
    let (done, answer) = oneshot::channel();
    let taken = live.wish(id, wish(done));
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) if taken => Ok((id, answer)),
        _ => Err(Problem::new(
            StatusCode::CONFLICT,
            format!("call {id} does not take orders: it ends, or it is joined to another call that does"),
        )),
    }
}

/// The disk is waited for on another thread, so that `/health` never does.
pub(super) async fn read<T: Send + 'static>(
    storage: &StorageHandle,
    question: impl FnOnce(&StorageHandle) -> Result<T, rusqlite::Error> + Send + 'static,
) -> Result<T, Problem> {
    let storage = storage.clone();
    let unavailable =
        |error: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("the database cannot be read: {error}"));
    match tokio::task::spawn_blocking(move || question(&storage)).await {
        Ok(answer) => answer.map_err(|error| unavailable(error.to_string())),
        Err(error) => Err(unavailable(error.to_string())),
    }
}

fn listed(call: &LiveCall, view: View) -> Value {
    shown(call, view)
}

/// A stored call that is not up but has no end was cut off with its daemon.
fn ended(call: &CallRecord, view: View) -> Value {
    let mut value = shown(call, view);
    value["state"] = if call.ended.is_some() { "ended" } else { "lost" }.into();
    value
}

/// As JSON; without [`PRIVATE`] where the view must not show it.
fn shown(record: &impl Serialize, view: View) -> Value {
    // These types have only string keys, so this cannot fail.
    let mut value = serde_json::to_value(record).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        for name in ["id", "call"] {
            if let Some(id) = fields.get_mut(name)
                && let Some(number) = id.as_u64()
            {
                *id = CallId(number).to_string().into();
            }
        }
        if !view.callers {
            fields.retain(|name, _| !PRIVATE.contains(&name.as_str()));
        }
    }
    value
}
