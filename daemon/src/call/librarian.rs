//! Who sees to the cache of answers and to documents between calls: vectors of questions and passages that have none, audio
//! of answers that are to be ready. Enters: what is missing; an engine. Leaves: the same, done, one piece at a time. Never here: a call, a choice of
//! what to answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use callbox_wire::{CallId, Event, Request, Role, TurnId};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use super::agents::Agents;
use super::exchange::Exchange;
use super::phrases::{self, RenderError};
use crate::base::Transcripts;
use crate::cache::{Answers, Clause, Rules, reading};
use crate::dialogue::{Agent, Faq, system_prompt};
use crate::engine::{Engine, EngineState, News, Port};
use crate::knowledge::{Knowledge, Wanted};

/// The librarian's own line to the engine; no call has this id.
const LIBRARIAN: CallId = CallId(u64::MAX - 1);

/// Questions that are asked for at once.
const PORTION: usize = 16;

/// How long the engine may take for one of them. Callers come first.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the cache has to know of every agent. `voice` and `mind` name the files that speak and think; `adapters` the hash of
/// each adapter.
pub(super) fn rules(
    agents: &Agents,
    knowledge: &Knowledge,
    voice: &str,
    mind: &str,
    adapters: &BTreeMap<String, String>,
) -> Vec<Rules> {
    let of = |agent: &Arc<Agent>| {
        // Without one it is as it was before there were any: what was learned then is still true.
        let adapted = agent.adapter().and_then(|name| adapters.get(name)).map(|sha256| format!("{mind} {sha256}"));
        let mind = adapted.as_deref().unwrap_or(mind);
        let whose = agent.voice().map(|speaker| format!("{voice} {speaker}"));
        rules_of(agent, &knowledge.digest(agent.name.as_str()), whose.as_deref().unwrap_or(voice), mind)
    };
    agents.iter().map(of).collect()
}

/// `documents`: what stands for all that they say.
fn rules_of(agent: &Agent, documents: &str, voice: &str, mind: &str) -> Rules {
    let digest = |parts: &[&str]| {
        let mut digest = Sha256::new();
        for part in parts {
            digest.update(part.as_bytes());
            digest.update([0]);
        }
        hex::encode(digest.finalize())
    };
    let prompt = system_prompt(agent);
    let sampling = format!("{:?}", agent.sampling);
    Rules {
        agent: agent.name.as_str().to_owned(),
        own: reading::own_names(agent.persona.as_str()),
        prompt: digest(&[&prompt, documents]),
        mind: digest(&[&prompt, documents, &sampling, voice, mind]),
        voice: voice.to_owned(),
        speaker: agent.voice().map(str::to_owned),
        threshold: agent.cache.threshold,
        ttl: Duration::from_secs(u64::from(agent.cache.ttl_hours) * 3600),
        most: agent.cache.most,
        // What is learned is a caller's words: only of an agent that says itself that they are kept as they are.
        learn: agent.cache.learn && agent.privacy.transcripts == Some(Transcripts::Full),
        faq: Faq::pairs(&agent.faq).map(|(ask, say)| (ask.to_owned(), say.to_owned())).collect(),
    }
}

/// The model of a role that the engine offers now.
pub(super) fn model_of(engine: &Engine, role: Role) -> Option<String> {
    match &*engine.state().borrow() {
        EngineState::Ready(roles) => roles.iter().find(|info| info.role == role).map(|info| info.model.clone()),
        _ => None,
    }
}

impl Exchange {
    /// Works for the cache and for documents until the daemon ends.
    pub async fn keep_answers(self: Arc<Self>) {
        let mut state = self.engine.state();
        let mut known = self.knowledge.changes();
        loop {
            if state.wait_for(|state| matches!(state, EngineState::Ready(_))).await.is_err() {
                return;
            }
            let embeds = model_of(&self.engine, Role::Embed);
            if let Some(model) = &embeds {
                self.answers.embeds_with(model);
                self.knowledge.embeds_with(model);
            }
            // What was answered from documents that say something else now is not true for ever.
            let changes = self.knowledge.changes();
            if std::mem::replace(&mut known, changes) != changes {
                self.refresh_answers(&self.agents());
            }
            let done = work(&self.engine, &self.answers, &self.knowledge, embeds.is_some()).await;
            tokio::select! {
                () = self.answers.work(), if done => {}
                () = self.knowledge.work(), if done => {}
                changed = state.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Does what there is to do; false if the engine was lost.
async fn work(engine: &Engine, answers: &Answers, knowledge: &Knowledge, embeds: bool) -> bool {
    let mut port = engine.attach(LIBRARIAN);
    let mut turn = TurnId(0);
    loop {
        let missing = if embeds { answers.to_embed(PORTION) } else { Vec::new() };
        let wanted = if embeds { knowledge.to_embed() } else { None };
        let idle = missing.is_empty() && wanted.is_none();
        for (agent, id, question) in missing {
            turn = turn.next();
            let text = question.into_revealed();
            let request = Request::Embed { call: LIBRARIAN, turn, text, urgent: false };
            match embedded(&mut port, turn, request).await {
                Some(vector) => answers.embedded(&agent, id, &vector),
                None => return false,
            }
        }
        if let Some(wanted) = wanted {
            turn = turn.next();
            if !embed_for(&mut port, turn, knowledge, wanted).await {
                return false;
            }
        }
        if let Some((agent, speaker, answer)) = answers.to_render() {
            match render(&mut port, &mut turn, speaker.as_deref(), &answer).await {
                Ok(clauses) => answers.keep_audio(&agent, speaker.as_deref(), &answer, &clauses),
                Err(RenderError::Lost | RenderError::Full) => return false,
                Err(error) => {
                    tracing::warn!(%error, "an answer of the cache cannot be spoken");
                    answers.cannot_render(&answer);
                }
            }
        } else if idle {
            return true;
        }
    }
}

/// False if the engine was lost.
async fn embed_for(port: &mut Port, turn: TurnId, knowledge: &Knowledge, wanted: Wanted) -> bool {
    let (text, urgent) = match &wanted {
        Wanted::Question(question, _) => (question.reveal().clone(), true),
        Wanted::Passage(.., text) => (text.clone(), false),
    };
    let vector = embedded(port, turn, Request::Embed { call: LIBRARIAN, turn, text, urgent }).await;
    match (vector, wanted) {
        (Some(vector), Wanted::Passage(agent, state, at, _)) => knowledge.embedded(&agent, state, at, &vector),
        // They may not wait any more.
        (Some(vector), Wanted::Question(_, done)) => drop(done.send(vector)),
        (None, _) => return false,
    }
    true
}

async fn embedded(port: &mut Port, turn: TurnId, request: Request) -> Option<Vec<f32>> {
    port.send(request).ok()?;
    loop {
        match timeout(PATIENCE, port.recv()).await {
            Ok(Some(News::Event(Event::Embedded { turn: of, vector, .. }))) if of == turn => return Some(vector),
            Ok(Some(News::Event(Event::Failed { .. }) | News::Lost) | None) | Err(_) => return None,
            Ok(Some(_)) => {}
        }
    }
}

async fn render(
    port: &mut Port,
    turn: &mut TurnId,
    speaker: Option<&str>,
    answer: &str,
) -> Result<Vec<Clause>, RenderError> {
    let mut clauses = Vec::new();
    for text in phrases::clauses(answer) {
        *turn = turn.next();
        let frames = phrases::speak(port, *turn, speaker, &text).await?;
        clauses.push(Clause { text, frames });
    }
    Ok(clauses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_with_one_adapter_is_not_true_with_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let knowledge = Knowledge::new(folder.path().join("knowledge"));
        let digest = |adapter: &str, sha256: &str| {
            let plain = "name = 'desk'\nnumbers = ['*']\npersona = 'You.'\ngreeting = 'Hello.'\ngoodbye = 'Bye.'\n";
            std::fs::write(folder.path().join("desk.toml"), format!("{plain}[sampling]\n{adapter}")).expect("written");
            let agents = Agents::read(&[folder.path().to_owned()]).expect("an agent");
            let adapters = [("a", sha256), ("b", "of b")].map(|(name, sha256)| (name.to_owned(), sha256.to_owned()));
            let rules = rules(&agents, &knowledge, "voice", "mind", &adapters.into());
            rules.first().expect("of one agent").mind.clone()
        };
        let digests = [("", "1"), ("adapter = 'a'", "1"), ("adapter = 'a'", "2"), ("adapter = 'b'", "1")];
        let digests = digests.map(|(adapter, sha256)| digest(adapter, sha256));
        let different: std::collections::BTreeSet<_> = digests.iter().collect();
        assert_eq!(different.len(), 4);
        assert_eq!(digest("", "2"), digests[0], "of no concern to who has none");
    }
}
