//! `/api/v1/privacy/…`: what there is of one person, and its end. Enters: a number or an address, in a body, because paths end
//! up in logs; leaves: counts and calls. On the control socket only, and noted before it is done, without the number.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::calls::{is_of, read};
use super::extract::Brought;
use super::looks::{NotedBefore, note};
use super::who::Who;
use super::{Problem, Shared};
use crate::base::{CallId, Pii};
use crate::storage::{Known, Timestamp, party};

/// Longest number or address (RFC 3261 names no limit; signalling takes less).
const LONGEST: usize = 512;

/// A far end.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Person {
    /// A number, an address, or the hash that stands for it.
    #[schema(value_type = String, min_length = 1, max_length = 512, example = "+493012345")]
    caller: Pii<String>,
}

/// What there is of them.
#[derive(Serialize, ToSchema)]
pub(super) struct PersonAnswer {
    /// Ids of calls that are recorded, newest first.
    calls: Vec<String>,
    /// Ids of those that are up.
    live: Vec<String>,
    turns: u64,
    /// Begin of the first.
    first: Option<Timestamp>,
    /// Begin of the last.
    last: Option<Timestamp>,
}

/// What was deleted.
#[derive(Serialize, ToSchema)]
pub(super) struct Erased {
    calls: u64,
    turns: u64,
    /// Files.
    recordings: u64,
    /// Answers that agents had learned in these calls.
    learned: usize,
    /// Calls that are up: nothing more of them is recorded.
    live: usize,
    /// Nothing of it is left in the write-ahead log either; otherwise a reader holds it, and that follows.
    log_emptied: bool,
}

/// The names that they may have been recorded under, and their calls that are up.
struct Found {
    names: Vec<String>,
    live: Vec<CallId>,
    known: Known,
}

async fn find(shared: &Shared, person: &Person) -> Result<Found, Problem> {
    let caller = person.caller.reveal();
    if party(caller).is_empty() || caller.len() > LONGEST {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "caller: give a number, an address, or a hash of `call show`",
        ));
    }
    let names = shared.state.storage.names(caller);
    let live = shared.state.live.all();
    let live = live.iter().filter(|call| is_of(&shared.state.storage, &names, call));
    let (live, asked) = (live.map(|call| call.id).collect(), names.clone());
    let known = read(&shared.state.storage, move |storage| storage.known(&asked)).await?;
    Ok(Found { names, live, known })
}

impl Found {
    fn shown(&self) -> PersonAnswer {
        let Known { calls, turns } = &self.known;
        PersonAnswer {
            calls: calls.iter().map(|call| call.id.to_string()).collect(),
            live: self.live.iter().map(ToString::to_string).collect(),
            turns: *turns,
            first: calls.iter().map(|call| call.started).min(),
            last: calls.iter().map(|call| call.started).max(),
        }
    }
}

/// What an erasure would delete.
#[utoipa::path(post, path = "/api/v1/privacy/show", tag = "privacy", request_body = Person,
    responses((status = 200, description = "What there is", body = PersonAnswer)))]
pub(super) async fn show(
    State(shared): State<Shared>,
    Extension(who): Extension<Who>,
    Brought(person): Brought<Person>,
) -> Result<(Extension<NotedBefore>, Json<PersonAnswer>), Problem> {
    let found = find(&shared, &person).await?;
    note(&shared, &who, "privacy.show", count(found.known.calls.len()))?;
    Ok((Extension(NotedBefore), Json(found.shown())))
}

/// Deletes it, and whatever would still be recorded of their calls that are up.
#[utoipa::path(post, path = "/api/v1/privacy/erase", tag = "privacy", request_body = Person,
    responses((status = 200, description = "What was deleted", body = Erased)))]
pub(super) async fn erase(
    State(shared): State<Shared>,
    Extension(who): Extension<Who>,
    Brought(person): Brought<Person>,
) -> Result<(Extension<NotedBefore>, Json<Erased>), Problem> {
    let found = find(&shared, &person).await?;
    note(&shared, &who, "privacy.erase", count(found.known.calls.len()))?;
    let Found { names, live, known } = found;
    let (storage, recorded, up) = (shared.state.storage.clone(), shared.state.recorded.clone(), live.len());
    let calls: Vec<_> = known.calls.iter().map(|call| call.id).chain(live.iter().copied()).collect();
    let these = calls.iter().copied().collect();
    shared.state.live.events().forget(&these);
    let learned = shared.state.answers.forget(&these);
    let failed = |why: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("not all was erased: {why}"));
    // The recordings last: from then on none of these calls is recorded any more.
    let erase = move || Ok::<_, String>((storage.erase(names, live)?, recorded.forget(calls)?));
    let erased = tokio::task::spawn_blocking(erase).await;
    let (erased, files) = erased.map_err(|error| failed(error.to_string()))?.map_err(failed)?;
    let (calls, turns, log_emptied) = (erased.calls, erased.turns, erased.log_emptied);
    Ok((Extension(NotedBefore), Json(Erased { calls, turns, recordings: files, learned, live: up, log_emptied })))
}

fn count(calls: usize) -> String {
    format!("{calls} calls")
}
