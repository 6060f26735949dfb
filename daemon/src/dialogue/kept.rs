//! A conversation that outlives its process. Enters: a dialogue, or what was kept of one; leaves: the other. Kept is what
//! the caller would miss: what was said, what is owed to them. Speech that was going on is with whoever keeps the audio.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use callbox_wire::{CallId, ChatMessage, ClauseId, TurnId};
use serde::{Deserialize, Serialize};

use super::agent::Agent;
use super::endpoint::samples;
use super::errand::Errand;
use super::io::HangupReason;
use super::machine::{Dialogue, Engine, PREROLL, Phase, Resume, TAIL};
use super::prompt::History;
use super::record::TurnKind;
use super::turn::Turn;
use crate::base::Source;

/// A caller who is owed something is asked for patience if there is no engine so soon. One that has outlived the daemon
/// is there at once.
const SOOTHE: Duration = Duration::from_millis(700);

/// A dialogue as plain data. Holds words of a caller: memory is its only place. Prints nothing.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    answered_ago: Duration,
    next_turn: TurnId,
    messages: Vec<ChatMessage>,
    pending: String,
    interrupted: bool,
    prompts: usize,
    misses: u32,
    slack: Duration,
    keys: String,
    /// The caller was speaking.
    speaking: bool,
    turn: Option<KeptTurn>,
    closing: Option<HangupReason>,
    leaving: Option<HangupReason>,
    /// The caller was handed over.
    #[serde(default)]
    away: Option<String>,
    #[serde(default)]
    announced: bool,
    #[serde(default)]
    errands: VecDeque<Errand>,
}

/// The turn in progress.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct KeptTurn {
    pub(super) kind: TurnKind,
    pub(super) caller: Option<String>,
    pub(super) script: Option<String>,
    pub(super) closes: Option<HangupReason>,
    #[serde(default)]
    pub(super) connects: Option<String>,
    #[serde(default)]
    pub(super) source: Source,
    /// Its audio was allowed to play, and no more words are to come.
    pub(super) telling: bool,
    pub(super) clauses: Vec<KeptClause>,
}

/// A piece of it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct KeptClause {
    pub(super) text: String,
    /// How long it is, if that was known.
    pub(super) frames: Option<u32>,
    /// How much of it was sent.
    pub(super) played: u32,
}

impl Dialogue {
    /// What to keep of it now; nothing before the call is answered and after its end.
    #[must_use]
    pub fn kept(&self) -> Option<Kept> {
        if self.phase != Phase::Live {
            return None;
        }
        let (messages, pending, interrupted) = self.history.kept();
        // What was owed when the engine was lost is still owed.
        let owed = match &self.engine {
            Engine::Down { resume: Resume::Again(turn) | Resume::Rest(turn), .. } => Some(turn.keep()),
            Engine::Down { resume: Resume::Greet, .. } => {
                Some(Turn::new(TurnId(0), TurnKind::Greeting, self.now).keep())
            }
            _ => None,
        };
        // The beginning of a long question was understood, and the rest of it is not known yet.
        let understood =
            self.turn.as_ref().and_then(|turn| turn.caller.as_deref()).is_some_and(|words| !words.is_empty());
        let folded = if understood { "" } else { self.folded.as_str() };
        let pending = [pending, folded].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
        let asks_again = matches!(&self.engine, Engine::Down { resume: Resume::Repeat, .. });
        Some(Kept {
            answered_ago: self.now.saturating_duration_since(self.answered),
            next_turn: self.next_turn,
            messages: messages.to_vec(),
            pending,
            interrupted,
            prompts: self.prompts,
            misses: self.misses,
            slack: self.slack,
            keys: self.keys.clone(),
            speaking: self.ears.utterance().is_some() || asks_again,
            turn: self.turn.as_deref().map(Turn::keep).or(owed),
            closing: self.closing.map(|(reason, _)| reason),
            leaving: self.leaving.map(|(reason, _)| reason),
            away: self.away.clone(),
            announced: self.announced,
            errands: self.errands.clone(),
        })
    }

    /// From which sample of the listening stream another engine would have to hear the caller again: where the words
    /// begin that were not understood so far.
    #[must_use]
    pub fn unheard_from(&self) -> u64 {
        let attempt = self.turn.as_ref().filter(|turn| turn.owns_utterance || turn.caller.is_none());
        if let Some((turn, span)) = attempt.and_then(|turn| Some((turn, turn.span.as_ref()?))) {
            let understood = turn.caller.as_deref().is_some_and(|words| !words.is_empty());
            return if understood { span.end } else { span.start };
        }
        self.ears.utterance().map_or_else(|| self.ears.head(), |said| said.onset.saturating_sub(samples(PREROLL)))
    }

    /// How long the call has been answered.
    #[must_use]
    pub fn lasting(&self) -> Duration {
        self.now.saturating_duration_since(self.answered)
    }

    /// Goes on `gap` after it was kept, as after the loss of an engine: it waits for [`super::Input::EngineReady`], and
    /// then does what is owed. An answer that was cut off goes on with the clause that was cut, from its beginning: half
    /// a clause means nothing, and the whole answer was half heard already.
    #[must_use]
    pub fn restore(call: CallId, agent: Arc<Agent>, kept: Kept, gap: Duration, now: Instant) -> Self {
        let mut dialogue = Self::new(call, Arc::clone(&agent), now);
        dialogue.phase = Phase::Live;
        dialogue.answered = now.checked_sub(kept.answered_ago + gap).unwrap_or(now);
        dialogue.next_turn = kept.next_turn;
        dialogue.history = History::resume(Arc::clone(&agent), kept.messages, kept.pending, kept.interrupted);
        dialogue.prompts = kept.prompts;
        dialogue.misses = kept.misses;
        dialogue.slack = kept.slack;
        dialogue.keys_by = (!kept.keys.is_empty()).then_some(now);
        dialogue.keys = kept.keys;
        dialogue.away = kept.away;
        dialogue.announced = kept.announced;
        dialogue.errands = kept.errands;
        dialogue.leaving = kept.leaving.map(|reason| (reason, now + TAIL));
        if let Some(reason) = kept.closing {
            dialogue.close(reason);
        }
        let resume = match kept.turn {
            Some(kept) => owed(kept, dialogue.next_turn, &agent, now),
            None if kept.speaking => Resume::Repeat,
            None => Resume::Listen,
        };
        dialogue.soothe_at = (!matches!(resume, Resume::Listen)).then_some(now + SOOTHE);
        dialogue.engine = Engine::Down { since: now, resume };
        dialogue
    }
}

/// What the caller of this turn is owed.
fn owed(kept: KeptTurn, id: TurnId, agent: &Agent, now: Instant) -> Resume {
    let mut turn = Turn::new(id, kept.kind, now);
    turn.caller = kept.caller.filter(|words| !words.is_empty());
    turn.script = kept.script;
    turn.closes = kept.closes;
    turn.connects = kept.connects;
    turn.source = kept.source;
    if kept.telling && !kept.clauses.is_empty() {
        turn.tell_rest(kept.clauses);
        return Resume::Rest(turn);
    }
    match (kept.kind, &turn.caller) {
        (TurnKind::Greeting, _) => {
            turn.script.get_or_insert_with(|| agent.opening());
            Resume::Again(turn)
        }
        (TurnKind::Answer, None) => Resume::Repeat,
        _ => Resume::Again(turn),
    }
}

impl Turn {
    /// What to keep of it.
    pub(super) fn keep(&self) -> KeptTurn {
        KeptTurn {
            kind: self.kind,
            caller: self.caller.clone(),
            script: self.script.clone(),
            closes: self.closes,
            connects: self.connects.clone(),
            source: self.source,
            telling: (self.playing || self.rest) && !self.hearing && !self.thinking,
            clauses: self.clauses(),
        }
    }

    /// Clauses that are to be spoken, of a turn of which a part was heard before.
    pub(super) fn unspoken(&self) -> Vec<(ClauseId, String)> {
        let clauses = (0..).map(ClauseId).zip(self.clauses());
        clauses.filter(|(_, clause)| clause.frames.is_none()).map(|(id, clause)| (id, clause.text)).collect()
    }
}
