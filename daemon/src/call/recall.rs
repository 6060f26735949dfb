//! Known answers in one call. Enters: what the caller said, its vector, what the engine spoke; leaves: an answer with its
//! audio, or nothing; and what may be kept of an answer that was heard to its end. Never here: a wait: what does not come
//! soon was not found.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use callbox_wire::{ClauseId, TurnId};

use super::phrases;
use super::shelf::{Phrase, Samples};
use crate::base::{Known, Source};
use crate::cache::{Answers, Clause, Found, Look, Teaching, reading::Reading};
use crate::dialogue::{Agent, Outcome, TurnKind, TurnRecord};

/// From the words to the vector, at most. Nobody waits for it: it only bounds how long the past is looked at.
const DEADLINE: Duration = Duration::from_millis(250);

/// Frames that are kept of an answer: half a minute.
const LONGEST: usize = 1500;

/// What the conversation is to do.
pub(super) enum Step {
    /// Ask for the vector of the words.
    Embed,
    /// Nothing, or nothing before [`Recall::take`].
    Done,
}

/// One call's side of the cache. In boxes what is there for a moment only.
#[derive(Default)]
pub(super) struct Recall {
    waiting: Option<Box<(TurnId, Reading, Instant)>>,
    /// Found, and not told yet.
    found: Option<Box<(TurnId, Found)>>,
    /// The known answer that is being given.
    giving: Option<Box<Found>>,
    /// Its audio, clause by clause.
    ready: HashMap<String, Phrase>,
    /// What the engine speaks that may be kept.
    heard: BTreeMap<(TurnId, ClauseId), (String, Vec<Samples>)>,
    frames: usize,
}

impl Recall {
    /// The words of a turn came.
    pub(super) fn look(
        &mut self,
        answers: &Answers,
        agent: &Agent,
        turn: TurnId,
        words: &str,
        asked: bool,
        now: Instant,
    ) -> Step {
        *self = Self::default();
        match answers.look(agent.name.as_str(), words, asked) {
            Look::Found(found) => self.found = Some(Box::new((turn, found))),
            Look::Perhaps(reading) => {
                self.waiting = Some(Box::new((turn, reading, now)));
                return Step::Embed;
            }
            Look::Nothing => {}
        }
        Step::Done
    }

    /// The vector of a turn's words came, or will not.
    pub(super) fn embedded(
        &mut self,
        answers: &Answers,
        agent: &Agent,
        turn: TurnId,
        vector: Option<&[f32]>,
        now: Instant,
    ) {
        let Some(waiting) = self.waiting.take_if(|waiting| waiting.0 == turn) else { return };
        let (_, reading, asked) = *waiting;
        match vector.filter(|_| now.saturating_duration_since(asked) <= DEADLINE) {
            Some(vector) => {
                let found = answers.similar(agent.name.as_str(), &reading, vector);
                self.found = found.map(|found| Box::new((turn, found)));
            }
            None => answers.too_late(),
        }
    }

    /// Whether something was found that was not taken.
    pub(super) const fn has_found(&self) -> bool {
        self.found.is_some()
    }

    /// What was found since this was last asked: its clauses and where they come from.
    pub(super) fn take(&mut self, answers: &Answers, agent: &Agent) -> Option<(TurnId, Vec<String>, Known)> {
        let (turn, found) = *self.found.take()?;
        let known = Known { entry: found.id, origin: found.origin, score: found.score };
        let audio = answers.audio(agent.name.as_str(), agent.voice(), &found.answer);
        let clauses = match audio {
            Some(audio) => {
                let texts = audio.iter().map(|clause| clause.text.clone()).collect();
                self.ready = audio.into_iter().map(|clause| (clause.text, clause.frames.into())).collect();
                texts
            }
            None => phrases::clauses(&found.answer),
        };
        self.giving = Some(Box::new(found));
        Some((turn, clauses, known))
    }

    /// Ready audio of a clause.
    pub(super) fn ready(&self, text: &str) -> Option<Phrase> {
        self.ready.get(text).cloned()
    }

    /// The engine is asked to speak a clause.
    pub(super) fn spoken_by_engine(&mut self, agent: &Agent, turn: TurnId, clause: ClauseId, text: &str) {
        if self.giving.is_some() || agent.cache.learn {
            self.heard.insert((turn, clause), (text.to_owned(), Vec::new()));
        }
    }

    /// A frame of it came.
    pub(super) fn frame(&mut self, turn: TurnId, clause: ClauseId, pcm: &[i16]) {
        if let Some((_, frames)) = self.heard.get_mut(&(turn, clause))
            && let Ok(samples) = Samples::try_from(pcm)
            && self.frames < LONGEST
        {
            frames.push(samples);
            self.frames += 1;
        }
    }

    /// A turn is not wanted any more.
    pub(super) fn cancelled(&mut self, turn: TurnId) {
        self.heard.retain(|(of, _), _| *of != turn);
    }

    /// A turn is over: counts what was given, and has what was heard to its end kept.
    pub(super) fn over(&mut self, answers: &Answers, agent: &Arc<Agent>, record: &TurnRecord) {
        let turn = record.turn;
        let heard: Vec<Clause> = std::mem::take(&mut self.heard)
            .into_iter()
            .filter(|((of, _), _)| *of == turn)
            .map(|(_, (text, frames))| Clause { text, frames })
            .collect();
        let cut = self.frames >= LONGEST || heard.iter().any(|clause| clause.frames.is_empty());
        self.frames = 0;
        let giving = self.giving.take();
        self.ready.clear();
        let (answers, agent) = (answers.clone(), Arc::clone(agent));
        let completed = record.outcome == Outcome::Completed && !heard.is_empty() && !cut;
        match (record.source, giving) {
            (Source::Known(known), found) => {
                // Compressing takes a while, and nobody waits for it.
                tokio::task::spawn_blocking(move || {
                    answers.used(agent.name.as_str(), known.entry);
                    if let Some(found) = found.filter(|_| completed) {
                        answers.keep_audio(agent.name.as_str(), agent.voice(), &found.answer, &heard);
                    }
                });
            }
            (Source::Mind, _) if completed && agent.cache.learn && record.alone && record.kind == TurnKind::Answer => {
                let call = record.call;
                let (question, answer) = (record.caller.clone().unwrap_or_default(), record.generated.clone());
                tokio::task::spawn_blocking(move || {
                    let (question, answer) = (question.reveal(), answer.reveal());
                    let (agent, speaker) = (agent.name.as_str(), agent.voice());
                    answers.learn(&Teaching { call, agent, speaker, question, answer, clauses: heard });
                });
            }
            _ => {}
        }
    }
}
