//! When the watchdog may be fed: while every watched loop beats. Enters: pulses, the time; leaves: yes, or who hangs.

use std::time::{Duration, Instant};

use crate::base::Pulse;

/// A loop on a busy machine may be as late as this, however short the manager's limit is.
const LATE: Duration = Duration::from_millis(1500);

pub(super) struct Watchdog {
    /// Between two feedings: a quarter of the manager's limit.
    every: Duration,
    /// A loop that has not beaten for this long hangs.
    patience: Duration,
    next: Instant,
    loops: Vec<Loop>,
}

struct Loop {
    name: &'static str,
    pulse: Pulse,
    count: u64,
    moved: Instant,
}

impl Watchdog {
    /// `limit`: after so long without food the manager ends the daemon.
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        Self { every: limit / 4, patience: (limit / 2).max(LATE), next: now, loops: Vec::new() }
    }

    pub(super) fn watch(&mut self, name: &'static str, pulse: Pulse, now: Instant) {
        let count = pulse.count();
        self.loops.push(Loop { name, pulse, count, moved: now });
    }

    /// How long until [`Watchdog::check`] is due.
    pub(super) fn next(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// Whether to feed.
    ///
    /// # Errors
    /// The loops that hang.
    pub(super) fn check(&mut self, now: Instant) -> Result<(), Vec<&'static str>> {
        self.next = now + self.every;
        let mut hung = Vec::new();
        for watched in &mut self.loops {
            let count = watched.pulse.count();
            if count != watched.count {
                (watched.count, watched.moved) = (count, now);
            } else if now.saturating_duration_since(watched.moved) > self.patience {
                hung.push(watched.name);
            }
        }
        if hung.is_empty() { Ok(()) } else { Err(hung) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock as _, ManualClock};

    #[test]
    fn one_hung_loop_stops_the_feeding_until_it_beats_again() {
        let clock = ManualClock::default();
        let mut watchdog = Watchdog::new(Duration::from_secs(10), clock.now());
        let (calm, hanging) = (Pulse::default(), Pulse::default());
        watchdog.watch("calm", calm.clone(), clock.now());
        watchdog.watch("hanging", hanging.clone(), clock.now());
        let mut fed = Vec::new();
        for second in 0..20 {
            calm.beat();
            if !(4..14).contains(&second) {
                hanging.beat();
            }
            if watchdog.next(clock.now()).is_zero() {
                fed.push(watchdog.check(clock.now()));
            }
            clock.advance(Duration::from_secs(1));
        }
        let hung = Err(vec!["hanging"]);
        assert_eq!(fed, [Ok(()), Ok(()), Ok(()), hung.clone(), hung, Ok(()), Ok(())]);
    }
}
