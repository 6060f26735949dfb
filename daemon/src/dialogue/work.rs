//! What a turn of the agent asks for, from the caller's words to the last frame; and what the agent says by itself.

use std::time::Duration;

use callbox_wire::Transcript;

use super::clause::{Cutter, without_markup};
use super::ending::is_farewell;
use super::io::{Action, HangupReason, Mark, StoredPhrase};
use super::machine::{Dialogue, Engine, Phase, Resume, TAIL};
use super::prompt::shortened;
use super::record::{Outcome, TurnKind};
use super::turn::Turn;
use crate::base::{Known, Passage, Pii, Source, TurnId};

/// Words of the caller that one question may hold, the last ones.
const MOST_WORDS_CHARS: usize = 1500;

impl Dialogue {
    /// Asks the engine for what the turn needs next.
    pub(super) fn work(&mut self, out: &mut Vec<Action>) {
        let now = self.now;
        let Some(turn) = &mut self.turn else { return };
        turn.retry_at = None;
        turn.progress = now;
        if turn.rest {
            for (clause, text) in turn.unspoken() {
                let text = without_markup(&text);
                out.push(Action::Mark(Mark::AgentSays { turn: turn.id, clause, text: Pii::new(text.clone()) }));
                out.push(Action::Speak { turn: turn.id, clause, text });
            }
        } else if let Some(script) = turn.script.clone() {
            let mut clauses = Vec::new();
            let mut cutter = Cutter::for_script();
            cutter.push(&script, &mut clauses);
            cutter.finish(&mut clauses);
            self.speak(clauses, out);
        } else if let Some(words) = &turn.caller {
            let id = turn.id;
            // What was said and not answered belongs to the question; a key is no question.
            let recall = (turn.span.is_some() && !self.history.is_open()).then(|| Pii::new(words.clone()));
            turn.thinking = true;
            turn.source = Source::Mind;
            turn.alone = self.history.is_new();
            turn.times.recall = recall.is_some().then_some(now);
            let look_up = turn.span.is_some() && turn.passages.is_none() && self.agent.knowledge.tokens > 0;
            let question = look_up.then(|| Pii::new(self.history.about(words)));
            // First: what the words mean is known sooner than a prompt is read.
            if let Some(words) = recall {
                out.push(Action::Recall { turn: id, words, asked: self.history.asks() });
            }
            match question {
                Some(question) => {
                    turn.times.retrieve = Some(now);
                    out.push(Action::Retrieve { turn: id, question });
                }
                None => self.think(out),
            }
        } else if let Some(span) = &turn.span {
            turn.hearing = true;
            turn.times.transcribe = Some(now);
            out.push(Action::Transcribe { turn: turn.id, from: span.start, to: span.end });
        }
    }

    /// What the documents say is known: now the mind can be asked.
    pub(super) fn retrieved(&mut self, id: TurnId, found: Option<Vec<Passage>>, out: &mut Vec<Action>) {
        let now = self.now;
        let waits = |turn: &&mut Turn| turn.thinking && turn.times.retrieve.is_some() && turn.times.think.is_none();
        if self.current(id).filter(waits).is_none() {
            return;
        }
        let chosen = found.map(|found| self.history.choose(found));
        if let Some(turn) = &mut self.turn {
            // An agent without documents has spent no time on them.
            turn.times.retrieve = turn.times.retrieve.filter(|_| chosen.is_some());
            turn.times.retrieved = chosen.is_some().then_some(now);
            turn.passages = Some(chosen.unwrap_or_default());
        }
        self.think(out);
    }

    fn think(&mut self, out: &mut Vec<Action>) {
        let Some(turn) = &mut self.turn else { return };
        let Some(words) = &turn.caller else { return };
        turn.times.think = Some(self.now);
        let messages = self.history.ask(words, turn.passages());
        out.push(Action::Think { turn: turn.id, messages, sampling: self.agent.sampling() });
    }

    pub(super) fn heard(&mut self, id: TurnId, transcript: &Transcript, out: &mut Vec<Action>) {
        let now = self.now;
        let new = if transcript.declined.is_some() { "" } else { transcript.text.trim() };
        let words =
            [self.folded.as_str(), new].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
        let words = shortened(words, MOST_WORDS_CHARS);
        let goodbye = self.agent.goodbye.as_str().to_owned();
        let asked = self.asked_for(&words).cloned();
        let Some(turn) = self.current(id).filter(|turn| turn.hearing) else { return };
        turn.hearing = false;
        turn.times.heard = Some(now);
        turn.stt_compute_us = transcript.compute_us;
        turn.caller = Some(words.clone());
        if words.is_empty() {
            return;
        }
        // Silence is sometimes taken for a "bye"; a call is not ended on a doubt.
        if is_farewell(&words) && transcript.no_speech < 0.5 {
            turn.kind = TurnKind::Goodbye;
            turn.script = Some(goodbye);
            turn.closes = Some(HangupReason::Farewell);
        } else if let Some(transfer) = asked {
            Self::announce(turn, &transfer);
        }
        out.push(Action::Mark(Mark::CallerSaid { turn: id, text: Pii::new(words) }));
        self.work(out);
    }

    /// The answer is known, or is not. The mind's own first clause, if it was earlier, is not taken back.
    pub(super) fn recalled(&mut self, id: TurnId, answer: Option<(Vec<String>, Known)>, out: &mut Vec<Action>) {
        let now = self.now;
        let Some(turn) = self.current(id).filter(|turn| turn.thinking && !turn.has_clauses()) else { return };
        turn.times.recalled.get_or_insert(now);
        if let Some((clauses, known)) = answer.filter(|(clauses, _)| !clauses.is_empty()) {
            let fresh = self.new_id();
            if let Some(turn) = &mut self.turn {
                turn.recalled(fresh, Source::Known(known), now);
            }
            out.push(Action::Cancel { turn: id });
            self.speak(clauses, out);
        }
    }

    pub(super) fn speak(&mut self, clauses: Vec<String>, out: &mut Vec<Action>) {
        let now = self.now;
        let clauses = self.take_marks(clauses);
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
    pub(super) fn decide(&mut self, out: &mut Vec<Action>) {
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
    pub(super) fn play(&mut self, out: &mut Vec<Action>) {
        let Some(turn) = &mut self.turn else { return };
        turn.playing = true;
        turn.times.play = Some(self.now);
        (self.soothe_at, self.soothed) = (None, 0);
        out.push(Action::Play { turn: turn.id });
        self.disown();
    }

    pub(super) fn ask_for_patience(&mut self, out: &mut Vec<Action>) {
        if let Some(turn) = &mut self.turn {
            turn.moment = true;
        }
        self.disown();
        self.play_stored(StoredPhrase::OneMoment, out);
    }

    /// The utterance is answered; what the caller says from now on is another.
    pub(super) fn disown(&mut self) {
        if let Some(turn) = self.turn.as_mut().filter(|turn| turn.owns_utterance) {
            turn.owns_utterance = false;
            self.utterance_over();
        }
    }

    pub(super) fn utterance_over(&mut self) {
        self.ears.take();
        self.folded.clear();
        self.attempts = 0;
    }

    pub(super) fn finish(&mut self, out: &mut Vec<Action>) {
        let Some(turn) = self.turn.take() else { return };
        if turn.owns_utterance {
            self.utterance_over();
        }
        self.announced |= turn.kind == TurnKind::Greeting && self.agent.record;
        if matches!(turn.kind, TurnKind::Answer | TurnKind::Transfer | TurnKind::Unreached | TurnKind::Operator) {
            self.losses = 0;
            self.history.answered(turn.caller.as_deref().unwrap_or_default(), turn.passages(), &turn.generated());
            self.prompts = 0;
            self.slack = self.slack * 3 / 4;
        }
        self.idle_since = self.now;
        out.push(Action::Record(Box::new(turn.record(self.call, Outcome::Completed, self.now))));
        match (turn.closes, turn.connects) {
            (Some(reason), _) => self.leaving = Some((reason, self.now + TAIL)),
            (None, Some(name)) => self.hand_over(name, out),
            (None, None) => out.push(Action::Mark(Mark::Listening)),
        }
    }

    /// Ends the turn in progress before its time, and what is heard of it.
    pub(super) fn abort(&mut self, outcome: Outcome, out: &mut Vec<Action>) {
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
    pub(super) fn keep(&mut self, turn: &Turn) {
        if let (TurnKind::Answer, Some(words)) = (turn.kind, turn.caller.as_deref().filter(|words| !words.is_empty())) {
            self.history.interrupted(words, turn.passages(), &turn.heard());
        }
    }

    /// Attempts of which the caller knows nothing leave no record.
    pub(super) fn record(&self, turn: &Turn, outcome: Outcome, out: &mut Vec<Action>) {
        if turn.decided || turn.caller.as_deref().is_some_and(|words| !words.is_empty()) {
            out.push(Action::Record(Box::new(turn.record(self.call, outcome, self.now))));
        }
    }

    pub(super) fn answer(&mut self, out: &mut Vec<Action>) {
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

    pub(super) fn greet(&mut self, out: &mut Vec<Action>) {
        self.say(TurnKind::Greeting, self.agent.opening(), None, out);
    }

    /// Whether the caller has been told that the call is recorded, and it is.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.announced
    }

    pub(super) fn must_announce(&self) -> bool {
        self.agent.record && !self.announced
    }

    /// As soon as the announcement was heard to its end, the greeting behind it need not be.
    pub(super) fn note_announcement(&mut self) {
        let (Some(turn), Some(consent), true) = (&self.turn, &self.agent.consent, self.must_announce()) else { return };
        self.announced = turn.kind == TurnKind::Greeting && turn.heard().len() >= consent.as_str().len();
    }

    pub(super) fn say(&mut self, kind: TurnKind, text: String, closes: Option<HangupReason>, out: &mut Vec<Action>) {
        let id = self.new_id();
        let mut turn = Turn::new(id, kind, self.now);
        turn.script = Some(text);
        turn.closes = closes;
        self.turn = Some(turn);
        self.work(out);
    }

    pub(super) fn break_silence(&mut self, out: &mut Vec<Action>) {
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
    pub(super) fn close(&mut self, reason: HangupReason) {
        let by = self.now + Duration::from_secs(u64::from(self.agent.limits.drain_seconds));
        self.closing.get_or_insert((reason, by));
    }

    pub(super) fn say_goodbye(&mut self, out: &mut Vec<Action>) {
        let Some((reason, _)) = self.closing else { return };
        if !self.is_up() {
            return self.leave(reason, out);
        }
        self.abort(Outcome::Abandoned, out);
        self.utterance_over();
        self.say(TurnKind::Goodbye, self.agent.goodbye.as_str().to_owned(), Some(reason), out);
    }
}
