//! Whose window is next: turns with clauses and credit in; the turn to work for out. Never here: a model, a thread.
//!
//! A turn that has no audio yet goes before all that have; among them the one that was asked first. Otherwise the turn
//! with the least audio in hand (frames sent, less frames granted since, which is what was played) goes first.

use std::collections::VecDeque;
use std::time::Instant;

use callbox_wire::{CallId, ClauseId, TurnId};

use super::network::Spoken;
use super::resample::Resampler;
use super::speech::{Sentence, Trim};

/// One [`callbox_wire::Request::Speak`].
pub(super) struct Clause {
    pub(super) id: ClauseId,
    pub(super) text: String,
    pub(super) rate: u32,
    pub(super) asked: Instant,
    pub(super) frames: u32,
    pub(super) first_us: Option<u64>,
    pub(super) compute_us: u64,
    pub(super) work: Work,
}

/// How far a clause is.
pub(super) enum Work {
    /// Nothing was done for it.
    Waiting,
    /// Sentences and windows of it are left.
    Speaking(Box<Speaking>),
    /// All samples are made; some may wait for credit.
    Made,
}

pub(super) struct Speaking {
    pub(super) sentences: VecDeque<Sentence>,
    pub(super) utterance: Option<(Spoken, u32)>,
    pub(super) windows: usize,
    pub(super) trim: Trim,
    pub(super) resampler: Resampler,
}

/// The clauses of one turn of one call.
pub(super) struct Turn {
    pub(super) call: CallId,
    pub(super) turn: TurnId,
    pub(super) clauses: VecDeque<Clause>,
    pub(super) credit: u32,
    /// Sent and not granted again.
    pub(super) in_hand: u32,
    pub(super) has_spoken: bool,
    /// Samples of the first clause that wait for a whole frame or for credit.
    pub(super) pcm: VecDeque<i16>,
}

/// No stream needs more: ten minutes.
const MAX_CREDIT: u32 = 30_000;

impl Turn {
    pub(super) fn new(call: CallId, turn: TurnId) -> Self {
        Self { call, turn, clauses: VecDeque::new(), credit: 0, in_hand: 0, has_spoken: false, pcm: VecDeque::new() }
    }

    pub(super) fn grant(&mut self, frames: u32) {
        self.credit = self.credit.saturating_add(frames).min(MAX_CREDIT);
        self.in_hand = self.in_hand.saturating_sub(frames);
    }

    /// Whether computing for it would lead to a frame that may be sent.
    fn is_ready(&self) -> bool {
        self.credit > 0 && self.clauses.front().is_some_and(|clause| !matches!(clause.work, Work::Made))
    }
}

/// The index of the turn that is to be worked for.
pub(super) fn next(turns: &[Turn]) -> Option<usize> {
    turns
        .iter()
        .enumerate()
        .filter(|(_, turn)| turn.is_ready())
        .min_by_key(|(_, turn)| (turn.has_spoken, turn.in_hand, turn.clauses.front().map(|clause| clause.asked)))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn first_audio_goes_first_then_the_emptiest_buffer() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do as the origin")]
        let origin = Instant::now();
        let turn = |call, asked, has_spoken, in_hand, credit| {
            let clause = Clause {
                id: ClauseId(0),
                text: String::new(),
                rate: 8000,
                asked: origin + Duration::from_millis(asked),
                frames: 0,
                first_us: None,
                compute_us: 0,
                work: Work::Waiting,
            };
            Turn { clauses: [clause].into(), credit, in_hand, has_spoken, ..Turn::new(CallId(call), TurnId(0)) }
        };
        let mut turns = vec![
            turn(0, 0, true, 30, 9),
            turn(1, 1, true, 10, 9),
            turn(2, 3, false, 0, 9),
            turn(3, 2, false, 0, 9),
            turn(4, 0, false, 0, 0),
        ];
        let mut order = Vec::new();
        while let Some(index) = next(&turns) {
            order.push(turns.remove(index).call.0);
        }
        assert_eq!(order, [3, 2, 1, 0], "and never the one without credit");
    }
}
