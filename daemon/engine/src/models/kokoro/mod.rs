//! Kokoro's network (StyleTTS 2, Li et al. 2023, with iSTFTNet): token ids and a style in; samples out.
//!
//! ```text
//!  ids ─ text model ─ durations ─┬─ pitch, energy ─┬─ source's spectrum ─┐
//!     └─ text encoder ───────────┴─────────────────┴─ decoder ───────────┴─ generator ─ samples
//!            all sentences of a batch at once            └───── at once, or window by window ─────┘
//! ```
//!
//! On candle's tensors, so that it runs where these are; the source alone is computed on the processor. Randomness is an
//! argument: a source of normal deviates. So are, if wanted, durations, pitch and energy. Never here: text, a queue, a call.

mod albert;
mod block;
mod decoder;
mod generator;
mod load;
mod lstm;
mod ops;
mod prosody;
mod source;

use std::ops::Range;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::models::vits::Noise;
use crate::weights::onnx::{Onnx, OnnxError};
use decoder::from_start;
use generator::{Book, REACH};
use ops::{Affine, Form};

/// Numbers of a style that are about sound, and as many that are about melody.
const STYLE: usize = 128;
/// Numbers of a style.
pub const STYLE_LEN: usize = 2 * STYLE;
/// Samples per second.
pub const RATE: u32 = source::RATE as u32;
/// Samples of one frame; pitch and energy have two values in each.
pub const FRAME: usize = 2 * source::HOP;
/// The most ids of one sentence.
pub const MAX_IDS: usize = albert::POSITIONS - 2;
/// The longest sentence, in frames: 60 s.
const MAX_FRAMES: usize = 2400;
/// Frames of sentences that sound is made of at once, unless one alone has more: 22 s. Each takes 2.3 MB meanwhile.
const FRAMES_AT_ONCE: usize = 896;

/// Why a network cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum KokoroError {
    /// The weights.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// A computation, such as one that needs more memory than there is.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// The threads could not be started.
    #[error("cannot start the voice's threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

/// A loaded network.
pub struct Kokoro {
    form: Form,
    symbols: usize,
    prosody: prosody::Prosody,
    decoder: decoder::Decoder,
    source: source::Source,
    generator: generator::Generator,
    pool: rayon::ThreadPool,
}

/// One sentence that is to be spoken.
#[derive(Clone, Debug)]
pub struct Phrase<'a> {
    /// Tokens, without the pads at both ends; ids that there are not, and those beyond [`MAX_IDS`], are not spoken.
    pub ids: &'a [u32],
    /// [`STYLE_LEN`] numbers.
    pub style: &'a [f32],
    /// Above 1 is faster.
    pub speed: f32,
}

/// What is to be heard when. All of it may be changed before it is spoken, if the lengths still fit.
#[derive(Clone)]
pub struct Plan {
    /// Frames of each token, the pads at both ends among them.
    pub durations: Vec<usize>,
    /// Hz, two values for each frame.
    pub pitch: Vec<f32>,
    /// Two values for each frame.
    pub energy: Vec<f32>,
    text: Tensor,
    style: Vec<f32>,
}

/// Where the normalisations of the generator take their statistics from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Statistics {
    /// The whole sentence, as the network was trained: it is computed as a whole before its first sample.
    Whole,
    /// The same, and then it is computed again, window by window: what windows alone change.
    Rehearsed,
}

/// One sentence on its way to samples.
pub struct Utterance {
    sound: Sound,
    /// Rows that are spoken, and all.
    at: usize,
    total: usize,
}

enum Sound {
    /// All samples are made.
    Ready(Vec<f32>),
    /// Windows are made as they are wanted.
    Rehearsed(Box<Rehearsed>),
}

struct Rehearsed {
    /// What enters the generator, two rows for each frame, and the source's spectrum.
    rows: Tensor,
    spectrum: Tensor,
    style: Tensor,
    book: Vec<Affine>,
}

impl Plan {
    /// Frames in all.
    pub fn frames(&self) -> usize {
        self.durations.iter().sum()
    }
}

impl Utterance {
    /// Of samples that are made; whole frames of them.
    pub fn ready(samples: Vec<f32>) -> Self {
        Self { at: 0, total: samples.len() / source::HOP, sound: Sound::Ready(samples) }
    }

    /// Appends the next samples to `out`, if they are made: those of `frames` frames, or all that are left.
    pub fn take(&mut self, frames: usize, out: &mut Vec<f32>) {
        if let Sound::Ready(samples) = &self.sound {
            let to = (self.at + 2 * frames).min(self.total);
            out.extend_from_slice(&samples[self.at * source::HOP..to * source::HOP]);
            self.at = to;
        }
    }

    /// Whether every sample has been given.
    pub fn is_finished(&self) -> bool {
        self.at == self.total
    }
}

impl Kokoro {
    /// Loads `model` (`.onnx`, quantised to bytes).
    ///
    /// # Errors
    /// If the file cannot be read, or holds another network.
    pub fn load(model: &Path, device: &Device, threads: usize) -> Result<Self, KokoroError> {
        Self::load_as(model, device, threads, device.is_cpu())
    }

    /// As [`Self::load`]; without `kernels` it computes on a processor as it does elsewhere.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_as(model: &Path, device: &Device, threads: usize, kernels: bool) -> Result<Self, KokoroError> {
        let onnx = Onnx::open(model)?;
        let form = Form { device: device.clone(), kernels };
        let loader = load::Loader { onnx: &onnx, form: &form };
        let prosody = prosody::Prosody::load(&loader)?;
        let decoder = decoder::Decoder::load(&loader)?;
        let source = source::Source::load(&loader)?;
        let generator = generator::Generator::load(&loader)?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|i| format!("voice-{i}"))
            .build()?;
        Ok(Self { symbols: prosody.symbols()?, form, prosody, decoder, source, generator, pool })
    }

    /// What of each phrase is to be heard when, with durations of your own where there are any.
    ///
    /// # Errors
    /// If the computation fails.
    ///
    /// # Panics
    /// If a style has not [`STYLE_LEN`] numbers, or there are not as many durations as ids and two.
    pub fn plan(&self, phrases: &[Phrase], durations: &[Option<Vec<usize>>]) -> Result<Vec<Plan>, KokoroError> {
        if phrases.is_empty() {
            return Ok(Vec::new());
        }
        let known = |id: &u32| (*id as usize) < self.symbols;
        let tokens: Vec<Vec<u32>> = phrases
            .iter()
            .map(|phrase| {
                let ids = phrase.ids.iter().copied().filter(known).take(MAX_IDS);
                std::iter::once(0).chain(ids).chain(std::iter::once(0)).collect()
            })
            .collect();
        let melody = self.half(&phrases.iter().map(|phrase| phrase.style).collect::<Vec<_>>(), STYLE)?;
        self.pool.install(|| {
            let read = self.prosody.read(&tokens, phrases, &melody)?;
            let durations: Vec<Vec<usize>> = (0..phrases.len())
                .map(|at| match durations.get(at) {
                    Some(Some(given)) => {
                        assert_eq!(given.len(), tokens[at].len(), "a duration for each id and two pads");
                        given.clone()
                    }
                    _ => prosody::rounded(&read.durations[at], MAX_FRAMES),
                })
                .collect();
            let frames: Vec<&[usize]> = durations.iter().map(Vec::as_slice).collect();
            let spread = self.prosody.spread(&read, &frames, &melody)?;
            let curves = spread.pitch.into_iter().zip(spread.energy);
            let plans = curves.zip(durations).enumerate().map(|(at, ((pitch, energy), durations))| {
                let text = spread.text.narrow(0, at, 1)?.narrow(1, 0, durations.iter().sum())?.contiguous()?;
                Ok(Plan { durations, pitch, energy, text, style: phrases[at].style.to_vec() })
            });
            plans.collect()
        })
    }

    /// Starts an utterance: with the statistics of the whole, all of it is computed here.
    ///
    /// # Errors
    /// If the computation fails.
    pub fn begin(&self, plan: &Plan, noise: &mut Noise, statistics: Statistics) -> Result<Utterance, KokoroError> {
        if statistics == Statistics::Whole {
            return Ok(Utterance::ready(self.speak_all(&[plan], &mut [noise])?.remove(0)));
        }
        let (rows, spectrum, style) = self.decode(&[plan], &mut [noise])?;
        let total = rows.dim(1)?;
        let counted = from_start([total].into_iter());
        let mut book = Book::measuring(&counted);
        self.pool.install(|| self.generator.run(&rows, &spectrum, &style, &[total], &mut book))?;
        let book = book.made;
        Ok(Utterance { sound: Sound::Rehearsed(Box::new(Rehearsed { rows, spectrum, style, book })), at: 0, total })
    }

    /// Appends the next samples to `out`: those of `frames` frames, or all that are left.
    ///
    /// # Errors
    /// If the computation fails.
    pub fn advance(&self, utterance: &mut Utterance, frames: usize, out: &mut Vec<f32>) -> Result<(), KokoroError> {
        let Sound::Rehearsed(sound) = &utterance.sound else {
            utterance.take(frames, out);
            return Ok(());
        };
        let to = (utterance.at + 2 * frames).min(utterance.total);
        self.window(sound, utterance.at..to, utterance.total, out)?;
        utterance.at = to;
        Ok(())
    }

    /// The samples of so many rows, computed with as much around them as they depend on.
    fn window(
        &self,
        sound: &Rehearsed,
        range: Range<usize>,
        total: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), KokoroError> {
        if range.is_empty() {
            return Ok(());
        }
        let Rehearsed { rows, spectrum, style, book } = sound;
        let (low, high) = (range.start.saturating_sub(REACH), (range.end + REACH).min(total));
        let rate = generator::RATE;
        let made = self.pool.install(|| {
            let rows = rows.narrow(1, low, high - low)?;
            let spectrum = spectrum.narrow(1, low * rate, (high - low) * rate + 1)?;
            self.generator.run(&rows, &spectrum, style, &[high - low], &mut Book::repeating(book))
        })?;
        // Two rows of the spectrum on either side reach into these samples.
        let made = ops::numbers(&made)?;
        let (first, last) = ((range.start * rate).saturating_sub(2), (range.end * rate + 2).min(total * rate));
        let bins = 2 * source::BINS;
        let made = &made[(first - low * rate) * bins..(last + 1 - low * rate) * bins];
        let range = range.start * source::HOP..range.end * source::HOP;
        generator::samples(made, first, total * rate + 1, range, out);
        Ok(())
    }

    /// All samples of one sentence.
    ///
    /// # Errors
    /// If the computation fails.
    pub fn speak(&self, ids: &[u32], style: &[f32], speed: f32, mut noise: Noise) -> Result<Vec<f32>, KokoroError> {
        let mut spoken = Vec::new();
        for plan in self.plan(&[Phrase { ids, style, speed }], &[])? {
            let mut utterance = self.begin(&plan, &mut noise, Statistics::Whole)?;
            self.advance(&mut utterance, usize::MAX / 2, &mut spoken)?;
        }
        Ok(spoken)
    }

    /// All samples of several sentences, computed at once, or as many at once as fit into the memory that is reckoned with.
    ///
    /// # Errors
    /// If the computation fails.
    pub fn speak_all(&self, plans: &[&Plan], noises: &mut [&mut Noise]) -> Result<Vec<Vec<f32>>, KokoroError> {
        let mut spoken = Vec::with_capacity(plans.len());
        for part in at_once(plans) {
            spoken.extend(self.speak_some(&plans[part.clone()], &mut noises[part])?);
        }
        Ok(spoken)
    }

    fn speak_some(&self, plans: &[&Plan], noises: &mut [&mut Noise]) -> Result<Vec<Vec<f32>>, KokoroError> {
        let (rows, spectrum, style) = self.decode(plans, noises)?;
        let lengths: Vec<usize> = plans.iter().map(|plan| 2 * plan.frames()).collect();
        let made = self.pool.install(|| {
            let counted = from_start(lengths.iter().copied());
            self.generator.run(&rows, &spectrum, &style, &lengths, &mut Book::measuring(&counted))
        })?;
        let made = ops::numbers(&made)?;
        let member = made.len() / plans.len();
        let spoken = lengths.iter().enumerate().map(|(at, &len)| {
            let (made, total) = (&made[at * member..][..member], len * generator::RATE + 1);
            let mut out = Vec::new();
            generator::samples(made, 0, total, 0..len * source::HOP, &mut out);
            out
        });
        Ok(spoken.collect())
    }

    /// What enters the generator: rows, spectra, styles.
    fn decode(&self, plans: &[&Plan], noises: &mut [&mut Noise]) -> Result<(Tensor, Tensor, Tensor), KokoroError> {
        let most = plans.iter().map(|plan| plan.frames()).max().unwrap_or(0);
        let len = 2 * most * generator::RATE + 1;
        let mut spectra = Vec::with_capacity(plans.len() * len * 2 * source::BINS);
        for (at, (plan, noise)) in plans.iter().zip(noises).enumerate() {
            let mut deviates = vec![0.0; plan.pitch.len() * source::HOP * source::HARMONICS];
            noise(&mut deviates);
            spectra.extend(self.pool.install(|| self.source.spectrum(&plan.pitch, &deviates)));
            spectra.resize((at + 1) * len * 2 * source::BINS, 0.0);
        }
        let device = &self.form.device;
        let spectrum = Tensor::from_vec(spectra, (plans.len(), len, 2 * source::BINS), device)?;
        let style = self.half(&plans.iter().map(|plan| plan.style.as_slice()).collect::<Vec<_>>(), 0)?;
        let rows = self.pool.install(|| {
            let texts = plans.iter().map(|plan| plan.text.pad_with_zeros(1, 0, most - plan.frames()));
            let text = Tensor::cat(&texts.collect::<Result<Vec<_>, _>>()?, 0)?;
            let pitch: Vec<&[f32]> = plans.iter().map(|plan| plan.pitch.as_slice()).collect();
            let energy: Vec<&[f32]> = plans.iter().map(|plan| plan.energy.as_slice()).collect();
            let valid = from_start(plans.iter().map(|plan| plan.frames()));
            self.decoder.run(&text, [&pitch, &energy], &style, &valid)
        })?;
        Ok((rows, spectrum, style))
    }

    /// One half of each style, from number `from` on.
    fn half(&self, styles: &[&[f32]], from: usize) -> Result<Tensor, KokoroError> {
        let numbers: Vec<f32> = styles
            .iter()
            .flat_map(|style| {
                assert_eq!(style.len(), STYLE_LEN, "a whole style");
                style[from..from + STYLE].iter().copied()
            })
            .collect();
        Ok(Tensor::from_vec(numbers, (styles.len(), STYLE), &self.form.device)?)
    }
}

/// Which sentences are computed at once: neighbours, all counted as long as the longest.
fn at_once(plans: &[&Plan]) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut longest = 0;
    for (at, frames) in plans.iter().map(|plan| plan.frames()).enumerate() {
        longest = longest.max(frames);
        match parts.last_mut() {
            Some(part) if longest * (part.len() + 1) <= FRAMES_AT_ONCE => part.end = at + 1,
            _ => {
                longest = frames;
                parts.push(at..at + 1);
            }
        }
    }
    parts
}
