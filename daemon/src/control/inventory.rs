//! What the box has: agents and models. Enters: cards that `app` fills in; leaves: the same as JSON.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::Segment;
use super::{Problem, Shared};

/// An agent, as its file says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct AgentCard {
    /// Its name.
    pub name: String,
    /// Called numbers that reach it; `*` is any.
    pub numbers: Vec<String>,
    /// The beginning of the model's instructions.
    pub persona: String,
    /// What it knows.
    pub facts: Vec<String>,
    /// Its first words.
    pub greeting: String,
    /// Its last words.
    pub goodbye: String,
    /// Whom it can hand callers over to, by name.
    pub transfers: Vec<String>,
}

/// A model of the pack that is loaded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct ModelCard {
    /// Its name.
    pub name: String,
    /// `vad`, `stt`, `llm` or `voice`.
    pub role: String,
    /// What it is, in a few words.
    pub about: String,
    /// SPDX identifier of the weights' licence.
    pub licence: String,
    /// Of its files, together.
    pub bytes: u64,
    /// `installed`, `missing` or `damaged`.
    pub state: String,
}

/// The pack that is loaded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct PackCard {
    /// Its name.
    pub pack: String,
    /// Of one that was installed from an archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// One for each role.
    pub models: Vec<ModelCard>,
}

/// Reads what models there are; blocks on the disk.
pub type Models = Arc<dyn Fn() -> Result<PackCard, String> + Send + Sync>;

/// All agents.
#[derive(Serialize, ToSchema)]
pub(super) struct AgentList {
    /// By name.
    agents: Vec<AgentCard>,
}

/// The agents that take calls.
#[utoipa::path(get, path = "/api/v1/agents", tag = "box", responses((status = 200, description = "The agents", body = AgentList)))]
pub(super) async fn agents(State(shared): State<Shared>) -> Json<AgentList> {
    let agents = shared.state.agents.borrow().to_vec();
    Json(AgentList { agents })
}

/// One agent.
#[utoipa::path(get, path = "/api/v1/agents/{name}", tag = "box", params(("name" = String, Path, description = "Which")),
    responses((status = 200, description = "The agent", body = AgentCard), (status = 404, description = "There is no such agent")))]
pub(super) async fn agent(State(shared): State<Shared>, Segment(name): Segment) -> Result<Json<AgentCard>, Problem> {
    let found = shared.state.agents.borrow().iter().find(|agent| agent.name == name).cloned();
    found.map(Json).ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "there is no agent of that name"))
}

/// The models of the pack that is configured.
#[utoipa::path(get, path = "/api/v1/models", tag = "box", responses((status = 200, description = "The models", body = PackCard)))]
pub(super) async fn models(State(shared): State<Shared>) -> Result<Json<PackCard>, Problem> {
    let models = Arc::clone(&shared.state.models);
    let unreadable = |why: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why);
    let read = tokio::task::spawn_blocking(move || models()).await;
    read.map_err(|error| unreadable(error.to_string()))?.map_err(unreadable).map(Json)
}
