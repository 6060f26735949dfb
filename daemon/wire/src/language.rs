//! The languages that ears can be told of. Enters: a code, from an agent's file or a message; leaves: one of these languages.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A language, by its code in ISO 639-1; English unless something else is said. Serialised as the code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Language(u8);

/// It is none of Whisper's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no language that can be heard: use its code of two letters, such as \"es\"")]
pub struct UnknownLanguage(String);

/// Those of Whisper's vocabulary, in its order (openai-whisper, `tokenizer.py`); three are not of ISO 639-1.
const CODES: [&str; 100] = [
    "en", "zh", "de", "es", "ru", "ko", "fr", "ja", "pt", "tr", "pl", "ca", "nl", "ar", "sv", "it", "id", "hi", "fi",
    "vi", "he", "uk", "el", "ms", "cs", "ro", "da", "hu", "ta", "no", "th", "ur", "hr", "bg", "lt", "la", "mi", "ml",
    "cy", "sk", "te", "fa", "lv", "bn", "sr", "az", "sl", "kn", "et", "mk", "br", "eu", "is", "hy", "ne", "mn", "bs",
    "kk", "sq", "sw", "gl", "mr", "pa", "si", "km", "sn", "yo", "so", "af", "oc", "ka", "be", "tg", "sd", "gu", "am",
    "yi", "lo", "uz", "fo", "ht", "ps", "tk", "nn", "mt", "sa", "lb", "my", "bo", "tl", "mg", "as", "tt", "haw", "ln",
    "ha", "ba", "jw", "su", "yue",
];

impl Language {
    /// What is spoken if nothing is said of it.
    pub const ENGLISH: Self = Self(0);

    /// Every one, in that order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).take(CODES.len()).map(Self)
    }

    /// Its code.
    #[must_use]
    pub fn code(self) -> &'static str {
        CODES.get(usize::from(self.0)).copied().unwrap_or(CODES[0])
    }

    /// Its place among all, in the order of Whisper's vocabulary.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl FromStr for Language {
    type Err = UnknownLanguage;

    fn from_str(code: &str) -> Result<Self, UnknownLanguage> {
        let index = CODES.iter().position(|known| *known == code).and_then(|index| u8::try_from(index).ok());
        index.map(Self).ok_or_else(|| UnknownLanguage(code.chars().take(20).collect()))
    }
}

impl TryFrom<String> for Language {
    type Error = UnknownLanguage;

    fn try_from(code: String) -> Result<Self, UnknownLanguage> {
        code.parse()
    }
}

impl From<Language> for String {
    fn from(language: Language) -> Self {
        language.code().to_owned()
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_one_language() {
        for (index, code) in CODES.iter().enumerate() {
            let language: Language = code.parse().expect("known");
            assert_eq!((language.index(), language.code()), (index, *code));
        }
        assert!(Language::all().map(Language::code).eq(CODES));
        assert_eq!(Language::default(), Language::ENGLISH);
        for unknown in ["", "EN", "english", "xx", "e"] {
            assert!(unknown.parse::<Language>().is_err(), "{unknown}");
        }
    }
}
