//! The conversation of one call: whose turn it is, what to ask the engine, what the caller hears.
//!
//! Enters: [`Input`]s with the time at which they happened. Leaves: [`Action`]s, in the order in which they must be
//! done. Never here: a clock, a socket, a sample of audio, a random number; the same inputs at the same times give the
//! same actions, so a ten-minute call replays in milliseconds.
//!
//! ```text
//! Activity ─► endpoint ─ pause ─► Transcribe ─► Heard ┬ Think ─► Token ─► clause ┬► Speak ─► Audio ─► Play
//!                 │                                    └ Recall ─► Recalled ────┘                    ▲
//!                 │     (at once, before it is known that the turn has ended: speculation)              │
//!                 └──── quiet for as long as `ending` says the words allow ── end of turn ──────────────┘
//! ```
//!
//! The caller of this room keeps three promises:
//! 1. After every [`Dialogue::handle`] it does the actions, and sends [`Input::Tick`] at [`Dialogue::deadline`].
//! 2. It holds the audio of a turn back until [`Action::Play`] names that turn, and drops it at [`Action::Cancel`].
//! 3. It reports [`Input::Played`] from what was really sent, and [`Input::PlayoutDrained`] after the last of it.
//!
//! What is said before [`Action::Play`] can be taken back: if the caller goes on, the attempt is cancelled and another
//! begins under a new turn id, so that whatever still arrives of the old one is recognised as stale and ignored.

mod agent;
mod clause;
mod ending;
mod endpoint;
mod errand;
mod faq;
mod faults;
mod io;
mod kept;
mod machine;
mod prompt;
mod record;
mod timers;
mod transfer;
mod turn;
mod work;

#[cfg(test)]
mod tests;

pub use agent::{
    Agent, AgentError, CONTEXT, Limits, Millis, NumberPattern, Phrase, Probability, SamplingConfig, TurnTaking,
};
pub use clause::Cutter;
pub use ending::{Ending, ending, is_farewell};
pub use endpoint::{Edge, Endpointer};
pub use errand::{Errand, NoErrand};
pub use faq::{CacheRules, Faq};
pub use io::{Action, HangupReason, Input, Mark, StoredPhrase};
pub use kept::Kept;
pub use machine::Dialogue;
pub use prompt::{History, prime_messages, system_prompt};
pub use record::{Outcome, Stage, StageTimes, TurnKind, TurnRecord};
pub use transfer::{How, Keys, Transfer, Unreached};
