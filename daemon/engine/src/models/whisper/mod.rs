//! Whisper: an utterance in, words out.
//!
//! Enters: up to thirty seconds of samples at 16 kHz. Leaves: what was said, or why it is not believed. Never here: a queue,
//! a call, a clock. What differs from openai-whisper: the encoder computes the true length and not thirty seconds,
//! the decoder never computes a token twice, and decoding ends as soon as it goes in circles.
//!
//! ```text
//!  samples ─ mel ─ encoder ─┬─ decoder ⟲, ours, one at a time    a processor ─────────────┬─ utterance, guard ─ text
//!                           └─ tensors ⟲, a batch of a bucket    a card; to be tested: a processor ┘
//! ```

use std::ops::ControlFlow;
use std::path::Path;

use callbox_wire::{Decline, Language};
use candle_core::{Device, Tensor};

use self::checkpoint::Checkpoint;
use self::decoder::Decoder;
use self::encoder::Encoder;
use self::guard::End;
use self::mel::LogMel;
use self::tokens::Vocabulary;
use self::utterance::{Next, Utterance};
use crate::kernels::pointwise;
use crate::weights::tensors::{TensorError, Tensors};

mod alignment;
mod batch;
mod checkpoint;
mod decoder;
mod encoder;
mod guard;
pub mod mel;
mod tensors;
pub mod tokens;
mod utterance;

pub use checkpoint::Dims;

/// Samples per second.
pub const RATE: usize = 16_000;

/// Samples from one encoder position to the next.
const POSITION: usize = 2 * mel::HOP;

/// Silence after the utterance, which the model was trained to see; found by word error rate (see `benches/results`).
const PAD: usize = RATE * 3 / 10;

/// Of each [`bucket`] the longest utterance, in seconds, and how many are transcribed together at most: what the encoder holds
/// of a layer grows with the square of the length.
const BUCKETS: [(usize, usize); 4] = [(2, 16), (5, 16), (10, 8), (30, 4)];

/// A Whisper that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its file is not a Whisper's.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] candle_core::Error),
    /// It has neither of the two vocabularies.
    #[error("no Whisper has {0} tokens: 51864 are English, 51865 and 51866 many languages")]
    Vocabulary(usize),
}

/// An utterance that cannot be transcribed.
#[derive(Debug, thiserror::Error)]
pub enum TranscribeError {
    /// Longer than the model's window.
    #[error("{0} samples are more than the window of {1}")]
    TooLong(usize, usize),
    /// A language that the weights do not know.
    #[error("{0:?} is spoken, which this model does not know")]
    Unknown(Language),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] candle_core::Error),
}

/// Asked between steps of at most some tens of milliseconds: may let others compute, may end the work.
pub trait Pace {
    /// [`ControlFlow::Break`] if nobody wants the result any more.
    fn between(&mut self) -> ControlFlow<()>;
}

/// Never waits, never ends.
#[derive(Clone, Copy, Default, Debug)]
pub struct Unhurried;

impl Pace for Unhurried {
    fn between(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// What was made of an utterance.
#[derive(Clone, PartialEq, Debug)]
pub struct Hearing {
    /// The words; empty if they are not believed.
    pub text: String,
    /// Why not.
    pub declined: Option<Decline>,
    /// Probability that nobody speaks.
    pub no_speech: f32,
    /// Mean log probability per token, the end included.
    pub mean_logprob: f32,
    /// Tokens, the end not included.
    pub tokens: usize,
}

/// The network with its vocabulary; shared, it keeps nothing of an utterance.
pub struct Whisper {
    mel: LogMel,
    encoder: Encoder,
    way: Way,
    vocabulary: Vocabulary,
    dims: Dims,
    pad: usize,
    device: Device,
}

/// How the decoder computes.
enum Way {
    /// One utterance after the other, on the processor.
    Kernels(Decoder),
    /// Several at once, on any device.
    Tensors(tensors::Decoder),
}

impl Whisper {
    /// Loads a checkpoint: OpenAI's pickle, Hugging Face's safetensors, or whisper.cpp's ggml. `threads` are what one step of
    /// the decoder may use on a processor.
    ///
    /// # Errors
    /// If the file is no Whisper, or the device fails.
    pub fn open(path: &Path, device: &Device, threads: usize) -> Result<Self, LoadError> {
        Self::load(path, device, (device.is_cpu()).then_some(threads))
    }

    /// The same, with a decoder on tensors, wherever it computes.
    ///
    /// # Errors
    /// As [`Whisper::open`].
    pub fn open_tensors(path: &Path, device: &Device) -> Result<Self, LoadError> {
        Self::load(path, device, None)
    }

    fn load(path: &Path, device: &Device, threads: Option<usize>) -> Result<Self, LoadError> {
        let checkpoint = Checkpoint::new(Tensors::open(path)?)?;
        let checkpoint = if threads.is_none() { checkpoint.keeping_blocks() } else { checkpoint };
        let dims = checkpoint.dims;
        let vocabulary = Vocabulary::of(dims.vocab).ok_or(LoadError::Vocabulary(dims.vocab))?;
        Ok(Self {
            mel: LogMel::new(dims.mels),
            encoder: Encoder::load(&checkpoint, device)?,
            way: match threads {
                Some(threads) => Way::Kernels(Decoder::load(&checkpoint, threads)?),
                None => Way::Tensors(tensors::Decoder::load(&checkpoint, &vocabulary, device)?),
            },
            vocabulary,
            dims,
            pad: PAD,
            device: device.clone(),
        })
    }

    /// The same with another silence after each utterance, in samples.
    #[must_use]
    pub fn with_pad(mut self, pad: usize) -> Self {
        self.pad = pad;
        self
    }

    /// The sizes of the model.
    #[must_use]
    pub fn dims(&self) -> Dims {
        self.dims
    }

    /// Samples of the longest utterance.
    #[must_use]
    pub fn window(&self) -> usize {
        self.dims.audio_ctx * POSITION
    }

    /// How many utterances of about so many samples are worth being transcribed together.
    #[must_use]
    pub fn batch(&self, samples: usize) -> usize {
        match self.way {
            Way::Kernels(_) => 1,
            Way::Tensors(_) => BUCKETS.get(bucket(samples)).map_or(1, |(_, most)| *most),
        }
    }

    /// What leaves the encoder's convolutions, each of its layers, and its end, for an utterance without pad.
    ///
    /// # Errors
    /// As [`Whisper::transcribe`].
    pub fn layers(&self, samples: &[f32]) -> Result<Vec<Tensor>, TranscribeError> {
        let mut layers = Vec::new();
        let mel = self.spectrogram(samples, 0)?;
        self.encoder.run(&[mel], &mut Unhurried, &mut |x| layers.push(x.clone()))?;
        Ok(layers)
    }

    /// Whether it can be told that this language is spoken.
    #[must_use]
    pub fn knows(&self, language: Language) -> bool {
        self.vocabulary.knows(language)
    }

    /// Greedy, English, without times. Nothing comes back if `pace` breaks.
    ///
    /// # Errors
    /// If there are more samples than [`Whisper::window`], or the device fails.
    pub fn transcribe(&self, samples: &[f32], pace: &mut dyn Pace) -> Result<Option<Hearing>, TranscribeError> {
        let english = [(samples, Language::ENGLISH)];
        Ok(self.transcribe_all(&english, pace)?.and_then(|mut hearings| hearings.pop()))
    }

    /// Several utterances, best of one [`bucket`], each in its language; each is heard as if it were alone. Nothing comes back if
    /// `pace` breaks.
    ///
    /// # Errors
    /// If one has more samples than [`Whisper::window`] or a language that is not known, or the device fails.
    pub fn transcribe_all(
        &self,
        utterances: &[(&[f32], Language)],
        pace: &mut dyn Pace,
    ) -> Result<Option<Vec<Hearing>>, TranscribeError> {
        if let Some((_, language)) = utterances.iter().find(|(_, language)| !self.knows(*language)) {
            return Err(TranscribeError::Unknown(*language));
        }
        let mels = |(samples, _): &(&[f32], Language)| self.spectrogram(samples, self.pad);
        let mels: Vec<Vec<f32>> = utterances.iter().map(mels).collect::<Result<_, _>>()?;
        match &self.way {
            Way::Kernels(decoder) => {
                let mut hearings = Vec::with_capacity(utterances.len());
                for ((samples, language), mel) in utterances.iter().zip(&mels) {
                    let said = (samples.len(), *language);
                    let Some(hearing) = self.alone(decoder, said, mel, pace)? else { return Ok(None) };
                    hearings.push(hearing);
                }
                Ok(Some(hearings))
            }
            Way::Tensors(_) if utterances.is_empty() => Ok(Some(Vec::new())),
            Way::Tensors(decoder) => {
                let said: Vec<_> = utterances.iter().map(|(samples, language)| (samples.len(), *language)).collect();
                Ok(self.together(decoder, &said, &mels, pace)?)
            }
        }
    }

    fn alone(
        &self,
        decoder: &Decoder,
        (samples, language): (usize, Language),
        mel: &Vec<f32>,
        pace: &mut dyn Pace,
    ) -> Result<Option<Hearing>, TranscribeError> {
        let Some(encoded) = self.encoder.run(std::slice::from_ref(mel), pace, &mut |_| {})? else { return Ok(None) };
        if pace.between() == ControlFlow::Break(()) {
            return Ok(None);
        }
        let mut session = decoder.begin(&encoded)?;
        let mut no_speech = 0.0;
        let prompt = self.vocabulary.prompt(language);
        for (i, &token) in prompt.iter().enumerate() {
            let last = i + 1 == prompt.len();
            decoder.step(&mut session, token, i == 0 || last);
            if i == 0 {
                let logits = session.logits();
                no_speech = (logits[self.vocabulary.no_speech()] - pointwise::log_sum_exp(logits)).exp();
            }
        }
        let mut utterance = Utterance::new(samples, language, sound_end(mel, self.dims.mels), no_speech);
        let end = loop {
            let focus = session.focus();
            let next = self.next(session.logits(), focus, utterance.is_new());
            let token = match utterance.take(next, &self.vocabulary) {
                ControlFlow::Continue(token) => token,
                ControlFlow::Break(end) => break end,
            };
            if pace.between() == ControlFlow::Break(()) {
                return Ok(None);
            }
            if !decoder.step(&mut session, token, true) {
                break End::TooLong;
            }
        };
        Ok(Some(utterance.hearing(end, &self.vocabulary)))
    }

    /// What is allowed of the scores that a step left.
    fn next(&self, logits: &mut [f32], focus: usize, first: bool) -> Next {
        for token in self.vocabulary.suppressed() {
            logits[token] = f32::NEG_INFINITY;
        }
        let end = self.vocabulary.end();
        if first {
            logits[self.vocabulary.blank()] = f32::NEG_INFINITY;
            logits[end] = f32::NEG_INFINITY;
        }
        let best = pointwise::argmax(logits);
        let sum = pointwise::log_sum_exp(logits);
        Next { best, logprob: logits[best] - sum, end: logits[end] - sum, focus }
    }

    /// Mel rows of the samples and of `pad` silence, as many as fit; whole encoder positions.
    fn spectrogram(&self, samples: &[f32], pad: usize) -> Result<Vec<f32>, TranscribeError> {
        if samples.len() > self.window() {
            return Err(TranscribeError::TooLong(samples.len(), self.window()));
        }
        let positions = (samples.len() + pad).div_ceil(POSITION).clamp(1, self.dims.audio_ctx);
        Ok(self.mel.compute(samples, 2 * positions))
    }
}

/// How many languages a checkpoint knows; only its head is read.
///
/// # Errors
/// If the file is no Whisper.
pub fn languages(path: &Path) -> Result<usize, LoadError> {
    let tokens = Checkpoint::new(Tensors::open(path)?)?.dims.vocab;
    let vocabulary = Vocabulary::of(tokens).ok_or(LoadError::Vocabulary(tokens))?;
    Ok(Language::all().filter(|language| vocabulary.knows(*language)).count())
}

/// Which lengths are worth being computed together: what the longest of them takes, all take.
#[must_use]
pub fn bucket(samples: usize) -> usize {
    BUCKETS.iter().position(|(seconds, _)| samples <= seconds * RATE).unwrap_or(BUCKETS.len())
}

/// The encoder position after the last mel row that is less than 36 dB below the loudest.
fn sound_end(mel: &[f32], mels: usize) -> usize {
    const DEPTH: f32 = 3.6 / 4.0;
    let peak = |row: &[f32]| row.iter().copied().fold(f32::MIN, f32::max);
    let loudest = peak(mel);
    mel.chunks_exact(mels).rposition(|row| peak(row) > loudest - DEPTH).map_or(0, |row| row / 2 + 1)
}
