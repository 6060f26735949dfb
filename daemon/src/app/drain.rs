//! How a drain goes. Enters: orders, the time, how many calls are up; leaves: when to refuse, when to say goodbye, and
//! what an operator is shown. Never here: a call, a clock, a socket.

use std::time::{Duration, Instant};

use crate::control::{DrainState, DrainStatus};

/// What is to be done now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Wait on.
    Nothing,
    /// Every agent takes leave.
    SayGoodbye,
}

/// A drain, or none.
#[derive(Clone, Copy, Default, Debug)]
pub(super) enum Drain {
    #[default]
    Open,
    Waiting(Instant),
    Goodbye,
}

impl Drain {
    /// Begins, or changes the limit of one that waits. A stop only ever shortens what an operator has given.
    pub(super) fn begin(&mut self, now: Instant, limit: Duration, stop: bool) {
        let until = now + limit;
        *self = match *self {
            Self::Waiting(known) if stop => Self::Waiting(known.min(until)),
            Self::Goodbye => Self::Goodbye,
            Self::Open | Self::Waiting(_) => Self::Waiting(until),
        };
    }

    /// Takes calls again. Whoever was told goodbye is not told otherwise.
    pub(super) fn cancel(&mut self) {
        *self = Self::Open;
    }

    /// Whether calls are refused.
    pub(super) const fn is_on(self) -> bool {
        !matches!(self, Self::Open)
    }

    /// Goes on.
    pub(super) fn step(&mut self, now: Instant, calls: usize) -> Step {
        match *self {
            Self::Waiting(until) if calls > 0 && now >= until => {
                *self = Self::Goodbye;
                Step::SayGoodbye
            }
            _ => Step::Nothing,
        }
    }

    /// As operators see it.
    pub(super) fn status(self, now: Instant, calls: usize) -> DrainStatus {
        let state = match self {
            Self::Open => DrainState::Open,
            _ if calls == 0 => DrainState::Drained,
            Self::Waiting(_) => DrainState::Waiting,
            Self::Goodbye => DrainState::Goodbye,
        };
        let seconds_left = match self {
            // Rounded up: "0 s left" is a goodbye.
            Self::Waiting(until) if calls > 0 => Some(until.saturating_duration_since(now).as_millis().div_ceil(1000))
                .and_then(|s| u64::try_from(s).ok()),
            _ => None,
        };
        DrainStatus { state, calls, seconds_left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock as _, ManualClock};

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn calls_go_on_until_the_limit_and_then_take_leave_once() {
        let clock = ManualClock::default();
        let mut drain = Drain::default();
        assert_eq!(drain.status(clock.now(), 2).state, DrainState::Open);
        drain.begin(clock.now(), seconds(60), false);
        assert!(drain.is_on());
        clock.advance(Duration::from_millis(59_500));
        assert_eq!(drain.step(clock.now(), 2), Step::Nothing);
        let status = DrainStatus { state: DrainState::Waiting, calls: 2, seconds_left: Some(1) };
        assert_eq!(drain.status(clock.now(), 2), status);
        clock.advance(seconds(1));
        assert_eq!(drain.step(clock.now(), 2), Step::SayGoodbye);
        assert_eq!(drain.step(clock.now(), 1), Step::Nothing);
        assert_eq!(drain.status(clock.now(), 1).state, DrainState::Goodbye);
        assert_eq!(drain.status(clock.now(), 0).state, DrainState::Drained);
        drain.cancel();
        assert!(!drain.is_on());
    }

    #[test]
    fn the_limit_can_be_changed_and_a_stop_only_shortens_it() {
        let clock = ManualClock::default();
        let mut drain = Drain::default();
        drain.begin(clock.now(), seconds(60), false);
        drain.begin(clock.now(), seconds(600), false);
        assert_eq!(drain.status(clock.now(), 1).seconds_left, Some(600));
        drain.begin(clock.now(), seconds(60), true);
        assert_eq!(drain.status(clock.now(), 1).seconds_left, Some(60));
        drain.begin(clock.now(), seconds(600), true);
        assert_eq!(drain.status(clock.now(), 1).seconds_left, Some(60));
        clock.advance(seconds(61));
        assert_eq!(drain.step(clock.now(), 1), Step::SayGoodbye);
        drain.begin(clock.now(), seconds(60), false);
        assert_eq!(drain.status(clock.now(), 1).state, DrainState::Goodbye, "a goodbye is not taken back");
    }

    #[test]
    fn without_a_call_it_is_over_at_once() {
        let clock = ManualClock::default();
        let mut drain = Drain::default();
        drain.begin(clock.now(), seconds(60), false);
        let status = DrainStatus { state: DrainState::Drained, calls: 0, seconds_left: None };
        assert_eq!((drain.step(clock.now(), 0), drain.status(clock.now(), 0)), (Step::Nothing, status));
    }
}
