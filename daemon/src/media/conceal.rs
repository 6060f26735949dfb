//! Packet loss concealment after ITU-T G.711 Appendix I. Runs of heard and of lost samples enter in playing order;
//! the same number of samples leaves, without clicks at the joints. No look-ahead, so no delay is added: where the
//! Appendix holds back 3.75 ms to blend into a loss, the step at the joint decays instead. Where the packet behind a gap of
//! a frame is there already, the gap is bridged from both sides: 0.16 MOS of PESQ at 5 % loss.

use std::ops::RangeInclusive;

// All lengths are samples at 8 kHz; at 16 kHz they are twice as many.
/// Longest pitch period that is looked for: 66 Hz.
const LONGEST: usize = 120;
/// Shortest: 200 Hz; higher voices repeat two or more periods at once.
const SHORTEST: usize = 40;
/// Samples that correlation compares: 10 ms, half of what the Appendix takes. The newest sound is what goes on: 0.5 dB
/// nearer to a human voice, without more spectral distance.
const WINDOW: usize = 80;
/// Three periods and the quarter before them, at 16 kHz.
const HISTORY: usize = 2 * (3 * LONGEST + LONGEST / 4);
/// Repetition stays at full level for 10 ms, …
const HOLD: usize = 80;
/// … then fades to silence, 60 ms after the loss began.
const FADE: usize = 400;
/// Longest cross-fade back to what is heard: 10 ms.
const BLEND: usize = 80;

/// The state of one stream.
#[derive(Clone, Debug)]
pub struct Concealer {
    /// 1 at 8 kHz, 2 at 16 kHz.
    scale: usize,
    /// The last samples that left.
    history: [i16; HISTORY],
    /// What had left when the loss began.
    source: [i16; HISTORY],
    /// Samples invented since then; 0 outside a loss.
    invented: usize,
    period: usize,
    /// Periods repeated at once, so that a long loss does not buzz: one more after each 10 ms, up to three.
    periods: usize,
    position: usize,
    /// The shorter repetition that is being faded out: periods, position, samples so far.
    leaving: Option<(usize, usize, usize)>,
    /// Height of the step where the loss began.
    step: f32,
    /// Noise that is repeated rings, so the less periodic the sound, the quieter its repetition: ½ to 1.
    level: f32,
}

impl Concealer {
    /// `scale`: 1 for 8 kHz, 2 for 16 kHz.
    #[must_use]
    pub const fn new(scale: usize) -> Self {
        Self {
            scale,
            history: [0; HISTORY],
            source: [0; HISTORY],
            invented: 0,
            period: SHORTEST * scale,
            periods: 1,
            position: 0,
            leaving: None,
            step: 0.0,
            level: 1.0,
        }
    }

    /// Takes received samples; the first of them after a loss are blended with its continuation.
    pub fn heard(&mut self, samples: &mut [i16]) {
        if self.invented > 0 {
            let tens = self.invented.div_ceil(HOLD * self.scale);
            let longer = 32 * self.scale * (tens - 1);
            let overlap = (self.period / 4 + longer).min(BLEND * self.scale).min(samples.len());
            for (index, sample) in samples.iter_mut().take(overlap).enumerate() {
                let weight = (index + 1) as f32 / (overlap + 1) as f32;
                *sample = (f32::from(*sample) * weight + self.next() * (1.0 - weight)) as i16;
            }
            self.invented = 0;
        }
        self.remember(samples);
    }

    /// Invents samples.
    pub fn lost(&mut self, samples: &mut [i16]) {
        if self.invented == 0 {
            self.begin();
        }
        for sample in samples.iter_mut() {
            *sample = self.next() as i16;
        }
        self.remember(samples);
    }

    /// Invents samples of a gap, so long, behind which sound is known again: what was before the gap fades into what is
    /// behind it, repeated backwards. The next samples are then taken as they are.
    pub fn bridge(&mut self, samples: &mut [i16], gap: usize, behind: &[i16]) {
        if self.invented == 0 {
            self.begin();
            self.tune(gap, behind);
        }
        let period = self.period;
        for (index, sample) in samples.iter_mut().enumerate() {
            let before = self.next();
            let back = (period - (gap - index) % period) % period;
            let weight = (index + 1) as f32 / (gap + 1) as f32;
            let known = behind.get(back).map_or(before, |known| f32::from(*known));
            *sample = (before * (1.0 - weight) + known * weight) as i16;
        }
        if samples.len() == gap {
            self.invented = 0;
        }
        self.remember(samples);
    }

    /// Takes the period near the one found that arrives behind the gap in step with what is there.
    fn tune(&mut self, gap: usize, behind: &[i16]) {
        let behind = &behind[..behind.len().min(WINDOW * self.scale)];
        let most = LONGEST * self.scale;
        let mut best = (0.0, self.period);
        for period in self.period * 9 / 10..=(self.period * 11 / 10).min(most) {
            let (mut product, mut energy) = (0.0, 1.0);
            for (index, known) in behind.iter().enumerate() {
                let repeated = f32::from(self.source[HISTORY - period + (gap + index) % period]);
                product += repeated * f32::from(*known);
                energy += repeated * repeated;
            }
            let score = product / f32::sqrt(energy);
            if score > best.0 {
                best = (score, period);
            }
        }
        self.period = best.1;
    }

    fn remember(&mut self, samples: &[i16]) {
        let fresh = &samples[samples.len().saturating_sub(HISTORY)..];
        self.history.copy_within(fresh.len().., 0);
        self.history[HISTORY - fresh.len()..].copy_from_slice(fresh);
    }

    fn begin(&mut self) {
        self.source = self.history;
        (self.period, self.level) = pitch(&self.source, self.scale);
        (self.periods, self.position, self.leaving) = (1, 0, None);
        let [.., last] = self.source;
        self.step = f32::from(last) - f32::from(self.source[HISTORY - 1 - self.period]);
    }

    /// The next sample of the repetition.
    fn next(&mut self) -> f32 {
        let (hold, fade) = (HOLD * self.scale, FADE * self.scale);
        if (self.invented == hold || self.invented == 2 * hold) && self.periods < 3 {
            self.leaving = Some((self.periods, self.position, 0));
            self.periods += 1;
            self.position %= self.period;
        }
        let quarter = self.period / 4;
        let mut sample = self.cycle(self.periods, self.position);
        self.position = (self.position + 1) % (self.periods * self.period);
        if let Some((periods, position, done)) = self.leaving {
            let weight = (done + 1) as f32 / (quarter + 1) as f32;
            sample = sample * weight + self.cycle(periods, position) * (1.0 - weight);
            let next = (periods, (position + 1) % (periods * self.period), done + 1);
            self.leaving = (next.2 < quarter).then_some(next);
        }
        let mut level = self.level;
        if self.invented < quarter {
            let left = 1.0 - (self.invented + 1) as f32 / (quarter + 1) as f32;
            sample += self.step * left;
            level += (1.0 - level) * left;
        }
        let faded = self.invented.saturating_sub(hold).min(fade);
        // Saturates where the loss is long over and only silence is left.
        self.invented = (self.invented + 1).min(hold + fade);
        (sample * level * (1.0 - faded as f32 / fade as f32)).clamp(-32768.0, 32767.0)
    }

    /// The last periods as a loop: its last quarter period fades into what came before its first sample.
    fn cycle(&self, periods: usize, position: usize) -> f32 {
        let length = periods * self.period;
        let quarter = self.period / 4;
        let at = HISTORY - length + position;
        let sample = f32::from(self.source[at]);
        let left = length - position;
        if left > quarter {
            return sample;
        }
        let weight = (quarter + 1 - left) as f32 / (quarter + 1) as f32;
        sample * (1.0 - weight) + f32::from(self.source[at - length]) * weight
    }
}

/// The lag with the highest normalised correlation, and the level at which to repeat. At 16 kHz it is looked for at
/// 8 kHz first.
fn pitch(history: &[i16; HISTORY], scale: usize) -> (usize, f32) {
    let mut wave = [0.0_f32; HISTORY];
    for (to, from) in wave.iter_mut().zip(history) {
        *to = f32::from(*from);
    }
    if scale == 1 {
        return best(&wave, WINDOW, SHORTEST..=LONGEST);
    }
    let mut half = [0.0_f32; HISTORY / 2];
    for (to, [a, b]) in half.iter_mut().zip(wave.as_chunks::<2>().0) {
        *to = (a + b) / 2.0;
    }
    let (lag, _) = best(&half, WINDOW, SHORTEST..=LONGEST);
    best(&wave, WINDOW * scale, (lag * scale - 1).max(SHORTEST * scale)..=(lag * scale + 1).min(LONGEST * scale))
}

fn best(wave: &[f32], window: usize, lags: RangeInclusive<usize>) -> (usize, f32) {
    let end = wave.len();
    let recent = &wave[end - window..];
    let mut best = (*lags.end(), 0.0);
    for lag in lags.rev() {
        let earlier = &wave[end - window - lag..end - lag];
        let (mut product, mut energy) = (0.0, 1.0);
        for (a, b) in recent.iter().zip(earlier) {
            product += a * b;
            energy += b * b;
        }
        let score = product / f32::sqrt(energy);
        if score > best.1 {
            best = (lag, score);
        }
    }
    let energy: f32 = recent.iter().map(|sample| sample * sample).sum();
    (best.0, 0.5 + 0.5 * (best.1 / (energy + 1.0).sqrt()).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_the_pitch_and_carries_a_tone_through_a_loss() {
        for scale in [1, 2] {
            let period = 57 * scale;
            let wave = |n: usize| (8000.0 * (std::f64::consts::TAU * n as f64 / period as f64).sin()) as i16;
            let mut signal: Vec<i16> = (0..960 * scale).map(wave).collect();
            let mut concealer = Concealer::new(scale);
            concealer.heard(&mut signal[..800 * scale]);
            assert_eq!(pitch(&concealer.history, scale).0 % period, 0);
            concealer.lost(&mut signal[800 * scale..]);
            for (n, sample) in signal.iter().enumerate().take(880 * scale).skip(800 * scale) {
                assert!((i32::from(*sample) - i32::from(wave(n))).abs() < 400, "{n}");
            }
        }
    }

    #[test]
    fn a_gap_with_sound_behind_it_is_bridged_in_step() {
        // A period that is no whole number of samples, so that repetition drifts.
        let wave = |n: usize| (8000.0 * (std::f64::consts::TAU * n as f64 / 57.4).sin()) as i16;
        let error = |bridged: bool| {
            let mut signal: Vec<i16> = (0..960).map(wave).collect();
            let behind: Vec<i16> = (880..1040).map(wave).collect();
            let mut concealer = Concealer::new(1);
            concealer.heard(&mut signal[..720]);
            if bridged {
                concealer.bridge(&mut signal[720..880], 160, &behind);
            } else {
                concealer.lost(&mut signal[720..880]);
            }
            concealer.heard(&mut signal[880..]);
            (720..960).map(|n| (f64::from(signal[n]) - f64::from(wave(n))).powi(2)).sum::<f64>().sqrt()
        };
        assert!(error(true) < error(false) / 3.0, "{} {}", error(true), error(false));
    }

    #[test]
    fn fades_to_silence_after_sixty_milliseconds_and_back_without_a_step() {
        let mut concealer = Concealer::new(1);
        concealer.heard(&mut [8000; 400]);
        let mut lost = [0; 640];
        concealer.lost(&mut lost);
        assert!(lost[79] > 7990 && lost[480..] == [0; 160]);
        let mut back = [8000; 160];
        concealer.heard(&mut back);
        let largest = back.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(back[0] < 200 && back[80] == 8000 && largest < Some(200), "{largest:?}");
    }

    proptest! {
        #[test]
        fn any_runs_leave_samples(scale in 1..=2_usize, runs in proptest::collection::vec((0..3_u8, 0..400_usize, any::<i16>()), 0..60)) {
            let mut concealer = Concealer::new(scale);
            for (kind, length, level) in runs {
                let mut samples = vec![level; length];
                match kind {
                    0 => concealer.heard(&mut samples),
                    1 => concealer.lost(&mut samples),
                    _ => concealer.bridge(&mut samples, length + 7, &[level; 90]),
                }
            }
        }
    }
}
