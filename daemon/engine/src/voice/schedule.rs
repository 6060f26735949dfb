//! Whose work is next: turns with clauses and credit in; the turns to work for out. Never here: a model, a thread.
//!
//! A turn that has no audio yet goes before all that have; among them one that has begun, then what was asked first. Otherwise the turn
//! with the least audio in hand (frames sent, less frames granted since, which is what was played) goes first. Others whose
//! next work is of its kind go with it where that is sooner done together ([`Together`]), if it need not wait for them for long.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use callbox_wire::{CallId, ClauseId, TurnId};

use super::network::{Spoken, Together};
use super::resample::Resampler;
use super::speech::{Sentence, Trim};

/// One [`callbox_wire::Request::Speak`].
pub(super) struct Clause {
    pub(super) id: ClauseId,
    /// Of all clauses ever.
    pub(super) number: u64,
    /// While it is there, the reader reads for it.
    pub(super) wanted: Arc<()>,
    /// Of the noise in it.
    pub(super) seed: u64,
    pub(super) rate: u32,
    pub(super) asked: Instant,
    pub(super) frames: u32,
    pub(super) first_us: Option<u64>,
    pub(super) compute_us: u64,
    pub(super) work: Work,
}

/// How far a clause is.
pub(super) enum Work {
    /// Its sentences are not known yet.
    Reading,
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

    /// The first clause, if sentences or windows of it are left.
    pub(super) fn speaking(&mut self) -> Option<&mut Speaking> {
        match &mut self.clauses.front_mut()?.work {
            Work::Speaking(speaking) => Some(speaking),
            Work::Reading | Work::Made => None,
        }
    }

    /// What would lead to a frame that may be sent.
    fn wants(&self) -> Option<Want> {
        match &self.clauses.front()?.work {
            Work::Speaking(speaking) if self.credit > 0 => {
                Some(match (&speaking.utterance, speaking.sentences.front()) {
                    (None, Some(sentence)) => Want::Sentence(sentence.ids.len()),
                    _ => Want::Window,
                })
            }
            _ => None,
        }
    }

    /// The least goes first: of those without audio whose sentence has begun, because a window is short.
    fn urgency(&self) -> (bool, bool, u32, Option<Instant>) {
        let begins = !self.has_spoken && matches!(self.wants(), Some(Want::Sentence(_)));
        (self.has_spoken, begins, self.in_hand, self.clauses.front().map(|clause| clause.asked))
    }
}

/// What a turn's next work is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    /// A sentence of so many ids is to begin.
    Sentence(usize),
    Window,
}

/// Work that is done at once, of the turns with these indices; the most urgent comes first.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// A sentence of each begins.
    Sentences(Vec<usize>),
    /// A window of each is made.
    Windows(Vec<usize>),
}

/// Ids of sentences that begin at once, all counted as long as the longest: 32 of four seconds have as many.
const MOST_IDS: usize = 1536;
/// Frames in hand with which a turn can wait for the next step: half a second.
const ENOUGH: u32 = 25;

/// What is to be done next.
pub(super) fn next(turns: &[Turn], together: Together) -> Option<Step> {
    let wants = |at: usize| turns[at].wants().map(|want| (at, want));
    let mut ready: Vec<(usize, Want)> = (0..turns.len()).filter_map(wants).collect();
    ready.sort_by_key(|(at, _)| turns[*at].urgency());
    let (&(first, want), others) = ready.split_first()?;
    let has_spoken = turns[first].has_spoken;
    let mut taken = vec![first];
    match want {
        Want::Window => {
            // A first window is short: with a later one it would wait for that.
            let alike = others.iter().filter(|(at, want)| *want == Want::Window && turns[*at].has_spoken == has_spoken);
            taken.extend(alike.map(|(at, _)| at).take(together.windows - 1));
            Some(Step::Windows(taken))
        }
        Want::Sentence(ids) => {
            let mut longest = ids;
            for &(at, want) in others {
                let Want::Sentence(own) = want else { continue };
                let alike = own <= ids + ids / 4 + 4 && ids <= 2 * own + 4;
                let waits = turns[at].has_spoken && !has_spoken && turns[at].in_hand > ENOUGH;
                let most = longest.max(own);
                if alike && !waits && taken.len() < together.sentences && most * (taken.len() + 1) <= MOST_IDS {
                    longest = most;
                    taken.push(at);
                }
            }
            Some(Step::Sentences(taken))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A turn that was asked for so many milliseconds after all began; the number of its call is the order below.
    fn turn(asked: u64, (has_spoken, in_hand, credit): (bool, u32, u32), want: Want) -> Turn {
        #[expect(clippy::disallowed_methods, reason = "any instant will do as the origin")]
        static ORIGIN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        let sentences = match want {
            Want::Sentence(ids) => vec![Sentence { ids: vec![1; ids], speaker: None, pause_ms: 0 }],
            Want::Window => Vec::new(),
        };
        let speaking = Speaking {
            sentences: sentences.into(),
            utterance: None,
            windows: 0,
            trim: Trim::new(24_000),
            resampler: Resampler::new(24_000, 8000),
        };
        let clause = Clause {
            id: ClauseId(0),
            number: 0,
            wanted: Arc::default(),
            seed: 0,
            rate: 8000,
            asked: *ORIGIN + Duration::from_millis(asked),
            frames: 0,
            first_us: None,
            compute_us: 0,
            work: Work::Speaking(Box::new(speaking)),
        };
        Turn { clauses: [clause].into(), credit, in_hand, has_spoken, ..Turn::new(CallId(0), TurnId(0)) }
    }

    const NEW: (bool, u32, u32) = (false, 0, 9);
    const ALONE: Together = Together { sentences: 1, windows: 1 };
    const CARD: Together = Together { sentences: 32, windows: 1 };

    #[test]
    fn first_audio_goes_first_then_the_emptiest_buffer() {
        let said = |in_hand| (true, in_hand, 9);
        for want in [Want::Window, Want::Sentence(20)] {
            let mut turns = vec![
                turn(0, said(30), want),
                turn(1, said(10), want),
                turn(3, NEW, want),
                turn(2, NEW, want),
                turn(0, (false, 0, 0), want),
            ];
            turns.iter_mut().zip(0..).for_each(|(turn, call)| turn.call = CallId(call));
            let mut order = Vec::new();
            while let Some(Step::Sentences(taken) | Step::Windows(taken)) = next(&turns, ALONE) {
                assert_eq!(taken.len(), 1);
                order.push(turns.remove(taken[0]).call.0);
            }
            assert_eq!(order, [3, 2, 1, 0], "and never the one without credit");
        }
    }

    #[test]
    fn sentences_of_about_one_length_begin_together() {
        let lengths = [40, 52, 55, 18, 17, 40, 60];
        let mut turns: Vec<Turn> =
            lengths.iter().zip(0..).map(|(&ids, at)| turn(at, NEW, Want::Sentence(ids))).collect();
        assert_eq!(next(&turns, CARD), Some(Step::Sentences(vec![0, 1, 3, 5])));
        assert_eq!(next(&turns, Together { sentences: 2, windows: 1 }), Some(Step::Sentences(vec![0, 1])));
        turns.push(turn(9, (true, 0, 9), Want::Window));
        turns.push(turn(9, NEW, Want::Sentence(40)));
        turns[8].clauses[0].work = Work::Reading;
        turns.push(turn(10, NEW, Want::Sentence(41)));
        assert_eq!(next(&turns, CARD), Some(Step::Sentences(vec![0, 1, 3, 5, 9])), "one has a window, one no phonemes");
    }

    #[test]
    fn a_first_sound_waits_for_nobody_who_can_wait() {
        let want = Want::Sentence(30);
        let turns =
            [turn(0, (true, 26, 9), want), turn(0, (true, 25, 9), want), turn(5, NEW, want), turn(4, NEW, want)];
        assert_eq!(next(&turns, CARD), Some(Step::Sentences(vec![3, 2, 1])));
        assert_eq!(next(&turns[..2], CARD), Some(Step::Sentences(vec![1, 0])));
        let pairs = Together { sentences: 1, windows: 2 };
        let turns =
            [turn(0, (true, 3, 9), Want::Window), turn(5, NEW, Want::Window), turn(0, (true, 2, 9), Want::Window)];
        assert_eq!(next(&turns, pairs), Some(Step::Windows(vec![1])));
        assert_eq!(next(&turns[..1], pairs), Some(Step::Windows(vec![0])));
        let turns = [turn(0, (true, 3, 9), Want::Window), turn(0, (true, 2, 9), Want::Window), turn(5, NEW, want)];
        assert_eq!(next(&turns[..2], pairs), Some(Step::Windows(vec![1, 0])));
        assert_eq!(next(&turns, pairs), Some(Step::Sentences(vec![2])));
    }

    #[test]
    fn what_begins_together_has_a_bound() {
        for ids in [1, 30, 33, 200, 511] {
            let turns: Vec<Turn> = (0..100).map(|at| turn(at, NEW, Want::Sentence(ids))).collect();
            let Some(Step::Sentences(taken)) = next(&turns, CARD) else { panic!("sentences") };
            assert_eq!(taken.len(), 32.min(MOST_IDS / ids), "{ids}");
        }
    }
}
