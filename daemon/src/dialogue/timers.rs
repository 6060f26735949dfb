//! What happens when nothing happens: every wait of a call, in one list.
//!
//! A condition that is already met is a timer in the past. [`Dialogue::deadline`] and the work done at it come from the
//! same list, so that none can be forgotten; firing a timer must change what put it there.

use std::time::{Duration, Instant};

use super::ending::{Ending, ending};
use super::machine::{Dialogue, Engine, Phase};
use super::record::TurnKind;
use super::turn::Turn;
use crate::base::Source;

/// Work of which nothing comes for this long has failed.
const STUCK: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Timer {
    /// The goodbye was heard, or should have been.
    Leave,
    /// The stored phrase should have been heard.
    StoredOver,
    /// The caller waits for something, and hears nothing.
    Soothe,
    /// The engine did not come back.
    GiveUp,
    /// The call has lasted long enough.
    MaxDuration,
    /// It is time for the goodbye.
    Close,
    /// The answer was heard.
    Finish,
    /// Something that failed is tried again.
    Retry,
    /// Nothing comes any more.
    Stuck,
    /// The caller may have finished: begin work.
    Speculate,
    /// The caller has finished.
    Decide,
    /// The caller has finished and there is something to be heard.
    Play,
    /// What the caller said while the agent had the floor was a sign of attention.
    Backchannel,
    /// The answer takes long.
    Patience,
    /// An operator wants something, and nobody has the floor.
    Errand,
    /// The last key was pressed.
    Keys,
    /// Nobody speaks.
    Silence,
}

/// Whether its answer was known.
const fn is_known(turn: &Turn) -> bool {
    matches!(turn.source, Source::Known(_))
}

/// Whether a question that is known has been asked to its end. Ears do not always write a question mark, and behind one
/// they sometimes write a word that nobody said; but who stops at an "and" goes on.
fn is_whole(words: &str) -> bool {
    words.contains(['.', '!', '?']) || ending(words) != Ending::Hanging
}

impl Dialogue {
    /// When to send [`super::Input::Tick`], if nothing else comes before. Every input may change it.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.next_timer().map(|(at, _)| at)
    }

    /// The earliest timer; of those for the same instant, the first in the order of [`Timer`].
    pub(super) fn next_timer(&self) -> Option<(Instant, Timer)> {
        if self.phase != Phase::Live {
            return None;
        }
        let call = self.call_timers();
        let turn = self.turn.as_ref().map(|turn| self.turn_timers(turn));
        call.into_iter().chain(turn.into_iter().flatten()).flatten().min_by_key(|(at, timer)| (*at, *timer as u8))
    }

    /// The silence after which a turn whose transcript is known has ended. This is the rule of turn taking.
    pub(super) fn hold(&self, words: &str) -> Duration {
        let rules = &self.agent.turns;
        let hold = match ending(words) {
            Ending::Complete => rules.complete_ms.get(),
            Ending::Open => rules.end_of_turn_ms.get(),
            Ending::Hanging => rules.hanging_ms.get(),
        };
        hold + self.slack
    }

    /// Nobody has the floor.
    fn is_idle(&self) -> bool {
        self.is_up() && self.turn.is_none() && self.ears.utterance().is_none() && self.stored_until.is_none()
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.engine, Engine::Up)
    }

    fn call_timers(&self) -> [Option<(Instant, Timer)>; 9] {
        let stored = self.stored_until.map(|at| (at, Timer::StoredOver));
        if let Some((_, by)) = self.leaving {
            return [Some((by, Timer::Leave)), stored, None, None, None, None, None, None, None];
        }
        let limits = &self.agent.limits;
        let rules = &self.agent.turns;
        let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
        let give_up = match self.engine {
            Engine::Down { since, .. } if self.away.is_none() => {
                Some((since + seconds(limits.engine_seconds), Timer::GiveUp))
            }
            _ => None,
        };
        let soothe = self.soothe_at.filter(|_| self.waits_in_silence()).map(|at| (at, Timer::Soothe));
        let saying_goodbye = self.turn.as_ref().is_some_and(|turn| turn.closes.is_some());
        let (longest, close) = match self.closing {
            Some(_) if saying_goodbye => (None, None),
            Some(_) if self.is_idle() || !self.is_up() => (None, Some((self.now, Timer::Close))),
            Some((_, by)) => (None, Some((by, Timer::Close))),
            // How long two people talk is theirs to say.
            None if self.away.is_some() => (None, None),
            None => (Some((self.answered + seconds(limits.call_seconds), Timer::MaxDuration)), None),
        };
        let idle = self.is_idle() && self.closing.is_none() && self.away.is_none();
        let keys = self.keys_by.filter(|_| idle).map(|at| (at, Timer::Keys));
        let errand = (idle && self.has_errand()).then_some((self.now, Timer::Errand));
        let silence =
            (idle && keys.is_none() && !self.held).then(|| (self.idle_since + rules.silence_ms.get(), Timer::Silence));
        let speculate = self.ears.quiet_at(rules.speculate_ms.get()).filter(|_| self.is_up() && self.turn.is_none());
        [stored, soothe, give_up, longest, close, errand, keys, silence, speculate.map(|at| (at, Timer::Speculate))]
    }

    fn turn_timers(&self, turn: &Turn) -> [Option<(Instant, Timer)>; 7] {
        let rules = &self.agent.turns;
        let finish = (turn.decided && turn.is_heard(self.drained)).then_some((self.now, Timer::Finish));
        let retry = turn.retry_at.map(|at| (at, Timer::Retry));
        let waits = turn.retry_at.is_none() && turn.failure.is_none() && (turn.decided || !turn.is_ready());
        let knows_nothing = turn.caller.as_deref() == Some("");
        // On hold nothing is played; only a goodbye does not wait for the caller to come back.
        let waits = waits && (!self.held || turn.closes.is_some());
        let stuck = (waits && !knows_nothing).then_some((turn.progress + STUCK, Timer::Stuck));
        let mut decide = None;
        let mut backchannel = None;
        if turn.owns_utterance {
            let silence = match (&turn.caller, turn.failure) {
                (Some(words), None) if is_known(turn) && is_whole(words) => Some(rules.complete_ms.get() + self.slack),
                (Some(words), None) => Some(self.hold(words)),
                (_, Some(_)) => Some(rules.end_of_turn_ms.get()),
                (None, None) => None,
            };
            let at = silence.filter(|_| !turn.decided).and_then(|silence| self.ears.quiet_at(silence));
            decide = at.map(|at| (at, Timer::Decide));
        } else {
            backchannel = self.ears.quiet_at(rules.barge_in_ms.get()).map(|at| (at, Timer::Backchannel));
        }
        let mut play = None;
        if turn.decided && !turn.playing && turn.times.first_audio.is_some() {
            // What may be the caller going on is waited for; it shows within a few windows.
            let clear = if turn.owns_utterance { self.ears.quiet_at(Duration::ZERO) } else { None };
            play = Some((clear.unwrap_or(self.now), Timer::Play));
        }
        let mut patience = None;
        if let (Some(since), false, TurnKind::Answer, true) =
            (turn.times.endpoint, turn.moment, turn.kind, turn.decided)
            && !turn.playing
        {
            let most = if turn.retries > 0 { Duration::ZERO } else { rules.patience_ms.get() };
            patience = Some((since + most, Timer::Patience));
        }
        [finish, retry, stuck, decide, backchannel, play, patience]
    }
}
