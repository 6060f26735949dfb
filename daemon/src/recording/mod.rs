//! Recordings of calls. Enters: frames of both directions, from any number of calls; leaves: sealed files, and audio of
//! them for whoever may hear it. One thread encodes, seals and writes; a call never waits for it, and loses audio of its
//! recording when it or the disk does not keep up, counted. Never here: audio on a disk that is not sealed; a word of what was
//! said; whether a call may be recorded.
//!
//! ```text
//!  source ─► thread ─► opus (left: the far end, right: the agent) ─► sealed ─► CALL-PART.callrec
//!                                                                      │
//!                            export: Ogg or WAV, all parts of a call ◄─┘ keys
//! ```

mod export;
mod folder;
mod keys;
mod opus;
mod sealed;
mod thread;

pub use export::{AudioFormat, ExportError};
pub use keys::{KeyRing, KeysError, generate};
pub use thread::{Part, Permitted, Recorder, RecordingMetrics, Recordings, Settings, Source, Told};

/// Samples of one frame of one direction: 20 ms at 16 kHz.
pub const FRAME: usize = 320;

/// Samples per second.
pub const RATE: u32 = 16_000;

/// Signed 16-bit samples of one direction.
pub type Samples = [i16; FRAME];

/// 20 ms of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair {
    /// Frames since its beginning; one that is missing was lost.
    pub index: u64,
    /// What came from the far end.
    pub far_end: Samples,
    /// What the agent said.
    pub agent: Samples,
}

#[cfg(test)]
mod tests;
