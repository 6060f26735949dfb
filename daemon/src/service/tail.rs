//! The end of a stream, in memory that outlives its process. Enters: blocks of one length, in their order; leaves: those
//! that came last. What is older is overwritten. Never on a disk.
//!
//! A number before the blocks says where the stream has come to, so that another process knows. It is written after its
//! block: whoever dies in between loses that block, and nothing else. Zeros take no memory where nothing else was, and at the
//! beginning of a stream they are not worth the number either.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, memfd_create};

/// Says that the next number is one of ours, and of this layout: "tail" and a version.
const MARK: u64 = 0x7461_696c_0000_0002;
/// [`MARK`], and the number of the block that comes next.
const HEAD: usize = 16;

/// The last blocks of one stream.
#[derive(Debug)]
pub struct Tail {
    file: File,
    /// Where it begins in the file.
    place: u64,
    /// Bytes of a block.
    length: usize,
    /// Blocks that are kept.
    most: u64,
    /// Number of the block that comes next.
    next: u64,
    /// There was more than zeros, and the number is in the file.
    begun: bool,
}

impl Tail {
    /// An empty one, in memory of its own. The name is seen in `/proc` only.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(name: &str, length: usize, most: u64) -> io::Result<Self> {
        Self::within(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?), 0, length, most)
    }

    /// The one that begins at `place` of a file, with what an earlier process has left in it.
    pub(super) fn within(file: File, place: u64, length: usize, most: u64) -> io::Result<Self> {
        let mut tail = Self { file, place, length, most: most.max(1), next: 0, begun: false };
        // What was never written is zeros, and takes no memory.
        let end = tail.at(tail.most) + tail.length as u64;
        if tail.file.metadata()?.len() < end {
            tail.file.set_len(end)?;
        }
        let mut head = [0; HEAD];
        tail.file.read_exact_at(&mut head, place)?;
        let [mark, next] = [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|n| head[at + n])));
        if mark == MARK {
            (tail.next, tail.begun) = (next, true);
        }
        Ok(tail)
    }

    /// Number of the block that comes next.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Number of the oldest block that is still there.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.next.saturating_sub(self.most)
    }

    /// Appends a block; one of another length is cut, or filled up with zeros.
    ///
    /// # Errors
    /// If there is no memory; the block is lost then.
    pub fn push(&mut self, block: &[u8]) -> io::Result<()> {
        let mut record = block.get(..self.length).unwrap_or(block).to_vec();
        record.resize(self.length, 0);
        let is_there = record.iter().all(|byte| *byte == 0) && {
            let mut before = vec![0; self.length];
            self.file.read_exact_at(&mut before, self.at(self.next))?;
            before == record
        };
        if !is_there {
            self.file.write_all_at(&record, self.at(self.next))?;
        }
        self.next += 1;
        if !is_there && !std::mem::replace(&mut self.begun, true) {
            self.file.write_all_at(&MARK.to_le_bytes(), self.place)?;
        }
        if self.begun {
            self.file.write_all_at(&self.next.to_le_bytes(), self.place + 8)?;
        }
        Ok(())
    }

    /// The blocks from `from` on, at most so many, one after the other. What is not there any more is left out.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(&self, from: u64, most: u64) -> io::Result<Vec<u8>> {
        let from = from.max(self.first());
        let numbers = from..self.next.min(from.saturating_add(most)).max(from);
        let mut blocks = vec![0; (numbers.end - numbers.start) as usize * self.length];
        for (number, block) in numbers.zip(blocks.chunks_exact_mut(self.length)) {
            self.file.read_exact_at(block, self.at(number))?;
        }
        Ok(blocks)
    }

    /// Where a block lies. There is a place more than blocks are kept, for the one that is being written.
    fn at(&self, number: u64) -> u64 {
        self.place + HEAD as u64 + number % (self.most + 1) * self.length as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_blocks_are_found_by_the_next_process() {
        let mut tail = Tail::create("test", 2, 5).expect("memory");
        assert_eq!((tail.first(), tail.next()), (0, 0));
        for number in 0..13_u8 {
            tail.push(&[number, 100 + number]).expect("memory");
        }
        let file = tail.file.try_clone().expect("a descriptor");
        let mut found = Tail::within(file, 0, 2, 5).expect("memory");
        assert_eq!((found.first(), found.next()), (8, 13));
        assert_eq!(found.read(3, 2).expect("there"), [8, 108, 9, 109], "what is gone is left out");
        assert_eq!(found.read(11, 9).expect("there"), [11, 111, 12, 112]);
        found.push(&[13]).expect("memory");
        assert_eq!(found.read(13, 1).expect("there"), [13, 0]);
        assert!(found.read(14, 1).expect("nothing").is_empty());
    }

    #[test]
    fn silence_takes_no_memory_and_wipes_what_was_before() {
        let mut tail = Tail::create("test", 4096, 10).expect("memory");
        let kilobytes = |tail: &Tail| std::os::unix::fs::MetadataExt::blocks(&tail.file.metadata().expect("one")) / 2;
        for _ in 0..15 {
            tail.push(&[0; 4096]).expect("memory");
        }
        assert_eq!(kilobytes(&tail), 0);
        tail.push(&[9; 4096]).expect("memory");
        for _ in 0..11 {
            tail.push(&[0; 4096]).expect("memory");
        }
        assert_eq!(tail.next(), 27);
        assert_eq!(tail.read(17, 10).expect("there"), vec![0; 40_960]);
    }

    #[test]
    fn what_another_version_has_left_is_not_taken_for_ours() {
        let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).expect("memory"));
        file.write_all_at(&[5; 400], 0).expect("memory");
        assert_eq!(Tail::within(file, 0, 160, 2).expect("memory").next(), 0);
    }

    #[test]
    fn it_lies_behind_a_state_without_touching_it() {
        let mut slots = crate::service::Slots::create("test").expect("memory");
        slots.write(b"before").expect("short enough");
        let mut tail = slots.tail(160, 1000).expect("a descriptor");
        tail.push(&[7; 160]).expect("memory");
        slots.write(b"after").expect("short enough");
        let (found, state) = crate::service::Slots::open(slots.descriptor().expect("one")).expect("whole");
        assert_eq!(state, b"after");
        assert_eq!(found.tail(160, 1000).expect("a descriptor").read(0, 10).expect("there"), [7; 160]);
    }
}
