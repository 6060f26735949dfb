//! An agent's file of questions, and how the agent uses answers that are known. Enters: TOML; leaves: questions with their
//! answers, or one sentence that says what is wrong and where.

use std::path::PathBuf;

use serde::Deserialize;

use super::agent::{AgentError, Phrase, one_line};

/// Questions that one file may hold.
const MOST: usize = 2000;

/// How an agent uses answers that are known.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheRules {
    /// A file of questions and answers, beside the agent's own. Default none.
    pub faq: Option<PathBuf>,
    /// Whether answers of the model to a caller's first question are kept for others who ask the same. Default false.
    pub learn: bool,
    /// How alike in meaning two questions must be whose words speak of the same; 0.3 to 1. Default 0.5.
    pub threshold: f32,
    /// How many hours a learned answer lives. Default 168; 1 to 8760.
    pub ttl_hours: u32,
    /// How many learned answers are kept; the one that was not used for longest goes. Default 2000; 1 to 20 000.
    pub most: usize,
}

impl Default for CacheRules {
    fn default() -> Self {
        Self { faq: None, learn: false, threshold: 0.5, ttl_hours: 168, most: 2000 }
    }
}

/// An answer, and the questions that it answers.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Faq {
    /// As callers may ask; each in other words.
    pub ask: Vec<Phrase<300>>,
    /// What the agent says then.
    pub say: Phrase<600>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    answer: Vec<Faq>,
}

impl Faq {
    /// Reads a file of questions; `path` only names it in errors.
    ///
    /// # Errors
    /// If a key is unknown or missing, or a text is empty or too long.
    pub fn parse(path: &str, text: &str) -> Result<Vec<Self>, AgentError> {
        let invalid = |reason: String| AgentError::Invalid { path: path.to_owned(), reason };
        let file: File = toml::from_str(text).map_err(|error| invalid(one_line(&error, text)))?;
        if let Some(answer) = file.answer.iter().find(|answer| answer.ask.is_empty()) {
            return Err(invalid(format!("no question is in `ask` for the answer \"{}\"", answer.say.as_str())));
        }
        let questions: usize = file.answer.iter().map(|answer| answer.ask.len()).sum();
        if questions > MOST {
            return Err(invalid(format!("a file holds at most {MOST} questions, this one has {questions}")));
        }
        Ok(file.answer)
    }

    /// Every question with its answer.
    pub fn pairs(all: &[Self]) -> impl Iterator<Item = (&str, &str)> {
        all.iter().flat_map(|answer| answer.ask.iter().map(|ask| (ask.as_str(), answer.say.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_have_answers_and_mistakes_have_a_place() {
        let text =
            "[[answer]]\nask = [\"When is breakfast?\", \"What are the breakfast hours?\"]\nsay = \"From seven.\"\n";
        let faq = Faq::parse("desk.faq.toml", text).expect("valid");
        let pairs: Vec<_> = Faq::pairs(&faq).collect();
        assert_eq!(pairs, [("When is breakfast?", "From seven."), ("What are the breakfast hours?", "From seven.")]);
        for (text, wanted) in [
            ("[[answer]]\nask = []\nsay = 'x'\n", "desk.faq.toml: no question is in `ask`"),
            ("[[answer]]\nask = ['']\nsay = 'x'\n", "desk.faq.toml: line 2: a text here has 1 to 300"),
            ("[[answer]]\nask = ['a']\n", "desk.faq.toml: line 1: missing field `say`"),
            ("[[question]]\n", "desk.faq.toml: line 1: unknown field `question`"),
        ] {
            let error = Faq::parse("desk.faq.toml", text).expect_err("wrong").to_string();
            assert!(error.starts_with(wanted) && !error.contains('\n'), "{error}");
        }
    }
}
