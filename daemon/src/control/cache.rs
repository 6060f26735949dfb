//! `/api/v1/cache`: questions whose answer is known. Enters: requests; leaves: entries, counts, changes. A question may be a
//! caller's own words: they are shown as those are.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{Asked, Brought, Segment, place};
use super::looks::look;
use super::who::Who;
use super::{Problem, Shared};
use crate::base::Origin;
use crate::cache::{Entry, Stats};
use crate::storage::Timestamp;

/// Entries on a page if nothing is asked for, and at most.
const PAGE: (usize, usize) = (50, 1000);

/// Which entries are shown.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Shown {
    /// Of this agent.
    agent: Option<String>,
    /// Who has taught the answer: its file, an operator, or the model.
    #[param(inline, value_type = Option<OriginName>)]
    origin: Option<String>,
    /// Entries on the page.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<usize>,
    /// Goes on where an earlier page ended: its `next`.
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_u64)]
    after: Option<u64>,
}

/// Which entries are meant.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Meant {
    /// Of this agent.
    agent: Option<String>,
    /// Who has taught the answer: its file, an operator, or the model.
    #[param(inline, value_type = Option<OriginName>)]
    origin: Option<String>,
}

/// Whose answers.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OfAgent {
    /// Of this agent.
    pub(super) agent: Option<String>,
}

/// The names of origins.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "it only says what there is")]
pub(super) enum OriginName {
    Faq,
    Added,
    Learned,
}

/// A question with its answer.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewAnswer {
    agent: String,
    #[schema(min_length = 1, max_length = 300)]
    question: String,
    #[schema(min_length = 1, max_length = 600)]
    answer: String,
}

/// A question whose answer is known.
#[derive(Serialize, ToSchema)]
pub(super) struct KnownAnswer {
    id: u64,
    agent: String,
    /// `faq`, `added` or `learned`.
    origin: &'static str,
    question: String,
    answer: String,
    /// How often it has answered.
    hits: u64,
    made: Timestamp,
    used: Timestamp,
    /// Null: never.
    expires: Option<Timestamp>,
    /// It counts for nothing any more, because instructions or facts have changed.
    outdated: bool,
    /// Whether its audio is ready; absent in a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<bool>,
}

impl KnownAnswer {
    fn of(entry: &Entry, counts: bool, ready: Option<bool>) -> Self {
        Self {
            id: entry.id,
            agent: entry.agent.clone(),
            origin: entry.origin.as_str(),
            question: entry.question.clone(),
            answer: entry.answer.clone(),
            hits: entry.hits,
            made: Timestamp(entry.made_us),
            used: Timestamp(entry.used_us),
            expires: entry.expires_us.map(Timestamp),
            outdated: !counts,
            ready,
        }
    }
}

/// A page of them.
#[derive(Serialize, ToSchema)]
pub(super) struct KnownPage {
    /// By id.
    entries: Vec<KnownAnswer>,
    /// `after` of the next page; null on the last.
    next: Option<u64>,
}

/// Which entry it is.
#[derive(Serialize, ToSchema)]
pub(super) struct Added {
    id: u64,
}

/// How many there were.
#[derive(Serialize, ToSchema)]
pub(super) struct Removed {
    pub(super) removed: usize,
}

/// How many are missing.
#[derive(Serialize, ToSchema)]
pub(super) struct Rendering {
    rendering: usize,
}

/// How many there are.
#[derive(Serialize, ToSchema)]
pub(super) struct StatsList {
    /// Of each agent.
    agents: Vec<Stats>,
}

fn origin(name: Option<&str>) -> Result<Option<Origin>, Problem> {
    let wrong = || Problem::new(StatusCode::BAD_REQUEST, "origin: one of faq, added, learned");
    name.map(|name| Origin::named(name).ok_or_else(wrong)).transpose()
}

fn number(text: &str) -> Result<u64, Problem> {
    text.parse().map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the id of an entry is a number"))
}

fn may_see(who: &Who) -> Result<(), Problem> {
    if who.callers {
        return Ok(());
    }
    let why = "questions may be callers' words: it takes a token with scope operator, or http.show_callers";
    Err(Problem::new(StatusCode::FORBIDDEN, why))
}

fn unknown(id: u64) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("no entry {id} is in the cache"))
}

/// Questions whose answer is known, page by page.
#[utoipa::path(get, path = "/api/v1/cache", tag = "cache", params(Shown),
    responses((status = 200, description = "A page of entries", body = KnownPage)))]
pub(super) async fn list(
    State(shared): State<Shared>,
    Extension(who): Extension<Who>,
    Asked(which): Asked<Shown>,
) -> Result<Json<KnownPage>, Problem> {
    may_see(&who)?;
    let limit = which.limit.unwrap_or(PAGE.0);
    if !(1..=PAGE.1).contains(&limit) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("limit: 1 to {}", PAGE.1)));
    }
    let (origin, after) = (origin(which.origin.as_deref())?, place("after", which.after)?);
    look(&shared, &who, "cache.list", "")?;
    let entries = shared.state.answers.entries(which.agent.as_deref(), origin);
    let mut rest = entries.iter().filter(|(entry, _)| after.is_none_or(|after| entry.id > after));
    let page: Vec<&(Entry, bool)> = rest.by_ref().take(limit).collect();
    let next = rest.next().and_then(|_| page.last()).map(|(entry, _)| entry.id);
    let entries = page.into_iter().map(|(entry, counts)| KnownAnswer::of(entry, *counts, None)).collect();
    Ok(Json(KnownPage { entries, next }))
}

/// One of them.
#[utoipa::path(get, path = "/api/v1/cache/{id}", tag = "cache",
    params(("id" = u64, Path, maximum = 9_007_199_254_740_991_u64, description = "Of an entry")),
    responses((status = 200, description = "The entry", body = KnownAnswer), (status = 404, description = "There is none")))]
pub(super) async fn one(
    State(shared): State<Shared>,
    Extension(who): Extension<Who>,
    Segment(id): Segment,
) -> Result<Json<KnownAnswer>, Problem> {
    may_see(&who)?;
    let id = number(&id)?;
    look(&shared, &who, "cache.show", id.to_string())?;
    let (entry, counts, ready) = shared.state.answers.entry(id).ok_or_else(|| unknown(id))?;
    Ok(Json(KnownAnswer::of(&entry, counts, Some(ready))))
}

/// Has an agent know an answer.
#[utoipa::path(post, path = "/api/v1/cache", tag = "cache", request_body = NewAnswer,
    responses((status = 201, description = "It is known", body = Added),
        (status = 422, description = "There is no such agent, or the text is too long")))]
pub(super) async fn add(
    State(shared): State<Shared>,
    Brought(NewAnswer { agent, question, answer }): Brought<NewAnswer>,
) -> Result<(StatusCode, Json<Added>), Problem> {
    let added = shared.state.answers.add(&agent, &question, &answer);
    let id = added.map_err(|sentence| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, sentence))?;
    Ok((StatusCode::CREATED, Json(Added { id })))
}

/// Takes one out.
#[utoipa::path(delete, path = "/api/v1/cache/{id}", tag = "cache",
    params(("id" = u64, Path, maximum = 9_007_199_254_740_991_u64, description = "Of an entry")),
    responses((status = 200, description = "It is gone", body = Removed), (status = 404, description = "There is none")))]
pub(super) async fn remove(State(shared): State<Shared>, Segment(id): Segment) -> Result<Json<Removed>, Problem> {
    let id = number(&id)?;
    match shared.state.answers.purge(None, None, Some(id)) {
        0 => Err(unknown(id)),
        removed => Ok(Json(Removed { removed })),
    }
}

/// Takes out those of an agent, of an origin, or all.
#[utoipa::path(delete, path = "/api/v1/cache", tag = "cache", params(Meant),
    responses((status = 200, description = "They are gone", body = Removed)))]
pub(super) async fn purge(State(shared): State<Shared>, Asked(which): Asked<Meant>) -> Result<Json<Removed>, Problem> {
    let removed = shared.state.answers.purge(which.agent.as_deref(), origin(which.origin.as_deref())?, None);
    Ok(Json(Removed { removed }))
}

/// How many there are of each agent, and how often they have answered.
#[utoipa::path(get, path = "/api/v1/cache/stats", tag = "cache",
    responses((status = 200, description = "Counts", body = StatsList)))]
pub(super) async fn stats(State(shared): State<Shared>) -> Json<StatsList> {
    Json(StatsList { agents: shared.state.answers.stats() })
}

/// Has audio of all answers made ready.
#[utoipa::path(post, path = "/api/v1/cache/warm", tag = "cache", params(OfAgent),
    responses((status = 200, description = "It is being made", body = Rendering)))]
pub(super) async fn warm(
    State(shared): State<Shared>,
    Asked(OfAgent { agent }): Asked<OfAgent>,
) -> Result<Json<Rendering>, Problem> {
    Ok(Json(Rendering { rendering: shared.state.answers.warm(agent.as_deref()) }))
}
