//! Every path of the API, with who may use it. A new path goes into the group of those who may: it is then guarded,
//! audited and documented without another word.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::openapi::{Base, complete};
use super::who::Need;
use super::{
    Problem, Shared, adapters, again, cache, calls, console, counts, guard, health, inventory, knowledge, openapi,
    orders, privacy, recordings, reports, selftest, stream, tokens, trace,
};
use crate::storage::Scope;

type Paths = OpenApiRouter<Shared>;

/// For everybody who reaches the listener.
fn open() -> Paths {
    OpenApiRouter::new()
        .routes(routes!(health::summary))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::startup))
        .routes(routes!(metrics))
        .routes(routes!(openapi::document))
}

/// For who looks.
fn viewing() -> Paths {
    OpenApiRouter::new()
        .routes(routes!(calls::list))
        .routes(routes!(calls::one))
        .routes(routes!(trace::trace))
        .routes(routes!(recordings::audio))
        .routes(routes!(recordings::list))
        .routes(routes!(cache::list))
        .routes(routes!(cache::stats))
        .routes(routes!(cache::one))
        .routes(routes!(knowledge::list))
        .routes(routes!(knowledge::query))
        .routes(routes!(adapters::list))
        .routes(routes!(stream::all))
        .routes(routes!(stream::of_call))
        .routes(routes!(reports::report))
        .routes(routes!(orders::drain_status))
        .routes(routes!(orders::log_level))
        .routes(routes!(inventory::agents))
        .routes(routes!(inventory::agent))
        .routes(routes!(inventory::models))
}

/// For who acts on calls.
fn operating() -> Paths {
    OpenApiRouter::new()
        .routes(routes!(orders::call))
        .routes(routes!(calls::hang_up))
        .routes(routes!(calls::say))
        .routes(routes!(calls::transfer))
        .routes(routes!(trace::capture))
        .routes(routes!(orders::drain, orders::resume))
}

/// For who changes the daemon.
fn administering() -> Paths {
    OpenApiRouter::new()
        .routes(routes!(orders::reload))
        .routes(routes!(orders::set_log_level))
        .routes(routes!(tokens::audit))
        .routes(routes!(cache::add, cache::purge))
        .routes(routes!(cache::warm))
        .routes(routes!(cache::remove))
        .routes(routes!(knowledge::put, knowledge::remove))
        .routes(routes!(adapters::load, adapters::unload))
}

/// For the control socket.
fn local() -> Paths {
    OpenApiRouter::new()
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(privacy::show))
        .routes(routes!(privacy::erase))
        .routes(routes!(selftest::report))
}

/// Puts the guard before a group, and says so in its document.
fn guarded(mut group: Paths, need: Need, shared: &Shared) -> Paths {
    complete(group.get_openapi_mut(), Some(need));
    group
        .route_layer(from_fn_with_state(shared.clone(), again::once))
        .route_layer(from_fn_with_state((shared.clone(), need), guard::guard))
}

/// All paths, and what is said of them.
pub(super) fn router(shared: Shared) -> Router {
    let mut open = open();
    complete(open.get_openapi_mut(), None);
    let (router, document) = OpenApiRouter::with_openapi(Base::openapi())
        .merge(open)
        .merge(guarded(viewing(), Need::Scope(Scope::Viewer), &shared))
        .merge(guarded(operating(), Need::Scope(Scope::Operator), &shared))
        .merge(guarded(administering(), Need::Scope(Scope::Admin), &shared))
        .merge(guarded(local(), Need::Socket, &shared))
        .split_for_parts();
    let counts = shared.counts.clone();
    let shared = Shared { document: Arc::new(document), ..shared };
    router
        .merge(console::paths())
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path does not take this method: see /api/v1/openapi.json",
            )
        })
        .layer(from_fn(guard::headers))
        .layer(from_fn_with_state(counts, counts::count))
        .with_state(shared)
}

/// Counts, gauges and histograms, as OpenMetrics 1.0.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, description = "The page", content_type = "application/openmetrics-text", body = String)))]
async fn metrics(State(shared): State<Shared>) -> Response {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match shared.state.metrics.encode() {
        Ok(page) => ([(header::CONTENT_TYPE, TEXT)], page).into_response(),
        Err(error) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
