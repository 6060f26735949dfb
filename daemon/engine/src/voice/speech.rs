//! Text in; utterances ready for the vocoder, and samples, out: what the scheduler does to one clause, without queues.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::VoiceConfig;
use super::alphabet::Language;
use super::espeak::{Espeak, EspeakError};
use super::network::{Network, NetworkError, Speaker, Spoken};
use super::normalise::normalise;
use super::readings::{Reader, ReadingError};

/// Why there is no speech.
#[derive(Debug, thiserror::Error)]
pub enum SpeechError {
    /// The voice.
    #[error(transparent)]
    Voice(#[from] NetworkError),
    /// The phonemes.
    #[error(transparent)]
    Reading(#[from] ReadingError),
}

impl From<EspeakError> for SpeechError {
    fn from(error: EspeakError) -> Self {
        Self::Reading(error.into())
    }
}

impl SpeechError {
    /// Whether nothing is wrong but the name of who is to speak.
    pub(super) fn is_nobody(&self) -> bool {
        matches!(self, Self::Voice(NetworkError::Nobody(_)))
    }
}

/// A voice and its phonemes.
pub(super) struct Speech {
    pub(super) network: Network,
    readers: Mutex<Readers>,
}

/// Who makes phonemes of texts.
enum Readers {
    /// For the one language of a Piper voice.
    Piper(Espeak),
    /// One for each language that somebody has spoken.
    Kokoro { espeak: PathBuf, folder: PathBuf, by_language: HashMap<Language, Start> },
}

/// What came of starting a reader.
enum Start {
    Done(Box<Reader>),
    /// When, and why.
    Failed(Instant, String),
}

/// One sentence, ready to be synthesised.
#[derive(Clone)]
pub(super) struct Sentence {
    pub(super) ids: Vec<usize>,
    /// Who speaks it.
    pub(super) speaker: Option<Arc<Speaker>>,
    /// Silence after it.
    pub(super) pause_ms: u32,
}

/// Silence that is left before the first sound of a clause.
const LEAD_MS: u32 = 20;
/// Phonemes after which a sentence of Kokoro's may end at a comma: its first sound waits for all of one.
const LONGEST: usize = 40;
/// A reader that could not be started is not tried again for so long: every call would wait for it.
const RETRY: Duration = Duration::from_secs(10);
/// A sample above this is sound (-42 dB of full scale).
const VOICED: f32 = 0.008;

impl Speech {
    pub(super) fn load(config: &VoiceConfig) -> Result<Self, SpeechError> {
        let network = Network::load(&config.model, &config.device, config.threads)?;
        let readers = match &network {
            Network::Piper(vits) => Readers::Piper(Espeak::start(&config.espeak, vits.espeak_voice())?),
            Network::Kokoro(_) => Readers::Kokoro {
                espeak: config.espeak.clone(),
                folder: config.model.parent().unwrap_or_else(|| Path::new(".")).to_owned(),
                by_language: HashMap::new(),
            },
        };
        Ok(Self { network, readers: Mutex::new(readers) })
    }

    /// The sentences of a text as a person would write it, for a speaker by name; none if there is nothing to say.
    pub(super) fn sentences(
        &self,
        text: &str,
        voice: Option<&str>,
        now: Instant,
    ) -> Result<Vec<Sentence>, SpeechError> {
        let speaker = self.network.speaker(voice)?;
        let sentences = match (&mut *self.readers.lock().unwrap_or_else(PoisonError::into_inner), &speaker) {
            (Readers::Piper(espeak), _) => espeak.sentences(&normalise(text))?,
            (Readers::Kokoro { espeak, folder, by_language }, Some(speaker)) => {
                let start = || Reader::start(speaker.language, espeak, folder, LONGEST);
                read(by_language, speaker.language, text, now, start)?
            }
            (Readers::Kokoro { .. }, None) => Vec::new(),
        };
        let mut out = Vec::with_capacity(sentences.len());
        for sentence in sentences {
            let pieces = self.network.ids(sentence.phonemes.trim_end(), speaker.as_deref());
            out.extend(pieces.into_iter().map(|ids| Sentence { ids, speaker: speaker.clone(), pause_ms: 0 }));
            if let Some(last) = out.last_mut() {
                last.pause_ms = match sentence.end {
                    Some('.' | '!' | '?') => 180,
                    Some(';' | ':') => 120,
                    Some(_) => 80,
                    None => 0,
                };
            }
        }
        Ok(out)
    }

    /// Of each sentence with its seed, an utterance.
    pub(super) fn begin(&self, wanted: &[(Sentence, u64)]) -> Result<Vec<Spoken>, SpeechError> {
        let wanted: Vec<_> = wanted
            .iter()
            .map(|(sentence, seed)| (sentence.ids.as_slice(), sentence.speaker.as_deref(), *seed))
            .collect();
        Ok(self.network.begin(&wanted)?)
    }
}

/// Has a language's reader read, started if need be. One that fails is gone: whether it starts again is seen next time.
fn read(
    by_language: &mut HashMap<Language, Start>,
    language: Language,
    text: &str,
    now: Instant,
    start: impl FnOnce() -> Result<Reader, ReadingError>,
) -> Result<Vec<super::Sentence>, ReadingError> {
    let mut reader = match by_language.remove(&language) {
        Some(Start::Done(reader)) => reader,
        Some(Start::Failed(at, why)) if now.duration_since(at) < RETRY => {
            let error = ReadingError::Lately(why.clone());
            by_language.insert(language, Start::Failed(at, why));
            return Err(error);
        }
        _ => {
            let started = start().inspect_err(|error| {
                by_language.insert(language, Start::Failed(now, error.to_string()));
            });
            Box::new(started?)
        }
    };
    let sentences = reader.sentences(text)?;
    by_language.insert(language, Start::Done(reader));
    Ok(sentences)
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
    #[expect(clippy::disallowed_methods, reason = "any moment")]
    fn who_could_not_be_started_is_left_in_peace_for_a_while() {
        let (mut readers, mut starts, first) = (HashMap::new(), 0, Instant::now());
        let mut at = |later: Duration| {
            let start = || {
                starts += 1;
                Err(ReadingError::Mecab("none".into()))
            };
            read(&mut readers, Language::Japanese, "はい", first + later, start).expect_err("none").to_string()
        };
        let told = [Duration::ZERO, RETRY / 2, RETRY].map(&mut at);
        assert!(told.iter().all(|why| *why == told[0]));
        assert_eq!(starts, 2);
    }

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
