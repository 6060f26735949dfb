//! `/health` and its parts.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use crate::gpu::Seen;

const fn code(well: bool) -> StatusCode {
    if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

const fn word(well: bool) -> &'static str {
    if well { "ready" } else { "not ready" }
}

/// The part of those that a self-test call speaks for.
const SELFTEST: &str = "selftest";

/// Whether calls are taken, and the box answers its own. Only the first decides whether a call is taken.
fn is_well(shared: &Shared) -> bool {
    shared.state.readiness.is_ready() && !matches!(shared.selftests.status(), Some(Err(_)))
}

/// Everything at a glance.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `ready`, or `not ready`.
    status: &'static str,
    version: &'static str,
    uptime_seconds: u64,
    /// Each part, `ready` or why it is not; `selftest` while the last self-test call is believed.
    parts: BTreeMap<&'static str, String>,
    /// Calls that are up.
    calls: usize,
    /// Each trunk by its name.
    #[schema(value_type = Object)]
    trunks: serde_json::Value,
    storage: Disk,
    /// What computes, where, and for how many calls.
    engines: Vec<EngineCard>,
    /// NVIDIA's driver and its cards.
    gpus: Seen,
}

/// One engine.
#[derive(Serialize, ToSchema)]
pub struct EngineCard {
    /// `cpu`, or `gpu` with the card's number.
    pub name: String,
    /// The UUID of its card; null on the processor.
    pub card: Option<String>,
    /// `ears`, `mind`, `voice`, `embed`.
    pub roles: Vec<&'static str>,
    /// `starting`, `ready` or `lost`.
    pub state: &'static str,
    /// Why it is lost.
    pub why: Option<String>,
    /// Calls that it works for.
    pub calls: usize,
}

/// How the database is.
#[derive(Serialize, ToSchema)]
pub(super) struct Disk {
    /// Why it cannot be written; null if it can.
    fault: Option<String>,
    /// Records that did not get there since the start.
    records_lost: u64,
}

/// Everything at a glance.
#[utoipa::path(get, path = "/health", tag = "health",
    responses((status = 200, description = "Calls are answered", body = Health),
        (status = 503, description = "They are not", body = Health)))]
pub(super) async fn summary(State(shared): State<Shared>) -> (StatusCode, Json<Health>) {
    let state = &shared.state;
    let told = |status: super::Status| status.map_or_else(|why| why.into_owned(), |()| "ready".to_owned());
    let selftest = shared.selftests.status();
    let ready = is_well(&shared);
    let parts = state.readiness.statuses().into_iter().map(|(latch, status)| (latch.as_str(), status));
    let parts = parts.chain(selftest.map(|status| (SELFTEST, status)));
    let health = Health {
        status: word(ready),
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: state.clock.now().saturating_duration_since(shared.started).as_secs(),
        parts: parts.map(|(part, status)| (part, told(status))).collect(),
        calls: state.live.len(),
        trunks: (state.trunks)(),
        storage: Disk {
            fault: state.storage.fault(),
            records_lost: state.storage.metrics().queue_full() + state.storage.metrics().write_failed(),
        },
        engines: (state.engines)(),
        gpus: state.gpus.seen(),
    };
    (code(ready), Json(health))
}

/// That it runs.
#[derive(Serialize, ToSchema)]
pub(super) struct Alive {
    /// `live`.
    status: &'static str,
}

/// Whoever reads the answer knows it.
#[utoipa::path(get, path = "/health/live", tag = "health", responses((status = 200, description = "The process runs", body = Alive)))]
pub(super) async fn live() -> Json<Alive> {
    Json(Alive { status: "live" })
}

/// What is waited for.
#[derive(Serialize, ToSchema)]
pub(super) struct Waiting {
    /// `ready`, or `not ready`.
    status: &'static str,
    /// Each part that is not ready, and why.
    waiting_for: BTreeMap<&'static str, String>,
}

/// May calls come?
#[utoipa::path(get, path = "/health/ready", tag = "health",
    responses((status = 200, description = "Calls are answered", body = Waiting),
        (status = 503, description = "They are not", body = Waiting)))]
pub(super) async fn ready(State(shared): State<Shared>) -> (StatusCode, Json<Waiting>) {
    reasons(&shared, is_well(&shared))
}

/// Has the start ended?
#[utoipa::path(get, path = "/health/startup", tag = "health",
    responses((status = 200, description = "Calls have been answered", body = Waiting),
        (status = 503, description = "Not yet", body = Waiting)))]
pub(super) async fn startup(State(shared): State<Shared>) -> (StatusCode, Json<Waiting>) {
    reasons(&shared, shared.state.readiness.was_ready())
}

fn reasons(shared: &Shared, well: bool) -> (StatusCode, Json<Waiting>) {
    let parts = shared.state.readiness.statuses().into_iter().map(|(latch, status)| (latch.as_str(), status));
    let parts = parts.chain(shared.selftests.status().map(|status| (SELFTEST, status)));
    let waiting_for = parts.filter_map(|(part, status)| Some((part, status.err()?.into_owned()))).collect();
    (code(well), Json(Waiting { status: word(well), waiting_for }))
}
