//! A syllable of pinyin, its tone marked on a vowel, in; the phonemes that Kokoro was trained on out. Never here: a character,
//! a dictionary.

const INITIALS: [(&str, &str); 21] = [
    ("zh", "ꭧ"),
    ("ch", "ꭧʰ"),
    ("sh", "ʂ"),
    ("b", "p"),
    ("p", "pʰ"),
    ("m", "m"),
    ("f", "f"),
    ("d", "t"),
    ("t", "tʰ"),
    ("n", "n"),
    ("l", "l"),
    ("g", "k"),
    ("k", "kʰ"),
    ("h", "x"),
    ("j", "ʨ"),
    ("q", "ʨʰ"),
    ("x", "ɕ"),
    ("r", "ɻ"),
    ("z", "ʦ"),
    ("c", "ʦʰ"),
    ("s", "s"),
];
/// What comes before the tone, and what comes after it.
const FINALS: [(&str, &str, &str); 36] = [
    ("a", "a", ""),
    ("ai", "ai", ""),
    ("an", "a", "n"),
    ("ang", "a", "ŋ"),
    ("ao", "au", ""),
    ("e", "ɤ", ""),
    ("ei", "ei", ""),
    ("en", "ə", "n"),
    ("eng", "ə", "ŋ"),
    ("i", "i", ""),
    ("ia", "ja", ""),
    ("ian", "jɛ", "n"),
    ("iang", "ja", "ŋ"),
    ("iao", "jau", ""),
    ("ie", "je", ""),
    ("in", "i", "n"),
    ("iou", "jou", ""),
    ("ing", "i", "ŋ"),
    ("iong", "jʊ", "ŋ"),
    ("ong", "ʊ", "ŋ"),
    ("ou", "ou", ""),
    ("u", "u", ""),
    ("uei", "wei", ""),
    ("ua", "wa", ""),
    ("uai", "wai", ""),
    ("uan", "wa", "n"),
    ("uen", "wə", "n"),
    ("uang", "wa", "ŋ"),
    ("ueng", "wə", "ŋ"),
    ("uo", "wo", ""),
    ("o", "wo", ""),
    ("ü", "y", ""),
    ("üe", "ɥe", ""),
    ("üan", "ɥɛ", "n"),
    ("ün", "y", "n"),
    ("ê", "ɛ", ""),
];
/// Vowels with each of the four tones.
const MARKED: [(&str, char); 7] =
    [("āáǎà", 'a'), ("ēéěè", 'e'), ("īíǐì", 'i'), ("ōóǒò", 'o'), ("ūúǔù", 'u'), ("ǖǘǚǜ", 'ü'), ("ḿ\0\0\0", 'm')];
const TONES: [&str; 4] = ["→", "↗", "↓", "↘"];

/// The phonemes of a syllable; none of what is no syllable.
pub(super) fn phonemes(syllable: &str) -> String {
    let (mut plain, mut tone) = (String::new(), "");
    for c in syllable.chars() {
        let marked = MARKED.iter().find_map(|(marks, plain)| Some((marks.chars().position(|mark| mark == c)?, *plain)));
        if let Some((at, _)) = marked {
            tone = TONES[at];
        }
        plain.push(marked.map_or(c, |(_, plain)| plain));
    }
    // Interjections stand for themselves.
    match plain.as_str() {
        "er" | "r" => return format!("ɚ{tone}"),
        "o" => return format!("ɔ{tone}"),
        _ => {}
    }
    let (initial, consonant) =
        INITIALS.iter().find(|(initial, _)| plain.starts_with(initial)).copied().unwrap_or_default();
    let written = plain.strip_prefix(initial).unwrap_or_default();
    let last = if written == "i" && matches!(initial, "zh" | "ch" | "sh" | "r" | "z" | "c" | "s") {
        Some(("ɨ", ""))
    } else {
        let sound = in_full(initial, written);
        FINALS.iter().find(|(last, ..)| *last == sound).map(|(_, before, after)| (*before, *after))
    };
    last.map_or_else(String::new, |(before, after)| format!("{consonant}{before}{tone}{after}"))
}

/// A final without what its spelling leaves out or puts in its place.
fn in_full(initial: &str, written: &str) -> String {
    match (initial, written) {
        ("j" | "q" | "x", rest) if rest.starts_with('u') => rest.replacen('u', "ü", 1),
        ("", "yo") => "io".into(),
        ("", rest) if rest.starts_with("yu") => rest.replacen("yu", "ü", 1),
        ("", "you") => "iou".into(),
        ("", "yong") => "iong".into(),
        ("", rest) if rest.starts_with("yi") => rest.replacen("yi", "i", 1),
        ("", rest) if rest.starts_with('y') => rest.replacen('y', "i", 1),
        ("", "wu") => "u".into(),
        ("", "wei") => "uei".into(),
        ("", "wen") => "uen".into(),
        ("", rest) if rest.starts_with('w') => rest.replacen('w', "u", 1),
        (_, "iu") => "iou".into(),
        (_, "ui") => "uei".into(),
        (_, "un") => "uen".into(),
        (_, rest) => rest.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syllables_sound_as_the_network_was_trained() {
        for (syllable, wanted) in [
            ("nǐ", "ni↓"),
            ("hǎo", "xau↓"),
            ("zhōng", "ꭧʊ→ŋ"),
            ("shì", "ʂɨ↘"),
            ("xué", "ɕɥe↗"),
            ("yuè", "ɥe↘"),
            ("wǒ", "wo↓"),
            ("le", "lɤ"),
            ("liù", "ljou↘"),
            ("lǜ", "ly↘"),
            ("èr", "ɚ↘"),
            ("yīng", "i→ŋ"),
            ("yún", "y↗n"),
            ("wǎng", "wa↓ŋ"),
            ("bō", "pwo→"),
            ("", ""),
            ("q", ""),
        ] {
            assert_eq!(phonemes(syllable), wanted, "{syllable}");
        }
    }
}
