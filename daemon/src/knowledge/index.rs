//! Which passages speak of what a caller asks. Enters: an agent's passages, their vectors, a question with or without its
//! vector; leaves: the passages that are near enough, the nearest first.
//!
//! Two signs are added up: how alike the meanings are (cosine of MiniLM's vectors), and what share of the question's words
//! the passage holds, rare words counting more (inverse document frequency). The first finds other words for the same, the
//! second names and numbers, which vectors blur.

use std::collections::{BTreeSet, HashMap};

use crate::base::{Passage, stem};

/// What the words count for beside the vectors.
const WORDS: f32 = 0.5;

/// The least sum that is near enough; without a vector, the least share of words. Chosen on `benches/knowledge`; what is found
/// with them is held by `tests/scenarios/knowledge.rs`.
const LEAST: f32 = 0.25;
const LEAST_WORDS: f32 = 0.5;

/// Words that say nothing of what is asked for.
const EMPTY: [&str; 77] = [
    "a", "about", "also", "am", "an", "and", "any", "are", "as", "at", "be", "been", "but", "by", "can", "could",
    "did", "do", "does", "for", "from", "get", "give", "go", "had", "has", "have", "how", "i", "if", "in", "is", "it",
    "its", "know", "let", "like", "me", "may", "much", "my", "need", "no", "not", "of", "on", "or", "our", "please",
    "should", "so", "some", "tell", "than", "that", "the", "their", "there", "they", "this", "to", "us", "want", "was",
    "we", "what", "when", "where", "which", "who", "will", "with", "would", "yes", "you", "your", "many",
];

struct Row {
    passage: Passage,
    words: BTreeSet<String>,
    vector: Option<Box<[f32]>>,
}

/// The passages of one agent.
#[derive(Default)]
pub(super) struct Index {
    rows: Vec<Row>,
    /// In how many passages a word stands.
    found_in: HashMap<String, usize>,
}

impl Index {
    /// Passages without vectors.
    pub(super) fn new(passages: Vec<Passage>) -> Self {
        let mut index = Self::default();
        for passage in passages {
            let words = words(&format!("{} {}", passage.name, passage.text));
            for word in &words {
                *index.found_in.entry(word.clone()).or_default() += 1;
            }
            index.rows.push(Row { passage, words, vector: None });
        }
        index
    }

    /// Takes over the vectors of passages that were there before.
    pub(super) fn take_vectors(&mut self, before: Self) {
        let mut known: HashMap<Passage, Box<[f32]>> =
            before.rows.into_iter().filter_map(|row| Some((row.passage, row.vector?))).collect();
        self.rows.iter_mut().for_each(|row| row.vector = known.remove(&row.passage));
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Of the passages of a document, how many there are, and how many have no vector.
    pub(super) fn count(&self, document: &str) -> (usize, usize) {
        let of = |row: &&Row| row.passage.name.split(':').next() == Some(document);
        let rows: Vec<&Row> = self.rows.iter().filter(of).collect();
        (rows.len(), rows.iter().filter(|row| row.vector.is_none()).count())
    }

    /// The first passage without a vector: its place, and what is to be embedded.
    pub(super) fn without_vector(&self) -> Option<(usize, String)> {
        let at = self.rows.iter().position(|row| row.vector.is_none())?;
        let Passage { name, text } = &self.rows[at].passage;
        let headings = name.split_once(": ").map_or("", |(_, headings)| headings);
        Some((at, if headings.is_empty() { text.clone() } else { format!("{headings}. {text}") }))
    }

    pub(super) fn set_vector(&mut self, at: usize, vector: &[f32]) {
        if let Some(row) = self.rows.get_mut(at) {
            row.vector = unit(vector);
        }
    }

    /// Vectors of another model mean something else.
    pub(super) fn drop_vectors(&mut self) {
        self.rows.iter_mut().for_each(|row| row.vector = None);
    }

    /// What is near enough to a question, the nearest first, each with how near it is.
    pub(super) fn rank(&self, question: &str, vector: Option<&[f32]>) -> Vec<(&Passage, f32)> {
        let vector = vector.and_then(unit);
        let asked: Vec<(String, f32)> =
            words(question).into_iter().map(|word| (word.clone(), self.weight(&word))).collect();
        let all: f32 = asked.iter().map(|(_, weight)| weight).sum();
        let mut near: Vec<(&Passage, f32)> = self
            .rows
            .iter()
            .filter_map(|row| {
                let held: f32 =
                    asked.iter().filter(|(word, _)| row.words.contains(word)).map(|(_, weight)| weight).sum();
                let share = if all > 0.0 { held / all } else { 0.0 };
                let (score, least) = match (&vector, &row.vector) {
                    (Some(asked), Some(row)) => (dot(asked, row) + WORDS * share, LEAST),
                    _ => (share, LEAST_WORDS),
                };
                (score >= least).then_some((&row.passage, score))
            })
            .collect();
        near.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        near
    }

    /// A word that stands in few passages says much.
    fn weight(&self, word: &str) -> f32 {
        let found_in = self.found_in.get(word).copied().unwrap_or(0) as f32;
        ((self.rows.len() as f32 + 1.0) / (found_in + 0.5)).ln().max(0.0)
    }
}

fn words(text: &str) -> BTreeSet<String> {
    let lower = text.to_lowercase().replace(['\'', '\u{2019}'], "");
    let all = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty() && !EMPTY.contains(word));
    all.map(stem).collect()
}

/// Of length 1; none if it has no direction.
fn unit(vector: &[f32]) -> Option<Box<[f32]>> {
    let length = dot(vector, vector).sqrt();
    (length > 0.0).then(|| vector.iter().map(|part| part / length).collect())
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passage(name: &str, text: &str) -> Passage {
        Passage { name: name.into(), text: text.into() }
    }

    fn index() -> Index {
        let passages = vec![
            passage("a.md: Pool", "The pool opens at seven."),
            passage("a.md: Parking", "A place in the garage costs ten euros."),
            passage("b.csv", "Room: Double; Price: 120 euros."),
        ];
        Index::new(passages)
    }

    fn names(index: &Index, question: &str, vector: Option<&[f32]>) -> Vec<String> {
        index.rank(question, vector).into_iter().map(|(passage, _)| passage.name.clone()).collect()
    }

    #[test]
    fn words_find_what_vectors_have_not_come_for() {
        let index = index();
        assert_eq!(names(&index, "When does the pool open?", None), ["a.md: Pool"]);
        assert_eq!(names(&index, "What is the price of a double room?", None), ["b.csv"]);
        assert_eq!(names(&index, "Could you tell me that?", None), [""; 0], "nothing is asked for");
        assert_eq!(names(&index, "Do you sell fishing licences?", None), [""; 0]);
    }

    #[test]
    fn vectors_find_other_words_for_the_same_and_words_decide_between_equals() {
        let mut index = index();
        assert_eq!(index.without_vector(), Some((0, "Pool. The pool opens at seven.".to_owned())));
        index.set_vector(0, &[1.0, 0.0]);
        index.set_vector(1, &[0.0, 2.0]);
        assert_eq!(index.without_vector(), Some((2, "Room: Double; Price: 120 euros.".to_owned())));
        assert_eq!(names(&index, "Where can I swim?", Some(&[3.0, 0.0])), ["a.md: Pool"]);
        index.set_vector(2, &[0.6, 0.8]);
        assert_eq!(names(&index, "the garage", Some(&[0.5, 0.5])), ["a.md: Parking", "b.csv", "a.md: Pool"]);
    }

    #[test]
    fn passages_that_stay_keep_their_vectors() {
        let mut before = index();
        (0..3).for_each(|at| before.set_vector(at, &[1.0]));
        let passages = vec![
            passage("a.md: Pool", "The pool opens at eight."),
            passage("b.csv", "Room: Double; Price: 120 euros."),
        ];
        let mut after = Index::new(passages);
        after.take_vectors(before);
        assert_eq!((after.count("a.md"), after.count("b.csv")), ((1, 1), (1, 0)));
    }
}
