//! One turn of the agent while it is worked on: what was asked for, what came, what the caller has heard.

use std::ops::Range;
use std::time::Instant;

use callbox_wire::{CallId, ClauseId, Failure, Role, Thought, TurnId};

use super::clause::{Cutter, is_speakable};
use super::io::HangupReason;
use super::kept::KeptClause;
use super::record::{Outcome, StageTimes, TurnKind, TurnRecord};
use crate::base::{Passage, Pii, Source};

/// Frames of 20 ms per character of text, while the length of a clause is not known: 15 characters a second.
const FRAMES_PER_CHAR: u32 = 3;

pub(super) struct Clause {
    text: String,
    arrived: u32,
    frames: Option<u32>,
    played: u32,
}

pub(super) struct Turn {
    pub(super) id: TurnId,
    pub(super) kind: TurnKind,
    /// What the caller said, as far as known; empty if nothing was understood.
    pub(super) caller: Option<String>,
    /// What to say, if it is not the model that decides.
    pub(super) script: Option<String>,
    /// The call ends after it.
    pub(super) closes: Option<HangupReason>,
    /// The caller is handed over after it.
    pub(super) connects: Option<String>,
    pub(super) span: Option<Range<u64>>,
    /// The utterance that it answers is still open: if the caller goes on, it is revoked.
    pub(super) owns_utterance: bool,
    /// The caller's turn has ended.
    pub(super) decided: bool,
    /// Its audio is allowed to play.
    pub(super) playing: bool,
    /// Transcription was asked for and has not come.
    pub(super) hearing: bool,
    /// An answer was asked for and is not complete.
    pub(super) thinking: bool,
    /// Its clauses are known, and those that were not heard are to be spoken.
    pub(super) rest: bool,
    pub(super) retry_at: Option<Instant>,
    pub(super) failure: Option<(Role, Failure)>,
    /// The caller was asked for patience.
    pub(super) moment: bool,
    /// When something last came of it.
    pub(super) progress: Instant,
    pub(super) times: StageTimes,
    pub(super) attempts: u32,
    pub(super) retries: u32,
    pub(super) stt_compute_us: u64,
    pub(super) thought: Option<Thought>,
    pub(super) cutter: Cutter,
    /// What the documents say of it; none before they were asked.
    pub(super) passages: Option<Vec<Passage>>,
    /// Who has chosen its words.
    pub(super) source: Source,
    /// Nothing was said before it.
    pub(super) alone: bool,
    answer_chars: usize,
    clauses: Vec<Clause>,
    tts_compute_us: u64,
}

impl Turn {
    pub(super) fn new(id: TurnId, kind: TurnKind, now: Instant) -> Box<Self> {
        Box::new(Self {
            id,
            kind,
            caller: None,
            script: None,
            closes: None,
            connects: None,
            span: None,
            owns_utterance: false,
            decided: true,
            playing: false,
            hearing: false,
            thinking: false,
            rest: false,
            retry_at: None,
            failure: None,
            moment: false,
            progress: now,
            times: StageTimes::default(),
            attempts: 1,
            retries: 0,
            stt_compute_us: 0,
            thought: None,
            cutter: Cutter::default(),
            passages: None,
            source: Source::Script,
            alone: false,
            answer_chars: 0,
            clauses: Vec::new(),
            tts_compute_us: 0,
        })
    }

    /// Forgets all work but the words of the caller; it goes on under a new name.
    pub(super) fn restart(&mut self, id: TurnId, at: Instant) {
        self.id = id;
        self.playing = false;
        self.hearing = false;
        self.thinking = false;
        self.rest = false;
        self.failure = None;
        self.thought = None;
        self.cutter = Cutter::default();
        self.answer_chars = 0;
        self.clauses.clear();
        self.retries += 1;
        self.retry_at = Some(at);
        let times = self.times;
        self.times = StageTimes {
            end_of_speech: times.end_of_speech,
            endpoint: times.endpoint,
            transcribe: times.transcribe,
            heard: times.heard,
            ..StageTimes::default()
        };
    }

    /// Takes a piece of the answer if that stays within `most` characters.
    pub(super) fn take_token(&mut self, text: &str, most: usize, out: &mut Vec<String>) {
        self.answer_chars += text.chars().count();
        if self.answer_chars <= most {
            self.cutter.push(text, out);
        }
    }

    /// Adds a clause; its id if there is something in it to be synthesised.
    pub(super) fn add_clause(&mut self, text: String) -> Option<ClauseId> {
        let speakable = is_speakable(&text);
        let id = ClauseId(u32::try_from(self.clauses.len()).unwrap_or(u32::MAX));
        let frames = if speakable { None } else { Some(0) };
        self.clauses.push(Clause { text, arrived: 0, frames, played: 0 });
        speakable.then_some(id)
    }

    /// Its clauses, with what was heard of them.
    pub(super) fn clauses(&self) -> Vec<KeptClause> {
        let keep =
            |clause: &Clause| KeptClause { text: clause.text.clone(), frames: clause.frames, played: clause.played };
        self.clauses.iter().map(keep).collect()
    }

    /// Takes over from a turn that was cut off: what was heard to its end stays heard, the rest is to be spoken.
    pub(super) fn tell_rest(&mut self, clauses: Vec<KeptClause>) {
        self.rest = true;
        self.moment = true;
        self.clauses = clauses
            .into_iter()
            .map(|clause| match clause.frames {
                Some(frames) if clause.played >= frames => {
                    Clause { text: clause.text, arrived: frames, frames: Some(frames), played: frames }
                }
                _ => Clause { text: clause.text, arrived: 0, frames: None, played: 0 },
            })
            .collect();
    }

    /// The answer is known: nobody thinks about it any more. It goes on under a new name.
    pub(super) fn recalled(&mut self, id: TurnId, source: Source, now: Instant) {
        self.id = id;
        self.thinking = false;
        self.source = source;
        self.cutter = Cutter::default();
        self.times.think = None;
        self.times.first_token = None;
        self.times.first_clause = Some(now);
    }

    /// What the model is shown beside the agent's facts.
    pub(super) fn passages(&self) -> &[Passage] {
        self.passages.as_deref().filter(|_| self.source == Source::Mind).unwrap_or_default()
    }

    pub(super) fn has_clauses(&self) -> bool {
        !self.clauses.is_empty()
    }

    /// Whether this frame belongs to it.
    pub(super) fn frame_arrived(&mut self, clause: ClauseId, now: Instant) -> bool {
        let Some(clause) = self.clauses.get_mut(clause.0 as usize) else { return false };
        clause.arrived = clause.arrived.saturating_add(1);
        self.times.first_audio.get_or_insert(now);
        true
    }

    pub(super) fn clause_spoken(&mut self, clause: ClauseId, frames: u32, compute_us: u64) {
        if let Some(clause) = self.clauses.get_mut(clause.0 as usize) {
            clause.frames = Some(frames);
            self.tts_compute_us = self.tts_compute_us.saturating_add(compute_us);
        }
    }

    pub(super) fn clause_played(&mut self, clause: ClauseId, frames: u32, now: Instant) {
        if !self.playing || frames == 0 {
            return;
        }
        if let Some(clause) = self.clauses.get_mut(clause.0 as usize) {
            clause.played = clause.played.max(frames);
            self.times.first_played.get_or_insert(now);
        }
    }

    /// Everything that was asked for has come.
    pub(super) fn is_ready(&self) -> bool {
        !self.hearing
            && !self.thinking
            && self.retry_at.is_none()
            && self.has_clauses()
            && self.clauses.iter().all(|clause| clause.frames.is_some())
    }

    /// The caller has heard all of it; `drained` says that the playout is empty.
    pub(super) fn is_heard(&self, drained: bool) -> bool {
        let played = |clause: &Clause| clause.frames.is_some_and(|frames| clause.played >= frames);
        self.is_ready() && (self.clauses.iter().all(played) || (self.playing && drained))
    }

    pub(super) fn frames_played(&self) -> u32 {
        self.clauses.iter().fold(0, |sum, clause| sum.saturating_add(clause.played))
    }

    /// Which role it waits for.
    pub(super) fn waits_for(&self) -> Role {
        if self.hearing {
            Role::Ears
        } else if self.thinking {
            Role::Mind
        } else {
            Role::Voice
        }
    }

    /// All that was generated.
    pub(super) fn generated(&self) -> String {
        self.clauses.iter().map(|clause| clause.text.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// What the caller has heard: whole clauses, and of the one that is playing the share of its words.
    pub(super) fn heard(&self) -> String {
        let mut heard: Vec<&str> = Vec::new();
        for clause in &self.clauses {
            let chars = u32::try_from(clause.text.chars().count()).unwrap_or(u32::MAX);
            let total = clause.frames.unwrap_or_else(|| clause.arrived.max(chars.saturating_mul(FRAMES_PER_CHAR)));
            let words: Vec<&str> = clause.text.split_whitespace().collect();
            if clause.played < total {
                let share = u64::from(clause.played) * words.len() as u64 / u64::from(total);
                heard.extend(words.into_iter().take(usize::try_from(share).unwrap_or(usize::MAX)));
                break;
            }
            heard.extend(words);
        }
        heard.join(" ")
    }

    pub(super) fn record(&self, call: CallId, outcome: Outcome, now: Instant) -> TurnRecord {
        let generated = self.generated();
        let heard = if outcome == Outcome::Completed { generated.clone() } else { self.heard() };
        TurnRecord {
            call,
            turn: self.id,
            kind: self.kind,
            outcome,
            failure: self.failure,
            caller: self.caller.clone().map(Pii::new),
            generated: Pii::new(generated),
            source: self.source,
            knowledge: self.passages().iter().map(|passage| passage.name.clone()).collect(),
            alone: self.alone,
            heard: Pii::new(heard),
            span: self.span.clone(),
            times: StageTimes { finished: Some(now), ..self.times },
            attempts: self.attempts,
            retries: self.retries,
            stt_compute_us: self.stt_compute_us,
            thought: self.thought,
            tts_compute_us: self.tts_compute_us,
            frames_played: self.frames_played(),
        }
    }
}
