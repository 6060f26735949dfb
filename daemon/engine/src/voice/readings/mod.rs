//! Texts of a language in; sentences of phonemes out, by whoever reads that language: espeak-ng, or for Japanese and Chinese
//! their dictionaries. Started when a speaker of it first speaks. Never here: a network, a queue.

mod japanese;
mod mandarin;
mod numerals;
mod pinyin;

use std::path::{Path, PathBuf};

use super::alphabet::{Language, spelt};
use super::espeak::{Espeak, EspeakError};
use super::normalise::{normalise, plain};
use super::sentence::{self, Sentence, clauses};
use japanese::Japanese;
use mandarin::Mandarin;

/// Why a language cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadingError {
    /// The program for phonemes.
    #[error(transparent)]
    Espeak(#[from] EspeakError),
    /// A file of a dictionary.
    #[error("{}: {why}; `callbox models pull kokoro-82m` brings what Chinese is read with", path.display())]
    Dictionary {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The program for Japanese.
    #[error("mecab cannot be used: {0}; install the packages mecab and mecab-ipadic-utf8 to have Japanese spoken")]
    Mecab(String),
    /// What it was when it was last tried, a short while ago.
    #[error("{0}")]
    Lately(String),
}

/// Who reads a language.
pub struct Reader {
    language: Language,
    /// Of Japanese and Chinese: for what is written in Latin letters.
    espeak: Espeak,
    longest: usize,
    own: Own,
}

enum Own {
    Espeak,
    Japanese(Japanese),
    Chinese(Box<Mandarin>),
}

impl Reader {
    /// `folder`: where the network lies, and with it the dictionaries. A sentence of more phonemes than `longest` ends at its
    /// next comma.
    ///
    /// # Errors
    /// If a program or a dictionary is missing.
    pub fn start(language: Language, espeak: &Path, folder: &Path, longest: usize) -> Result<Self, ReadingError> {
        let own = match language {
            Language::Japanese => Own::Japanese(Japanese::start().map_err(no_mecab)?),
            Language::Chinese => Own::Chinese(Box::new(Mandarin::load(folder)?)),
            _ => Own::Espeak,
        };
        let ties = matches!(own, Own::Espeak) && !language.is_english();
        let mut espeak = Espeak::start_as(espeak, language.espeak_voice(), ties)?;
        espeak.end_at_commas_after(longest);
        Ok(Self { language, espeak, longest, own })
    }

    /// The sentences of a text as a person would write it.
    ///
    /// # Errors
    /// If a program is gone and cannot be replaced.
    pub fn sentences(&mut self, text: &str) -> Result<Vec<Sentence>, ReadingError> {
        let Self { language, espeak, longest, own } = self;
        if language.is_english() {
            return Ok(espeak.sentences(&normalise(text))?);
        }
        let script = match own {
            Own::Espeak => return Ok(espeak.sentences(&numerals::spaced(&plain(text)))?),
            Own::Japanese(_) => numerals::Script::Japanese,
            Own::Chinese(_) => numerals::Script::Chinese,
        };
        let text = numerals::written(&plain(&numerals::spans(text, script)), script);
        let mut answers = Vec::new();
        let clauses = clauses(&text);
        for (words, _) in &clauses {
            let mut answer = String::new();
            for piece in pieces(words) {
                let phonemes = match own {
                    _ if piece.bytes().any(|byte| byte.is_ascii_alphabetic()) => {
                        let phonemes = espeak.phonemes(&[piece])?.concat();
                        spelt(&phonemes, Language::American)
                    }
                    Own::Japanese(japanese) => japanese.phonemes(piece)?,
                    Own::Chinese(mandarin) => mandarin.phonemes(piece),
                    Own::Espeak => String::new(),
                };
                if !answer.is_empty() && !phonemes.is_empty() {
                    answer.push(' ');
                }
                answer.push_str(&phonemes);
            }
            answers.push(answer);
        }
        Ok(sentence::sentences(&clauses, &answers, *longest))
    }
}

fn no_mecab(error: EspeakError) -> ReadingError {
    ReadingError::Mecab(match error {
        EspeakError::Missing { source, .. } => source.to_string(),
        EspeakError::Dead => "it does not answer".into(),
    })
}

/// Stretches of Latin letters, and what is between them.
fn pieces(words: &str) -> Vec<&str> {
    let latin = |c: char| c.is_alphabetic() && c < '\u{250}';
    let (mut pieces, mut from, mut before) = (Vec::new(), 0, None);
    for (at, c) in words.char_indices() {
        // A space or an apostrophe belongs to whatever it is within.
        if !c.is_alphanumeric() {
            continue;
        }
        let now = Some(latin(c));
        if before.is_some() && now != before {
            pieces.extend(words.get(from..at));
            from = at;
        }
        before = now;
    }
    pieces.extend(words.get(from..));
    pieces.into_iter().map(str::trim).filter(|piece| !piece.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_latin_is_read_apart() {
        assert_eq!(pieces("请连接 Wi-Fi 网络"), ["请连接", "Wi-Fi", "网络"]);
        assert_eq!(pieces("It's"), ["It's"]);
        assert_eq!(pieces(" "), [""; 0]);
    }
}
