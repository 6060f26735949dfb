//! What every request passes. Enters: a request; leaves: the same with who asks, or a refusal; and for whatever is not
//! just read, an entry of the audit. Never here: what a path does.

use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::looks::NotedBefore;
use super::who::{Need, Peer, admit};
use super::{Problem, Shared};

/// A browser that has seen the box over TLS asks for nothing else, for a year.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Nothing of an answer is a page, unless it says so.
const POLICY: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// How long the body of a request may take.
pub(super) const BODY: Duration = Duration::from_secs(10);

/// Lets in who may, and notes what was done.
pub(super) async fn guard(State((shared, need)): State<(Shared, Need)>, mut request: Request, next: Next) -> Response {
    let Some(peer) = request.extensions().get::<Peer>().copied() else {
        return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the peer of this connection is not known")
            .into_response();
    };
    let who = match admit(&shared, need, peer, request.headers()).await {
        Ok(who) => who,
        Err(problem) => return problem.into_response(),
    };
    let name = who.name.clone();
    request.extensions_mut().insert(who);
    if request.method().is_safe() {
        return next.run(request).await;
    }
    let pattern = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let action = format!("{} {pattern}", request.method());
    let path = request.uri().path().to_owned();
    // What was begun is carried out and noted, whether or not somebody still waits for the answer.
    let done = tokio::spawn(async move {
        let response = next.run(request).await;
        let made = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        if response.extensions().get::<NotedBefore>().is_none()
            && !shared.state.storage.audit_done(&name, &action, made.unwrap_or(&path), response.status().as_str())
        {
            tracing::warn!(action, "who did this could not be noted, because the database does not keep up");
        }
        response
    });
    // A panic was reported by the hook already.
    done.await.unwrap_or_else(|_| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a bug of callboxd: its log says more").into_response()
    })
}

/// What browsers are told of every answer.
pub(super) async fn headers(request: Request, next: Next) -> Response {
    let sealed = matches!(request.extensions().get::<Peer>(), Some(Peer::Address { sealed: true, .. }));
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(POLICY);
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if sealed {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
    }
    response
}
