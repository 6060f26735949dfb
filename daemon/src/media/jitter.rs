//! The adaptive jitter buffer. Decoded packets enter as they come; runs that add up to 20 ms leave at every tick.
//!
//! Samples lie in a ring by their RTP timestamp, so any packet length is cut into 20 ms frames for free; a second ring
//! by extended sequence number tells which of them are there, and a loss (a number is missing) from a pause that the
//! sender made (no number is missing). The wanted delay is one frame more than the 95th percentile of the transit times
//! of the last 256 packets, over the fastest of them, between 20 and 120 ms. It grows where nothing is there to play
//! and shrinks in silence, one frame at a time; speech is never stretched or squeezed, because recognisers mind.

use std::time::Instant;

use super::FRAME;

/// Samples that the ring holds: one second and a bit.
const RING: usize = 8192;
/// Packets that it remembers.
const PACKETS: usize = 128;
/// Transit times that the wanted delay is taken from: 5 s of 20 ms packets.
const WINDOW: usize = 256;
/// Longest packet: 200 ms (RFC 3551 §4.2).
pub const MAX_PACKET: usize = 1600;
const FRAME64: i64 = FRAME as i64;
/// 20 ms and 120 ms.
const TARGET: std::ops::RangeInclusive<i64> = 160..=960;
/// The delay to begin with, while too little is known: 40 ms.
const TARGET_FIRST: i64 = 320;
/// Transit times before which [`TARGET_FIRST`] holds.
const WINDOW_FIRST: usize = 50;
/// How far the delay may be off its target before a frame is inserted or skipped: 5 ms.
const SLACK: i64 = 40;
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
/// Mean square below which a frame is silence whatever the line's noise: −50 dBFS.
const SILENCE: i64 = 10_000;

/// A part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run<'a> {
    /// Received samples.
    Heard(&'a [i16]),
    /// So many are missing and must be concealed.
    Lost(usize),
    /// So many were never sent.
    Quiet(usize),
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
    timestamp: i64,
    /// 0: a packet without audio (telephone event, comfort noise), which is no loss either.
    length: i64,
}

const EMPTY: Entry = Entry { sequence: u64::MAX, timestamp: 0, length: 0 };

/// The state of one stream. Times are samples at 8 kHz since the buffer was made.
pub struct JitterBuffer {
    epoch: Instant,
    samples: Box<[i16; RING]>,
    entries: Box<[Entry; PACKETS]>,
    /// Next sequence number to play.
    next: u64,
    highest: u64,
    /// Next timestamp to play; none until the first tick after a beginning.
    cursor: Option<i64>,
    begun: bool,
    /// Highest timestamp, which others are extended from.
    newest: i64,
    transits: Transits,
    /// Samples concealed while waiting at the cursor: if the wait was for a lost packet they have replaced it.
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
    /// An empty buffer; everything it will ever need is allocated here.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            samples: Box::new([0; RING]),
            entries: Box::new([EMPTY; PACKETS]),
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
            *self.entry_mut(sequence) = Entry { sequence, timestamp: 0, length: 0 };
            if sequence > self.highest {
                (self.highest, self.paused) = (sequence, true);
            }
        }
    }

    /// Takes a packet. `sequence` is extended ([`super::rtp::Sequence`]); more than [`MAX_PACKET`] samples are cut off.
    pub fn insert(&mut self, now: Instant, sequence: u64, timestamp: u32, samples: &[i16]) {
        let samples = &samples[..samples.len().min(MAX_PACKET)];
        let length = samples.len() as i64;
        if length == 0 {
            return self.mark(sequence);
        }
        let arrival = self.time(now);
        let start = self.extend(timestamp);
        if self.begun && (arrival - start - self.transits.fastest).abs() > JUMP {
            if !std::mem::replace(&mut self.jumped, true) {
                return;
            }
            self.reset();
        } else if self.begun && self.dry >= DRY {
            self.stats.resets += 1;
            self.restart();
        } else if self.cursor.is_some_and(|cursor| start + length <= cursor || sequence < self.next && start < cursor) {
            return self.late(now, sequence, timestamp, samples);
        }
        if self.begun && self.overflows(sequence, start + length) {
            self.stats.resets += 1;
            self.restart();
        }
        if !self.begun {
            (self.begun, self.newest, self.next, self.highest) = (true, start, sequence, sequence);
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
        self.newest = self.newest.max(start);
        self.transits.add(arrival - start);
        for (offset, sample) in samples.iter().enumerate() {
            self.samples[place(start + offset as i64)] = *sample;
        }
        *self.entry_mut(sequence) = Entry { sequence, timestamp: start, length };
    }

    /// Plays the next 20 ms: `sink` receives runs of together exactly [`FRAME`] samples.
    pub fn pull(&mut self, now: Instant, mut sink: impl FnMut(Run<'_>)) {
        let now = self.time(now);
        let Some(cursor) = self.cursor.or_else(|| self.begin(now)) else { return sink(Run::Quiet(FRAME)) };
        let (cursor, wait) = self.adapt(now, cursor);
        self.cursor = Some(cursor);
        self.stats.delay_ms = (self.delay(now, cursor).max(0) / 8) as u32;
        if wait {
            self.stats.inserted += 1;
            return sink(Run::Lost(FRAME));
        }
        let (mut heard, mut energy, mut lost) = (0, 0, false);
        self.play(now, cursor, |run| {
            match run {
                Run::Heard(samples) => {
                    heard += samples.len();
                    energy += power(samples);
                }
                Run::Lost(_) => lost = true,
                Run::Quiet(_) => {}
            }
            sink(run);
        });
        self.stats.concealed += u64::from(lost);
        if heard == FRAME {
            let mean = energy / FRAME64;
            self.quiet = self.is_quiet(mean);
            self.floor = mean.min(self.floor + self.floor / 64 + 1);
        }
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
                    sink(Run::Lost(room as usize));
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
                sink(if hole { Run::Lost(count as usize) } else { Run::Quiet(count as usize) });
                cursor += count;
                room -= count;
                continue;
            }
            self.give_up(entry.sequence);
            let count = (entry.length + ahead).min(room);
            if count > 0 {
                self.held = 0;
                let (first, second) = self.stored(cursor, count as usize);
                sink(Run::Heard(first));
                if !second.is_empty() {
                    sink(Run::Heard(second));
                }
                cursor += count;
                room -= count;
            }
            if cursor >= entry.timestamp + entry.length {
                *self.entry_mut(entry.sequence) = EMPTY;
                self.next = entry.sequence + 1;
            }
        }
        self.cursor = Some(cursor);
    }

    /// Places the cursor so that the first packet is whole frames ahead and the delay at least the wanted one.
    fn begin(&mut self, now: i64) -> Option<i64> {
        let (first, _) = self.front()?;
        let wanted = now - self.transits.fastest - self.transits.target;
        let frames = (first.timestamp - wanted + FRAME64 - 1).div_euclid(FRAME64).max(0);
        Some(first.timestamp - frames * FRAME64)
    }

    /// Moves the delay towards the wanted one: returns the cursor, and whether to wait a frame.
    fn adapt(&mut self, now: i64, cursor: i64) -> (i64, bool) {
        let excess = self.delay(now, cursor) - self.transits.target;
        if excess + self.transits.target >= SKIP && self.front().is_some() {
            let frames = excess / FRAME64;
            self.stats.skipped += frames as u64;
            return (cursor + frames * FRAME64, false);
        }
        if excess >= FRAME64 + SLACK && self.skippable(cursor) {
            self.stats.skipped += 1;
            return (cursor + FRAME64, false);
        }
        (cursor, excess < -SLACK && self.quiet && self.front().is_some())
    }

    /// Whether the next frame is silence or incomplete, with more behind it.
    fn skippable(&self, cursor: i64) -> bool {
        let mut at = cursor;
        for sequence in self.next..=self.highest {
            match self.entry(sequence) {
                None => return sequence < self.highest,
                Some(entry) if entry.length == 0 => {}
                Some(entry) if entry.timestamp > at => return true,
                Some(entry) => at = at.max(entry.timestamp + entry.length),
            }
            if at >= cursor + FRAME64 {
                let (first, second) = self.stored(cursor, FRAME);
                return self.is_quiet((power(first) + power(second)) / FRAME64);
            }
        }
        false
    }

    fn is_quiet(&self, mean: i64) -> bool {
        mean <= SILENCE.max(4 * self.floor)
    }

    /// A packet whose time has passed. A run of them means that the timing itself has changed.
    fn late(&mut self, now: Instant, sequence: u64, timestamp: u32, samples: &[i16]) {
        self.stats.late += 1;
        self.late_run += 1;
        let transit = self.time(now) - self.extend(timestamp);
        self.transits.add(transit);
        if self.late_run >= LATE {
            self.late_run = 0;
            self.reset();
            self.insert(now, sequence, timestamp, samples);
        }
    }

    fn overflows(&self, sequence: u64, end: i64) -> bool {
        let oldest = self.cursor.or_else(|| self.front().map(|(entry, _)| entry.timestamp)).unwrap_or(self.newest);
        sequence >= self.next + PACKETS as u64
            || self.highest >= sequence.saturating_add(PACKETS as u64)
            || end - oldest > (RING - MAX_PACKET) as i64
    }

    fn restart(&mut self) {
        self.entries.fill(EMPTY);
        (self.cursor, self.begun, self.paused, self.jumped) = (None, false, false, false);
        (self.held, self.dry, self.late_run) = (0, 0, 0);
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

    fn stored(&self, from: i64, count: usize) -> (&[i16], &[i16]) {
        let start = place(from);
        let first = count.min(RING - start);
        (&self.samples[start..start + first], &self.samples[..count - first])
    }

    fn entry(&self, sequence: u64) -> Option<Entry> {
        Some(self.entries[(sequence % PACKETS as u64) as usize]).filter(|entry| entry.sequence == sequence)
    }

    fn entry_mut(&mut self, sequence: u64) -> &mut Entry {
        &mut self.entries[(sequence % PACKETS as u64) as usize]
    }

    fn delay(&self, now: i64, cursor: i64) -> i64 {
        now - cursor - self.transits.fastest
    }

    fn extend(&self, timestamp: u32) -> i64 {
        self.newest + i64::from(timestamp.wrapping_sub(self.newest as u32) as i32)
    }

    fn time(&self, now: Instant) -> i64 {
        (now.saturating_duration_since(self.epoch).as_micros() * 8 / 1000) as i64
    }
}

fn place(timestamp: i64) -> usize {
    timestamp.rem_euclid(RING as i64) as usize
}

fn power(samples: &[i16]) -> i64 {
    samples.iter().map(|sample| i64::from(*sample) * i64::from(*sample)).sum()
}

/// How long the last packets were under way, up to a constant: arrival minus timestamp.
struct Transits {
    ring: Box<[i64; WINDOW]>,
    scratch: Box<[i64; WINDOW]>,
    count: usize,
    fastest: i64,
    target: i64,
}

impl Default for Transits {
    fn default() -> Self {
        Self { ring: Box::new([0; WINDOW]), scratch: Box::new([0; WINDOW]), count: 0, fastest: 0, target: TARGET_FIRST }
    }
}

impl Transits {
    fn add(&mut self, transit: i64) {
        self.fastest = if self.count == 0 { transit } else { self.fastest.min(transit) };
        self.ring[self.count % WINDOW] = transit;
        self.count += 1;
        if self.count.is_multiple_of(8) {
            self.review();
        }
    }

    fn review(&mut self) {
        let known = self.count.min(WINDOW);
        let recent = &mut self.scratch[..known];
        recent.copy_from_slice(&self.ring[..known]);
        let (_, percentile, _) = recent.select_nth_unstable(known * 95 / 100);
        let percentile = *percentile;
        self.fastest = recent.iter().copied().min().unwrap_or(self.fastest);
        let target = (percentile - self.fastest + FRAME64).clamp(*TARGET.start(), *TARGET.end());
        self.target = if self.count < WINDOW_FIRST { target.max(TARGET_FIRST) } else { target };
    }

    fn clear(&mut self) {
        (self.count, self.target) = (0, TARGET_FIRST);
    }
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
        heard: Vec<i16>,
    }

    impl Line {
        fn new() -> Self {
            let start = SystemClock.now();
            Self { buffer: JitterBuffer::new(start), start, heard: Vec::new() }
        }

        fn packet(&mut self, ms: u64, sequence: u64, timestamp: u32, length: u32) {
            let samples: Vec<i16> = (0..length).map(|n| (timestamp + n) as i16).collect();
            self.buffer.insert(self.start + Duration::from_millis(ms), sequence, timestamp, &samples);
        }

        /// The lengths of what was heard, lost and quiet.
        fn tick(&mut self, ms: u64) -> [usize; 3] {
            let mut lengths = [0; 3];
            let heard = &mut self.heard;
            self.buffer.pull(self.start + Duration::from_millis(ms), |run| match run {
                Run::Heard(samples) => {
                    lengths[0] += samples.len();
                    heard.extend_from_slice(samples);
                }
                Run::Lost(count) => lengths[1] += count,
                Run::Quiet(count) => lengths[2] += count,
            });
            assert_eq!(lengths.iter().sum::<usize>(), FRAME);
            lengths
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
            line.buffer.insert(line.start + Duration::from_millis(n * 20), n, n as u32 * 160, &[0; FRAME]);
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
        assert_eq!(lost, 10 * FRAME);
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
        assert!(lengths[2] > 45 * FRAME, "{lengths:?}");
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
        assert!(heard > 280 * FRAME, "{heard}");
        assert_eq!(line.buffer.stats().resets, 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        /// Whatever comes in whatever order: a frame for every tick, and a delay within bounds.
        #[test]
        fn any_packets_leave_frames(steps in proptest::collection::vec((0..4_u8, any::<u64>(), any::<u32>(), 0..2000_usize), 1..200)) {
            let mut line = Line::new();
            let (mut ms, mut sequence, mut timestamp) = (0, 1_000_u64, 0_u32);
            for (kind, wild, stamp, length) in steps {
                let now = line.start + Duration::from_millis(ms);
                match kind {
                    0 => line.buffer.insert(now, wild >> 1, stamp, &vec![9; length]),
                    1 => line.buffer.mark(sequence + wild % 200),
                    _ => {
                        (sequence, timestamp) = (sequence + wild % 5, timestamp.wrapping_add(length as u32));
                        line.buffer.insert(now, sequence - wild % 3, timestamp, &vec![9; length]);
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
