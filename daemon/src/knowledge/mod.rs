//! What agents know beside their facts: documents of the owner's and of operators', of which a caller's question finds the
//! passages that speak of it.
//!
//! Enters: Markdown, text and CSV files; questions of callers with their vectors. Leaves: passages for the model's prompt.
//! Never here: an engine, a call, a wait: what a call asks is answered from memory; a caller's words stay with who asks.
//!
//! ```text
//!  files ─► documents ─► passages ─► index ◄── vectors (of the engine, one by one)
//!  question ─► index: likeness of meaning + share of words ─► the nearest passages
//! ```

mod documents;
mod index;
mod metrics;
mod passages;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use documents::{Document, DocumentError, read};
use index::Index;
pub use metrics::KnowledgeMetrics;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, oneshot};

use crate::base::{Passage, Pii};

/// Passages that a question gets, at most.
pub const MOST: usize = 5;

/// Questions of operators that wait for a vector, at most.
const QUERIES: usize = 16;

/// How long such a one waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// A document, as it is told of.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, utoipa::ToSchema)]
#[schema(as = KnownDocument)]
pub struct Listed {
    /// Whose it is.
    pub agent: String,
    /// Its name.
    pub name: String,
    /// Whether an operator has added it; else it is in the agent's folder.
    pub added: bool,
    /// Passages that it was cut into.
    pub passages: usize,
    /// Of them, those that are found by their words alone so far.
    pub without_vector: usize,
}

/// A piece of work for whoever has an engine.
pub enum Wanted {
    /// A passage: its agent, the state of that agent's documents, its place, its text.
    Passage(String, u64, usize, String),
    /// A question, and who waits for its vector.
    Question(Pii<String>, oneshot::Sender<Vec<f32>>),
}

/// All documents of an agent.
#[derive(Default)]
struct Shelf {
    own: Arc<[Document]>,
    added: Vec<Document>,
    read: Read,
    /// Another one whenever a document has changed.
    state: u64,
}

/// What follows from documents: made before anything is locked, because calls look things up meanwhile.
#[derive(Default)]
struct Read {
    index: Index,
    digest: String,
}

impl Read {
    fn of(own: &[Document], added: &[Document]) -> Self {
        let passages: Vec<Passage> = own.iter().chain(added).flat_map(|document| document.passages.clone()).collect();
        let mut digest = Sha256::new();
        for part in passages.iter().flat_map(|passage| [&passage.name, &passage.text]) {
            digest.update(part.as_bytes());
            digest.update([0]);
        }
        Self { index: Index::new(passages), digest: hex::encode(digest.finalize()) }
    }
}

impl Shelf {
    fn documents(&self) -> impl Iterator<Item = &Document> {
        self.own.iter().chain(&self.added)
    }

    fn replace(&mut self, own: Arc<[Document]>, added: Vec<Document>, mut read: Read) {
        read.index.take_vectors(std::mem::take(&mut self.read.index));
        (self.own, self.added, self.read) = (own, added, read);
        self.state += 1;
    }
}

#[derive(Default)]
struct State {
    /// How often any document has changed.
    changes: u64,
    shelves: BTreeMap<String, Shelf>,
    /// The model that vectors are of.
    model: String,
    queries: VecDeque<(Pii<String>, oneshot::Sender<Vec<f32>>)>,
}

/// The documents of all agents; cheap to clone.
#[derive(Clone)]
pub struct Knowledge {
    state: Arc<Mutex<State>>,
    writing: Arc<Mutex<()>>,
    /// Holds a folder for each agent, with what operators have added.
    folder: Arc<Path>,
    work: Arc<Notify>,
    metrics: KnowledgeMetrics,
}

impl std::fmt::Debug for Knowledge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Knowledge")
    }
}

impl Knowledge {
    /// Nothing is known before [`Knowledge::serve`]. What operators add is put below `folder`.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self {
            state: Arc::default(),
            writing: Arc::default(),
            folder: folder.into(),
            work: Arc::default(),
            metrics: KnowledgeMetrics::default(),
        }
    }

    /// What it counts.
    #[must_use]
    pub const fn metrics(&self) -> &KnowledgeMetrics {
        &self.metrics
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is changed under the lock is changed whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gauge(&self, state: &State) {
        let count = state.shelves.values().map(|shelf| shelf.read.index.len()).sum();
        self.metrics.passages(count);
        self.work.notify_one();
    }

    /// These agents are there, with these documents in their folders. Passages that were there before keep their vectors.
    pub fn serve<'a>(&self, agents: impl Iterator<Item = (&'a str, Arc<[Document]>)>) {
        let _writing = self.writing();
        let mut changed = BTreeMap::new();
        for (agent, own) in agents {
            let added = read(&self.folder.join(agent)).unwrap_or_else(|error| {
                tracing::warn!(agent, %error, "what was added to what an agent knows is not used");
                Vec::new()
            });
            let same = |shelf: &Shelf| shelf.own == own && shelf.added == added;
            let stays = self.state().shelves.get(agent).is_some_and(same);
            let other = (!stays).then(|| (Read::of(&own, &added), own, added));
            changed.insert(agent.to_owned(), other);
        }
        let mut state = self.state();
        let mut before = std::mem::take(&mut state.shelves);
        for (agent, other) in changed {
            let mut shelf = before.remove(&agent).unwrap_or_default();
            if let Some((read, own, added)) = other {
                shelf.replace(own, added, read);
                state.changes += 1;
            }
            state.shelves.insert(agent, shelf);
        }
        self.gauge(&state);
    }

    /// What stands for all that an agent's documents say: another one as soon as they say something else.
    #[must_use]
    pub fn digest(&self, agent: &str) -> String {
        self.state().shelves.get(agent).map(|shelf| shelf.read.digest.clone()).unwrap_or_default()
    }

    /// Whether an agent has any documents.
    #[must_use]
    pub fn has(&self, agent: &str) -> bool {
        self.state().shelves.get(agent).is_some_and(|shelf| shelf.read.index.len() > 0)
    }

    /// The passages that speak of what a caller asks, the nearest first.
    #[must_use]
    pub fn look(&self, agent: &str, question: &str, vector: Option<&[f32]>) -> Vec<Passage> {
        let found: Vec<Passage> =
            self.nearest(agent, question, vector).into_iter().map(|(passage, _)| passage).collect();
        self.metrics.looked(match (found.is_empty(), vector) {
            (true, _) => "nothing",
            (false, Some(_)) => "meaning",
            (false, None) => "words",
        });
        found
    }

    fn nearest(&self, agent: &str, question: &str, vector: Option<&[f32]>) -> Vec<(Passage, f32)> {
        let state = self.state();
        let Some(shelf) = state.shelves.get(agent) else { return Vec::new() };
        let nearest = shelf.read.index.rank(question, vector);
        nearest.into_iter().take(MOST).map(|(passage, score)| (passage.clone(), score)).collect()
    }
}

/// For operators.
impl Knowledge {
    /// Every document, of this agent or of all.
    #[must_use]
    pub fn list(&self, agent: Option<&str>) -> Vec<Listed> {
        let state = self.state();
        let shelves = state.shelves.iter().filter(|(name, _)| agent.is_none_or(|agent| agent == name.as_str()));
        shelves
            .flat_map(|(agent, shelf)| {
                let own = shelf.own.len();
                shelf.documents().enumerate().map(move |(at, document)| {
                    let (passages, without_vector) = shelf.read.index.count(&document.name);
                    let (agent, name) = (agent.clone(), document.name.clone());
                    Listed { agent, name, added: at >= own, passages, without_vector }
                })
            })
            .collect()
    }

    /// The passages that a call of this agent would get for a question, each with how near it is. Waits for its vector.
    ///
    /// # Errors
    /// One sentence, if there is no such agent.
    pub async fn query(&self, agent: &str, question: &str) -> Result<Vec<(Passage, f32)>, String> {
        let answer = {
            let mut state = self.state();
            known(&state, agent)?;
            let (done, answer) = oneshot::channel();
            if state.queries.len() < QUERIES {
                state.queries.push_back((Pii::new(question.to_owned()), done));
            }
            answer
        };
        self.work.notify_one();
        let vector = tokio::time::timeout(PATIENCE, answer).await.ok().and_then(Result::ok);
        Ok(self.nearest(agent, question, vector.as_deref()))
    }

    /// Adds a document to what an agent knows, or replaces one that was added. Waits for the disk.
    ///
    /// # Errors
    /// One sentence, if it cannot be; then nothing has changed.
    pub fn put(&self, agent: &str, name: &str, text: &str) -> Result<(), String> {
        let document = Document::new(name, text).map_err(|error| error.to_string())?;
        let _writing = self.writing();
        let (own, mut added) = self.documents(agent)?;
        if own.iter().any(|own| own.name == name) {
            return Err(format!("{name} is in the agent's own folder: change it there, or take another name"));
        }
        added.retain(|document| document.name != name);
        added.push(document);
        added.sort_by(|a, b| a.name.cmp(&b.name));
        documents::fits(own.iter().chain(&added)).map_err(|error| error.to_string())?;
        documents::write(&self.folder.join(agent), name, text).map_err(|error| error.to_string())?;
        self.replace(agent, own, added);
        Ok(())
    }

    /// Takes away a document that was added; false if there is none. Waits for the disk.
    ///
    /// # Errors
    /// One sentence, if it cannot be taken away.
    pub fn remove(&self, agent: &str, name: &str) -> Result<bool, String> {
        let _writing = self.writing();
        let (own, mut added) = self.documents(agent)?;
        if own.iter().any(|own| own.name == name) {
            return Err(format!("{name} is in the agent's own folder: remove it there, then `callbox reload`"));
        }
        let count = added.len();
        added.retain(|document| document.name != name);
        if added.len() == count {
            return Ok(false);
        }
        documents::remove(&self.folder.join(agent), name).map_err(|error| error.to_string())?;
        self.replace(agent, own, added);
        Ok(true)
    }

    /// Whoever changes documents does so alone: the state is not locked while the disk works.
    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn documents(&self, agent: &str) -> Result<(Arc<[Document]>, Vec<Document>), String> {
        let state = self.state();
        known(&state, agent).map(|shelf| (Arc::clone(&shelf.own), shelf.added.clone()))
    }

    fn replace(&self, agent: &str, own: Arc<[Document]>, added: Vec<Document>) {
        let read = Read::of(&own, &added);
        let mut state = self.state();
        if let Some(shelf) = state.shelves.get_mut(agent) {
            shelf.replace(own, added, read);
            state.changes += 1;
        }
        self.gauge(&state);
    }
}

fn known<'a>(state: &'a State, agent: &str) -> Result<&'a Shelf, String> {
    state.shelves.get(agent).ok_or_else(|| {
        let known = state.shelves.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        format!("there is no agent `{agent}`; known: {known}")
    })
}

/// Work for whoever has an engine.
impl Knowledge {
    /// Comes back when there may be something to embed, or documents have changed.
    pub async fn work(&self) {
        self.work.notified().await;
    }

    /// How often any document has changed.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Vectors are of this model from now on.
    pub fn embeds_with(&self, model: &str) {
        let mut state = self.state();
        if state.model != model {
            model.clone_into(&mut state.model);
            state.shelves.values_mut().for_each(|shelf| shelf.read.index.drop_vectors());
        }
    }

    /// What is to be embedded next: who asks comes first.
    #[must_use]
    pub fn to_embed(&self) -> Option<Wanted> {
        let mut state = self.state();
        // Who has given up is passed over.
        while let Some((question, done)) = state.queries.pop_front() {
            if !done.is_closed() {
                return Some(Wanted::Question(question, done));
            }
        }
        state.shelves.iter().find_map(|(agent, shelf)| {
            let (at, text) = shelf.read.index.without_vector()?;
            Some(Wanted::Passage(agent.clone(), shelf.state, at, text))
        })
    }

    /// The vector of a passage has come; of one that is not there any more it says nothing.
    pub fn embedded(&self, agent: &str, of: u64, at: usize, vector: &[f32]) {
        if let Some(shelf) = self.state().shelves.get_mut(agent).filter(|shelf| shelf.state == of) {
            shelf.read.index.set_vector(at, vector);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knowledge(folder: &Path) -> Knowledge {
        let knowledge = Knowledge::new(folder.to_owned());
        knowledge.serve([("desk", own("The pool opens at seven.")), ("sales", Arc::default())].into_iter());
        knowledge
    }

    fn own(text: &str) -> Arc<[Document]> {
        Arc::new([Document::new("house.md", text).expect("a document")])
    }

    fn embed_all(knowledge: &Knowledge) -> usize {
        let mut count = 0;
        while let Some(Wanted::Passage(agent, state, at, _)) = knowledge.to_embed() {
            knowledge.embedded(&agent, state, at, &[1.0, 0.0]);
            count += 1;
        }
        count
    }

    #[test]
    fn what_operators_add_is_known_at_once_and_outlives_the_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = knowledge(folder.path());
        let before = first.digest("desk");
        first.put("desk", "prices.csv", "Room,Price\nDouble,120\n").expect("added");
        assert_ne!(first.digest("desk"), before);
        for again in [first.clone(), knowledge(folder.path())] {
            let found = again.look("desk", "What is the price of a double room?", None);
            assert_eq!(found, [Passage { name: "prices.csv".into(), text: "Room: Double; Price: 120.".into() }]);
            assert_eq!(again.look("sales", "What is the price of a double room?", None), []);
            let listed: Vec<_> = again.list(Some("desk")).into_iter().map(|one| (one.name, one.added)).collect();
            assert_eq!(listed, [("house.md".to_owned(), false), ("prices.csv".to_owned(), true)]);
        }
        assert_eq!(first.remove("desk", "prices.csv"), Ok(true));
        assert_eq!(first.remove("desk", "prices.csv"), Ok(false));
        assert_eq!((first.digest("desk"), knowledge(folder.path()).digest("desk")), (before.clone(), before));
    }

    #[test]
    fn what_cannot_be_added_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let knowledge = knowledge(folder.path());
        for (agent, name, text, why) in [
            ("nobody", "a.md", "x", "there is no agent `nobody`; known: desk, sales"),
            ("desk", "house.md", "x", "in the agent's own folder"),
            ("desk", "../a.md", "x", "no name of a document"),
            ("desk", "a.pdf", "x", "no name of a document"),
            ("desk", "a.md", "", "no text"),
        ] {
            let said = knowledge.put(agent, name, text).expect_err(name);
            assert!(said.contains(why), "{said}");
        }
        let many = "word ".repeat(100).repeat(2100);
        assert!(knowledge.put("desk", "a.txt", &many).is_err_and(|said| said.contains("at most 2000 passages")));
        assert_eq!(knowledge.list(None).len(), 1);
        assert!(std::fs::read_dir(folder.path()).is_ok_and(|mut all| all.next().is_none()));
    }

    #[test]
    fn vectors_are_made_once_for_each_passage_and_model() {
        let folder = tempfile::tempdir().expect("a folder");
        let knowledge = knowledge(folder.path());
        assert_eq!(embed_all(&knowledge), 1);
        knowledge.put("desk", "a.md", "Dogs are welcome.").expect("added");
        let Some(Wanted::Passage(agent, state, at, text)) = knowledge.to_embed() else { panic!("nothing is wanted") };
        assert_eq!(text, "Dogs are welcome.");
        knowledge.put("desk", "a.md", "Dogs are not welcome.").expect("replaced");
        knowledge.embedded(&agent, state, at, &[1.0, 0.0]);
        assert_eq!(embed_all(&knowledge), 1, "the vector of what is not there any more counts for nothing");
        knowledge.embeds_with("another");
        assert_eq!(embed_all(&knowledge), 2);
        knowledge.serve([("desk", own("The pool opens at eight."))].into_iter());
        assert_eq!((embed_all(&knowledge), knowledge.list(None).len()), (1, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_comes_first_and_is_answered_without_an_engine_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let knowledge = knowledge(folder.path());
        let found = knowledge.query("desk", "When does the pool open?").await.expect("an answer");
        assert_eq!(found.len(), 1, "by its words");
        assert_eq!(embed_all(&knowledge), 1, "who asked has given up");
        let asking = knowledge.clone();
        let asked = tokio::spawn(async move { asking.query("desk", "Where can I swim?").await });
        tokio::task::yield_now().await;
        let Some(Wanted::Question(question, done)) = knowledge.to_embed() else { panic!("nobody asks") };
        assert_eq!(question.reveal(), "Where can I swim?");
        done.send(vec![1.0, 0.0]).expect("waited for");
        assert_eq!(asked.await.expect("ended").expect("an answer").len(), 1);
        assert!(knowledge.query("nobody", "x").await.is_err());
    }
}
