//! The end of a stream, in memory that outlives its process. Enters: blocks of one length, in their order; leaves: those
//! that came last. What is older is overwritten. Never on a disk.
//!
//! Each block carries its number, so that another process knows where the stream has come to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, memfd_create};

/// Number of the block before it, plus one: zero is none.
const HEAD: usize = 8;

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
        let mut tail = Self { file, place, length, most: most.max(1), next: 0 };
        for slot in 0..tail.most {
            let mut head = [0; HEAD];
            if tail.file.read_exact_at(&mut head, tail.at(slot)).is_err() {
                // Never written so far.
                break;
            }
            tail.next = tail.next.max(u64::from_le_bytes(head));
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
        let mut record = Vec::with_capacity(HEAD + self.length);
        record.extend_from_slice(&(self.next + 1).to_le_bytes());
        record.extend_from_slice(block.get(..self.length).unwrap_or(block));
        record.resize(HEAD + self.length, 0);
        let place = self.at(self.next);
        self.next += 1;
        self.file.write_all_at(&record, place)
    }

    /// The blocks from `from` on, at most so many, one after the other. What is not there any more is left out.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(&self, from: u64, most: u64) -> io::Result<Vec<u8>> {
        let from = from.max(self.first());
        let mut blocks = Vec::new();
        let mut record = vec![0; HEAD + self.length];
        for number in from..self.next.min(from.saturating_add(most)) {
            self.file.read_exact_at(&mut record, self.at(number))?;
            let (head, block) = record.split_at(HEAD);
            if head == (number + 1).to_le_bytes() {
                blocks.extend_from_slice(block);
            }
        }
        Ok(blocks)
    }

    fn at(&self, number: u64) -> u64 {
        self.place + (number % self.most) * (HEAD + self.length) as u64
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
