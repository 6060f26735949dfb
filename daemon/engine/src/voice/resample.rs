//! Samples at the voice's rate in; samples at the call's rate out. Streaming, linear phase, no delay.
//!
//! A polyphase FIR: the prototype is a Kaiser-windowed sinc (Kaiser 1974), 70 dB down before half the lower rate, so
//! that nothing folds back into the telephone band.

use std::collections::VecDeque;
use std::f64::consts::PI;

/// Converts one stream from one rate to another.
pub struct Resampler {
    /// `[phase][tap]`, each phase reversed so that it meets the samples in order.
    phases: Vec<f32>,
    taps: usize,
    up: usize,
    down: usize,
    history: VecDeque<f32>,
    /// Position of the next output between the first `taps` samples of the history and the next, in 1/`up` samples.
    phase: usize,
    fed: u64,
    given: u64,
}

/// Attenuation of what must not fold back.
const STOP_DB: f64 = 70.0;
/// The pass band ends, and the stop band begins, at these parts of half the lower rate.
const PASS: f64 = 0.90;

impl Resampler {
    /// From `from` to `to` samples per second, both above 0.
    pub fn new(from: u32, to: u32) -> Self {
        let common = gcd(from.max(1), to.max(1));
        let (up, down) = ((to.max(1) / common) as usize, (from.max(1) / common) as usize);
        let (phases, taps) = if from == to { (vec![1.0], 1) } else { design(from, to, up) };
        // Half a filter of silence before the first sample: the output is in step with the input.
        let history = std::iter::repeat_n(0.0, taps / 2).collect();
        Self { phases, taps, up, down, history, phase: 0, fed: 0, given: 0 }
    }

    /// Takes samples and appends what can be known of the output.
    pub fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        self.fed += samples.len() as u64;
        self.history.extend(samples);
        self.drain(out);
    }

    /// Appends the rest; the stream is over and its output exactly as long as its input.
    pub fn finish(&mut self, out: &mut Vec<f32>) {
        let total = (self.fed * self.up as u64).div_ceil(self.down as u64);
        self.history.extend(std::iter::repeat_n(0.0, self.taps + self.down / self.up + 1));
        let before = out.len();
        let left = usize::try_from(total.saturating_sub(self.given)).unwrap_or(usize::MAX);
        self.drain(out);
        out.truncate(before.saturating_add(left));
    }

    fn drain(&mut self, out: &mut Vec<f32>) {
        let samples = self.history.make_contiguous();
        let mut at = 0;
        while at + self.taps <= samples.len() {
            let filter = &self.phases[self.phase * self.taps..][..self.taps];
            out.push(crate::kernels::math::dot(&samples[at..at + self.taps], filter));
            self.given += 1;
            self.phase += self.down;
            at += self.phase / self.up;
            self.phase %= self.up;
        }
        // A step is shorter than the filter, so it never reaches beyond what is held.
        self.history.drain(..at);
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The phases of the low pass and their length.
fn design(from: u32, to: u32, up: usize) -> (Vec<f32>, usize) {
    let nyquist = f64::from(from.min(to)) / 2.0;
    let (cutoff, width) = (nyquist * (1.0 + PASS) / 2.0, nyquist * (1.0 - PASS));
    let taps = ((STOP_DB - 7.95) / (14.36 * width / f64::from(from))).ceil() as usize;
    let taps = (taps + 1).next_multiple_of(16);
    let beta = 0.1102 * (STOP_DB - 8.7);
    let mut phases = Vec::with_capacity(up * taps);
    for phase in 0..up {
        let start = phases.len();
        for tap in 0..taps {
            // Distance from the output sample to input sample `tap` of the window, in input samples.
            let distance = tap as f64 - (taps / 2) as f64 - phase as f64 / up as f64;
            let x = 2.0 * cutoff / f64::from(from) * distance;
            let sinc = if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) };
            let edge = distance / (taps as f64 / 2.0);
            let window = if edge.abs() < 1.0 { bessel_i0(beta * (1.0 - edge * edge).sqrt()) } else { 0.0 };
            phases.push((sinc * window) as f32);
        }
        // Each phase passes a constant unchanged.
        let sum: f32 = phases[start..].iter().sum();
        phases[start..].iter_mut().for_each(|x| *x /= sum);
    }
    (phases, taps)
}

/// The modified Bessel function of the first kind, order 0.
fn bessel_i0(x: f64) -> f64 {
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 1..50 {
        term *= (x / 2.0 / f64::from(k)).powi(2);
        sum += term;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(rate: u32, hertz: f64, len: usize) -> Vec<f32> {
        (0..len).map(|i| (2.0 * PI * hertz * i as f64 / f64::from(rate)).sin() as f32).collect()
    }

    fn level(x: &[f32]) -> f64 {
        let middle = &x[x.len() / 4..x.len() * 3 / 4];
        10.0 * (2.0 * middle.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / middle.len() as f64).log10()
    }

    #[test]
    fn passes_the_telephone_band_in_step_and_stops_the_rest() {
        for (rate, pass, stop) in [(8000, [300.0, 1000.0, 3400.0], 4100.0), (16_000, [300.0, 3000.0, 7000.0], 8200.0)] {
            let convert = |hertz| {
                let (mut resampler, mut out) = (Resampler::new(22_050, rate), Vec::new());
                for piece in tone(22_050, hertz, 22_050).chunks(997) {
                    resampler.push(piece, &mut out);
                }
                resampler.finish(&mut out);
                out
            };
            for hertz in pass {
                let out = convert(hertz);
                assert_eq!(out.len(), rate as usize);
                let ideal = tone(rate, hertz, out.len());
                let error: Vec<f32> = out.iter().zip(&ideal).map(|(a, b)| a - b).collect();
                assert!(level(&error) < -55.0, "{hertz} Hz at {rate}: error {:.1} dB", level(&error));
            }
            assert!(level(&convert(stop)) < -65.0, "{stop} Hz at {rate}: {:.1} dB", level(&convert(stop)));
        }
    }

    #[test]
    fn cuts_change_nothing() {
        let input = tone(22_050, 440.0, 5000);
        let run = |step: usize| {
            let (mut resampler, mut out) = (Resampler::new(22_050, 8000), Vec::new());
            input.chunks(step).for_each(|piece| resampler.push(piece, &mut out));
            resampler.finish(&mut out);
            out
        };
        assert_eq!(run(1), run(5000));
        assert_eq!(run(77), run(5000));
    }
}
