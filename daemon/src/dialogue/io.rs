//! What the dialogue is told and what it answers.

use std::fmt;
use std::time::Duration;

use callbox_wire::{ChatMessage, ClauseId, Failure, Role, Sampling, Thought, Transcript, TurnId};
use serde::{Deserialize, Serialize};

use super::record::TurnRecord;
use super::transfer::Unreached;
use crate::base::{Known, Passage, Pii};

/// Something that happened. `Debug` prints no words.
#[derive(Clone, PartialEq)]
pub enum Input {
    /// The call is answered and media flows.
    Answered,
    /// The ears' opinion of one window of 32 ms.
    Activity {
        /// Sample of the listening stream (16 kHz) at which the window ends.
        at: u64,
        /// Probability of speech, 0 to 1.
        speech: f32,
    },
    /// Answers [`Action::Transcribe`].
    Heard {
        /// The turn.
        turn: TurnId,
        /// The words.
        transcript: Transcript,
    },
    /// The next piece of the answer to [`Action::Think`].
    Token {
        /// The turn.
        turn: TurnId,
        /// Whole characters.
        text: String,
    },
    /// The answer to [`Action::Think`] is complete.
    Thought {
        /// The turn.
        turn: TurnId,
        /// What it cost.
        thought: Thought,
    },
    /// One frame of a clause arrived; the samples stay with the room `call`.
    Audio {
        /// The turn.
        turn: TurnId,
        /// The clause.
        clause: ClauseId,
    },
    /// A clause is complete.
    Spoken {
        /// The turn.
        turn: TurnId,
        /// The clause.
        clause: ClauseId,
        /// How many frames it has.
        frames: u32,
        /// Microseconds of computing.
        compute_us: u64,
    },
    /// What was really sent to the caller.
    Played {
        /// The turn.
        turn: TurnId,
        /// The clause.
        clause: ClauseId,
        /// Frames of that clause sent so far, all together.
        frames: u32,
    },
    /// The playout has sent all that it was given. Comes after the [`Input::Played`] of its last frame; never for what
    /// was flushed, and never for an emptiness older than the last thing given to it.
    PlayoutDrained,
    /// The caller pressed a key: `0`-`9`, `*`, `#`, `A`-`D`. Anything else is ignored.
    Dtmf(char),
    /// A piece of work of a turn failed.
    Failed {
        /// The turn.
        turn: TurnId,
        /// Which role failed.
        role: Role,
        /// Whose fault.
        failure: Failure,
    },
    /// The engine is gone, and with it the listening stream and all work.
    EngineLost,
    /// What the caller has said since [`super::Dialogue::unheard_from`] will be heard by the next engine: nothing of it
    /// need be asked for. Comes before [`Input::EngineReady`].
    Recorded,
    /// An engine has taken over; its listening stream begins at sample 0.
    EngineReady,
    /// The caller has put the agent on hold, or is back. Meanwhile nobody listens, and what is heard is music.
    Hold(bool),
    /// [`Action::Transfer`] came to nothing: the caller is back.
    Unreached(Unreached),
    /// The daemon is going to stop: end the call politely.
    Drain,
    /// Answers [`Action::Recall`]: what is known, clause by clause. If nothing is known, nobody need say so. The turn goes
    /// on under a new name then.
    Recalled {
        /// The turn.
        turn: TurnId,
        /// What to say, and where it comes from.
        answer: Option<(Vec<String>, Known)>,
    },
    /// Answers [`Action::Retrieve`], always.
    Retrieved {
        /// The turn.
        turn: TurnId,
        /// Passages, the nearest first; none if the agent has no documents.
        found: Option<Vec<Passage>>,
    },
    /// The call is over, whoever ended it.
    HungUp,
    /// [`super::Dialogue::deadline`] has come.
    Tick,
}

/// Something to do, at once and in this order. `Debug` prints no words.
#[derive(Clone, PartialEq)]
pub enum Action {
    /// Turn a span of the listening stream into words.
    Transcribe {
        /// The turn.
        turn: TurnId,
        /// First sample.
        from: u64,
        /// One past the last sample; has been heard already.
        to: u64,
    },
    /// Continue the conversation.
    Think {
        /// The turn.
        turn: TurnId,
        /// The whole conversation.
        messages: Vec<ChatMessage>,
        /// How to answer.
        sampling: Sampling,
    },
    /// Look whether the answer is known. The dialogue does not wait for that: it asks to [`Action::Think`], too, and takes
    /// what comes first.
    Recall {
        /// The turn.
        turn: TurnId,
        /// What the caller said.
        words: Pii<String>,
        /// The agent has asked something last.
        asked: bool,
    },
    /// Look what the agent's documents say of a question; [`Action::Think`] waits for that.
    Retrieve {
        /// The turn.
        turn: TurnId,
        /// What it is about.
        question: Pii<String>,
    },
    /// Turn a clause into audio, and hold that back until [`Action::Play`].
    Speak {
        /// The turn.
        turn: TurnId,
        /// The clause.
        clause: ClauseId,
        /// Plain text.
        text: String,
    },
    /// The audio of this turn goes to the playout: what is held first, then whatever arrives.
    Play {
        /// The turn.
        turn: TurnId,
    },
    /// Append ready-made audio to the playout; needs no engine.
    PlayStored(StoredPhrase),
    /// End all work of a turn in the engine and drop its audio that is held. Every turn that was begun ends with this
    /// or with its [`Action::Record`].
    Cancel {
        /// The turn.
        turn: TurnId,
    },
    /// Empty the playout: nothing more of what was given to it is sent.
    Flush,
    /// Hand the caller over to one of the agent's transfers. [`Input::Unreached`] brings them back; if it succeeds, the
    /// call ends without another word.
    Transfer {
        /// Which.
        name: String,
    },
    /// End the call. Nothing follows.
    Hangup(HangupReason),
    /// A turn is over; to be stored.
    Record(Box<TurnRecord>),
    /// For who watches the call live.
    Mark(Mark),
}

/// Audio that was rendered ahead of time from the agent's file, see [`super::Agent::stored`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StoredPhrase {
    /// Something went wrong.
    Apology,
    /// The answer will take a little longer.
    OneMoment,
    /// The end of a call that has no engine.
    Goodbye,
}

impl StoredPhrase {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Apology, Self::OneMoment, Self::Goodbye];
}

/// Why the agent ended the call.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum HangupReason {
    /// The caller said goodbye.
    Farewell,
    /// The caller said nothing, in spite of every prompt.
    Silence,
    /// The longest duration was reached.
    MaxDuration,
    /// The daemon is going to stop.
    Drain,
    /// The engine did not come back.
    EngineLost,
}

impl HangupReason {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Farewell, Self::Silence, Self::MaxDuration, Self::Drain, Self::EngineLost];

    /// A word for records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Farewell => "farewell",
            Self::Silence => "silence",
            Self::MaxDuration => "max_duration",
            Self::Drain => "drain",
            Self::EngineLost => "engine_lost",
        }
    }
}

/// What a live display shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mark {
    /// The caller began to speak, or went on after a pause.
    CallerSpeaks,
    /// A pause long enough to begin work on an answer.
    CallerPaused {
        /// The attempt.
        turn: TurnId,
    },
    /// The words of the attempt.
    CallerSaid {
        /// The turn.
        turn: TurnId,
        /// The words.
        text: Pii<String>,
    },
    /// The caller went on: the attempt is cancelled.
    Revoked {
        /// The attempt.
        turn: TurnId,
    },
    /// It is the agent's turn.
    EndOfTurn {
        /// The turn.
        turn: TurnId,
        /// From the caller's last voiced window to this decision.
        quiet: Duration,
    },
    /// A clause of the answer.
    AgentSays {
        /// The turn.
        turn: TurnId,
        /// The clause.
        clause: ClauseId,
        /// The words.
        text: Pii<String>,
    },
    /// The caller interrupted the agent.
    Interrupted {
        /// The turn.
        turn: TurnId,
    },
    /// The agent has finished and listens.
    Listening,
}

// What is said must not reach a log line through a careless `?input`: only names, turns and plain numbers are printed.

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered => f.write_str("Answered"),
            Self::Activity { at, speech } => write!(f, "Activity({at}, {speech})"),
            Self::Heard { turn, .. } => write!(f, "Heard({turn})"),
            Self::Token { turn, .. } => write!(f, "Token({turn})"),
            Self::Thought { turn, .. } => write!(f, "Thought({turn})"),
            Self::Audio { turn, clause } => write!(f, "Audio({turn}, {})", clause.0),
            Self::Spoken { turn, clause, frames, .. } => write!(f, "Spoken({turn}, {}, {frames})", clause.0),
            Self::Played { turn, clause, frames } => write!(f, "Played({turn}, {}, {frames})", clause.0),
            Self::PlayoutDrained => f.write_str("PlayoutDrained"),
            Self::Dtmf(_) => f.write_str("Dtmf"),
            Self::Failed { turn, role, failure } => write!(f, "Failed({turn}, {role:?}, {failure:?})"),
            Self::EngineLost => f.write_str("EngineLost"),
            Self::Recorded => f.write_str("Recorded"),
            Self::EngineReady => f.write_str("EngineReady"),
            Self::Hold(held) => write!(f, "Hold({held})"),
            Self::Unreached(why) => write!(f, "Unreached({why:?})"),
            Self::Retrieved { turn, found } => {
                write!(f, "Retrieved({turn}, {:?})", found.as_ref().map(Vec::len))
            }
            Self::Recalled { turn, answer } => write!(f, "Recalled({turn}, {})", answer.is_some()),
            Self::Drain => f.write_str("Drain"),
            Self::HungUp => f.write_str("HungUp"),
            Self::Tick => f.write_str("Tick"),
        }
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transcribe { turn, from, to } => write!(f, "Transcribe({turn}, {from}..{to})"),
            Self::Think { turn, .. } => write!(f, "Think({turn})"),
            Self::Retrieve { turn, .. } => write!(f, "Retrieve({turn})"),
            Self::Recall { turn, .. } => write!(f, "Recall({turn})"),
            Self::Speak { turn, clause, .. } => write!(f, "Speak({turn}, {})", clause.0),
            Self::Play { turn } => write!(f, "Play({turn})"),
            Self::PlayStored(phrase) => write!(f, "PlayStored({phrase:?})"),
            Self::Cancel { turn } => write!(f, "Cancel({turn})"),
            Self::Flush => f.write_str("Flush"),
            Self::Transfer { name } => write!(f, "Transfer({name})"),
            Self::Hangup(reason) => write!(f, "Hangup({reason:?})"),
            Self::Record(record) => write!(f, "Record({}, {:?}, {:?})", record.turn, record.kind, record.outcome),
            Self::Mark(mark) => write!(f, "Mark({mark:?})"),
        }
    }
}
