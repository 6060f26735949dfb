//! The networks that can speak, behind one face: the file of a voice in; utterances and their samples out.
//!
//! A Piper voice is an ONNX file with its JSON beside it. A speaker of Kokoro's is a file of styles with the network, an
//! ONNX file, beside it. Never here: text, a queue.

use std::path::{Path, PathBuf};

use candle_core::Device;

use super::alphabet::{Accent, tokens};
use crate::models::kokoro::{self, Kokoro, KokoroError, Phrase, Plan, STYLE_LEN};
use crate::models::vits::{self, Noise, Vits, VoiceError, seeded_noise};

/// Why a voice cannot be loaded, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A Piper voice.
    #[error(transparent)]
    Piper(#[from] VoiceError),
    /// Kokoro's network.
    #[error(transparent)]
    Kokoro(#[from] KokoroError),
    /// A speaker's styles.
    #[error("{}: {why}", path.display())]
    Speaker {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// A loaded network.
pub(super) enum Network {
    Piper(Box<Vits>),
    Kokoro(Box<Singer>),
}

/// Kokoro with one speaker.
pub(super) struct Singer {
    network: Kokoro,
    /// A style for each length of a sentence.
    styles: Vec<f32>,
    accent: Accent,
}

/// A sentence on its way to samples.
pub(super) enum Spoken {
    Piper(Box<vits::Utterance>),
    Kokoro(Box<kokoro::Utterance>),
}

/// How much of several turns is sooner done at once than one after the other: at least 1 of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Together {
    /// Sentences that begin.
    pub(super) sentences: usize,
    pub(super) windows: usize,
}

/// A window that is to be made: the next `seconds`, and up to a frame more, or all that are left.
pub(super) struct Window {
    pub(super) spoken: Spoken,
    pub(super) seconds: f32,
    /// What was made.
    pub(super) samples: Vec<f32>,
}

/// Lengths of sentences that a speaker has a style for.
const STYLES: usize = 510;

impl Network {
    /// The end of the name of `model` says which network it is. Piper's has kernels of its own, for the processor.
    pub(super) fn load(model: &Path, device: &Device, threads: usize) -> Result<Self, NetworkError> {
        if model.extension().is_none_or(|end| end != "bin") {
            return Ok(Self::Piper(Box::new(Vits::load(model, &Device::Cpu, threads)?)));
        }
        Ok(Self::Kokoro(Box::new(Singer::load(model, device, threads)?)))
    }

    /// Samples per second.
    pub(super) fn rate(&self) -> u32 {
        match self {
            Self::Piper(vits) => vits.rate(),
            Self::Kokoro(_) => kokoro::RATE,
        }
    }

    /// The espeak-ng voice whose phonemes it knows.
    pub(super) fn espeak_voice(&self) -> &str {
        match self {
            Self::Piper(vits) => vits.espeak_voice(),
            Self::Kokoro(singer) if singer.accent == Accent::British => "en-gb",
            Self::Kokoro(_) => "en-us",
        }
    }

    /// Phonemes after which a sentence may end at a comma: the first sound of Kokoro's waits for all of one.
    pub(super) fn longest(&self) -> Option<usize> {
        matches!(self, Self::Kokoro(_)).then_some(40)
    }

    /// The ids of a sentence's phonemes.
    pub(super) fn ids(&self, phonemes: &str) -> Vec<usize> {
        match self {
            Self::Piper(vits) => vits.ids(phonemes.chars()),
            Self::Kokoro(singer) => tokens(phonemes, singer.accent).into_iter().map(|id| id as usize).collect(),
        }
    }

    /// What is done at once, if `sentences` of a network that can may begin.
    pub(super) fn together(&self, sentences: usize, threads: usize) -> Together {
        match self {
            // A window leaves threads idle here and there; a second one beside it does not.
            Self::Piper(_) => Together { sentences: 1, windows: threads.clamp(1, 2) },
            Self::Kokoro(_) => Together { sentences: sentences.max(1), windows: 1 },
        }
    }

    /// Starts utterances of ids; the same seed gives the same samples, whatever else begins with it.
    pub(super) fn begin(&self, wanted: &[(&[usize], u64)]) -> Result<Vec<Spoken>, NetworkError> {
        match self {
            Self::Piper(vits) => {
                let begin = |&(ids, seed): &(&[usize], u64)| vits.begin(ids, vits.scales(), seeded_noise(seed));
                Ok(wanted.iter().map(|one| Spoken::Piper(Box::new(begin(one)))).collect())
            }
            Self::Kokoro(singer) => {
                Ok(singer.begin(wanted)?.into_iter().map(|one| Spoken::Kokoro(Box::new(one))).collect())
            }
        }
    }

    /// Makes windows of utterances that it began.
    pub(super) fn advance(&self, windows: &mut [Window]) -> Result<(), NetworkError> {
        let frames =
            |seconds: f32, rate: u32, frame: usize| (seconds * rate as f32 / frame as f32).ceil().max(1.0) as usize;
        match self {
            Self::Piper(vits) => vits.advance_all(windows.iter_mut().map(|window| match &mut window.spoken {
                Spoken::Piper(utterance) => {
                    (&mut **utterance, frames(window.seconds, vits.rate(), vits.hop()), &mut window.samples)
                }
                Spoken::Kokoro(_) => unreachable!("an utterance goes on in the network that began it"),
            })),
            Self::Kokoro(singer) => {
                for window in windows {
                    let Spoken::Kokoro(utterance) = &mut window.spoken else {
                        unreachable!("an utterance goes on in the network that began it")
                    };
                    let frames = frames(window.seconds, kokoro::RATE, kokoro::FRAME);
                    singer.network.advance(utterance, frames, &mut window.samples)?;
                }
            }
        }
        Ok(())
    }
}

impl Spoken {
    /// Whether every sample has been given.
    pub(super) fn is_finished(&self) -> bool {
        match self {
            Self::Piper(utterance) => utterance.is_finished(),
            Self::Kokoro(utterance) => utterance.is_finished(),
        }
    }
}

impl Singer {
    fn load(speaker: &Path, device: &Device, threads: usize) -> Result<Self, NetworkError> {
        let fault = |why: String| NetworkError::Speaker { path: speaker.to_owned(), why };
        let bytes = std::fs::read(speaker).map_err(|error| fault(error.to_string()))?;
        if bytes.len() != STYLES * STYLE_LEN * size_of::<f32>() {
            return Err(fault("it holds no styles of Kokoro's".into()));
        }
        let styles = bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
        // The first letter of a speaker's name is the language, the second the sex.
        let accent = match speaker.file_name().and_then(|name| name.as_encoded_bytes().first()) {
            Some(b'a') => Accent::American,
            Some(b'b') => Accent::British,
            _ => return Err(fault("it does not speak English".into())),
        };
        let folder = speaker.parent().unwrap_or_else(|| Path::new("."));
        let files = std::fs::read_dir(folder).map_err(|error| fault(error.to_string()))?;
        let network =
            files.flatten().map(|file| file.path()).find(|file| file.extension().is_some_and(|end| end == "onnx"));
        let network = network.ok_or_else(|| fault("there is no network (.onnx) beside it".into()))?;
        Ok(Self { network: Kokoro::load(&network, device, threads)?, styles, accent })
    }

    fn begin(&self, wanted: &[(&[usize], u64)]) -> Result<Vec<kokoro::Utterance>, KokoroError> {
        let known = |&id: &usize| u32::try_from(id).unwrap_or(u32::MAX);
        let ids: Vec<Vec<u32>> = wanted.iter().map(|(ids, _)| ids.iter().map(known).collect()).collect();
        let style = |ids: &[u32]| &self.styles[ids.len().clamp(1, STYLES) * STYLE_LEN - STYLE_LEN..][..STYLE_LEN];
        let phrases: Vec<Phrase> = ids.iter().map(|ids| Phrase { ids, style: style(ids), speed: 1.0 }).collect();
        let plans = self.network.plan(&phrases, &[])?;
        let mut noises: Vec<Noise> = wanted.iter().map(|(_, seed)| seeded_noise(*seed)).collect();
        let (plans, mut noises): (Vec<&Plan>, Vec<&mut Noise>) = plans.iter().zip(&mut noises).unzip();
        Ok(self.network.speak_all(&plans, &mut noises)?.into_iter().map(kokoro::Utterance::ready).collect())
    }
}
