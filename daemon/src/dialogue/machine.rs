//! The state of one call, how every input changes it, and what the caller does.
//!
//! There is at most one turn of the agent at a time. It is *undecided* while the caller may still go on, *decided* once
//! their turn has ended, and *playing* once its first audio was let out; until then it can be revoked without a trace.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use callbox_wire::{CallId, Failure, Role, TurnId};

use super::agent::Agent;
use super::endpoint::{Edge, Endpointer, samples};
use super::errand::Errand;
use super::io::{Action, HangupReason, Input, Mark, StoredPhrase};
use super::prompt::History;
use super::record::{Outcome, TurnKind};
use super::timers::Timer;
use super::turn::Turn;

/// Speech is transcribed from this long before it was noticed: the ears notice a soft consonant late.
pub(super) const PREROLL: Duration = Duration::from_millis(200);
/// The engine remembers 30 s; older speech of the same utterance is lost.
const LONGEST_SPAN: Duration = Duration::from_secs(28);
/// An utterance this long is not transcribed again from its beginning after each pause.
const FOLD: Duration = Duration::from_secs(12);
/// How much longer than a pause that the caller has made the next one may be.
const ADAPT_MARGIN: Duration = Duration::from_millis(100);
/// Interrupting an answer so soon after one's own words means that one had not finished.
const TOO_SOON: Duration = Duration::from_millis(1500);
/// The longest stored phrase.
const STORED: Duration = Duration::from_secs(10);
/// What was sent last is still on its way to the caller's ear when the playout is empty.
pub(super) const TAIL: Duration = Duration::from_millis(200);
/// Silence after a key that ends a number.
const KEYS: Duration = Duration::from_secs(2);
const MOST_KEYS: usize = 32;
const MOST_ANSWER_CHARS: usize = 4000;
/// Bounds the work of one `handle`; a correct list of timers never comes near.
const MOST_TIMERS: u32 = 64;

/// How far the call is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Waiting,
    Live,
    Over,
}

/// Whether there is anyone to ask.
pub(super) enum Engine {
    Up,
    Down { since: Instant, resume: Resume },
}

/// What to do when the engine is back.
pub(super) enum Resume {
    Greet,
    Again(Box<Turn>),
    /// Say what was not heard of it.
    Rest(Box<Turn>),
    Repeat,
    /// Hear what the caller was saying, which was kept.
    Hear,
    Listen,
}

/// One conversation, see the [module](super).
pub struct Dialogue {
    pub(super) call: CallId,
    pub(super) agent: Arc<Agent>,
    pub(super) now: Instant,
    pub(super) phase: Phase,
    pub(super) answered: Instant,
    pub(super) next_turn: TurnId,
    pub(super) ears: Endpointer,
    /// In a box: most of a call there is none.
    pub(super) turn: Option<Box<Turn>>,
    pub(super) history: History,
    pub(super) idle_since: Instant,
    /// Silence prompts since the caller last said something.
    pub(super) prompts: usize,
    /// Utterances without words in a row.
    pub(super) misses: u32,
    /// Attempts at the utterance that is open.
    pub(super) attempts: u32,
    /// The beginning of a long utterance, transcribed already.
    pub(super) folded: String,
    /// How much longer than usual this caller pauses.
    pub(super) slack: Duration,
    pub(super) engine: Engine,
    /// Engines lost since an answer was heard to its end.
    pub(super) losses: u32,
    /// When the caller is asked for patience (again), if nothing is heard by then.
    pub(super) soothe_at: Option<Instant>,
    /// How often that was done since something was heard.
    pub(super) soothed: u32,
    /// What the caller said to an engine that was lost is being heard.
    pub(super) rehears: bool,
    /// A stored phrase is playing, at most until then.
    pub(super) stored_until: Option<Instant>,
    /// The call has to end: why, and when the turn in progress is cut short for it.
    pub(super) closing: Option<(HangupReason, Instant)>,
    /// The stored goodbye is playing; then the call ends.
    pub(super) leaving: Option<(HangupReason, Instant)>,
    pub(super) keys: String,
    pub(super) keys_by: Option<Instant>,
    /// The playout is empty.
    pub(super) drained: bool,
    /// The caller has put the agent on hold.
    pub(super) held: bool,
    /// The caller was handed over to this target, and may come back.
    pub(super) away: Option<String>,
    /// The caller was told that the call is recorded.
    pub(super) announced: bool,
    /// What operators want, the first first.
    pub(super) errands: VecDeque<Errand>,
}

/// Prints no words.
impl fmt::Debug for Dialogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialogue")
            .field("call", &self.call)
            .field("phase", &self.phase)
            .field("turn", &self.turn.as_ref().map(|turn| turn.id))
            .field("next_timer", &self.next_timer())
            .finish_non_exhaustive()
    }
}

impl Dialogue {
    /// A call that rings. Nothing happens before [`Input::Answered`].
    #[must_use]
    pub fn new(call: CallId, agent: Arc<Agent>, now: Instant) -> Self {
        Self {
            call,
            now,
            phase: Phase::Waiting,
            answered: now,
            next_turn: TurnId(0),
            ears: Endpointer::new(agent.turns.clone()),
            turn: None,
            history: History::new(Arc::clone(&agent)),
            idle_since: now,
            prompts: 0,
            misses: 0,
            attempts: 0,
            folded: String::new(),
            slack: Duration::ZERO,
            engine: Engine::Up,
            losses: 0,
            soothe_at: None,
            soothed: 0,
            rehears: false,
            stored_until: None,
            closing: None,
            leaving: None,
            keys: String::new(),
            keys_by: None,
            drained: true,
            held: false,
            away: None,
            announced: false,
            errands: VecDeque::new(),
            agent,
        }
    }

    /// Takes what happened at `now` and appends what to do about it to `out`. After [`Input::HungUp`], or after
    /// [`Action::Hangup`] was given, nothing does anything.
    pub fn handle(&mut self, now: Instant, input: Input, out: &mut Vec<Action>) {
        self.now = self.now.max(now);
        match (self.phase, input) {
            (Phase::Over, _) => return,
            (_, Input::HungUp) => return self.end(out),
            (_, Input::Drain) => self.close(HangupReason::Drain),
            (_, Input::Hold(held)) => self.hold_changed(held),
            (_, Input::Unreached(why)) => self.unreached(why, out),
            (_, Input::EngineLost) => self.engine_lost(out),
            (_, Input::Recorded) => self.recorded(),
            (_, Input::EngineReady) => self.engine_ready(out),
            (Phase::Waiting, Input::Answered) => self.answer(out),
            (Phase::Live, input) => self.live(input, out),
            (Phase::Waiting, _) => {}
        }
        for _ in 0..MOST_TIMERS {
            match self.next_timer() {
                Some((at, timer)) if at <= self.now => self.fire(timer, out),
                _ => return,
            }
        }
    }

    fn live(&mut self, input: Input, out: &mut Vec<Action>) {
        match input {
            Input::Activity { at, speech } if self.is_up() => {
                self.activity(at, if self.held || self.away.is_some() { 0.0 } else { speech }, out);
            }
            Input::Heard { turn, transcript } => self.heard(turn, &transcript, out),
            Input::Token { turn, text } => {
                let (now, mut clauses) = (self.now, Vec::new());
                if let Some(current) = self.current(turn).filter(|current| current.thinking) {
                    current.times.first_token.get_or_insert(now);
                    current.take_token(&text, MOST_ANSWER_CHARS, &mut clauses);
                }
                self.speak(clauses, out);
            }
            Input::Recalled { turn, answer } => self.recalled(turn, answer, out),
            Input::Retrieved { turn, found } => self.retrieved(turn, found, out),
            Input::Thought { turn, thought } => {
                let mut clauses = Vec::new();
                let Some(current) = self.current(turn).filter(|current| current.thinking) else { return };
                current.thinking = false;
                current.thought = Some(thought);
                current.cutter.finish(&mut clauses);
                self.speak(clauses, out);
                if self.turn.as_ref().is_some_and(|current| !current.has_clauses()) {
                    self.failed(Role::Mind, Failure::Internal, out);
                }
            }
            Input::Audio { turn, clause } => {
                let now = self.now;
                if self.current(turn).is_some_and(|current| current.frame_arrived(clause, now)) {
                    self.drained = false;
                }
            }
            Input::Spoken { turn, clause, frames, compute_us } => {
                if let Some(current) = self.current(turn) {
                    current.clause_spoken(clause, frames, compute_us);
                }
            }
            Input::Played { turn, clause, frames } => {
                let now = self.now;
                if let Some(current) = self.current(turn) {
                    current.clause_played(clause, frames, now);
                }
                self.note_announcement();
            }
            Input::PlayoutDrained => {
                self.drained = true;
                self.stored_over();
            }
            Input::Dtmf(_) if self.away.is_some() => {}
            Input::Dtmf(key) if key.is_ascii_digit() || matches!(key, '*' | '#' | 'A'..='D') => self.key(key, out),
            Input::Failed { turn, role, failure } if self.current(turn).is_some() => {
                self.failed(role, failure, out);
            }
            // Those of `handle`; and what is nothing new, or nothing at all.
            _ => {}
        }
    }

    /// Waits begin anew when the caller is back: nobody was silent, and nothing was stuck.
    fn hold_changed(&mut self, held: bool) {
        self.held = held;
        self.idle_since = self.now;
        if let Some(turn) = &mut self.turn {
            turn.progress = self.now;
        }
    }

    /// The turn in progress, if this is its name and it waits for something: that something has come.
    pub(super) fn current(&mut self, id: TurnId) -> Option<&mut Turn> {
        let now = self.now;
        let waits = |turn: &&mut Turn| turn.id == id && turn.retry_at.is_none() && turn.failure.is_none();
        let turn = self.turn.as_deref_mut().filter(waits)?;
        turn.progress = now;
        Some(turn)
    }

    pub(super) fn new_id(&mut self) -> TurnId {
        let id = self.next_turn;
        self.next_turn = id.next();
        id
    }

    pub(super) fn fire(&mut self, timer: Timer, out: &mut Vec<Action>) {
        match timer {
            Timer::Leave => self.hang_up(out),
            Timer::StoredOver => self.stored_over(),
            Timer::Soothe => self.soothe(out),
            Timer::GiveUp => self.leave(HangupReason::EngineLost, out),
            Timer::MaxDuration => self.close(HangupReason::MaxDuration),
            Timer::Close => self.say_goodbye(out),
            Timer::Finish => self.finish(out),
            Timer::Retry => self.work(out),
            Timer::Stuck => self.stuck(out),
            Timer::Speculate => self.speculate(out),
            Timer::Decide => self.decide(out),
            Timer::Play => self.play(out),
            Timer::Backchannel => {
                self.ears.take();
            }
            Timer::Patience => self.ask_for_patience(out),
            Timer::Errand => self.run_errand(out),
            Timer::Keys => self.ask_keys(out),
            Timer::Silence => self.break_silence(out),
        }
    }

    pub(super) fn activity(&mut self, at: u64, speech: f32, out: &mut Vec<Action>) {
        match self.ears.window(self.now, at, speech) {
            Some(Edge::Began) => out.push(Action::Mark(Mark::CallerSpeaks)),
            Some(Edge::Resumed { pause }) => {
                out.push(Action::Mark(Mark::CallerSpeaks));
                if self.turn.as_ref().is_some_and(|turn| turn.owns_utterance) {
                    self.revoke(pause, out);
                }
            }
            Some(Edge::Paused) | None => {}
        }
        if self.ears.burst() >= self.agent.turns.barge_in_ms.get() {
            self.interrupt(out);
        }
    }

    /// A pause: the utterance may be complete, so work begins.
    pub(super) fn speculate(&mut self, out: &mut Vec<Action>) {
        let Some(utterance) = self.ears.utterance().copied() else { return };
        let to = self.ears.head();
        let from = utterance.onset.saturating_sub(samples(PREROLL)).max(to.saturating_sub(samples(LONGEST_SPAN)));
        self.attempts += 1;
        let id = self.new_id();
        let mut turn = Turn::new(id, TurnKind::Answer, self.now);
        turn.owns_utterance = true;
        turn.decided = false;
        turn.span = Some(from..to);
        turn.attempts = self.attempts;
        turn.times.end_of_speech = self.ears.last_voiced();
        turn.moment = std::mem::take(&mut self.rehears);
        self.turn = Some(turn);
        out.push(Action::Mark(Mark::CallerPaused { turn: id }));
        self.work(out);
    }

    /// The caller went on: the attempt is dropped, the utterance stays.
    pub(super) fn revoke(&mut self, pause: Duration, out: &mut Vec<Action>) {
        let Some(turn) = self.turn.take() else { return };
        out.push(Action::Cancel { turn: turn.id });
        out.push(Action::Mark(Mark::Revoked { turn: turn.id }));
        let words = turn.caller.unwrap_or_default();
        self.adapt(pause, &words);
        let span = turn.span.unwrap_or_default();
        if !words.is_empty() && span.end - span.start >= samples(FOLD) {
            self.folded = words;
            self.ears.forget_before_burst();
        }
    }

    /// This caller pauses for so long after such words without having finished.
    pub(super) fn adapt(&mut self, pause: Duration, words: &str) {
        let usual = self.hold(words).saturating_sub(self.slack);
        let wanted = (pause + ADAPT_MARGIN).saturating_sub(usual).min(self.agent.turns.adapt_ms.get());
        self.slack = self.slack.max(wanted);
    }

    /// The caller speaks, or presses a key, while the agent has the floor.
    pub(super) fn interrupt(&mut self, out: &mut Vec<Action>) {
        let Some(turn) = &self.turn else {
            if self.stored_until.is_some() && self.leaving.is_none() {
                self.flush(out);
            }
            return;
        };
        // Of the goodbyes only the one to a silent line can be talked out of, and nobody out of being told that they are
        // recorded.
        if turn.owns_utterance
            || (turn.kind == TurnKind::Greeting && self.must_announce())
            || turn.closes.is_some_and(|reason| reason != HangupReason::Silence)
        {
            return;
        }
        if let (TurnKind::Answer, Some(spoke), Some(words)) = (turn.kind, turn.times.end_of_speech, &turn.caller) {
            let pause = self.now.saturating_duration_since(spoke).saturating_sub(self.ears.burst());
            if pause < TOO_SOON {
                let words = words.clone();
                self.adapt(pause, &words);
            }
        }
        self.abort(Outcome::Interrupted, out);
        self.prompts = 0;
    }

    pub(super) fn key(&mut self, key: char, out: &mut Vec<Action>) {
        self.interrupt(out);
        if key != '#' && self.keys.len() < MOST_KEYS {
            self.keys.push(key);
        }
        let complete = key == '#' || self.keys_are_complete();
        self.keys_by = (!self.keys.is_empty()).then_some(if complete { self.now } else { self.now + KEYS });
    }

    pub(super) fn ask_keys(&mut self, out: &mut Vec<Action>) {
        self.keys_by = None;
        let id = self.new_id();
        let mut turn = Turn::new(id, TurnKind::Answer, self.now);
        if let Some(transfer) = self.keyed(&self.keys) {
            Self::announce(&mut turn, transfer);
        }
        let keys: Vec<String> = self.keys.drain(..).map(String::from).collect();
        turn.caller = Some(format!("(presses {} on the telephone's keypad)", keys.join(" ")));
        turn.times.end_of_speech = Some(self.now);
        turn.times.endpoint = Some(self.now);
        self.turn = Some(turn);
        self.work(out);
    }

    pub(super) fn play_stored(&mut self, phrase: StoredPhrase, out: &mut Vec<Action>) {
        self.stored_until = Some(self.now + STORED);
        self.drained = false;
        out.push(Action::PlayStored(phrase));
    }

    pub(super) fn stored_over(&mut self) {
        if self.stored_until.take().is_some() {
            self.idle_since = self.now;
            self.hush();
        }
        if let Some((_, by)) = &mut self.leaving {
            *by = (*by).min(self.now + TAIL);
        }
    }

    pub(super) fn flush(&mut self, out: &mut Vec<Action>) {
        self.stored_until = None;
        self.drained = true;
        out.push(Action::Flush);
    }

    /// Ends the call with the stored goodbye.
    pub(super) fn leave(&mut self, reason: HangupReason, out: &mut Vec<Action>) {
        if self.leaving.is_none() {
            self.leaving = Some((reason, self.now + STORED));
            self.play_stored(StoredPhrase::Goodbye, out);
        }
    }

    pub(super) fn hang_up(&mut self, out: &mut Vec<Action>) {
        if let Some((reason, _)) = self.leaving {
            self.end(out);
            out.push(Action::Hangup(reason));
        }
    }

    pub(super) fn end(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Over;
        if let Some(turn) = self.turn.take() {
            out.push(Action::Cancel { turn: turn.id });
            self.record(&turn, Outcome::Abandoned, out);
        }
    }
}
