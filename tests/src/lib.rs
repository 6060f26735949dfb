//! What whole-call tests are made of: a daemon on loopback, real callers, and ears that are not the daemon's.
//!
//! Enters: the executables of this build, in the folder of the test itself. Leaves: recordings, records and log lines to
//! judge. Never here: traffic beyond loopback, a process that outlives its test.

#![forbid(unsafe_code)]

pub mod harness;
pub mod kills;
pub mod labelled;
