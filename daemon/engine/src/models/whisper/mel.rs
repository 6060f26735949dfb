//! Sound to log-mel spectrogram, as Whisper was trained on it.
//!
//! Enters: samples at 16 kHz, -1 to 1. Leaves: one row of mel bands per 10 ms, scaled to about -1 to 1. The window is
//! Hann over 25 ms, the bands are Slaney's, the floor is 80 dB below the loudest band of the whole span.

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

/// Samples from one row to the next.
pub const HOP: usize = 160;

const RATE: f64 = 16_000.0;
const FFT: usize = 400;
const BINS: usize = FFT / 2 + 1;

/// The transform for one number of bands.
pub struct LogMel {
    fft: Arc<dyn RealToComplex<f32>>,
    window: Vec<f32>,
    bands: Vec<Band>,
}

/// A triangle over neighbouring bins.
struct Band {
    first: usize,
    weights: Vec<f32>,
}

impl LogMel {
    /// 80 bands for every Whisper but large-v3, which has 128.
    #[must_use]
    pub fn new(bands: usize) -> Self {
        let window =
            (0..FFT).map(|i| (0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / FFT as f64).cos()) as f32).collect();
        Self { fft: RealFftPlanner::new().plan_fft_forward(FFT), window, bands: filters(bands) }
    }

    /// `rows` rows of bands, row-major; what lies past the end of `samples` is silence.
    #[must_use]
    pub fn compute(&self, samples: &[f32], rows: usize) -> Vec<f32> {
        let mut frame = vec![0.0; FFT];
        let mut spectrum = vec![Complex::default(); BINS];
        let mut scratch = self.fft.make_scratch_vec();
        let mut power = [0.0; BINS];
        let mut out = Vec::with_capacity(rows * self.bands.len());
        for row in 0..rows {
            let start = (row * HOP) as isize - (FFT / 2) as isize;
            for (i, (sample, window)) in frame.iter_mut().zip(&self.window).enumerate() {
                // Before the first sample the signal is mirrored.
                let at = (start + i as isize).unsigned_abs();
                *sample = samples.get(at).copied().unwrap_or(0.0) * window;
            }
            if self.fft.process_with_scratch(&mut frame, &mut spectrum, &mut scratch).is_err() {
                unreachable!("the buffers were made for this transform");
            }
            for (power, bin) in power.iter_mut().zip(&spectrum) {
                *power = bin.norm_sqr();
            }
            out.extend(self.bands.iter().map(|band| {
                let energy: f32 = power[band.first..].iter().zip(&band.weights).map(|(p, w)| p * w).sum();
                energy.max(1e-10).log10()
            }));
        }
        let floor = out.iter().copied().fold(f32::MIN, f32::max) - 8.0;
        for value in &mut out {
            *value = (value.max(floor) + 4.0) / 4.0;
        }
        out
    }

    /// Bands per row.
    #[must_use]
    pub fn bands(&self) -> usize {
        self.bands.len()
    }
}

/// Slaney's mel scale: linear to 1 kHz, logarithmic above; triangles of equal area. As librosa's default.
fn filters(bands: usize) -> Vec<Band> {
    const LINEAR: f64 = 200.0 / 3.0;
    const KNEE: f64 = 15.0;
    let step = 6.4_f64.ln() / 27.0;
    let hertz = |mel: f64| if mel < KNEE { mel * LINEAR } else { 1000.0 * ((mel - KNEE) * step).exp() };
    let top = KNEE + (RATE / 2.0 / 1000.0).ln() / step;
    let edge = |i: usize| hertz(top * i as f64 / (bands + 1) as f64);
    (0..bands)
        .map(|band| {
            let (low, centre, high) = (edge(band), edge(band + 1), edge(band + 2));
            let weights = (0..BINS).map(|bin| {
                let f = bin as f64 * RATE / FFT as f64;
                let rise = (f - low) / (centre - low);
                let fall = (high - f) / (high - centre);
                (rise.min(fall).max(0.0) * 2.0 / (high - low)) as f32
            });
            let first = weights.clone().position(|weight| weight > 0.0).unwrap_or(0);
            let weights = weights.skip(first).take_while(|&weight| weight > 0.0).collect();
            Band { first, weights }
        })
        .collect()
}
