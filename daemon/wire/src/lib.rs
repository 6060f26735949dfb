//! The messages between `callboxd` and `callbox-engine`, nothing else.
//!
//! Enters: a [`Request`] from the daemon, an [`Event`] from the engine. Leaves: the same, as length-delimited
//! [frames](frame). Never here: a socket, a clock, a model, a telephone word.
//!
//! Every message names its call, and its turn where it belongs to one, so that an answer to something that was
//! cancelled can be told from an answer to what is wanted now.

pub mod frame;
mod ids;
mod language;
mod message;
mod needs;
mod pcm;

pub use ids::{CallId, ClauseId, ParseIdError, TurnId};
pub use language::{Language, UnknownLanguage};
pub use message::{
    AdapterInfo, ChatMessage, ChatRole, Decline, Event, Failure, Finish, Request, Role, RoleInfo, Sampling, Thought,
    Transcript,
};
pub use needs::Need;
pub use pcm::Pcm;

/// The version of this protocol. Both sides say it first and part when it differs. Another kind of message, appended to
/// its list and sent only to who offers its role (or, of adapters and languages, where an agent or an operator names one), needs
/// no other version.
pub const VERSION: u16 = 2;

/// Samples per second of everything that the ears hear.
pub const EARS_RATE: u32 = 16_000;

/// Milliseconds in one audio frame, everywhere.
pub const FRAME_MS: u32 = 20;
