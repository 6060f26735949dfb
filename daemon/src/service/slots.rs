//! A file in memory that outlives its process and is never half written. Enters: a state's bytes; leaves: the last bytes
//! that were written whole, and how often a process died while it was at work with them. Never on a disk.
//!
//! Two slots are written in turn, each with its generation, length and checksum, so that whatever a write that was cut
//! off leaves behind, the slot before it is intact and the newest whole one is known.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, memfd_create};
use sha2::{Digest as _, Sha256};

use super::Tail;

/// The beginning of such a file; a change of the layout changes it.
const MAGIC: &[u8; 8] = b"CALLBOX1";
/// Whether a process is at work with the state, and how many in a row have died so.
const INSIDE: u64 = 8;
const CRASHES: u64 = 9;
const FIRST: u64 = 4096;
/// Bytes that a state may have; of memory only what is used is taken.
const CAPACITY: u64 = 1 << 20;
/// Generation, length, checksum.
const HEAD: usize = 24;

/// One state.
#[derive(Debug)]
pub struct Slots {
    file: File,
    generation: u64,
}

impl Slots {
    /// An empty one. The name is seen in `/proc` only.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(name: &str) -> io::Result<Self> {
        let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
        file.write_all_at(MAGIC, 0)?;
        Ok(Self { file, generation: 0 })
    }

    /// One that an earlier process has left, and its state.
    ///
    /// # Errors
    /// If it is something else, or never held a whole state.
    pub fn open(descriptor: OwnedFd) -> io::Result<(Self, Vec<u8>)> {
        let file = File::from(descriptor);
        let mut magic = [0; MAGIC.len()];
        file.read_exact_at(&mut magic, 0)?;
        let newest = [0, 1].into_iter().filter_map(|slot| read(&file, slot)).max_by_key(|(generation, _)| *generation);
        match newest.filter(|_| magic == *MAGIC) {
            Some((generation, state)) => Ok((Self { file, generation }, state)),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "it holds no whole state")),
        }
    }

    /// Replaces the state. Until this returns, the one before is what another process finds.
    ///
    /// # Errors
    /// If the state is too long; the one before stays then.
    pub fn write(&mut self, state: &[u8]) -> io::Result<()> {
        if state.len() as u64 > CAPACITY - HEAD as u64 {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the state is too long to be kept"));
        }
        self.file.write_all_at(&encode(self.generation + 1, state), place(self.generation + 1))?;
        self.generation += 1;
        Ok(())
    }

    /// Work with the state begins: whoever dies from now on may have died of it.
    pub fn enter(&self) {
        self.mark(INSIDE, 1);
    }

    /// Work with the state is done.
    pub fn leave(&self) {
        self.mark(INSIDE, 0);
    }

    /// Another process takes over: how many in a row have died at work with this state. Called once.
    pub fn take_over(&self) -> u8 {
        let mut marks = [0; 2];
        if self.file.read_exact_at(&mut marks, INSIDE).is_err() {
            return 0;
        }
        let [inside, crashes] = marks;
        let crashes = if inside == 0 { 0 } else { crashes.saturating_add(1) };
        self.mark(CRASHES, crashes);
        crashes
    }

    /// The end of a stream that lies in the same file; what an earlier process has left of it is there.
    ///
    /// # Errors
    /// If there are too many descriptors.
    pub fn tail(&self, length: usize, most: u64) -> io::Result<Tail> {
        Tail::within(self.file.try_clone()?, FIRST + 2 * CAPACITY, length, most)
    }

    /// Another descriptor of the same file.
    ///
    /// # Errors
    /// If there are too many.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// A write of one byte into memory fails only if the memory is gone, and everything with it.
    fn mark(&self, at: u64, value: u8) {
        self.file.write_all_at(&[value], at).unwrap_or_default();
    }
}

const fn place(generation: u64) -> u64 {
    FIRST + (generation % 2) * CAPACITY
}

fn checksum(generation: u64, state: &[u8]) -> [u8; 8] {
    let digest = Sha256::new().chain_update(generation.to_le_bytes()).chain_update(state).finalize();
    digest.first_chunk().copied().unwrap_or_default()
}

fn encode(generation: u64, state: &[u8]) -> Vec<u8> {
    let length = state.len() as u64;
    [&generation.to_le_bytes()[..], &length.to_le_bytes(), &checksum(generation, state), state].concat()
}

/// The state of a slot, if it is whole.
fn read(file: &File, slot: u64) -> Option<(u64, Vec<u8>)> {
    let mut head = [0; HEAD];
    file.read_exact_at(&mut head, place(slot)).ok()?;
    let [generation, length, sum] = [0, 8, 16].map(|at| head.get(at..).and_then(|rest| rest.first_chunk::<8>()));
    let (generation, length) = (u64::from_le_bytes(*generation?), u64::from_le_bytes(*length?));
    if generation == 0 || length > CAPACITY {
        return None;
    }
    let mut state = vec![0; usize::try_from(length).ok()?];
    file.read_exact_at(&mut state, place(slot) + HEAD as u64).ok()?;
    (checksum(generation, &state) == *sum?).then_some((generation, state))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn again(slots: &Slots) -> io::Result<(Slots, Vec<u8>)> {
        Slots::open(slots.descriptor()?)
    }

    proptest! {
        #[test]
        fn a_write_that_is_cut_off_leaves_the_old_state_or_the_new(
            states in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..6),
            last in proptest::collection::vec(any::<u8>(), 0..300),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut slots = Slots::create("test").expect("memory");
            for state in &states {
                slots.write(state).expect("short enough");
            }
            let bytes = encode(slots.generation + 1, &last);
            let cut = cut.index(bytes.len() + 1);
            slots.file.write_all_at(&bytes[..cut], place(slots.generation + 1)).expect("memory");
            let (mut found, state) = again(&slots).expect("whole");
            let expected = if cut == bytes.len() { &last } else { states.last().expect("one at least") };
            // A cut may leave all that matters: what was there before may happen to end alike.
            prop_assert!(state == *expected || state == last, "cut at {cut}");
            found.write(b"goes on").expect("short enough");
            prop_assert_eq!(again(&slots).expect("whole").1, b"goes on");
        }
    }

    #[test]
    fn only_crashes_in_a_row_at_work_are_counted() {
        let mut slots = Slots::create("test").expect("memory");
        slots.write(b"x").expect("short enough");
        let crash = |inside: bool| {
            let (next, _) = again(&slots).expect("whole");
            if inside {
                next.enter()
            } else {
                next.leave()
            }
            again(&next).expect("whole").0.take_over()
        };
        assert_eq!([true, true, false, true, true, true].map(crash), [1, 2, 0, 1, 2, 3]);
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let slots = Slots::create("test").expect("memory");
        assert!(again(&slots).is_err(), "nothing was written");
        assert!(Slots::open(File::open("/dev/null").expect("it is always there").into()).is_err());
        let mut slots = slots;
        assert!(slots.write(&vec![0; CAPACITY as usize]).is_err());
    }
}
