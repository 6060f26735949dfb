//! A caller with questions: waits for the greeting, asks, listens to the answer, asks the next.
//!
//! Enters: each 20 ms, the frame that was heard. Leaves: the frame to say. Never here: a clock, a socket; time is counted
//! in frames.

use super::measure::RATE;

/// 20 ms on the line.
pub(crate) const FRAME: usize = RATE / 50;

pub(crate) type Frame = [i16; FRAME];

/// How a caller waits. All in frames of 20 ms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    /// Quiet after which the agent is taken to have finished.
    pub(crate) pause: u32,
    /// Quiet after which an answer is given up.
    pub(crate) patience: u32,
}

impl Default for Manners {
    fn default() -> Self {
        Self { pause: 60, patience: 1000 }
    }
}

/// What a caller does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "a frame every 20 ms, taken apart at once")]
pub(crate) enum Step {
    /// Says a frame.
    Say(Frame),
    /// Has just finished listening to the answer of this question, or given it up; says silence.
    Heard {
        /// Which question; `None` is the greeting.
        question: Option<usize>,
        /// Whether anything was heard.
        answered: bool,
    },
    /// Has nothing more to ask.
    Done,
}

enum State {
    Listening { question: Option<usize>, heard: bool, quiet: u32 },
    Asking { question: usize, frame: usize },
    Done,
}

/// A caller.
pub(crate) struct Caller {
    questions: Vec<Vec<i16>>,
    manners: Manners,
    state: State,
}

impl Caller {
    /// Questions are 16 kHz samples.
    pub(crate) const fn new(questions: Vec<Vec<i16>>, manners: Manners) -> Self {
        Self { questions, manners, state: State::Listening { question: None, heard: false, quiet: 0 } }
    }

    /// How many questions were begun.
    pub(crate) const fn asked(&self) -> usize {
        match self.state {
            State::Listening { question: None, .. } => 0,
            State::Listening { question: Some(question), .. } | State::Asking { question, .. } => question + 1,
            State::Done => self.questions.len(),
        }
    }

    /// One tick of 20 ms.
    pub(crate) fn tick(&mut self, received: &[i16]) -> Step {
        match &mut self.state {
            State::Listening { question, heard, quiet } => {
                if is_voice(received) {
                    (*heard, *quiet) = (true, 0);
                } else {
                    *quiet += 1;
                }
                let limit = if *heard { self.manners.pause } else { self.manners.patience };
                if *quiet < limit {
                    return Step::Say([0; FRAME]);
                }
                let (question, answered) = (*question, *heard);
                let next = question.map_or(0, |question| question + 1);
                self.state =
                    if next < self.questions.len() { State::Asking { question: next, frame: 0 } } else { State::Done };
                Step::Heard { question, answered }
            }
            State::Asking { question, frame } => {
                let samples = &self.questions[*question];
                let mut said = [0; FRAME];
                if let Some(rest) = samples.get(*frame * FRAME..) {
                    let len = rest.len().min(FRAME);
                    said[..len].copy_from_slice(&rest[..len]);
                }
                *frame += 1;
                if *frame * FRAME >= samples.len() {
                    self.state = State::Listening { question: Some(*question), heard: false, quiet: 0 };
                }
                Step::Say(said)
            }
            State::Done => Step::Done,
        }
    }
}

/// −45 dB and above.
fn is_voice(frame: &[i16]) -> bool {
    let energy: f32 = frame.iter().map(|&sample| (f32::from(sample) / 32768.0).powi(2)).sum();
    energy > 3.2e-5 * frame.len() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_each_question_once_the_agent_has_finished() {
        let (voice, silence) = ([3000; FRAME], [0; FRAME]);
        let manners = Manners { pause: 5, patience: 50 };
        let mut caller = Caller::new(vec![vec![100; 2 * FRAME], vec![200; FRAME / 2]], manners);
        let mut run = |frame: &Frame, times: usize| (0..times).map(|_| caller.tick(frame)).collect::<Vec<_>>();

        assert!(run(&silence, 40).iter().all(|step| *step == Step::Say(silence)), "waits for the greeting");
        run(&voice, 10);
        assert_eq!(run(&silence, 4).last(), Some(&Step::Say(silence)), "a pause within the greeting");
        assert_eq!(run(&silence, 1), [Step::Heard { question: None, answered: true }]);
        assert_eq!(run(&silence, 2), [Step::Say([100; FRAME]); 2]);
        run(&voice, 3);
        assert_eq!(run(&silence, 5).last(), Some(&Step::Heard { question: Some(0), answered: true }));
        let mut half = [0; FRAME];
        half[..FRAME / 2].fill(200);
        assert_eq!(run(&silence, 1), [Step::Say(half)]);
        assert_eq!(run(&silence, 50).last(), Some(&Step::Heard { question: Some(1), answered: false }));
        assert_eq!(run(&silence, 1), [Step::Done]);
    }
}
