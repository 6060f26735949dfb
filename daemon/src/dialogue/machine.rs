//! The state of one call and how every input changes it.
//!
//! There is at most one turn of the agent at a time. It is *undecided* while the caller may still go on, *decided* once
//! their turn has ended, and *playing* once its first audio was let out; until then it can be revoked without a trace.

use std::sync::Arc;
use std::time::{Duration, Instant};

use callbox_wire::{CallId, Failure, Role, Transcript, TurnId};

use super::agent::Agent;
use super::clause::without_markup;
use super::ending::is_farewell;
use super::endpoint::{Edge, Endpointer, samples};
use super::io::{Action, HangupReason, Input, Mark, StoredPhrase};
use super::prompt::{History, shortened};
use super::record::{Outcome, TurnKind};
use super::timers::Timer;
use super::turn::Turn;
use crate::base::Pii;

/// Speech is transcribed from this long before it was noticed: the ears notice a soft consonant late.
const PREROLL: Duration = Duration::from_millis(200);
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
const TAIL: Duration = Duration::from_millis(200);
/// Silence after a key that ends a number.
const KEYS: Duration = Duration::from_secs(2);
const MOST_KEYS: usize = 32;
const MOST_WORDS_CHARS: usize = 1500;
const MOST_ANSWER_CHARS: usize = 4000;
/// Engines lost in one call before it is ended.
const MOST_LOSSES: u32 = 3;
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
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
#[derive(Debug)]
pub(super) enum Engine {
    Up,
    Down { since: Instant, resume: Resume },
}

/// What to do when the engine is back.
#[derive(Debug)]
pub(super) enum Resume {
    Greet,
    Again(Box<Turn>),
    Repeat,
    Listen,
}

/// One conversation, see the [module](super).
#[derive(Debug)]
pub struct Dialogue {
    call: CallId,
    pub(super) agent: Arc<Agent>,
    pub(super) now: Instant,
    pub(super) phase: Phase,
    pub(super) answered: Instant,
    next_turn: TurnId,
    pub(super) ears: Endpointer,
    pub(super) turn: Option<Turn>,
    history: History,
    pub(super) idle_since: Instant,
    /// Silence prompts since the caller last said something.
    prompts: usize,
    /// Utterances without words in a row.
    misses: u32,
    /// Attempts at the utterance that is open.
    attempts: u32,
    /// The beginning of a long utterance, transcribed already.
    folded: String,
    /// How much longer than usual this caller pauses.
    pub(super) slack: Duration,
    pub(super) engine: Engine,
    losses: u32,
    /// A stored phrase is playing, at most until then.
    pub(super) stored_until: Option<Instant>,
    /// The call has to end: why, and when the turn in progress is cut short for it.
    pub(super) closing: Option<(HangupReason, Instant)>,
    /// The stored goodbye is playing; then the call ends.
    pub(super) leaving: Option<(HangupReason, Instant)>,
    keys: String,
    pub(super) keys_by: Option<Instant>,
    /// The playout is empty.
    pub(super) drained: bool,
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
            history: History::new(&agent),
            idle_since: now,
            prompts: 0,
            misses: 0,
            attempts: 0,
            folded: String::new(),
            slack: Duration::ZERO,
            engine: Engine::Up,
            losses: 0,
            stored_until: None,
            closing: None,
            leaving: None,
            keys: String::new(),
            keys_by: None,
            drained: true,
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
            (_, Input::EngineLost) => self.engine_lost(out),
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
            Input::Activity { at, speech } if self.is_up() => self.activity(at, speech, out),
            Input::Heard { turn, transcript } => self.heard(turn, &transcript, out),
            Input::Token { turn, text } => {
                let (now, mut clauses) = (self.now, Vec::new());
                if let Some(current) = self.current(turn).filter(|current| current.thinking) {
                    current.times.first_token.get_or_insert(now);
                    current.take_token(&text, MOST_ANSWER_CHARS, &mut clauses);
                }
                self.speak(clauses, out);
            }
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
            }
            Input::PlayoutDrained => {
                self.drained = true;
                self.stored_over();
            }
            Input::Dtmf(key) if key.is_ascii_digit() || matches!(key, '*' | '#' | 'A'..='D') => self.key(key, out),
            Input::Failed { turn, role, failure } => {
                if self.current(turn).is_some() {
                    self.failed(role, failure, out);
                }
            }
            // Those of `handle`; and what is nothing new, or nothing at all.
            _ => {}
        }
    }

    /// The turn in progress, if this is its name and it waits for something: that something has come.
    fn current(&mut self, id: TurnId) -> Option<&mut Turn> {
        let now = self.now;
        let waits = |turn: &&mut Turn| turn.id == id && turn.retry_at.is_none() && turn.failure.is_none();
        let turn = self.turn.as_mut().filter(waits)?;
        turn.progress = now;
        Some(turn)
    }

    fn new_id(&mut self) -> TurnId {
        let id = self.next_turn;
        self.next_turn = id.next();
        id
    }

    pub(super) fn fire(&mut self, timer: Timer, out: &mut Vec<Action>) {
        match timer {
            Timer::Leave => self.hang_up(out),
            Timer::StoredOver => self.stored_over(),
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
            Timer::Keys => self.ask_keys(out),
            Timer::Silence => self.break_silence(out),
        }
    }

    // --- The caller ---

    fn activity(&mut self, at: u64, speech: f32, out: &mut Vec<Action>) {
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
    fn speculate(&mut self, out: &mut Vec<Action>) {
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
        self.turn = Some(turn);
        out.push(Action::Mark(Mark::CallerPaused { turn: id }));
        self.work(out);
    }

    /// The caller went on: the attempt is dropped, the utterance stays.
    fn revoke(&mut self, pause: Duration, out: &mut Vec<Action>) {
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
    fn adapt(&mut self, pause: Duration, words: &str) {
        let usual = self.patience_with(words).saturating_sub(self.slack);
        let wanted = (pause + ADAPT_MARGIN).saturating_sub(usual).min(self.agent.turns.adapt_ms.get());
        self.slack = self.slack.max(wanted);
    }

    /// The caller speaks, or presses a key, while the agent has the floor.
    fn interrupt(&mut self, out: &mut Vec<Action>) {
        let Some(turn) = &self.turn else {
            if self.stored_until.is_some() && self.leaving.is_none() {
                self.flush(out);
            }
            return;
        };
        if turn.owns_utterance || turn.closes.is_some_and(|reason| reason != HangupReason::Silence) {
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

    fn key(&mut self, key: char, out: &mut Vec<Action>) {
        self.interrupt(out);
        if key != '#' && self.keys.len() < MOST_KEYS {
            self.keys.push(key);
        }
        self.keys_by = (!self.keys.is_empty()).then_some(if key == '#' { self.now } else { self.now + KEYS });
    }

    fn ask_keys(&mut self, out: &mut Vec<Action>) {
        self.keys_by = None;
        let keys: Vec<String> = self.keys.drain(..).map(String::from).collect();
        let id = self.new_id();
        let mut turn = Turn::new(id, TurnKind::Answer, self.now);
        turn.caller = Some(format!("(presses {} on the telephone's keypad)", keys.join(" ")));
        turn.times.end_of_speech = Some(self.now);
        turn.times.endpoint = Some(self.now);
        self.turn = Some(turn);
        self.work(out);
    }

    // --- The work of a turn ---

    /// Asks the engine for what the turn needs next.
    fn work(&mut self, out: &mut Vec<Action>) {
        let now = self.now;
        let Some(turn) = &mut self.turn else { return };
        turn.retry_at = None;
        turn.progress = now;
        if let Some(script) = turn.script.clone() {
            let mut clauses = Vec::new();
            turn.cutter.push(&script, &mut clauses);
            turn.cutter.finish(&mut clauses);
            self.speak(clauses, out);
        } else if let Some(words) = &turn.caller {
            turn.thinking = true;
            turn.times.think = Some(now);
            let messages = self.history.ask(words);
            out.push(Action::Think { turn: turn.id, messages, sampling: self.agent.sampling() });
        } else if let Some(span) = &turn.span {
            turn.hearing = true;
            turn.times.transcribe = Some(now);
            out.push(Action::Transcribe { turn: turn.id, from: span.start, to: span.end });
        }
    }

    fn heard(&mut self, id: TurnId, transcript: &Transcript, out: &mut Vec<Action>) {
        let now = self.now;
        let new = if transcript.declined.is_some() { "" } else { transcript.text.trim() };
        let words =
            [self.folded.as_str(), new].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
        let words = shortened(words, MOST_WORDS_CHARS);
        let goodbye = self.agent.goodbye.as_str().to_owned();
        let Some(turn) = self.current(id).filter(|turn| turn.hearing) else { return };
        turn.hearing = false;
        turn.times.heard = Some(now);
        turn.stt_compute_us = transcript.compute_us;
        turn.caller = Some(words.clone());
        if words.is_empty() {
            return;
        }
        if is_farewell(&words) {
            turn.kind = TurnKind::Goodbye;
            turn.script = Some(goodbye);
            turn.closes = Some(HangupReason::Farewell);
        }
        out.push(Action::Mark(Mark::CallerSaid { turn: id, text: Pii::new(words) }));
        self.work(out);
    }

    fn speak(&mut self, clauses: Vec<String>, out: &mut Vec<Action>) {
        let now = self.now;
        let Some(turn) = &mut self.turn else { return };
        for text in clauses {
            let spoken = without_markup(&text);
            let Some(clause) = turn.add_clause(text) else { continue };
            turn.times.first_clause.get_or_insert(now);
            out.push(Action::Mark(Mark::AgentSays { turn: turn.id, clause, text: Pii::new(spoken.clone()) }));
            out.push(Action::Speak { turn: turn.id, clause, text: spoken });
        }
    }

    /// The caller's turn has ended.
    fn decide(&mut self, out: &mut Vec<Action>) {
        let spoke = self.ears.last_voiced();
        let Some(turn) = &mut self.turn else { return };
        turn.decided = true;
        turn.progress = self.now;
        turn.times.endpoint = Some(self.now);
        if turn.failure.is_some() {
            return self.fail_for_good(out);
        }
        if turn.caller.as_deref() == Some("") {
            out.push(Action::Cancel { turn: turn.id });
            self.turn = None;
            self.utterance_over();
            self.misses += 1;
            if self.misses >= 2 {
                self.misses = 0;
                self.say(TurnKind::NotUnderstood, self.agent.not_understood.as_str().to_owned(), None, out);
            }
            return;
        }
        self.misses = 0;
        let quiet = spoke.map_or(Duration::ZERO, |spoke| self.now.saturating_duration_since(spoke));
        out.push(Action::Mark(Mark::EndOfTurn { turn: turn.id, quiet }));
    }

    /// There is something to be heard: from now on the turn cannot be revoked, only interrupted.
    fn play(&mut self, out: &mut Vec<Action>) {
        let Some(turn) = &mut self.turn else { return };
        turn.playing = true;
        turn.times.play = Some(self.now);
        out.push(Action::Play { turn: turn.id });
        self.disown();
    }

    fn ask_for_patience(&mut self, out: &mut Vec<Action>) {
        if let Some(turn) = &mut self.turn {
            turn.moment = true;
        }
        self.disown();
        self.play_stored(StoredPhrase::OneMoment, out);
    }

    /// The utterance is answered; what the caller says from now on is another.
    fn disown(&mut self) {
        if let Some(turn) = self.turn.as_mut().filter(|turn| turn.owns_utterance) {
            turn.owns_utterance = false;
            self.utterance_over();
        }
    }

    fn utterance_over(&mut self) {
        self.ears.take();
        self.folded.clear();
        self.attempts = 0;
    }

    fn finish(&mut self, out: &mut Vec<Action>) {
        let Some(turn) = self.turn.take() else { return };
        if turn.owns_utterance {
            self.utterance_over();
        }
        if turn.kind == TurnKind::Answer {
            self.history.answered(turn.caller.as_deref().unwrap_or_default(), &turn.generated());
            self.prompts = 0;
            self.slack = self.slack * 3 / 4;
        }
        self.idle_since = self.now;
        out.push(Action::Record(Box::new(turn.record(self.call, Outcome::Completed, self.now))));
        match turn.closes {
            Some(reason) => self.leaving = Some((reason, self.now + TAIL)),
            None => out.push(Action::Mark(Mark::Listening)),
        }
    }

    /// Ends the turn in progress before its time, and what is heard of it.
    fn abort(&mut self, outcome: Outcome, out: &mut Vec<Action>) {
        let Some(turn) = self.turn.take() else { return };
        if turn.playing || self.stored_until.is_some() {
            self.flush(out);
        }
        out.push(Action::Cancel { turn: turn.id });
        if outcome == Outcome::Interrupted {
            out.push(Action::Mark(Mark::Interrupted { turn: turn.id }));
        }
        self.keep(&turn);
        if turn.owns_utterance {
            self.utterance_over();
        }
        self.idle_since = self.now;
        self.record(&turn, outcome, out);
    }

    /// Into the history goes what was heard.
    fn keep(&mut self, turn: &Turn) {
        if let (TurnKind::Answer, Some(words)) = (turn.kind, turn.caller.as_deref().filter(|words| !words.is_empty())) {
            self.history.interrupted(words, &turn.heard());
        }
    }

    /// Attempts of which the caller knows nothing leave no record.
    fn record(&self, turn: &Turn, outcome: Outcome, out: &mut Vec<Action>) {
        if turn.decided || turn.caller.as_deref().is_some_and(|words| !words.is_empty()) {
            out.push(Action::Record(Box::new(turn.record(self.call, outcome, self.now))));
        }
    }

    // --- What the agent says by itself ---

    fn answer(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Live;
        self.answered = self.now;
        self.idle_since = self.now;
        match &mut self.engine {
            Engine::Down { resume, since } => {
                *resume = Resume::Greet;
                *since = self.now;
                self.play_stored(StoredPhrase::OneMoment, out);
            }
            Engine::Up if self.closing.is_none() => self.greet(out),
            Engine::Up => {}
        }
    }

    fn greet(&mut self, out: &mut Vec<Action>) {
        self.say(TurnKind::Greeting, self.agent.greeting.as_str().to_owned(), None, out);
    }

    fn say(&mut self, kind: TurnKind, text: String, closes: Option<HangupReason>, out: &mut Vec<Action>) {
        let id = self.new_id();
        let mut turn = Turn::new(id, kind, self.now);
        turn.script = Some(text);
        turn.closes = closes;
        self.turn = Some(turn);
        self.work(out);
    }

    fn break_silence(&mut self, out: &mut Vec<Action>) {
        let prompt = self.agent.silence_prompts.get(self.prompts).map(|prompt| prompt.as_str().to_owned());
        match prompt {
            Some(prompt) => {
                self.prompts += 1;
                self.say(TurnKind::SilencePrompt, prompt, None, out);
            }
            None => {
                let goodbye = self.agent.goodbye.as_str().to_owned();
                self.say(TurnKind::Goodbye, goodbye, Some(HangupReason::Silence), out);
            }
        }
    }

    /// The call has to end after the turn in progress.
    fn close(&mut self, reason: HangupReason) {
        let by = self.now + Duration::from_secs(u64::from(self.agent.limits.drain_seconds));
        self.closing.get_or_insert((reason, by));
    }

    fn say_goodbye(&mut self, out: &mut Vec<Action>) {
        let Some((reason, _)) = self.closing else { return };
        if !self.is_up() {
            return self.leave(reason, out);
        }
        self.abort(Outcome::Abandoned, out);
        self.utterance_over();
        self.say(TurnKind::Goodbye, self.agent.goodbye.as_str().to_owned(), Some(reason), out);
    }

    // --- When something fails ---

    fn failed(&mut self, role: Role, failure: Failure, out: &mut Vec<Action>) {
        let id = self.new_id();
        let now = self.now;
        let Some(turn) = &mut self.turn else { return };
        let most = match failure {
            Failure::Overloaded => 4,
            Failure::Internal => 1,
            Failure::Invalid => 0,
        };
        out.push(Action::Cancel { turn: turn.id });
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
    fn fail_for_good(&mut self, out: &mut Vec<Action>) {
        let Some(turn) = self.turn.take() else { return };
        if turn.owns_utterance {
            self.utterance_over();
        }
        if turn.playing {
            self.keep(&turn);
        }
        self.idle_since = self.now;
        self.record(&turn, Outcome::Failed, out);
        match turn.closes {
            Some(reason) => self.leave(reason, out),
            None => self.play_stored(StoredPhrase::Apology, out),
        }
    }

    fn stuck(&mut self, out: &mut Vec<Action>) {
        match &self.turn {
            // All of it is in the playout, which does not say that it has gone.
            Some(turn) if turn.playing && turn.is_ready() => self.finish(out),
            Some(turn) => self.failed(turn.waits_for(), Failure::Internal, out),
            None => {}
        }
    }

    fn engine_lost(&mut self, out: &mut Vec<Action>) {
        if !self.is_up() {
            return;
        }
        let was_speaking = self.ears.utterance().is_some();
        self.utterance_over();
        self.ears.reset();
        self.losses += 1;
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
                // A greeting of which a second was heard is not said twice.
                (_, TurnKind::Greeting) if turn.frames_played() > 50 => Resume::Listen,
                (Some(words), _) if !words.is_empty() => Resume::Again(Box::new(turn)),
                (_, TurnKind::Answer) => Resume::Repeat,
                _ => Resume::Again(Box::new(turn)),
            };
        } else if was_speaking {
            phrase = Some(StoredPhrase::OneMoment);
            resume = Resume::Repeat;
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

    fn engine_ready(&mut self, out: &mut Vec<Action>) {
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
                turn.moment = true;
                turn.times.endpoint.get_or_insert(self.now);
                self.turn = Some(*turn);
            }
            Resume::Repeat => self.say(TurnKind::Repeat, self.agent.repeat.as_str().to_owned(), None, out),
            Resume::Listen => {}
        }
    }

    // --- The playout and the end ---

    fn play_stored(&mut self, phrase: StoredPhrase, out: &mut Vec<Action>) {
        self.stored_until = Some(self.now + STORED);
        self.drained = false;
        out.push(Action::PlayStored(phrase));
    }

    fn stored_over(&mut self) {
        if self.stored_until.take().is_some() {
            self.idle_since = self.now;
        }
        if let Some((_, by)) = &mut self.leaving {
            *by = (*by).min(self.now + TAIL);
        }
    }

    fn flush(&mut self, out: &mut Vec<Action>) {
        self.stored_until = None;
        self.drained = true;
        out.push(Action::Flush);
    }

    /// Ends the call with the stored goodbye.
    fn leave(&mut self, reason: HangupReason, out: &mut Vec<Action>) {
        if self.leaving.is_none() {
            self.leaving = Some((reason, self.now + STORED));
            self.play_stored(StoredPhrase::Goodbye, out);
        }
    }

    fn hang_up(&mut self, out: &mut Vec<Action>) {
        if let Some((reason, _)) = self.leaving {
            self.end(out);
            out.push(Action::Hangup(reason));
        }
    }

    fn end(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Over;
        if let Some(turn) = self.turn.take() {
            out.push(Action::Cancel { turn: turn.id });
            self.record(&turn, Outcome::Abandoned, out);
        }
    }
}
