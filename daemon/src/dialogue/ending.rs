//! What the last words of a transcript say about whether the caller has finished. Pure functions of text (English).

/// How a transcript ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ending {
    /// Like a finished sentence: answer soon.
    Complete,
    /// Nothing can be told from the words.
    Open,
    /// In the middle of something: a conjunction, a comma, "um", digits being dictated. Wait longer.
    Hanging,
}

/// Words after which nobody stops on purpose. Prepositions that may end a question are decided by its question mark.
const HANGING: &[&str] = &[
    "a", "about", "an", "and", "at", "because", "but", "by", "eh", "er", "erm", "for", "from", "hmm", "i", "if", "i'm",
    "in", "into", "is", "like", "mm", "my", "of", "on", "or", "our", "so", "than", "that's", "the", "then", "to", "uh",
    "uhm", "um", "umm", "well", "when", "which", "with", "your",
];

const DIGITS: &[&str] =
    &["zero", "oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "double", "triple"];

/// From this many trailing digits on, a caller is taken to dictate a number …
const DICTATING: usize = 3;
/// … until there are as many as a telephone number has.
const DICTATED: usize = 10;

/// Judges the end of a transcript.
#[must_use]
pub fn ending(text: &str) -> Ending {
    let text = text.trim_end();
    if text.ends_with("...") || text.ends_with(['…', ',', '-', '—', ':', ';']) {
        return Ending::Hanging;
    }
    let digits = trailing_digits(text);
    if (DICTATING..DICTATED).contains(&digits) && !text.ends_with('?') {
        return Ending::Hanging;
    }
    if text.ends_with(['?', '!']) {
        return Ending::Complete;
    }
    // Whisper closes almost every fragment with a full stop, so the word before it has the last say.
    let last = text.rsplit(char::is_whitespace).next().map(bare).unwrap_or_default();
    if HANGING.contains(&last.as_str()) {
        Ending::Hanging
    } else if text.ends_with('.') {
        Ending::Complete
    } else {
        Ending::Open
    }
}

/// Whether the caller takes leave: a short utterance with a goodbye in it.
#[must_use]
pub fn is_farewell(text: &str) -> bool {
    let words: Vec<String> = text.split(char::is_whitespace).map(bare).filter(|word| !word.is_empty()).collect();
    if words.len() > 10 || text.trim_end().ends_with('?') {
        return false;
    }
    let has = |phrase: &[&str]| words.windows(phrase.len()).any(|window| window.iter().eq(phrase));
    has(&["bye"])
        || has(&["goodbye"])
        || has(&["bye-bye"])
        || has(&["good-bye"])
        || has(&["good", "bye"])
        || (words.len() <= 7 && (has(&["that's", "all"]) || has(&["that", "is", "all"])))
}

/// The word in lower case without the punctuation around it.
fn bare(word: &str) -> String {
    word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase().replace('’', "'")
}

/// How many digits, written either way, the text ends with.
fn trailing_digits(text: &str) -> usize {
    let mut count = 0;
    for word in text.rsplit(|c: char| c.is_whitespace() || c == '-').map(bare) {
        if word.is_empty() {
            continue;
        }
        if word.chars().all(|c| c.is_ascii_digit()) {
            count += word.len();
        } else if DIGITS.contains(&word.as_str()) {
            count += 1;
        } else {
            break;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_tell() {
        for (text, wanted) in [
            ("What time is breakfast?", Ending::Complete),
            ("Yes.", Ending::Complete),
            ("I would like a room for two.", Ending::Complete),
            ("Where are you at?", Ending::Complete),
            ("I'd like to book a room and", Ending::Hanging),
            ("I'd like to book a room and.", Ending::Hanging),
            ("So, um...", Ending::Hanging),
            ("Um.", Ending::Hanging),
            ("On Monday,", Ending::Hanging),
            ("My number is 555-01", Ending::Hanging),
            ("My number is five five five.", Ending::Hanging),
            ("My number is 212 555 0142.", Ending::Complete),
            ("Is that 1999?", Ending::Complete),
            ("tell me about parking", Ending::Open),
            ("", Ending::Open),
        ] {
            assert_eq!(ending(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn a_goodbye_is_short_and_no_question() {
        for text in ["Goodbye.", "Okay, thanks, bye!", "Bye-bye.", "That's all, thank you.", "Good bye"] {
            assert!(is_farewell(text), "{text:?}");
        }
        for text in [
            "By the way, when is breakfast?",
            "Is that all?",
            "Thank you.",
            "That is all that I know about it so far.",
            "",
        ] {
            assert!(!is_farewell(text), "{text:?}");
        }
    }
}
