//! What is kept of a call. Plain values; callers' numbers and words stay wrapped.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Timestamp;
use crate::base::{CallId, Pii, TurnId};

/// Something to keep. A record replaces the one that was written before for the same call, or the same turn.
#[derive(Clone, PartialEq, Debug)]
pub enum Record {
    /// A call: when it is answered or refused by its agent, and again when it has ended.
    Call(Box<CallRecord>),
    /// A turn: when the agent's audio ends, or the caller interrupts it.
    Turn(Box<TurnRecord>),
}

/// Who called whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// A caller called the box.
    Inbound,
    /// The box called someone.
    Outbound,
}

/// A call.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CallRecord {
    /// Its id.
    pub id: CallId,
    /// Name of the agent.
    pub agent: String,
    /// Who called whom.
    pub direction: Direction,
    /// The caller, as a SIP user or URI.
    pub from: Pii<String>,
    /// The callee.
    pub to: Pii<String>,
    /// RTP encoding name; empty before there is one.
    pub codec: String,
    /// The INVITE.
    pub started: Timestamp,
    /// The 200 OK.
    pub answered: Option<Timestamp>,
    /// The BYE, or whatever ended it.
    pub ended: Option<Timestamp>,
    /// Why it ended, in one word or a few: `caller_hangup`, `agent_goodbye`, `media_timeout`, …
    pub end_reason: Option<String>,
    /// Turns without the greeting.
    pub turns: u32,
    /// Its audio on the network.
    pub media: MediaStats,
}

/// Audio of a call on the network, over its whole length.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct MediaStats {
    /// RTP packets received.
    pub packets_in: u64,
    /// RTP packets that never came (RFC 3550 appendix A.3).
    pub packets_lost: u64,
    /// RTP packets that came too late to be played.
    pub packets_late: u64,
    /// RTP packets sent.
    pub packets_out: u64,
    /// Interarrival jitter at the end, in microseconds (RFC 3550 appendix A.8).
    pub jitter_us: u32,
}

/// One exchange of a call; turn 0 is the greeting.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TurnRecord {
    /// Its call.
    pub call: CallId,
    /// Which turn.
    pub turn: TurnId,
    /// The caller's last voiced sample; of the greeting: the answer.
    pub started: Timestamp,
    /// What the ears understood.
    pub caller_text: Pii<String>,
    /// What the mind answered.
    pub agent_text: Pii<String>,
    /// What of that was played.
    pub heard_text: Pii<String>,
    /// Whether the caller cut it short.
    pub interrupted: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// How many of them were not computed again.
    pub cached_tokens: u32,
    /// Tokens of the answer.
    pub answer_tokens: u32,
    /// Where the time went, in microseconds; absent: not passed.
    pub timings_us: BTreeMap<Timing, u64>,
}

impl TurnRecord {
    /// Notes how long a stage took.
    pub fn took(&mut self, timing: Timing, took: Duration) {
        self.timings_us.insert(timing, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

/// A part of the time of a turn. The parts from [`Timing::Pause`] to [`Timing::Playout`] follow one another and are
/// [`Timing::VoiceToVoice`] together; work begins before the turn has ended, so [`Timing::Endpoint`] spans several.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Timing {
    /// From the last voiced window to the pause at which work begins.
    Pause,
    /// From there to the words.
    Stt,
    /// Looking for a known answer.
    Cache,
    /// From the words to the first token of the answer; waiting for the mind included.
    Prefill,
    /// From there to the first clause.
    FirstClause,
    /// From there to its first frame of audio.
    TtsFirst,
    /// From there to the decision that the turn has ended, if that comes later.
    Hold,
    /// From there to the first packet.
    Playout,
    /// The part of [`Timing::Prefill`] that waited for other calls.
    LlmQueue,
    /// From the last voiced window to the decision that the turn has ended.
    Endpoint,
    /// The whole: from the last voiced window of the caller to the first packet of the agent.
    VoiceToVoice,
}

impl Timing {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::Pause,
        Self::Stt,
        Self::Cache,
        Self::Prefill,
        Self::FirstClause,
        Self::TtsFirst,
        Self::Hold,
        Self::Playout,
        Self::LlmQueue,
        Self::Endpoint,
        Self::VoiceToVoice,
    ];

    /// Its name in the database and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Stt => "stt",
            Self::Cache => "cache",
            Self::Prefill => "prefill",
            Self::FirstClause => "first_clause",
            Self::TtsFirst => "tts_first",
            Self::Hold => "hold",
            Self::Playout => "playout",
            Self::LlmQueue => "llm_queue",
            Self::Endpoint => "endpoint",
            Self::VoiceToVoice => "voice_to_voice",
        }
    }
}
