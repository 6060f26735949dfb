//! The networks that can speak, behind one face: the file of a voice in; utterances and their samples out.
//!
//! A Piper voice is an ONNX file with its JSON beside it. A speaker of Kokoro's is a file of styles with the network, an
//! ONNX file, beside it. Never here: text, a queue.

use std::path::{Path, PathBuf};

use candle_core::Device;

use super::alphabet::{Accent, tokens};
use crate::models::kokoro::{self, Kokoro, KokoroError, Phrase, STYLE_LEN, Statistics};
use crate::models::vits::{self, Vits, VoiceError, seeded_noise};

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

    /// Starts an utterance; the same seed gives the same samples.
    pub(super) fn begin(&self, ids: &[usize], seed: u64) -> Result<Spoken, NetworkError> {
        Ok(match self {
            Self::Piper(vits) => Spoken::Piper(Box::new(vits.begin(ids, vits.scales(), seeded_noise(seed)))),
            Self::Kokoro(singer) => Spoken::Kokoro(Box::new(singer.begin(ids, seed)?)),
        })
    }

    /// Appends the next `seconds` of samples, and up to a frame more, or all that are left.
    pub(super) fn advance(&self, spoken: &mut Spoken, seconds: f32, out: &mut Vec<f32>) -> Result<(), NetworkError> {
        let frames = |rate: u32, frame: usize| (seconds * rate as f32 / frame as f32).ceil().max(1.0) as usize;
        match (self, spoken) {
            (Self::Piper(vits), Spoken::Piper(utterance)) => {
                vits.advance(utterance, frames(vits.rate(), vits.hop()), out);
                Ok(())
            }
            (Self::Kokoro(singer), Spoken::Kokoro(utterance)) => {
                Ok(singer.network.advance(utterance, frames(kokoro::RATE, kokoro::FRAME), out)?)
            }
            _ => unreachable!("an utterance goes on in the network that began it"),
        }
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

    fn begin(&self, ids: &[usize], seed: u64) -> Result<kokoro::Utterance, KokoroError> {
        let ids: Vec<u32> = ids.iter().map(|&id| u32::try_from(id).unwrap_or(u32::MAX)).collect();
        let style = &self.styles[ids.len().clamp(1, STYLES) * STYLE_LEN - STYLE_LEN..][..STYLE_LEN];
        let plan = self.network.plan(&[Phrase { ids: &ids, style, speed: 1.0 }], &[])?.remove(0);
        self.network.begin(&plan, &mut seeded_noise(seed), Statistics::Whole)
    }
}
