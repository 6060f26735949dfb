//! `/api/v1/knowledge`: documents that agents know. Enters: requests; leaves: documents, passages, changes. Nothing here is a
//! caller's: whoever may look may see it.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cache::{OfAgent, Removed};
use super::extract::{Asked, Brought};
use super::{Problem, Shared};
use crate::knowledge::Listed;

/// What there is.
#[derive(Serialize, ToSchema)]
pub(super) struct DocumentList {
    /// By agent and name; those of agents' own folders first.
    documents: Vec<Listed>,
}

/// What is looked up, and for whom.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Question {
    /// The agent who is asked.
    agent: String,
    /// As a caller may ask.
    #[param(min_length = 1, max_length = 300)]
    question: String,
}

/// A passage of a document.
#[derive(Serialize, ToSchema)]
pub(super) struct FoundPassage {
    /// Its document and its headings.
    name: String,
    text: String,
    /// How near it is to the question: what is above 0.25 is shown to the model as long as there is room.
    score: f64,
}

/// What a call would find.
#[derive(Serialize, ToSchema)]
pub(super) struct FoundList {
    /// The nearest first.
    passages: Vec<FoundPassage>,
}

/// A document's text.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDocument {
    /// Markdown, plain text or CSV, as the end of its name says.
    #[schema(min_length = 1)]
    text: String,
}

/// Where a document is.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it only says how names are written")]
pub(super) struct DocumentPath {
    /// Whose it is.
    #[param(pattern = "^[A-Za-z0-9_-]{1,40}$")]
    agent: String,
    /// Ends in .md, .txt or .csv.
    #[param(pattern = "^[A-Za-z0-9_-]{1,60}\\.(md|txt|csv)$", example = "prices.csv")]
    name: String,
}

fn refused(why: String) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why)
}

/// The documents that agents know.
#[utoipa::path(get, path = "/api/v1/knowledge", tag = "knowledge", params(OfAgent),
    responses((status = 200, description = "The documents", body = DocumentList)))]
pub(super) async fn list(State(shared): State<Shared>, Asked(OfAgent { agent }): Asked<OfAgent>) -> Json<DocumentList> {
    Json(DocumentList { documents: shared.state.knowledge.list(agent.as_deref()) })
}

/// What a caller's question would find in them.
#[utoipa::path(get, path = "/api/v1/knowledge/query", tag = "knowledge", params(Question),
    responses((status = 200, description = "The passages", body = FoundList),
        (status = 422, description = "There is no such agent")))]
pub(super) async fn query(
    State(shared): State<Shared>,
    Asked(Question { agent, question }): Asked<Question>,
) -> Result<Json<FoundList>, Problem> {
    if !(1..=300).contains(&question.chars().count()) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "question: 1 to 300 characters"));
    }
    let found = shared.state.knowledge.query(&agent, &question).await.map_err(refused)?;
    let passages = found.into_iter().map(|(passage, score)| FoundPassage {
        name: passage.name,
        text: passage.text,
        score: (f64::from(score) * 1000.0).round() / 1000.0,
    });
    Ok(Json(FoundList { passages: passages.collect() }))
}

/// Adds a document to what an agent knows, or replaces one that was added.
#[utoipa::path(put, path = "/api/v1/knowledge/{agent}/{name}", tag = "knowledge", params(DocumentPath),
    request_body = NewDocument,
    responses((status = 200, description = "It is known", body = DocumentList),
        (status = 422, description = "There is no such agent, or this is no document")))]
pub(super) async fn put(
    State(shared): State<Shared>,
    Path((agent, name)): Path<(String, String)>,
    Brought(NewDocument { text }): Brought<NewDocument>,
) -> Result<Json<DocumentList>, Problem> {
    let knowledge = shared.state.knowledge.clone();
    on_disk(move || knowledge.put(&agent, &name, &text).map(|()| knowledge.list(Some(&agent))))
        .await
        .map(|documents| Json(DocumentList { documents }))
}

/// Takes a document away that was added.
#[utoipa::path(delete, path = "/api/v1/knowledge/{agent}/{name}", tag = "knowledge", params(DocumentPath),
    responses((status = 200, description = "It is gone", body = Removed), (status = 404, description = "There is none"),
        (status = 422, description = "There is no such agent, or the document is in its own folder")))]
pub(super) async fn remove(
    State(shared): State<Shared>,
    Path((agent, name)): Path<(String, String)>,
) -> Result<Json<Removed>, Problem> {
    let knowledge = shared.state.knowledge.clone();
    let missing = format!("{agent} knows no {name} that was added");
    match on_disk(move || knowledge.remove(&agent, &name)).await? {
        true => Ok(Json(Removed { removed: 1 })),
        false => Err(Problem::new(StatusCode::NOT_FOUND, missing)),
    }
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?.map_err(refused)
}
