//! Packet loss concealment after ITU-T G.711 Appendix I. Runs of heard and of lost samples enter in playing order;
//! the same number of samples leaves, without clicks at the joints. No look-ahead, so no delay is added: where the
//! Appendix holds back 3.75 ms to blend into a loss, the step at the joint decays instead.

/// Longest pitch period that is looked for: 66 Hz.
const LONGEST: usize = 120;
/// Shortest: 200 Hz; higher voices repeat two or more periods at once.
const SHORTEST: usize = 40;
/// Samples that correlation compares: 10 ms, half of what the Appendix takes. The newest sound is what goes on: 0.5 dB
/// nearer to a human voice, without more spectral distance.
const WINDOW: usize = 80;
/// Three periods and the quarter before them.
const HISTORY: usize = 3 * LONGEST + LONGEST / 4;
/// Repetition stays at full level for 10 ms, …
const HOLD: usize = 80;
/// … then fades to silence, 60 ms after the loss began.
const FADE: usize = 400;
/// Longest cross-fade back to what is heard: 10 ms.
const BLEND: usize = 80;

/// The state of one stream.
#[derive(Clone, Debug)]
pub struct Concealer {
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

impl Default for Concealer {
    fn default() -> Self {
        Self {
            history: [0; HISTORY],
            source: [0; HISTORY],
            invented: 0,
            period: SHORTEST,
            periods: 1,
            position: 0,
            leaving: None,
            step: 0.0,
            level: 1.0,
        }
    }
}

impl Concealer {
    /// Takes received samples; the first of them after a loss are blended with its continuation.
    pub fn heard(&mut self, samples: &mut [i16]) {
        if self.invented > 0 {
            let tens = self.invented.div_ceil(HOLD);
            let overlap = (self.period / 4 + 32 * (tens - 1)).min(BLEND).min(samples.len());
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

    /// Takes a pause that the sender made on purpose: silence.
    pub fn quiet(&mut self, samples: &mut [i16]) {
        samples.fill(0);
        self.heard(samples);
    }

    fn remember(&mut self, samples: &[i16]) {
        let fresh = &samples[samples.len().saturating_sub(HISTORY)..];
        self.history.copy_within(fresh.len().., 0);
        self.history[HISTORY - fresh.len()..].copy_from_slice(fresh);
    }

    fn begin(&mut self) {
        self.source = self.history;
        (self.period, self.level) = pitch(&self.source);
        (self.periods, self.position, self.leaving) = (1, 0, None);
        let [.., last] = self.source;
        self.step = f32::from(last) - f32::from(self.source[HISTORY - 1 - self.period]);
    }

    /// The next sample of the repetition.
    fn next(&mut self) -> f32 {
        if (self.invented == HOLD || self.invented == 2 * HOLD) && self.periods < 3 {
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
        let faded = self.invented.saturating_sub(HOLD).min(FADE);
        // Saturates where the loss is long over and only silence is left.
        self.invented = (self.invented + 1).min(HOLD + FADE);
        (sample * level * (1.0 - faded as f32 / FADE as f32)).clamp(-32768.0, 32767.0)
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

/// The lag with the highest normalised correlation, and the level at which to repeat.
fn pitch(history: &[i16; HISTORY]) -> (usize, f32) {
    let mut wave = [0.0_f32; HISTORY];
    for (to, from) in wave.iter_mut().zip(history) {
        *to = f32::from(*from);
    }
    let recent = &wave[HISTORY - WINDOW..];
    let mut best = (LONGEST, 0.0);
    for lag in (SHORTEST..=LONGEST).rev() {
        let earlier = &wave[HISTORY - WINDOW - lag..HISTORY - lag];
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
        let wave = |n: usize| (8000.0 * (std::f64::consts::TAU * n as f64 / 57.0).sin()) as i16;
        let mut signal: Vec<i16> = (0..960).map(wave).collect();
        let mut concealer = Concealer::default();
        concealer.heard(&mut signal[..800]);
        assert_eq!(pitch(&concealer.history).0 % 57, 0);
        concealer.lost(&mut signal[800..960]);
        for (n, sample) in signal.iter().enumerate().take(880).skip(800) {
            assert!((i32::from(*sample) - i32::from(wave(n))).abs() < 400, "{n}");
        }
    }

    #[test]
    fn fades_to_silence_after_sixty_milliseconds_and_back_without_a_step() {
        let mut concealer = Concealer::default();
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
        fn any_runs_leave_samples(runs in proptest::collection::vec((0..3_u8, 0..400_usize, any::<i16>()), 0..60)) {
            let mut concealer = Concealer::default();
            for (kind, length, level) in runs {
                let mut samples = vec![level; length];
                match kind {
                    0 => concealer.heard(&mut samples),
                    1 => concealer.lost(&mut samples),
                    _ => concealer.quiet(&mut samples),
                }
            }
        }
    }
}
