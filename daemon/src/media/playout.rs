//! What is sent next. Frames of the agent enter through a bounded ring, one frame or silence leaves per tick. Counts what
//! has really gone out, clause by clause, because the agent may only remember what was heard.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rtrb::{Consumer, Producer, RingBuffer};

use super::{Event, Samples};
use crate::base::{ClauseId, TurnId};

/// Frames that wait at most: 640 ms. What is kept beyond is kept by the call, where it costs nothing while nobody speaks.
const QUEUE: usize = 32;

/// Samples over which speech fades when it is cut off: 8 ms.
const FADE: usize = 128;

/// 20 ms of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlayFrame {
    /// The turn that it answers.
    pub turn: TurnId,
    /// The piece of the answer.
    pub clause: ClauseId,
    /// The audio, 16 kHz.
    pub samples: Samples,
}

/// Flushing without a lock: the writer marks how far, the reader says how far it is.
#[derive(Debug, Default)]
struct Marks {
    /// Frames pushed when the last flush was asked for.
    flush: AtomicU64,
    /// Flushes asked for.
    flushes: AtomicU64,
    /// Frames taken from the ring.
    taken: AtomicU64,
}

/// A frame on its way. In a box, so that a call in which nobody speaks holds none.
struct Queued {
    turn: TurnId,
    clause: ClauseId,
    samples: Box<Samples>,
}

/// The call's end of the queue.
pub struct PlayQueue {
    ring: Producer<Queued>,
    /// What was played comes back, because the media thread must not free it.
    played: Consumer<Box<Samples>>,
    marks: Arc<Marks>,
    pushed: u64,
}

impl PlayQueue {
    /// Queues a frame; false if there is no room for it.
    pub fn push(&mut self, frame: PlayFrame) -> bool {
        let PlayFrame { turn, clause, samples } = frame;
        self.tidy();
        let pushed = self.ring.push(Queued { turn, clause, samples: Box::new(samples) }).is_ok();
        self.pushed += u64::from(pushed);
        pushed
    }

    /// Frees what was played. Call it every 20 ms.
    pub fn tidy(&mut self) {
        while self.played.pop().is_ok() {}
    }

    /// Frames that wait and have not been flushed.
    #[must_use]
    pub fn queued(&self) -> usize {
        let gone = self.marks.taken.load(Ordering::Acquire).max(self.marks.flush.load(Ordering::Relaxed));
        (self.pushed - gone) as usize
    }

    /// Whether a frame would find no room: what was flushed takes its place until the next tick.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.ring.is_full()
    }

    /// Discards everything pushed so far, at the next tick. What is pushed afterwards is played.
    pub fn flush(&mut self) {
        self.marks.flush.store(self.pushed, Ordering::Release);
        self.marks.flushes.fetch_add(1, Ordering::Release);
    }
}

/// The sending end.
pub struct Playout {
    ring: Consumer<Queued>,
    /// As long as the other ring: before a frame is put there, all that was played is taken from here.
    played: Producer<Box<Samples>>,
    marks: Arc<Marks>,
    taken: u64,
    flushes: u64,
    /// The clause that was sent last, and how much of it.
    clause: Option<(TurnId, ClauseId, u64)>,
    /// The last tick sent a frame.
    playing: bool,
}

impl Playout {
    /// A queue and its end.
    #[must_use]
    pub fn new() -> (PlayQueue, Self) {
        let (producer, consumer) = RingBuffer::new(QUEUE);
        let (back, played) = RingBuffer::new(QUEUE);
        let marks = Arc::new(Marks::default());
        let queue = PlayQueue { ring: producer, played, marks: Arc::clone(&marks), pushed: 0 };
        (queue, Self { ring: consumer, played: back, marks, taken: 0, flushes: 0, clause: None, playing: false })
    }

    /// The frame to send now; none is silence. While nothing may be sent, because the far end holds the call, frames
    /// wait. `tell` hears at most two things.
    pub fn next(&mut self, may_send: bool, mut tell: impl FnMut(Event)) -> Option<Samples> {
        let flushes = self.marks.flushes.load(Ordering::Acquire);
        if flushes != self.flushes {
            self.flushes = flushes;
            return self.flushed(tell);
        }
        if !may_send {
            return None;
        }
        let Some(frame) = self.take() else {
            if std::mem::take(&mut self.playing) {
                self.tell_played(&mut tell);
                tell(Event::Drained);
            }
            return None;
        };
        match &mut self.clause {
            Some((turn, clause, frames)) if (*turn, *clause) == (frame.turn, frame.clause) => *frames += 1,
            _ => {
                if self.playing {
                    self.tell_played(&mut tell);
                }
                self.clause = Some((frame.turn, frame.clause, 1));
            }
        }
        self.playing = true;
        Some(frame.samples)
    }

    fn flushed(&mut self, mut tell: impl FnMut(Event)) -> Option<Samples> {
        let until = self.marks.flush.load(Ordering::Acquire);
        let was_playing = std::mem::take(&mut self.playing);
        let (before, mut last) = (self.taken, None);
        while self.taken < until {
            let Some(frame) = self.take() else { break };
            last.get_or_insert(frame.samples);
        }
        if was_playing {
            self.tell_played(&mut tell);
        }
        self.clause = None;
        tell(Event::Flushed { discarded: self.taken - before });
        // Speech that stops between two samples clicks.
        last.filter(|_| was_playing).map(fade_out)
    }

    fn take(&mut self) -> Option<PlayFrame> {
        let Queued { turn, clause, samples } = self.ring.pop().ok()?;
        let frame = PlayFrame { turn, clause, samples: *samples };
        // If nobody tidies for long, it is freed here.
        drop(self.played.push(samples));
        self.taken += 1;
        self.marks.taken.store(self.taken, Ordering::Release);
        Some(frame)
    }

    fn tell_played(&self, tell: &mut impl FnMut(Event)) {
        if let Some((turn, clause, frames)) = self.clause {
            tell(Event::Played { turn, clause, frames });
        }
    }
}

fn fade_out(mut samples: Samples) -> Samples {
    for (index, sample) in samples.iter_mut().enumerate() {
        let gain = FADE.saturating_sub(index) as i32;
        *sample = (i32::from(*sample) * gain / FADE as i32) as i16;
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::FRAME;
    use proptest::prelude::*;

    fn frame(turn: u32, clause: u32, level: i16) -> PlayFrame {
        PlayFrame { turn: TurnId(turn), clause: ClauseId(clause), samples: [level; FRAME] }
    }

    fn played(turn: u32, clause: u32, frames: u64) -> Event {
        Event::Played { turn: TurnId(turn), clause: ClauseId(clause), frames }
    }

    fn tick(playout: &mut Playout) -> (Option<i16>, Vec<Event>) {
        let mut told = Vec::new();
        let samples = playout.next(true, |event| told.push(event));
        (samples.map(|samples| samples[0]), told)
    }

    #[test]
    fn clauses_are_counted_to_their_ends() {
        let (mut queue, mut playout) = Playout::new();
        for (clause, level) in [(0, 1), (0, 2), (1, 3)] {
            assert!(queue.push(frame(4, clause, level)));
        }
        assert_eq!(queue.queued(), 3);
        assert_eq!(tick(&mut playout), (Some(1), vec![]));
        assert_eq!(tick(&mut playout), (Some(2), vec![]));
        assert_eq!(tick(&mut playout), (Some(3), vec![played(4, 0, 2)]));
        assert_eq!(tick(&mut playout), (None, vec![played(4, 1, 1), Event::Drained]));
        assert_eq!(tick(&mut playout), (None, vec![]));
    }

    #[test]
    fn a_clause_that_ran_dry_goes_on_counting() {
        let (mut queue, mut playout) = Playout::new();
        for _ in 0..2 {
            assert!(queue.push(frame(1, 0, 5)));
            tick(&mut playout);
            tick(&mut playout);
        }
        assert!(queue.push(frame(1, 0, 5)));
        tick(&mut playout);
        assert_eq!(tick(&mut playout).1, [played(1, 0, 3), Event::Drained]);
    }

    #[test]
    fn a_flush_fades_counts_and_spares_what_comes_after() {
        let (mut queue, mut playout) = Playout::new();
        for _ in 0..QUEUE {
            assert!(queue.push(frame(1, 0, 1000)));
        }
        assert!(!queue.push(frame(1, 0, 1000)), "bounded");
        tick(&mut playout);
        queue.flush();
        assert_eq!(queue.queued(), 0);
        assert!(queue.push(frame(2, 0, 7)));
        assert_eq!((queue.queued(), queue.is_full()), (1, true), "what was flushed is in the way until the tick");
        let mut told = Vec::new();
        let faded = playout.next(true, |event| told.push(event)).expect("fade");
        assert_eq!(told, [played(1, 0, 1), Event::Flushed { discarded: QUEUE as u64 - 1 }]);
        assert_eq!((faded[0], faded[64], faded[128], faded[319]), (1000, 500, 0, 0));
        assert!(faded.windows(2).all(|pair| pair[0] - pair[1] <= 16), "no click");
        assert_eq!(tick(&mut playout), (Some(7), vec![]));
        queue.flush();
        assert_eq!(tick(&mut playout).1, [played(2, 0, 1), Event::Flushed { discarded: 0 }]);
    }

    proptest! {
        /// Whatever is done: frames leave in order, none twice, and heard + discarded + queued = pushed.
        #[test]
        fn nothing_is_lost_or_doubled(steps in proptest::collection::vec(0..8_u8, 1..400)) {
            let (mut queue, mut playout) = Playout::new();
            let (mut pushed, mut sent, mut discarded, mut last) = (0_i16, 0_u64, 0_u64, 0);
            for step in steps {
                match step {
                    0 => queue.flush(),
                    1..=4 => {
                        let full = queue.is_full();
                        let taken = queue.push(frame(0, 0, pushed + 1));
                        prop_assert_eq!(taken, !full);
                        pushed += i16::from(taken);
                    }
                    _ => {
                        let mut flushed = false;
                        let samples = playout.next(true, |event| if let Event::Flushed { discarded: count } = event {
                            flushed = true;
                            discarded += count;
                        });
                        if let Some(samples) = samples.filter(|_| !flushed) {
                            prop_assert!(samples[0] > last);
                            last = samples[0];
                            sent += 1;
                        }
                    }
                }
                prop_assert!(queue.queued() as u64 <= pushed as u64 - sent - discarded);
            }
        }
    }
}
