//! What the far end says. Packets of a stream enter, still encoded; a frame leaves at every tick. Joins jitter buffer,
//! decoder, concealment and comfort noise. Ten kilobytes are allocated for the first packet, and nothing ever after: a
//! call in which nothing is received holds none of it.

use std::time::Instant;

use super::codec::{Codec, Decoder, OpusDecoder};
use super::jitter::{JitterBuffer, JitterStats, Run};
use super::{FRAME, Samples};

/// One stream at a time.
pub(super) struct Inbound {
    /// For a stream that begins: to make it takes too long for the media thread.
    opus: Option<Box<OpusDecoder>>,
    /// None: nothing was received yet.
    stream: Option<Box<Stream>>,
}

impl Inbound {
    /// Nothing was received yet. `opus` is needed if that may come.
    pub(super) const fn new(opus: Option<Box<OpusDecoder>>) -> Self {
        Self { opus, stream: None }
    }

    /// Opus is understood from now on, if it has not been yet.
    pub(super) fn learn(&mut self, opus: Option<Box<OpusDecoder>>) {
        match &mut self.stream {
            Some(stream) => stream.decoder.learn(opus),
            None => self.opus = self.opus.take().or(opus),
        }
    }

    /// Takes a packet of audio; `sequence` is extended.
    pub(super) fn insert(&mut self, now: Instant, sequence: u64, timestamp: u32, codec: Codec, payload: &[u8]) {
        let stream = self.begun(now);
        stream.noise.level = 0.0;
        stream.jitter.insert(now, sequence, timestamp, codec, payload);
    }

    /// Takes a packet of comfort noise (RFC 3389): the far end makes a pause, and says how loud its silence is.
    pub(super) fn pause(&mut self, now: Instant, sequence: u64, payload: &[u8]) {
        let stream = self.begun(now);
        stream.jitter.mark(sequence);
        stream.noise.set(payload);
    }

    /// A packet that holds no audio takes a sequence number.
    pub(super) fn mark(&mut self, sequence: u64) {
        if let Some(stream) = &mut self.stream {
            stream.jitter.mark(sequence);
        }
    }

    /// Another stream follows.
    pub(super) fn reset(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.jitter.reset();
        }
    }

    pub(super) fn stats(&self) -> JitterStats {
        self.stream.as_ref().map_or_else(JitterStats::default, |stream| stream.jitter.stats())
    }

    /// The next 20 ms, and whether some of it was invented.
    pub(super) fn frame(&mut self, now: Instant) -> (Samples, bool) {
        self.stream.as_mut().map_or(([0; FRAME], false), |stream| stream.frame(now))
    }

    fn begun(&mut self, now: Instant) -> &mut Stream {
        self.stream.get_or_insert_with(|| {
            let (jitter, decoder) = (JitterBuffer::new(now), Decoder::new(self.opus.take()));
            Box::new(Stream { jitter, decoder, noise: Noise::default() })
        })
    }
}

/// A stream that has begun.
pub(super) struct Stream {
    jitter: JitterBuffer,
    decoder: Decoder,
    noise: Noise,
}

impl Stream {
    fn frame(&mut self, now: Instant) -> (Samples, bool) {
        let (frame, concealed, long) = self.pull(now);
        // Delay that is not needed any more is dropped where nobody speaks.
        if long && self.jitter.skip(power(&frame), concealed) {
            let (frame, concealed, _) = self.pull(now);
            return (frame, concealed);
        }
        (frame, concealed)
    }

    fn pull(&mut self, now: Instant) -> (Samples, bool, bool) {
        let mut frame = [0; FRAME];
        let (mut rest, mut concealed, mut whole) = (&mut frame[..], false, true);
        let Self { jitter, decoder, noise } = self;
        let long = jitter.pull(now, |run| {
            let steps = match run {
                Run::Heard(piece) => piece.count,
                Run::Lost(steps, _) | Run::Quiet(steps) => steps,
            };
            let (part, after) = std::mem::take(&mut rest).split_at_mut(2 * steps);
            rest = after;
            match run {
                Run::Heard(piece) => decoder.heard(piece, part),
                Run::Lost(_, next) => {
                    (concealed, whole) = (true, false);
                    decoder.lost(next, part);
                }
                Run::Quiet(_) => {
                    whole = false;
                    decoder.quiet(|part| noise.fill(part), part);
                }
            }
        });
        if whole {
            jitter.level(power(&frame));
        }
        (frame, concealed, long)
    }
}

fn power(frame: &Samples) -> i64 {
    frame.iter().map(|sample| i64::from(*sample) * i64::from(*sample)).sum::<i64>() / FRAME as i64
}

/// White noise of the far end's level. Its spectrum is left out, as RFC 3389 §4.2 allows.
#[derive(Default)]
struct Noise {
    /// Largest sample; 0 for silence.
    level: f32,
    dice: u32,
}

impl Noise {
    /// The first octet is the level in −dBov.
    fn set(&mut self, payload: &[u8]) {
        let decibel = payload.first().map_or(127, |level| level & 0x7f);
        // Evenly spread values have a root mean square of their largest over √3.
        self.level = 32767.0 * 10_f32.powf(-f32::from(decibel) / 20.0) * 3_f32.sqrt();
    }

    fn fill(&mut self, samples: &mut [i16]) {
        if self.level < 1.0 {
            return samples.fill(0);
        }
        for sample in samples {
            self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *sample = (self.dice.cast_signed() as f32 / 2_147_483_648.0 * self.level) as i16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock, SystemClock};
    use std::time::Duration;

    #[test]
    fn a_pause_sounds_as_loud_as_the_far_end_says_and_is_no_loss() {
        for (level, expected) in [(40_u8, -40.0), (60, -60.0), (127, -100.0)] {
            let start = SystemClock.now();
            let mut inbound = Inbound::new(None);
            let mut heard = Vec::new();
            for n in 0..200_u64 {
                let now = start + Duration::from_millis(n * 20);
                match n {
                    0..50 => inbound.insert(now, n, n as u32 * 160, Codec::Pcmu, &[0xd0; 160]),
                    50 => inbound.pause(now, n, &[level, 1, 2]),
                    _ => {}
                }
                let (frame, concealed) = inbound.frame(now);
                assert!(!concealed);
                if n > 100 {
                    heard.extend(frame);
                }
            }
            let power = heard.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / heard.len() as f64;
            let decibel = 10.0 * (power / 32768.0_f64.powi(2)).max(1e-10).log10();
            assert!((decibel - expected).abs() < 1.5, "{decibel:.1} for {expected}");
            assert_eq!(inbound.stats().lost, 0);
        }
    }

    #[test]
    fn delay_that_is_not_needed_is_dropped_in_silence() {
        let start = SystemClock.now();
        let mut inbound = Inbound::new(None);
        let mut longest = 0;
        for n in 0..700_u64 {
            // For two seconds every tenth packet is late.
            let late = if n < 100 && n % 10 == 0 { 60 } else { 0 };
            let now = start + Duration::from_millis(n * 20);
            inbound.insert(now + Duration::from_millis(late), n, n as u32 * 160, Codec::Pcma, &[0xd5; 160]);
            inbound.frame(now + Duration::from_millis(3));
            longest = longest.max(inbound.stats().delay_ms);
        }
        let delay = inbound.stats().delay_ms;
        assert!(longest > 60 && (20..45).contains(&delay), "{longest} ms, {delay} ms");
    }
}
