//! One message type per direction: [`Request`] to the engine, [`Event`] from it.

use serde::{Deserialize, Serialize};

use crate::{CallId, ClauseId, Language, Pcm, TurnId};

/// What an engine can do; an engine offers the roles whose models it was given.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Voice activity and speech to text.
    Ears,
    /// The language model.
    Mind,
    /// Text to speech.
    Voice,
    /// What sentences mean, as vectors.
    Embed,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Ears, Self::Mind, Self::Voice, Self::Embed];
}

/// Who said a message of the conversation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub enum ChatRole {
    /// The agent's instructions and facts.
    System,
    /// The caller.
    User,
    /// The agent.
    Assistant,
}

/// One message of the conversation as the language model sees it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ChatMessage {
    /// Who said it.
    pub role: ChatRole,
    /// What was said; of an interrupted answer, only what was heard.
    pub content: String,
}

/// How the next token is chosen and when an answer must end.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus: the smallest set of tokens whose probability reaches this.
    pub top_p: f32,
    /// Divides (multiplies, if negative) the logits of tokens that the answer already holds; 1 changes nothing.
    pub repeat_penalty: f32,
    /// Same seed, same prompt, same model: same answer.
    pub seed: u64,
    /// The answer is cut after this many tokens.
    pub max_tokens: u32,
    /// Texts at which the answer ends; they are not part of it.
    pub stop: Vec<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, repeat_penalty: 1.0, seed: 0, max_tokens: 128, stop: Vec::new() }
    }
}

/// From the daemon to the engine.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub enum Request {
    /// First message of a connection.
    Hello {
        /// [`crate::VERSION`] of the daemon.
        version: u16,
    },
    /// Asks for a [`Event::Pong`].
    Ping {
        /// Comes back unchanged.
        nonce: u64,
    },
    /// Computes and keeps the prompt prefix of an agent, so that its first caller does not wait for it.
    Prime {
        /// The messages that begin every conversation of that agent.
        messages: Vec<ChatMessage>,
    },
    /// Starts a listening stream for a call; sample 0 is the first sample of the first [`Request::Hear`].
    Listen {
        /// The call.
        call: CallId,
    },
    /// Caller's audio at [`crate::EARS_RATE`]; the engine answers with [`Event::Activity`] and remembers the last 30 s.
    Hear {
        /// The call.
        call: CallId,
        /// Any length; 20 ms on a live call.
        pcm: Pcm,
    },
    /// Turns a span of the listening stream into words.
    Transcribe {
        /// The call.
        call: CallId,
        /// The turn that the words belong to.
        turn: TurnId,
        /// First sample of the span.
        from: u64,
        /// One past the last sample; must have been heard already.
        to: u64,
    },
    /// Continues a conversation.
    Think {
        /// The call.
        call: CallId,
        /// The turn that the answer belongs to.
        turn: TurnId,
        /// The whole conversation; the longest prefix that is still known is not computed again.
        messages: Vec<ChatMessage>,
        /// How to choose tokens, and when to stop.
        sampling: Sampling,
    },
    /// Turns one clause into audio.
    Speak {
        /// The call.
        call: CallId,
        /// The turn that it belongs to.
        turn: TurnId,
        /// Which clause of that turn; clauses of a turn are spoken in the order in which they were asked for.
        clause: ClauseId,
        /// Plain text, as a person would write it.
        text: String,
        /// Sample rate of the wanted audio: 8000 or 16000.
        rate: u32,
        /// How many frames may be sent at once; [`Request::Grant`] adds to it.
        credit: u32,
        /// Which of the voice's speakers says it; without a name the one that it was started with.
        voice: Option<String>,
    },
    /// Allows more audio frames of a turn.
    Grant {
        /// The call.
        call: CallId,
        /// The turn.
        turn: TurnId,
        /// Frames of [`crate::FRAME_MS`].
        frames: u32,
    },
    /// Ends all work of a turn; nothing of it is sent after this was read.
    Cancel {
        /// The call.
        call: CallId,
        /// The turn.
        turn: TurnId,
    },
    /// The call is over: forget its audio, its conversation, its work.
    Forget {
        /// The call.
        call: CallId,
    },
    /// Turns a sentence into a vector; only for an engine that offers [`Role::Embed`].
    Embed {
        /// The call.
        call: CallId,
        /// The turn whose words it is.
        turn: TurnId,
        /// The sentence; a model may read only its beginning.
        text: String,
        /// Whether a caller waits for it.
        urgent: bool,
    },
    /// As [`Request::Prime`], for conversations that an adapter continues.
    PrimeWith {
        /// A loaded adapter, or one that is being loaded.
        adapter: String,
        /// The messages that begin every conversation of that agent.
        messages: Vec<ChatMessage>,
    },
    /// As [`Request::Think`], with an adapter. One that is being loaded is waited for; one that is not there fails the turn.
    ThinkWith {
        /// A loaded adapter, or one that is being loaded.
        adapter: String,
        /// The call.
        call: CallId,
        /// The turn that the answer belongs to.
        turn: TurnId,
        /// The whole conversation.
        messages: Vec<ChatMessage>,
        /// How to choose tokens, and when to stop.
        sampling: Box<Sampling>,
    },
    /// Loads an adapter of the language model, beside those that are there; answered with [`Event::Adapters`]. One of the same
    /// name is replaced: what is being thought with it is thought to its end.
    LoadAdapter {
        /// Whoever asks; no call.
        call: CallId,
        /// Which of their questions it is.
        turn: TurnId,
        /// How later requests call it.
        name: String,
        /// Where its two files are.
        folder: String,
        /// What [`AdapterInfo::sha256`] has to be: otherwise it is refused.
        sha256: String,
    },
    /// Forgets an adapter; answered with [`Event::Adapters`]. What is being thought with it is thought to its end.
    DropAdapter {
        /// Whoever asks; no call.
        call: CallId,
        /// Which of their questions it is.
        turn: TurnId,
        /// Its name.
        name: String,
    },
    /// As [`Request::Transcribe`], of what is said in another language than English. Ears that do not know it fail the turn.
    TranscribeIn {
        /// What is spoken.
        language: Language,
        /// The call.
        call: CallId,
        /// The turn that the words belong to.
        turn: TurnId,
        /// First sample of the span.
        from: u64,
        /// One past the last sample; must have been heard already.
        to: u64,
    },
}

impl Request {
    /// Asks for the words of the samples `from..to`, spoken in that language.
    #[must_use]
    pub fn transcribe(language: Language, call: CallId, turn: TurnId, (from, to): (u64, u64)) -> Self {
        match language {
            Language::ENGLISH => Self::Transcribe { call, turn, from, to },
            language => Self::TranscribeIn { language, call, turn, from, to },
        }
    }

    /// The call that this is about, if it is about one.
    #[must_use]
    pub const fn call(&self) -> Option<CallId> {
        match self {
            Self::Hello { .. } | Self::Ping { .. } | Self::Prime { .. } | Self::PrimeWith { .. } => None,
            Self::Listen { call }
            | Self::Hear { call, .. }
            | Self::Transcribe { call, .. }
            | Self::TranscribeIn { call, .. }
            | Self::Think { call, .. }
            | Self::Speak { call, .. }
            | Self::Grant { call, .. }
            | Self::Cancel { call, .. }
            | Self::Embed { call, .. }
            | Self::ThinkWith { call, .. }
            | Self::LoadAdapter { call, .. }
            | Self::DropAdapter { call, .. }
            | Self::Forget { call } => Some(*call),
        }
    }

    /// The role whose work this is; none of what concerns every role, or the connection.
    #[must_use]
    pub const fn role(&self) -> Option<Role> {
        match self {
            Self::Listen { .. } | Self::Hear { .. } | Self::Transcribe { .. } | Self::TranscribeIn { .. } => {
                Some(Role::Ears)
            }
            Self::Prime { .. }
            | Self::Think { .. }
            | Self::PrimeWith { .. }
            | Self::ThinkWith { .. }
            | Self::LoadAdapter { .. }
            | Self::DropAdapter { .. } => Some(Role::Mind),
            Self::Speak { .. } | Self::Grant { .. } => Some(Role::Voice),
            Self::Embed { .. } => Some(Role::Embed),
            Self::Hello { .. } | Self::Ping { .. } | Self::Cancel { .. } | Self::Forget { .. } => None,
        }
    }
}

impl Event {
    /// The call that this is about, if it is about one.
    #[must_use]
    pub const fn call(&self) -> Option<CallId> {
        match self {
            Self::Ready { .. } | Self::Pong { .. } => None,
            Self::Activity { call, .. }
            | Self::Heard { call, .. }
            | Self::Token { call, .. }
            | Self::Thought { call, .. }
            | Self::Audio { call, .. }
            | Self::Spoken { call, .. }
            | Self::Embedded { call, .. }
            | Self::Adapters { call, .. }
            | Self::Failed { call, .. } => Some(*call),
        }
    }
}

/// What the ears made of a span of speech.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Transcript {
    /// The words; empty if nothing was said or [`Transcript::declined`] is set.
    pub text: String,
    /// Why a text that the model produced was thrown away.
    pub declined: Option<Decline>,
    /// Probability that the span holds no speech, from the model.
    pub no_speech: f32,
    /// Mean log probability per token.
    pub mean_logprob: f32,
    /// Length of the span.
    pub audio_ms: u32,
    /// Waiting for other work.
    pub queue_us: u64,
    /// Computing.
    pub compute_us: u64,
}

/// Why the ears do not believe their own model.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Decline {
    /// The model itself says that nobody spoke.
    NoSpeech,
    /// The text repeats itself.
    Repetition,
    /// The text is far longer than that much audio can hold, or improbable throughout.
    Improbable,
}

/// Why an answer ended.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model ended it, or a stop text was met.
    Stop,
    /// [`Sampling::max_tokens`] or the context was reached.
    Length,
}

/// What an answer cost.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Thought {
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// How many of them were known and not computed again.
    pub cached_tokens: u32,
    /// Tokens of the answer.
    pub answer_tokens: u32,
    /// Waiting for other work.
    pub queue_us: u64,
    /// From the start of the computation to the first token.
    pub prefill_us: u64,
    /// From the first token to the last.
    pub decode_us: u64,
}

/// Why a piece of work has no result.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Its queue was full: try later, or elsewhere.
    Overloaded,
    /// It asked for something that the engine has not: an unknown call, a span not heard, a text too long.
    Invalid,
    /// The engine is at fault; the log of the engine says how.
    Internal,
}

/// An engine's role, ready to work.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct RoleInfo {
    /// Which role.
    pub role: Role,
    /// File name of its model.
    pub model: String,
    /// Time to load it.
    pub load_ms: u32,
    /// Time of the warm-up inference, which must have succeeded.
    pub warmup_ms: u32,
}

/// An adapter that the language model can use.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct AdapterInfo {
    /// How requests call it.
    pub name: String,
    /// Of `adapter_config.json` and, behind it, `adapter_model.safetensors`; in hexadecimal digits.
    pub sha256: String,
    /// Its rank.
    pub rank: u32,
    /// How many layers it changes.
    pub layers: u32,
    /// Memory that it takes.
    pub bytes: u64,
}

/// From the engine to the daemon.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub enum Event {
    /// First message of a connection, after every role has passed its warm-up.
    Ready {
        /// [`crate::VERSION`] of the engine.
        version: u16,
        /// What it can do.
        roles: Vec<RoleInfo>,
    },
    /// Answers [`Request::Ping`] once every role's thread has gone round its loop since.
    Pong {
        /// From the ping.
        nonce: u64,
    },
    /// How likely the caller speaks, for each window of 32 ms.
    Activity {
        /// The call.
        call: CallId,
        /// Sample of the listening stream at which the window ends.
        at: u64,
        /// 0 to 1.
        speech: f32,
    },
    /// Answers [`Request::Transcribe`].
    Heard {
        /// The call.
        call: CallId,
        /// The turn.
        turn: TurnId,
        /// The words and their cost.
        transcript: Transcript,
    },
    /// The next piece of an answer; whole characters only.
    Token {
        /// The call.
        call: CallId,
        /// The turn.
        turn: TurnId,
        /// May be any length but empty.
        text: String,
    },
    /// The answer is complete.
    Thought {
        /// The call.
        call: CallId,
        /// The turn.
        turn: TurnId,
        /// What it cost.
        thought: Thought,
    },
    /// The next frame of a clause, of exactly 20 ms; the last frame of a clause is padded with silence.
    Audio {
        /// The call.
        call: CallId,
        /// The turn.
        turn: TurnId,
        /// The clause.
        clause: ClauseId,
        /// One frame at the rate that was asked for.
        pcm: Pcm,
    },
    /// A clause is complete.
    Spoken {
        /// The call.
        call: CallId,
        /// The turn.
        turn: TurnId,
        /// The clause.
        clause: ClauseId,
        /// Its frames.
        frames: u32,
        /// From the request to the first frame.
        first_us: u64,
        /// Computing, all of it.
        compute_us: u64,
    },
    /// A piece of work failed; nothing more of it follows.
    Failed {
        /// The call.
        call: CallId,
        /// The turn.
        turn: TurnId,
        /// Which role.
        role: Role,
        /// Whose fault.
        failure: Failure,
        /// One sentence, with nothing in it of what was said.
        reason: String,
    },
    /// Answers [`Request::Embed`].
    Embedded {
        /// The call.
        call: CallId,
        /// The turn.
        turn: TurnId,
        /// Of length 1.
        vector: Vec<f32>,
        /// Waiting for other work.
        queue_us: u64,
        /// Computing.
        compute_us: u64,
    },
    /// Answers [`Request::LoadAdapter`] and [`Request::DropAdapter`]: what is loaded now.
    Adapters {
        /// Whoever asked.
        call: CallId,
        /// Which of their questions it was.
        turn: TurnId,
        /// By name.
        adapters: Vec<AdapterInfo>,
    },
}
