//! Our own voice that comes back. What was sent and what was heard enter, frame by frame; whether a frame is an echo
//! leaves. Lines echo at the far hybrid or in somebody's room, up to a second later; taken for the caller, an agent
//! would interrupt itself.
//!
//! Both directions are kept at 2 kHz. While the agent is heard back as far as a second ago, what comes in is compared with
//! what was sent, at every delay: a delay at which both are alike for long enough is that of the line's echo. From then
//! on only that delay counts (and its neighbours by whole frames, because the jitter buffer moves). A frame is an echo
//! if most of its energy is explained by what was sent that long ago: a caller who speaks over an echo is louder, and
//! is heard.

use super::{FRAME, Samples};
use crate::base::vectors::{Work, with_widest_vectors};

/// Samples at 16 kHz that make one at 2 kHz.
const DECIMATION: usize = 8;
/// Samples of a frame at 2 kHz.
const STEP: usize = FRAME / DECIMATION;
/// Longest delay: 1 s.
const LONGEST: usize = 2000;
/// What is compared to find a delay: 160 ms …
const SEARCH: usize = 320;
/// … and to judge a frame: 80 ms.
const JUDGE: usize = 160;
/// What is kept of what was sent.
const KEPT: usize = LONGEST + SEARCH;
/// Delays that are tried in one frame.
const TRIED: usize = LONGEST / 10;
/// Correlation from which on two windows are alike: half of the energy is explained.
const ALIKE: f32 = 0.7;
/// Alike at one delay in so many windows that do not overlap: voices of equal pitch are alike for a moment.
const PROOFS: u32 = 2;
/// Frames after which a delay that has not shown again is forgotten: 60 s.
const FORGET: u32 = 3000;
/// Samples by which a direction's past moves at once: 16 frames.
const SLACK: usize = 16 * STEP;
/// Samples at 2 kHz are divided by this and cut off at [`PEAK`], so that sums of products fit.
const SCALE: f32 = 8.0;
const PEAK: f32 = 2590.0;
const _: () = assert!((PEAK * PEAK) as u64 * SEARCH as u64 <= i32::MAX as u64);
/// Frames that a hiss may last: 200 ms.
const HISS: u32 = 10;
/// Mean square at 2 kHz below which nothing is looked at: −62 dBFS.
const FAINT: f32 = 700.0 / (SCALE * SCALE);
/// How far a delay may be off, in samples at 2 kHz.
const NEAR: usize = 2;

/// The state of one call.
pub(super) struct EchoWatch {
    /// None while nothing can come back, so that a call in which nobody speaks holds none.
    past: Option<Past>,
    /// The last means, of what was sent and heard.
    means: [f32; 2],
    /// Frames since something was sent that could come back.
    idle: u32,
    /// The next delay to try.
    next: usize,
    candidate: Option<Candidate>,
    /// Delay of the line's echo, and the frames since it showed last.
    delay: Option<(usize, u32)>,
    /// What the last frame was that could be judged, and the frames since.
    last: (bool, u32),
}

struct Past {
    sent: Low<KEPT>,
    heard: Low<SEARCH>,
}

#[derive(Clone, Copy)]
struct Candidate {
    delay: usize,
    proofs: u32,
    /// Frames since it was looked at.
    age: u32,
}

/// The last `N` samples of a direction at 2 kHz, newest last.
struct Low<const N: usize> {
    /// With some older ones before them, so that they are not moved each time.
    samples: Vec<i16>,
}

impl<const N: usize> Low<N> {
    fn new() -> Self {
        let mut samples = Vec::with_capacity(N + SLACK);
        samples.resize(N, 0);
        Self { samples }
    }

    fn last(&self) -> &[i16] {
        &self.samples[self.samples.len() - N..]
    }

    fn push(&mut self, frame: &[i16; STEP]) {
        if self.samples.len() == N + SLACK {
            self.samples.drain(..SLACK);
        }
        self.samples.extend_from_slice(frame);
    }
}

/// 20 ms at 2 kHz, and their mean square. What is low goes down, so that a hum does not hide everything else; `last` is the
/// mean of the eight samples before.
#[inline(always)]
fn lower(frame: &Samples, last: &mut f32) -> ([i16; STEP], f32) {
    let (mut low, mut power) = ([0; STEP], 0.0);
    for (to, from) in low.iter_mut().zip(frame.as_chunks::<DECIMATION>().0) {
        // No sum of eight samples overflows.
        let sum = from.iter().fold(0_i32, |sum, sample| sum.wrapping_add(i32::from(*sample)));
        let mean = sum as f32 / DECIMATION as f32;
        let high = ((mean - 0.8 * *last) / SCALE).clamp(-PEAK, PEAK);
        (*to, *last) = (high as i16, mean);
        power += high * high;
    }
    (low, power / STEP as f32)
}

impl EchoWatch {
    /// Nothing was sent yet.
    pub(super) fn new() -> Self {
        Self { past: None, means: [0.0; 2], idle: u32::MAX, next: 0, candidate: None, delay: None, last: (false, 0) }
    }

    /// Takes what is sent in this tick. Call it after [`Self::heard`].
    pub(super) fn sent(&mut self, frame: &Samples) {
        let (low, power) = lower(frame, &mut self.means[0]);
        self.idle = if power > FAINT { 0 } else { self.idle.saturating_add(1) };
        if self.idle as usize * STEP > LONGEST {
            self.past = None;
            return;
        }
        let past = self.past.get_or_insert_with(|| Past { sent: Low::new(), heard: Low::new() });
        past.sent.push(&low);
    }

    /// Takes what was heard in this tick: whether it is an echo of what was sent before.
    pub(super) fn heard(&mut self, frame: &Samples) -> bool {
        with_widest_vectors(Judge { watch: self, frame })
    }

    #[inline(always)]
    fn judge(&mut self, frame: &Samples) -> bool {
        self.delay = self.delay.map(|(delay, age)| (delay, age + 1)).filter(|(_, age)| *age < FORGET);
        let Some(past) = &mut self.past else { return false };
        let (low, power) = lower(frame, &mut self.means[1]);
        past.heard.push(&low);
        // A hiss has nothing at low frequencies: it belongs to what is around it.
        let (was_echo, age) = self.last;
        if power < FAINT {
            self.last.1 = age.saturating_add(1);
            return was_echo && age < HISS;
        }
        let found = self.delay.and_then(|(delay, _)| past.echo_at(delay));
        self.last = (found.is_some(), 0);
        match found {
            Some(delay) => self.delay = Some((delay, 0)),
            None => self.search(),
        }
        found.is_some()
    }

    /// Tries some delays; after all were tried, looks again at the best.
    #[inline(always)]
    fn search(&mut self) {
        let Some(past) = &self.past else { return };
        if let Some(candidate) = &mut self.candidate {
            candidate.age += 1;
            let Candidate { delay, proofs, age } = *candidate;
            if age as usize * STEP >= SEARCH {
                let found = past.best(around(delay)).map(|delay| Candidate { delay, proofs: proofs + 1, age: 0 });
                self.delay = found.filter(|found| found.proofs >= PROOFS).map(|found| (found.delay, 0)).or(self.delay);
                self.candidate = found.filter(|found| found.proofs < PROOFS);
            }
            return;
        }
        let tried = self.next..(self.next + TRIED).min(LONGEST);
        self.next = if tried.end == LONGEST { 0 } else { tried.end };
        self.candidate = past.best(tried).map(|delay| Candidate { delay, proofs: 1, age: 0 });
    }
}

impl Past {
    /// Where the echo is that was here, if it still is, or where the jitter buffer may have moved it to.
    #[inline(always)]
    fn echo_at(&self, known: usize) -> Option<usize> {
        const ONE: isize = STEP as isize;
        for delay in [0, -ONE, ONE, -2 * ONE, 2 * ONE].into_iter().filter_map(|by| known.checked_add_signed(by)) {
            let (alike, delay) = self.explained(around(delay));
            if alike >= ALIKE {
                return Some(delay);
            }
        }
        None
    }

    /// How much of what was heard last is what was sent so long ago, or between two such delays: no line's delay is a whole
    /// number of our samples. As a correlation, with the delay.
    #[inline(always)]
    fn explained(&self, delays: std::ops::Range<usize>) -> (f32, usize) {
        let (heard, past) = (&self.heard.last()[SEARCH - JUDGE..], self.sent.last());
        let power = dot(heard, heard) as f32;
        let sent = |delay: usize| &past[KEPT - delay - JUDGE..KEPT - delay];
        let mut best = (0.0, delays.start);
        let delays = delays.start..delays.end.min(KEPT - JUDGE);
        if delays.is_empty() {
            return best;
        }
        let mut next = sent(delays.start);
        let (mut b, mut q) = (dot(next, next) as f32, dot(heard, next) as f32);
        for delay in delays {
            // What was the later of two delays is the earlier of the next two.
            let (near, a, p) = (next, b, q);
            next = sent(delay + 1);
            (b, q) = (dot(next, next) as f32, dot(heard, next) as f32);
            let both = dot(near, next) as f32;
            let square = a * b - both * both;
            if a < FAINT * JUDGE as f32 {
                continue;
            }
            // Two delays that say the same are one.
            let share = if square < 0.001 * a * b {
                p * p / (a * power)
            } else {
                (p * p * b - 2.0 * p * q * both + q * q * a) / (square * power)
            };
            if share > best.0 {
                best = (share, delay);
            }
        }
        (best.0.sqrt(), best.1)
    }

    /// The delay at which what was heard last is most like what was sent; none if nowhere [`ALIKE`].
    #[inline(always)]
    fn best(&self, delays: std::ops::Range<usize>) -> Option<usize> {
        const HALF: usize = SEARCH / 2;
        let (sent, (old, new)) = (self.sent.last(), self.heard.last().split_at(HALF));
        let (old_power, new_power) = (dot(old, old) as f32, dot(new, new) as f32);
        // Where the halves of a window begin; they slide along: of each, one square comes and one goes.
        let from = |delay: usize| (KEPT - delay - SEARCH, KEPT - delay - HALF);
        let square = |at: usize| i32::from(sent[at]) * i32::from(sent[at]);
        let energy = |from: usize| dot(&sent[from..from + HALF], &sent[from..from + HALF]);
        let delays = delays.start..delays.end.min(KEPT - SEARCH);
        let (old_from, new_from) = if delays.is_empty() { return None } else { from(delays.start) };
        let (mut old_energy, mut new_energy) = (energy(old_from), energy(new_from));
        let mut best = None;
        let mut least = ALIKE;
        for delay in delays {
            let (old_from, new_from) = from(delay);
            let (old_sent, new_sent) = (old_energy as f32, new_energy as f32);
            old_energy += square(old_from - 1) - square(new_from - 1);
            new_energy += square(new_from - 1) - square(new_from + HALF - 1);
            // What is faint explains nothing.
            if old_sent + new_sent <= FAINT * SEARCH as f32 {
                continue;
            }
            let wanted = least * ((old_power + new_power) * (old_sent + new_sent)).sqrt();
            // An echo may be upside down. The other half cannot add more than all of itself.
            let product = dot(new, &sent[new_from..new_from + HALF]) as f32;
            if product.abs() + (old_power * old_sent).sqrt() < wanted {
                continue;
            }
            let product = product + dot(old, &sent[old_from..new_from]) as f32;
            if product.abs() >= wanted {
                least *= product.abs() / wanted;
                best = Some(delay);
            }
        }
        best
    }
}

struct Judge<'a> {
    watch: &'a mut EchoWatch,
    frame: &'a Samples,
}

impl Work for Judge<'_> {
    type Output = bool;

    #[inline(always)]
    fn call(self) -> bool {
        self.watch.judge(self.frame)
    }
}

fn around(delay: usize) -> std::ops::Range<usize> {
    delay.saturating_sub(NEAR)..delay + NEAR + 1
}

/// What is checked for overflow is not vectorised; for samples up to [`PEAK`] there is none.
#[inline(always)]
fn dot(a: &[i16], b: &[i16]) -> i32 {
    let product = |(a, b): (&i16, &i16)| i32::from(*a).wrapping_mul(i32::from(*b));
    a.iter().zip(b).map(product).fold(0, i32::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::g711::Law;
    use crate::media::resample::{Downsampler, Upsampler};

    /// Two people of the telephone prompts.
    const AGENT: &str = "/usr/share/asterisk/sounds/en_US_f_Allison/demo-congrats.wav";
    const CALLER: &str = "/usr/share/asterisk/sounds/en_US_f_Allison/demo-instruct.wav";

    /// At 16 kHz, through G.711, −20 dB or so.
    fn voice(path: &str) -> Vec<i16> {
        let mut reader = hound::WavReader::open(path).expect("apt-get install asterisk-core-sounds-en-wav");
        let narrow: Vec<i16> = reader.samples().collect::<Result<_, _>>().expect("samples");
        let mut wide = vec![0; 2 * narrow.len()];
        Upsampler::default().process(&narrow, &mut wide);
        wide
    }

    fn over_the_line(samples: &[i16]) -> Vec<i16> {
        let mut narrow = vec![0; samples.len() / 2];
        Downsampler::default().process(samples, &mut narrow);
        let mut octets = vec![0; narrow.len()];
        Law::Mu.encode(&narrow, &mut octets);
        Law::Mu.decode(&octets, &mut narrow);
        let mut wide = vec![0; samples.len()];
        Upsampler::default().process(&narrow, &mut wide);
        wide
    }

    /// The agent speaks; its echo comes back so loud and late, with the caller over it from a frame on. For each frame
    /// that sounds like a voice: its number, and whether it was taken for an echo.
    fn line(decibel: f32, delay_ms: usize, caller: Option<(usize, f32)>) -> Vec<(usize, bool)> {
        let (agent, other) = (voice(AGENT), voice(CALLER));
        // Before that nothing is said.
        let other = &other[41 * FRAME..];
        let gain = 10_f32.powf(decibel / 20.0);
        let heard: Vec<i16> = (0..agent.len())
            .map(|n| {
                let echo = n.checked_sub(delay_ms * 16).map_or(0.0, |n| f32::from(agent[n]) * gain);
                let said =
                    caller.and_then(|(from, level)| Some(f32::from(*other.get(n.checked_sub(from * FRAME)?)?) * level));
                (echo + said.unwrap_or(0.0)) as i16
            })
            .collect();
        let heard = over_the_line(&heard);
        let mut watch = EchoWatch::new();
        let mut told = Vec::new();
        for (n, (sent, heard)) in agent.as_chunks::<FRAME>().0.iter().zip(heard.as_chunks::<FRAME>().0).enumerate() {
            let power = heard.iter().map(|sample| f32::from(*sample).powi(2)).sum::<f32>() / FRAME as f32;
            let echo = watch.heard(heard);
            watch.sent(sent);
            // −56 dBFS: less is no voice to anybody's ears.
            if power > 2500.0 {
                told.push((n, echo));
            }
        }
        told
    }

    #[test]
    fn an_echo_is_known_for_one_however_late_and_faint() {
        for decibel in [-12.0, -18.0, -24.0, -30.0] {
            for delay in [20, 60, 133, 250, 400, 500, 900] {
                let told = line(decibel, delay, None);
                let known = told.iter().position(|(_, echo)| *echo).expect("found");
                let first = told[known].0;
                assert!(first < 75 + delay / 20, "{decibel} dB, {delay} ms: known after {first} frames");
                let after = &told[known..];
                let share = after.iter().filter(|(_, echo)| *echo).count() as f32 / after.len() as f32;
                let longest = after.split(|(_, echo)| *echo).map(<[_]>::len).max().unwrap_or(0);
                println!(
                    "{decibel} dB, {delay} ms: after {first} frames, {share:.3} of {}, at most {longest} wrong",
                    after.len()
                );
                assert!(share > 0.95 && longest < 15, "{decibel} dB, {delay} ms: {share:.2}");
            }
        }
    }

    #[test]
    fn a_caller_over_the_echo_is_heard() {
        for decibel in [-12.0, -20.0, -30.0] {
            for (delay, from) in [(60, 300), (250, 420), (500, 555)] {
                let told = line(decibel, delay, Some((from, 1.0)));
                // The first half second of the caller: enough of it must get through to interrupt.
                let first: Vec<_> = told.iter().filter(|(n, _)| (from..from + 40).contains(n)).collect();
                let through = first.iter().filter(|(_, echo)| !echo).count();
                println!("{decibel} dB, {delay} ms: {through} of {}", first.len());
                assert!(through * 10 >= first.len() * 7, "{decibel} dB, {delay} ms: {through} of {}", first.len());
            }
        }
    }

    #[test]
    fn without_an_echo_a_caller_is_no_echo() {
        for from in [0, 100, 333] {
            let told = line(-200.0, 100, Some((from, 1.0)));
            let wrong = told.iter().filter(|(_, echo)| *echo).count();
            println!("{wrong} of {}", told.len());
            assert!(wrong * 100 < told.len(), "{wrong} of {}", told.len());
        }
    }
}
