//! The voice's own sound before the mouth shapes it (Wang et al. 2019): a pitch curve and noise in; its spectrum out.
//!
//! Nine harmonics, noise where there is no pitch. It is small and full of angles, and is computed on the processor, in
//! `f64`: a phase adds up over a whole sentence. Never here: a tensor.

use std::f64::consts::{PI, TAU};

use rayon::prelude::*;

use super::load::{Loaded, Loader};

pub(super) const RATE: usize = 24_000;
/// Samples of one value of the pitch curve.
pub(super) const HOP: usize = 300;
/// Length and distance of the windows of spectra, here and at the network's end.
pub(super) const WINDOW: usize = 20;
pub(super) const STEP: usize = 5;
pub(super) const BINS: usize = WINDOW / 2 + 1;
/// Harmonics, the pitch among them.
pub(super) const HARMONICS: usize = 9;
/// Below, in Hz, there is no voice.
const VOICED: f32 = 10.0;
const AMPLITUDE: f64 = 0.1;
/// Deviation of the noise where there is a voice, and where there is none.
const NOISE: [f64; 2] = [0.003, AMPLITUDE / 3.0];

pub(super) struct Source {
    weights: Vec<f64>,
    bias: f64,
}

impl Source {
    pub(super) fn load(loader: &Loader) -> Loaded<Self> {
        let path = "/decoder/decoder/generator/m_source/l_linear/MatMul";
        let name = loader.onnx.node(path)?.inputs.get(1).cloned().unwrap_or_default();
        let weights = loader.vector(&name, HARMONICS)?.into_iter().map(f64::from).collect();
        let bias = loader.vector("decoder.decoder.generator.m_source.l_linear.bias", 1)?;
        Ok(Self { weights, bias: bias.iter().copied().map(f64::from).sum() })
    }

    /// The wave; `noise` holds a normal deviate for each harmonic of each sample.
    fn wave(&self, pitch: &[f32], noise: &[f32]) -> Vec<f64> {
        let mut turns = 0.0_f64;
        // Turns of the pitch in the middle of each value's samples, without the whole ones.
        let middles: Vec<(f64, f64)> = pitch
            .iter()
            .map(|&pitch| {
                let step = (f64::from(pitch) / RATE as f64).rem_euclid(1.0) * HOP as f64;
                turns = (turns + step).fract();
                (turns, step)
            })
            .collect();
        let mut wave = vec![0.0; pitch.len() * HOP];
        let values = wave.par_chunks_mut(HOP).zip(noise.par_chunks(HOP * HARMONICS)).enumerate();
        values.for_each(|(value, (wave, noise))| {
            let voiced = pitch[value] > VOICED;
            let deviation = NOISE[usize::from(!voiced)];
            for (at, (out, noise)) in wave.iter_mut().zip(noise.chunks(HARMONICS)).enumerate() {
                let offset = (at as f64 + 0.5) / HOP as f64 - 0.5;
                // Between two middles; the first and the last reach to the ends.
                let turns = if offset < 0.0 {
                    middles[value].0 + if value == 0 { 0.0 } else { offset * middles[value].1 }
                } else {
                    middles[value].0 + middles.get(value + 1).map_or(0.0, |next| offset * next.1)
                };
                let (sin, cos) = (turns * TAU).sin_cos();
                // sin (n + 1)x = 2 cos x · sin nx - sin (n - 1)x
                let (mut before, mut now, mut sum) = (0.0, sin, self.bias);
                for (weight, &noise) in self.weights.iter().zip(noise) {
                    let sine = if voiced { AMPLITUDE * now } else { 0.0 };
                    sum += weight * (sine + deviation * f64::from(noise));
                    (before, now) = (now, 2.0 * cos * now - before);
                }
                *out = sum.tanh();
            }
        });
        wave
    }

    /// For each window the magnitudes of its bins, then their phases; one window more than `STEP` goes into the wave.
    pub(super) fn spectrum(&self, pitch: &[f32], noise: &[f32]) -> Vec<f32> {
        let wave = self.wave(pitch, noise);
        let window = hann();
        let angles: Vec<(f64, f64)> = (0..WINDOW).map(|at| (TAU * at as f64 / WINDOW as f64).sin_cos()).collect();
        let last = wave.len().saturating_sub(1);
        // Beyond its ends the wave is mirrored.
        let mirrored = |at: usize| {
            let at = at.abs_diff(WINDOW / 2);
            wave.get(if at > last { (2 * last).saturating_sub(at) } else { at }).copied().unwrap_or(0.0)
        };
        let mut out = vec![0.0; (wave.len() / STEP + 1) * 2 * BINS];
        out.par_chunks_mut(2 * BINS).enumerate().for_each(|(at, out)| {
            let mut seen = [0.0; WINDOW];
            for (offset, (seen, window)) in seen.iter_mut().zip(window).enumerate() {
                *seen = mirrored(at * STEP + offset) * window;
            }
            let (magnitudes, phases) = out.split_at_mut(BINS);
            for (bin, (magnitude, phase)) in magnitudes.iter_mut().zip(phases).enumerate() {
                let (mut real, mut imaginary) = (0.0, 0.0);
                for (offset, seen) in seen.iter().enumerate() {
                    let (sin, cos) = angles[bin * offset % WINDOW];
                    real += seen * cos;
                    imaginary -= seen * sin;
                }
                if bin == 0 || bin == BINS - 1 {
                    imaginary = 0.0;
                }
                *magnitude = real.hypot(imaginary) as f32;
                *phase = imaginary.atan2(real) as f32;
            }
        });
        out
    }
}

pub(super) fn hann() -> [f64; WINDOW] {
    std::array::from_fn(|at| 0.5 - 0.5 * (2.0 * PI * at as f64 / WINDOW as f64).cos())
}
