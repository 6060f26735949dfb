//! Chinese characters in; phonemes out, a space between words. The dictionaries lie beside Kokoro's network: words with how
//! frequent they are (jieba's), the pinyin of phrases and of single characters (pypinyin's). Never here: digits, punctuation,
//! Latin letters.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use jieba_rs::Jieba;

use super::{ReadingError, pinyin};

pub(super) struct Mandarin {
    words: Jieba,
    /// For each of a phrase's characters, the syllables that it may have there, the likeliest first.
    phrases: HashMap<String, Vec<Vec<String>>>,
    /// What phrases begin with.
    beginnings: HashSet<String>,
    /// By a character's number: the same, with commas between them.
    readings: HashMap<u32, String>,
}

impl Mandarin {
    pub(super) fn load(folder: &Path) -> Result<Self, ReadingError> {
        let open = |name: &str| {
            let path = folder.join(name);
            let file = File::open(&path)
                .map_err(|error| ReadingError::Dictionary { path: path.clone(), why: error.to_string() })?;
            Ok::<_, ReadingError>((BufReader::new(file), path))
        };
        let (mut file, path) = open("mandarin-words.txt")?;
        let words =
            Jieba::with_dict(&mut file).map_err(|error| ReadingError::Dictionary { path, why: error.to_string() })?;
        let (file, path) = open("mandarin-phrases.json")?;
        let phrases: HashMap<String, Vec<Vec<String>>> =
            serde_json::from_reader(file).map_err(|error| ReadingError::Dictionary { path, why: error.to_string() })?;
        let (file, path) = open("mandarin-readings.json")?;
        let readings =
            serde_json::from_reader(file).map_err(|error| ReadingError::Dictionary { path, why: error.to_string() })?;
        let beginnings = phrases.keys().flat_map(|phrase| beginnings(phrase)).map(str::to_owned).collect();
        Ok(Self { words, phrases, beginnings, readings })
    }

    pub(super) fn phonemes(&self, text: &str) -> String {
        let words = self.words.cut(text, true);
        let words = words.iter().map(|token| self.word(token.word)).filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join(" ")
    }

    /// The longest phrase that it begins with is looked up, or else one character; then the next.
    fn word(&self, word: &str) -> String {
        let (mut out, mut rest) = (String::new(), word);
        while let Some(first) = rest.chars().next() {
            let begun = beginnings(rest).take_while(|piece| self.beginnings.contains(*piece));
            let known = begun.filter_map(|piece| Some((piece, self.phrases.get(piece)?))).last();
            let piece = if let Some((piece, syllables)) = known {
                let likeliest = syllables.iter().filter_map(|of| of.first());
                out.extend(likeliest.map(|syllable| pinyin::phonemes(syllable)));
                piece
            } else {
                let all = self.readings.get(&u32::from(first)).and_then(|all| all.split(',').next());
                out.extend(all.map(pinyin::phonemes));
                rest.get(..first.len_utf8()).unwrap_or(rest)
            };
            rest = rest.strip_prefix(piece).unwrap_or_default();
        }
        out
    }
}

/// The first character of a text, the first two, and so on to all of it.
fn beginnings(text: &str) -> impl Iterator<Item = &str> {
    text.char_indices().filter_map(|(at, c)| text.get(..at + c.len_utf8()))
}
