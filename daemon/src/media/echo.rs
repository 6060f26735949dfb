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
const TRIED: usize = LONGEST / 5;
/// Correlation from which on two windows are alike: half of the energy is explained.
const ALIKE: f32 = 0.7;
/// Alike at one delay in so many windows that do not overlap: voices of equal pitch are alike for a moment.
const PROOFS: u32 = 2;
/// Frames after which a delay that has not shown again is forgotten: 60 s.
const FORGET: u32 = 3000;
/// Samples at 2 kHz are divided by this and cut off at [`PEAK`], so that sums of products fit.
const SCALE: f32 = 4.0;
const PEAK: f32 = 4095.0;
/// Frames that a hiss may last: 200 ms.
const HISS: u32 = 10;
/// Mean square at 2 kHz below which nothing is looked at: −62 dBFS.
const FAINT: f32 = 700.0 / (SCALE * SCALE);
/// How far a delay may be off, in samples at 2 kHz.
const NEAR: usize = 2;

/// The state of one call.
pub(super) struct EchoWatch {
    sent: Low<KEPT>,
    heard: Low<SEARCH>,
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

#[derive(Clone, Copy)]
struct Candidate {
    delay: usize,
    proofs: u32,
    /// Frames since it was looked at.
    age: u32,
}

/// The last samples of a direction at 2 kHz, newest last.
struct Low<const N: usize> {
    samples: Box<[i16; N]>,
    last: f32,
}

impl<const N: usize> Low<N> {
    fn new() -> Self {
        Self { samples: Box::new([0; N]), last: 0.0 }
    }

    /// Takes 20 ms; what is low goes down, so that a hum does not hide everything else. Returns the mean square.
    fn push(&mut self, frame: &Samples) -> f32 {
        self.samples.copy_within(STEP.., 0);
        let mut power = 0.0;
        for (to, from) in self.samples[N - STEP..].iter_mut().zip(frame.as_chunks::<DECIMATION>().0) {
            let mean = from.iter().map(|sample| f32::from(*sample)).sum::<f32>() / DECIMATION as f32;
            let high = ((mean - 0.8 * self.last) / SCALE).clamp(-PEAK, PEAK);
            (*to, self.last) = (high as i16, mean);
            power += high * high;
        }
        power / STEP as f32
    }
}

impl EchoWatch {
    /// Nothing was sent yet.
    pub(super) fn new() -> Self {
        Self {
            sent: Low::new(),
            heard: Low::new(),
            idle: u32::MAX,
            next: 0,
            candidate: None,
            delay: None,
            last: (false, 0),
        }
    }

    /// Takes what is sent in this tick. Call it after [`Self::heard`].
    pub(super) fn sent(&mut self, frame: &Samples) {
        let power = self.sent.push(frame);
        self.idle = if power > FAINT { 0 } else { self.idle.saturating_add(1) };
    }

    /// Takes what was heard in this tick: whether it is an echo of what was sent before.
    pub(super) fn heard(&mut self, frame: &Samples) -> bool {
        let power = self.heard.push(frame);
        self.delay = self.delay.map(|(delay, age)| (delay, age + 1)).filter(|(_, age)| *age < FORGET);
        // Nothing was sent that could be on its way.
        if self.idle as usize * STEP > LONGEST {
            return false;
        }
        // A hiss has nothing at low frequencies: it belongs to what is around it.
        let (was_echo, age) = self.last;
        if power < FAINT {
            self.last.1 = age.saturating_add(1);
            return was_echo && age < HISS;
        }
        let echo = self.is_echo();
        self.last = (echo, 0);
        if !echo {
            self.search();
        }
        echo
    }

    fn is_echo(&mut self) -> bool {
        if let Some((delay, _)) = self.delay {
            let moved = [0, STEP, 2 * STEP].into_iter().flat_map(|by| [delay.checked_sub(by), Some(delay + by)]);
            let near = moved.flatten().map(|delay| self.explained(around(delay)));
            if let Some((_, delay)) = near.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(alike, _)| *alike >= ALIKE) {
                self.delay = Some((delay, 0));
                return true;
            }
        }
        false
    }

    /// Tries some delays; after all were tried, looks again at the best.
    fn search(&mut self) {
        if let Some(candidate) = &mut self.candidate {
            candidate.age += 1;
            let Candidate { delay, proofs, age } = *candidate;
            if age as usize * STEP >= SEARCH {
                let (alike, delay) = self.best::<SEARCH>(around(delay));
                self.candidate = (alike >= ALIKE).then_some(Candidate { delay, proofs: proofs + 1, age: 0 });
                if alike >= ALIKE && proofs + 1 >= PROOFS {
                    self.delay = Some((delay, 0));
                    self.candidate = None;
                }
            }
            return;
        }
        let tried = self.next..(self.next + TRIED).min(LONGEST);
        self.next = if tried.end == LONGEST { 0 } else { tried.end };
        let (alike, delay) = self.best::<SEARCH>(tried);
        if alike >= ALIKE {
            self.candidate = Some(Candidate { delay, proofs: 1, age: 0 });
        }
    }

    /// How much of what was heard last is what was sent so long ago, or between two such delays: no line's delay is a whole
    /// number of our samples. As a correlation, with the delay.
    fn explained(&self, delays: std::ops::Range<usize>) -> (f32, usize) {
        let heard = &self.heard.samples[SEARCH - JUDGE..];
        let power = dot(heard, heard);
        let mut best = (0.0, delays.start);
        for delay in delays.start..delays.end.min(KEPT - JUDGE - 1) {
            let end = KEPT - delay;
            let (near, far) = (&self.sent.samples[end - JUDGE..end], &self.sent.samples[end - JUDGE - 1..end - 1]);
            let (a, b, both) = (dot(near, near), dot(far, far), dot(near, far));
            let (p, q) = (dot(heard, near), dot(heard, far));
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

    /// The delay at which the last `N` samples heard are most like what was sent, and how much.
    fn best<const N: usize>(&self, delays: std::ops::Range<usize>) -> (f32, usize) {
        let (heard, sent) = (&self.heard.samples[SEARCH - N..], &*self.sent.samples);
        let mut best = (0.0, delays.start);
        let power = dot(heard, heard);
        let square = |at: usize| i64::from(sent[at]) * i64::from(sent[at]);
        // Of the window that slides along: one square comes, one goes.
        let mut energy: i64 = (KEPT - delays.start - N..KEPT - delays.start).map(square).sum();
        for delay in delays.start..delays.end.min(KEPT - N) {
            let end = KEPT - delay;
            let sent_power = energy as f32;
            energy += square(end - N - 1) - square(end - 1);
            // What is faint explains nothing.
            if sent_power > FAINT * N as f32 {
                let product = dot(heard, &sent[end - N..end]);
                // An echo may be upside down.
                if product * product > best.0 * power * sent_power {
                    best = (product * product / (power * sent_power), delay);
                }
            }
        }
        (best.0.sqrt(), best.1)
    }
}

fn around(delay: usize) -> std::ops::Range<usize> {
    delay.saturating_sub(NEAR)..delay + NEAR + 1
}

fn dot(a: &[i16], b: &[i16]) -> f32 {
    let mut sums = [0_i32; 16];
    for (a, b) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += i32::from(*a) * i32::from(*b);
        }
    }
    sums.iter().map(|sum| *sum as f32).sum()
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
