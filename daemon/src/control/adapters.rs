//! `/api/v1/adapters`: adapters of the language model. Enters: requests; leaves: orders to whoever runs the daemon, and cards.
//! Nothing here is a caller's.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::Segment;
use super::orders::busy;
use super::{Order, Problem, Shared};

/// An adapter that is on the disk or loaded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct AdapterCard {
    /// Its name: that of its folder.
    pub name: String,
    /// Its rank.
    pub rank: u32,
    /// The model that it was trained on, as it says itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Of its files; of one whose files are gone, in memory.
    pub bytes: u64,
    /// Whether agents can answer with it.
    pub loaded: bool,
    /// SHA-256 of what is loaded: of `adapter_config.json` and, behind it, `adapter_model.safetensors`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Who answers with it.
    pub agents: Vec<String>,
}

/// Why an adapter was not loaded or forgotten, each with one sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotAdapted {
    /// There is none of that name.
    Missing(String),
    /// It does not fit, or is needed.
    Wrong(String),
    /// There is no engine to do it now.
    NotNow(String),
}

/// What there is.
#[derive(Serialize, ToSchema)]
pub(super) struct AdapterList {
    /// By name.
    adapters: Vec<AdapterCard>,
}

fn told(done: Option<Result<Vec<AdapterCard>, NotAdapted>>) -> Result<Json<AdapterList>, Problem> {
    match done.ok_or_else(busy)? {
        Ok(adapters) => Ok(Json(AdapterList { adapters })),
        Err(NotAdapted::Missing(why)) => Err(Problem::new(StatusCode::NOT_FOUND, why)),
        Err(NotAdapted::Wrong(why)) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why)),
        Err(NotAdapted::NotNow(why)) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, why)),
    }
}

/// The adapters that are on the disk or loaded.
#[utoipa::path(get, path = "/api/v1/adapters", tag = "adapters",
    responses((status = 200, description = "The adapters", body = AdapterList),
        (status = 422, description = "Their folder cannot be read")))]
pub(super) async fn list(State(shared): State<Shared>) -> Result<Json<AdapterList>, Problem> {
    told(shared.state.orders.give(|done| Order::Adapters { done }).await)
}

/// Loads an adapter as it is on the disk now; one that is loaded is replaced. Comes back when agents can answer with it.
#[utoipa::path(put, path = "/api/v1/adapters/{name}", tag = "adapters",
    params(("name" = String, Path, description = "Its folder, beside the models", pattern = "^[A-Za-z0-9_-]{1,40}$")),
    responses((status = 200, description = "It is loaded", body = AdapterList),
        (status = 422, description = "There is none of that name, or it does not fit the language model")))]
pub(super) async fn load(State(shared): State<Shared>, Segment(name): Segment) -> Result<Json<AdapterList>, Problem> {
    told(shared.state.orders.give(|done| Order::LoadAdapter { name, done }).await)
}

/// Forgets an adapter that no agent names. Answers that are under way with it go on to their end.
#[utoipa::path(delete, path = "/api/v1/adapters/{name}", tag = "adapters",
    params(("name" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9_-]{1,40}$")),
    responses((status = 200, description = "It is forgotten", body = AdapterList),
        (status = 404, description = "It is not loaded"), (status = 422, description = "An agent answers with it")))]
pub(super) async fn unload(State(shared): State<Shared>, Segment(name): Segment) -> Result<Json<AdapterList>, Problem> {
    told(shared.state.orders.give(|done| Order::UnloadAdapter { name, done }).await)
}
