//! The adaptive jitter buffer. Packets enter as they come, still encoded; runs that add up to 20 ms leave at every tick.
//! Decoding is left to who pulls, because most codecs must decode in order, and Opus mends a loss with the packet after it.
//!
//! Time is counted in steps of 1/8000 s, whatever the codec's clock. Packets are found by their RTP timestamp, so any
//! packet length is cut into 20 ms frames for free; extended sequence numbers tell a loss (a number is missing) from a
//! pause that the sender made (no number is missing). The wanted delay is one frame more than the 95th percentile of
//! the transit times of the last 256 packets, over the fastest of them, between 20 and 120 ms. It grows where nothing
//! is there to play and shrinks in silence, one frame at a time; speech is never stretched or squeezed, because
//! recognisers mind. So it also follows a sender whose clock runs faster or slower than ours.

use std::time::Instant;

use super::Codec;

/// Steps of 1/8000 s in 20 ms.
pub const STEPS: usize = 160;

/// Octets that wait: 500 ms of G.711.
const RING: usize = 4000;
/// Packets that it remembers: 480 ms of 10 ms each.
const PACKETS: usize = 48;
/// Transit times that the wanted delay is taken from: 5 s of 20 ms packets.
const WINDOW: usize = 256;
/// Octets of the longest packet: 200 ms of G.711 (RFC 3551 §4.2).
pub const MAX_PACKET: usize = 1600;
const FRAME64: i64 = STEPS as i64;
/// 20 ms and 120 ms.
const TARGET: std::ops::RangeInclusive<i64> = 160..=960;
/// The delay to begin with, while too little is known: 40 ms.
const TARGET_FIRST: i64 = 320;
/// Transit times before which [`TARGET_FIRST`] holds.
const WINDOW_FIRST: usize = 50;
/// How far the delay may be off its target before a frame is inserted or skipped: 5 ms.
const SLACK: i64 = 40;
const FASTER: i64 = FRAME64 + SLACK;
const SLOWER: i64 = -SLACK;
/// While nothing comes, the play-out waits until the delay is this: 240 ms. Then time goes on without packets.
const HOLD: i64 = 1920;
/// Beyond this delay frames are skipped although somebody speaks: 300 ms.
const SKIP: i64 = 2400;
/// A transit time that differs by this, twice, means that the sender's clock has jumped: 500 ms.
const JUMP: i64 = 4000;
/// Frames without packets after which the next packet begins anew: 500 ms.
const DRY: u32 = 25;
/// Late packets in a row after which the next one begins anew.
const LATE: u32 = 5;
/// Transit times this far from the first are counted anew: 2 s. A transit itself is never off by more than [`JUMP`].
const REBASE: i64 = 16_000;
/// Mean square below which a frame is silence whatever the line's noise: −50 dBFS.
const SILENCE: i64 = 10_000;

/// A part of a frame; lengths are in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run<'a> {
    /// Received.
    Heard(Piece<'a>),
    /// So much is missing and must be concealed. If the packet right after the gap is there: it, and how much is missing
    /// until it begins.
    Lost(usize, Option<(Codec, &'a [u8], usize)>),
    /// So much was never sent.
    Quiet(usize),
}

/// A part of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// What it is encoded with.
    pub codec: Codec,
    /// The whole packet.
    pub payload: &'a [u8],
    /// No part of this packet was given before.
    pub fresh: bool,
    /// Steps of the packet before this part.
    pub from: usize,
    /// Steps of this part.
    pub count: usize,
}

/// What has happened to packets and frames since the call began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JitterStats {
    /// Frames of which at least a part was [`Run::Lost`].
    pub concealed: u64,
    /// Received twice.
    pub duplicate: u64,
    /// Frames added to silence.
    pub inserted: u64,
    /// Came after their time.
    pub late: u64,
    /// Never came, or came late.
    pub lost: u64,
    /// Came after one with a higher number.
    pub reordered: u64,
    /// Begun anew: another sender, a clock that jumped, a long pause.
    pub resets: u64,
    /// Frames left out.
    pub skipped: u64,
    /// The wanted delay, milliseconds.
    pub target_ms: u32,
    /// The delay at the last tick, milliseconds.
    pub delay_ms: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    sequence: u64,
    /// In steps.
    timestamp: i64,
    /// In steps; 0: a packet without audio (telephone event, comfort noise), which is no loss either.
    length: u16,
    /// Where it lies in the ring.
    at: u16,
    octets: u16,
    codec: Codec,
}

const EMPTY: Entry = Entry { sequence: u64::MAX, timestamp: 0, length: 0, at: 0, octets: 0, codec: Codec::Pcmu };

impl Entry {
    fn end(&self) -> i64 {
        self.timestamp + i64::from(self.length)
    }
}

/// The state of one stream. Times are steps since the buffer was made.
pub struct JitterBuffer {
    epoch: Instant,
    octets: [u8; RING],
    /// Where the next packet is put.
    write: usize,
    entries: [Entry; PACKETS],
    /// Ticks of the stream's clock in one step.
    scale: i64,
    /// The packet of which a part was played last.
    begun_with: u64,
    /// Next sequence number to play.
    next: u64,
    highest: u64,
    /// Next timestamp to play; none until the first tick after a beginning.
    cursor: Option<i64>,
    begun: bool,
    /// Highest timestamp in ticks of the stream's clock, which others are extended from.
    newest: i64,
    transits: Transits,
    /// Steps concealed while waiting at the cursor: if the wait was for a lost packet they have replaced it.
    held: i64,
    dry: u32,
    late_run: u32,
    jumped: bool,
    /// The highest packet is one without audio: the sender pauses.
    paused: bool,
    /// The last frame was silence.
    quiet: bool,
    /// Mean square of the line's noise.
    floor: i64,
    stats: JitterStats,
}

impl JitterBuffer {
    /// An empty buffer. It is large, and never allocates.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            octets: [0; RING],
            write: 0,
            entries: [EMPTY; PACKETS],
            scale: 1,
            begun_with: u64::MAX,
            next: 0,
            highest: 0,
            cursor: None,
            begun: false,
            newest: 0,
            transits: Transits::default(),
            held: 0,
            dry: 0,
            late_run: 0,
            jumped: false,
            paused: false,
            quiet: true,
            floor: SILENCE,
            stats: JitterStats::default(),
        }
    }

    /// Counters so far.
    #[must_use]
    pub fn stats(&self) -> JitterStats {
        JitterStats { target_ms: (self.transits.target / 8) as u32, ..self.stats }
    }

    /// Forgets everything but the counters: another stream follows.
    pub fn reset(&mut self) {
        if self.begun {
            self.stats.resets += 1;
        }
        self.restart();
        self.transits.clear();
    }

    /// A packet of the stream that holds no audio: it takes a sequence number and says that the pause is meant.
    pub fn mark(&mut self, sequence: u64) {
        if self.begun && sequence >= self.next && sequence - self.next < PACKETS as u64 {
            *self.entry_mut(sequence) = Entry { sequence, ..EMPTY };
            if sequence > self.highest {
                (self.highest, self.paused) = (sequence, true);
            }
        }
    }

    /// Takes a packet. `sequence` is extended ([`super::rtp::Sequence`]). One without audio, or of more than
    /// [`MAX_PACKET`] octets, is only remembered.
    pub fn insert(&mut self, now: Instant, sequence: u64, timestamp: u32, codec: Codec, payload: &[u8]) {
        let length = codec.steps(payload).filter(|_| payload.len() <= MAX_PACKET).unwrap_or(0);
        if length == 0 {
            return self.mark(sequence);
        }
        let scale = i64::from(codec.clock() / 8000);
        if std::mem::replace(&mut self.scale, scale) != scale {
            self.reset();
        }
        let arrival = self.time(now);
        let ticks = self.extend(timestamp);
        let (start, end) = (ticks.div_euclid(scale), ticks.div_euclid(scale) + length as i64);
        if self.begun && (arrival - start - self.transits.fastest()).abs() > JUMP {
            if !std::mem::replace(&mut self.jumped, true) {
                return;
            }
            self.reset();
        } else if self.begun && self.dry >= DRY {
            self.stats.resets += 1;
            self.restart();
        } else if self.cursor.is_some_and(|cursor| end <= cursor || sequence < self.next && start < cursor) {
            return self.late(now, sequence, timestamp, codec, payload);
        }
        if self.begun && self.overflows(sequence, payload.len()) {
            self.stats.resets += 1;
            self.restart();
        }
        if !self.begun {
            (self.begun, self.newest, self.next, self.highest) = (true, ticks, sequence, sequence);
        } else if self.entry(sequence).is_some() {
            self.stats.duplicate += 1;
            return;
        }
        self.jumped = false;
        self.late_run = 0;
        if sequence < self.highest {
            self.stats.reordered += 1;
        }
        if sequence >= self.highest {
            (self.highest, self.paused) = (sequence, false);
        }
        self.next = self.next.min(sequence);
        self.newest = self.newest.max(ticks);
        self.transits.add(arrival - start);
        let at = self.room(payload.len());
        self.octets[at..at + payload.len()].copy_from_slice(payload);
        self.write = at + payload.len();
        let (length, at, octets) = (length as u16, at as u16, payload.len() as u16);
        *self.entry_mut(sequence) = Entry { sequence, timestamp: start, length, at, octets, codec };
    }

    /// Plays the next 20 ms: `sink` receives runs of together exactly [`STEPS`]. Returns whether this frame may be left
    /// out for the next one, because the delay is longer than wanted; ask then [`Self::skip`].
    pub fn pull(&mut self, now: Instant, mut sink: impl FnMut(Run<'_>)) -> bool {
        let now = self.time(now);
        let Some(cursor) = self.cursor.or_else(|| self.begin(now)) else {
            sink(Run::Quiet(STEPS));
            return false;
        };
        let (cursor, step) = self.adapt(now, cursor);
        self.cursor = Some(cursor);
        self.stats.delay_ms = (self.delay(now, cursor).max(0) / 8) as u32;
        if step == Step::Wait {
            self.stats.inserted += 1;
            sink(Run::Lost(STEPS, None));
            return false;
        }
        let mut lost = false;
        self.play(now, cursor, |run| {
            lost |= matches!(run, Run::Lost(..));
            sink(run);
        });
        self.stats.concealed += u64::from(lost);
        step == Step::Hasten && self.front().is_some()
    }

    /// Leaves out the frame that was pulled last, if it is no speech, by its mean square, or is incomplete.
    pub fn skip(&mut self, mean: i64, incomplete: bool) -> bool {
        let skipped = incomplete || self.is_quiet(mean);
        self.stats.skipped += u64::from(skipped);
        skipped
    }

    /// A frame of only received audio was pulled: its mean square tells speech from the line's noise.
    pub fn level(&mut self, mean: i64) {
        self.quiet = self.is_quiet(mean);
        self.floor = mean.min(self.floor + self.floor / 64 + 1);
    }

    fn play(&mut self, now: i64, mut cursor: i64, mut sink: impl FnMut(Run<'_>)) {
        let mut room = FRAME64;
        while room > 0 {
            let Some((entry, hole)) = self.front() else {
                self.dry = self.dry.saturating_add(1);
                if self.paused || self.dry >= DRY {
                    sink(Run::Quiet(room as usize));
                    cursor += room;
                } else {
                    sink(Run::Lost(room as usize, None));
                    if self.delay(now, cursor) < HOLD {
                        self.held += room;
                    } else {
                        cursor += room;
                    }
                }
                break;
            };
            self.dry = 0;
            let ahead = entry.timestamp - cursor;
            if ahead > 0 {
                if ahead > JUMP {
                    cursor = entry.timestamp;
                    continue;
                }
                if hole && self.held > 0 {
                    let replaced = self.held.min(ahead);
                    self.held -= replaced;
                    cursor += replaced;
                    continue;
                }
                let count = ahead.min(room);
                if hole {
                    // Redundancy reaches back by one packet.
                    let near = ahead <= i64::from(entry.length).max(FRAME64);
                    let next = near.then(|| (entry.codec, self.payload(&entry), ahead as usize));
                    sink(Run::Lost(count as usize, next));
                } else {
                    sink(Run::Quiet(count as usize));
                }
                cursor += count;
                room -= count;
                continue;
            }
            self.give_up(entry.sequence);
            let count = (entry.end() - cursor).min(room);
            if count > 0 {
                self.held = 0;
                let fresh = std::mem::replace(&mut self.begun_with, entry.sequence) != entry.sequence;
                let (from, count) = ((cursor - entry.timestamp) as usize, count as usize);
                sink(Run::Heard(Piece { codec: entry.codec, payload: self.payload(&entry), fresh, from, count }));
                cursor += count as i64;
                room -= count as i64;
            }
            if cursor >= entry.end() {
                *self.entry_mut(entry.sequence) = EMPTY;
                self.next = entry.sequence + 1;
            }
        }
        self.cursor = Some(cursor);
    }

    /// Places the cursor so that the first packet is whole frames ahead and the delay at least the wanted one.
    fn begin(&mut self, now: i64) -> Option<i64> {
        let (first, _) = self.front()?;
        let wanted = now - self.transits.fastest() - self.transits.target;
        let frames = (first.timestamp - wanted + FRAME64 - 1).div_euclid(FRAME64).max(0);
        Some(first.timestamp - frames * FRAME64)
    }

    /// Moves the delay towards the wanted one: returns the cursor, and what to do.
    fn adapt(&mut self, now: i64, cursor: i64) -> (i64, Step) {
        let excess = self.delay(now, cursor) - self.transits.target;
        let waiting = self.front().is_some();
        if excess + self.transits.target >= SKIP && waiting {
            let frames = excess / FRAME64;
            self.stats.skipped += frames as u64;
            return (cursor + frames * FRAME64, Step::Go);
        }
        let step = match excess {
            FASTER.. => Step::Hasten,
            ..SLOWER if self.quiet && waiting => Step::Wait,
            _ => Step::Go,
        };
        (cursor, step)
    }

    fn is_quiet(&self, mean: i64) -> bool {
        mean <= SILENCE.max(4 * self.floor)
    }

    /// A packet whose time has passed. A run of them means that the timing itself has changed.
    fn late(&mut self, now: Instant, sequence: u64, timestamp: u32, codec: Codec, payload: &[u8]) {
        self.stats.late += 1;
        self.late_run += 1;
        let transit = self.time(now) - self.extend(timestamp).div_euclid(self.scale);
        self.transits.add(transit);
        if self.late_run >= LATE {
            self.late_run = 0;
            self.reset();
            self.insert(now, sequence, timestamp, codec, payload);
        }
    }

    fn overflows(&self, sequence: u64, octets: usize) -> bool {
        let beyond = |next: u64, sequence: u64| sequence >= next.saturating_add(PACKETS as u64);
        if beyond(self.next, sequence) || beyond(sequence, self.highest) {
            return true;
        }
        let at = self.room(octets);
        // Whatever order they came in, none that is still to be played may be written over.
        (self.next..=self.highest)
            .filter_map(|sequence| self.entry(sequence))
            .any(|entry| usize::from(entry.at) < at + octets && at < usize::from(entry.at + entry.octets))
    }

    /// Where so many octets go: packets are never cut in two.
    fn room(&self, octets: usize) -> usize {
        if self.write + octets <= RING { self.write } else { 0 }
    }

    fn payload(&self, entry: &Entry) -> &[u8] {
        &self.octets[usize::from(entry.at)..usize::from(entry.at + entry.octets)]
    }

    fn restart(&mut self) {
        self.entries.fill(EMPTY);
        (self.cursor, self.begun, self.paused, self.jumped) = (None, false, false, false);
        (self.held, self.dry, self.late_run, self.begun_with) = (0, 0, 0, u64::MAX);
    }

    /// The first packet with audio that is still to be played, and whether numbers before it are missing.
    fn front(&self) -> Option<(Entry, bool)> {
        let mut hole = false;
        for sequence in self.next..=self.highest {
            match self.entry(sequence) {
                None => hole = true,
                Some(entry) if entry.length > 0 => return Some((entry, hole)),
                Some(_) => {}
            }
        }
        None
    }

    /// Counts what is missing before a packet that is played now.
    fn give_up(&mut self, sequence: u64) {
        for missing in self.next..sequence {
            self.stats.lost += u64::from(self.entry(missing).is_none());
        }
        self.next = sequence;
    }

    fn entry(&self, sequence: u64) -> Option<Entry> {
        Some(self.entries[(sequence % PACKETS as u64) as usize]).filter(|entry| entry.sequence == sequence)
    }

    fn entry_mut(&mut self, sequence: u64) -> &mut Entry {
        &mut self.entries[(sequence % PACKETS as u64) as usize]
    }

    fn delay(&self, now: i64, cursor: i64) -> i64 {
        now - cursor - self.transits.fastest()
    }

    fn extend(&self, timestamp: u32) -> i64 {
        self.newest + i64::from(timestamp.wrapping_sub(self.newest as u32) as i32)
    }

    fn time(&self, now: Instant) -> i64 {
        (now.saturating_duration_since(self.epoch).as_micros() * 8 / 1000) as i64
    }
}

/// What to do about the delay.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Go,
    /// A frame may be left out.
    Hasten,
    /// A frame is put in.
    Wait,
}

/// How long the last packets were under way, up to a constant: arrival minus timestamp.
struct Transits {
    /// Relative to `base`, the first of them.
    ring: [i16; WINDOW],
    base: i64,
    count: usize,
    least: i16,
    target: i64,
}

impl Default for Transits {
    fn default() -> Self {
        Self { ring: [0; WINDOW], base: 0, count: 0, least: 0, target: TARGET_FIRST }
    }
}

impl Transits {
    fn fastest(&self) -> i64 {
        self.base + i64::from(self.least)
    }

    fn add(&mut self, transit: i64) {
        if self.count == 0 {
            (self.base, self.least) = (transit, 0);
        }
        if (transit - self.base).abs() > REBASE {
            // A clock that drifts for hours leaves the numbers' range.
            let shift = transit - self.base;
            for past in self.ring.iter_mut() {
                *past = clamp(i64::from(*past) - shift);
            }
            (self.base, self.least) = (transit, clamp(i64::from(self.least) - shift));
        }
        let transit = clamp(transit - self.base);
        self.least = self.least.min(transit);
        self.ring[self.count % WINDOW] = transit;
        self.count += 1;
        if self.count.is_multiple_of(8) {
            self.review();
        }
    }

    fn review(&mut self) {
        let known = self.count.min(WINDOW);
        let mut scratch = self.ring;
        let recent = &mut scratch[..known];
        let (_, percentile, _) = recent.select_nth_unstable(known * 95 / 100);
        let percentile = i64::from(*percentile);
        self.least = recent.iter().copied().min().unwrap_or(self.least);
        let target = (percentile - i64::from(self.least) + FRAME64).clamp(*TARGET.start(), *TARGET.end());
        self.target = if self.count < WINDOW_FIRST { target.max(TARGET_FIRST) } else { target };
    }

    fn clear(&mut self) {
        (self.count, self.target) = (0, TARGET_FIRST);
    }
}

fn clamp(transit: i64) -> i16 {
    transit.clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock, SystemClock};
    use proptest::prelude::*;
    use std::time::Duration;

    /// Packets carry a ramp of their own timestamps, so that what is heard tells where it comes from.
    struct Line {
        buffer: JitterBuffer,
        start: Instant,
        heard: Vec<u8>,
        /// Whether what is heard is speech.
        speech: bool,
    }

    impl Line {
        fn new() -> Self {
            let start = SystemClock.now();
            Self { buffer: JitterBuffer::new(start), start, heard: Vec::new(), speech: true }
        }

        fn packet(&mut self, ms: u64, sequence: u64, timestamp: u32, length: u32) {
            let octets: Vec<u8> = (0..length).map(|n| (timestamp + n) as u8).collect();
            self.buffer.insert(self.start + Duration::from_millis(ms), sequence, timestamp, Codec::Pcmu, &octets);
        }

        /// The lengths of what was heard, lost and quiet.
        fn tick(&mut self, ms: u64) -> [usize; 3] {
            loop {
                let mut lengths = [0; 3];
                let heard = &mut self.heard;
                let long = self.buffer.pull(self.start + Duration::from_millis(ms), |run| match run {
                    Run::Heard(Piece { codec, payload, from, count, .. }) => {
                        lengths[0] += count;
                        if codec != Codec::Opus {
                            heard.extend_from_slice(&payload[from..from + count]);
                        }
                    }
                    Run::Lost(count, _) => lengths[1] += count,
                    Run::Quiet(count) => lengths[2] += count,
                });
                assert_eq!(lengths.iter().sum::<usize>(), STEPS);
                let mean = if self.speech { 100 * SILENCE } else { 0 };
                if lengths[0] == STEPS {
                    self.buffer.level(mean);
                }
                if !(long && self.buffer.skip(mean, lengths[1] > 0)) {
                    return lengths;
                }
            }
        }

        fn ramp(&self) -> bool {
            self.heard.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == 1)
        }
    }

    #[test]
    fn any_packet_length_becomes_frames_of_twenty_milliseconds() {
        for ptime in [10, 20, 30, 40, 50, 60, 100] {
            let mut line = Line::new();
            for ms in 0..3000 {
                if ms % ptime == 0 {
                    line.packet(ms, ms / ptime, (ms * 8) as u32, ptime as u32 * 8);
                }
                if ms % 20 == 7 {
                    line.tick(ms);
                }
            }
            assert!(line.ramp() && line.heard.len() > 22_000, "{ptime} ms: {} heard", line.heard.len());
            let stats = line.buffer.stats();
            assert_eq!((stats.lost, stats.late, stats.concealed), (0, 0, 0), "{ptime} ms");
        }
    }

    #[test]
    fn the_delay_settles_at_one_frame_on_a_calm_line() {
        let mut line = Line::new();
        for n in 0..500 {
            // Quiet, so that the delay may shrink from what it begins with.
            line.speech = false;
            line.packet(n * 20, n, n as u32 * 160, 160);
            line.tick(n * 20 + 3);
        }
        let stats = line.buffer.stats();
        assert!((20..40).contains(&stats.target_ms) && (20..45).contains(&stats.delay_ms), "{stats:?}");
    }

    #[test]
    fn a_lost_packet_is_concealed_for_its_own_length_only() {
        let mut line = Line::new();
        let mut lost = 0;
        for n in 0..100_u64 {
            if n % 10 != 5 {
                line.packet(n * 20, n, n as u32 * 160, 160);
            }
            lost += line.tick(n * 20 + 1)[1];
        }
        assert_eq!(lost, 10 * STEPS);
        assert_eq!((line.buffer.stats().lost, line.buffer.stats().concealed), (10, 10));
    }

    #[test]
    fn reordered_and_doubled_packets_are_put_right() {
        let mut line = Line::new();
        for n in 0..100_u64 {
            let n = n ^ 1;
            line.packet(n / 2 * 40, n, n as u32 * 160, 160);
            line.packet(n / 2 * 40, n, n as u32 * 160, 160);
            line.tick(n / 2 * 40 + (n ^ 1) % 2 * 20);
        }
        assert!(line.ramp());
        assert_eq!((line.buffer.stats().reordered, line.buffer.stats().duplicate), (50, 100));
    }

    #[test]
    fn a_stall_delays_speech_but_loses_none_of_it() {
        let mut line = Line::new();
        for ms in (0..4000).step_by(20) {
            let stalled = (1000..1180).contains(&ms);
            let due = if ms == 1180 { 1000..1200 } else { ms..ms + 20 };
            if !stalled {
                due.step_by(20).for_each(|sent| line.packet(ms, sent / 20, sent as u32 * 8, 160));
            }
            line.tick(ms + 1);
        }
        assert!(line.ramp());
        assert_eq!(line.buffer.stats().lost, 0);
    }

    #[test]
    fn a_pause_of_the_sender_is_quiet_not_lost() {
        let mut line = Line::new();
        let mut lengths = [0; 3];
        for n in 0..200_u64 {
            match n {
                0..100 => line.packet(n * 20, n, n as u32 * 160, 160),
                100 => line.buffer.mark(n),
                101..150 => {}
                _ => line.packet(n * 20, n - 49, n as u32 * 160, 160),
            }
            let tick = line.tick(n * 20 + 1);
            if n > 90 {
                lengths.iter_mut().zip(tick).for_each(|(sum, length)| *sum += length);
            }
        }
        assert_eq!(lengths[1], 0);
        assert!(lengths[2] > 45 * STEPS, "{lengths:?}");
    }

    #[test]
    fn jumps_of_the_senders_clock_begin_anew() {
        let mut line = Line::new();
        let mut heard = 0;
        for n in 0..300_u64 {
            let jump = [0, 1_000_000, 0xffff_0000][n as usize / 100];
            line.packet(n * 20, n, (n as u32 * 160).wrapping_add(jump), 160);
            heard += line.tick(n * 20 + 1)[0];
        }
        assert!(heard > 280 * STEPS, "{heard}");
        assert_eq!(line.buffer.stats().resets, 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        /// Whatever comes in whatever order: a frame for every tick, and a delay within bounds.
        #[test]
        fn any_packets_leave_frames(steps in proptest::collection::vec((0..4_u8, any::<u64>(), any::<u32>(), 0..2000_usize), 1..200)) {
            let mut line = Line::new();
            let codec = |wild: u64| [Codec::Pcma, Codec::Pcmu, Codec::G722, Codec::Opus][(wild >> 40) as usize % 4];
            let (mut ms, mut sequence, mut timestamp) = (0, 1_000_u64, 0_u32);
            for (kind, wild, stamp, length) in steps {
                let now = line.start + Duration::from_millis(ms);
                match kind {
                    0 => line.buffer.insert(now, wild >> 1, stamp, codec(wild), &vec![9; length]),
                    1 => line.buffer.mark(sequence + wild % 200),
                    _ => {
                        (sequence, timestamp) = (sequence + wild % 5, timestamp.wrapping_add(length as u32));
                        line.buffer.insert(now, sequence - wild % 3, timestamp, codec(wild), &vec![9; length]);
                    }
                }
                if wild % 3 == 0 {
                    line.tick(ms);
                    ms += if wild % 7 == 0 { stamp as u64 % 100_000 } else { 20 };
                }
            }
        }
    }
}
