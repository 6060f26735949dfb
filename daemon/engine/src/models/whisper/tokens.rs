//! Whisper's vocabulary: token numbers in, text out.
//!
//! Enters: tokens. Leaves: bytes, and the numbers of the tokens that are not text. A checkpoint does not carry its
//! vocabulary, so the two that exist (GPT-2's for English, Whisper's own for all languages) are embedded, as
//! pairs of earlier tokens: `assets/make_whisper_vocab.py` makes them from openai-whisper (MIT).

use std::ops::Range;

use callbox_wire::Language;

/// Which tokens mean what.
#[derive(Debug)]
pub struct Vocabulary {
    /// The bytes of all texts, one after the other.
    text: Vec<u8>,
    /// Where the text of a token ends.
    ends: Vec<usize>,
    /// Punctuation and symbols that stand for sounds which are not speech; never wanted.
    symbols: Vec<usize>,
    total: usize,
    languages: usize,
}

/// What ends a sentence where it is not `.`, `?` or `!`.
const ENDS: [&str; 5] = ["。", "？", "！", "।", "؟"];

/// How many a model of English alone has.
const ENGLISH_TOKENS: usize = 51_864;
const ENGLISH: &[u8] = include_bytes!("../../../assets/whisper-english.bin");
const MULTILINGUAL: &[u8] = include_bytes!("../../../assets/whisper-multilingual.bin");

/// Tokens beside text and languages: 1501 timestamps and eight signs.
const SIGNS: usize = 1501 + 8;

impl Vocabulary {
    /// The vocabulary of a model with `total` tokens: English alone, 99 languages, or a hundred since large-v3.
    #[must_use]
    pub fn of(total: usize) -> Option<Self> {
        let asset = match total {
            ENGLISH_TOKENS => ENGLISH,
            51_865 | 51_866 => MULTILINGUAL,
            _ => return None,
        };
        let (bytes, rest) = asset.split_at_checked(256)?;
        let (pairs, rest) = numbers(rest)?;
        let (symbols, _) = numbers(rest)?;
        let mut vocabulary = Self {
            text: bytes.to_vec(),
            ends: (1..=256).collect(),
            symbols: symbols.into_iter().map(usize::from).collect(),
            total,
            languages: 0,
        };
        for pair in pairs.as_chunks::<2>().0 {
            for part in pair {
                // An empty token exists; its parts are of no token.
                let range = vocabulary.range(usize::from(*part)).unwrap_or_default();
                vocabulary.text.extend_from_within(range);
            }
            vocabulary.ends.push(vocabulary.text.len());
        }
        vocabulary.languages = total.checked_sub(vocabulary.ends.len() + SIGNS)?;
        Some(vocabulary)
    }

    fn range(&self, token: usize) -> Option<Range<usize>> {
        let start = if token == 0 { 0 } else { *self.ends.get(token - 1)? };
        Some(start..*self.ends.get(token)?)
    }

    /// What the tokens say; pieces of characters that are not whole become `U+FFFD`.
    #[must_use]
    pub fn text(&self, tokens: &[usize]) -> String {
        let bytes: Vec<u8> =
            tokens.iter().filter_map(|&token| self.range(token)).flat_map(|r| &self.text[r]).copied().collect();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    /// Whether a sentence may end with this token.
    #[must_use]
    pub fn ends_sentence(&self, token: usize) -> bool {
        let others = |text: &[u8]| self.multilingual() && ENDS.iter().any(|end| text.ends_with(end.as_bytes()));
        self.range(token)
            .map(|r| &self.text[r])
            .is_some_and(|text| matches!(text.last(), Some(b'.' | b'?' | b'!')) || others(text))
    }

    /// The token of the same word after a space, if there is one.
    #[must_use]
    pub fn spaced(&self, token: usize) -> usize {
        let Some(word) = self.range(token) else { return token };
        let same = |other: &usize| {
            self.range(*other).is_some_and(|r| self.text[r].strip_prefix(b" ") == Some(&self.text[word.clone()]))
        };
        (0..self.ends.len()).find(same).unwrap_or(token)
    }

    /// Whether the token has a letter or a digit in it.
    #[must_use]
    pub fn is_word(&self, token: usize) -> bool {
        self.range(token).is_some_and(|r| self.text[r].iter().any(|byte| byte.is_ascii_alphanumeric() || *byte >= 0x80))
    }

    /// The end of the text.
    #[must_use]
    pub fn end(&self) -> usize {
        self.ends.len()
    }

    /// The start of the transcript; the probability of silence is read after it.
    #[must_use]
    pub fn start(&self) -> usize {
        self.end() + 1
    }

    /// "Nobody speaks."
    #[must_use]
    pub fn no_speech(&self) -> usize {
        self.start() + self.languages + 5
    }

    /// What the decoder is fed first: a transcript in that language, without times. As long for each language.
    #[must_use]
    pub fn prompt(&self, language: Language) -> Vec<usize> {
        let transcribe = self.start() + self.languages + 2;
        let no_times = self.no_speech() + 1;
        if self.multilingual() {
            vec![self.start(), self.start() + 1 + language.index().min(self.languages - 1), transcribe, no_times]
        } else {
            vec![self.start(), no_times]
        }
    }

    /// Whether it can be told to write in that language.
    #[must_use]
    pub fn knows(&self, language: Language) -> bool {
        language == Language::ENGLISH || self.multilingual() && language.index() < self.languages
    }

    fn multilingual(&self) -> bool {
        self.total > ENGLISH_TOKENS
    }

    /// Tokens that never follow: symbols, signs, times.
    pub fn suppressed(&self) -> impl Iterator<Item = usize> + '_ {
        self.symbols.iter().copied().chain(self.start()..self.total)
    }

    /// A space alone, which a transcript never begins with.
    #[must_use]
    pub fn blank(&self) -> usize {
        (0..256).find(|&token| self.range(token).is_some_and(|r| self.text[r] == *b" ")).unwrap_or_default()
    }
}

/// A count and that many numbers, 16 bits each.
fn numbers(bytes: &[u8]) -> Option<(Vec<u16>, &[u8])> {
    let (count, rest) = bytes.split_first_chunk::<4>()?;
    let (numbers, rest) = rest.split_at_checked(2 * u32::from_le_bytes(*count) as usize)?;
    Some((numbers.as_chunks::<2>().0.iter().map(|n| u16::from_le_bytes(*n)).collect(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signs_are_where_openai_puts_them() {
        let english = Vocabulary::of(51_864).expect("embedded");
        assert_eq!((english.end(), english.no_speech()), (50_256, 50_361));
        assert_eq!(english.prompt(Language::ENGLISH), [50_257, 50_362]);
        assert_eq!(english.blank(), 220);
        let all = Vocabulary::of(51_865).expect("embedded");
        assert_eq!((all.end(), all.no_speech()), (50_257, 50_362));
        let large = Vocabulary::of(51_866).expect("embedded");
        // `sot_sequence_including_notimestamps` of openai-whisper's tokenizers.
        for (code, token) in [("en", 50_259), ("es", 50_262), ("ja", 50_266), ("su", 50_357)] {
            let language = code.parse().expect("a language");
            assert_eq!(all.prompt(language), [50_258, token, 50_359, 50_363], "{code}");
            assert_eq!(large.prompt(language), [50_258, token, 50_360, 50_364], "{code}");
            assert_eq!((english.knows(language), all.knows(language)), (code == "en", true), "{code}");
        }
        let last = "yue".parse().expect("a language");
        assert_eq!((all.knows(last), large.prompt(last)), (false, vec![50_258, 50_358, 50_360, 50_364]));
        let ends: Vec<usize> = (0..all.end()).filter(|&token| all.ends_sentence(token)).collect();
        assert!(ends.iter().any(|&token| all.text(&[token]) == "。"));
    }

    #[test]
    fn tokens_are_text() {
        let english = Vocabulary::of(51_864).expect("embedded");
        // tiktoken's gpt2: " Hello world, caf\u{e9}"
        assert_eq!(english.text(&[18_435, 995, 11, 40_304]), "Hello world, caf\u{e9}");
    }
}
