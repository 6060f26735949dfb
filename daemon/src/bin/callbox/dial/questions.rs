//! What is asked, and what the answer must hold. Enters: TOML, texts, WAV files; leaves: samples for the line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use callbox::config::Config;
use callbox_wire::Role;
use serde::Deserialize;

use crate::private::Private;
use crate::{say, wav};

/// One question.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    /// What is asked.
    pub(crate) ask: String,
    /// The answer must hold at least one text of each group, in any case.
    #[serde(default)]
    pub(crate) expect: Vec<Vec<String>>,
    /// Where the answer can be found; for people.
    #[serde(default, rename = "fact")]
    pub(crate) _fact: String,
    /// As 16 kHz samples.
    #[serde(skip)]
    pub(crate) samples: Vec<i16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Which agent knows the answers; for people.
    #[serde(rename = "agent", default)]
    _agent: String,
    question: Vec<Question>,
}

impl Question {
    /// Whether its answer is looked at.
    pub(crate) fn is_checked(&self) -> bool {
        !self.expect.is_empty()
    }

    /// From now on any answer will do.
    pub(crate) fn uncheck(&mut self) {
        self.expect.clear();
    }

    /// Whether a transcript holds what it must.
    pub(crate) fn is_answered_by(&self, text: &str) -> bool {
        let text = plain(text);
        self.expect.iter().all(|group| group.iter().any(|fact| text.contains(&plain(fact))))
    }
}

/// Lower case, words and digits only, single spaces, with one at each end, so that `4` is not found in `40`.
fn plain(text: &str) -> String {
    let letters = text.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { ' ' });
    let words: Vec<String> = letters.collect::<String>().split_whitespace().map(str::to_owned).collect();
    format!(" {} ", words.join(" "))
}

/// All questions, in the order file, texts, recordings.
pub(crate) fn read(file: Option<&Path>, texts: &[String], recordings: &[PathBuf]) -> Result<Vec<Question>> {
    let mut questions = match file {
        None => Vec::new(),
        Some(path) => {
            let shown = path.display();
            let text = std::fs::read_to_string(path).with_context(|| format!("{shown} cannot be read"))?;
            toml::from_str::<File>(&text).with_context(|| format!("{shown} is not a file of questions"))?.question
        }
    };
    questions.extend(texts.iter().map(|text| Question { ask: text.clone(), ..Question::default() }));
    for path in recordings {
        let ask = path.display().to_string();
        questions.push(Question { ask, samples: wav::load(path)?, ..Question::default() });
    }
    Ok(questions)
}

/// Speaks the questions that are only text; `speaker`: instead of who speaks for the box.
pub(crate) async fn voice(questions: &mut [Question], config: &Config, speaker: Option<&str>) -> Result<()> {
    if questions.iter().all(|question| !question.samples.is_empty()) {
        return Ok(());
    }
    let mut engine = Private::start(config, &[Role::Voice]).await?;
    for question in questions.iter_mut().filter(|question| question.samples.is_empty()) {
        question.samples = say::say(&mut engine, &question.ask, callbox_wire::EARS_RATE, speaker).await?.0;
    }
    engine.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_needs_one_text_of_each_group() {
        let text = "ask = 'When?'\nexpect = [['seven', '7'], ['10', 'ten']]";
        let question: Question = toml::from_str(text).expect("a question");
        assert!(question.is_answered_by("From 7:00 to Ten."));
        assert!(!question.is_answered_by("From 17 to ten"), "17 is not 7");
        assert!(!question.is_answered_by("From seven."));
    }
}
