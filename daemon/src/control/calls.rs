//! `/api/v1/calls`: the calls that are up and those that were, as one list; and what is wanted of one that is up.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::answers::{CallAnswer, CallPage, CallWithExchanges, Exchange};
use super::extract::{Asked, Brought, CallPath, Named};
use super::looks::look;
use super::who::Who;
use super::{LiveCall, LiveCalls, Problem, Shared, Wish};
use crate::base::{CallId, Pii};
use crate::storage::{Cursor, Direction, StorageHandle, Timestamp, Wanted};

/// Calls on a page if nothing is asked for, and at most.
const PAGE: (u32, u32) = (50, 500);

/// Time in which the task of a call takes an order.
const PATIENCE: Duration = Duration::from_secs(3);

/// Characters that an agent can be made to say.
const MOST_SAID: usize = 500;

/// Which calls.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// Calls on the page.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
    /// Goes on where an earlier page ended: its `next`.
    #[param(value_type = Option<String>, pattern = "^-?[0-9]{1,18}-[0-9a-f]{1,16}$")]
    before: Option<Cursor>,
    /// Begun at this time or later.
    #[param(value_type = Option<String>, format = DateTime, example = "2026-12-31T23:59:59Z")]
    since: Option<Timestamp>,
    /// Begun before this time.
    #[param(value_type = Option<String>, format = DateTime, example = "2026-12-31T23:59:59Z")]
    until: Option<Timestamp>,
    /// Taken by this agent.
    agent: Option<String>,
    /// Who called whom.
    #[param(inline)]
    direction: Option<Direction>,
    /// Ended for this reason; no call that is up is found by it.
    reason: Option<String>,
    /// With whoever has this number or address, however it is written, or this hash; only where callers are shown.
    #[param(value_type = Option<String>)]
    caller: Option<Pii<String>>,
}

/// How many to show, within bounds.
pub(super) fn count(limit: Option<u32>) -> Result<u32, Problem> {
    let limit = limit.unwrap_or(PAGE.0);
    if (1..=PAGE.1).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::new(StatusCode::BAD_REQUEST, format!("limit: 1 to {}", PAGE.1)))
}

/// Whom the box speaks with.
fn far_end(call: &LiveCall) -> &str {
    match call.direction {
        Direction::Inbound => call.from.reveal(),
        Direction::Outbound => call.to.reveal(),
    }
}

/// Calls that are up with whoever has one of these names.
pub(super) fn is_of(storage: &StorageHandle, names: &[String], call: &LiveCall) -> bool {
    storage.names(far_end(call)).iter().any(|name| names.contains(name))
}

fn is_wanted(wanted: &Wanted, call: &LiveCall) -> bool {
    wanted.reason.is_none()
        && wanted.since.is_none_or(|since| call.started >= since)
        && wanted.until.is_none_or(|until| call.started < until)
        && wanted.agent.as_ref().is_none_or(|agent| *agent == call.agent)
        && wanted.direction.is_none_or(|direction| direction == call.direction)
}

/// Calls, newest first, live ones among them.
#[utoipa::path(get, path = "/api/v1/calls", tag = "calls", params(Page),
    responses((status = 200, description = "A page of calls", body = CallPage)))]
pub(super) async fn list(
    State(shared): State<Shared>,
    Extension(who): Extension<Who>,
    Asked(page): Asked<Page>,
) -> Result<Json<CallPage>, Problem> {
    let Page { limit, before, since, until, agent, direction, reason, caller } = page;
    let limit = count(limit)?;
    if caller.is_some() && !who.callers {
        let why = "caller: who may not see callers cannot look for one; it takes a token with scope operator";
        return Err(Problem::new(StatusCode::FORBIDDEN, why));
    }
    let wanted = Wanted { since, until, agent, direction, reason, caller };

    if who.callers {
        look(&shared, &who, "call.list", "")?;
    }
    // Live calls are read first: one that ends in between is on disk or missing, never listed twice.
    let live = shared.state.live.all();
    // A stored call that is up is left out below, so as many more are asked for; and one more tells of a next page.
    let fetch = limit.saturating_add(1).saturating_add(u32::try_from(live.len()).unwrap_or(u32::MAX));
    let asked = wanted.clone();
    let stored = read(&shared.state.storage, move |storage| storage.calls(&asked, fetch, before)).await?;

    let mut found: Vec<(Cursor, CallAnswer)> = Vec::new();
    let storage = &shared.state.storage;
    let names = wanted.caller.as_ref().map(|caller| storage.names(caller.reveal()));
    let fits =
        |call: &LiveCall| is_wanted(&wanted, call) && names.as_ref().is_none_or(|names| is_of(storage, names, call));
    for call in live.iter().filter(|call| fits(call)) {
        let place = Cursor { started: call.started, id: call.id };
        if before.is_none_or(|before| place < before) {
            found.push((place, CallAnswer::live(call, &who)));
        }
    }
    for call in stored.iter().filter(|call| live.iter().all(|live| live.id != call.id)) {
        found.push((Cursor { started: call.started, id: call.id }, CallAnswer::stored(call, &who)));
    }
    found.sort_unstable_by_key(|(place, _)| std::cmp::Reverse(*place));
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = found.last().filter(|_| more).map(|(place, _)| place.to_string());
    Ok(Json(CallPage { calls: found.into_iter().map(|(_, call)| call).collect(), next }))
}

/// One call with its exchanges.
#[utoipa::path(get, path = "/api/v1/calls/{id}", tag = "calls", params(CallPath),
    responses((status = 200, description = "The call", body = CallWithExchanges),
        (status = 404, description = "No such call is known")))]
pub(super) async fn one(
    State(shared): State<Shared>,
    Extension(who): Extension<Who>,
    Named(id): Named,
) -> Result<Json<CallWithExchanges>, Problem> {
    if who.callers {
        look(&shared, &who, "call.show", id.to_string())?;
    }
    let live = shared.state.live.one(id);
    let stored = read(&shared.state.storage, move |storage| storage.call(id)).await?;
    let call = match (&live, &stored.call) {
        (Some(live), _) => CallAnswer::live(live, &who),
        (None, Some(stored)) => CallAnswer::stored(stored, &who),
        (None, None) => return Err(Problem::new(StatusCode::NOT_FOUND, format!("no call {id} is known"))),
    };
    let exchanges = stored.turns.iter().map(|turn| Exchange::new(turn, &who)).collect();
    Ok(Json(CallWithExchanges { call, exchanges }))
}

/// Which call it was.
#[derive(Serialize, ToSchema)]
pub(super) struct Done {
    /// Its id.
    id: String,
}

impl Done {
    pub(super) fn of(id: CallId) -> Self {
        Self { id: id.to_string() }
    }
}

/// Ends a call that is up, without a word.
#[utoipa::path(delete, path = "/api/v1/calls/{id}", tag = "calls", params(CallPath),
    responses((status = 200, description = "It has ended", body = Done),
        (status = 404, description = "It is not up"),
        (status = 409, description = "It takes no orders")))]
pub(super) async fn hang_up(State(shared): State<Shared>, Named(id): Named) -> Result<Json<Done>, Problem> {
    asked(&shared.state.live, id, Wish::HangUp).await?;
    Ok(Json(Done::of(id)))
}

/// Something to be said.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Words {
    /// Plain text, without control characters.
    #[schema(value_type = String, min_length = 1, max_length = 500, pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$", example = "A colleague is on the way.")]
    text: Pii<String>,
}

/// Has the agent say something as soon as nobody speaks.
#[utoipa::path(post, path = "/api/v1/calls/{id}/say", tag = "calls", params(CallPath), request_body = Words,
    responses((status = 202, description = "It will be said", body = Done),
        (status = 404, description = "It is not up"),
        (status = 409, description = "It takes no orders, or has too many")))]
pub(super) async fn say(
    State(shared): State<Shared>,
    Named(id): Named,
    Brought(Words { text }): Brought<Words>,
) -> Result<(StatusCode, Json<Done>), Problem> {
    let words = text.reveal().trim();
    if words.is_empty() || text.reveal().chars().count() > MOST_SAID || words.chars().any(char::is_control) {
        let why = format!("text: 1 to {MOST_SAID} characters, none of them for control");
        return Err(Problem::new(StatusCode::BAD_REQUEST, why));
    }
    let words = Pii::new(words.to_owned());
    errand(&shared.state.live, id, |done| Wish::Say { words, done }).await
}

/// Whom a caller is to be handed over to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    /// The name of one of the agent's transfers.
    #[schema(min_length = 1, max_length = 40)]
    to: String,
}

/// Hands the caller over to one of the agent's transfers as soon as nobody speaks.
#[utoipa::path(post, path = "/api/v1/calls/{id}/transfer", tag = "calls", params(CallPath), request_body = Target,
    responses((status = 202, description = "They will be handed over", body = Done),
        (status = 404, description = "It is not up"),
        (status = 409, description = "It takes no orders, or its agent has no such transfer")))]
pub(super) async fn transfer(
    State(shared): State<Shared>,
    Named(id): Named,
    Brought(Target { to }): Brought<Target>,
) -> Result<(StatusCode, Json<Done>), Problem> {
    errand(&shared.state.live, id, |done| Wish::Transfer { to, done }).await
}

async fn errand(
    live: &LiveCalls,
    id: CallId,
    wish: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Wish,
) -> Result<(StatusCode, Json<Done>), Problem> {
    asked(live, id, wish).await?.map_err(|why| Problem::new(StatusCode::CONFLICT, why))?;
    Ok((StatusCode::ACCEPTED, Json(Done::of(id))))
}

/// Has the task of a call do something, and waits for what comes of it.
pub(super) async fn asked<T>(
    live: &LiveCalls,
    id: CallId,
    wish: impl FnOnce(oneshot::Sender<T>) -> Wish,
) -> Result<T, Problem> {
    if live.one(id).is_none() {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("call {id} is not up")));
    }
    let (done, answer) = oneshot::channel();
    let taken = live.wish(id, wish(done));
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) if taken => Ok(answer),
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
