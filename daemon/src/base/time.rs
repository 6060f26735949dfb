//! Time as an argument. Enters: nothing; leaves: now. The only place of the daemon that asks the system for it, apart
//! from tokio's own timers, which tests pause.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Where a room that must ask for the time asks.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic.
    fn now(&self) -> Instant;

    /// What [`Clock::now`] shows, counted from the start of the machine: the same in every process.
    fn uptime(&self) -> Duration;

    /// Calendar time, for records and logs only.
    fn wall(&self) -> SystemTime;
}

/// The machine's clock.
#[derive(Clone, Copy, Default, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn uptime(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Duration::try_from(now).unwrap_or_default()
    }

    #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock that stands still until it is told to advance.
#[derive(Debug)]
pub struct ManualClock {
    elapsed: Mutex<Duration>,
    start: (Instant, SystemTime),
}

impl Default for ManualClock {
    fn default() -> Self {
        Self { elapsed: Mutex::default(), start: (SystemClock.now(), SystemTime::UNIX_EPOCH) }
    }
}

impl ManualClock {
    /// Moves both clocks on.
    pub fn advance(&self, by: Duration) {
        *self.elapsed.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }

    fn elapsed(&self) -> Duration {
        *self.elapsed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.start.0 + self.elapsed()
    }

    fn uptime(&self) -> Duration {
        self.elapsed()
    }

    fn wall(&self) -> SystemTime {
        self.start.1 + self.elapsed()
    }
}
