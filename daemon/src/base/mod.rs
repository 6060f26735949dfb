//! Words that every room may use. Imports no room.

mod advertised;
mod essential;
mod locked;
mod pii;
mod privacy;
mod pulse;
mod secret;
mod source;
mod stem;
mod time;
pub mod trunk;
pub mod vectors;

pub use advertised::Advertised;
pub use callbox_wire::{CallId, ClauseId, Language, Role, TurnId};
pub use essential::spawn_essential;
pub use locked::Locked;
pub use pii::Pii;
pub use privacy::{Callers, NOBODY, Privacy, SELFTEST, Transcripts};
pub use pulse::Pulse;
pub use secret::Secret;
pub use source::{Known, Origin, Passage, Source};
pub use stem::stem;
pub use time::{Clock, ManualClock, SystemClock};
