//! One utterance being written down: what each step's scores make of it.
//!
//! Enters: what a decoder says of the next token. Leaves: the token to go on with, or the end; then the text, if it is believed.
//! Never here: a tensor. Both decoders are followed by this, whichever computes.

use std::ops::ControlFlow;

use callbox_wire::Language;

use super::guard::{self, End, Said};
use super::tokens::Vocabulary;
use super::{Hearing, RATE};

/// What a decoder says of the next token, among those that are allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Next {
    /// The most probable one.
    pub(super) best: usize,
    /// Its log probability.
    pub(super) logprob: f32,
    /// The log probability that the text ends here.
    pub(super) end: f32,
    /// The encoder position that the last step attended to most: about where the next word is spoken.
    pub(super) focus: usize,
}

pub(super) struct Utterance {
    said: Said,
    no_speech: f32,
    /// How many tokens that much audio can hold.
    most: usize,
    grain: usize,
}

impl Utterance {
    /// Of so many samples, of which the sound ends at an encoder position.
    pub(super) fn new(samples: usize, language: Language, sound_end: usize, no_speech: f32) -> Self {
        let grain = guard::grain(language);
        Self { said: Said::new(sound_end, grain), no_speech, most: most_tokens(samples, language), grain }
    }

    /// Nothing is said yet: the text neither ends nor begins with a space alone.
    pub(super) fn is_new(&self) -> bool {
        self.said.tokens.is_empty()
    }

    /// The token to go on with, unless it ends here.
    pub(super) fn take(&mut self, next: Next, vocabulary: &Vocabulary) -> ControlFlow<End, usize> {
        let Next { best, logprob, end, focus } = next;
        let said = &mut self.said;
        if best == vocabulary.end() {
            said.logprob += logprob;
            return ControlFlow::Break(End::Said);
        }
        if said.ends(end, focus, vocabulary.is_word(best)) {
            // The model was about to go on: what it thinks of ending here says nothing of its words.
            return ControlFlow::Break(End::Said);
        }
        let key = if said.tokens.is_empty() { vocabulary.spaced(best) } else { best };
        said.push(best, key, logprob, focus, vocabulary.ends_sentence(best));
        if said.drop_echo() {
            ControlFlow::Break(End::Said)
        } else if guard::circles(&said.tokens, self.grain) {
            ControlFlow::Break(End::Circles)
        } else if said.tokens.len() >= self.most {
            ControlFlow::Break(End::TooLong)
        } else {
            ControlFlow::Continue(best)
        }
    }

    /// What was made of it.
    pub(super) fn hearing(self, end: End, vocabulary: &Vocabulary) -> Hearing {
        let Said { tokens, logprob, .. } = self.said;
        let mean_logprob = logprob / (tokens.len() + 1) as f32;
        let text = vocabulary.text(&tokens);
        // Where the sound ended in mid-sentence a comma may be left.
        let text = text.trim_end_matches([',', ' ']).to_owned();
        let declined = guard::verdict(end, (&text, self.grain), self.no_speech, mean_logprob);
        let text = if declined.is_some() { String::new() } else { text };
        Hearing { text, declined, no_speech: self.no_speech, mean_logprob, tokens: tokens.len() }
    }
}

/// How many tokens so many samples can hold.
pub(super) fn most_tokens(samples: usize, language: Language) -> usize {
    guard::most_tokens(samples as f32 / RATE as f32, guard::grain(language))
}
