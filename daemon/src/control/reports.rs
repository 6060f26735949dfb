//! `/api/v1/reports/KIND`: what the last so many seconds looked like. No caller is named.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{Asked, Segment};
use super::{Problem, Shared, calls};
use crate::storage::{Report, ReportKind, Timestamp};

/// Seconds if nothing is asked for, and at most: a day, ten years.
const SPAN_S: (u64, u64) = (86_400, 3650 * 86_400);

/// Which calls.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Span {
    /// Those that began in the last so many seconds.
    #[param(minimum = 1, maximum = 315_360_000, default = 86_400)]
    pub(super) since_s: Option<u64>,
}

impl Span {
    /// From when to when: now.
    pub(super) fn of(self, shared: &Shared) -> Result<(Timestamp, Timestamp), Problem> {
        let seconds = self.since_s.unwrap_or(SPAN_S.0);
        if !(1..=SPAN_S.1).contains(&seconds) {
            return Err(Problem::new(StatusCode::BAD_REQUEST, format!("since_s: 1 to {}", SPAN_S.1)));
        }
        let until = Timestamp::from(shared.state.clock.wall());
        Ok((Timestamp(until.0.saturating_sub(i64::try_from(seconds * 1_000_000).unwrap_or(i64::MAX))), until))
    }
}

/// What about.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "it only says what there is")]
pub(super) enum Kind {
    /// All of it in one row.
    Summary,
    /// Calls by the hour, or by the day if that is many.
    Calls,
    /// Turns by agent.
    Turns,
    /// Each part of the time from the caller's last word to the agent's first.
    Latency,
    /// How turns ended.
    Outcomes,
    /// What befell the box.
    Events,
    /// Where answers came from.
    Cache,
}

/// What some time looked like.
#[derive(Serialize, ToSchema)]
pub(super) struct Reported {
    since: Timestamp,
    until: Timestamp,
    /// Rows, whose fields are those of `callbox report --format csv`.
    #[schema(value_type = Vec<Object>)]
    rows: Report,
}

/// What the last hours or days looked like; no caller is named.
#[utoipa::path(get, path = "/api/v1/reports/{kind}", tag = "reports",
    params(("kind" = inline(Kind), Path, description = "What about"), Span),
    responses((status = 200, description = "The report", body = Reported), (status = 404, description = "There is no such report")))]
pub(super) async fn report(
    State(shared): State<Shared>,
    Segment(kind): Segment,
    Asked(span): Asked<Span>,
) -> Result<Json<Reported>, Problem> {
    let (since, until) = span.of(&shared)?;
    let kind = match kind.as_str() {
        "summary" => ReportKind::Summary,
        "calls" => ReportKind::Calls,
        "turns" => ReportKind::Turns,
        "latency" => ReportKind::Latency,
        "outcomes" => ReportKind::Outcomes,
        "events" => ReportKind::Events,
        "cache" => ReportKind::Cache,
        _ => {
            let known = "there is no such report: ask for summary, calls, turns, latency, outcomes, events or cache";
            return Err(Problem::new(StatusCode::NOT_FOUND, known));
        }
    };
    let rows = calls::read(&shared.state.storage, move |storage| storage.report(kind, since, until)).await?;
    Ok(Json(Reported { since, until, rows }))
}
