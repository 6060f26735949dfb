//! Whose keys and values are where.
//!
//! Enters: prompts. Leaves: caches that already hold as much of them as is known. Never here: a model's step.
//!
//! A call keeps its sequence between its turns, until it is forgotten or another call needs the room. A new prompt keeps
//! the part that it shares with what is there: with its own last turn, else with a copy from an agent's primed prompt
//! or from any other call (which saw the same agent's prompt). Positions past the shared part are forgotten.

use callbox_wire::CallId;

use super::scheduler::Thinking;
use crate::kernels::attention::KvCache;

/// Memory for primed prompts, in bytes; the least recently used go first.
const PRIMED_BYTES: usize = 256 << 20;

/// The keys and values of one call.
pub(super) struct Sequence {
    pub(super) call: CallId,
    /// What is in the cache, and after it what is still to be computed.
    pub(super) tokens: Vec<u32>,
    pub(super) cache: KvCache,
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
    pub(super) tokens: Vec<u32>,
    pub(super) cache: KvCache,
    used: u64,
}

impl Primed {
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

    /// The index of a sequence for `call` whose cache holds the known part of `tokens`, and how much that is; none if
    /// every sequence is thinking for another call.
    pub(super) fn begin(
        &mut self,
        call: CallId,
        tokens: Vec<u32>,
        fresh: impl FnOnce() -> KvCache,
    ) -> Option<(usize, usize)> {
        self.clock += 1;
        let index = self.place(call, fresh)?;
        // The last token must be computed in any case: its logits are the answer's beginning.
        let useful = tokens.len() - 1;
        let own = &self.calls[index];
        let own_shared = shared(&own.tokens, &tokens).min(own.cache.len()).min(useful);
        let others = self.calls.iter().enumerate().filter(|(other, _)| *other != index);
        let others = others.map(|(other, sequence)| (Source::Call(other), &sequence.tokens, &sequence.cache));
        let primed = self.primed.iter().enumerate();
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
        own.used = self.clock;
        Some((index, known))
    }

    /// The call's own sequence, else a new one, else the least recently used that does not think.
    fn place(&mut self, call: CallId, fresh: impl FnOnce() -> KvCache) -> Option<usize> {
        if let Some(index) = self.calls.iter().position(|sequence| sequence.call == call) {
            return Some(index);
        }
        if self.calls.len() < self.most {
            let cache = fresh();
            self.calls.push(Sequence { call, tokens: Vec::new(), cache, thinking: None, used: self.clock });
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
    pub(super) fn prime(&mut self, tokens: Vec<u32>, fresh: impl FnOnce(usize) -> KvCache) -> bool {
        self.clock += 1;
        let known = self.primed.iter_mut().find(|primed| primed.tokens == tokens);
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
        self.primed.push(Primed { tokens, cache, used: self.clock });
        true
    }

    /// Ends everything of a call and gives its memory back.
    pub(super) fn forget(&mut self, call: CallId) -> Option<Thinking> {
        let index = self.calls.iter().position(|sequence| sequence.call == call)?;
        self.calls.swap_remove(index).thinking
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

    fn cache() -> KvCache {
        KvCache::new(1, 1, 16, 64)
    }

    /// Begins a prompt and pretends that it was computed.
    fn compute(sequences: &mut Sequences, call: u64, tokens: &[u32]) -> Option<usize> {
        let (index, known) = sequences.begin(CallId(call), tokens.to_vec(), cache)?;
        let sequence = &mut sequences.calls[index];
        for position in known..tokens.len() {
            sequence.cache.write(0, position, &[1.0; 16], &[1.0; 16]);
        }
        sequence.cache.advance(tokens.len() - known);
        Some(known)
    }

    #[test]
    fn a_prompt_keeps_what_it_shares_with_the_best_source() {
        let mut sequences = Sequences::new(2);
        assert_eq!(compute(&mut sequences, 1, &[1, 2, 3, 4, 5]), Some(0));
        assert_eq!(compute(&mut sequences, 1, &[1, 2, 3, 9]), Some(3), "its own");
        assert_eq!(compute(&mut sequences, 2, &[1, 2, 8]), Some(2), "another call's");
        assert_eq!(compute(&mut sequences, 2, &[1, 2, 8]), Some(2), "the last token is always computed");
        assert!(sequences.prime(vec![7, 7, 7], |_| cache()));
        sequences.primed[0].cache.advance(3);
        assert!(!sequences.prime(vec![7, 7, 7], |_| cache()));
        assert_eq!(compute(&mut sequences, 3, &[7, 7, 7, 7]), Some(3), "an agent's; call 1 had to go");
        assert_eq!(compute(&mut sequences, 2, &[1, 2, 8, 1]), Some(3), "call 2 stayed");
        sequences.forget(CallId(2));
        sequences.forget(CallId(3));
        assert_eq!(compute(&mut sequences, 4, &[1, 2, 8, 1]), Some(0));
    }
}
