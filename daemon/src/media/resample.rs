//! 8 ↔ 16 kHz, streaming. Samples enter and leave in any amounts, twice or half as many; nothing is allocated.
//!
//! One linear-phase low-pass at 16 kHz serves both ways: flat to 3.4 kHz, the edge of the telephone band, and closed at
//! 4 kHz, so that neither images nor aliases reach the ears. Its delay is 3.7 ms
//! up and 3.6 ms down.

use std::sync::LazyLock;

use crate::base::vectors::{Work, with_widest_vectors};

/// Taps at 16 kHz; odd, so that the delay is a whole number of samples.
const TAPS: usize = 119;
/// Taps of each of the two phases; the odd phase has a zero at its end.
const PHASE: usize = TAPS.div_ceil(2);
/// Middle of the transition, relative to 16 kHz.
const CUTOFF: f64 = 3700.0 / 16_000.0;
/// Kaiser's shape for 70 dB.
const BETA: f64 = 6.76;
/// Samples that are worked on at once.
const BLOCK: usize = 160;

/// Delay of either direction, in samples at 16 kHz.
pub const DELAY: usize = TAPS / 2;

/// Taps in reverse, phase by phase: `[phase][0]` meets the oldest sample. The gain of each phase is one.
static PHASES: LazyLock<[[f32; PHASE]; 2]> = LazyLock::new(|| {
    let mut phases = [[0.0; PHASE]; 2];
    for (index, tap) in taps().iter().enumerate() {
        phases[index % 2][PHASE - 1 - index / 2] = *tap as f32;
    }
    for phase in &mut phases {
        let sum: f32 = phase.iter().sum();
        phase.iter_mut().for_each(|tap| *tap /= sum);
    }
    phases
});

fn taps() -> [f64; TAPS] {
    let bessel = |x: f64| {
        (1..30)
            .fold((1.0, 1.0), |(sum, term), k| {
                let term = term * (x / (2.0 * f64::from(k))).powi(2);
                (sum + term, term)
            })
            .0
    };
    let middle = DELAY as f64;
    std::array::from_fn(|index| {
        let t = index as f64 - middle;
        let sinc = if t == 0.0 {
            2.0 * CUTOFF
        } else {
            (2.0 * std::f64::consts::PI * CUTOFF * t).sin() / (std::f64::consts::PI * t)
        };
        sinc * bessel(BETA * (1.0 - (t / middle).powi(2)).max(0.0).sqrt()) / bessel(BETA)
    })
}

/// Outputs that are summed up beside each other.
const LANES: usize = 32;
const _: () = assert!(BLOCK.is_multiple_of(LANES));

/// The last samples of one phase, oldest first.
#[derive(Clone, Debug)]
struct Line {
    past: [i16; PHASE - 1],
}

/// Those samples and a block of new ones behind them.
type Window = [f32; PHASE - 1 + BLOCK];

impl Default for Line {
    fn default() -> Self {
        Self { past: [0; PHASE - 1] }
    }
}

impl Line {
    /// Takes at most [`BLOCK`] samples; the i-th of them is the newest that [`convolve`] meets at `i`.
    #[inline(always)]
    fn append(&mut self, fresh: impl ExactSizeIterator<Item = i16>) -> Window {
        let (mut window, count) = ([0.0; PHASE - 1 + BLOCK], fresh.len());
        let (past, new) = window.split_at_mut(PHASE - 1);
        for (to, from) in past.iter_mut().zip(&self.past) {
            *to = f32::from(*from);
        }
        for (to, from) in new.iter_mut().zip(fresh) {
            *to = f32::from(from);
        }
        for (to, from) in self.past.iter_mut().zip(&window[count..]) {
            *to = *from as i16;
        }
        window
    }
}

/// The outputs of one phase for a window, of which the first `count` are wanted.
#[inline(always)]
fn convolve(window: &Window, taps: &[f32; PHASE], count: usize) -> [f32; BLOCK] {
    let mut outputs = [0.0; BLOCK];
    for (at, outputs) in outputs[..count.next_multiple_of(LANES)].as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut sums = [0.0; LANES];
        for (tap, samples) in taps.iter().zip(window[at * LANES..].windows(LANES)) {
            for (sum, sample) in sums.iter_mut().zip(samples) {
                *sum += sample * tap;
            }
        }
        *outputs = sums;
    }
    outputs
}

/// Away from zero, as [`f32::round`], which is a call on processors without SSE4.1.
#[inline(always)]
fn round(value: f32) -> i16 {
    (value + 0.5_f32.copysign(value)) as i16
}

/// 8 kHz to 16 kHz.
#[derive(Clone, Debug, Default)]
pub struct Upsampler {
    line: Line,
}

impl Upsampler {
    /// Writes two samples for each one of `input`, as many as fit.
    pub fn process(&mut self, input: &[i16], output: &mut [i16]) {
        for (block, out) in input.chunks(BLOCK).zip(output.chunks_mut(2 * BLOCK)) {
            with_widest_vectors(Up { line: &mut self.line, block, out });
        }
    }
}

struct Up<'a> {
    line: &'a mut Line,
    block: &'a [i16],
    out: &'a mut [i16],
}

impl Work for Up<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let window = self.line.append(self.block.iter().copied());
        let ([first, second], count) = (&*PHASES, self.block.len());
        let (even, odd) = (convolve(&window, first, count), convolve(&window, second, count));
        for (pair, (even, odd)) in self.out.as_chunks_mut::<2>().0.iter_mut().zip(even.iter().zip(&odd)).take(count) {
            *pair = [round(*even), round(*odd)];
        }
    }
}

/// 16 kHz to 8 kHz.
#[derive(Clone, Debug, Default)]
pub struct Downsampler {
    even: Line,
    odd: Line,
    /// The first half of a pair whose second half is still to come.
    half: Option<i16>,
}

impl Downsampler {
    /// Writes one sample for each two of `input`, as many as fit; an odd one waits for the next call. Returns how many
    /// were written.
    pub fn process(&mut self, input: &[i16], output: &mut [i16]) -> usize {
        let (mut written, mut input) = (0, input);
        let mut pairs = [[0; 2]; BLOCK];
        loop {
            let mut count = 0;
            if let (Some(half), [next, rest @ ..]) = (self.half, input) {
                (pairs[0], input, self.half, count) = ([half, *next], rest, None, 1);
            }
            let (whole, _) = input.as_chunks::<2>();
            let whole = &whole[..whole.len().min(BLOCK - count)];
            pairs[count..count + whole.len()].copy_from_slice(whole);
            count += whole.len();
            input = &input[2 * whole.len()..];
            if count == 0 {
                break;
            }
            let out = output.get_mut(written..).unwrap_or_default();
            with_widest_vectors(Down { even: &mut self.even, odd: &mut self.odd, pairs: &pairs[..count], out });
            written = output.len().min(written + count);
        }
        if let [half] = input {
            self.half = Some(*half);
        }
        written
    }
}

struct Down<'a> {
    even: &'a mut Line,
    odd: &'a mut Line,
    pairs: &'a [[i16; 2]],
    out: &'a mut [i16],
}

impl Work for Down<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let ([first, second], count) = (&*PHASES, self.pairs.len());
        // The newest tap meets the newest sample, the odd one.
        let even = convolve(&self.even.append(self.pairs.iter().map(|pair| pair[0])), second, count);
        let odd = convolve(&self.odd.append(self.pairs.iter().map(|pair| pair[1])), first, count);
        for (out, (even, odd)) in self.out.iter_mut().zip(even.iter().zip(&odd)).take(count) {
            *out = round((even + odd) / 2.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::f64::consts::TAU;

    fn tone(frequency: f64, rate: f64, count: usize) -> Vec<i16> {
        (0..count).map(|n| (16_000.0 * (TAU * frequency * n as f64 / rate).sin()).round() as i16).collect()
    }

    fn up(input: &[i16]) -> Vec<i16> {
        let mut output = vec![0; input.len() * 2];
        Upsampler::default().process(input, &mut output);
        output
    }

    fn down(input: &[i16]) -> Vec<i16> {
        let mut output = vec![0; input.len() / 2];
        assert_eq!(Downsampler::default().process(input, &mut output), output.len());
        output
    }

    /// Level of one frequency relative to the tone that went in, in dB.
    fn level(signal: &[i16], frequency: f64, rate: f64) -> f64 {
        let steady = &signal[signal.len() / 4..signal.len() * 3 / 4];
        let (mut re, mut im, mut weight) = (0.0, 0.0, 0.0);
        for (n, sample) in steady.iter().enumerate() {
            let window = 0.5 - 0.5 * (TAU * n as f64 / steady.len() as f64).cos();
            let angle = TAU * frequency * n as f64 / rate;
            re += window * f64::from(*sample) * angle.cos();
            im += window * f64::from(*sample) * angle.sin();
            weight += window;
        }
        20.0 * (2.0 * re.hypot(im) / weight / 16_000.0).max(1e-9).log10()
    }

    #[test]
    fn passes_the_telephone_band_and_stops_images_and_aliases() {
        for frequency in (100..=3400).step_by(50).map(f64::from) {
            let wide = up(&tone(frequency, 8000.0, 8000));
            assert!(level(&wide, frequency, 16_000.0).abs() < 0.05, "{frequency}");
            assert!(level(&wide, 8000.0 - frequency, 16_000.0) < -70.0, "image of {frequency}");
            let narrow = down(&tone(frequency, 16_000.0, 16_000));
            assert!(level(&narrow, frequency, 8000.0).abs() < 0.05, "{frequency}");
        }
        for frequency in (4000..=7900).step_by(50).map(f64::from) {
            let narrow = down(&tone(frequency, 16_000.0, 16_000));
            assert!(level(&narrow, (8000.0 - frequency).abs(), 8000.0) < -70.0, "alias of {frequency}");
        }
    }

    #[test]
    fn there_and_back_is_a_delay_of_seven_milliseconds() {
        let output = down(&up(&tone(440.0, 8000.0, 4000)));
        for (index, sample) in output.iter().enumerate().skip(200) {
            let expected = 16_000.0 * (TAU * 440.0 * (index as f64 - (2 * DELAY - 1) as f64 / 2.0) / 8000.0).sin();
            assert!((expected - f64::from(*sample)).abs() < 60.0, "{index}: {sample} for {expected}");
        }
    }

    proptest! {
        #[test]
        fn pieces_make_the_same_as_the_whole(pieces in proptest::collection::vec(0..400_usize, 1..12)) {
            let input = tone(1000.0, 16_000.0, pieces.iter().sum());
            let (mut upsampler, mut downsampler) = (Upsampler::default(), Downsampler::default());
            let (mut wide, mut narrow, mut at) = (Vec::new(), Vec::new(), 0);
            for piece in pieces {
                let mut buffer = [0; 800];
                upsampler.process(&input[at..at + piece], &mut buffer);
                wide.extend_from_slice(&buffer[..2 * piece]);
                let written = downsampler.process(&input[at..at + piece], &mut buffer);
                narrow.extend_from_slice(&buffer[..written]);
                at += piece;
            }
            prop_assert_eq!(wide, up(&input));
            prop_assert_eq!(narrow, down(&input));
        }
    }
}
