//! What an agent always says, rendered ahead of time, so that a call can be greeted without waiting and apologised to
//! without an engine.
//!
//! Enters: texts of agents; an engine. Leaves: audio, from memory. Never here: a call. The audio outlives the engine
//! that rendered it, and where there is a disk for it, the daemon.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use callbox_wire::{CallId, ClauseId, Event, Failure, Request, TurnId};

use super::rendered::Rendered;
use super::shelf::{Phrase, RATE, Samples};
use crate::dialogue::{Agent, Cutter, StoredPhrase};
use crate::engine::{Engine, EngineState, News, Port};

/// The phrase book's own line to the engine; no call has this id.
const RENDERER: CallId = CallId(u64::MAX);

/// Frames that one phrase may have: 60 s.
const LONGEST: usize = 3000;

/// The clauses of a fixed text, cut as the dialogue cuts it when it says it.
pub(super) fn clauses(text: &str) -> Vec<String> {
    let (mut cutter, mut clauses) = (Cutter::for_script(), Vec::new());
    cutter.push(text, &mut clauses);
    cutter.finish(&mut clauses);
    clauses
}

/// A fixed clause, and which of the voice's speakers says it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Fixed {
    pub(super) voice: Option<String>,
    pub(super) text: String,
}

/// All that an agent may say without having been asked.
pub(super) fn fixed_texts(agent: &Agent) -> impl Iterator<Item = Fixed> + '_ {
    let stored = StoredPhrase::ALL.map(|phrase| agent.stored(phrase));
    let spoken = [agent.not_understood.as_str(), agent.repeat.as_str()];
    let prompts = agent.silence_prompts.iter().map(|prompt| prompt.as_str());
    let transfers = agent.transfers.iter().flat_map(|target| [target.announce.as_str(), target.unreached.as_str()]);
    // What is needed first is rendered first: the greeting, then what covers for a missing engine.
    let others = stored.into_iter().chain(spoken).chain(prompts).chain(transfers);
    let texts = clauses(&agent.opening()).into_iter().chain(others.flat_map(clauses));
    texts.map(|text| Fixed { voice: agent.voice().map(str::to_owned), text })
}

/// Phrases by their text and who says it.
#[derive(Clone, Default)]
pub(super) struct PhraseBook {
    phrases: Arc<Mutex<HashMap<Fixed, Phrase>>>,
    rendered: Option<Rendered>,
    line: Arc<tokio::sync::Mutex<()>>,
}

/// A phrase that could not be rendered.
#[derive(Debug, thiserror::Error)]
pub(super) enum RenderError {
    #[error("the engine was lost")]
    Lost,
    #[error("the engine's queue is full")]
    Full,
    #[error("the engine cannot speak it: {1}")]
    Failed(Failure, String),
    #[error("it is longer than a minute")]
    TooLong,
}

impl RenderError {
    /// Whether another attempt would end likewise.
    pub(super) fn is_the_text_s_fault(&self) -> bool {
        matches!(self, Self::Failed(Failure::Invalid, _) | Self::TooLong)
    }
}

impl PhraseBook {
    /// With what was rendered before.
    pub(super) fn new(rendered: Option<Rendered>, texts: &[Fixed], now: SystemTime) -> Self {
        let book = Self { rendered, ..Self::default() };
        book.load(texts, now);
        book
    }

    fn load(&self, texts: &[Fixed], now: SystemTime) {
        let Some(rendered) = &self.rendered else { return };
        let found = texts.iter().filter_map(|text| Some((text.clone(), rendered.load(text, now)?)));
        let found: Vec<_> = found.collect();
        self.lock().extend(found);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Fixed, Phrase>> {
        self.phrases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A phrase, if it was rendered.
    pub(super) fn get(&self, voice: Option<&str>, text: &str) -> Option<Phrase> {
        let fixed = Fixed { voice: voice.map(str::to_owned), text: text.to_owned() };
        self.lock().get(&fixed).cloned()
    }

    /// A whole stored phrase, if all of it was rendered.
    pub(super) fn stored(&self, agent: &Agent, phrase: StoredPhrase) -> Option<Phrase> {
        let clauses = clauses(agent.stored(phrase));
        let parts = clauses.iter().map(|clause| self.get(agent.voice(), clause)).collect::<Option<Vec<_>>>()?;
        Some(parts.iter().flat_map(|part| part.iter().copied()).collect())
    }

    /// Forgets all others.
    pub(super) fn keep(&self, texts: &[Fixed]) {
        self.lock().retain(|text, _| texts.contains(text));
    }

    fn holds(&self, texts: &[Fixed]) -> bool {
        let phrases = self.lock();
        texts.iter().all(|text| phrases.contains_key(text))
    }

    /// Renders what is missing, now and whenever another engine is ready. Comes back when all of it can be said without
    /// an engine.
    ///
    /// # Errors
    /// The engine cannot speak it, or was stopped.
    pub(super) async fn fill(&self, engine: &Engine, texts: &[Fixed]) -> Result<(), RenderError> {
        let mut state = engine.state();
        loop {
            if self.holds(texts) {
                return Ok(());
            }
            if state.wait_for(|state| matches!(state, EngineState::Ready(_))).await.is_err() {
                return Err(RenderError::Lost);
            }
            // One line to the engine, one at a time.
            let line = self.line.lock().await;
            let rendered = self.render(engine, texts).await;
            drop(line);
            match rendered {
                Err(RenderError::Lost | RenderError::Full) => {
                    if state.changed().await.is_err() {
                        return Err(RenderError::Lost);
                    }
                }
                rendered => return rendered,
            }
        }
    }

    /// One that cannot be spoken keeps none of the others from being rendered: they may be another agent's.
    async fn render(&self, engine: &Engine, texts: &[Fixed]) -> Result<(), RenderError> {
        let mut port = engine.attach(RENDERER);
        let mut first = Ok(());
        for (turn, text) in (0..).map(TurnId).zip(texts) {
            if self.lock().contains_key(text) {
                continue;
            }
            let frames = match speak(&mut port, turn, text.voice.as_deref(), &text.text).await {
                Ok(frames) => frames,
                Err(error @ (RenderError::Lost | RenderError::Full)) => return Err(error),
                Err(error) => {
                    first = first.and(Err(error));
                    continue;
                }
            };
            if let Some(rendered) = &self.rendered
                && let Err(error) = rendered.store(text, &frames)
            {
                tracing::warn!(%error, "a fixed phrase cannot be kept: the next daemon has to render it again");
            }
            self.lock().insert(text.clone(), frames.into());
        }
        first
    }
}

/// Has a text spoken on a line that no caller hears.
pub(super) async fn speak(
    port: &mut Port,
    turn: TurnId,
    voice: Option<&str>,
    text: &str,
) -> Result<Vec<Samples>, RenderError> {
    let (call, clause, rate) = (port.call(), ClauseId(0), RATE);
    // One more than it may have, by which it is known to be too long.
    let credit = u32::try_from(LONGEST + 1).unwrap_or(u32::MAX);
    let (text, voice) = (text.to_owned(), voice.map(str::to_owned));
    let request = Request::Speak { call, turn, clause, text, rate, credit, voice };
    port.send(request).map_err(|_| RenderError::Full)?;
    let mut frames: Vec<Samples> = Vec::new();
    loop {
        match port.recv().await {
            Some(News::Event(Event::Audio { turn: of, pcm, .. })) if of == turn => {
                if frames.len() == LONGEST {
                    // Whatever is spoken next does not wait for the rest of it.
                    port.send(Request::Cancel { call, turn }).map_err(|_| RenderError::Full)?;
                    return Err(RenderError::TooLong);
                }
                frames.extend(Samples::try_from(pcm.0.as_slice()));
            }
            Some(News::Event(Event::Spoken { turn: of, .. })) if of == turn => return Ok(frames),
            Some(News::Event(Event::Failed { turn: of, failure, reason, .. })) if of == turn => {
                return Err(RenderError::Failed(failure, reason));
            }
            Some(News::Event(_) | News::Ready) => {}
            Some(News::Lost) | None => return Err(RenderError::Lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Script, ScriptedEngine};

    #[tokio::test(start_paused = true)]
    async fn a_phrase_that_cannot_be_spoken_keeps_no_other_from_being_rendered() {
        let script: Script = toml::from_str("answer = []").expect("a script");
        let engine = Engine::start(ScriptedEngine::new(script), Vec::new());
        // At 60 ms for each of its characters.
        let texts = ["a".repeat(1001), "Hello.".to_owned()].map(|text| Fixed { voice: None, text });
        let book = PhraseBook::default();
        let filled = book.fill(&engine, &texts).await;
        assert!(matches!(filled, Err(RenderError::TooLong)), "{filled:?}");
        assert!(book.get(None, &texts[0].text).is_none() && book.get(None, "Hello.").is_some());
        engine.stop().await;
    }
}
