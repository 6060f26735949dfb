//! Text in; utterances ready for the vocoder, and samples, out: what the scheduler does to one clause, without queues.

use std::sync::{Mutex, PoisonError};

use super::VoiceConfig;
use super::espeak::{Espeak, EspeakError};
use super::network::{Network, NetworkError, Spoken};
use super::normalise::normalise;

/// Why there is no speech.
#[derive(Debug, thiserror::Error)]
pub enum SpeechError {
    /// The voice.
    #[error(transparent)]
    Voice(#[from] NetworkError),
    /// The phonemes.
    #[error(transparent)]
    Espeak(#[from] EspeakError),
}

/// A voice and its phonemes.
pub(super) struct Speech {
    pub(super) network: Network,
    pub(super) espeak: Mutex<Espeak>,
}

/// One sentence, ready to be synthesised.
#[derive(Clone)]
pub(super) struct Sentence {
    pub(super) ids: Vec<usize>,
    /// Silence after it.
    pub(super) pause_ms: u32,
}

/// Silence that is left before the first sound of a clause.
const LEAD_MS: u32 = 20;
/// A sample above this is sound (-42 dB of full scale).
const VOICED: f32 = 0.008;

impl Speech {
    pub(super) fn load(config: &VoiceConfig) -> Result<Self, SpeechError> {
        let network = Network::load(&config.model, &config.device, config.threads)?;
        let mut espeak = Espeak::start(&config.espeak, network.espeak_voice())?;
        if let Some(phonemes) = network.longest() {
            espeak.end_at_commas_after(phonemes);
        }
        Ok(Self { network, espeak: Mutex::new(espeak) })
    }

    /// The sentences of a text as a person would write it; none if there is nothing to say.
    pub(super) fn sentences(&self, text: &str) -> Result<Vec<Sentence>, SpeechError> {
        let spoken = normalise(text);
        let sentences = self.espeak.lock().unwrap_or_else(PoisonError::into_inner).sentences(&spoken)?;
        Ok(sentences
            .into_iter()
            .map(|sentence| Sentence {
                ids: self.network.ids(sentence.phonemes.trim_end()),
                pause_ms: match sentence.end {
                    Some('.' | '!' | '?') => 180,
                    Some(';' | ':') => 120,
                    Some(_) => 80,
                    None => 0,
                },
            })
            .collect())
    }

    /// Of each sentence with its seed, an utterance.
    pub(super) fn begin(&self, wanted: &[(Sentence, u64)]) -> Result<Vec<Spoken>, SpeechError> {
        let wanted: Vec<_> = wanted.iter().map(|(sentence, seed)| (sentence.ids.as_slice(), *seed)).collect();
        Ok(self.network.begin(&wanted)?)
    }
}

/// Takes away the silence before the first sound of a clause, all but [`LEAD_MS`].
pub(super) struct Trim {
    /// Held back until the first sound; `None` after it.
    held: Option<Vec<f32>>,
    keep: usize,
    /// So much silence may be taken away.
    most: usize,
    taken: usize,
}

impl Trim {
    pub(super) fn new(rate: u32) -> Self {
        Self { held: Some(Vec::new()), keep: (rate * LEAD_MS / 1000) as usize, most: rate as usize, taken: 0 }
    }

    pub(super) fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        let Some(held) = &mut self.held else { return out.extend_from_slice(samples) };
        held.extend_from_slice(samples);
        let voiced = held.iter().position(|x| x.abs() > VOICED);
        let sound = voiced.unwrap_or(held.len());
        let cut = sound.saturating_sub(self.keep);
        held.drain(..cut);
        self.taken += cut;
        if voiced.is_some() || self.taken > self.most {
            out.append(held);
            self.held = None;
        }
    }

    pub(super) fn finish(&mut self, out: &mut Vec<f32>) {
        if let Some(mut held) = self.held.take() {
            out.append(&mut held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_leading_silence_is_taken() {
        let mut input = vec![0.001; 3000];
        input.extend([0.5; 100]);
        input.extend([0.0; 3000]);
        for step in [1, 64, 10_000] {
            let (mut trim, mut out) = (Trim::new(8000), Vec::new());
            input.chunks(step).for_each(|piece| trim.push(piece, &mut out));
            trim.finish(&mut out);
            assert_eq!(out, input[3000 - 160..]);
        }
    }
}
