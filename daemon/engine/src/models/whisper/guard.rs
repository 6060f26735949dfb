//! Whisper writes something for any sound. These rules say when not to believe it.
//!
//! Enters: tokens as they come, the text, the model's own doubts. Leaves: whether to stop, whether to decline. The
//! thresholds on doubt are openai-whisper's; those on length and repetition are measured on telephone prompts.

use callbox_wire::Decline;

/// Above this the model says that nobody speaks, if it is also unsure of its words.
const NO_SPEECH: f32 = 0.6;
/// A mean below this is unsure.
const UNSURE: f32 = -1.0;
/// Nobody speaks, however sure of its words the model is.
const SURELY_NO_SPEECH: f32 = 0.95;
/// A mean below this is improbable throughout.
const IMPROBABLE: f32 = -1.5;
/// A text that packs better than this repeats itself.
const PACKED: f32 = 2.4;
/// The fastest speech, with room to spare: auctioneers reach eight tokens per second.
const TOKENS_PER_SECOND: f32 = 12.0;
const TOKENS_AT_LEAST: f32 = 10.0;

/// How many tokens that much audio can hold.
pub(super) fn most_tokens(seconds: f32) -> usize {
    (TOKENS_AT_LEAST + TOKENS_PER_SECOND * seconds) as usize
}

/// Whether the last tokens go round in circles: one phrase at least three times, and so long that no caller says it
/// on purpose ("five five five five" is a telephone number).
pub(super) fn circles(tokens: &[usize]) -> bool {
    const LONGEST_PHRASE: usize = 24;
    (1..=LONGEST_PHRASE).any(|phrase| {
        let times = if phrase == 1 { 10 } else { (12 / phrase).max(2) + 1 };
        let Some(start) = tokens.len().checked_sub(phrase * times) else { return false };
        let tail = &tokens[start..];
        tail[phrase..].iter().zip(tail).all(|(token, before)| token == before)
    })
}

/// How many times shorter the text would be packed: about the ratio that zlib reaches, from the longest earlier matches.
fn packed(text: &str) -> f32 {
    const HEADER: f32 = 10.0;
    const LITERAL: f32 = 0.75;
    const MATCH: f32 = 2.0;
    let bytes = text.as_bytes();
    let (mut at, mut size) = (0, HEADER);
    while at < bytes.len() {
        let longest = (0..at)
            .map(|from| bytes[at..].iter().zip(&bytes[from..]).take_while(|(a, b)| a == b).count())
            .max()
            .unwrap_or(0);
        if longest >= 4 {
            size += MATCH;
            at += longest;
        } else {
            size += LITERAL;
            at += 1;
        }
    }
    bytes.len() as f32 / size
}

/// How decoding ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// With the model's own end.
    Said,
    /// In circles.
    Circles,
    /// With more tokens than the audio can hold.
    TooLong,
}

/// Why the text is not believed, if it is not.
pub(super) fn verdict(end: End, text: &str, no_speech: f32, mean_logprob: f32) -> Option<Decline> {
    if no_speech > SURELY_NO_SPEECH || (no_speech > NO_SPEECH && mean_logprob < UNSURE) || silent(text) {
        Some(Decline::NoSpeech)
    } else if end == End::Circles || packed(text) > PACKED {
        Some(Decline::Repetition)
    } else if end == End::TooLong || mean_logprob < IMPROBABLE {
        Some(Decline::Improbable)
    } else {
        None
    }
}

/// No letter and no digit in it.
fn silent(text: &str) -> bool {
    !text.chars().any(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_no_circle_but_a_litany_is() {
        assert!(!circles(&[5, 5, 5, 5, 5, 5, 5]));
        assert!(!circles(&[1, 2, 3, 1, 2, 3, 1, 2, 3]));
        assert!(circles(&[9, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5]));
        assert!(circles(&[1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3]));
        let phrase: Vec<usize> = (0..20).collect();
        assert!(circles(&phrase.repeat(3)));
        assert!(!circles(&phrase.repeat(2)));
    }

    #[test]
    fn each_doubt_has_its_name() {
        let fair = "I would like to book a table for four at eight.";
        assert_eq!(verdict(End::Said, fair, 0.1, -0.3), None);
        assert_eq!(verdict(End::Said, fair, 0.7, -0.3), None);
        assert_eq!(verdict(End::Said, fair, 0.7, -1.2), Some(Decline::NoSpeech));
        assert_eq!(verdict(End::Said, " ...", 0.1, -0.3), Some(Decline::NoSpeech));
        assert_eq!(verdict(End::Said, fair, 0.1, -1.6), Some(Decline::Improbable));
        assert_eq!(verdict(End::TooLong, fair, 0.1, -0.3), Some(Decline::Improbable));
        let litany = "Thank you for watching. ".repeat(5);
        assert_eq!(verdict(End::Said, &litany, 0.1, -0.3), Some(Decline::Repetition));
        assert_eq!(verdict(End::Circles, fair, 0.1, -0.3), Some(Decline::Repetition));
    }
}
