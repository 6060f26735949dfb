//! Calls. READ FIRST: here the rooms of one call are joined.
//!
//! Enters: calls that ring (from `sip`). Leaves: answered, held and ended calls, and records of them. Never here: what to
//! say, how to say it, a packet, a SQL statement.
//!
//! ```text
//!  exchange     a call rings: who answers, is there room → 200, or the right refusal
//!    stream       offer and answer → what the media thread is told
//!    conversation one task per call: sip, media, dialogue and engine, joined
//!      hearing      what the caller says, for this engine or the next
//!      recording    its audio, for whoever keeps it
//!      capture      its datagrams, for whoever looks for a fault
//!      shelf        audio that waits until it may be heard; credit for the engine
//!      recall       answers that are known
//!      keep         what of it outlives the daemon
//!      handover     a caller who is transferred: REFER, or a second leg that is joined
//!    outgoing     calls that the box places
//!    phrases      what agents always say, rendered ahead of time
//!      rendered     the same on the disk, for the next daemon
//!    librarian    vectors and audio of the cache of answers
//!    quality      how good the lines of all calls were
//!    record       from the dialogue's turn to what is kept of it
//!  restore      a daemon that starts goes on with the calls of the one before
//!  agents       which agent answers which number
//! ```

pub mod agents;
mod capture;
mod conversation;
mod counts;
mod exchange;
mod handover;
mod hearing;
mod keep;
mod librarian;
mod outgoing;
mod phrases;
mod quality;
mod recall;
mod record;
mod recording;
mod rendered;
mod restore;
mod retrieval;
mod shelf;
pub mod stream;
mod trace;

pub use exchange::{Exchange, Parts, Random};
pub use keep::{Left, left};
pub use outgoing::{CallOut, NotReached};
pub use rendered::Rendered;
