//! Entries by agent. Enters: entries, rules of agents, questions; leaves: which entry answers, and what else must change
//! with a change. Never here: a clock, a disk, a lock. Time is microseconds since 1970.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::reading::{Difference, Distance, Reading};
use super::vectors::{Packed, Vectors};
use crate::base::{CallId, Origin};

/// How many of the nearest questions are read.
const READ: usize = 32;

/// How alike questions must be of which one speaks of one thing more.
const ONE_MORE: f32 = 0.93;

/// A question whose answer is known.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// Its name.
    pub id: u64,
    /// Whose answer it is.
    pub agent: String,
    /// Where it comes from.
    pub origin: Origin,
    /// What was asked.
    pub question: String,
    /// What is answered.
    pub answer: String,
    /// What it was true of: a digest of the agent's instructions and facts, for a learned one of voice and model, too.
    pub basis: String,
    /// When it was made.
    pub made_us: i64,
    /// When it answered last, or was made.
    pub used_us: i64,
    /// How often it has answered.
    pub hits: u64,
    /// When it ends.
    pub expires_us: Option<i64>,
    /// The call that it was learned in: who erases that call, erases its words here.
    pub call: Option<CallId>,
}

/// How an agent uses its answers.
#[derive(Clone, PartialEq, Debug)]
pub struct Rules {
    /// Its name.
    pub agent: String,
    /// What it calls itself, see [`super::reading::own_names`].
    pub own: BTreeSet<String>,
    /// Digest of its instructions and facts.
    pub prompt: String,
    /// Digest of all that its answers come from.
    pub mind: String,
    /// The voice that it speaks with, and whose: what audio is kept under.
    pub voice: String,
    /// Which of the voice's speakers that is, if it names one. A call that is up has the agent of before, who may have another.
    pub speaker: Option<String>,
    /// How alike two questions must be that speak of the same.
    pub threshold: f32,
    /// How long a learned answer lives.
    pub ttl: Duration,
    /// Learned answers that it keeps.
    pub most: usize,
    /// Whether it learns.
    pub learn: bool,
    /// Questions and answers of its file.
    pub faq: Vec<(String, String)>,
}

/// A known answer to a question.
#[derive(Clone, PartialEq, Debug)]
pub struct Found {
    /// The entry.
    pub id: u64,
    /// Where it comes from.
    pub origin: Origin,
    /// What to say.
    pub answer: String,
    /// Cosine of the two questions; 1 for the same words.
    pub score: f32,
}

/// Why nothing was found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Miss {
    /// No question is alike.
    Unlike,
    /// The nearest one that is alike differs in this.
    Guarded(Difference),
}

/// What is there of an agent.
#[derive(Clone, Default, PartialEq, Debug, Serialize, ToSchema)]
#[schema(as = CacheStats)]
pub struct Stats {
    /// Its name.
    pub agent: String,
    /// Entries of its file.
    pub faq: usize,
    /// Entries of operators.
    pub added: usize,
    /// Entries that were learned.
    pub learned: usize,
    /// Entries that count for nothing any more, because instructions or facts have changed.
    pub outdated: usize,
    /// Entries that are found only by the same words so far.
    pub without_vector: usize,
    /// Answers whose audio is ready.
    pub ready: usize,
    /// Answers whose audio is being rendered.
    pub rendering: usize,
    /// How often they have answered.
    pub hits: u64,
}

#[derive(Default)]
struct Shelf {
    rules: Option<Rules>,
    entries: Vec<Entry>,
    vectors: Vectors,
    /// Place by the exact words.
    exact: HashMap<String, usize>,
}

impl Shelf {
    fn own(&self) -> BTreeSet<String> {
        self.rules.as_ref().map(|rules| rules.own.clone()).unwrap_or_default()
    }

    /// Whether it may answer now.
    fn counts(&self, entry: &Entry, now: i64) -> bool {
        let Some(rules) = &self.rules else { return false };
        entry.expires_us.is_none_or(|expires| now < expires)
            && match entry.origin {
                Origin::Faq => true,
                Origin::Added => entry.basis == rules.prompt,
                Origin::Learned => rules.learn && entry.basis == rules.mind,
            }
    }

    fn found(&self, place: usize, score: f32) -> Option<Found> {
        let entry = self.entries.get(place)?;
        Some(Found { id: entry.id, origin: entry.origin, answer: entry.answer.clone(), score })
    }

    fn push(&mut self, entry: Entry, vector: Option<&Packed>) {
        let exact = Reading::of(&entry.question, &self.own()).exact().to_owned();
        self.exact.insert(exact, self.entries.len());
        self.entries.push(entry);
        self.vectors.push(vector);
    }

    fn remove(&mut self, place: usize) -> Entry {
        let entry = self.entries.swap_remove(place);
        self.vectors.swap_remove(place);
        let moved = self.entries.len();
        self.exact.retain(|_, at| *at != place);
        self.exact.values_mut().filter(|at| **at == moved).for_each(|at| *at = place);
        entry
    }
}

/// All entries.
#[derive(Default)]
pub struct Library {
    shelves: HashMap<String, Shelf>,
    last_id: u64,
}

impl Library {
    /// Puts back what was kept on the disk.
    pub fn load(&mut self, entry: Entry, vector: Option<&Packed>) {
        self.last_id = self.last_id.max(entry.id);
        self.shelves.entry(entry.agent.clone()).or_default().push(entry, vector);
    }

    /// From now on these agents have these rules, and no others have any. What their files say is put in, and what they do
    /// not say any more is taken out: the new entries and the names of the old ones.
    pub fn serve(&mut self, agents: Vec<Rules>, now: i64) -> (Vec<Entry>, Vec<u64>) {
        self.shelves.values_mut().for_each(|shelf| shelf.rules = None);
        let (mut new, mut old) = (Vec::new(), Vec::new());
        for rules in agents {
            let agent = rules.agent.clone();
            let shelf = self.shelves.entry(agent.clone()).or_default();
            let faq = rules.faq.clone();
            shelf.rules = Some(rules);
            let known: BTreeSet<(&str, &str)> = faq.iter().map(|(ask, say)| (ask.as_str(), say.as_str())).collect();
            let gone = |entry: &Entry| {
                entry.origin == Origin::Faq && !known.contains(&(entry.question.as_str(), entry.answer.as_str()))
            };
            let mut place = 0;
            while let Some(entry) = shelf.entries.get(place) {
                if gone(entry) { old.push(shelf.remove(place).id) } else { place += 1 }
            }
            for (question, answer) in faq {
                let there = |entry: &Entry| {
                    entry.origin == Origin::Faq && (&entry.question, &entry.answer) == (&question, &answer)
                };
                if !self.shelves.get(&agent).is_some_and(|shelf| shelf.entries.iter().any(there)) {
                    let (entry, replaced) = self.put(&agent, Origin::Faq, &question, &answer, None, now);
                    old.extend(replaced);
                    new.extend(entry);
                }
            }
        }
        (new, old)
    }

    /// Puts an entry in: it, and the names of those whose place it takes. None if the agent has no rules, or knows a more
    /// certain answer to the same words.
    pub fn put(
        &mut self,
        agent: &str,
        origin: Origin,
        question: &str,
        answer: &str,
        call: Option<CallId>,
        now: i64,
    ) -> (Option<Entry>, Vec<u64>) {
        let Some(shelf) = self.shelves.get_mut(agent) else { return (None, Vec::new()) };
        let Some(rules) = shelf.rules.clone() else { return (None, Vec::new()) };
        let exact = Reading::of(question, &rules.own).exact().to_owned();
        let mut replaced = Vec::new();
        if let Some(place) = shelf.exact.get(&exact).copied() {
            let known = &shelf.entries[place];
            if known.origin < origin && shelf.counts(known, now) {
                return (None, replaced);
            }
            replaced.push(shelf.remove(place).id);
        }
        if origin == Origin::Learned {
            replaced.extend(shelf.make_room(rules.most, now));
        }
        self.last_id += 1;
        let ttl = i64::try_from(rules.ttl.as_micros()).unwrap_or(i64::MAX);
        let entry = Entry {
            id: self.last_id,
            agent: agent.to_owned(),
            origin,
            question: question.to_owned(),
            answer: answer.to_owned(),
            basis: if origin == Origin::Learned { rules.mind } else { rules.prompt },
            made_us: now,
            used_us: now,
            hits: 0,
            expires_us: (origin == Origin::Learned).then_some(now.saturating_add(ttl)),
            call,
        };
        shelf.push(entry.clone(), None);
        (Some(entry), replaced)
    }

    /// Whether a question of this agent can be answered at all.
    #[must_use]
    pub fn has(&self, agent: &str) -> bool {
        self.shelves.get(agent).is_some_and(|shelf| shelf.rules.is_some() && !shelf.entries.is_empty())
    }

    /// The rules of an agent.
    #[must_use]
    pub fn rules(&self, agent: &str) -> Option<&Rules> {
        self.shelves.get(agent)?.rules.as_ref()
    }

    /// The answer to a question in the same words.
    #[must_use]
    pub fn exact(&self, agent: &str, asked: &Reading, now: i64) -> Option<Found> {
        let shelf = self.shelves.get(agent)?;
        let place = *shelf.exact.get(asked.exact())?;
        shelf.found(place, 1.0).filter(|_| shelf.counts(&shelf.entries[place], now))
    }

    /// The answer to a question that means the same.
    ///
    /// # Errors
    /// Why there is none.
    pub fn similar(&self, agent: &str, asked: &Reading, vector: &Packed, now: i64) -> Result<Found, Miss> {
        let shelf = self.shelves.get(agent).ok_or(Miss::Unlike)?;
        let rules = shelf.rules.as_ref().ok_or(Miss::Unlike)?;
        let mut miss = Miss::Unlike;
        for (place, score) in shelf.vectors.nearest(vector, READ, rules.threshold) {
            let Some(entry) = shelf.entries.get(place).filter(|entry| shelf.counts(entry, now)) else { continue };
            match Reading::of(&entry.question, &rules.own).compare(asked) {
                Ok(Distance::OneMore) if score < ONE_MORE => {}
                Ok(_) => return shelf.found(place, score).ok_or(Miss::Unlike),
                Err(difference) if miss == Miss::Unlike => miss = Miss::Guarded(difference),
                Err(_) => {}
            }
        }
        Err(miss)
    }

    /// It has answered: what to keep of that.
    pub fn used(&mut self, agent: &str, id: u64, now: i64) -> Option<(i64, u64)> {
        let shelf = self.shelves.get_mut(agent)?;
        let entry = shelf.entries.iter_mut().find(|entry| entry.id == id)?;
        entry.used_us = now;
        entry.hits += 1;
        Some((entry.used_us, entry.hits))
    }

    /// The vector of an entry has come; false if the entry has gone.
    pub fn set_vector(&mut self, agent: &str, id: u64, vector: &Packed) -> bool {
        let Some(shelf) = self.shelves.get_mut(agent) else { return false };
        let place = shelf.entries.iter().position(|entry| entry.id == id);
        place.inspect(|place| shelf.vectors.set(*place, Some(vector))).is_some()
    }

    /// Up to so many entries of agents with rules whose vectors are missing: agent, name, question.
    #[must_use]
    pub fn without_vector(&self, most: usize) -> Vec<(String, u64, String)> {
        let served = self.shelves.values().filter(|shelf| shelf.rules.is_some());
        let missing = served.flat_map(|shelf| {
            shelf.entries.iter().enumerate().filter(|(place, _)| !shelf.vectors.holds(*place)).map(|(_, entry)| entry)
        });
        missing.take(most).map(|entry| (entry.agent.clone(), entry.id, entry.question.clone())).collect()
    }

    /// One entry.
    #[must_use]
    pub fn entry(&self, id: u64) -> Option<&Entry> {
        self.shelves.values().flat_map(|shelf| &shelf.entries).find(|entry| entry.id == id)
    }

    /// Whether an entry answers now.
    #[must_use]
    pub fn counts(&self, entry: &Entry, now: i64) -> bool {
        self.shelves.get(&entry.agent).is_some_and(|shelf| shelf.counts(entry, now))
    }

    /// Entries of an agent, or of all; of an origin, or of all. By name.
    #[must_use]
    pub fn entries(&self, agent: Option<&str>, origin: Option<Origin>) -> Vec<&Entry> {
        let shelves = self.shelves.iter().filter(|(name, _)| agent.is_none_or(|agent| agent == name.as_str()));
        let entries = shelves.flat_map(|(_, shelf)| &shelf.entries);
        let mut entries: Vec<&Entry> =
            entries.filter(|entry| origin.is_none_or(|origin| origin == entry.origin)).collect();
        entries.sort_unstable_by_key(|entry| entry.id);
        entries
    }

    /// Takes entries out: the names of those that were there.
    pub fn remove(&mut self, unwanted: impl Fn(&Entry) -> bool) -> Vec<u64> {
        let mut gone = Vec::new();
        for shelf in self.shelves.values_mut() {
            let mut place = 0;
            while let Some(entry) = shelf.entries.get(place) {
                if unwanted(entry) { gone.push(shelf.remove(place).id) } else { place += 1 }
            }
        }
        gone
    }

    /// Takes out what has lived its time: their names.
    pub fn expire(&mut self, now: i64) -> Vec<u64> {
        self.remove(|entry| entry.expires_us.is_some_and(|expires| expires <= now))
    }

    /// How many entries there are of an origin.
    #[must_use]
    pub fn count(&self, origin: Origin) -> usize {
        self.shelves.values().flat_map(|shelf| &shelf.entries).filter(|entry| entry.origin == origin).count()
    }

    /// What there is, agent by agent; audio is counted elsewhere.
    #[must_use]
    pub fn stats(&self, now: i64) -> Vec<Stats> {
        let mut all: Vec<Stats> = self
            .shelves
            .iter()
            .filter(|(_, shelf)| shelf.rules.is_some() || !shelf.entries.is_empty())
            .map(|(agent, shelf)| {
                let mut stats = Stats { agent: agent.clone(), ..Stats::default() };
                for (place, entry) in shelf.entries.iter().enumerate() {
                    match entry.origin {
                        Origin::Faq => stats.faq += 1,
                        Origin::Added => stats.added += 1,
                        Origin::Learned => stats.learned += 1,
                    }
                    stats.outdated += usize::from(!shelf.counts(entry, now));
                    stats.without_vector += usize::from(!shelf.vectors.holds(place));
                    stats.hits += entry.hits;
                }
                stats
            })
            .collect();
        all.sort_unstable_by(|a, b| a.agent.cmp(&b.agent));
        all
    }
}

impl Shelf {
    /// Takes out the learned entry that was not used for longest, while there are as many as may be.
    fn make_room(&mut self, most: usize, now: i64) -> Vec<u64> {
        let mut gone = Vec::new();
        loop {
            let learned = self.entries.iter().enumerate().filter(|(_, entry)| entry.origin == Origin::Learned);
            let count = learned.clone().count();
            let oldest =
                learned.min_by_key(|(_, entry)| (self.counts(entry, now), entry.used_us)).map(|(place, _)| place);
            match oldest {
                Some(place) if count >= most.max(1) => gone.push(self.remove(place).id),
                _ => return gone,
            }
        }
    }
}
