//! A token bucket. Enters: a rate, a burst, the time; leaves: whether one more is granted.

use std::time::Instant;

/// How much may come, and how fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate {
    /// Tokens per second.
    pub(super) per_second: f64,
    /// Tokens at once.
    pub(super) burst: f64,
}

/// Tokens, and when they were counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(super) fn full(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst, filled: now }
    }

    fn at(&self, rate: Rate, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        elapsed.mul_add(rate.per_second, self.tokens).min(rate.burst)
    }

    pub(super) fn is_full(&self, rate: Rate, now: Instant) -> bool {
        self.at(rate, now) >= rate.burst
    }

    pub(super) fn is_empty(&self, rate: Rate, now: Instant) -> bool {
        self.at(rate, now) < 1.0
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        self.tokens = self.at(rate, now);
        self.filled = now;
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }
}
