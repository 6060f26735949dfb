//! What happens when the engine fails: try again within bounds, tell the caller, keep the call.

use std::time::Duration;

use callbox_wire::{Failure, Role};

use super::io::{Action, HangupReason, StoredPhrase};
use super::machine::{Dialogue, Engine, Phase, Resume};
use super::record::{Outcome, TurnKind};
use super::turn::Turn;

/// Engines lost in one call, with no answer heard in between, before it is ended.
const MOST_LOSSES: u32 = 3;
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// Whoever waits for something and hears nothing for so long is asked for patience again: on the telephone, two seconds
/// of nothing are a line that is dead, and pauses at the ends of the phrases count as well.
const HUSH: Duration = Duration::from_secs(1);
/// From then on less often: who was asked so many times knows.
const MOST_SOOTHED: u32 = 3;
const LONG_HUSH: Duration = Duration::from_secs(4);

impl Dialogue {
    pub(super) fn failed(&mut self, role: Role, failure: Failure, out: &mut Vec<Action>) {
        let id = self.new_id();
        let now = self.now;
        let Some(turn) = &mut self.turn else { return };
        let most = match failure {
            Failure::Overloaded => 4,
            Failure::Internal => 1,
            Failure::Invalid => 0,
        };
        out.push(Action::Cancel { turn: turn.id });
        // The mind holds less than this conversation has become.
        if (role, failure) == (Role::Mind, Failure::Invalid) && !turn.playing && self.history.halve() {
            turn.restart(id, now);
            return;
        }
        if !turn.playing && turn.retries < most {
            let wait =
                if failure == Failure::Overloaded { FIRST_BACKOFF * (1 << turn.retries) } else { Duration::ZERO };
            turn.restart(id, now + wait);
            return;
        }
        turn.failure = Some((role, failure));
        // Nobody is told of the failure of something that nobody waits for.
        if turn.decided {
            self.fail_for_good(out);
        }
    }

    /// Gives the turn up; its work is cancelled already. What is in the playout is heard to its end.
    pub(super) fn fail_for_good(&mut self, out: &mut Vec<Action>) {
        let Some(turn) = self.turn.take() else { return };
        if turn.owns_utterance {
            self.utterance_over();
        }
        if turn.playing {
            self.keep(&turn);
        }
        self.idle_since = self.now;
        self.record(&turn, Outcome::Failed, out);
        match (turn.closes, turn.connects) {
            (Some(reason), _) => self.leave(reason, out),
            // Without the announcement.
            (None, Some(name)) => self.hand_over(name, out),
            (None, None) => self.play_stored(StoredPhrase::Apology, out),
        }
    }

    pub(super) fn stuck(&mut self, out: &mut Vec<Action>) {
        match &self.turn {
            // All of it is in the playout, which does not say that it has gone.
            Some(turn) if turn.playing && turn.is_ready() => self.finish(out),
            Some(turn) => self.failed(turn.waits_for(), Failure::Internal, out),
            None => {}
        }
    }

    pub(super) fn engine_lost(&mut self, out: &mut Vec<Action>) {
        if !self.is_up() {
            return;
        }
        let was_speaking = self.ears.utterance().is_some();
        let folded = std::mem::take(&mut self.folded);
        self.utterance_over();
        self.ears.reset();
        self.losses += 1;
        (self.soothe_at, self.soothed) = (None, 0);
        let turn = self.turn.take();
        let mut resume = Resume::Listen;
        let mut phrase = None;
        if let Some(mut turn) = turn {
            if turn.playing {
                self.flush(out);
            }
            out.push(Action::Cancel { turn: turn.id });
            turn.failure = Some((turn.waits_for(), Failure::Internal));
            self.record(&turn, Outcome::Failed, out);
            phrase = Some(if turn.decided { StoredPhrase::Apology } else { StoredPhrase::OneMoment });
            if let Some(reason) = turn.closes {
                self.engine = Engine::Down { since: self.now, resume };
                return self.leave(reason, out);
            }
            resume = match (&turn.caller, turn.kind) {
                // A greeting of which a second was heard is not said twice, but whoever is recorded is told so.
                (_, TurnKind::Greeting) if turn.frames_played() > 50 && !self.must_announce() => Resume::Listen,
                (Some(words), _) if !words.is_empty() => Resume::Again(turn),
                (_, TurnKind::Answer) => Resume::Repeat,
                _ => Resume::Again(turn),
            };
        } else if was_speaking {
            phrase = Some(StoredPhrase::OneMoment);
            resume = Resume::Repeat;
        }
        if matches!(resume, Resume::Repeat) && !folded.is_empty() {
            // The beginning of a long question was understood.
            self.history.interrupted(&folded, &[], "");
        }
        self.engine = Engine::Down { since: self.now, resume };
        if self.phase == Phase::Live && self.leaving.is_none() {
            if self.losses > MOST_LOSSES {
                self.leave(HangupReason::EngineLost, out);
            } else if let Some(phrase) = phrase {
                self.play_stored(phrase, out);
            }
        }
    }

    /// A turn that waits for an engine.
    pub(super) fn owe(&mut self, turn: Box<Turn>) {
        if let Engine::Down { since, resume } = &mut self.engine {
            (*since, *resume) = (self.now, Resume::Again(turn));
            self.soothe_at.get_or_insert(self.now);
        }
    }

    /// What the caller was saying will be heard after all.
    pub(super) fn recorded(&mut self) {
        if let Engine::Down { resume: resume @ Resume::Repeat, .. } = &mut self.engine {
            *resume = Resume::Hear;
        }
    }

    /// Whether the caller was told that something is to come, and it does not come.
    fn keeps_waiting(&self) -> bool {
        match &self.engine {
            _ if self.held || self.leaving.is_some() => false,
            Engine::Down { resume, .. } => !matches!(resume, Resume::Listen),
            Engine::Up => self.rehears || self.turn.as_ref().is_some_and(|turn| turn.moment && !turn.playing),
        }
    }

    /// The same, and neither of the two is speaking.
    pub(super) fn waits_in_silence(&self) -> bool {
        let decided = self.turn.as_ref().is_none_or(|turn| turn.decided);
        let answered = self.turn.as_ref().is_some_and(|turn| turn.owns_utterance);
        self.keeps_waiting() && self.stored_until.is_none() && decided && (answered || self.ears.utterance().is_none())
    }

    /// A stored phrase is over, and the caller hears nothing.
    pub(super) fn hush(&mut self) {
        let most = if self.soothed < MOST_SOOTHED { HUSH } else { LONG_HUSH };
        self.soothe_at = self.keeps_waiting().then(|| self.now + most);
    }

    pub(super) fn soothe(&mut self, out: &mut Vec<Action>) {
        self.soothe_at = None;
        self.soothed += 1;
        // What was kept may hold no words after all.
        self.rehears &= self.soothed < MOST_SOOTHED;
        self.disown();
        self.play_stored(StoredPhrase::OneMoment, out);
    }

    pub(super) fn engine_ready(&mut self, out: &mut Vec<Action>) {
        let Engine::Down { resume, .. } = std::mem::replace(&mut self.engine, Engine::Up) else { return };
        self.idle_since = self.now;
        if self.phase != Phase::Live || self.leaving.is_some() {
            return;
        }
        match resume {
            Resume::Greet => self.greet(out),
            Resume::Again(mut turn) => {
                turn.restart(self.new_id(), self.now);
                turn.owns_utterance = false;
                turn.decided = true;
                turn.times.endpoint.get_or_insert(self.now);
                self.turn = Some(turn);
            }
            Resume::Rest(mut turn) => {
                turn.id = self.new_id();
                turn.retry_at = Some(self.now);
                turn.progress = self.now;
                self.turn = Some(turn);
            }
            Resume::Repeat => self.say(TurnKind::Repeat, self.agent.repeat.as_str().to_owned(), None, out),
            Resume::Hear => self.rehears = true,
            Resume::Listen => {}
        }
        // Whoever hears this has waited for it.
        if let Some(turn) = &mut self.turn {
            turn.moment = true;
        }
    }
}
