//! The networks that can speak, behind one face: the file of a voice in; utterances and their samples out.
//!
//! A Piper voice is an ONNX file with its JSON beside it. A speaker of Kokoro's is a file of styles with the network, an
//! ONNX file, beside it. Never here: text, a queue.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Device;

use super::alphabet::{Language, SPACE, tokens};
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
    /// Nobody of that name speaks.
    #[error("there is no speaker `{0}` beside this voice's network")]
    Nobody(String),
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

/// Kokoro with its speakers.
pub(super) struct Singer {
    network: Kokoro,
    /// Where the speakers' files lie.
    folder: PathBuf,
    /// Who speaks where nobody is named.
    first: Arc<Speaker>,
    /// Those who have spoken, by name.
    known: Mutex<BTreeMap<String, Arc<Speaker>>>,
}

/// A speaker of Kokoro's.
pub(super) struct Speaker {
    pub(super) language: Language,
    /// A style for each length of a sentence.
    styles: Vec<f32>,
}

/// The ids of a sentence, who speaks it, a seed.
pub(super) type Wanted<'a> = (&'a [usize], Option<&'a Speaker>, u64);

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

    /// Who speaks: whoever is named, else the one that it was loaded with; nobody of Piper's, who has one voice and no name.
    ///
    /// # Errors
    /// If nobody of that name lies beside the network.
    pub(super) fn speaker(&self, name: Option<&str>) -> Result<Option<Arc<Speaker>>, NetworkError> {
        match (self, name) {
            (Self::Kokoro(singer), name) => singer.speaker(name).map(Some),
            (Self::Piper(_), None) => Ok(None),
            (Self::Piper(_), Some(name)) => Err(NetworkError::Nobody(name.to_owned())),
        }
    }

    /// The ids of a sentence's phonemes: at once, or in as many pieces as Kokoro's network has it.
    pub(super) fn ids(&self, phonemes: &str, speaker: Option<&Speaker>) -> Vec<Vec<usize>> {
        match (self, speaker) {
            (Self::Piper(vits), _) => vec![vits.ids(phonemes.chars())],
            (Self::Kokoro(singer), speaker) => {
                let language = speaker.map_or(singer.first.language, |speaker| speaker.language);
                pieces(tokens(phonemes, language).into_iter().map(|id| id as usize).collect())
            }
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

    /// Starts utterances; the same seed gives the same samples, whatever else begins with it.
    pub(super) fn begin(&self, wanted: &[Wanted]) -> Result<Vec<Spoken>, NetworkError> {
        match self {
            Self::Piper(vits) => {
                let begin = |&(ids, _, seed): &Wanted| vits.begin(ids, vits.scales(), seeded_noise(seed));
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

/// No piece is longer than what Kokoro's network reads at once; each ends at a space or a pause, if there is one.
fn pieces(mut ids: Vec<usize>) -> Vec<Vec<usize>> {
    let mut pieces = Vec::new();
    while ids.len() > kokoro::MAX_IDS {
        let pause = ids.iter().take(kokoro::MAX_IDS).rposition(|&id| id <= SPACE);
        let end = pause.map_or(kokoro::MAX_IDS, |at| at + 1);
        let rest = ids.split_off(end);
        pieces.push(std::mem::replace(&mut ids, rest));
    }
    pieces.push(ids);
    pieces
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
    fn load(model: &Path, device: &Device, threads: usize) -> Result<Self, NetworkError> {
        let fault = |why: String| NetworkError::Speaker { path: model.to_owned(), why };
        let first = Arc::new(Speaker::load(model)?);
        let folder = model.parent().unwrap_or_else(|| Path::new(".")).to_owned();
        let files = std::fs::read_dir(&folder).map_err(|error| fault(error.to_string()))?;
        let network =
            files.flatten().map(|file| file.path()).find(|file| file.extension().is_some_and(|end| end == "onnx"));
        let network = network.ok_or_else(|| fault("there is no network (.onnx) beside it".into()))?;
        let name = model.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let known = Mutex::new(BTreeMap::from([(name, Arc::clone(&first))]));
        Ok(Self { network: Kokoro::load(&network, device, threads)?, folder, first, known })
    }

    fn begin(&self, wanted: &[Wanted]) -> Result<Vec<kokoro::Utterance>, KokoroError> {
        let known = |&id: &usize| u32::try_from(id).unwrap_or(u32::MAX);
        let ids: Vec<Vec<u32>> = wanted.iter().map(|(ids, ..)| ids.iter().map(known).collect()).collect();
        let phrases = ids.iter().zip(wanted).map(|(ids, (_, speaker, _))| {
            let style = speaker.unwrap_or(&self.first).style(ids.len());
            Phrase { ids, style, speed: 1.0 }
        });
        let plans = self.network.plan(&phrases.collect::<Vec<_>>(), &[])?;
        let mut noises: Vec<Noise> = wanted.iter().map(|(.., seed)| seeded_noise(*seed)).collect();
        let (plans, mut noises): (Vec<&Plan>, Vec<&mut Noise>) = plans.iter().zip(&mut noises).unzip();
        Ok(self.network.speak_all(&plans, &mut noises)?.into_iter().map(kokoro::Utterance::ready).collect())
    }

    /// A speaker's styles are half a megabyte, read when they are first wanted, and kept.
    fn speaker(&self, name: Option<&str>) -> Result<Arc<Speaker>, NetworkError> {
        let Some(name) = name else { return Ok(Arc::clone(&self.first)) };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(speaker) = known.get(name) {
            return Ok(Arc::clone(speaker));
        }
        let is_plain = name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
        let path = self.folder.join(format!("{name}.bin"));
        if !is_plain || !path.is_file() {
            return Err(NetworkError::Nobody(name.to_owned()));
        }
        let speaker = Arc::new(Speaker::load(&path)?);
        known.insert(name.to_owned(), Arc::clone(&speaker));
        Ok(speaker)
    }
}

impl Speaker {
    fn load(path: &Path) -> Result<Self, NetworkError> {
        let fault = |why: String| NetworkError::Speaker { path: path.to_owned(), why };
        let bytes = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
        if bytes.len() != STYLES * STYLE_LEN * size_of::<f32>() {
            return Err(fault("it holds no styles of Kokoro's".into()));
        }
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let language =
            Language::of(&name).ok_or_else(|| fault("the first letter of its name is no language".into()))?;
        let styles = bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
        Ok(Self { language, styles })
    }

    /// How a sentence of so many tokens is spoken.
    pub(super) fn style(&self, tokens: usize) -> &[f32] {
        &self.styles[tokens.clamp(1, STYLES) * STYLE_LEN - STYLE_LEN..][..STYLE_LEN]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_long_sentence_is_lost() {
        let word = [vec![60; 99], vec![SPACE]].concat();
        for (ids, lengths) in [
            (word.repeat(11), vec![500, 500, 100]),
            (vec![60; 1100], vec![510, 510, 80]),
            (vec![60; 510], vec![510]),
            (vec![], vec![0]),
        ] {
            let pieces = pieces(ids.clone());
            assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), lengths);
            assert_eq!(pieces.concat(), ids);
        }
    }
}
