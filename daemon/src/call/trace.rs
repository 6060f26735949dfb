//! From what is known of a call and its turns to the spans of its trace. Enters: records; leaves: spans, each from and to
//! when it really was, on the clock of its call. Never here: who calls, whom, or what anybody says.

use std::time::Instant;

use crate::base::CallId;
use crate::dialogue::{self, StageTimes};
use crate::storage::{CallRecord, Direction, Timestamp, Timing, TurnRecord};
use crate::telemetry::{Span, SpanId, SpanKind, Value};

/// The stages of a turn. They overlap, because work begins before the caller has finished.
fn stages(times: &StageTimes) -> impl Iterator<Item = (&'static str, Instant, Instant)> {
    [
        ("end of turn", times.end_of_speech, times.endpoint),
        ("speech to text", times.transcribe, times.heard),
        ("known answer", times.recall, times.recalled),
        ("documents", times.retrieve, times.retrieved),
        ("first token", times.think, times.first_token),
        ("first clause", times.first_token, times.first_clause),
        ("first audio", times.first_clause, times.first_audio),
        // Ready before it is known that the caller has finished.
        ("hold", times.first_audio.filter(|ready| times.play.is_some_and(|play| play > *ready)), times.play),
        ("playout", times.play, times.first_played),
        ("speaking", times.first_played, times.finished),
    ]
    .into_iter()
    // What is done again may begin after what it yielded the first time.
    .filter_map(|(name, from, to)| Some((name, from?, to?.max(from?))))
}

/// When the first and the last of it was.
fn bounds(times: &StageTimes) -> Option<(Instant, Instant)> {
    let spans = || stages(times).flat_map(|(_, from, to)| [from, to]).chain(times.finished);
    Some((spans().min()?, spans().max()?))
}

/// The trace of a turn: itself, and its stages. `when`: the calendar time of an instant, counted from the start of the call.
pub(super) fn turn(record: &dialogue::TurnRecord, kept: &TurnRecord, when: impl Fn(Instant) -> Timestamp) -> Vec<Span> {
    let Some((from, to)) = bounds(&record.times) else { return Vec::new() };
    let (call, number) = (record.call, record.turn.0);
    let id = SpanId::part(call, &format!("turn {number}"));
    let part = |id, parent, name, from: Instant, to: Instant| Span {
        call,
        id,
        parent: Some(parent),
        name,
        kind: SpanKind::Internal,
        times_us: (when(from).0, when(to).0),
        attributes: Vec::new(),
        failure: None,
    };
    let mut whole = part(id, SpanId::whole(call), "turn", from, to);
    whole.attributes = vec![
        ("callbox.call.id", call.to_string().into()),
        ("callbox.turn.number", number.into()),
        ("callbox.turn.kind", record.kind.as_str().into()),
        ("callbox.turn.outcome", record.outcome.as_str().into()),
        ("callbox.turn.source", record.source.as_str().into()),
        ("callbox.turn.retries", record.retries.into()),
    ];
    if let Some(us) = kept.timings_us.get(&Timing::VoiceToVoice) {
        let ms = Value::Number(i64::try_from(us / 1000).unwrap_or(i64::MAX));
        whole.attributes.push(("callbox.turn.voice_to_voice_ms", ms));
    }
    if let Some(thought) = record.thought {
        whole.attributes.extend([
            ("gen_ai.usage.input_tokens", thought.prompt_tokens.into()),
            ("callbox.usage.cached_tokens", thought.cached_tokens.into()),
            ("gen_ai.usage.output_tokens", thought.answer_tokens.into()),
        ]);
    }
    if let Some(model) = &kept.model {
        whole.attributes.push(("gen_ai.response.model", model.clone().into()));
    }
    whole.failure.clone_from(&kept.failure);
    let mut spans = vec![whole];
    spans.extend(
        stages(&record.times)
            .map(|(name, from, to)| part(SpanId::part(call, &format!("turn {number}, {name}")), id, name, from, to)),
    );
    spans
}

/// The trace of a call that is over but for its turns: the whole, and what it took to be answered.
pub(super) fn call(record: &CallRecord) -> Vec<Span> {
    let Some(ended) = record.ended else { return Vec::new() };
    let (call, whole) = (record.id, SpanId::whole(record.id));
    let mut attributes: Vec<(&'static str, Value)> = vec![
        ("callbox.call.id", call.to_string().into()),
        ("callbox.agent", record.agent.clone().into()),
        ("callbox.call.direction", record.direction.as_str().into()),
        ("callbox.call.turns", record.turns.into()),
    ];
    if !record.codec.is_empty() {
        attributes.push(("callbox.call.codec", record.codec.clone().into()));
    }
    if let Some(reason) = &record.end_reason {
        attributes.push(("callbox.call.end_reason", reason.clone().into()));
    }
    let kind = match record.direction {
        Direction::Inbound => SpanKind::Server,
        Direction::Outbound => SpanKind::Client,
    };
    let times_us = (record.started.0, ended.0);
    let mut spans =
        vec![Span { call, id: whole, parent: None, name: "call", kind, times_us, attributes, failure: None }];
    if let Some(answered) = record.answered {
        spans.push(setup(call, whole, (record.started, answered)));
    }
    spans
}

/// From the INVITE to the 200.
fn setup(call: CallId, whole: SpanId, (from, to): (Timestamp, Timestamp)) -> Span {
    Span {
        call,
        id: SpanId::part(call, "setup"),
        parent: Some(whole),
        name: "setup",
        kind: SpanKind::Internal,
        times_us: (from.0, to.0),
        attributes: Vec::new(),
        failure: None,
    }
}
