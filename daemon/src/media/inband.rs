//! Keys that come as tones in the audio, for lines that know no telephone events. Frames enter, keys leave. Off unless it
//! is asked for: speech that is twice as loud at two of eight frequencies as anywhere else is rare, and not impossible.
//!
//! Limits after ITU-T Q.24: 40 ms are enough, the two tones may differ by 4 dB (low louder) and 8 dB (high louder), and a
//! gap under 20 ms is none. Eight of Goertzel's filters over 20 ms, every 10 ms.

use std::f32::consts::TAU;
use std::sync::LazyLock;
use std::time::Duration;

use super::dtmf::{HIGH, Key, LOW, PAD};
use super::{FRAME, RATE, Samples};

/// Samples from one look to the next: 10 ms.
const HOP: usize = FRAME / 2;
/// Mean square of the faintest tones: −36 dBFS, some −30 dBm0.
const FAINT: f32 = 270_000.0;
/// Share of the energy that both tones together must have: a frequency that is off by more than 3 % has less.
const SHARE: f32 = 0.63;
/// How much louder the low tone may be, and the high one: 6 dB and 9 dB, for the tolerance of either frequency.
const TWIST: (f32, f32) = (4.0, 8.0);
/// Looks with a key before it counts, and without it before it is over.
const PRESSED: u32 = 2;
const RELEASED: u32 = 3;

static TURNS: LazyLock<[f32; 8]> = LazyLock::new(|| {
    let mut turns = [0.0; 8];
    for (turn, hertz) in turns.iter_mut().zip(LOW.into_iter().chain(HIGH)) {
        *turn = 2.0 * (TAU * hertz / RATE as f32).cos();
    }
    turns
});

/// The state of one call.
pub(super) struct Inband {
    /// The second half of the frame before.
    past: [i16; HOP],
    /// The key that is heard, in so many looks, and the looks without it.
    held: Option<(char, u32, u32)>,
}

impl Default for Inband {
    fn default() -> Self {
        Self { past: [0; HOP], held: None }
    }
}

impl Inband {
    /// Takes 20 ms; a key that ended in them.
    pub(super) fn heard(&mut self, frame: &Samples) -> Option<Key> {
        let (first, second) = frame.split_at(HOP);
        let mut window = [0; FRAME];
        window[..HOP].copy_from_slice(&self.past);
        window[HOP..].copy_from_slice(first);
        let ended = self.look(key(&window));
        self.past.copy_from_slice(second);
        self.look(key(frame)).or(ended)
    }

    fn look(&mut self, key: Option<char>) -> Option<Key> {
        let Some((held, looks, without)) = &mut self.held else {
            self.held = key.map(|key| (key, 1, 0));
            return None;
        };
        if key == Some(*held) {
            (*looks, *without) = (*looks + 1 + *without, 0);
            return None;
        }
        *without += 1;
        let counts = *looks >= PRESSED;
        if counts && *without < RELEASED && key.is_none() {
            return None;
        }
        // A look of 20 ms reaches over both ends.
        let duration = Duration::from_millis(10 * u64::from(*looks) + 10);
        let ended = counts.then_some(Key { digit: *held, duration });
        self.held = key.map(|key| (key, 1, 0));
        ended
    }
}

fn key(window: &Samples) -> Option<char> {
    let power = window.iter().map(|sample| f32::from(*sample).powi(2)).sum::<f32>();
    if power < FAINT * FRAME as f32 {
        return None;
    }
    let mut levels = [0.0; 8];
    for (level, turn) in levels.iter_mut().zip(*TURNS) {
        let (mut last, mut before) = (0.0, 0.0);
        for sample in window {
            (last, before) = (f32::from(*sample) + turn * last - before, last);
        }
        // Of a tone alone: its energy.
        *level = (last * last + before * before - turn * last * before) * 2.0 / FRAME as f32;
    }
    let loudest = |levels: &[f32]| levels.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    let ((row, low), (column, high)) = (loudest(&levels[..4])?, loudest(&levels[4..])?);
    let together = low + high >= SHARE * power;
    (together && low <= TWIST.0 * high && high <= TWIST.1 * low).then(|| PAD[4 * row + column].into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::g711::Law;
    use crate::media::resample::{Downsampler, Upsampler};

    struct Tone {
        key: char,
        ms: usize,
        low: f32,
        high: f32,
        off: f32,
    }

    impl Tone {
        fn samples(&self) -> Vec<i16> {
            let (low, high) = crate::media::dtmf::tones(self.key).expect("a key");
            let wave = |n: usize, hertz: f32| (TAU * hertz * (1.0 + self.off) * n as f32 / RATE as f32).sin();
            (0..self.ms * 16).map(|n| (self.low * wave(n, low) + self.high * wave(n, high)) as i16).collect()
        }
    }

    /// Over G.711, in frames.
    fn keys(signal: &[i16]) -> String {
        let mut narrow = vec![0; signal.len() / 2];
        Downsampler::default().process(signal, &mut narrow);
        let mut octets = vec![0; narrow.len()];
        Law::A.encode(&narrow, &mut octets);
        Law::A.decode(&octets, &mut narrow);
        let mut wide = vec![0; narrow.len() * 2];
        Upsampler::default().process(&narrow, &mut wide);
        let mut inband = Inband::default();
        wide.as_chunks().0.iter().filter_map(|frame| inband.heard(frame)).map(|key| key.digit).collect()
    }

    fn pressed(tone: impl Fn(char) -> Tone, gap: usize) -> String {
        let mut signal = vec![0; 777];
        for digit in "159D*0#A".chars() {
            signal.extend(tone(digit).samples());
            signal.extend(vec![0; gap * 16]);
        }
        signal.extend([0; 1600]);
        keys(&signal)
    }

    #[test]
    fn every_key_within_the_limits_is_heard_once() {
        let usual = |key| Tone { key, ms: 40, low: 4000.0, high: 4000.0, off: 0.0 };
        assert_eq!(pressed(usual, 40), "159D*0#A");
        assert_eq!(pressed(|key| Tone { ms: 500, ..usual(key) }, 60), "159D*0#A", "once, however long");
        assert_eq!(pressed(|key| Tone { off: 0.014, ..usual(key) }, 50), "159D*0#A");
        assert_eq!(pressed(|key| Tone { off: -0.014, ..usual(key) }, 50), "159D*0#A");
        assert_eq!(pressed(|key| Tone { low: 6000.0, ..usual(key) }, 50), "159D*0#A", "3.5 dB");
        assert_eq!(pressed(|key| Tone { high: 9000.0, ..usual(key) }, 50), "159D*0#A", "7 dB");
        assert_eq!(pressed(|key| Tone { low: 700.0, high: 700.0, ..usual(key) }, 50), "159D*0#A", "faint");
    }

    #[test]
    fn tones_outside_the_limits_and_voices_are_no_keys() {
        let usual = |key| Tone { key, ms: 80, low: 4000.0, high: 4000.0, off: 0.0 };
        assert_eq!(pressed(|key| Tone { ms: 15, ..usual(key) }, 60), "");
        assert_eq!(pressed(|key| Tone { off: 0.05, ..usual(key) }, 60), "");
        assert_eq!(pressed(|key| Tone { high: 0.0, ..usual(key) }, 60), "");
        assert_eq!(pressed(|key| Tone { low: 30.0, high: 30.0, ..usual(key) }, 60), "");
        let folder = std::fs::read_dir("/usr/share/asterisk/sounds/en_US_f_Allison");
        let (mut seconds, mut wrong) = (0, 0);
        for file in folder.expect("apt-get install asterisk-core-sounds-en-wav").flatten() {
            if file.path().extension().is_none_or(|kind| kind != "wav") {
                continue;
            }
            let mut reader = hound::WavReader::open(file.path()).expect("WAV");
            let narrow: Vec<i16> = reader.samples().collect::<Result<_, _>>().expect("samples");
            let mut wide = vec![0; 2 * narrow.len()];
            Upsampler::default().process(&narrow, &mut wide);
            seconds += narrow.len() / 8000;
            wrong += keys(&wide).len();
        }
        println!("{wrong} keys in {seconds} s of speech");
        assert!(seconds > 500 && wrong <= 2, "{wrong} in {seconds} s");
    }
}
