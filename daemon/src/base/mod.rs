//! Words that every room may use. Imports no room.

mod pii;
mod time;

pub use callbox_wire::{CallId, ClauseId, TurnId};
pub use pii::Pii;
pub use time::{Clock, ManualClock, SystemClock};
