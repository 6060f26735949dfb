//! Whose keys and values are where.
//!
//! Enters: prompts. Leaves: caches that already hold as much of them as is known. Never here: a model's step.
//!
//! A call keeps its sequence between its turns, until it is forgotten or another call needs the room. A new prompt keeps
//! the part that it shares with what is there: with its own last turn, else with a copy from an agent's primed prompt
//! or from any other call (which saw the same agent's prompt). Positions past the shared part are forgotten. What was
//! computed with an adapter is shared with that adapter alone.

use std::sync::Arc;

use callbox_wire::CallId;

use super::scheduler::Thinking;
use crate::models::transformer::{Adapter, Cache};

/// Memory for primed prompts, in bytes; the least recently used go first.
const PRIMED_BYTES: usize = 256 << 20;

/// With what keys and values were computed: the hash of an adapter, or none for the model as it is.
pub(super) type With = Option<[u8; 32]>;

/// The keys and values of one call.
pub(super) struct Sequence {
    pub(super) call: CallId,
    with: With,
    /// What is in the cache, and after it what is still to be computed.
    pub(super) tokens: Vec<u32>,
    pub(super) cache: Cache,
    pub(super) thinking: Option<Thinking>,
    used: u64,
}

impl Sequence {
    /// Stops thinking, and keeps what was computed.
    pub(super) fn stop(&mut self) -> Option<Thinking> {
        self.tokens.truncate(self.cache.len());
        self.thinking.take()
    }

    /// Tokens that are still to be computed.
    pub(super) fn missing(&self) -> usize {
        self.tokens.len() - self.cache.len()
    }
}

/// An agent's prompt.
pub(super) struct Primed {
    /// As long as it is there, so is its adapter.
    pub(super) adapter: Option<Arc<Adapter>>,
    pub(super) tokens: Vec<u32>,
    pub(super) cache: Cache,
    used: u64,
}

impl Primed {
    fn with(&self) -> With {
        self.adapter.as_ref().map(|adapter| adapter.sha256())
    }

    pub(super) fn missing(&self) -> usize {
        self.tokens.len() - self.cache.len()
    }
}

/// All sequences.
pub(super) struct Sequences {
    pub(super) calls: Vec<Sequence>,
    pub(super) primed: Vec<Primed>,
    most: usize,
    clock: u64,
}

impl Sequences {
    pub(super) fn new(most: usize) -> Self {
        Self { calls: Vec::new(), primed: Vec::new(), most, clock: 0 }
    }

    /// The index of a sequence for `call` whose cache holds the known part of `tokens`, computed `with` the same, and how
    /// much that is; none if every sequence is thinking for another call.
    pub(super) fn begin(
        &mut self,
        call: CallId,
        with: With,
        tokens: Vec<u32>,
        fresh: impl FnOnce() -> Cache,
    ) -> Option<(usize, usize)> {
        self.clock += 1;
        let index = self.place(call, fresh)?;
        // The last token must be computed in any case: its logits are the answer's beginning.
        let useful = tokens.len() - 1;
        let own = &self.calls[index];
        let own_shared = match own.with == with {
            true => shared(&own.tokens, &tokens).min(own.cache.len()).min(useful),
            false => 0,
        };
        let others = self.calls.iter().enumerate().filter(|(other, held)| *other != index && held.with == with);
        let others = others.map(|(other, sequence)| (Source::Call(other), &sequence.tokens, &sequence.cache));
        let primed = self.primed.iter().enumerate().filter(|(_, primed)| primed.with() == with);
        let primed = primed.map(|(other, primed)| (Source::Primed(other), &primed.tokens, &primed.cache));
        let best = others
            .chain(primed)
            .map(|(source, held, cache)| (shared(held, &tokens).min(cache.len()).min(useful), source))
            .max_by_key(|(length, _)| *length);
        let mut known = own_shared;
        if let Some((length, source)) = best
            && length > own_shared
        {
            known = length;
            match source {
                Source::Primed(other) => {
                    self.primed[other].used = self.clock;
                    self.calls[index].cache.copy_prefix(&self.primed[other].cache, length);
                }
                Source::Call(other) => {
                    if let Ok([to, from]) = self.calls.get_disjoint_mut([index, other]) {
                        to.cache.copy_prefix(&from.cache, length);
                    }
                }
            }
        }
        let own = &mut self.calls[index];
        own.cache.truncate(known);
        own.tokens = tokens;
        own.call = call;
        own.with = with;
        own.used = self.clock;
        Some((index, known))
    }

    /// The call's own sequence, else a new one, else the least recently used that does not think.
    fn place(&mut self, call: CallId, fresh: impl FnOnce() -> Cache) -> Option<usize> {
        if let Some(index) = self.calls.iter().position(|sequence| sequence.call == call) {
            return Some(index);
        }
        if self.calls.len() < self.most {
            let cache = fresh();
            self.calls.push(Sequence { call, with: None, tokens: Vec::new(), cache, thinking: None, used: self.clock });
            return Some(self.calls.len() - 1);
        }
        let idle = self.calls.iter().enumerate().filter(|(_, sequence)| sequence.thinking.is_none());
        let index = idle.min_by_key(|(_, sequence)| sequence.used)?.0;
        let evicted = &mut self.calls[index];
        evicted.tokens.clear();
        evicted.cache.truncate(0);
        Some(index)
    }

    /// Begins to prime a prompt, unless all of it is there; returns whether there is something to compute.
    pub(super) fn prime(
        &mut self,
        adapter: Option<Arc<Adapter>>,
        tokens: Vec<u32>,
        fresh: impl FnOnce(usize) -> Cache,
    ) -> bool {
        self.clock += 1;
        let with = adapter.as_ref().map(|adapter| adapter.sha256());
        let known = self.primed.iter_mut().find(|primed| primed.tokens == tokens && primed.with() == with);
        if let Some(primed) = known {
            primed.used = self.clock;
            return primed.missing() > 0;
        }
        let cache = fresh(tokens.len());
        let bytes = |primed: &Primed| primed.cache.capacity() * primed.cache.position_bytes();
        let mut room = PRIMED_BYTES.saturating_sub(cache.capacity() * cache.position_bytes());
        self.primed.sort_by_key(|primed| std::cmp::Reverse(primed.used));
        self.primed.retain(|primed| {
            let fits = bytes(primed) <= room;
            room = if fits { room - bytes(primed) } else { 0 };
            fits
        });
        self.primed.push(Primed { adapter, tokens, cache, used: self.clock });
        true
    }

    /// Gives back what was primed with an adapter that is not wanted any more.
    pub(super) fn unprime(&mut self, with: [u8; 32]) {
        self.primed.retain(|primed| primed.with() != Some(with));
    }

    /// Ends everything of a call and gives its memory back.
    pub(super) fn forget(&mut self, call: CallId) -> Option<Thinking> {
        let index = self.calls.iter().position(|sequence| sequence.call == call)?;
        self.calls.swap_remove(index).thinking
    }

    /// Gives back the memory of what serves nobody at the moment, the least recently used; false if there is nothing.
    pub(super) fn give_back(&mut self) -> bool {
        let idle = self.calls.iter().enumerate().filter(|(_, sequence)| sequence.thinking.is_none());
        if let Some((index, _)) = idle.min_by_key(|(_, sequence)| sequence.used) {
            self.calls.swap_remove(index);
            return true;
        }
        let oldest = self.primed.iter().enumerate().min_by_key(|(_, primed)| primed.used);
        oldest.map(|(index, _)| index).map(|index| self.primed.swap_remove(index)).is_some()
    }

    /// The sequence of a call that is thinking of a turn.
    pub(super) fn thinking(&mut self, call: CallId) -> Option<&mut Sequence> {
        self.calls.iter_mut().find(|sequence| sequence.call == call && sequence.thinking.is_some())
    }
}

#[derive(Clone, Copy)]
enum Source {
    Call(usize),
    Primed(usize),
}

fn shared(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::attention::KvCache;

    fn cache() -> Cache {
        Cache::Whole(KvCache::new(1, 1, 16, 64))
    }

    /// Pretends that so many positions were computed.
    fn computed(cache: &mut Cache, count: usize) {
        let Cache::Whole(cache) = cache else { panic!("the kind that these tests make") };
        for position in cache.len()..cache.len() + count {
            cache.write(0, position, &[1.0; 16], &[1.0; 16]);
        }
        cache.advance(count);
    }

    fn compute(sequences: &mut Sequences, call: u64, tokens: &[u32]) -> Option<usize> {
        compute_with(sequences, call, None, tokens)
    }

    /// Begins a prompt and pretends that it was computed.
    fn compute_with(sequences: &mut Sequences, call: u64, with: With, tokens: &[u32]) -> Option<usize> {
        let (index, known) = sequences.begin(CallId(call), with, tokens.to_vec(), cache)?;
        let sequence = &mut sequences.calls[index];
        computed(&mut sequence.cache, tokens.len() - known);
        Some(known)
    }

    #[test]
    fn a_prompt_keeps_what_it_shares_with_the_best_source() {
        let mut sequences = Sequences::new(2);
        assert_eq!(compute(&mut sequences, 1, &[1, 2, 3, 4, 5]), Some(0));
        assert_eq!(compute(&mut sequences, 1, &[1, 2, 3, 9]), Some(3), "its own");
        assert_eq!(compute(&mut sequences, 2, &[1, 2, 8]), Some(2), "another call's");
        assert_eq!(compute(&mut sequences, 2, &[1, 2, 8]), Some(2), "the last token is always computed");
        assert!(sequences.prime(None, vec![7, 7, 7], |_| cache()));
        computed(&mut sequences.primed[0].cache, 3);
        assert!(!sequences.prime(None, vec![7, 7, 7], |_| cache()));
        assert_eq!(compute(&mut sequences, 3, &[7, 7, 7, 7]), Some(3), "an agent's; call 1 had to go");
        assert_eq!(compute(&mut sequences, 2, &[1, 2, 8, 1]), Some(3), "call 2 stayed");
        sequences.forget(CallId(2));
        sequences.forget(CallId(3));
        assert_eq!(compute(&mut sequences, 4, &[1, 2, 8, 1]), Some(0));
    }
    #[test]
    fn what_one_adapter_computed_serves_no_other() {
        let mut sequences = Sequences::new(2);
        let (one, other) = (Some([1; 32]), Some([2; 32]));
        assert_eq!(compute_with(&mut sequences, 1, one, &[1, 2, 3, 4]), Some(0));
        assert_eq!(compute_with(&mut sequences, 2, None, &[1, 2, 3, 4]), Some(0), "the model as it is");
        assert_eq!(compute_with(&mut sequences, 2, one, &[1, 2, 3, 4]), Some(3), "a copy of call 1's");
        assert_eq!(compute_with(&mut sequences, 1, other, &[1, 2, 3, 4]), Some(0), "not even its own");
        assert_eq!(compute_with(&mut sequences, 1, other, &[1, 2, 3, 4]), Some(3));
        assert!(sequences.prime(None, vec![7, 7, 7], |_| cache()));
        computed(&mut sequences.primed[0].cache, 3);
        assert_eq!(compute_with(&mut sequences, 1, other, &[7, 7, 7, 7]), Some(0), "an agent's without an adapter");
        assert_eq!(compute_with(&mut sequences, 1, None, &[7, 7, 7, 7]), Some(3));
    }
}
