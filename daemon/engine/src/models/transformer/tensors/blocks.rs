//! Which blocks of the pool hold whose keys and values.
//!
//! Enters: sequences that grow, share a beginning, are cut and end. Leaves: numbers of blocks, and which to copy before a
//! write. Never here: a tensor, or a block that two sequences may write to.
//!
//! A block holds [`BLOCK`] positions of every layer. Sequences share whole beginnings by holding the same blocks; whoever
//! goes on in a block that others hold, too, goes on in a copy (vLLM, arXiv 2309.06180).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Positions of a block.
pub const BLOCK: usize = 32;

/// Keys and values of more sequences than there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is room for the keys and values of {} tokens, and all of it is taken", .blocks * BLOCK)]
pub struct Full {
    /// Blocks of the pool.
    pub blocks: usize,
}

/// A block to be copied before anything is written to the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copied {
    pub(super) from: u32,
    pub(super) to: u32,
}

/// How many sequences hold each block.
#[derive(Debug)]
struct Holders {
    of: Vec<u32>,
    free: Vec<u32>,
}

impl Holders {
    fn take(&mut self) -> Option<u32> {
        let block = self.free.pop()?;
        self.of[block as usize] = 1;
        Some(block)
    }

    fn release(&mut self, block: u32) {
        let holders = &mut self.of[block as usize];
        *holders -= 1;
        if *holders == 0 {
            self.free.push(block);
        }
    }
}

/// All blocks of a model; each [`Table`] holds some.
#[derive(Debug, Clone)]
pub(super) struct Blocks(Arc<Mutex<Holders>>);

impl Blocks {
    pub(super) fn new(count: u32) -> Self {
        // The lowest are taken first.
        Self(Arc::new(Mutex::new(Holders { of: vec![0; count as usize], free: (0..count).rev().collect() })))
    }

    /// An empty sequence of up to `capacity` positions, which takes blocks as it grows.
    pub(super) fn table(&self, capacity: usize, position_bytes: usize) -> Table {
        let capacity = capacity.next_multiple_of(BLOCK);
        Table { pool: self.clone(), blocks: Vec::new(), len: 0, capacity, position_bytes }
    }

    /// Blocks in all, and those that nobody holds.
    pub(super) fn room(&self) -> (usize, usize) {
        let holders = self.lock();
        (holders.of.len(), holders.free.len())
    }

    fn lock(&self) -> MutexGuard<'_, Holders> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The blocks of one sequence, in order.
#[derive(Debug)]
pub struct Table {
    pool: Blocks,
    blocks: Vec<u32>,
    len: usize,
    capacity: usize,
    position_bytes: usize,
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn position_bytes(&self) -> usize {
        self.position_bytes
    }

    pub(super) fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Where a position lies in the pool.
    pub(super) fn slot(&self, position: usize) -> u32 {
        self.blocks[position / BLOCK] * BLOCK as u32 + (position % BLOCK) as u32
    }

    /// Makes the next `count` positions this sequence's own, to be written. Returns the block that must be copied first, if
    /// any.
    ///
    /// # Errors
    /// If there are not as many blocks; nothing has changed then.
    pub(super) fn reserve(&mut self, count: usize) -> Result<Option<Copied>, Full> {
        let mut holders = self.pool.lock();
        let last = self.len / BLOCK;
        let shared = self.blocks.get(last).copied().filter(|block| holders.of[*block as usize] > 1);
        let wanted = (self.len + count).div_ceil(BLOCK).saturating_sub(self.blocks.len());
        if wanted + usize::from(shared.is_some()) > holders.free.len() {
            return Err(Full { blocks: holders.of.len() });
        }
        let mut copied = None;
        if let Some(from) = shared
            && let Some(to) = holders.take()
        {
            holders.release(from);
            self.blocks[last] = to;
            copied = Some(Copied { from, to });
        }
        for _ in 0..wanted {
            self.blocks.extend(holders.take());
        }
        Ok(copied)
    }

    /// Counts `count` positions more; they have been reserved and written.
    pub(super) fn advance(&mut self, count: usize) {
        self.len = (self.len + count).min(self.blocks.len() * BLOCK);
    }

    /// Forgets all positions from `len` on, and what was reserved.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        let mut holders = self.pool.lock();
        for block in self.blocks.drain(self.len.div_ceil(BLOCK)..) {
            holders.release(block);
        }
    }

    /// Makes this hold the first `len` positions of `other`, without a copy of them.
    ///
    /// # Panics
    /// If `other` is of another model, or either does not hold as many positions.
    pub(crate) fn share_prefix(&mut self, other: &Self, len: usize) {
        let same = Arc::ptr_eq(&self.pool.0, &other.pool.0);
        assert!(same && len <= other.len && len <= self.capacity, "a prefix of {len}");
        let beginning = &other.blocks[..len.div_ceil(BLOCK)];
        {
            let mut holders = self.pool.lock();
            for block in beginning {
                holders.of[*block as usize] += 1;
            }
        }
        self.truncate(0);
        self.blocks.extend_from_slice(beginning);
        self.len = len;
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.truncate(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COUNT: u32 = 12;

    /// Sequences, what each must hold, and a pool that remembers what was written to it.
    struct World {
        blocks: Blocks,
        memory: Vec<u64>,
        sequences: Vec<(Table, Vec<u64>)>,
        stamp: u64,
    }

    impl World {
        fn new() -> Self {
            let memory = vec![0; COUNT as usize * BLOCK];
            Self { blocks: Blocks::new(COUNT), memory, sequences: Vec::new(), stamp: 0 }
        }

        fn append(&mut self, index: usize, count: usize) -> Result<(), Full> {
            let (table, holds) = &mut self.sequences[index];
            let before = table.blocks.clone();
            let copied =
                table.reserve(count).inspect_err(|_| assert_eq!(table.blocks, before, "nothing has changed"))?;
            if let Some(Copied { from, to }) = copied {
                let range = |block: u32| block as usize * BLOCK..(block as usize + 1) * BLOCK;
                self.memory.copy_within(range(from), to as usize * BLOCK);
            }
            for position in table.len()..table.len() + count {
                self.stamp += 1;
                self.memory[table.slot(position) as usize] = self.stamp;
                holds.push(self.stamp);
            }
            table.advance(count);
            Ok(())
        }

        fn check(&self) -> Result<(), TestCaseError> {
            for (table, holds) in &self.sequences {
                prop_assert_eq!(table.len(), holds.len());
                prop_assert_eq!(table.blocks.len(), holds.len().div_ceil(BLOCK));
                for (position, stamp) in holds.iter().enumerate() {
                    prop_assert_eq!(self.memory[table.slot(position) as usize], *stamp, "somebody else wrote here");
                }
            }
            let holders = self.blocks.lock();
            for block in 0..COUNT {
                let held = self.sequences.iter().filter(|(table, _)| table.blocks.contains(&block)).count();
                let free = holders.free.iter().filter(|free| **free == block).count();
                prop_assert_eq!(held, holders.of[block as usize] as usize, "leaked, or given back too early");
                prop_assert_eq!(free, usize::from(held == 0));
            }
            Ok(())
        }
    }

    #[derive(Debug, Clone)]
    enum Act {
        Begin,
        Fork(prop::sample::Index, prop::sample::Index),
        Overwrite(prop::sample::Index, prop::sample::Index, prop::sample::Index),
        Append(prop::sample::Index, usize),
        Abandon(prop::sample::Index, usize),
        Truncate(prop::sample::Index, prop::sample::Index),
        End(prop::sample::Index),
    }

    fn act() -> impl Strategy<Value = Act> {
        let any = any::<prop::sample::Index>;
        prop_oneof![
            Just(Act::Begin),
            (any(), any()).prop_map(|(a, b)| Act::Fork(a, b)),
            (any(), any(), any()).prop_map(|(a, b, c)| Act::Overwrite(a, b, c)),
            (any(), 1..80_usize).prop_map(|(a, b)| Act::Append(a, b)),
            (any(), 1..3_usize).prop_map(|(a, b)| Act::Append(a, b)),
            (any(), 1..80_usize).prop_map(|(a, b)| Act::Abandon(a, b)),
            (any(), any()).prop_map(|(a, b)| Act::Truncate(a, b)),
            any().prop_map(Act::End),
        ]
    }

    proptest! {
        #[test]
        fn no_block_is_leaked_and_none_is_shared_for_writing(acts in prop::collection::vec(act(), 1..60)) {
            let mut world = World::new();
            for act in acts {
                let count = world.sequences.len();
                match act {
                    Act::Begin => world.sequences.push((world.blocks.table(1000, 1), Vec::new())),
                    _ if count == 0 => {}
                    Act::Fork(of, at) => {
                        let (table, holds) = &world.sequences[of.index(count)];
                        let len = at.index(table.len() + 1);
                        let mut fork = world.blocks.table(1000, 1);
                        fork.share_prefix(table, len);
                        let holds = holds[..len].to_vec();
                        world.sequences.push((fork, holds));
                    }
                    Act::Overwrite(to, of, at) => {
                        if let Ok([to, of]) = world.sequences.get_disjoint_mut([to.index(count), of.index(count)]) {
                            let len = at.index(of.0.len() + 1);
                            to.0.share_prefix(&of.0, len);
                            to.1 = of.1[..len].to_vec();
                        }
                    }
                    Act::Append(to, rows) => drop(world.append(to.index(count), rows)),
                    Act::Abandon(to, rows) => {
                        // A step that was stopped: reserved, perhaps copied, never counted.
                        let (table, _) = &mut world.sequences[to.index(count)];
                        if let Ok(Some(Copied { from, to })) = table.reserve(rows) {
                            let from = from as usize * BLOCK;
                            world.memory.copy_within(from..from + BLOCK, to as usize * BLOCK);
                        }
                        let len = table.len();
                        table.truncate(len);
                    }
                    Act::Truncate(of, at) => {
                        let (table, holds) = &mut world.sequences[of.index(count)];
                        holds.truncate(at.index(holds.len() + 1));
                        table.truncate(holds.len());
                    }
                    Act::End(of) => drop(world.sequences.swap_remove(of.index(count))),
                }
                world.check()?;
            }
            world.sequences.clear();
            prop_assert_eq!(world.blocks.room(), (COUNT as usize, COUNT as usize));
        }
    }

    #[test]
    fn a_full_pool_is_told_and_takes_again_what_was_given_back() {
        let mut world = World::new();
        for _ in 0..2 {
            world.sequences.push((world.blocks.table(1000, 1), Vec::new()));
        }
        world.append(0, 11 * BLOCK).expect("room");
        assert_eq!(world.append(1, BLOCK + 1), Err(Full { blocks: COUNT as usize }));
        assert_eq!(world.append(1, BLOCK), Ok(()));
        assert!(Full { blocks: 12 }.to_string().contains("384 tokens"));
        world.sequences[0].0.truncate(0);
        world.sequences[0].1.clear();
        assert_eq!(world.append(1, 11 * BLOCK), Ok(()));
    }
}
