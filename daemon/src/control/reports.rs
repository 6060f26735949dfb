//! `/api/v1/reports/KIND`: what the last so many seconds looked like. No caller is named.

use axum::Json;
use axum::extract::{Path, Query, State, rejection::QueryRejection};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Problem, Shared, calls};
use crate::storage::{ReportKind, Timestamp};

/// Seconds if nothing is asked for, and at most: a day, ten years.
const SPAN_S: (u64, u64) = (86_400, 3650 * 86_400);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Span {
    since_s: Option<u64>,
}

pub(super) async fn report(
    State(shared): State<Shared>,
    Path(kind): Path<String>,
    span: Result<Query<Span>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(span) = span.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let kind = match kind.as_str() {
        "summary" => ReportKind::Summary,
        "calls" => ReportKind::Calls,
        "turns" => ReportKind::Turns,
        "latency" => ReportKind::Latency,
        _ => {
            let known = "there is no such report: ask for summary, calls, turns or latency";
            return Err(Problem::new(StatusCode::NOT_FOUND, known));
        }
    };
    let until = Timestamp::from(shared.state.clock.wall());
    let seconds = span.since_s.unwrap_or(SPAN_S.0).clamp(1, SPAN_S.1);
    let since = Timestamp(until.0.saturating_sub(i64::try_from(seconds * 1_000_000).unwrap_or(i64::MAX)));
    let rows = calls::read(&shared.state.storage, move |storage| storage.report(kind, since, until)).await?;
    Ok(Json(json!({ "since": since, "until": until, "rows": rows })))
}
