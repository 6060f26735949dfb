//! What requests bring, taken apart. Enters: query, body, path; leaves: values, or a problem in one sentence.

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Json, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::Problem;
use crate::base::CallId;

/// The query.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(asked) = Query::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
        Ok(Self(asked))
    }
}

/// The body, as JSON.
pub(super) struct Brought<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Brought<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Json(brought) = Json::from_request(request, state).await.map_err(|error| {
            let status = match &error {
                JsonRejection::MissingJsonContentType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
                _ => StatusCode::BAD_REQUEST,
            };
            Problem::new(status, error.body_text())
        })?;
        Ok(Self(brought))
    }
}

/// Highest number that JSON holds without loss.
const LAST: u64 = 9_007_199_254_740_991;

/// A number that stands for a place in a list.
pub(super) fn place(name: &str, number: Option<u64>) -> Result<Option<u64>, Problem> {
    if number.is_some_and(|number| number > LAST) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("{name}: 0 to {LAST}")));
    }
    Ok(number)
}

/// The `{id}` of a path, for the document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it only says how an id is written")]
pub(super) struct CallPath {
    /// Of a call: as log lines show it.
    #[param(pattern = "^[0-9a-f]{1,16}$", example = "00000000000000ab")]
    id: String,
}

/// The one thing that a path names.
pub(super) struct Segment(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
        Ok(Self(text))
    }
}

/// The call that a path names.
pub(super) struct Named(pub(super) CallId);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Segment(id) = Segment::from_request_parts(parts, state).await?;
        id.parse().map(Self).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("{error}")))
    }
}
