//! Answers that are known: which one answers a caller's question, if any.
//!
//! Enters: questions of callers with their vectors, answers of the owner's files, of operators, and of the mind where an
//! agent may learn. Leaves: an answer with its ready audio and how sure that is, or nothing. Never here: an engine, a
//! call, a wait: what a call asks is answered from memory, and what is not there was not found.
//!
//! ```text
//!  question ─► reading ── the same words ────────────────────────────────► found
//!                 └─► vector (of the engine) ─► vectors ─► the 32 nearest ─► reading.compare ─► found
//!  answers   what calls and operators hold: library and clips in memory, store behind them
//!    library   entries by agent: which count now, which are the oldest
//!    clips     audio of answers, compressed, the most recent in memory
//!    store     answers.db: one thread writes
//! ```

mod answers;
mod clips;
mod library;
mod metrics;
pub mod reading;
mod store;
#[cfg(test)]
mod tests;
pub mod vectors;

pub use answers::{Answers, Look, Taught, Teaching};
pub use clips::{Clause, Clip, FRAME, Samples};
pub use library::{Entry, Found, Library, Miss, Rules, Stats};
pub use metrics::CacheMetrics;
pub use store::StoreError;
