//! What is kept of a call. Plain values; callers' numbers and words stay wrapped.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use super::{AuditRecord, Timestamp, TokenRecord};
use crate::base::{CallId, Pii, Source, TurnId};

/// Something to keep. A record replaces the one that was written before for the same call, or the same turn.
#[derive(Clone, PartialEq, Debug)]
pub enum Record {
    /// A call: when it is answered or refused by its agent, and again when it has ended.
    Call(Box<CallRecord>),
    /// A turn: when the agent's audio ends, or the caller interrupts it.
    Turn(Box<TurnRecord>),
    /// Something that befell the box as a whole.
    Event(Box<EventRecord>),
    /// Somebody looks at callers, or has changed something.
    Audit(Box<AuditRecord>),
    /// A part of a recording: when it begins, and when it ends.
    Recording(Box<RecordingRecord>),
    /// A token of the control API; one of the same name that is there already stays.
    Token(Box<TokenRecord>),
    /// The token of this name is worth nothing any more.
    Revoked(String),
}

/// A part of a recording.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RecordingRecord {
    /// Its call.
    pub call: CallId,
    /// Which part, from 1.
    pub part: u32,
    /// Its first frame.
    pub begun: Timestamp,
    /// Whether it has ended; one whose daemon died has not.
    pub ended: bool,
    /// Frames of 20 ms in it.
    pub frames: u64,
    /// Those of them that are silence because they were lost.
    pub lost: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// What its key is called.
    pub key: String,
}

/// Something that befell the box as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct EventRecord {
    /// When.
    pub at: Timestamp,
    /// In one word: `started`, `engine_lost`, …
    pub kind: &'static str,
    /// One sentence, or nothing; never a caller.
    pub detail: String,
}

/// Who called whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// A caller called the box.
    Inbound,
    /// The box called someone.
    Outbound,
}

impl Direction {
    /// Its name in the database and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
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
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
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
#[derive(Clone, PartialEq, Debug, Serialize)]
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
    /// Who has chosen the agent's words; unknown of records of earlier releases.
    #[serde(serialize_with = "flat", flatten)]
    pub source: Option<Source>,
    /// The language model's file, if it has chosen them.
    pub model: Option<String>,
    /// Names of the passages of documents that the model was shown.
    pub knowledge: Vec<String>,
    /// Whether the caller cut it short.
    pub interrupted: bool,
    /// Why the agent spoke: `greeting`, `answer`, …; empty if an earlier release recorded it.
    pub kind: String,
    /// How it ended: `completed`, `interrupted`, `failed`, `abandoned`; empty as above.
    pub outcome: String,
    /// What failed, if something did: `mind internal`.
    pub failure: Option<String>,
    /// Work that was done again because the engine refused or failed.
    pub retries: u32,
    /// Microseconds that transcription computed.
    pub stt_us: u64,
    /// Microseconds that synthesis computed.
    pub tts_us: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// How many of them were not computed again.
    pub cached_tokens: u32,
    /// Tokens of the answer.
    pub answer_tokens: u32,
    /// Where the time went, in microseconds; absent: not passed.
    pub timings_us: BTreeMap<Timing, u64>,
}

/// As `source`, and for a known answer its `entry` and `score`.
fn flat<S: Serializer>(source: &Option<Source>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("source", &source.map(Source::as_str))?;
    if let Some(Source::Known(known)) = source {
        map.serialize_entry("entry", &known.entry)?;
        map.serialize_entry("score", &((f64::from(known.score) * 1000.0).round() / 1000.0))?;
    }
    map.end()
}

impl TurnRecord {
    /// One of which nothing is known but when it was.
    #[must_use]
    pub fn new(call: CallId, turn: TurnId, started: Timestamp) -> Self {
        Self {
            call,
            turn,
            started,
            caller_text: Pii::default(),
            agent_text: Pii::default(),
            heard_text: Pii::default(),
            source: None,
            model: None,
            knowledge: Vec::new(),
            interrupted: false,
            kind: String::new(),
            outcome: String::new(),
            failure: None,
            retries: 0,
            stt_us: 0,
            tts_us: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
            answer_tokens: 0,
            timings_us: BTreeMap::new(),
        }
    }

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
    /// From the words to what the agent's documents say of them, if it has any.
    Knowledge,
    /// From there to the first token of the answer; waiting for the mind included.
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
    pub const ALL: [Self; 12] = [
        Self::Pause,
        Self::Stt,
        Self::Cache,
        Self::Knowledge,
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
            Self::Knowledge => "knowledge",
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
