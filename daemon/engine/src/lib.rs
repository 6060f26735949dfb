//! The inference worker: audio in, words out; words in, audio out.
//!
//! Enters: [`callbox_wire::Request`]s on a Unix socket. Leaves: [`callbox_wire::Event`]s. Never here: telephony, files
//! of the daemon, a network.
//!
//! ```text
//!  serve ── Request ──► ears │ mind │ voice │ embed ── Event ──► serve  each role: one scheduler, its own threads
//!                         └──── models ────┘                          one file (or folder) per network
//!                               weights · kernels · device            files → tensors, fast paths, whose turn it is
//! ```

pub mod device;
pub mod ears;
pub mod embed;
pub mod kernels;
pub mod mind;
pub mod models;
pub mod needs;
pub mod role;
pub mod serve;
pub mod voice;
pub mod weights;
