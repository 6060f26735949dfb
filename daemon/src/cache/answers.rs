//! What calls and operators hold of the cache. Enters: questions, answers, vectors, audio, orders; leaves: answers. Nothing
//! here waits for the disk, but for what says so.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use super::clips::{Clause, Clip, Clips, Held, Key};
use super::library::{Entry, Found, Library, Miss, Rules, Stats};
use super::metrics::CacheMetrics;
use super::reading::{Kind, Reading};
use super::store::{Change, Keeper, Loaded, Owner, Store};
use super::vectors::Packed;
use crate::base::{CallId, Clock, Origin, Pii};

/// The longest question and the longest answer, in characters.
const LONGEST: (usize, usize) = (300, 600);

/// Entries of operators that an agent may have.
const MOST_ADDED: usize = 5000;

/// What came of a look at the words alone.
pub enum Look {
    /// The same words are known.
    Found(Found),
    /// The vector of the words may find something.
    Perhaps(Reading),
    /// Nothing can be found.
    Nothing,
}

/// An answer that a call has heard to its end.
pub struct Teaching<'a> {
    /// Which.
    pub call: CallId,
    /// Whose.
    pub agent: &'a str,
    /// Which of the voice's speakers spoke for it, if it names one.
    pub speaker: Option<&'a str>,
    /// What the caller asked.
    pub question: &'a str,
    /// What the mind answered.
    pub answer: &'a str,
    /// How it sounded.
    pub clauses: Vec<Clause>,
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taught {
    /// It was learned.
    Learned,
    /// It is not to be learned.
    Declined,
}

#[derive(Default)]
struct State {
    library: Library,
    /// What was kept is in it.
    loaded: bool,
    /// Rules that wait for that.
    rules: Option<Vec<Rules>>,
    /// Which model the vectors are of; others are made anew.
    model: String,
    /// Vectors by entry, of whichever model, until it is known which model there is.
    kept: BTreeMap<u64, (String, String, Packed)>,
    /// Answers that are to be rendered: voice and answer.
    wanted: BTreeSet<Key>,
}

impl State {
    /// Forgets what is to be rendered and is nobody's any more: no agent that has that answer speaks with that voice.
    fn settle(&mut self) {
        let library = &self.library;
        let spoken = library.entries(None, None).into_iter();
        let spoken: BTreeSet<(&str, &str)> = spoken
            .filter_map(|entry| Some((library.rules(&entry.agent)?.voice.as_str(), entry.answer.as_str())))
            .collect();
        self.wanted.retain(|(voice, answer)| spoken.contains(&(voice.as_str(), answer.as_str())));
    }
}

struct Inner {
    state: Mutex<State>,
    clips: Mutex<Clips>,
    store: Mutex<Option<Store>>,
    clock: Arc<dyn Clock>,
    metrics: CacheMetrics,
    /// There is something for whoever embeds and renders.
    work: Notify,
}

/// The cache; clones are the same one.
#[derive(Clone)]
pub struct Answers {
    inner: Arc<Inner>,
    /// Ends the thread that writes with the last clone.
    keeper: Arc<Mutex<Option<Keeper>>>,
}

struct Back(Weak<Inner>);

impl Owner for Back {
    fn loaded(&self, loaded: Loaded) {
        if let Some(inner) = self.0.upgrade() {
            inner.loaded(loaded);
        }
    }

    fn fetched(&self, key: Key, clip: Clip) {
        if let Some(inner) = self.0.upgrade() {
            inner.clips().put(key, Some(clip));
        }
    }

    fn lost(&self, count: usize) {
        if let Some(inner) = self.0.upgrade() {
            inner.metrics.lost.inc_by(count as u64);
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clips(&self) -> MutexGuard<'_, Clips> {
        self.clips.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_us(&self) -> i64 {
        let since = self.clock.wall().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    }

    fn change(&self, change: Change) {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if store.as_ref().is_some_and(|store| !store.change(change)) {
            self.metrics.lost.inc();
        }
    }

    fn loaded(&self, loaded: Loaded) {
        let mut state = self.state();
        for (entry, vector) in loaded.entries {
            if let Some((model, vector)) = vector {
                state.kept.insert(entry.id, (entry.agent.clone(), model, vector));
            }
            state.library.load(entry, None);
        }
        state.loaded = true;
        let mut clips = self.clips();
        for key in loaded.clips {
            // Those of the first answers are at hand soon.
            if clips.has_room() {
                self.change(Change::Fetch(key.clone()));
            }
            clips.put(key, None);
        }
        drop(clips);
        if let Some(rules) = state.rules.take() {
            self.apply(&mut state, rules);
        }
        self.use_kept(&mut state);
    }

    fn apply(&self, state: &mut State, rules: Vec<Rules>) {
        let voices: BTreeSet<String> = rules.iter().map(|rules| rules.voice.clone()).collect();
        let (new, mut old) = state.library.serve(rules, self.now_us());
        old.extend(state.library.expire(self.now_us()));
        new.into_iter().for_each(|entry| self.change(Change::Put(Box::new(entry))));
        self.removed(state, old);
        // Audio of a voice that nobody speaks with any more.
        let gone = self.clips().forget(|(voice, _)| !voices.contains(voice));
        self.change(Change::ForgetClips(gone));
        state.settle();
        self.gauge(state);
        self.work.notify_one();
    }

    /// Says what there is.
    fn gauge(&self, state: &State) {
        for origin in Origin::ALL {
            let count = i64::try_from(state.library.count(origin)).unwrap_or(i64::MAX);
            self.metrics.entries.get_or_create(&[("origin", origin.as_str())]).set(count);
        }
        let (count, bytes) = self.clips().size();
        self.metrics.clips.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.metrics.clip_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Vectors of the model that there is go to their entries.
    fn use_kept(&self, state: &mut State) {
        if state.model.is_empty() || !state.loaded {
            return;
        }
        for (id, (agent, model, vector)) in std::mem::take(&mut state.kept) {
            if model == state.model {
                state.library.set_vector(&agent, id, &vector);
            }
        }
        self.work.notify_one();
    }

    /// Entries have gone: from the disk, too, and audio that nothing refers to any more.
    fn removed(&self, state: &mut State, ids: Vec<u64>) {
        if ids.is_empty() {
            return;
        }
        self.metrics.evicted.inc_by(ids.len() as u64);
        self.change(Change::Remove(ids));
        let answers: BTreeSet<&str> =
            state.library.entries(None, None).iter().map(|entry| entry.answer.as_str()).collect();
        let gone = self.clips().forget(|(_, answer)| !answers.contains(answer.as_str()));
        state.settle();
        if !gone.is_empty() {
            self.change(Change::ForgetClips(gone));
        }
        self.gauge(state);
    }
}

impl Answers {
    /// Begins with what was kept in `path`, as soon as that is read; without a path nothing is kept.
    ///
    /// # Errors
    /// No thread.
    pub fn begin(path: Option<PathBuf>, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let inner = Arc::new(Inner {
            state: Mutex::default(),
            clips: Mutex::default(),
            store: Mutex::default(),
            clock,
            metrics: CacheMetrics::new(),
            work: Notify::new(),
        });
        // Held while the thread begins: what it loads may already bring changes.
        let mut place = inner.store.lock().unwrap_or_else(PoisonError::into_inner);
        let (store, keeper) = Store::begin(path, Back(Arc::downgrade(&inner)))?;
        *place = Some(store);
        drop(place);
        Ok(Self { inner, keeper: Arc::new(Mutex::new(Some(keeper))) })
    }

    /// Writes what waits and ends the thread. Blocks on the disk.
    pub fn close(&self) {
        drop(self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Blocks until all changes so far are on the disk or lost.
    pub fn flush(&self) {
        let store = self.inner.store.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(store) = store {
            store.flush();
        }
    }

    /// From now on these agents answer with these rules.
    pub fn serve(&self, rules: Vec<Rules>) {
        let mut state = self.inner.state();
        if state.loaded {
            self.inner.apply(&mut state, rules);
        } else {
            state.rules = Some(rules);
        }
    }

    /// What is counted here.
    #[must_use]
    pub fn metrics(&self) -> &CacheMetrics {
        &self.inner.metrics
    }

    /// Looks at a caller's words. `asked`: the agent has just asked something, so that what is no question answers that.
    #[must_use]
    pub fn look(&self, agent: &str, words: &str, asked: bool) -> Look {
        let begun = self.inner.clock.now();
        let state = self.inner.state();
        if !state.library.has(agent) {
            return Look::Nothing;
        }
        let Some(rules) = state.library.rules(agent) else { return Look::Nothing };
        let reading = Reading::of(words, &rules.own);
        let metrics = &self.inner.metrics;
        if reading.leans() || asked && reading.kind() == Kind::Statement {
            metrics.looked("leaning");
            return Look::Nothing;
        }
        match state.library.exact(agent, &reading, self.inner.now_us()) {
            Some(found) => {
                drop(state);
                metrics.looked("exact");
                metrics.took(self.inner.clock.now().saturating_duration_since(begun));
                Look::Found(found)
            }
            None => Look::Perhaps(reading),
        }
    }

    /// Looks with the vector of the words.
    #[must_use]
    pub fn similar(&self, agent: &str, reading: &Reading, vector: &[f32]) -> Option<Found> {
        let begun = self.inner.clock.now();
        let vector = Packed::new(vector)?;
        let found = self.inner.state().library.similar(agent, reading, &vector, self.inner.now_us());
        let metrics = &self.inner.metrics;
        metrics.took(self.inner.clock.now().saturating_duration_since(begun));
        match found {
            Ok(found) => {
                metrics.looked("similar");
                Some(found)
            }
            Err(Miss::Guarded(by)) => {
                metrics.looked("guarded");
                metrics.guarded(by);
                None
            }
            Err(Miss::Unlike) => {
                metrics.looked("miss");
                None
            }
        }
    }

    /// No vector came, or too late.
    pub fn too_late(&self) {
        self.inner.metrics.looked("late");
    }

    /// Ready audio of an answer; what is only on the disk is there the next time.
    #[must_use]
    pub fn audio(&self, agent: &str, speaker: Option<&str>, answer: &str) -> Option<Vec<Clause>> {
        let key = (self.voice(agent, speaker)?, answer.to_owned());
        let held = self.inner.clips().get(&key);
        match held {
            Held::Here(clip) => clip.unpack(),
            Held::OnDisk => {
                self.inner.change(Change::Fetch(key));
                None
            }
            Held::Nowhere => None,
        }
    }

    /// An entry has answered a caller.
    pub fn used(&self, agent: &str, id: u64) {
        let now = self.inner.now_us();
        let used = self.inner.state().library.used(agent, id, now);
        if let Some((used_us, hits)) = used {
            self.inner.change(Change::Used { id, used_us, hits });
        }
    }

    /// The voice of an agent, if this speaker is who it speaks with now.
    fn voice(&self, agent: &str, speaker: Option<&str>) -> Option<String> {
        let state = self.inner.state();
        let rules = state.library.rules(agent).filter(|rules| rules.speaker.as_deref() == speaker);
        rules.map(|rules| rules.voice.clone())
    }

    /// Keeps the audio of an answer, as this speaker says it.
    pub fn keep_audio(&self, agent: &str, speaker: Option<&str>, answer: &str, clauses: &[Clause]) {
        let Some(voice) = self.voice(agent, speaker) else { return };
        let key = (voice, answer.to_owned());
        match Clip::pack(clauses) {
            Ok(clip) => {
                self.inner.clips().put(key.clone(), Some(clip.clone()));
                self.inner.change(Change::Clip(key.clone(), clip));
            }
            Err(error) => tracing::warn!(%error, "ready audio cannot be compressed"),
        }
        // Not before: whoever waits for it looks whether it is still wanted.
        let mut state = self.inner.state();
        state.wanted.remove(&key);
        self.inner.gauge(&state);
    }

    /// Learns an answer, if its agent may, and if it can be another caller's answer, too.
    pub fn learn(&self, teaching: &Teaching<'_>) -> Taught {
        let Teaching { call, agent, speaker, question, answer, clauses } = teaching;
        let mut state = self.inner.state();
        let Some(rules) = state.library.rules(agent).filter(|rules| rules.learn) else { return Taught::Declined };
        let reading = Reading::of(question, &rules.own);
        let too_long = question.chars().count() > LONGEST.0 || answer.chars().count() > LONGEST.1;
        if reading.leans()
            || reading.kind() == Kind::Statement
            || reading.is_personal()
            || too_long
            || knows_nothing(answer)
        {
            return Taught::Declined;
        }
        let now = self.inner.now_us();
        let expired = state.library.expire(now);
        self.inner.removed(&mut state, expired);
        let (entry, gone) = state.library.put(agent, Origin::Learned, question, answer, Some(*call), now);
        let learned = entry.is_some();
        if let Some(entry) = entry {
            self.inner.change(Change::Put(Box::new(entry)));
        }
        self.inner.removed(&mut state, gone);
        self.inner.gauge(&state);
        drop(state);
        if !learned {
            return Taught::Declined;
        }
        self.inner.metrics.learned.inc();
        self.keep_audio(agent, *speaker, answer, clauses);
        self.inner.work.notify_one();
        Taught::Learned
    }

    /// An operator's answer.
    ///
    /// # Errors
    /// One sentence.
    pub fn add(&self, agent: &str, question: &str, answer: &str) -> Result<u64, String> {
        let tidy = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (question, answer) = (tidy(question), tidy(answer));
        for (what, text, most) in [("question", &question, LONGEST.0), ("answer", &answer, LONGEST.1)] {
            let length = text.chars().count();
            if !(1..=most).contains(&length) || text.chars().any(char::is_control) {
                return Err(format!("the {what} has 1 to {most} characters, this one has {length}"));
            }
        }
        let mut state = self.inner.state();
        let Some(rules) = state.library.rules(agent) else { return Err(format!("there is no agent `{agent}`")) };
        if Reading::of(&question, &rules.own).leans() {
            return Err("the question means nothing by itself: write it so that it can be the first of a call".into());
        }
        if state.library.entries(Some(agent), Some(Origin::Added)).len() >= MOST_ADDED {
            return Err(format!(
                "agent `{agent}` has {MOST_ADDED} added answers already: put them into its file of questions"
            ));
        }
        let (entry, gone) = state.library.put(agent, Origin::Added, &question, &answer, None, self.inner.now_us());
        let Some(entry) = entry else {
            return Err(format!("the file of questions of agent `{agent}` answers that already: change it there"));
        };
        let id = entry.id;
        self.inner.change(Change::Put(Box::new(entry)));
        self.inner.removed(&mut state, gone);
        self.inner.gauge(&state);
        drop(state);
        self.inner.work.notify_one();
        Ok(id)
    }

    /// Entries, with whether each answers now.
    #[must_use]
    pub fn entries(&self, agent: Option<&str>, origin: Option<Origin>) -> Vec<(Entry, bool)> {
        let (state, now) = (self.inner.state(), self.inner.now_us());
        let entries = state.library.entries(agent, origin);
        entries.into_iter().map(|entry| (entry.clone(), state.library.counts(entry, now))).collect()
    }

    /// One entry, whether it answers now, and whether its audio is ready.
    #[must_use]
    pub fn entry(&self, id: u64) -> Option<(Entry, bool, bool)> {
        let state = self.inner.state();
        let entry = state.library.entry(id)?;
        let voice = state.library.rules(&entry.agent).map(|rules| rules.voice.clone()).unwrap_or_default();
        let ready = self.inner.clips().holds(&(voice, entry.answer.clone()));
        Some((entry.clone(), state.library.counts(entry, self.inner.now_us()), ready))
    }

    /// Takes out entries of an agent, of an origin, or one; what a file says comes back with the next start. How many.
    pub fn purge(&self, agent: Option<&str>, origin: Option<Origin>, id: Option<u64>) -> usize {
        self.take_out(|entry| {
            agent.is_none_or(|agent| agent == entry.agent)
                && origin.is_none_or(|origin| origin == entry.origin)
                && id.is_none_or(|id| id == entry.id)
        })
    }

    /// Takes out what was learned in these calls. How many.
    pub fn forget(&self, calls: &HashSet<CallId>) -> usize {
        self.take_out(|entry| entry.call.is_some_and(|call| calls.contains(&call)))
    }

    fn take_out(&self, which: impl Fn(&Entry) -> bool) -> usize {
        let mut state = self.inner.state();
        let gone = state.library.remove(which);
        let count = gone.len();
        self.inner.removed(&mut state, gone);
        count
    }

    /// Has the audio of every answer that counts rendered: how many are missing.
    pub fn warm(&self, agent: Option<&str>) -> usize {
        let mut state = self.inner.state();
        let now = self.inner.now_us();
        let mut wanted = BTreeSet::new();
        for entry in state.library.entries(agent, None).into_iter().filter(|entry| state.library.counts(entry, now)) {
            if let Some(rules) = state.library.rules(&entry.agent) {
                wanted.insert((rules.voice.clone(), entry.answer.clone()));
            }
        }
        let clips = self.inner.clips();
        wanted.retain(|key| !clips.holds(key));
        drop(clips);
        let count = wanted.len();
        state.wanted.extend(wanted);
        drop(state);
        self.inner.work.notify_one();
        count
    }

    /// What there is, agent by agent.
    #[must_use]
    pub fn stats(&self) -> Vec<Stats> {
        let (state, now) = (self.inner.state(), self.inner.now_us());
        let mut all = state.library.stats(now);
        let clips = self.inner.clips();
        for stats in &mut all {
            let Some(rules) = state.library.rules(&stats.agent) else { continue };
            let answers: BTreeSet<&str> =
                state.library.entries(Some(&stats.agent), None).iter().map(|entry| entry.answer.as_str()).collect();
            let key = |answer: &&str| (rules.voice.clone(), (*answer).to_owned());
            stats.ready = answers.iter().filter(|answer| clips.holds(&key(answer))).count();
            stats.rendering = answers.iter().filter(|answer| state.wanted.contains(&key(answer))).count();
        }
        all
    }
}

/// Work for whoever has an engine.
impl Answers {
    /// Comes back when there may be something to embed or to render.
    pub async fn work(&self) {
        self.inner.work.notified().await;
    }

    /// Vectors are of this model from now on; those of another are made anew.
    pub fn embeds_with(&self, model: &str) {
        let mut state = self.inner.state();
        if state.model != model {
            model.clone_into(&mut state.model);
            self.inner.use_kept(&mut state);
        }
    }

    /// Up to so many questions without a vector: agent, entry, words.
    #[must_use]
    pub fn to_embed(&self, most: usize) -> Vec<(String, u64, Pii<String>)> {
        let state = self.inner.state();
        if !state.loaded {
            return Vec::new();
        }
        let missing = state.library.without_vector(most);
        missing.into_iter().map(|(agent, id, question)| (agent, id, Pii::new(question))).collect()
    }

    /// The vector of a question has come.
    pub fn embedded(&self, agent: &str, id: u64, vector: &[f32]) {
        let Some(vector) = Packed::new(vector) else { return };
        let mut state = self.inner.state();
        if state.library.set_vector(agent, id, &vector) {
            let model = state.model.clone();
            drop(state);
            self.inner.change(Change::Vector { id, model, vector });
        }
    }

    /// An answer that is to be rendered: its agent, who speaks for that, and its words.
    #[must_use]
    pub fn to_render(&self) -> Option<(String, Option<String>, String)> {
        let state = self.inner.state();
        let (voice, answer) = state.wanted.first()?;
        let entries = state.library.entries(None, None);
        let speaks = |agent: &str| state.library.rules(agent).is_some_and(|rules| rules.voice == *voice);
        let agent = entries.into_iter().find(|entry| entry.answer == *answer && speaks(&entry.agent))?.agent.clone();
        let speaker = state.library.rules(&agent).and_then(|rules| rules.speaker.clone());
        Some((agent, speaker, answer.clone()))
    }

    /// It cannot be rendered: nobody tries again until it is ordered again.
    pub fn cannot_render(&self, answer: &str) {
        self.inner.state().wanted.retain(|(_, wanted)| wanted != answer);
    }
}

/// Whether an answer says only that there is none.
fn knows_nothing(answer: &str) -> bool {
    let answer = answer.to_lowercase().replace('\u{2019}', "'");
    ["do not know", "don't know", "not sure", "take a message", "cannot help", "can't help", "no information", "sorry"]
        .iter()
        .any(|phrase| answer.contains(phrase))
}
