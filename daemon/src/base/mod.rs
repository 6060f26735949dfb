//! Words that every room may use. Imports no room.

mod advertised;
mod essential;
mod pii;
mod pulse;
mod secret;
mod time;
pub mod trunk;
pub mod vectors;

pub use advertised::Advertised;
pub use callbox_wire::{CallId, ClauseId, TurnId};
pub use essential::spawn_essential;
pub use pii::Pii;
pub use pulse::Pulse;
pub use secret::Secret;
pub use time::{Clock, ManualClock, SystemClock};
