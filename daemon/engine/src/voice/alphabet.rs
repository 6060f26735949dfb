//! Phonemes in; Kokoro's tokens out.
//!
//! Kokoro was trained on an alphabet of its own: one letter for each diphthong and affricate, in English hardly any length
//! marks. The rules are those that its authors give for what espeak-ng says; the numbers are its vocabulary's.
//! Never here: a model, a process.

/// What a speaker of Kokoro's speaks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Language {
    /// English as in the voice `en-us` of espeak-ng.
    American,
    /// English as in `en-gb`.
    British,
    /// Of Spain.
    Spanish,
    /// Of France.
    French,
    /// In Devanagari.
    Hindi,
    /// Of Italy.
    Italian,
    /// Of Brazil.
    Portuguese,
    /// In kanji and kana.
    Japanese,
    /// Mandarin, in either characters.
    Chinese,
}

impl Language {
    /// The first letter of a speaker's name is the language, the second the sex.
    pub fn of(speaker: &str) -> Option<Self> {
        Some(match speaker.as_bytes().first()? {
            b'a' => Self::American,
            b'b' => Self::British,
            b'e' => Self::Spanish,
            b'f' => Self::French,
            b'h' => Self::Hindi,
            b'i' => Self::Italian,
            b'p' => Self::Portuguese,
            b'j' => Self::Japanese,
            b'z' => Self::Chinese,
            _ => return None,
        })
    }

    /// The voice of espeak-ng that reads it; of Japanese and Chinese it reads the English words only.
    pub fn espeak_voice(self) -> &'static str {
        match self {
            Self::American | Self::Japanese | Self::Chinese => "en-us",
            Self::British => "en-gb",
            Self::Spanish => "es",
            Self::French => "fr-fr",
            Self::Hindi => "hi",
            Self::Italian => "it",
            Self::Portuguese => "pt-br",
        }
    }

    /// Either English.
    pub fn is_english(self) -> bool {
        matches!(self, Self::American | Self::British)
    }
}

/// What is written differently, wherever it occurs: the longest first.
const BOTH: [(&str, &str); 20] = [
    ("ʔn\u{329}", "tᵊn"),
    ("c\u{327}", "k"),
    ("aɪ", "I"),
    ("aʊ", "W"),
    ("dʒ", "ʤ"),
    ("eɪ", "A"),
    ("tʃ", "ʧ"),
    ("ɔɪ", "Y"),
    ("n\u{329}", "ᵊn"),
    ("m\u{329}", "ᵊm"),
    ("l\u{329}", "ᵊl"),
    ("\u{303}", ""),
    ("\u{329}", ""),
    ("r", "ɹ"),
    ("x", "k"),
    ("ɐ", "ə"),
    ("ɚ", "əɹ"),
    ("ɬ", "l"),
    ("ʔ", "t"),
    ("ʲ", ""),
];
const AMERICAN: [(&str, &str); 7] =
    [("oʊ", "O"), ("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("ɪə", "iə"), ("ɾ", "T"), ("ː", ""), ("o", "ɔ")];
const BRITISH: [(&str, &str); 4] = [("eə", "ɛː"), ("iə", "ɪə"), ("əʊ", "Q"), ("o", "ɔ")];
/// Of other languages that espeak-ng reads: only what it ties together is one sound.
const TIED: [(&str, &str); 13] = [
    ("a^ɪ", "I"),
    ("a^ʊ", "W"),
    ("d^z", "ʣ"),
    ("d^ʒ", "ʤ"),
    ("e^ɪ", "A"),
    ("o^ʊ", "O"),
    ("s^s", "S"),
    ("t^s", "ʦ"),
    ("t^ʃ", "ʧ"),
    ("ɔ^ɪ", "Y"),
    ("ə^ʊ", "Q"),
    ("^", ""),
    ("-", ""),
];

/// The number of the space; those below it are of what a pause is at.
pub(super) const SPACE: usize = 16;

/// The vocabulary: symbols and their numbers.
#[rustfmt::skip]
const TOKENS: [(char, u32); 114] = [
    (';', 1), (':', 2), (',', 3), ('.', 4), ('!', 5), ('?', 6), ('—', 9), ('…', 10), ('"', 11), ('(', 12), (')', 13),
    ('“', 14), ('”', 15), (' ', 16), ('\u{303}', 17), ('ʣ', 18), ('ʥ', 19), ('ʦ', 20), ('ʨ', 21), ('ᵝ', 22),
    ('ꭧ', 23), ('A', 24), ('I', 25), ('O', 31), ('Q', 33), ('S', 35), ('T', 36), ('W', 39), ('Y', 41), ('ᵊ', 42),
    ('a', 43), ('b', 44), ('c', 45), ('d', 46), ('e', 47), ('f', 48), ('h', 50), ('i', 51), ('j', 52), ('k', 53),
    ('l', 54), ('m', 55), ('n', 56), ('o', 57), ('p', 58), ('q', 59), ('r', 60), ('s', 61), ('t', 62), ('u', 63),
    ('v', 64), ('w', 65), ('x', 66), ('y', 67), ('z', 68), ('ɑ', 69), ('ɐ', 70), ('ɒ', 71), ('æ', 72), ('β', 75),
    ('ɔ', 76), ('ɕ', 77), ('ç', 78), ('ɖ', 80), ('ð', 81), ('ʤ', 82), ('ə', 83), ('ɚ', 85), ('ɛ', 86), ('ɜ', 87),
    ('ɟ', 90), ('ɡ', 92), ('ɥ', 99), ('ɨ', 101), ('ɪ', 102), ('ʝ', 103), ('ɯ', 110), ('ɰ', 111), ('ŋ', 112),
    ('ɳ', 113), ('ɲ', 114), ('ɴ', 115), ('ø', 116), ('ɸ', 118), ('θ', 119), ('œ', 120), ('ɹ', 123), ('ɾ', 125),
    ('ɻ', 126), ('ʁ', 128), ('ɽ', 129), ('ʂ', 130), ('ʃ', 131), ('ʈ', 132), ('ʧ', 133), ('ʊ', 135), ('ʋ', 136),
    ('ʌ', 138), ('ɣ', 139), ('ɤ', 140), ('χ', 142), ('ʎ', 143), ('ʒ', 147), ('ʔ', 148), ('ˈ', 156), ('ˌ', 157),
    ('ː', 158), ('ʰ', 162), ('ʲ', 164), ('↓', 169), ('→', 171), ('↗', 172), ('↘', 173), ('ᵻ', 177),
];

/// The tokens of a sentence; what the vocabulary has not is left out.
pub fn tokens(phonemes: &str, language: Language) -> Vec<u32> {
    let number = |symbol| TOKENS.iter().find(|(known, _)| *known == symbol).map(|(_, number)| *number);
    spelt(phonemes, language).chars().filter_map(number).collect()
}

/// Phonemes of espeak-ng as the network was trained on them; those of Japanese and Chinese are that already.
pub(super) fn spelt(phonemes: &str, language: Language) -> String {
    let own: &[_] = match language {
        Language::American => &AMERICAN,
        Language::British => &BRITISH,
        Language::Japanese | Language::Chinese => return phonemes.to_owned(),
        _ => return TIED.iter().fold(phonemes.to_owned(), |text, (from, to)| text.replace(from, to)),
    };
    let first = if language == Language::American { "oʊ" } else { "əʊ" };
    let diphthong = own.iter().filter(|(from, _)| *from == first);
    let rest = own.iter().filter(|(from, _)| *from != first);
    let rules = diphthong.chain(&BOTH).chain(rest);
    rules.fold(phonemes.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_spelt_as_the_network_was_trained() {
        for (espeak, american, british) in [
            ("həlˈoʊ ðˈɛɹ.", "həlˈO ðˈɛɹ.", "həlˈɔʊ ðˈɛɹ."),
            ("tʃˈɜːtʃ dʒˈʌdʒ", "ʧˈɜɹʧ ʤˈʌʤ", "ʧˈɜːʧ ʤˈʌʤ"),
            ("wˈɔːɾɚ bˈʌʔn\u{329}", "wˈɔTəɹ bˈʌtᵊn", "wˈɔːɾəɹ bˈʌtᵊn"),
            ("naɪn ˌaʊɚ bˈɔɪz, deɪ", "nIn ˌWəɹ bˈYz, dA", "nIn ˌWəɹ bˈYz, dA"),
            ("həlˈəʊ ðˈeə lˈɒx", "həlˈəʊ ðˈeə lˈɒk", "həlˈQ ðˈɛː lˈɒk"),
        ] {
            assert_eq!(spelt(espeak, Language::American), american);
            assert_eq!(spelt(espeak, Language::British), british);
        }
    }

    #[test]
    fn tokens_are_the_vocabularys() {
        assert_eq!(tokens("həlˈoʊ!", Language::American), [50, 83, 54, 156, 31, 5]);
        assert_eq!(tokens("日本", Language::American), [0_u32; 0]);
        assert_eq!(spelt("ˈa^ʊto aɪ t^ʃˈa^ʊ kwiːk-ɛnd", Language::Italian), "ˈWto aɪ ʧˈW kwiːkɛnd");
        assert_eq!(["ef_dora", "xf_nobody", ""].map(Language::of), [Some(Language::Spanish), None, None]);
        assert!(TOKENS.iter().all(|(_, number)| (1..178).contains(number)));
    }
}
