//! Proof that a loop still turns. A loop beats, a watcher sees that the count moves. Never here: a clock, a thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One loop's pulse; clones are the same.
#[derive(Clone, Default, Debug)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// How often a loop that has nothing to do wakes up to beat.
    pub const IDLE: Duration = Duration::from_millis(500);

    /// The loop has come round.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it has, so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
