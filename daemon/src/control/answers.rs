//! Calls as the API tells them. Enters: a call that is up, or a record, and who asks; leaves: what they may see of it.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::who::Who;
use super::{LiveCall, LiveState};
use crate::base::{Pii, Source};
use crate::storage::{CallRecord, Direction, MediaStats, Timestamp, Timing, TurnRecord};

/// What is known of where a call is.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum CallState {
    /// The far end has put it on hold.
    Held,
    /// The caller has the floor.
    Listening,
    /// The answer is being made.
    Thinking,
    /// The agent has the floor.
    Speaking,
    /// It is over.
    Ended,
    /// It was cut off with its daemon: nobody knows its end.
    Lost,
}

/// A call.
#[derive(Serialize, ToSchema)]
pub(super) struct CallAnswer {
    /// Sixteen hexadecimal digits, as in log lines.
    #[schema(pattern = "^[0-9a-f]{16}$")]
    id: String,
    state: CallState,
    /// Who speaks with the caller.
    agent: String,
    direction: Direction,
    /// The caller's number or SIP URI; absent where callers are not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// Whom they called; absent where callers are not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// RTP encoding name; empty before there is one.
    codec: String,
    /// The INVITE.
    started: Timestamp,
    /// The 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    answered: Option<Timestamp>,
    /// The BYE, or whatever ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Timestamp>,
    /// Why it ended: `caller_hangup`, `farewell`, `media_timeout`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    end_reason: Option<String>,
    /// Turns without the greeting.
    turns: u32,
    /// Its packets; absent while it is up.
    #[serde(skip_serializing_if = "Option::is_none")]
    media: Option<MediaStats>,
}

fn shown(text: &Pii<String>, who: &Who) -> Option<String> {
    who.callers.then(|| text.reveal().clone())
}

impl CallAnswer {
    pub(super) fn live(call: &LiveCall, who: &Who) -> Self {
        Self {
            id: call.id.to_string(),
            state: match call.state {
                LiveState::Held => CallState::Held,
                LiveState::Listening => CallState::Listening,
                LiveState::Thinking => CallState::Thinking,
                LiveState::Speaking => CallState::Speaking,
            },
            agent: call.agent.clone(),
            direction: call.direction,
            from: shown(&call.from, who),
            to: shown(&call.to, who),
            codec: call.codec.clone(),
            started: call.started,
            answered: None,
            ended: None,
            end_reason: None,
            turns: call.turns,
            media: None,
        }
    }

    /// A stored call that is not up but has no end was cut off with its daemon.
    pub(super) fn stored(call: &CallRecord, who: &Who) -> Self {
        Self {
            id: call.id.to_string(),
            state: if call.ended.is_some() { CallState::Ended } else { CallState::Lost },
            agent: call.agent.clone(),
            direction: call.direction,
            from: shown(&call.from, who),
            to: shown(&call.to, who),
            codec: call.codec.clone(),
            started: call.started,
            answered: call.answered,
            ended: call.ended,
            end_reason: call.end_reason.clone(),
            turns: call.turns,
            media: Some(call.media),
        }
    }
}

/// A page of calls.
#[derive(Serialize, ToSchema)]
pub(super) struct CallPage {
    /// Newest first.
    pub(super) calls: Vec<CallAnswer>,
    /// `before` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
}

/// A call with what was said.
#[derive(Serialize, ToSchema)]
pub(super) struct CallWithExchanges {
    #[serde(flatten)]
    pub(super) call: CallAnswer,
    /// The greeting first; the one in progress is not among them.
    pub(super) exchanges: Vec<Exchange>,
}

/// What a caller said, and what the agent answered.
#[derive(Serialize, ToSchema)]
pub(super) struct Exchange {
    /// 0 is the greeting.
    turn: u32,
    /// The caller's last voiced sample.
    started: Timestamp,
    /// What the ears understood; absent where callers are not shown, as what follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    caller_text: Option<String>,
    /// What the mind answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_text: Option<String>,
    /// What of that was played.
    #[serde(skip_serializing_if = "Option::is_none")]
    heard_text: Option<String>,
    /// Who has chosen the agent's words: `script`, `model`, or of a known answer `faq`, `added`, `learned`; null if an earlier
    /// release recorded it.
    source: Option<&'static str>,
    /// The known answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<u64>,
    /// How alike the questions were, 1: the same words.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    /// File of the language model and the beginning of its SHA-256, if it has chosen them.
    model: Option<String>,
    /// Passages of the agent's documents that it was shown, by document and headings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    knowledge: Vec<String>,
    /// Whether the caller cut it short.
    interrupted: bool,
    /// Why the agent spoke: `greeting`, `answer`, `operator`, …; empty if an earlier release recorded it.
    kind: String,
    /// How it ended: `completed`, `interrupted`, `failed`, `abandoned`; empty as above.
    outcome: String,
    /// What failed: `mind internal`.
    failure: Option<String>,
    /// Work that was done again because the engine refused or failed.
    retries: u32,
    /// Microseconds that transcription computed.
    stt_us: u64,
    /// Microseconds that synthesis computed.
    tts_us: u64,
    prompt_tokens: u32,
    /// Of the prompt, not computed again.
    cached_tokens: u32,
    answer_tokens: u32,
    /// Where the time went, by stage, in microseconds.
    timings_us: BTreeMap<&'static str, u64>,
}

/// By name.
pub(super) fn timings(timings: &BTreeMap<Timing, u64>) -> BTreeMap<&'static str, u64> {
    timings.iter().map(|(timing, took)| (timing.as_str(), *took)).collect()
}

impl Exchange {
    pub(super) fn new(turn: &TurnRecord, who: &Who) -> Self {
        let known = if let Some(Source::Known(known)) = turn.source { Some(known) } else { None };
        Self {
            turn: turn.turn.0,
            started: turn.started,
            caller_text: shown(&turn.caller_text, who),
            agent_text: shown(&turn.agent_text, who),
            heard_text: shown(&turn.heard_text, who),
            source: turn.source.map(Source::as_str),
            entry: known.map(|known| known.entry),
            score: known.map(|known| (f64::from(known.score) * 1000.0).round() / 1000.0),
            model: turn.model.clone(),
            knowledge: turn.knowledge.clone(),
            interrupted: turn.interrupted,
            kind: turn.kind.clone(),
            outcome: turn.outcome.clone(),
            failure: turn.failure.clone(),
            retries: turn.retries,
            stt_us: turn.stt_us,
            tts_us: turn.tts_us,
            prompt_tokens: turn.prompt_tokens,
            cached_tokens: turn.cached_tokens,
            answer_tokens: turn.answer_tokens,
            timings_us: timings(&turn.timings_us),
        }
    }
}
