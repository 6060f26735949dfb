//! Audio on its way from the engine to the playout.
//!
//! Enters: frames of clauses, in any order of clauses, and the word that a turn may be heard. Leaves: frames in the
//! order in which they are to be heard, and credit for the engine. Never here: a clock, a socket. What is held is
//! bounded by the credit: [`AHEAD`] frames of a turn, and ready-made phrases.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use callbox_wire::{ClauseId, TurnId};

/// Samples per second.
pub(super) const RATE: u32 = 16_000;

/// 20 ms.
pub(super) type Samples = [i16; 320];

/// A ready-made phrase.
pub(super) type Phrase = Arc<[Samples]>;

/// Frames that the engine may be ahead of the caller's ear: 3 s. More would be wasted whenever the caller interrupts.
pub(super) const AHEAD: u32 = 150;

/// Credit is granted in portions, not for each frame.
const PORTION: u32 = 25;

/// Stored phrases get turn ids from here on; no dialogue counts so far.
const STORED: u32 = u32::MAX - 0xFFFF;

#[derive(Default)]
struct Turn {
    clauses: BTreeMap<ClauseId, Clause>,
    /// Frames that the engine may still send.
    credit: u32,
    /// Whether the engine speaks for this turn at all.
    engaged: bool,
}

#[derive(Default)]
struct Clause {
    frames: Frames,
    complete: bool,
}

/// What is left of a clause.
enum Frames {
    /// From the engine.
    Coming(VecDeque<Samples>),
    /// Of a phrase that all calls share, from this frame on.
    Ready(Phrase, usize),
}

impl Default for Frames {
    fn default() -> Self {
        Self::Coming(VecDeque::new())
    }
}

impl Frames {
    fn push(&mut self, samples: Samples) {
        if let Self::Coming(frames) = self {
            frames.push_back(samples);
        }
    }

    fn pop(&mut self) -> Option<Samples> {
        match self {
            Self::Coming(frames) => frames.pop_front(),
            Self::Ready(phrase, next) => {
                let samples = phrase.get(*next).copied()?;
                *next += 1;
                Some(samples)
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Coming(frames) => frames.len(),
            Self::Ready(phrase, next) => phrase.len() - next,
        }
    }
}

/// The audio of one call that has not been heard.
#[derive(Default)]
pub(super) struct Shelf {
    turns: BTreeMap<TurnId, Turn>,
    /// Turns that may be heard, in this order.
    playing: VecDeque<TurnId>,
    stored: u32,
    /// What waits in the playout, clause by clause.
    handed: VecDeque<Handed>,
    /// Ready-made clauses that the dialogue has not been told of.
    unannounced: Vec<Announcement>,
}

/// A ready-made clause lies on the shelf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Announcement {
    pub(super) turn: TurnId,
    pub(super) clause: ClauseId,
    pub(super) frames: u32,
}

/// Frames of one clause that were handed to the playout.
#[derive(Clone, Copy, Debug)]
struct Handed {
    turn: TurnId,
    clause: ClauseId,
    frames: u32,
    sent: u32,
}

/// How much of a clause the caller has been sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Heard {
    pub(super) turn: TurnId,
    pub(super) clause: ClauseId,
    pub(super) frames: u32,
}

/// A frame that is to be heard next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ready {
    pub(super) turn: TurnId,
    pub(super) clause: ClauseId,
    pub(super) samples: Samples,
}

impl Shelf {
    /// A clause will be synthesised: how much credit to give with the request.
    pub(super) fn ask(&mut self, turn: TurnId, clause: ClauseId) -> u32 {
        let turn = self.turns.entry(turn).or_default();
        turn.clauses.entry(clause).or_default();
        if std::mem::replace(&mut turn.engaged, true) {
            return 0;
        }
        turn.credit = AHEAD;
        AHEAD
    }

    /// A frame came from the engine. Whether it belongs to a clause that was asked for and is not cancelled.
    pub(super) fn arrived(&mut self, turn: TurnId, clause: ClauseId, pcm: &[i16]) -> bool {
        let Some(turn) = self.turns.get_mut(&turn) else { return false };
        let (Some(clause), Ok(samples)) = (turn.clauses.get_mut(&clause), pcm.try_into()) else { return false };
        turn.credit = turn.credit.saturating_sub(1);
        clause.frames.push(samples);
        true
    }

    /// A clause has all its frames.
    pub(super) fn complete(&mut self, turn: TurnId, clause: ClauseId) {
        if let Some(clause) = self.turns.get_mut(&turn).and_then(|turn| turn.clauses.get_mut(&clause)) {
            clause.complete = true;
        }
    }

    /// A clause that needs no engine.
    pub(super) fn put(&mut self, turn: TurnId, clause: ClauseId, phrase: &Phrase) {
        if !Self::is_stored(turn) {
            let frames = u32::try_from(phrase.len()).unwrap_or(u32::MAX);
            self.unannounced.push(Announcement { turn, clause, frames });
        }
        let clause = self.turns.entry(turn).or_default().clauses.entry(clause).or_default();
        *clause = Clause { frames: Frames::Ready(Arc::clone(phrase), 0), complete: true };
    }

    /// Ready-made clauses since this was last asked.
    pub(super) fn announcements(&mut self) -> Vec<Announcement> {
        std::mem::take(&mut self.unannounced)
    }

    /// A phrase of no turn, to be heard after all that is playing.
    pub(super) fn play_stored(&mut self, phrase: &Phrase) {
        let turn = TurnId(STORED + self.stored % 0xFFFF);
        self.stored += 1;
        self.put(turn, ClauseId(0), phrase);
        self.play(turn);
    }

    /// Whether a turn id is that of a stored phrase.
    pub(super) const fn is_stored(turn: TurnId) -> bool {
        turn.0 >= STORED
    }

    /// A turn may be heard.
    pub(super) fn play(&mut self, turn: TurnId) {
        if !self.playing.contains(&turn) {
            self.playing.push_back(turn);
        }
    }

    /// A turn is not wanted any more.
    pub(super) fn cancel(&mut self, turn: TurnId) {
        self.forget(turn);
        self.playing.retain(|playing| *playing != turn);
    }

    /// Nothing of what plays is wanted any more; what waits in the playout is lost.
    pub(super) fn flush(&mut self) {
        self.handed.clear();
        for turn in std::mem::take(&mut self.playing) {
            self.forget(turn);
        }
    }

    fn forget(&mut self, turn: TurnId) {
        self.turns.remove(&turn);
        if self.turns.is_empty() {
            // An emptied map keeps its last node.
            self.turns = BTreeMap::new();
        }
    }

    /// Whether anything may be heard that has not been handed over.
    pub(super) fn is_empty(&self) -> bool {
        let frames = |turn: &TurnId| self.turns.get(turn).into_iter().flat_map(|turn| turn.clauses.values());
        self.playing.iter().flat_map(frames).all(|clause| clause.frames.len() == 0)
    }

    /// The playout has room: the next frame to be heard.
    pub(super) fn hand(&mut self) -> Option<Ready> {
        let ready = self.next()?;
        match self.handed.back_mut().filter(|last| (last.turn, last.clause) == (ready.turn, ready.clause)) {
            Some(last) => last.frames += 1,
            None => {
                self.handed.push_back(Handed { turn: ready.turn, clause: ready.clause, frames: 1, sent: 0 });
            }
        }
        Some(ready)
    }

    /// The playout still holds so many of the frames that it was handed: `tell` what was sent since it was last asked.
    pub(super) fn waiting(&mut self, queued: usize, mut tell: impl FnMut(Heard)) {
        let handed: u32 = self.handed.iter().map(|clause| clause.frames - clause.sent).sum();
        let mut sent = handed.saturating_sub(u32::try_from(queued).unwrap_or(u32::MAX));
        while sent > 0 {
            let Some(clause) = self.handed.front_mut() else { return };
            let step = sent.min(clause.frames - clause.sent);
            if step == 0 {
                self.handed.pop_front();
                continue;
            }
            clause.sent += step;
            sent -= step;
            if !Self::is_stored(clause.turn) {
                tell(Heard { turn: clause.turn, clause: clause.clause, frames: clause.sent });
            }
        }
    }

    /// The next frame to be heard; a clause waits for all of the clause before it.
    fn next(&mut self) -> Option<Ready> {
        while let Some(&id) = self.playing.front() {
            let last = self.playing.len() == 1;
            if let Some(turn) = self.turns.get_mut(&id) {
                while let Some(mut clause) = turn.clauses.first_entry() {
                    if let Some(samples) = clause.get_mut().frames.pop() {
                        return Some(Ready { turn: id, clause: *clause.key(), samples });
                    }
                    if !clause.get().complete {
                        break;
                    }
                    clause.remove();
                }
                // More of this turn may come, unless another turn was allowed after it.
                if last {
                    return None;
                }
            }
            self.playing.pop_front();
            if Self::is_stored(id) {
                self.forget(id);
            }
        }
        None
    }

    /// Credit to grant, given how many frames wait in the playout.
    pub(super) fn grants(&mut self, queued: usize) -> impl Iterator<Item = (TurnId, u32)> {
        let queued = u32::try_from(queued).unwrap_or(u32::MAX);
        let heard = self.playing.front().copied();
        self.turns.iter_mut().filter(|(_, turn)| turn.engaged).filter_map(move |(id, turn)| {
            let held: usize = turn.clauses.values().map(|clause| clause.frames.len()).sum();
            let waiting = u32::try_from(held).unwrap_or(u32::MAX).saturating_add(turn.credit);
            let waiting = if heard == Some(*id) { waiting.saturating_add(queued) } else { waiting };
            let room = AHEAD.saturating_sub(waiting);
            (room >= PORTION).then(|| {
                turn.credit += room;
                (*id, room)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(shelf: &mut Shelf) -> Vec<(u32, u32, i16)> {
        std::iter::from_fn(|| shelf.next()).map(|f| (f.turn.0, f.clause.0, f.samples[0])).collect()
    }

    #[test]
    fn clauses_are_heard_in_order_and_only_once_their_turn_may_be() {
        let mut shelf = Shelf::default();
        let (turn, first, second) = (TurnId(1), ClauseId(0), ClauseId(1));
        assert_eq!((shelf.ask(turn, first), shelf.ask(turn, second)), (AHEAD, 0));
        assert!(shelf.arrived(turn, second, &[2; 320]));
        assert!(shelf.arrived(turn, first, &[1; 320]));
        assert!(!shelf.arrived(turn, ClauseId(9), &[9; 320]), "never asked for");
        assert!(!shelf.arrived(turn, first, &[1; 3]), "not a frame");
        assert_eq!(order(&mut shelf), [], "not yet allowed");
        shelf.play(turn);
        assert_eq!(order(&mut shelf), [(1, 0, 1)], "the first clause is not complete");
        shelf.complete(turn, first);
        assert_eq!(order(&mut shelf), [(1, 1, 2)]);
        shelf.play_stored(&Phrase::from([[7; 320]]));
        assert_eq!(order(&mut shelf).last().map(|frame| frame.2), Some(7));
        assert!(shelf.is_empty());
    }

    #[test]
    fn credit_follows_what_is_heard() {
        let mut shelf = Shelf::default();
        let (turn, clause) = (TurnId(1), ClauseId(0));
        shelf.ask(turn, clause);
        shelf.play(turn);
        for _ in 0..AHEAD {
            assert!(shelf.arrived(turn, clause, &[1; 320]));
        }
        assert_eq!(shelf.grants(0).count(), 0, "all of it is held");
        for _ in 0..30 {
            shelf.next();
        }
        assert_eq!(shelf.grants(30).count(), 0, "it waits in the playout");
        assert_eq!(shelf.grants(0).collect::<Vec<_>>(), [(turn, 30)]);
        assert_eq!(shelf.grants(0).count(), 0, "granted already");
    }

    #[test]
    fn what_was_heard_is_told_clause_by_clause() {
        let mut shelf = Shelf::default();
        for (clause, frames) in [(0, 3), (1, 2)] {
            shelf.put(TurnId(1), ClauseId(clause), &vec![[1; 320]; frames].into());
        }
        shelf.play(TurnId(1));
        while shelf.hand().is_some() {}
        let mut heard = |queued| {
            let mut told = Vec::new();
            shelf.waiting(queued, |heard| told.push((heard.clause.0, heard.frames)));
            told
        };
        assert_eq!(heard(5), []);
        assert_eq!(heard(4), [(0, 1)]);
        assert_eq!(heard(1), [(0, 3), (1, 1)]);
        assert_eq!(heard(0), [(1, 2)]);
        assert_eq!(heard(0), []);
    }

    #[test]
    fn a_clause_that_ran_dry_goes_on_counting() {
        let mut shelf = Shelf::default();
        let (turn, clause) = (TurnId(1), ClauseId(0));
        shelf.ask(turn, clause);
        shelf.play(turn);
        let mut told = Vec::new();
        for _ in 0..2 {
            shelf.arrived(turn, clause, &[1; 320]);
            assert!(shelf.hand().is_some());
            shelf.waiting(0, |heard| told.push(heard.frames));
        }
        assert_eq!(told, [1, 2]);
    }

    #[test]
    fn what_is_cancelled_or_flushed_is_gone() {
        let mut shelf = Shelf::default();
        for turn in [TurnId(1), TurnId(2)] {
            shelf.put(turn, ClauseId(0), &Phrase::from([[3; 320]; 4]));
        }
        shelf.cancel(TurnId(2));
        shelf.play(TurnId(1));
        shelf.play(TurnId(2));
        shelf.next();
        shelf.flush();
        assert_eq!(order(&mut shelf), []);
        assert!(!shelf.arrived(TurnId(1), ClauseId(0), &[1; 320]), "stale");
    }
}
