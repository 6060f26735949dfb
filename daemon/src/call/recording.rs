//! A call's frames on their way to its recording. Enters: what the media thread copies of both directions; leaves: pairs of
//! frames of one moment. Never here: waiting; what is not taken in time is lost, and the index tells.

use crate::media::{Direction, Samples, Tap, TapFrame};
use crate::recording::{Pair, Source};

/// Frames of both directions that wait: three seconds of a recorder that is busy.
pub(super) const WAITING: usize = 300;

/// A call's copy of its audio.
pub(super) struct Tapped {
    tap: Tap,
    /// The moment of which one direction may still come.
    open: Option<Pair>,
}

impl Tapped {
    pub(super) const fn new(tap: Tap) -> Self {
        Self { tap, open: None }
    }
}

impl Source for Tapped {
    fn next(&mut self) -> Option<Pair> {
        while let Some(TapFrame { direction, index, samples }) = self.tap.recv() {
            let silence: Samples = [0; _];
            let before = self.open.filter(|open| open.index != index);
            let mut pair = match self.open {
                Some(open) if open.index == index => open,
                _ => Pair { index, far_end: silence, agent: silence },
            };
            match direction {
                Direction::Received => pair.far_end = samples,
                Direction::Sent => pair.agent = samples,
            }
            self.open = Some(pair);
            if before.is_some() {
                return before;
            }
            // What was received is copied first.
            if direction == Direction::Sent {
                return self.open.take();
            }
        }
        None
    }

    fn is_over(&self) -> bool {
        self.tap.is_over()
    }
}
