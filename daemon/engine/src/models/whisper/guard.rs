//! Whisper writes something for any sound. These rules say when not to believe it.
//!
//! Enters: tokens as they come, the text, the model's own doubts. Leaves: whether to stop, whether to decline. The
//! thresholds on doubt are openai-whisper's; those on length and repetition are measured on telephone prompts.

use callbox_wire::{Decline, Language};

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
/// Into how many tokens other languages are cut where English is one: a letter may be three bytes, and each of them a token.
const FINER: usize = 3;
/// The fastest speech, with room to spare: auctioneers reach eight tokens per second.
const TOKENS_PER_SECOND: f32 = 12.0;
const TOKENS_AT_LEAST: f32 = 10.0;

/// Log probability from which the end is believed although another token is more probable, if all was heard. Without its
/// thirty seconds of window the model half forgets how an utterance ends, and would sooner say it again.
const END_AFTER_SENTENCE: f32 = -2.3;
const END_AFTER_SOUND: f32 = -5.0;
/// Encoder positions (20 ms each).
const ABOUT_THE_END: usize = 25;
const LAST_WORD: usize = 40;
/// The fastest token.
const TOKEN_TIME: usize = 5;
/// That many tokens said again, without the audio having gone on as long as they last, are an echo.
const ECHO: usize = 3;

/// What was said so far, and where in the audio it was heard.
#[derive(Default)]
pub(super) struct Said {
    pub(super) tokens: Vec<usize>,
    /// By what tokens are compared: the first token of a text lacks the space that the same word has later.
    keys: Vec<usize>,
    focus: Vec<usize>,
    /// Sum over the tokens.
    pub(super) logprob: f32,
    sentence_ended: bool,
    /// The position at which the sound ends.
    sound_end: usize,
    grain: usize,
}

/// How finely a language is cut into tokens: what is said of numbers of tokens here was measured with English.
pub(super) fn grain(language: Language) -> usize {
    if language == Language::ENGLISH { 1 } else { FINER }
}

impl Said {
    pub(super) fn new(sound_end: usize, grain: usize) -> Self {
        Self { sound_end, grain, ..Self::default() }
    }

    pub(super) fn push(&mut self, token: usize, key: usize, logprob: f32, focus: usize, ends_sentence: bool) {
        self.tokens.push(token);
        self.keys.push(key);
        self.focus.push(focus);
        self.logprob += logprob;
        self.sentence_ended = ends_sentence;
    }

    /// Whether it ends here, `end` being the log probability of that and `focus` where a further word is heard.
    pub(super) fn ends(&self, end: f32, focus: usize, further_is_word: bool) -> bool {
        // Between sentences, too, attention may rest in the silence; so the last word must have been near the end.
        let last_word = self.focus.iter().rev().find(|&&focus| focus < self.sound_end).copied().unwrap_or(0);
        let all_heard = last_word + LAST_WORD >= self.sound_end;
        let after_sound = further_is_word && all_heard && focus + 2 >= self.sound_end && end > END_AFTER_SOUND;
        let after_sentence =
            self.sentence_ended && (all_heard || focus + ABOUT_THE_END >= self.sound_end) && end > END_AFTER_SENTENCE;
        !self.tokens.is_empty() && (after_sound || after_sentence)
    }

    /// Whether the last tokens were said before, of the very same sound. If so, they are taken back. A caller who says
    /// "five five five, five five five" says each at another place.
    pub(super) fn drop_echo(&mut self) -> bool {
        let (len, shortest) = (self.tokens.len(), ECHO * self.grain);
        let same = |a: usize, b: usize| {
            let on = self.focus[a] + (b - a) * TOKEN_TIME / self.grain;
            self.keys[a] == self.keys[b] && (self.focus[b] < on || self.focus[b] + 2 >= self.sound_end)
        };
        let echoes = |last: usize| (0..shortest).all(|i| same(last - i, len - 1 - i));
        let found = (0..len.saturating_sub(shortest))
            .rev()
            .find(|&last| shortest <= last + 1 && shortest < len - last && echoes(last));
        let Some(last) = found else { return false };
        let lag = len - 1 - last;
        let echo = (0..=last).take_while(|&i| self.keys[last - i] == self.keys[len - 1 - i]).count().min(lag);
        self.tokens.truncate(len - echo);
        true
    }
}

/// How many tokens that much audio can hold.
pub(super) fn most_tokens(seconds: f32, grain: usize) -> usize {
    grain * (TOKENS_AT_LEAST + TOKENS_PER_SECOND * seconds) as usize
}

/// Whether the last tokens go round in circles: one phrase at least three times, and so long that no caller says it
/// on purpose ("five five five five" is a telephone number).
pub(super) fn circles(tokens: &[usize], grain: usize) -> bool {
    const LONGEST_PHRASE: usize = 24;
    (1..=LONGEST_PHRASE * grain).any(|phrase| {
        let times = if phrase == 1 { 10 * grain } else { (12 * grain / phrase).max(2) + 1 };
        let Some(start) = tokens.len().checked_sub(phrase * times) else { return false };
        let tail = &tokens[start..];
        tail[phrase..].iter().zip(tail).all(|(token, before)| token == before)
    })
}

/// How many times shorter the text would be packed: about the ratio that zlib reaches, from the longest earlier matches. In
/// other languages of letters, because letters of three bytes repeat two of them all the time.
fn packed(text: &str, grain: usize) -> f32 {
    if grain == 1 { ratio(text.as_bytes()) } else { ratio(&text.chars().collect::<Vec<_>>()) }
}

fn ratio<T: PartialEq>(text: &[T]) -> f32 {
    const HEADER: f32 = 10.0;
    const LITERAL: f32 = 0.75;
    const MATCH: f32 = 2.0;
    let (mut at, mut size) = (0, HEADER);
    while at < text.len() {
        let longest = (0..at)
            .map(|from| text[at..].iter().zip(&text[from..]).take_while(|(a, b)| a == b).count())
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
    text.len() as f32 / size
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
pub(super) fn verdict(end: End, (text, grain): (&str, usize), no_speech: f32, mean_logprob: f32) -> Option<Decline> {
    if no_speech > SURELY_NO_SPEECH || (no_speech > NO_SPEECH && mean_logprob < UNSURE) || silent(text) {
        Some(Decline::NoSpeech)
    } else if end == End::Circles || packed(text, grain) > PACKED {
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
        assert!(!circles(&[5, 5, 5, 5, 5, 5, 5], 1));
        assert!(!circles(&[1, 2, 3, 1, 2, 3, 1, 2, 3], 1));
        assert!(circles(&[9, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5], 1));
        assert!(circles(&[1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3], 1));
        let phrase: Vec<usize> = (0..20).collect();
        assert!(circles(&phrase.repeat(3), 1));
        assert!(!circles(&phrase.repeat(2), 1));
    }

    fn said(words: &[(usize, usize)]) -> Said {
        let mut said = Said::new(100, 1);
        for &(token, focus) in words {
            said.push(token, token, -0.1, focus, false);
        }
        said
    }

    #[test]
    fn an_echo_is_the_same_words_of_the_same_sound() {
        let mut echo = said(&[(7, 0), (1, 10), (2, 30), (3, 50), (9, 101), (1, 12), (2, 33), (3, 101)]);
        assert!(echo.drop_echo());
        assert_eq!(echo.tokens, [7, 1, 2, 3, 9]);
        let mut digits = said(&[(5, 10), (5, 25), (5, 40), (5, 55), (5, 70), (5, 85)]);
        assert!(!digits.drop_echo());
        let mut twice = said(&[(1, 10), (2, 20), (3, 30), (1, 50), (2, 60), (3, 70)]);
        assert!(!twice.drop_echo());
    }

    #[test]
    fn it_ends_where_the_sound_ends_and_not_between_sentences() {
        let late = said(&[(1, 10), (2, 80)]);
        assert!(late.ends(-3.0, 100, true));
        assert!(!late.ends(-3.0, 100, false), "a full stop may follow");
        assert!(!late.ends(-8.0, 100, true));
        let early = said(&[(1, 10), (2, 30)]);
        assert!(!early.ends(-3.0, 100, true), "two thirds are not heard yet");
        assert!(!said(&[]).ends(-0.1, 100, true));
    }

    #[test]
    fn each_doubt_has_its_name() {
        let fair = "I would like to book a table for four at eight.";
        assert_eq!(verdict(End::Said, (fair, 1), 0.1, -0.3), None);
        assert_eq!(verdict(End::Said, (fair, 1), 0.7, -0.3), None);
        assert_eq!(verdict(End::Said, (fair, 1), 0.7, -1.2), Some(Decline::NoSpeech));
        assert_eq!(verdict(End::Said, (" ...", 1), 0.1, -0.3), Some(Decline::NoSpeech));
        assert_eq!(verdict(End::Said, (fair, 1), 0.1, -1.6), Some(Decline::Improbable));
        assert_eq!(verdict(End::TooLong, (fair, 1), 0.1, -0.3), Some(Decline::Improbable));
        let litany = "Thank you for watching. ".repeat(5);
        assert_eq!(verdict(End::Said, (&litany, 1), 0.1, -0.3), Some(Decline::Repetition));
        assert_eq!(verdict(End::Circles, (fair, 1), 0.1, -0.3), Some(Decline::Repetition));
    }

    #[test]
    fn rules_about_english_hold_for_english() {
        let spanish = grain("es".parse().expect("a language"));
        assert_eq!((grain(Language::ENGLISH), most_tokens(2.0, 1), most_tokens(2.0, spanish)), (1, 34, 102));
        // "पाँच" five times: a telephone number of fifteen tokens.
        let digits = [1, 2, 3].repeat(5);
        assert!(circles(&digits, 1) && !circles(&digits, spanish) && circles(&[1, 2, 3].repeat(13), spanish));
        let hindi = "हम सोमवार से शुक्रवार तक सुबह नौ बजे से शाम पाँच बजे तक खुले रहते हैं और शनिवार को दोपहर तक।";
        assert!(packed(hindi, spanish) < PACKED, "{}", packed(hindi, spanish));
        assert!(packed(&hindi.repeat(5), spanish) > PACKED);
    }
}
