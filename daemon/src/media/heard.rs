//! What was received, on its way to the call's task. Frames enter on the media thread, one every 20 ms, and leave in the same
//! order. Never here: waiting. Each lies in a box that goes back and forth: a call whose task keeps up holds two of them,
//! and only for one that is behind a box is allocated. Silence needs none.

use rtrb::{Consumer, Producer, RingBuffer};

use super::Frame;

/// Frames that wait for the call's task: 240 ms. Then new ones are dropped.
const LONGEST: usize = 12;
/// Boxes that wait to be filled again.
const SPARE: usize = 2;

/// A frame on its way.
enum Waiting {
    /// Nothing but zeros, from this sample on.
    Silence(u64),
    Sound(Box<Frame>),
}

/// The media thread's end.
pub(super) struct HeardIn {
    frames: Producer<Waiting>,
    spare: Consumer<Box<Frame>>,
}

/// The end of the call's task.
pub struct Heard {
    frames: Consumer<Waiting>,
    spare: Producer<Box<Frame>>,
}

/// Both ends.
pub(super) fn heard() -> (HeardIn, Heard) {
    let (frames_in, frames) = RingBuffer::new(LONGEST);
    let (spare_in, spare) = RingBuffer::new(SPARE);
    (HeardIn { frames: frames_in, spare }, Heard { frames, spare: spare_in })
}

impl HeardIn {
    /// False if there is no room: the frame is lost.
    pub(super) fn push(&mut self, frame: &Frame) -> bool {
        if self.frames.is_full() {
            return false;
        }
        if frame.is_silence() {
            return self.frames.push(Waiting::Silence(frame.timestamp)).is_ok();
        }
        let boxed = match self.spare.pop() {
            Ok(mut boxed) => {
                *boxed = *frame;
                boxed
            }
            Err(_) => Box::new(*frame),
        };
        self.frames.push(Waiting::Sound(boxed)).is_ok()
    }
}

impl Heard {
    /// The next frame, if it is there.
    pub fn pop(&mut self) -> Option<Frame> {
        let boxed = match self.frames.pop().ok()? {
            Waiting::Silence(timestamp) => return Some(Frame::silence(timestamp)),
            Waiting::Sound(boxed) => boxed,
        };
        let frame = *boxed;
        // One too many is freed here, where it may take time.
        drop(self.spare.push(boxed));
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_in_order_and_the_one_too_many_is_lost() {
        let (mut put, mut heard) = heard();
        let frame =
            |timestamp| Frame { timestamp, concealed: false, echo: false, samples: [(timestamp % 100) as i16; _] };
        for round in 0..3_u64 {
            for n in 0..LONGEST as u64 {
                assert!(put.push(&frame(100 * round + n)));
            }
            assert!(!put.push(&frame(99)));
            for n in 0..LONGEST as u64 {
                assert_eq!(heard.pop(), Some(frame(100 * round + n)));
            }
            assert_eq!(heard.pop(), None);
        }
    }
}
