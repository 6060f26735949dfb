//! What is known about a turn when it is over.

use std::ops::Range;
use std::time::{Duration, Instant};

use callbox_wire::{CallId, Failure, Role, Thought, TurnId};
use serde::{Deserialize, Serialize};

use crate::base::{Pii, Source};

/// Why the agent spoke.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum TurnKind {
    /// It greeted.
    Greeting,
    /// It answered the caller.
    Answer,
    /// It asked whether somebody is there.
    SilencePrompt,
    /// It had heard a voice but no words, twice.
    NotUnderstood,
    /// It lost what was said and asked for it again.
    Repeat,
    /// It announced that it hands the caller over.
    Transfer,
    /// It said that nobody was reached.
    Unreached,
    /// It said what an operator wanted.
    Operator,
    /// It said goodbye.
    Goodbye,
}

impl TurnKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Greeting,
        Self::Answer,
        Self::SilencePrompt,
        Self::NotUnderstood,
        Self::Repeat,
        Self::Transfer,
        Self::Unreached,
        Self::Operator,
        Self::Goodbye,
    ];

    /// A word for records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Answer => "answer",
            Self::SilencePrompt => "silence_prompt",
            Self::NotUnderstood => "not_understood",
            Self::Repeat => "repeat",
            Self::Transfer => "transfer",
            Self::Unreached => "unreached",
            Self::Operator => "operator",
            Self::Goodbye => "goodbye",
        }
    }
}

/// How a turn ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// The caller heard all of it.
    Completed,
    /// The caller spoke (or pressed a key) over it.
    Interrupted,
    /// The engine failed.
    Failed,
    /// The call ended first.
    Abandoned,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Completed, Self::Interrupted, Self::Failed, Self::Abandoned];

    /// A word for records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}

/// A part of the time between the caller's last sound and the agent's first; the label `stage` of the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// Last voiced sample → decision that the turn has ended.
    Endpoint,
    /// Transcription asked for → words.
    Stt,
    /// Known answers asked → what they say.
    Cache,
    /// Documents asked → what they say.
    Knowledge,
    /// Answer asked for → first clause complete.
    Llm,
    /// First clause asked for → its first frame.
    Tts,
    /// Allowed to play → first frame sent.
    Playout,
}

impl Stage {
    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Stt => "stt",
            Self::Cache => "cache",
            Self::Knowledge => "knowledge",
            Self::Llm => "llm",
            Self::Tts => "tts",
            Self::Playout => "playout",
        }
    }
}

/// When the stages of a turn were reached. Stages overlap, because work begins before the turn has ended.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StageTimes {
    /// The caller's last voiced window arrived.
    pub end_of_speech: Option<Instant>,
    /// It was decided that the turn has ended.
    pub endpoint: Option<Instant>,
    /// Transcription was asked for.
    pub transcribe: Option<Instant>,
    /// The words came.
    pub heard: Option<Instant>,
    /// Whether the answer is known was asked.
    pub recall: Option<Instant>,
    /// The answer to that came.
    pub recalled: Option<Instant>,
    /// The documents were asked, if the agent has any.
    pub retrieve: Option<Instant>,
    /// What they say came.
    pub retrieved: Option<Instant>,
    /// The answer was asked for; not if it was known.
    pub think: Option<Instant>,
    /// The first token came.
    pub first_token: Option<Instant>,
    /// The first clause was complete and synthesis was asked for.
    pub first_clause: Option<Instant>,
    /// The first frame of audio came.
    pub first_audio: Option<Instant>,
    /// The audio was allowed to play.
    pub play: Option<Instant>,
    /// The first frame was reported as sent.
    pub first_played: Option<Instant>,
    /// The turn was over.
    pub finished: Option<Instant>,
}

impl StageTimes {
    /// How long each stage took, of those that happened.
    pub fn stages(&self) -> impl Iterator<Item = (Stage, Duration)> {
        [
            (Stage::Endpoint, self.end_of_speech, self.endpoint),
            (Stage::Stt, self.transcribe, self.heard),
            (Stage::Cache, self.recall, self.recalled),
            (Stage::Knowledge, self.retrieve.filter(|_| self.think.is_some()), self.retrieved),
            (Stage::Llm, self.think, self.first_clause),
            (Stage::Tts, self.first_clause, self.first_audio),
            (Stage::Playout, self.play, self.first_played),
        ]
        .into_iter()
        .filter_map(|(stage, from, to)| Some((stage, to?.saturating_duration_since(from?))))
    }

    /// From the caller's last voiced window to the first frame sent, as seen inside the daemon.
    #[must_use]
    pub fn response(&self) -> Option<Duration> {
        Some(self.first_played?.saturating_duration_since(self.end_of_speech?))
    }

    /// The part of [`StageTimes::response`] after the decision that the turn has ended.
    #[must_use]
    pub fn after_endpoint(&self) -> Option<Duration> {
        Some(self.first_played?.saturating_duration_since(self.endpoint?))
    }
}

/// One turn, complete.
#[derive(Clone, PartialEq, Debug)]
pub struct TurnRecord {
    /// The call.
    pub call: CallId,
    /// The turn.
    pub turn: TurnId,
    /// Why the agent spoke.
    pub kind: TurnKind,
    /// How it ended.
    pub outcome: Outcome,
    /// What failed, if something did.
    pub failure: Option<(Role, Failure)>,
    /// What the caller said, if this answers something.
    pub caller: Option<Pii<String>>,
    /// All that was generated.
    pub generated: Pii<String>,
    /// Who has chosen these words.
    pub source: Source,
    /// Names of the passages that the model was shown.
    pub knowledge: Vec<String>,
    /// Nothing was said before that could matter to the answer.
    pub alone: bool,
    /// The part of it that the caller heard.
    pub heard: Pii<String>,
    /// Where the caller's words lie in the listening stream (samples at 16 kHz).
    pub span: Option<Range<u64>>,
    /// When what happened.
    pub times: StageTimes,
    /// How often work for this answer was begun: 1, and one for each time that the caller went on.
    pub attempts: u32,
    /// How often work was repeated because the engine refused or failed.
    pub retries: u32,
    /// Microseconds that transcription computed.
    pub stt_compute_us: u64,
    /// What the answer cost, if the model finished it.
    pub thought: Option<Thought>,
    /// Microseconds that synthesis computed.
    pub tts_compute_us: u64,
    /// Frames of 20 ms that the caller was sent.
    pub frames_played: u32,
}
