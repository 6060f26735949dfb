//! Piper's network, VITS (Kim et al. 2021): phonemes in; samples out, window by window.
//!
//! ```text
//!  ids ─ encoder ─┬─ duration ─ frames of each phoneme ─┐
//!                 └─ mean, deviation ──────── + noise ──┴─ prior frames ─ flow ─ frames ─ vocoder ─ samples
//!                        whole utterance                 └──────── piece by piece, exact ─────────┘
//! ```
//!
//! Randomness is an argument: a generator, or any other source of normal deviates. Never here: text, a queue, a call.

mod config;
mod duration;
mod encoder;
mod flow;
mod load;
mod rows;
mod vocoder;

use std::collections::HashMap;
use std::path::Path;

use candle_core::Device;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

pub use config::Scales;

use crate::kernels::math;
use crate::weights::onnx::{Onnx, OnnxError};

/// Why a voice cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum VoiceError {
    /// The weights.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The JSON beside them.
    #[error("cannot read the voice's configuration {path}: {why}")]
    Config {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// Something that this network has not.
    #[error("this voice is not supported: {0}")]
    Unsupported(&'static str),
    /// The threads could not be started.
    #[error("cannot start the voice's threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

/// Where normal deviates come from: fills the slice it is given.
pub type Noise = Box<dyn FnMut(&mut [f32]) + Send>;

/// A loaded voice.
pub struct Vits {
    encoder: encoder::Encoder,
    duration: duration::DurationPredictor,
    flow: flow::Flow,
    vocoder: vocoder::Vocoder,
    phonemes: HashMap<char, Vec<usize>>,
    scales: Scales,
    espeak_voice: String,
    rate: u32,
    pool: rayon::ThreadPool,
}

/// One utterance on its way to samples.
pub struct Utterance {
    /// Prior mean and log deviation of each phoneme.
    stats: Vec<f32>,
    durations: Vec<usize>,
    /// The phoneme that the next frame belongs to, and frames of it that are past.
    at: (usize, usize),
    entered: usize,
    total: usize,
    /// Samples given.
    produced: usize,
    noise: Noise,
    noise_scale: f32,
    flow: flow::FlowState,
    vocoder: vocoder::VocoderState,
}

/// The longest utterance, in latent frames: about 70 s at 22.05 kHz.
const MAX_FRAMES: usize = 6000;
/// The most phoneme ids in one utterance; attention is quadratic in them.
pub const MAX_IDS: usize = 1200;
/// The most frames of one phoneme: 4.6 s.
const MAX_DURATION: f32 = 400.0;
/// The most frames that go through the network at once: enough rows to amortise the weights, few enough for the cache.
const STRIDE: usize = 96;

impl Vits {
    /// Loads `model` (`.onnx`) and the JSON beside it (`.onnx.json`).
    ///
    /// # Errors
    /// If a file cannot be read, or holds another network. Only the CPU has kernels for this one.
    pub fn load(model: &Path, device: &Device, threads: usize) -> Result<Self, VoiceError> {
        if !device.is_cpu() {
            return Err(VoiceError::Unsupported("VITS runs on the processor only"));
        }
        let mut json = model.as_os_str().to_owned();
        json.push(".json");
        let json = std::path::PathBuf::from(json);
        let fault = |why: String| VoiceError::Config { path: json.display().to_string(), why };
        let bytes = std::fs::read(&json).map_err(|error| fault(error.to_string()))?;
        let config: config::Config = serde_json::from_slice(&bytes).map_err(|error| fault(error.to_string()))?;
        if config.num_speakers != 1 {
            return Err(VoiceError::Unsupported("it has several speakers"));
        }
        if !(8000..=48_000).contains(&config.audio.sample_rate) {
            return Err(fault("the sample rate is not between 8000 and 48000".into()));
        }
        let onnx = Onnx::open(model)?;
        let loader = load::Loader { onnx: &onnx, device };
        let encoder = encoder::Encoder::load(&loader)?;
        let (channels, latent) = (encoder.channels, encoder.latent);
        let mut phonemes = HashMap::new();
        for (key, ids) in config.phoneme_id_map {
            if ids.iter().any(|&id| id >= encoder.symbols()) {
                return Err(fault("a phoneme id is beyond the table".into()));
            }
            let mut chars = key.chars();
            if let (Some(symbol), None) = (chars.next(), chars.next()) {
                phonemes.insert(symbol, ids);
            }
        }
        if ['^', '$', '_'].iter().any(|symbol| !phonemes.contains_key(symbol)) {
            return Err(fault("the phoneme table has no ^, $ or _".into()));
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|i| format!("voice-{i}"))
            .build()?;
        Ok(Self {
            duration: duration::DurationPredictor::load(&loader, channels)?,
            flow: flow::Flow::load(&loader, latent)?,
            vocoder: vocoder::Vocoder::load(&loader, latent)?,
            encoder,
            phonemes,
            scales: config.inference,
            espeak_voice: config.espeak.voice,
            rate: config.audio.sample_rate,
            pool,
        })
    }

    /// Samples per second.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Samples of one latent frame.
    pub fn hop(&self) -> usize {
        self.vocoder.hop()
    }

    /// The scales that the voice was published with.
    pub fn scales(&self) -> Scales {
        self.scales
    }

    /// The name of the espeak-ng voice whose phonemes it was trained on.
    pub fn espeak_voice(&self) -> &str {
        &self.espeak_voice
    }

    /// The ids of phonemes, as Piper makes them: `^`, then each phoneme, a pad after each, then `$`.
    /// Phonemes that the voice does not know are left out.
    pub fn ids(&self, phonemes: impl Iterator<Item = char>) -> Vec<usize> {
        let of = |symbol: char| self.phonemes.get(&symbol).map(Vec::as_slice).unwrap_or_default();
        let mut ids = of('^').to_vec();
        ids.extend_from_slice(of('_'));
        for known in phonemes.map(of).filter(|known| !known.is_empty()) {
            ids.extend_from_slice(known);
            ids.extend_from_slice(of('_'));
        }
        ids.extend_from_slice(of('$'));
        ids
    }

    /// Starts an utterance: all of it up to the durations is computed here. Ids beyond [`MAX_IDS`] are not spoken.
    /// The noise is asked first for two deviates per id, then for those of each frame.
    pub fn begin(&self, ids: &[usize], scales: Scales, mut noise: Noise) -> Utterance {
        let ids: Vec<usize> = ids.iter().copied().filter(|&id| id < self.encoder.symbols()).take(MAX_IDS).collect();
        let (encoded, durations) = self.pool.install(|| {
            let encoded = self.encoder.run(&ids);
            let mut deviates = vec![0.0; 2 * ids.len()];
            noise(&mut deviates);
            deviates.iter_mut().for_each(|x| *x *= scales.noise_w);
            let logs = self.duration.log_durations(&encoded.hidden, &deviates);
            (encoded, logs)
        });
        let mut room = MAX_FRAMES;
        let durations: Vec<usize> = durations
            .iter()
            .map(|log| {
                let frames = (log.exp() * scales.length_scale).ceil().clamp(0.0, MAX_DURATION) as usize;
                let frames = frames.min(room);
                room -= frames;
                frames
            })
            .collect();
        Utterance {
            stats: encoded.stats,
            at: (0, 0),
            entered: 0,
            total: durations.iter().sum(),
            durations,
            produced: 0,
            noise,
            noise_scale: scales.noise_scale,
            flow: self.flow.start(),
            vocoder: self.vocoder.start(),
        }
    }

    /// Appends the next samples to `out`: those of `frames` frames and up to a frame more, or all that are left.
    pub fn advance(&self, utterance: &mut Utterance, frames: usize, out: &mut Vec<f32>) {
        let goal = (utterance.produced.div_ceil(self.hop()) + frames).min(utterance.total);
        let enter = (goal + self.flow.reach() + self.vocoder.reach()).min(utterance.total);
        self.pool.install(|| {
            while utterance.entered < enter {
                let left = enter - utterance.entered;
                let count = left.div_ceil(left.div_ceil(STRIDE));
                let prior = utterance.prior(count, self.encoder.latent);
                let finished = utterance.entered == utterance.total;
                let frames = self.flow.push(&mut utterance.flow, prior, finished);
                let samples = self.vocoder.push(&mut utterance.vocoder, &frames, finished);
                utterance.produced += samples.len();
                out.extend_from_slice(&samples);
            }
        });
    }
}

impl Vits {
    /// As [`Self::advance`], of several utterances at once: each so many frames, appended there.
    pub fn advance_all<'a>(&self, windows: impl Iterator<Item = (&'a mut Utterance, usize, &'a mut Vec<f32>)>) {
        let windows: Vec<_> = windows.collect();
        let one = |(utterance, frames, out)| self.advance(utterance, frames, out);
        self.pool.install(|| windows.into_par_iter().for_each(one));
    }
}

impl Utterance {
    /// Frames of each phoneme.
    pub fn durations(&self) -> &[usize] {
        &self.durations
    }

    /// Frames in all.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Whether every sample has been given.
    pub fn is_finished(&self) -> bool {
        self.entered == self.total
    }

    /// The next `count` frames of the prior: each phoneme's mean, plus noise times its deviation.
    fn prior(&mut self, count: usize, latent: usize) -> Vec<f32> {
        let mut frames = vec![0.0; count * latent];
        if self.noise_scale != 0.0 {
            (self.noise)(&mut frames);
        }
        let mut deviation = Vec::new();
        let mut of = usize::MAX;
        for frame in frames.chunks_exact_mut(latent) {
            while self.durations.get(self.at.0).is_some_and(|&frames| self.at.1 >= frames) {
                self.at = (self.at.0 + 1, 0);
            }
            let (mean, log) = self.stats[self.at.0 * 2 * latent..][..2 * latent].split_at(latent);
            if of != self.at.0 {
                deviation = log.to_vec();
                math::exp_in_place(&mut deviation);
                of = self.at.0;
            }
            for ((x, &mean), &deviation) in frame.iter_mut().zip(mean).zip(&deviation) {
                *x = mean + *x * deviation * self.noise_scale;
            }
            self.at.1 += 1;
        }
        self.entered += count;
        frames
    }
}

/// Normal deviates from a seed (Box and Muller 1958).
pub fn seeded_noise(seed: u64) -> Noise {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Box::new(move |out| {
        for pair in out.chunks_mut(2) {
            // (0, 1], so that the logarithm is finite.
            let uniform = ((rng.next_u32() >> 8) + 1) as f32 / 16_777_216.0;
            let (sin, cos) = ((rng.next_u32() >> 8) as f32 / 16_777_216.0 * std::f32::consts::TAU).sin_cos();
            let radius = (-2.0 * uniform.ln()).sqrt();
            for (x, direction) in pair.iter_mut().zip([cos, sin]) {
                *x = radius * direction;
            }
        }
    })
}
