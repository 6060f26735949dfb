//! `/health` and its parts.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::Shared;

type Answer = (StatusCode, Json<Value>);

const fn code(well: bool) -> StatusCode {
    if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn word(well: bool) -> &'static str {
    if well { "ready" } else { "not ready" }
}

/// Everything at a glance.
pub(super) async fn summary(State(shared): State<Shared>) -> Answer {
    let state = &shared.state;
    let parts: Map<String, Value> = state
        .readiness
        .statuses()
        .into_iter()
        .map(|(latch, status)| {
            (latch.as_str().into(), status.map_or_else(|why| why.into_owned(), |()| "ready".into()).into())
        })
        .collect();
    let ready = state.readiness.is_ready();
    let uptime = state.clock.now().saturating_duration_since(shared.started).as_secs();
    let body = json!({
        "status": word(ready),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": uptime,
        "parts": parts,
        "calls": state.live.len(),
        "trunks": (state.trunks)(),
        "storage": {
            "fault": state.storage.fault(),
            "records_lost": state.storage.metrics().queue_full() + state.storage.metrics().write_failed(),
        },
    });
    (code(ready), Json(body))
}

/// Whoever reads the answer knows it.
pub(super) async fn live() -> Json<Value> {
    Json(json!({ "status": "live" }))
}

/// May calls come?
pub(super) async fn ready(State(shared): State<Shared>) -> Answer {
    reasons(&shared, shared.state.readiness.is_ready())
}

/// Has the start ended?
pub(super) async fn startup(State(shared): State<Shared>) -> Answer {
    reasons(&shared, shared.state.readiness.was_ready())
}

fn reasons(shared: &Shared, well: bool) -> Answer {
    let waiting: Map<String, Value> = shared
        .state
        .readiness
        .statuses()
        .into_iter()
        .filter_map(|(latch, status)| status.err().map(|why| (latch.as_str().into(), why.into_owned().into())))
        .collect();
    (code(well), Json(json!({ "status": word(well), "waiting_for": waiting })))
}
