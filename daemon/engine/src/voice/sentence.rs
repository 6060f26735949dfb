//! Words with punctuation in; clauses, and sentences of their phonemes, out: where a speaker of any language pauses. Never
//! here: a process, a dictionary.

/// One sentence as the voice's network takes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Sentence {
    /// Phonemes and the punctuation that shapes their melody.
    pub phonemes: String,
    /// The punctuation at its end, if any.
    pub end: Option<char>,
}

/// Words without punctuation, and the mark that ends them.
pub(super) type Clause = (String, Option<char>);

/// A line without punctuation is cut here, in bytes.
const MAX_LINE: usize = 250;

/// Cuts a text at punctuation that is followed by a space or the end, as espeak-ng would.
pub(super) fn clauses(text: &str) -> Vec<Clause> {
    let mut clauses: Vec<Clause> = Vec::new();
    let mut words = String::new();
    let mut chars = text.chars().peekable();
    let mut close = |words: &mut String, end: Option<char>| {
        let spoken = words.trim();
        if spoken.chars().any(char::is_alphanumeric) {
            clauses.push((spoken.to_owned(), end));
        } else if let (Some(last), Some(_)) = (clauses.last_mut(), end) {
            // Punctuation after punctuation: the stronger one stays.
            if last.1.is_none() || matches!(end, Some('.' | '!' | '?')) && matches!(last.1, Some(',' | ';' | ':')) {
                last.1 = end;
            }
        }
        words.clear();
    };
    while let Some(c) = chars.next() {
        let ends = matches!(c, '.' | ',' | '!' | '?' | ';' | ':')
            && chars
                .peek()
                .is_none_or(|next| next.is_whitespace() || matches!(next, '.' | ',' | '!' | '?' | ';' | ':'));
        if ends {
            close(&mut words, Some(c));
        } else if words.len() > MAX_LINE && c.is_whitespace() || words.len() > 2 * MAX_LINE {
            close(&mut words, Some(','));
        } else if c.is_control() {
            words.push(' ');
        } else {
            words.push(c);
        }
    }
    close(&mut words, None);
    clauses
}

/// The sentences of clauses and their phonemes; one that has more phonemes than `longest` ends at its next comma.
pub(super) fn sentences(clauses: &[Clause], answers: &[String], longest: usize) -> Vec<Sentence> {
    let mut sentences = Vec::new();
    let mut phonemes = String::new();
    for (answer, (_, end)) in answers.iter().zip(clauses) {
        if answer.is_empty() {
            continue;
        }
        if !phonemes.is_empty() && !phonemes.ends_with(' ') {
            phonemes.push(' ');
        }
        phonemes.push_str(answer);
        phonemes.extend(end);
        match end {
            Some('.' | '!' | '?') => sentences.push(Sentence { phonemes: std::mem::take(&mut phonemes), end: *end }),
            Some(_) if phonemes.chars().count() > longest => {
                sentences.push(Sentence { phonemes: std::mem::take(&mut phonemes), end: *end });
            }
            Some(_) => phonemes.push(' '),
            None => {}
        }
    }
    if !phonemes.is_empty() {
        let end = clauses.last().and_then(|(_, end)| *end);
        sentences.push(Sentence { phonemes, end });
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses_end_where_a_speaker_pauses() {
        let cut =
            |text| clauses(text).into_iter().map(|(w, e)| format!("{w}|{}", e.unwrap_or('-'))).collect::<Vec<_>>();
        assert_eq!(cut("Hello, world. How are you?"), ["Hello|,", "world|.", "How are you|?"]);
        assert_eq!(cut("a.b and so on"), ["a.b and so on|-"]);
        assert_eq!(cut("well... , yes!?"), ["well|.", "yes|!"]);
        assert_eq!(cut(" .,!"), [""; 0]);
    }
}
