//! What the last self-test call said. Enters: its result, from whoever made it; leaves: a part of health and a metric, for
//! as long as it is believed. Never here: the admission of calls: a test that fails turns nobody away.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::Brought;
use super::{Problem, Shared, Status};
use crate::base::Clock;

/// Longest time that a result may be believed: a day.
const LONGEST_S: u64 = 86_400;

/// Longest reason, in characters.
const REASON: usize = 500;

/// What came of a self-test call.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tested {
    /// Whether the box took the call, understood the question and answered it.
    passed: bool,
    /// Why not.
    #[serde(default)]
    #[schema(max_length = 500)]
    why: Option<String>,
    /// From the last word of the question to the first of the answer.
    #[serde(default)]
    voice_to_voice_ms: Option<u32>,
    /// How long this is believed.
    #[schema(minimum = 1, maximum = 86400)]
    good_for_s: u64,
}

/// That it was taken.
#[derive(Serialize, ToSchema)]
pub(super) struct Taken {
    /// So long it counts.
    good_for_s: u64,
}

/// The last result; cheap to clone.
#[derive(Clone)]
pub(super) struct SelfTests {
    last: Arc<Mutex<Option<(Instant, Tested)>>>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for SelfTests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SelfTests")
    }
}

impl SelfTests {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { last: Arc::default(), clock }
    }

    fn keep(&self, tested: Tested) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((self.clock.now(), tested));
    }

    /// The last result and its age, if it is not too old.
    fn believed(&self) -> Option<(Duration, Tested)> {
        let (at, tested) = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let age = self.clock.now().saturating_duration_since(at);
        (age < Duration::from_secs(tested.good_for_s)).then_some((age, tested))
    }

    /// Whether the box has answered itself; nothing if nobody has tried for too long.
    pub(super) fn status(&self) -> Option<Status> {
        let (age, tested) = self.believed()?;
        if tested.passed {
            return Some(Ok(()));
        }
        let why = tested.why.as_deref().unwrap_or("nobody has said why");
        Some(Err(format!("the self-test call of {} s ago failed: {why}", age.as_secs()).into()))
    }
}

impl Collector for SelfTests {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some((_, tested)) = self.believed() else { return Ok(()) };
        let help = "Whether the last self-test call was answered";
        let passed = ConstGauge::new(i64::from(tested.passed));
        passed.encode(encoder.encode_descriptor("selftest_passed", help, None, MetricType::Gauge)?)?;
        if let Some(ms) = tested.voice_to_voice_ms {
            let help = "From the question to the answer of the last self-test call";
            let (name, unit) = ("selftest_voice_to_voice", Some(&Unit::Seconds));
            let took = ConstGauge::new(f64::from(ms) / 1000.0);
            took.encode(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

/// Tells what came of a self-test call. While it is believed, one that failed makes the box not ready; calls are answered all
/// the same.
#[utoipa::path(post, path = "/api/v1/selftest", tag = "health", request_body = Tested,
    responses((status = 200, description = "It is believed from now on", body = Taken),
        (status = 422, description = "It makes no sense")))]
pub(super) async fn report(
    State(shared): State<Shared>,
    Brought(tested): Brought<Tested>,
) -> Result<Json<Taken>, Problem> {
    let good_for_s = tested.good_for_s;
    if !(1..=LONGEST_S).contains(&good_for_s) {
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("good_for_s: 1 to {LONGEST_S}")));
    }
    if tested.why.as_ref().is_some_and(|why| why.chars().count() > REASON || why.chars().any(char::is_control)) {
        let wrong = format!("why: at most {REASON} characters, in one line");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, wrong));
    }
    if !tested.passed {
        tracing::warn!("a self-test call failed; `callbox health` says why");
    }
    shared.selftests.keep(tested);
    Ok(Json(Taken { good_for_s }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ManualClock;

    fn tested(passed: bool) -> Tested {
        Tested { passed, why: (!passed).then(|| "no answer".to_owned()), voice_to_voice_ms: None, good_for_s: 180 }
    }

    #[test]
    fn a_result_counts_for_as_long_as_it_is_good_and_the_next_replaces_it() {
        let clock = Arc::new(ManualClock::default());
        let tests = SelfTests::new(Arc::clone(&clock) as Arc<dyn Clock>);
        assert_eq!(tests.status(), None, "nobody has tried");
        tests.keep(tested(false));
        clock.advance(Duration::from_secs(179));
        let why = "the self-test call of 179 s ago failed: no answer";
        assert_eq!(tests.status(), Some(Err(why.into())));
        tests.keep(tested(true));
        assert_eq!(tests.status(), Some(Ok(())));
        clock.advance(Duration::from_secs(180));
        assert_eq!(tests.status(), None, "neither good nor bad is believed for ever");
    }
}
