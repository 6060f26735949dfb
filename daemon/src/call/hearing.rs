//! What the caller says, on its way to the engine, and kept as long as it may be needed again.
//!
//! Enters: frames of the caller; whether there is an engine. Leaves: audio for the engine: at once while it listens, and
//! faster than it was said after it was away. Never here: what was said. Kept are [`KEPT`] frames, older ones are lost:
//! in memory only, as G.711, where a state that outlives the daemon has room for it, so that a question which began in
//! one daemon is heard to its end by the engine of the next.

use std::io;

use callbox_wire::Pcm;

use crate::media::FRAME;
use crate::media::g711::Law;
use crate::media::resample::{Downsampler, Upsampler};
use crate::service::{Slots, Tail};

/// Frames that are kept: 20 s, for which a call waits for an engine unless its agent says otherwise. 160 KB.
const KEPT: u64 = 1000;

/// Frames that are sent at once after the engine was away: a second of audio every 20 ms.
const PORTION: u64 = 50;

/// Samples of a frame.
const SAMPLES: u64 = FRAME as u64;

/// Octets of a frame as it is kept.
const OCTETS: usize = FRAME / 2;

/// The caller's voice in one call.
pub(super) struct Hearing {
    /// None if there was no memory: then nothing is kept.
    tail: Option<Tail>,
    downsampler: Downsampler,
    upsampler: Upsampler,
    /// Number of the frame that comes next.
    head: u64,
    /// Number of the frame that the engine is sent next.
    next: u64,
    /// Number of the frame with which the engine's stream began; without an engine, that it has to begin with.
    from: u64,
    listens: bool,
}

impl Hearing {
    /// Nobody listens yet. `state`: where the audio may lie; `from`: the frame at which the next engine begins.
    pub(super) fn new(state: Option<&Slots>, from: u64) -> Self {
        let tail = match state {
            Some(state) => state.tail(OCTETS, KEPT),
            None => Tail::create("call-voice", OCTETS, KEPT),
        };
        if let Err(error) = &tail {
            tracing::warn!(%error, "what this caller says while there is no engine will be lost");
        }
        Self::over(tail, from)
    }

    fn over(tail: io::Result<Tail>, from: u64) -> Self {
        let tail = tail.ok();
        let head = tail.as_ref().map_or(from, Tail::next);
        Self {
            tail,
            downsampler: Downsampler::default(),
            upsampler: Upsampler::default(),
            head,
            next: head,
            from: from.min(head),
            listens: false,
        }
    }

    /// Takes 20 ms of the caller; gives what the engine is to hear now.
    pub(super) fn take(&mut self, samples: &[i16; FRAME]) -> Option<Pcm> {
        if let Some(tail) = &mut self.tail {
            let (mut narrow, mut octets) = ([0; OCTETS], [0; OCTETS]);
            self.downsampler.process(samples, &mut narrow);
            Law::Mu.encode(&narrow, &mut octets);
            invert(&mut octets);
            if tail.push(&octets).is_err() {
                tracing::warn!("no memory for what the caller says: it is not kept any more");
                self.tail = None;
            }
        }
        let live = self.listens && self.next == self.head;
        self.head += 1;
        if live {
            self.next = self.head;
            return Some(Pcm(samples.to_vec()));
        }
        self.portion()
    }

    /// An engine listens from now on. Whether it will hear all from the frame that it has to begin with.
    pub(super) fn begin(&mut self) -> bool {
        let first = self.tail.as_ref().map_or(self.head, Tail::first);
        let whole = first <= self.from;
        self.from = self.from.max(first);
        (self.next, self.listens) = (self.from, true);
        self.upsampler = Upsampler::default();
        whole
    }

    /// Whether an engine listens.
    pub(super) const fn listens(&self) -> bool {
        self.listens
    }

    /// Whether what is told of this sample can be of the engine that listens now: another one may have heard more.
    pub(super) const fn has_sent(&self, sample: u64) -> bool {
        self.listens && sample <= (self.next - self.from) * SAMPLES
    }

    /// As [`Hearing::begin`], but with what is said from now on.
    pub(super) fn begin_now(&mut self) {
        self.from = self.head;
        self.begin();
    }

    /// The next part of what the engine has missed; nothing once it has heard all.
    pub(super) fn portion(&mut self) -> Option<Pcm> {
        if !self.listens || self.next == self.head {
            return None;
        }
        let mut octets = self.tail.as_ref().and_then(|tail| tail.read(self.next, PORTION).ok()).unwrap_or_default();
        invert(&mut octets);
        self.next = (self.next + PORTION).min(self.head);
        let mut samples = vec![0; octets.len()];
        Law::Mu.decode(&octets, &mut samples);
        let mut heard = vec![0; 2 * samples.len()];
        self.upsampler.process(&samples, &mut heard);
        Some(Pcm(heard))
    }

    /// The engine is gone. `heard`: the sample of its stream from which the next one has to hear the caller again.
    pub(super) fn lost(&mut self, heard: u64) {
        self.from = self.hear_from(heard);
        self.listens = false;
    }

    /// The frame that an engine would have to begin with, if `heard` is the sample from which it has to hear again.
    pub(super) fn hear_from(&self, heard: u64) -> u64 {
        if self.listens { (self.from + heard / SAMPLES).min(self.head) } else { self.from }
    }
}

/// Silence becomes zeros, which take no memory, and back.
fn invert(octets: &mut [u8]) {
    octets.iter_mut().for_each(|octet| *octet = !*octet);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames by their loudness, which G.711 keeps exactly.
    fn frame(level: u8) -> [i16; FRAME] {
        let mut samples = [0; FRAME];
        Law::Mu.decode(&[0xff - level % 128; FRAME], &mut samples);
        samples
    }

    /// The levels of the frames in it.
    fn levels(pcm: &Pcm) -> Vec<u8> {
        let level = |frame: &[i16]| {
            let mut octet = [0];
            Law::Mu.encode(&frame[FRAME / 2..=FRAME / 2], &mut octet);
            0xff - octet[0]
        };
        pcm.0.chunks(FRAME).map(level).collect()
    }

    fn say(hearing: &mut Hearing, levels_said: std::ops::Range<u8>) -> Vec<u8> {
        levels_said.filter_map(|level| hearing.take(&frame(level))).flat_map(|pcm| levels(&pcm)).collect()
    }

    #[test]
    fn the_next_engine_hears_what_the_last_one_did_not_understand_and_then_goes_on_live() {
        let mut hearing = Hearing::new(None, 0);
        assert!(hearing.begin());
        assert_eq!(say(&mut hearing, 0..20), (0..20).collect::<Vec<_>>());
        // What was said from the twelfth frame on was not understood.
        hearing.lost(12 * SAMPLES + 5);
        assert!(say(&mut hearing, 20..90).is_empty());
        assert!(hearing.begin(), "all of it is there");
        let heard = say(&mut hearing, 90..95);
        assert_eq!(heard.iter().filter(|level| **level > 85).count(), 9, "each once");
        assert_eq!((heard.first(), heard.last(), heard.len()), (Some(&12), Some(&94), 83));
    }

    #[test]
    fn it_goes_on_in_another_process() {
        let slots = Slots::create("test").expect("memory");
        let mut before = Hearing::new(Some(&slots), 0);
        before.begin();
        say(&mut before, 0..30);
        let mut after = Hearing::new(Some(&slots), before.hear_from(25 * SAMPLES));
        assert!(after.begin());
        assert_eq!(after.portion().map(|pcm| levels(&pcm)), Some((25..30).collect()));
        assert_eq!(say(&mut after, 30..33), [30, 31, 32]);
    }

    #[test]
    fn the_oldest_is_lost_after_twenty_seconds() {
        let mut hearing = Hearing::new(None, 0);
        for _ in 0..9 {
            say(&mut hearing, 0..100);
        }
        assert!(hearing.begin(), "eighteen seconds");
        hearing.lost(0);
        say(&mut hearing, 0..101);
        assert!(!hearing.begin(), "twenty seconds and a bit");
        let heard = std::iter::from_fn(|| hearing.portion()).map(|pcm| pcm.0.len() as u64 / SAMPLES).sum::<u64>();
        assert_eq!(heard, KEPT);
    }
}
