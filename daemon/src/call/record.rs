//! From what the dialogue knows of a turn to what is kept of it. Enters: the dialogue's record; leaves: the storage's,
//! and counts.

use std::time::{Duration, Instant, SystemTime};

use crate::base::{CallId, Clock, NOBODY, Pii, Privacy, SELFTEST, Source};
use crate::dialogue::{self, Agent, Outcome, StageTimes};
use crate::storage::{CallRecord, Direction, Timestamp, Timing, TurnRecord, party};
use crate::telemetry::{CallMetrics, Stage, turn_span};

/// The parts of a turn's time; from [`Timing::Pause`] to [`Timing::Playout`] each begins where the one before ended, and
/// together they are [`Timing::VoiceToVoice`].
fn timings(times: &StageTimes) -> impl Iterator<Item = (Timing, Duration)> {
    [
        (Timing::Pause, times.end_of_speech, times.transcribe),
        (Timing::Stt, times.transcribe, times.heard),
        // Where the mind answers it goes on meanwhile.
        (Timing::Cache, times.recall.filter(|_| times.think.is_none()), times.recalled),
        (Timing::Knowledge, times.retrieve.filter(|_| times.think.is_some()), times.retrieved),
        (Timing::Prefill, times.think, times.first_token),
        (Timing::FirstClause, times.first_token, times.first_clause),
        (Timing::TtsFirst, times.first_clause, times.first_audio),
        (Timing::Hold, times.first_audio, times.play),
        (Timing::Playout, times.play, times.first_played),
        (Timing::Endpoint, times.end_of_speech, times.endpoint),
        (Timing::VoiceToVoice, times.end_of_speech, times.first_played),
    ]
    .into_iter()
    .filter_map(|(timing, from, to)| Some((timing, to?.saturating_duration_since(from?))))
}

/// What is kept of a turn.
/// `model`: the language model that the engine offers.
pub(super) fn turn(
    call: CallId,
    record: &dialogue::TurnRecord,
    model: Option<String>,
    clock: &dyn Clock,
    began: Instant,
) -> TurnRecord {
    let started = record.times.end_of_speech.unwrap_or(began);
    let thought = record.thought;
    let mut kept = TurnRecord {
        call,
        turn: record.turn,
        started: timestamp(clock, started),
        caller_text: record.caller.clone().unwrap_or_else(|| Pii::new(String::new())),
        agent_text: record.generated.clone(),
        heard_text: record.heard.clone(),
        source: Some(record.source),
        model: model.filter(|_| record.source == Source::Mind),
        knowledge: record.knowledge.clone(),
        interrupted: record.outcome == Outcome::Interrupted,
        kind: record.kind.as_str().to_owned(),
        outcome: outcome(record.outcome).to_owned(),
        failure: record.failure.map(|(role, failure)| format!("{role:?} {failure:?}").to_lowercase()),
        retries: record.retries,
        stt_us: record.stt_compute_us,
        tts_us: record.tts_compute_us,
        prompt_tokens: thought.map_or(0, |thought| thought.prompt_tokens),
        cached_tokens: thought.map_or(0, |thought| thought.cached_tokens),
        answer_tokens: thought.map_or(0, |thought| thought.answer_tokens),
        timings_us: Default::default(),
    };
    for (timing, took) in timings(&record.times) {
        kept.took(timing, took);
    }
    if let Some(thought) = thought {
        kept.took(Timing::LlmQueue, Duration::from_micros(thought.queue_us));
    }
    kept
}

const fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::Interrupted => "interrupted",
        Outcome::Failed => "failed",
        Outcome::Abandoned => "abandoned",
    }
}

fn is_of(user: &str, call: &CallRecord) -> bool {
    call.direction == Direction::Inbound && party(call.from.reveal()) == user
}

/// Whether it is counted: the box's own calls say nothing of its callers.
pub(super) fn counts(call: &CallRecord) -> bool {
    !is_of(SELFTEST, call)
}

/// What its agent wants to be kept of a call.
pub(super) fn privacy(call: &CallRecord, agent: Option<&Agent>) -> Privacy {
    if is_of(NOBODY, call) || is_of(SELFTEST, call) {
        return Privacy::OF_NOBODY;
    }
    agent.map(|agent| agent.privacy).unwrap_or_default()
}

/// One line for each turn, for whoever looks into a call: how long it took, and nothing of what was said.
pub(super) fn log(kept: &TurnRecord) {
    turn_span(kept.turn).in_scope(|| {
        tracing::info!(
            interrupted = kept.interrupted,
            voice_to_voice_ms = kept.timings_us.get(&Timing::VoiceToVoice).map(|us| us / 1000),
            "a turn has ended"
        );
    });
}

/// Counts a turn.
pub(super) fn count(record: &dialogue::TurnRecord, metrics: &CallMetrics) {
    for (stage, took) in record.times.stages() {
        let stage = match stage {
            dialogue::Stage::Endpoint => Stage::Endpoint,
            dialogue::Stage::Stt => Stage::Stt,
            dialogue::Stage::Cache => Stage::Cache,
            dialogue::Stage::Knowledge => Stage::Knowledge,
            dialogue::Stage::Llm => Stage::Llm,
            dialogue::Stage::Tts => Stage::Tts,
            dialogue::Stage::Playout => Stage::Playout,
        };
        metrics.stage(stage, took);
    }
    if let Some(took) = record.times.response() {
        metrics.voice_to_voice(took);
    }
}

/// The calendar time of an instant.
pub(super) fn timestamp(clock: &dyn Clock, at: Instant) -> Timestamp {
    let ago = clock.now().saturating_duration_since(at);
    Timestamp::from(clock.wall().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH))
}
