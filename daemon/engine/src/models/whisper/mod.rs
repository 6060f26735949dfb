//! Whisper: an utterance in, words out.
//!
//! Enters: up to thirty seconds of samples at 16 kHz. Leaves: what was said, or why it is not believed. Never here: a queue,
//! a call, a clock. What differs from openai-whisper: the encoder computes the true length and not thirty seconds,
//! the decoder never computes a token twice, and decoding ends as soon as it goes in circles.
//!
//! ```text
//!  samples ─ mel ─ encoder ─ cross keys ─ decoder ⟲ ─ tokens ─ guard ─ text
//! ```

use std::ops::ControlFlow;
use std::path::Path;

use callbox_wire::Decline;
use candle_core::{Device, Tensor};

use self::checkpoint::Checkpoint;
use self::decoder::Decoder;
use self::encoder::Encoder;
use self::guard::{End, Said};
use self::mel::LogMel;
use self::tokens::Vocabulary;
use crate::kernels::pointwise;
use crate::weights::tensors::{TensorError, Tensors};

mod checkpoint;
mod decoder;
mod encoder;
mod guard;
pub mod mel;
pub mod tokens;

pub use checkpoint::Dims;

/// Samples per second.
pub const RATE: usize = 16_000;

/// Samples from one encoder position to the next.
const POSITION: usize = 2 * mel::HOP;

/// Silence after the utterance, which the model was trained to see; found by word error rate (see `benches/results`).
const PAD: usize = RATE * 3 / 10;

/// A Whisper that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its file is not a Whisper's.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] candle_core::Error),
    /// Its vocabulary is not one of the two.
    #[error("no vocabulary has {0} tokens")]
    Vocabulary(usize),
}

/// An utterance that cannot be transcribed.
#[derive(Debug, thiserror::Error)]
pub enum TranscribeError {
    /// Longer than the model's window.
    #[error("{0} samples are more than the window of {1}")]
    TooLong(usize, usize),
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
    decoder: Decoder,
    vocabulary: Vocabulary,
    dims: Dims,
    pad: usize,
}

impl Whisper {
    /// Loads a checkpoint: OpenAI's pickle or Hugging Face's safetensors. `threads` are what one step of the decoder may use.
    ///
    /// # Errors
    /// If the file is no Whisper, or the device fails.
    pub fn open(path: &Path, device: &Device, threads: usize) -> Result<Self, LoadError> {
        let checkpoint = Checkpoint::new(Tensors::open(path)?)?;
        let dims = checkpoint.dims;
        Ok(Self {
            mel: LogMel::new(dims.mels),
            encoder: Encoder::load(&checkpoint, device)?,
            decoder: Decoder::load(&checkpoint, device, threads)?,
            vocabulary: Vocabulary::of(dims.vocab).ok_or(LoadError::Vocabulary(dims.vocab))?,
            dims,
            pad: PAD,
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

    /// What leaves the encoder's convolutions, each of its layers, and its end, for an utterance without pad.
    ///
    /// # Errors
    /// As [`Whisper::transcribe`].
    pub fn layers(&self, samples: &[f32]) -> Result<Vec<Tensor>, TranscribeError> {
        let mut layers = Vec::new();
        let mel = self.spectrogram(samples, 0)?;
        self.encoder.run(&mel, &mut Unhurried, &mut |x| layers.push(x.clone()))?;
        Ok(layers)
    }

    /// Greedy, English, without times. Nothing comes back if `pace` breaks.
    ///
    /// # Errors
    /// If there are more samples than [`Whisper::window`], or the device fails.
    pub fn transcribe(&self, samples: &[f32], pace: &mut dyn Pace) -> Result<Option<Hearing>, TranscribeError> {
        let mel = self.spectrogram(samples, self.pad)?;
        let Some(encoded) = self.encoder.run(&mel, pace, &mut |_| {})? else { return Ok(None) };
        if pace.between() == ControlFlow::Break(()) {
            return Ok(None);
        }
        let mut session = self.decoder.begin(&encoded)?;
        let mut no_speech = 0.0;
        let prompt = self.vocabulary.prompt();
        for (i, &token) in prompt.iter().enumerate() {
            let last = i + 1 == prompt.len();
            self.decoder.step(&mut session, token, i == 0 || last);
            if i == 0 {
                let logits = session.logits();
                no_speech = (logits[self.vocabulary.no_speech()] - pointwise::log_sum_exp(logits)).exp();
            }
        }
        let most = guard::most_tokens(samples.len() as f32 / RATE as f32);
        let mut said = Said::new(sound_end(&mel, self.dims.mels));
        let end = loop {
            let focus = session.focus();
            let (token, logprob) = self.choose(session.logits(), &said, focus);
            if token == self.vocabulary.end() {
                said.logprob += logprob;
                break End::Said;
            }
            let key = if said.tokens.is_empty() { self.vocabulary.spaced(token) } else { token };
            said.push(token, key, logprob, focus, self.vocabulary.ends_sentence(token));
            if said.drop_echo() {
                break End::Said;
            }
            if guard::circles(&said.tokens) {
                break End::Circles;
            }
            if said.tokens.len() >= most {
                break End::TooLong;
            }
            if pace.between() == ControlFlow::Break(()) {
                return Ok(None);
            }
            if !self.decoder.step(&mut session, token, true) {
                break End::TooLong;
            }
        };
        let Said { tokens, logprob, .. } = said;
        let mean_logprob = logprob / (tokens.len() + 1) as f32;
        let text = self.vocabulary.text(&tokens);
        // Where the sound ended in mid-sentence a comma may be left.
        let text = text.trim_end_matches([',', ' ']).to_owned();
        let declined = guard::verdict(end, &text, no_speech, mean_logprob);
        let text = if declined.is_some() { String::new() } else { text };
        Ok(Some(Hearing { text, declined, no_speech, mean_logprob, tokens: tokens.len() }))
    }

    /// The most probable token that is allowed, and its log probability among these.
    fn choose(&self, logits: &mut [f32], said: &Said, focus: usize) -> (usize, f32) {
        for token in self.vocabulary.suppressed() {
            logits[token] = f32::NEG_INFINITY;
        }
        let end = self.vocabulary.end();
        if said.tokens.is_empty() {
            logits[self.vocabulary.blank()] = f32::NEG_INFINITY;
            logits[end] = f32::NEG_INFINITY;
        }
        let best = pointwise::argmax(logits);
        let sum = pointwise::log_sum_exp(logits);
        if best != end && said.ends(logits[end] - sum, focus, self.vocabulary.is_word(best)) {
            // The model was about to go on: what it thinks of ending here says nothing of its words.
            return (end, 0.0);
        }
        (best, logits[best] - sum)
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

/// The encoder position after the last mel row that is less than 36 dB below the loudest.
fn sound_end(mel: &[f32], mels: usize) -> usize {
    const DEPTH: f32 = 3.6 / 4.0;
    let peak = |row: &[f32]| row.iter().copied().fold(f32::MIN, f32::max);
    let loudest = peak(mel);
    mel.chunks_exact(mels).rposition(|row| peak(row) > loudest - DEPTH).map_or(0, |row| row / 2 + 1)
}
